//! A virtqueue as the transport hands it over.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::{InFlightQueue, Interrupt};
use crate::memory::Memory;

/// The driver's ring is not one.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error(
        "the {part} at guest address {at:#x} is not wholly in one piece of the guest's memory, or not aligned"
    )]
    Placement { part: &'static str, at: u64 },
    #[error("{size} is not a queue's size")]
    Size { size: u16 },
    #[error("the driver's index went from {from} to {to}, which is more than the ring holds")]
    AvailableIndex { from: u16, to: u16 },
    #[error("the driver made descriptor {head} available, which is beyond the table")]
    Head { head: u16 },
}

/// How far a device is in a queue, nothing in flight: the indexes that it takes from and gives back at next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueuePosition {
    pub available: u16,
    pub used: u16,
}

/// One queue that the driver enabled: where its rings lie, the driver's kick and the interrupt that answers.
/// A worker serves it through a [`Ring`](super::Ring).
pub struct ActiveQueue {
    /// The queue's index in the device.
    pub index: u16,
    pub queue: Queue,
    pub kick: EventFd,
    pub interrupt: Interrupt,
    pub memory: Memory,
    /// Where is kept what is in flight, and what was when another process ended that served the queue before.
    pub in_flight: Option<InFlightQueue>,
}

/// A queue of `size` entries whose descriptor table, available ring and used ring lie at `rings`.
///
/// # Errors
/// [`QueueError`] when the size is none, or a ring is not aligned.
pub(super) fn layout(size_max: u16, size: u16, rings: [u64; 3]) -> Result<Queue, QueueError> {
    let bad_size = |_| QueueError::Size { size };
    let mut queue = Queue::new(size_max).map_err(bad_size)?;
    queue.try_set_size(size).map_err(bad_size)?;
    let [descriptors, available, used] = rings;
    let misplaced = |part, at| move |_| QueueError::Placement { part, at };
    queue
        .try_set_desc_table_address(GuestAddress(descriptors))
        .map_err(misplaced("descriptor table", descriptors))?;
    queue
        .try_set_avail_ring_address(GuestAddress(available))
        .map_err(misplaced("available ring", available))?;
    queue.try_set_used_ring_address(GuestAddress(used)).map_err(misplaced("used ring", used))?;
    queue.set_ready(true);
    Ok(queue)
}
