//! A queue as the driver sets it up, register by register.

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::set_half;
use crate::virtio::queue::layout;
use crate::virtio::{Interrupt, InterruptVectors, NO_VECTOR, QueueError, QueuePosition};

pub(super) struct QueueSetup {
    size_max: u16,
    pub(super) size: u16,
    pub(super) enabled: bool,
    /// Guest addresses of the descriptor table, the available ring and the used ring.
    pub(super) rings: [u64; 3],
    /// From where on the device serves it, when it is to run.
    pub(super) position: QueuePosition,
    pub(super) interrupt: Interrupt,
    pub(super) kick: EventFd,
    /// Where its kick is connected, while the device runs.
    pub(super) connected: Option<u16>,
}

impl QueueSetup {
    /// # Errors
    /// When the host has no descriptor left.
    pub(super) fn new(size_max: u16, vectors: InterruptVectors) -> std::io::Result<Self> {
        Ok(QueueSetup {
            size_max,
            size: size_max,
            enabled: false,
            rings: [0; 3],
            position: QueuePosition::default(),
            interrupt: Interrupt::new(vectors),
            kick: EventFd::new(EFD_NONBLOCK)?,
            connected: None,
        })
    }

    /// As it was before the driver came.
    pub(super) fn forget(&mut self) {
        self.size = self.size_max;
        self.enabled = false;
        self.rings = [0; 3];
        self.position = QueuePosition::default();
        self.interrupt.choose(NO_VECTOR);
        // A kick that came too late is not the next driver's.
        let _ = self.kick.read();
    }

    /// The driver writes one of the common configuration's registers of a queue (virtio 1.2, 4.1.4.3). What it may not write is
    /// left as it is; a size or a place that cannot be shows when the device is to run.
    pub(super) fn write(&mut self, offset: u64, value: u32, half: u16, is_running: bool) {
        // A queue in use does not move (4.1.4.3.2), and none comes to a device that runs; its vector may change.
        if offset == 0x1a {
            return self.interrupt.choose(half);
        }
        if self.enabled || is_running {
            return;
        }
        match offset {
            0x18 => self.size = half,
            0x1c => self.enabled = half == 1,
            0x20..0x38 if offset.is_multiple_of(4) => {
                let ring = &mut self.rings[usize::from(offset >= 0x28) + usize::from(offset >= 0x30)];
                set_half(ring, u32::from(!offset.is_multiple_of(8)), value);
            }
            _ => {}
        }
    }

    /// The queue, for a worker, which sees whether its rings lie in RAM.
    ///
    /// # Errors
    /// [`QueueError`] when the size is none, or a ring is not aligned.
    pub(super) fn build(&self) -> Result<Queue, QueueError> {
        let mut queue = layout(self.size_max, self.size, self.rings)?;
        queue.set_next_avail(self.position.available);
        queue.set_next_used(self.position.used);
        Ok(queue)
    }
}
