//! Where instances stand to each other.

use serde::{Deserialize, Serialize};
use types::PlacementGroupId;

use super::resource;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlacementGroup {
    pub id: PlacementGroupId,
    pub name: String,
    pub strategy: PlacementStrategy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacementStrategy {
    /// Near each other.
    Cluster,
    /// Each on a machine of its own.
    Spread,
    /// In 1 to 7 partitions that share no machine.
    Partition { count: u8 },
}

resource!(PlacementGroup, PlacementGroupId, "placement_group", |_this, _link| {});
