//! Block storage: what the disks of instances are made of.
//!
//! [`BlockBackend`] is the seam between a device model and its disk; see [`backend`] for its rules.

#![deny(unsafe_code)]

pub mod backend;
#[allow(unsafe_code)]
mod sys;

pub use backend::{
    BlockBackend, BlockQueue, BlockRequest, Completion, IoBuffer, QueueFull, SECTOR_BYTES, Topology,
};
