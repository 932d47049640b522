//! Tags: of any resource, beside its record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::ResourceId;

use crate::state::Record;

/// The tags of one resource; at least one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TagSet {
    pub resource: ResourceId,
    pub tags: BTreeMap<String, String>,
}

impl Record for TagSet {
    type Id = ResourceId;

    const KIND: &'static str = "tags";

    fn id(&self) -> ResourceId {
        self.resource
    }

    fn resource(_: ResourceId) -> Option<ResourceId> {
        None
    }
}
