//! A split virtqueue in use, as its worker sees it.

use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::{DeviceError, Interrupt};
use crate::memory::{GuestRam, Memory};

/// A descriptor chain that the driver made available.
pub type Chain<'m> = DescriptorChain<&'m GuestRam>;

/// The driver's ring is not one.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the available ring is broken")]
    Available { source: virtio_queue::Error },
    #[error("the available ring's entry cannot be read at guest address {ring:#x}")]
    Entry { ring: u64 },
    #[error("the used ring cannot be written")]
    Used { source: virtio_queue::Error },
    #[error("the rings' event fields cannot be used")]
    Event { source: virtio_queue::Error },
}

/// One queue of a running device: its rings, the driver's kick and the interrupt that answers.
pub struct ActiveQueue {
    /// The queue's index in the device.
    pub index: u16,
    pub queue: Queue,
    pub kick: EventFd,
    pub interrupt: Interrupt,
    pub memory: Memory,
}

impl ActiveQueue {
    /// The next chain that the driver made available in `ram`, the device's memory.
    ///
    /// # Errors
    /// [`DeviceError::Queue`] when the ring is broken.
    pub fn pop<'m>(&mut self, ram: &'m GuestRam) -> Result<Option<Chain<'m>>, DeviceError> {
        let index = self.index;
        let broken = |source| DeviceError::Queue { index, source: QueueError::Available { source } };
        // Nothing comes out of an empty ring, and nothing of a ring whose entry lies outside of the guest's memory.
        // The second must not pass for the first, or the worker would look again and again. Two looks tell them
        // apart, since the driver may add a chain after the first.
        for _ in 0..2 {
            if let Some(chain) = self.queue.iter(ram).map_err(broken)?.next() {
                return Ok(Some(chain));
            }
            if self.queue.avail_idx(ram, Ordering::Acquire).map_err(broken)?.0 == self.queue.next_avail() {
                return Ok(None);
            }
        }
        Err(DeviceError::Queue { index, source: QueueError::Entry { ring: self.queue.avail_ring() } })
    }

    /// Gives a chain back, `written` bytes of it filled by the device.
    ///
    /// # Errors
    /// [`DeviceError::Queue`] when the used ring is not in memory or `head` is not a descriptor.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), DeviceError> {
        let ram: &GuestRam = &self.memory;
        let index = self.index;
        self.queue
            .add_used(ram, head, written)
            .map_err(|source| DeviceError::Queue { index, source: QueueError::Used { source } })
    }

    /// Interrupts the driver if it wants to hear of what was given back since the last call.
    ///
    /// # Errors
    /// [`DeviceError::Queue`] when the rings are not in memory.
    pub fn notify(&mut self) -> Result<(), DeviceError> {
        let ram: &GuestRam = &self.memory;
        let index = self.index;
        let wanted = self
            .queue
            .needs_notification(ram)
            .map_err(|source| DeviceError::Queue { index, source: QueueError::Event { source } })?;
        if wanted {
            self.interrupt.trigger();
        }
        Ok(())
    }

    /// Asks the driver not to kick while the queue is being worked on.
    ///
    /// # Errors
    /// [`DeviceError::Queue`] when the rings are not in memory.
    pub fn suppress_kicks(&mut self) -> Result<(), DeviceError> {
        let ram: &GuestRam = &self.memory;
        let index = self.index;
        self.queue
            .disable_notification(ram)
            .map_err(|source| DeviceError::Queue { index, source: QueueError::Event { source } })
    }

    /// Asks the driver to kick again. True when chains came meanwhile, so that the worker must look once more.
    ///
    /// # Errors
    /// [`DeviceError::Queue`] when the rings are not in memory.
    pub fn allow_kicks(&mut self) -> Result<bool, DeviceError> {
        let ram: &GuestRam = &self.memory;
        let index = self.index;
        self.queue
            .enable_notification(ram)
            .map_err(|source| DeviceError::Queue { index, source: QueueError::Event { source } })
    }
}
