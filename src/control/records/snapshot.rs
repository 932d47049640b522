//! What volumes were, and the images that instances are launched from.
//!
//! ```text
//! snapshot: Pending ──▶ Completed    image: Pending ──▶ Available
//!              └──────▶ Error                  └──────▶ Failed
//! ```

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{AccountId, ImageId, InstanceId, Region, ResourceId, SnapshotId, VolumeId, VolumeKind};

use crate::state::Record;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub source: SnapshotSource,
    pub size_gib: u64,
    pub description: String,
    /// The ARN of the key it is encrypted by.
    pub key: Option<String>,
    pub started: Timestamp,
    /// It begins when the guest of this instance has shut down. None: it has begun, or waits for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<InstanceId>,
    pub sharing: Sharing,
    pub state: SnapshotState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotSource {
    /// What a volume held; those with the same `moment` are of the same one: it is the id of one of them.
    Volume { volume: VolumeId, moment: SnapshotId },
    /// A copy of another one, maybe of another region.
    Snapshot { snapshot: SnapshotId, region: Region },
    /// It was there before the first request; the name of its image.
    Seed { name: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    Pending { percent: u8 },
    Completed { ended: Timestamp },
    Error { message: String },
}

/// Who else may use something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    pub is_public: bool,
    pub accounts: BTreeSet<AccountId>,
}

impl Sharing {
    pub fn admits(&self, account: AccountId) -> bool {
        self.is_public || self.accounts.contains(&account)
    }
}

impl Snapshot {
    /// What those have in common that are of one moment. A copy is by itself.
    pub fn moment(&self) -> SnapshotId {
        match self.source {
            SnapshotSource::Volume { moment, .. } => moment,
            SnapshotSource::Snapshot { .. } | SnapshotSource::Seed { .. } => self.id,
        }
    }
}

impl Record for Snapshot {
    type Id = SnapshotId;

    const KIND: &'static str = "snapshot";

    fn id(&self) -> SnapshotId {
        self.id
    }

    fn resource(id: SnapshotId) -> Option<ResourceId> {
        Some(id.into())
    }

    fn links(&self, link: &mut dyn FnMut(ResourceId)) {
        match self.source {
            SnapshotSource::Volume { volume, .. } => link(volume.into()),
            SnapshotSource::Snapshot { snapshot, .. } => link(snapshot.into()),
            SnapshotSource::Seed { .. } => {}
        }
        if let Some(instance) = self.awaits {
            link(instance.into());
        }
    }

    fn is_settled(&self) -> bool {
        !matches!(self.state, SnapshotState::Pending { .. })
    }
}

/// A snapshot that nobody sees any more, until its data are gone too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeletedSnapshot {
    pub id: SnapshotId,
}

impl Record for DeletedSnapshot {
    type Id = SnapshotId;

    const KIND: &'static str = "deleted_snapshot";

    fn id(&self) -> SnapshotId {
        self.id
    }

    fn resource(_: SnapshotId) -> Option<ResourceId> {
        None
    }

    fn is_settled(&self) -> bool {
        false
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub id: ImageId,
    /// Of the account's images in the region no two have the same.
    pub name: String,
    pub description: String,
    pub origin: ImageOrigin,
    /// One of the mappings' devices.
    pub root_device_name: String,
    pub mappings: Vec<ImageMapping>,
    pub boot_mode: Option<BootMode>,
    /// Instances of it must be asked for metadata with a token.
    pub requires_metadata_token: bool,
    pub created: Timestamp,
    pub sharing: Sharing,
    pub state: ImageState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageOrigin {
    Instance(InstanceId),
    Registered,
    Copy {
        image: ImageId,
        region: Region,
    },
    /// It was there before the first request: `amazon`, say, is what its owner is called.
    Seed {
        owner_alias: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootMode {
    LegacyBios,
    Uefi,
    UefiPreferred,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    Pending,
    Available,
    Failed { message: String },
}

/// A disk that instances of an image begin with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMapping {
    pub device: String,
    /// None: it is empty.
    pub snapshot: Option<SnapshotId>,
    pub size_gib: u64,
    pub kind: VolumeKind,
    pub iops: Option<u32>,
    pub throughput_mib_s: Option<u32>,
    pub is_encrypted: bool,
    pub delete_on_termination: bool,
}

impl Image {
    pub fn root(&self) -> Option<&ImageMapping> {
        self.mappings.iter().find(|mapping| mapping.device == self.root_device_name)
    }
}

impl Record for Image {
    type Id = ImageId;

    const KIND: &'static str = "image";

    fn id(&self) -> ImageId {
        self.id
    }

    fn resource(id: ImageId) -> Option<ResourceId> {
        Some(id.into())
    }

    fn links(&self, link: &mut dyn FnMut(ResourceId)) {
        for mapping in &self.mappings {
            if let Some(snapshot) = mapping.snapshot {
                link(snapshot.into());
            }
        }
        match self.origin {
            ImageOrigin::Instance(instance) => link(instance.into()),
            ImageOrigin::Copy { image, .. } => link(image.into()),
            ImageOrigin::Registered | ImageOrigin::Seed { .. } => {}
        }
    }

    fn is_settled(&self) -> bool {
        self.state != ImageState::Pending
    }
}
