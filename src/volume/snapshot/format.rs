//! The bytes of snapshots in a store: docs/snapshot-format.md, as functions.
//!
//! Every object is an envelope around some *plain* bytes: what it is, its checksum, and the BLAKE3 hash of the plain bytes, by which it
//! is named. What is decoded is checked first, so that decoding ends with a value that can be relied on or with [`Damage`], and uses no
//! memory beyond what an object of that kind may have.

mod envelope;
mod name;
mod page;
mod table;

pub(crate) use crate::layered::format::{BLOCKS_MAX, Damage, Uuid};
pub(crate) use envelope::{Kind, decode, encode};
pub use name::SnapshotName;
pub(crate) use name::{Hash, ObjectName, Place, from_hex, hash_of};
pub(crate) use page::{Entry, Level, PAGE_ENTRIES, Page};
pub(crate) use table::{Manifest, Pin};

/// The unit of snapshots, in bytes.
pub const CHUNK_BYTES: u64 = 512 << 10;
/// The same, as a length of memory.
pub(crate) const CHUNK_LEN: usize = 512 << 10;
/// The same, in blocks of a volume.
pub(crate) const CHUNK_BLOCKS: u64 = 128;
