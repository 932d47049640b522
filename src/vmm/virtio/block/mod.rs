//! The disk: virtio-blk (virtio 1.2, 5.2) over a [`volume::BlockBackend`].
//!
//! Each queue has a worker thread and a [`volume::BlockQueue`] (io_uring) of its own. A kick is answered so:
//!
//! ```text
//!   epoll_wait ─▶ every chain of the ring: gather, parse, push ─▶ submit: one system call
//!              ─▶ every completion: status, used ring          ─▶ one interrupt, if the driver wants it
//! ```
//!
//! Data moves between the backend and the guest's own pages; nothing is copied here and nothing is allocated for a
//! request. Kicks stay off while a worker is busy.
//!
//! A request, whatever its cut into descriptors:
//!
//! ```text
//!   type: u32   reserved: u32   sector: u64   │ data, to write ‖ data, to read │ status: u8
//! ```
//!
//! A chain that is not of this form is a broken driver: the device then needs a reset. A request that is of this
//! form and cannot be served is answered by its status.
//!
//! Without `FLUSH` negotiated the driver expects a write-through disk, so each write is then followed by a flush
//! before it is reported. Not offered: geometry, `CONFIG_WCE`, secure erase, zones, lifetime.

mod device;
mod handler;
mod request;
#[cfg(test)]
mod tests;

pub use device::{Block, BlockSpec};

/// Feature bits (virtio 1.2, 5.2.3).
pub mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Requests that one queue carries at a time.
const QUEUE_SIZE: u16 = 256;

/// Data segments of a request. With header and status, a request then fits a queue without indirect descriptors.
const SEGMENTS_MAX: u16 = QUEUE_SIZE - 2;

/// What one discard or write-zeroes covers at most: it bounds how long one request keeps the host.
const RANGE_SECTORS_MAX: u32 = 1 << 22;

/// What the driver reads as the disk's serial number is padded with zeroes to this (virtio 1.2, 5.2.6).
const ID_BYTES: usize = 20;
