//! What burstable instances had when somebody looked.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::InstanceId;

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
