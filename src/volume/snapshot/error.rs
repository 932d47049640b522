//! What can go wrong with snapshots.

use super::format::{Damage, SnapshotName};
use super::store::StoreError;
use crate::crypt::{KeyError, KeyName};
use crate::layered::VolumeError;

/// Why a snapshot cannot be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("{object} in the object store is damaged at byte {offset}: {what}; put a good copy of it there")]
    Damaged { object: String, offset: u64, what: &'static str },
    #[error("there is no snapshot {name}")]
    NotFound { name: SnapshotName },
    #[error(
        "the snapshots {older} and {newer} are of different volumes, so nothing says what changed between them"
    )]
    OtherLineage { older: SnapshotName, newer: SnapshotName },
    #[error("a snapshot of {snapshot_bytes} bytes does not fit into a volume of {volume_bytes}")]
    TooSmall { snapshot_bytes: u64, volume_bytes: u64 },
    #[error("block {index} is not in a snapshot of {size_bytes} bytes")]
    OutOfRange { index: u64, size_bytes: u64 },
    #[error("the snapshot {name} is encrypted with the key {key}: say which key file has it")]
    NeedsKey { name: SnapshotName, key: KeyName },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("it was stopped; begun again, it goes on where it was")]
    Stopped,
    #[error("cannot choose a name for a snapshot")]
    NoName { source: std::io::Error },
}

impl SnapshotError {
    pub(crate) fn damaged(object: &str, damage: Damage) -> Self {
        Self::Damaged { object: object.to_owned(), offset: damage.offset, what: damage.what }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_not_found())
    }
}
