//! CPU credits: what burstable instances had when somebody looked, and what an account wants for new ones.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::InstanceId;

use crate::catalog::BurstFamily;
use crate::credits::Balance;

/// An instance's CPU credits at some moment. What they are now follows from it, and from what its processors worked since: so it is written
/// down seldom, and not at all before an instance has worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuCredits {
    /// The instance's.
    pub id: InstanceId,
    pub balance: Balance,
    pub at: Timestamp,
    /// How long its processors had worked then, since it was started.
    pub cpu_time: Duration,
}

impl crate::state::Record for CpuCredits {
    type Id = InstanceId;

    const KIND: &'static str = "cpu_credits";

    fn id(&self) -> InstanceId {
        self.id
    }

    /// It is the instance that is a resource.
    fn resource(_: InstanceId) -> Option<types::ResourceId> {
        None
    }
}

/// Whether new instances of a family spend credits that they have not earned, where their account wants it otherwise than AWS does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditDefault {
    pub family: BurstFamily,
    pub is_unlimited: bool,
}

impl crate::state::Record for CreditDefault {
    type Id = BurstFamily;

    const KIND: &'static str = "credit_default";

    fn id(&self) -> BurstFamily {
        self.family
    }

    fn resource(_: BurstFamily) -> Option<types::ResourceId> {
        None
    }
}
