//! Block storage: what the disks of instances are made of.
//!
//! [`BlockBackend`] is the seam between a device model and its disk; see [`backend`] for its rules.
//! [`RawFile`] is a file or a block device as it is, [`Overlay`] a temporary copy-on-write layer over
//! one, [`Volume`] a stack of layers that lasts (see [`layered`]). [`import()`] makes a raw disk of an image in another format.
//!
//! Data moves through io_uring, one ring for each queue, between the guest's memory and the host's
//! files with no copy and no thread in between. All that is unsafe about that is in `sys`.

#![deny(unsafe_code)]

mod alarm;
pub mod backend;
pub mod crypt;
pub mod extents;
pub mod import;
mod kept;
pub mod layered;
pub mod limits;
pub mod nbd;
pub mod overlay;
mod qcow2;
mod queue;
pub mod raw;
mod read_only;
pub mod snapshot;
#[allow(unsafe_code)]
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod waiting;

#[cfg(test)]
mod conformance;

pub use backend::{
    BlockBackend, BlockQueue, BlockRequest, Completion, Content, Extent, IoBuffer, QueueFull, SECTOR_BYTES,
    Topology,
};
pub use import::import;
pub use layered::{LayerId, Stores, Volume, VolumeError};
pub use limits::Limited;
pub use overlay::{Overlay, OverlayError};
pub use raw::{RawError, RawFile, RawOptions};
pub use read_only::ReadOnly;
pub use waiting::Waiting;
