//! What a guest's disk is made of, as a device model sees it.
//!
//! A [`BlockBackend`] is the disk; a [`BlockQueue`] is one thread's way to it. A device opens one
//! queue for each virtqueue, pushes what the guest asked for, submits once for all of it, and takes
//! completions when the queue's event descriptor says so:
//!
//! ```text
//!   push ─▶ push ─▶ submit ─▶ (event) ─▶ next_completion until None ─▶ …
//! ```
//!
//! Requests of one queue, and of different queues, run in any order and at once. As on a real disk,
//! requests in flight that overlap leave either one's bytes in each sector; a `Flush` covers the
//! writes whose completions were taken before it was pushed.
//!
//! A request may have to wait for one of another queue that touches the same block. So while requests are in flight, the completions
//! of all queues must be taken, and not of one until it is empty.
//!
//! A request that is wrong in itself (outside the disk, not whole sectors, a write to a read-only
//! disk) is refused by its completion, so a device has one place where it answers its guest.

use std::io;
use std::os::fd::BorrowedFd;

pub use crate::extents::{Content, Extent};
pub use crate::sys::IoBuffer;

/// The unit of addresses and lengths on a disk, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Sizes that a guest should know to use a disk well, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// What every offset and length is a multiple of.
    pub logical_block_bytes: u32,
    /// What can be written without reading anything first.
    pub physical_block_bytes: u32,
    /// What a large transfer is best a multiple of.
    pub optimal_io_bytes: u32,
    /// What a discard gives back in one piece.
    pub discard_granularity_bytes: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            optimal_io_bytes: 1 << 20,
            discard_granularity_bytes: 4096,
        }
    }
}

/// A disk.
pub trait BlockBackend: Send + Sync {
    /// The size of the disk; a multiple of [`SECTOR_BYTES`].
    fn size_bytes(&self) -> u64;

    /// Whether the disk refuses all but reads and flushes.
    fn is_read_only(&self) -> bool;

    /// What a guest should know to use the disk well.
    fn topology(&self) -> Topology {
        Topology::default()
    }

    /// Opens a queue that carries at most `depth` requests at a time.
    ///
    /// # Errors
    /// When the kernel refuses the ring or an event descriptor.
    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>>;

    /// Fills `buffer` from `offset` and waits for it: for the host's own reading, before there is a
    /// guest.
    ///
    /// # Errors
    /// `UnexpectedEof` when the range does not lie within the disk, or what the host says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// What stands at `offset`, and for how many bytes, at most `len`, that is so; the next ones may be the same. The range lies within
    /// the disk, in whole sectors, and is not empty. A disk that cannot tell says that all of it is data.
    ///
    /// It is said of the moment of the call, and may have to be asked of another machine.
    ///
    /// # Errors
    /// What the host or that machine says.
    fn extent(&self, _offset: u64, len: u64) -> io::Result<Extent> {
        Ok(Extent { content: Content::Data, len })
    }
}

/// One thread's way to a disk. Dropping it waits for what is in flight.
///
/// It may be opened on one thread and used on another, but never by two: the thread of the first
/// [`submit`](Self::submit) owns it from then on.
pub trait BlockQueue: Send {
    /// Readable when something ended. It is armed by a [`next_completion`](Self::next_completion) that
    /// returns `None`, and may stay silent until then: so take completions until there is none, after
    /// each `submit` too, and wait only then. Watched edge-triggered it need never be read. It is an eventfd: whoever wants the queue's
    /// owner to look may write to it.
    fn completion_event(&self) -> BorrowedFd<'_>;

    /// Takes a request; the kernel sees it at the next [`submit`](Self::submit). `token` comes back
    /// with its completion. The buffers of a read or write hold its length together; the slice
    /// itself is not needed after the call.
    ///
    /// # Errors
    /// [`QueueFull`] when `depth` requests are in flight; the request was not taken.
    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull>;

    /// Hands all that was pushed to the kernel, in one system call.
    ///
    /// # Errors
    /// When the ring is broken; the queue is then of no further use.
    fn submit(&mut self) -> io::Result<()>;

    /// A request that has ended, if any has. Take them until there is none: that arms the event.
    fn next_completion(&mut self) -> Option<Completion>;

    /// Requests pushed whose completions were not taken yet.
    fn in_flight(&self) -> usize;

    /// Submits, then waits until a completion can be taken; returns at once when nothing is in
    /// flight. For draining a disk before a pause; a running device waits for the event instead.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit).
    fn wait(&mut self) -> io::Result<()>;
}

/// What a guest asks of its disk. Offsets and lengths are in bytes, multiples of [`SECTOR_BYTES`].
#[derive(Debug, Clone, Copy)]
pub enum BlockRequest<'a> {
    /// Fills the buffers from `offset`.
    Read { offset: u64, buffers: &'a [IoBuffer] },
    /// Writes the buffers at `offset`.
    Write { offset: u64, buffers: &'a [IoBuffer] },
    /// Makes all that completed before it survive a crash of the host.
    Flush,
    /// Says that the range is not needed; what it reads as afterwards is open.
    Discard { offset: u64, len: u64 },
    /// Makes the range read as zeroes, giving its space back if `may_unmap`.
    WriteZeroes { offset: u64, len: u64, may_unmap: bool },
}

/// A request that has ended.
#[derive(Debug)]
pub struct Completion {
    pub token: u64,
    /// All of the request was done, or the error tells why not; then any part of it may have been.
    pub result: io::Result<()>,
}

/// As many requests as the queue was opened for are in flight: take completions first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue carries as many requests as it was opened for")]
pub struct QueueFull;
