//! Availability zones that have failed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::Zone;

use crate::state::{Record, Space, State};

/// A zone in which nothing runs, until it recovers: then there is no such record. It is the [region's own](Space::of_region).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedZone {
    pub id: Zone,
    pub since: Timestamp,
}

impl FailedZone {
    /// The failure that a zone has not recovered from.
    pub fn find(state: &State, zone: Zone) -> Option<&Self> {
        let tables = state.space(Space::of_region(zone.region()))?;
        tables.failed_zones.get(zone).map(AsRef::as_ref)
    }
}

impl Record for FailedZone {
    type Id = Zone;

    const KIND: &'static str = "failed_zone";

    fn id(&self) -> Zone {
        self.id
    }

    fn resource(_: Zone) -> Option<types::ResourceId> {
        None
    }
}
