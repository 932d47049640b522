//! Volumes, and what they give by default.
//!
//! ```text
//! Creating ──▶ Available ──▶ Deleting ──▶ gone
//!     │            ▲
//!     └──▶ Error   └── with its attachments: Attaching ──▶ Attached ──▶ Detaching ──▶ gone
//! ```

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{InstanceId, ResourceId, SnapshotId, VolumeId, VolumeSpec, Zone};

use crate::state::Record;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub id: VolumeId,
    pub zone: Zone,
    /// What it is now.
    pub spec: VolumeSpec,
    /// What it was made from: it may be gone since.
    pub snapshot: Option<SnapshotId>,
    /// The ARN of the key it is encrypted by.
    pub key: Option<String>,
    /// Of io1 and io2: several instances may have it at a time.
    pub is_multi_attach: bool,
    /// I/O goes on by itself after a suspicion of damage.
    pub enables_io_by_itself: bool,
    pub created: Timestamp,
    pub state: VolumeState,
    /// The oldest first.
    pub attachments: Vec<VolumeAttachment>,
    /// The last one.
    pub modification: Option<VolumeModification>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    Creating,
    /// It is there, whether an instance has it or not.
    Available,
    Deleting,
    /// It could not be made.
    Error {
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeAttachment {
    pub instance: InstanceId,
    /// As the instance's owner calls it: `/dev/sdf`.
    pub device: String,
    pub since: Timestamp,
    pub delete_on_termination: bool,
    pub state: AttachmentState,
}

/// How far a volume or an interface is on its way into an instance, or out of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachmentState {
    Attaching,
    /// Also what is written of an interface without saying so.
    #[default]
    Attached,
    /// Forced: whether the guest lets go of it or not.
    Detaching {
        is_forced: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeModification {
    pub original: VolumeSpec,
    pub original_is_multi_attach: bool,
    pub target: VolumeSpec,
    pub target_is_multi_attach: bool,
    pub started: Timestamp,
    pub state: ModificationState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModificationState {
    /// It is still what it was.
    Modifying,
    /// It is what it is to be, and not yet as fast everywhere.
    Optimizing {
        percent: u8,
    },
    Completed {
        ended: Timestamp,
    },
    Failed {
        ended: Timestamp,
        message: String,
    },
}

impl ModificationState {
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Failed { .. })
    }
}

impl Volume {
    /// How an instance has it.
    pub fn attachment(&self, instance: InstanceId) -> Option<&VolumeAttachment> {
        self.attachments.iter().find(|attachment| attachment.instance == instance)
    }
}

impl Record for Volume {
    type Id = VolumeId;

    const KIND: &'static str = "volume";

    fn id(&self) -> VolumeId {
        self.id
    }

    fn resource(id: VolumeId) -> Option<ResourceId> {
        Some(id.into())
    }

    fn links(&self, link: &mut dyn FnMut(ResourceId)) {
        if let Some(snapshot) = self.snapshot {
            link(snapshot.into());
        }
        for attachment in &self.attachments {
            link(attachment.instance.into());
        }
    }

    fn is_settled(&self) -> bool {
        match self.state {
            VolumeState::Creating | VolumeState::Deleting => false,
            VolumeState::Error { .. } => true,
            VolumeState::Available => {
                self.attachments.iter().all(|attachment| attachment.state == AttachmentState::Attached)
                    && self.modification.as_ref().is_none_or(|modification| modification.state.is_over())
            }
        }
    }
}

/// What an account wants of new volumes in a region.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StorageSettings {
    pub encrypts_by_default: bool,
    /// The key by which volumes are encrypted whose owner names none; none: the region's own.
    pub default_key: Option<String>,
}

/// There is one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StorageSettingsId;

impl StorageSettingsId {
    const TEXT: &str = "settings";
}

impl fmt::Display for StorageSettingsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::TEXT)
    }
}

impl FromStr for StorageSettingsId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == Self::TEXT { Ok(Self) } else { Err(()) }
    }
}

impl Record for StorageSettings {
    type Id = StorageSettingsId;

    const KIND: &'static str = "storage";

    fn id(&self) -> StorageSettingsId {
        StorageSettingsId
    }

    fn resource(_: StorageSettingsId) -> Option<ResourceId> {
        None
    }
}
