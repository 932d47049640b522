//! What can go wrong with a layered volume as a whole.

use std::io;

use crate::crypt::{KeyError, KeyName};
use crate::snapshot::SnapshotName;

/// Why a volume cannot be made, opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("cannot {operation} {file} of the volume")]
    Io { operation: &'static str, file: String, source: io::Error },
    #[error(
        "{file} is damaged at byte {offset}: {what}; nothing was changed: run a check, or go back to a snapshot"
    )]
    Damaged { file: String, offset: u64, what: &'static str },
    #[error("the volume is in use by another process; stop that one first")]
    InUse,
    #[error("{file} is there already; choose an empty folder for a new volume")]
    Exists { file: String },
    #[error(
        "{size_bytes} bytes are no size for a volume: it must be a multiple of 4096, at most 64 TiB, and not zero"
    )]
    BadSize { size_bytes: u64 },
    #[error(
        "the volume has {size_bytes} bytes and cannot become as small as {wanted_bytes}; it can only grow"
    )]
    CannotShrink { size_bytes: u64, wanted_bytes: u64 },
    #[error("the volume has {layers} layers, as many as there may be; merge some first")]
    TooManyLayers { layers: usize },
    #[error(
        "{count} snapshots of the volume are being made, as many as there may be; wait until one is complete"
    )]
    TooManySnapshots { count: usize },
    #[error("there are no two neighbouring sealed layers {lower} and {upper}, so they cannot be merged")]
    NotMergeable { lower: u32, upper: u32 },
    #[error("a snapshot needs layers {lower} and {upper} apart; merge them when it is complete")]
    NeededApart { lower: u32, upper: u32 },
    #[error(
        "the volume was made from snapshot {snapshot}, and has not all of it yet: say which object store has it"
    )]
    NeedsStore { snapshot: SnapshotName },
    #[error("the volume is encrypted with the key {key}: say which key file has it")]
    NeedsKey { key: KeyName },
    #[error("the volume is not encrypted, so it has no key that could be changed")]
    NotEncrypted,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot fetch from the snapshot that the volume was made from")]
    Fetch { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the volume stopped after an error of its storage; close it and open it again")]
    Stopped,
}

/// Turns an error of the storage into one that says what was done to which file.
pub(crate) fn io_error<'a>(
    operation: &'static str,
    file: &'a str,
) -> impl FnOnce(io::Error) -> VolumeError + use<'a> {
    move |source| VolumeError::Io { operation, file: file.to_owned(), source }
}
