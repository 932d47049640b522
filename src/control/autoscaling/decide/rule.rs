//! Why something is done, and why something is not.

use std::fmt;

use jiff::Timestamp;
use types::{Uuid, Zone};

use crate::records::{HookResult, Place, Process};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// There are fewer than there are to be.
    Below {
        actual: u32,
        wanted: u32,
    },
    /// There are fewer, because an unhealthy one has gone.
    Replaces,
    /// There are more than there are to be.
    Above {
        actual: u32,
        wanted: u32,
    },
    /// Others have two more at least.
    Unbalanced {
        crowded: Vec<(Zone, u32)>,
    },
    Runs,
    HooksOver,
    HookTimedOut {
        result: HookResult,
    },
    /// Its instance was stopped or ended before it was in service.
    NeverInService,
    /// A hook's wait ended so.
    Abandoned {
        token: Uuid,
    },
    StoppedOrTerminated,
    Impaired,
    SaidUnhealthy,
    /// It is time for the scheduled action of this name.
    Due {
        name: String,
    },
    /// In service for longer than it may be.
    TooOld {
        seconds: u32,
    },
    /// It goes with its group, which has so many.
    Deleting {
        actual: u32,
    },
    Gone,
}

impl Rule {
    /// Whether who leaves by it does so because it is not well.
    pub const fn is_unhealthy(&self) -> bool {
        matches!(self, Self::StoppedOrTerminated | Self::Impaired | Self::SaidUnhealthy)
    }
}

/// What is not done though it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    Suspended(Process),
    /// All that could go are protected from scale-in.
    Protected,
    /// Launches there failed so often.
    BacksOff {
        place: Place,
        count: u32,
        until: Timestamp,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below { actual, wanted } => write!(f, "there are {actual}, and {wanted} are desired"),
            Self::Replaces => write!(f, "one that was unhealthy is to be replaced"),
            Self::Above { actual, wanted } => {
                write!(f, "there are {actual}, and no more than {wanted} are desired")
            }
            Self::Unbalanced { crowded } => {
                write!(f, "other zones have two more at least:")?;
                crowded.iter().try_for_each(|(zone, count)| write!(f, " {zone} has {count}"))
            }
            Self::Runs => write!(f, "its instance runs"),
            Self::HooksOver => write!(f, "no hook is waited for"),
            Self::HookTimedOut { result } => {
                write!(f, "nothing was heard of a hook in time, which then is {}", result.as_str())
            }
            Self::NeverInService => write!(f, "its instance ended before it was in service"),
            Self::Abandoned { token } => write!(f, "the lifecycle action {token} ended with ABANDON"),
            Self::StoppedOrTerminated => write!(f, "its instance is stopped or terminated"),
            Self::Impaired => write!(f, "its status checks fail"),
            Self::SaidUnhealthy => write!(f, "SetInstanceHealth said that it is unhealthy"),
            Self::Due { name } => write!(f, "the time of the scheduled action {name} has come"),
            Self::TooOld { seconds } => write!(f, "it has been in service for {seconds} s"),
            Self::Deleting { .. } => write!(f, "the group is being deleted"),
            Self::Gone => write!(f, "its instance is terminated"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspended(process) => write!(f, "the process {} is suspended", process.as_str()),
            Self::Protected => write!(f, "all that could go are protected from scale-in"),
            Self::BacksOff { place, count, until } => write!(
                f,
                "{count} launches in a row failed in {} ({}): the next is tried at {until}",
                place.subnet, place.zone
            ),
        }
    }
}
