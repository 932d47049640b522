//! Snapshots of volumes in an object store: what a volume was at a moment, in chunks of 512 KiB that snapshots share.
//!
//! ```text
//!   volume ──seal──▶ changed chunks ──SnapshotWriter──▶ store ──Snapshot──▶ volumes made from it, lists of blocks
//!                                                         │
//!                                                     Snapshots: list, delete, copy
//! ```
//!
//! A snapshot is a manifest, which names the pages of a table, which name chunks ([`mod@format`]). What did not change since the parent is
//! named and not put again, pages as well as chunks, so a snapshot costs what changed and not what there is. It is complete when its
//! manifest is there, which is put last.
//!
//! **Names.** Every object belongs to the snapshot that put it, and no key is written twice or again ([`SnapshotName`]). Sharing goes from
//! parent to child alone, place by place. **Deleting** therefore needs no counts and no locks: see [`delete`].
//!
//! **What is not here.** Asynchronous clients ([`ObjectStore`] is the port), when to snapshot, who may.

mod backend;
mod copy;
mod delete;
mod error;
pub(crate) mod format;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod list;
mod parallel;
mod reader;
pub mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use backend::SnapshotDisk;
pub use delete::Snapshots;
pub use error::SnapshotError;
pub use format::{CHUNK_BYTES, SnapshotName};
pub(crate) use parallel::parallel;
pub use reader::{Snapshot, SnapshotInfo};
pub use store::{ObjectStore, Retrying, StoreError, StoreErrorKind};
pub(crate) use writer::{Plan, now_s, pin, release, unique};
pub use writer::{Progress, SnapshotWriter};
