//! From a device to its driver: MSI-X vectors that are eventfds which KVM injects by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// The driver chose no vector for this source (virtio 1.2, 4.1.4.3, `VIRTIO_MSI_NO_VECTOR`).
pub const NO_VECTOR: u16 = 0xffff;

/// The eventfds of a function's MSI-X vectors. The PCI side connects each to KVM (irqfd) while it is unmasked;
/// signalled while it is masked, it stays pending in the eventfd.
pub type InterruptVectors = Arc<[EventFd]>;

/// One source of interrupts, a queue or the configuration, and the vector that the driver chose for it.
#[derive(Debug, Clone)]
pub struct Interrupt {
    vectors: InterruptVectors,
    chosen: Arc<AtomicU16>,
}

impl Interrupt {
    pub fn new(vectors: InterruptVectors) -> Self {
        Interrupt { vectors, chosen: Arc::new(AtomicU16::new(NO_VECTOR)) }
    }

    /// Tells the driver. Without a vector nobody listens, and nothing happens.
    pub fn trigger(&self) {
        if let Some(event) = self.vectors.get(usize::from(self.vector())) {
            // The only error is a counter at its end: then the interrupt is pending already.
            let _ = event.write(1);
        }
    }

    pub fn vector(&self) -> u16 {
        self.chosen.load(Ordering::Acquire)
    }

    /// Takes the driver's choice; a vector that does not exist becomes [`NO_VECTOR`], which tells the driver.
    pub fn choose(&self, vector: u16) {
        let exists = usize::from(vector) < self.vectors.len();
        self.chosen.store(if exists { vector } else { NO_VECTOR }, Ordering::Release);
    }
}

/// The device status field's bit for a device that must be reset (virtio 1.2, 2.1).
const DEVICE_NEEDS_RESET: u8 = 64;

/// What a device and its transport share: the status field, the configuration's generation and its interrupt.
#[derive(Debug)]
pub struct DeviceSignals {
    status: AtomicU8,
    generation: AtomicU8,
    config: Interrupt,
}

impl DeviceSignals {
    pub fn new(config: Interrupt) -> Self {
        DeviceSignals { status: AtomicU8::new(0), generation: AtomicU8::new(0), config }
    }

    /// The configuration space changed: the driver reads it anew.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.config.trigger();
    }

    /// The device is broken until the driver resets it.
    pub fn needs_reset(&self) {
        self.status.fetch_or(DEVICE_NEEDS_RESET, Ordering::AcqRel);
        self.config_changed();
    }

    pub fn status(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    pub fn set_status(&self, status: u8) {
        self.status.store(status, Ordering::Release);
    }

    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn config_interrupt(&self) -> &Interrupt {
        &self.config
    }
}
