//! Changes of a group's sizes at times.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::Uuid;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledAction {
    pub id: Uuid,
    /// No other one of its group has it.
    pub name: String,
    /// Not before.
    pub start: Option<Timestamp>,
    /// Not after.
    pub end: Option<Timestamp>,
    pub recurrence: Option<Recurrence>,
    /// What the group's sizes become, if they are to change.
    pub min: Option<u32>,
    pub max: Option<u32>,
    pub desired: Option<u32>,
    /// When it happens next.
    pub next: Timestamp,
}

/// Again and again, by the clock of a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurrence {
    /// Minute, hour, day of the month, month, day of the week, as crontab(5) has them.
    pub text: String,
    /// `Europe/Berlin`, say; UTC, if there is none.
    pub zone: Option<String>,
}
