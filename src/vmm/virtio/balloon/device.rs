//! The balloon as its transport and the control socket see it.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::handler::BalloonHandler;
use super::{PAGE_BYTES, QUEUE_SIZE, QUEUES, feature};
use crate::virtio::{
    AttachedSignals, Counter, DeviceKind, DeviceParts, DeviceSignals, VirtioDevice, WorkerPart,
};

/// A balloon.
pub struct Balloon {
    shared: Arc<Shared>,
    target_pages: AtomicU32,
    signals: AttachedSignals,
}

/// What the worker sees too.
pub(super) struct Shared {
    /// What the driver says that it has given up: nothing, when it is gone.
    pub(super) actual_pages: AtomicU32,
    /// Wakes the worker to ask the driver for statistics.
    pub(super) refresh: EventFd,
    /// The driver's last statistics. Held for as long as it takes to copy them.
    pub(super) statistics: Mutex<Option<Statistics>>,
    pub(super) inflated_pages: Counter,
    pub(super) deflated_pages: Counter,
    pub(super) reported_bytes: Counter,
    pub(super) operations: Counter,
    pub(super) errors: Counter,
}

/// What the guest's kernel says of its memory; sizes in bytes (virtio 1.2, 5.5.6.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    pub swapped_in: Option<u64>,
    pub swapped_out: Option<u64>,
    pub major_faults: Option<u64>,
    pub minor_faults: Option<u64>,
    pub free: Option<u64>,
    pub total: Option<u64>,
    pub available: Option<u64>,
    pub disk_caches: Option<u64>,
    pub huge_page_allocations: Option<u64>,
    pub huge_page_failures: Option<u64>,
}

impl Statistics {
    pub(super) fn set(&mut self, tag: u16, value: u64) {
        let place = match tag {
            0 => &mut self.swapped_in,
            1 => &mut self.swapped_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free,
            5 => &mut self.total,
            6 => &mut self.available,
            7 => &mut self.disk_caches,
            8 => &mut self.huge_page_allocations,
            9 => &mut self.huge_page_failures,
            _ => return,
        };
        *place = Some(value);
    }
}

impl Balloon {
    /// An empty balloon and its worker, whose thread is named `name`.
    ///
    /// # Errors
    /// When the host has no descriptor to give.
    pub fn new(name: &str) -> io::Result<(Arc<Self>, DeviceParts)> {
        let shared = Arc::new(Shared {
            actual_pages: AtomicU32::new(0),
            refresh: EventFd::new(EFD_NONBLOCK)?,
            statistics: Mutex::default(),
            inflated_pages: Counter::default(),
            deflated_pages: Counter::default(),
            reported_bytes: Counter::default(),
            operations: Counter::default(),
            errors: Counter::default(),
        });
        let handler = Box::new(BalloonHandler::new(shared.clone()));
        let workers = vec![WorkerPart { name: name.to_owned(), queues: (0..5).collect(), handler }];
        let device = Arc::new(Balloon {
            shared,
            target_pages: AtomicU32::new(0),
            signals: AttachedSignals::default(),
        });
        Ok((device.clone(), DeviceParts { device, workers }))
    }

    /// Asks the guest to give up so many bytes in all, rounded down to pages. What it does shows in
    /// [`Balloon::actual_bytes`].
    pub fn set_target_bytes(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX);
        let before = self.target_pages.swap(pages, Ordering::AcqRel);
        if before != pages {
            self.signals.config_changed();
        }
    }

    pub fn target_bytes(&self) -> u64 {
        u64::from(self.target_pages.load(Ordering::Acquire)) * PAGE_BYTES
    }

    /// What the driver says that it has given up.
    pub fn actual_bytes(&self) -> u64 {
        u64::from(self.shared.actual_pages.load(Ordering::Acquire)) * PAGE_BYTES
    }

    /// The guest's last statistics; `None` from a guest that gave none. Asks for new ones, for the next call.
    pub fn statistics(&self) -> Option<Statistics> {
        // A counter at its end means that the worker has been asked already.
        let _ = self.shared.refresh.write(1);
        *self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        feature::STATS_VQ | feature::DEFLATE_ON_OOM | feature::PAGE_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    /// virtio 1.2, 5.5.4.
    fn config(&self) -> Vec<u8> {
        let mut config = [0; 8];
        config[..4].copy_from_slice(&self.target_pages.load(Ordering::Acquire).to_le_bytes());
        config[4..].copy_from_slice(&self.shared.actual_pages.load(Ordering::Acquire).to_le_bytes());
        config.to_vec()
    }

    /// The driver writes `actual`, and nothing else.
    fn write_config(&self, offset: u64, data: &[u8]) {
        if let (4, Ok(pages)) = (offset, data.try_into()) {
            self.shared.actual_pages.store(u32::from_le_bytes(pages), Ordering::Release);
        }
    }

    fn attach(&self, signals: Arc<DeviceSignals>) {
        self.signals.attach(signals);
    }

    fn counters(&self) -> Value {
        json!({
            "operations": self.shared.operations.get(),
            "errors": self.shared.errors.get(),
            "inflated_bytes": self.shared.inflated_pages.get().wrapping_mul(PAGE_BYTES),
            "deflated_bytes": self.shared.deflated_pages.get().wrapping_mul(PAGE_BYTES),
            "reported_bytes": self.shared.reported_bytes.get(),
            "target_bytes": self.target_bytes(),
            "actual_bytes": self.actual_bytes(),
        })
    }
}
