//! Volumes of copy-on-write layers, which can be sealed at any moment, and lose nothing that was flushed.
//!
//! ```text
//!   queues ──▶ map ──▶ files of the layers          reading and writing, without waiting for one another
//!      │                       ▲
//!      └── state ◀── committer ┘                    rounds: what is new becomes durable
//! ```
//!
//! A layer is a sparse file in which a block has its place, and a map that says which blocks it holds; the lowest is the oldest, the top
//! one is written to. In memory the maps of all layers are one ([`map`]), so a read costs one look-up and an aligned write copies nothing.
//! docs/volume-format.md has the bytes ([`mod@format`]).
//!
//! **What makes a write durable.** The map of a layer is its map pages and a log of changes since ([`books`]). A flush of few new
//! blocks is one sync of one file: the record in the log tells the checksums of the blocks' data, and only after a crash it matters
//! whether both got there ([`recovery`]). Until another record is durable such blocks may not be overwritten where they stand
//! ([`unsettled`]).
//!
//! **What is promised.** A sector is after a crash what it was at the last flush that was acknowledged, or anything that was written
//! to it later. What is damaged is told by file and offset and refused, never read as zeroes. A full disk fails the write that would
//! need more, and changes nothing else.
//!
//! **Encryption** ([`crate::crypt`]) is the queues' business, and that of who reads without one: what they write is encrypted before anything
//! else sees it, so checksums are of ciphertext, and all that moves blocks from place to place moves them as they are.
//!
//! **What is not here.** How snapshots lie in a store ([`crate::snapshot`]); limits ([`crate::limits`]).

mod base;
mod books;
mod check;
#[cfg(test)]
mod encrypted_tests;
mod engine;
mod error;
mod folder;
pub(crate) mod format;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod grow;
mod in_flight;
#[cfg(test)]
mod kill;
mod layer;
mod map;
mod merge;
#[cfg(test)]
mod model;
mod queue;
mod recovery;
mod seal;
mod snapshot;
#[cfg(test)]
mod snapshot_model;
mod state;
mod storage;
mod stores;
#[cfg(test)]
mod tests;
mod unsettled;
mod volume;

pub use check::{Finding, Report};
pub use error::VolumeError;
pub(crate) use folder::checked_blocks;
pub use map::LayerId;
pub use stores::Stores;
pub use volume::Volume;
