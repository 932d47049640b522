//! A virtqueue as the transport hands it over.

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use super::Interrupt;
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

/// One queue that the driver enabled: where its rings lie, the driver's kick and the interrupt that answers.
/// A worker serves it through a [`Ring`](super::Ring).
pub struct ActiveQueue {
    /// The queue's index in the device.
    pub index: u16,
    pub queue: Queue,
    pub kick: EventFd,
    pub interrupt: Interrupt,
    pub memory: Memory,
}
