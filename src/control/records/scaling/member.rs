//! Who is in a group.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{InstanceId, Uuid};

use super::{HookResult, Place};
use crate::records::VersionId;
use crate::state::{Key, Record};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScalingMember {
    #[serde(flatten)]
    pub id: MemberId,
    pub place: Place,
    /// What it was launched with; none, if it was attached.
    pub template: Option<VersionId>,
    /// From scale-in.
    pub is_protected: bool,
    /// It was launched to balance zones: until it is in service it is one more than there are to be.
    #[serde(default)]
    pub is_spare: bool,
    /// Somebody has said so.
    pub unhealthy: Option<Unhealthy>,
    pub state: MemberState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberId {
    pub group: Uuid,
    pub instance: InstanceId,
}

impl MemberId {
    /// All that a group can have.
    pub fn of(group: Uuid) -> std::ops::RangeInclusive<Self> {
        let [first, last] = [[0; 16], [0xff; 16]].map(<InstanceId as types::RandomId>::from_random);
        Self { group, instance: first }..=Self { group, instance: last }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unhealthy {
    /// It counts when the grace period is over.
    pub respects_grace: bool,
}

/// Numbers are those of activities that end with the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Until its instance runs.
    Pending {
        activity: u64,
        /// It was launched: hooks are called.
        is_new: bool,
    },
    PendingWait {
        activity: u64,
        action: LifecycleAction,
    },
    InService {
        since: Timestamp,
    },
    Standby,
    TerminatingWait {
        activity: u64,
        action: LifecycleAction,
    },
    /// Until its instance is terminated.
    Terminating {
        activity: Option<u64>,
    },
}

impl MemberState {
    /// What hooks wait for.
    pub const fn action(&self) -> Option<&LifecycleAction> {
        match self {
            Self::PendingWait { action, .. } | Self::TerminatingWait { action, .. } => Some(action),
            _ => None,
        }
    }

    pub const fn action_mut(&mut self) -> Option<&mut LifecycleAction> {
        match self {
            Self::PendingWait { action, .. } | Self::TerminatingWait { action, .. } => Some(action),
            _ => None,
        }
    }
}

/// Hooks that have been called, all at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleAction {
    /// Those that have not ended.
    pub waits: Vec<HookWait>,
    /// The token of one that ended so: the others are not waited for.
    pub abandoned: Option<Uuid>,
}

impl LifecycleAction {
    pub fn is_over(&self) -> bool {
        self.waits.is_empty() || self.abandoned.is_some()
    }

    /// Ends the wait with this token.
    pub fn end(&mut self, token: Uuid, result: HookResult) {
        self.waits.retain(|wait| wait.token != token);
        if result == HookResult::Abandon {
            self.abandoned = Some(token);
        }
    }
}

/// A hook's wait, by what the hook was when it was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookWait {
    pub hook: String,
    pub token: Uuid,
    pub heartbeat_s: u32,
    pub default_result: HookResult,
    /// When it ends if nothing is heard of it.
    pub until: Timestamp,
    /// When it ends whatever is heard.
    pub until_max: Timestamp,
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.instance)
    }
}

/// A text that is no member's id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the id of a member of a group")]
pub struct ParseMemberIdError(String);

impl FromStr for MemberId {
    type Err = ParseMemberIdError;

    fn from_str(text: &str) -> Result<Self, ParseMemberIdError> {
        let parts = text.split_once('/');
        let parts = parts.and_then(|(group, instance)| group.parse().ok().zip(instance.parse().ok()));
        let (group, instance) = parts.ok_or_else(|| ParseMemberIdError(text.to_owned()))?;
        Ok(Self { group, instance })
    }
}

impl Record for ScalingMember {
    type Id = MemberId;

    const KIND: &'static str = "scaling_member";

    fn id(&self) -> MemberId {
        self.id
    }

    fn resource(_: MemberId) -> Option<types::ResourceId> {
        None
    }

    fn keys(&self, key: &mut dyn FnMut(Key)) {
        key(Key::Instance(self.id.instance));
    }
}
