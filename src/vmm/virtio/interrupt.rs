//! From a device to its driver: MSI-X vectors that are eventfds which KVM injects by itself.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
    /// Written to at each choice.
    told: Arc<Mutex<Option<EventFd>>>,
}

impl Interrupt {
    pub fn new(vectors: InterruptVectors) -> Self {
        Interrupt { vectors, chosen: Arc::new(AtomicU16::new(NO_VECTOR)), told: Arc::default() }
    }

    /// Tells the driver. Without a vector nobody listens, and nothing happens.
    pub fn trigger(&self) {
        if let Some(event) = self.event() {
            // The only error is a counter at its end: then the interrupt is pending already.
            let _ = event.write(1);
        }
    }

    /// What tells the driver when it is written to; none without a vector.
    pub fn event(&self) -> Option<&EventFd> {
        self.vectors.get(usize::from(self.vector()))
    }

    pub fn vector(&self) -> u16 {
        self.chosen.load(Ordering::Acquire)
    }

    /// Takes the driver's choice; a vector that does not exist becomes [`NO_VECTOR`], which tells the driver.
    pub fn choose(&self, vector: u16) {
        let exists = usize::from(vector) < self.vectors.len();
        self.chosen.store(if exists { vector } else { NO_VECTOR }, Ordering::Release);
        if let Some(event) = &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            // The counter can only be at its end when whoever is told has been woken already.
            let _ = event.write(1);
        }
    }

    /// Has `event` written to at each choice from now on: for who hands the chosen vector on.
    pub fn tell_choices(&self, event: Option<EventFd>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = event;
    }
}

/// The device status field's bit for a device that must be reset (virtio 1.2, 2.1).
pub(super) const DEVICE_NEEDS_RESET: u8 = 64;

/// What a device and its transport share: the status field, the configuration's generation and its interrupt.
#[derive(Debug)]
pub struct DeviceSignals {
    status: AtomicU8,
    generation: AtomicU8,
    /// Whoever is to serve the device does.
    is_connected: AtomicBool,
    config: Interrupt,
    /// Tells the machine's owner of a broken device, or of one that nobody serves.
    failure: Option<EventFd>,
}

impl DeviceSignals {
    pub fn new(config: Interrupt, failure: Option<EventFd>) -> Self {
        DeviceSignals {
            status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            is_connected: AtomicBool::new(true),
            config,
            failure,
        }
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
        self.tell_owner();
    }

    /// Whoever is to serve the device is gone, or there again. The driver is told nothing.
    pub fn set_connected(&self, is_connected: bool) {
        if self.is_connected.swap(is_connected, Ordering::AcqRel) != is_connected {
            self.tell_owner();
        }
    }

    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Acquire)
    }

    fn tell_owner(&self) {
        if let Some(event) = &self.failure {
            // The counter can only be at its end when the owner has been woken already.
            let _ = event.write(1);
        }
    }

    pub fn status(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    /// Takes over what the driver wrote, which does not mend a broken device.
    pub fn set_status(&self, status: u8) {
        let keep = |before: u8| Some(status & !DEVICE_NEEDS_RESET | before & DEVICE_NEEDS_RESET);
        // The closure never declines.
        let _ = self.status.fetch_update(Ordering::AcqRel, Ordering::Acquire, keep);
    }

    /// Makes the signals of a device that no driver has seen what they were.
    pub fn restore(&self, status: u8, generation: u8) {
        self.status.store(status, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
    }

    /// The driver reset the device.
    pub fn reset(&self) {
        self.config.choose(NO_VECTOR);
        self.status.store(0, Ordering::Release);
    }

    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn config_interrupt(&self) -> &Interrupt {
        &self.config
    }
}

/// Where a device keeps its signals: it gets others each time its machine starts.
#[derive(Debug, Default)]
pub struct AttachedSignals(Mutex<Option<Arc<DeviceSignals>>>);

impl AttachedSignals {
    pub fn attach(&self, signals: Arc<DeviceSignals>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(signals);
    }

    /// Tells the driver, if there is one.
    pub fn config_changed(&self) {
        if let Some(signals) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            signals.config_changed();
        }
    }
}
