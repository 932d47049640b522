//! What was done about a group's instances.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{InstanceId, Uuid};

use super::{Place, words};
use crate::state::Record;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScalingActivity {
    #[serde(flatten)]
    pub id: ActivityId,
    /// By what clients know it.
    pub uuid: Uuid,
    pub kind: ActivityKind,
    /// None: it failed before there was one.
    pub instance: Option<InstanceId>,
    pub place: Place,
    /// In AWS's words.
    pub cause: String,
    pub start: Timestamp,
    /// None while it goes on.
    pub end: Option<Timestamp>,
    pub status: ActivityStatus,
    /// Why it failed.
    pub message: Option<String>,
}

/// Activities of a group have numbers from 1 on, in the order in which they began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ActivityId {
    pub group: Uuid,
    pub number: u64,
}

impl ActivityId {
    /// All that a group can have.
    pub fn of(group: Uuid) -> std::ops::RangeInclusive<Self> {
        Self { group, number: 0 }..=Self { group, number: u64::MAX }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    Launch,
    Terminate,
    Attach,
    Detach,
    EnterStandby,
    ExitStandby,
}

words! {
    ActivityStatus {
        PreInService = "PreInService",
        MidLifecycleAction = "MidLifecycleAction",
        InProgress = "InProgress",
        Successful = "Successful",
        Failed = "Failed",
        Cancelled = "Cancelled",
    }
}

impl fmt::Display for ActivityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.number)
    }
}

/// A text that is no activity's id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the id of an activity of a group")]
pub struct ParseActivityIdError(String);

impl FromStr for ActivityId {
    type Err = ParseActivityIdError;

    fn from_str(text: &str) -> Result<Self, ParseActivityIdError> {
        let parts = text.split_once('/');
        let parts = parts.and_then(|(group, number)| group.parse().ok().zip(number.parse().ok()));
        let (group, number) = parts.ok_or_else(|| ParseActivityIdError(text.to_owned()))?;
        Ok(Self { group, number })
    }
}

impl Record for ScalingActivity {
    type Id = ActivityId;

    const KIND: &'static str = "scaling_activity";

    fn id(&self) -> ActivityId {
        self.id
    }

    fn resource(_: ActivityId) -> Option<types::ResourceId> {
        None
    }
}
