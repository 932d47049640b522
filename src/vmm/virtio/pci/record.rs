//! What a driver has set up of a device, of a machine that stands still.

#[cfg(test)]
mod tests;

use super::queue::QueueSetup;
use super::{DEVICE_NEEDS_RESET, PciTransport, TransportError, status};
use crate::pci::VectorRecord;
use crate::suspend::format::{Decoder, Encoder, FormatError, Record};
use crate::virtio::{Interrupt, QueuePosition};

/// Queues and vectors: more than any device has.
const QUEUES_MAX: u32 = 64;
const CONFIG_BYTES: usize = 256;

/// A transport between two accesses of its driver, its workers paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportRecord {
    config: [u8; CONFIG_BYTES],
    vectors: Vec<VectorRecord>,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    status: u8,
    generation: u8,
    config_vector: u16,
    queues: Vec<QueueRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueRecord {
    size: u16,
    enabled: bool,
    rings: [u64; 3],
    vector: u16,
    position: QueuePosition,
}

impl PciTransport {
    /// Interrupts that are under way arrive before this returns.
    ///
    /// # Errors
    /// [`TransportError`] when the device cannot tell where it stands.
    pub fn record(&self) -> Result<TransportRecord, TransportError> {
        let state = &mut *self.lock();
        let status = self.signals.status();
        if state.running && status & DEVICE_NEEDS_RESET == 0 {
            let kind = self.unit.device.kind();
            let unable = || TransportError::Unable { kind };
            let mut enabled = state.queues.iter().filter(|queue| queue.enabled).count();
            for worker in &self.unit.workers {
                if !worker.queues().iter().any(|&index| is_enabled(&state.queues, index)) {
                    continue;
                }
                for (index, position) in worker.positions().ok_or_else(unable)? {
                    let queue = state.queues.get_mut(usize::from(index)).ok_or_else(unable)?;
                    queue.position = position;
                    enabled = enabled.checked_sub(1).ok_or_else(unable)?;
                }
            }
            if enabled > 0 {
                return Err(unable());
            }
        }
        state.msix.settle().map_err(|source| TransportError::Kvm { source })?;
        let mut config = [0; CONFIG_BYTES];
        state.config.read(0, &mut config);
        Ok(TransportRecord {
            config,
            vectors: state.msix.record(),
            device_feature_select: state.device_feature_select,
            driver_feature_select: state.driver_feature_select,
            driver_features: state.driver_features,
            queue_select: state.queue_select,
            status,
            generation: self.signals.generation(),
            config_vector: self.signals.config_interrupt().vector(),
            queues: state.queues.iter().map(QueueSetup::record).collect(),
        })
    }

    /// Makes a transport that no driver has seen what the recorded one was, but for its queues: see [`PciTransport::go_on`].
    ///
    /// # Errors
    /// [`TransportError`] when the device cannot have come to be so, or KVM refuses.
    pub fn restore(&self, record: &TransportRecord) -> Result<(), TransportError> {
        let unlike = |what| TransportError::Unlike { kind: self.unit.device.kind(), what };
        let state = &mut *self.lock();
        let has = |bit| record.status & bit != 0;
        if has(status::FEATURES_OK) && !self.accepts(record.driver_features) {
            return Err(unlike("features that it does not offer"));
        }
        if has(status::DRIVER_OK) && !has(status::FEATURES_OK) {
            return Err(unlike("a driver that agreed to no features"));
        }
        if record.queues.len() != state.queues.len() {
            return Err(unlike("another number of queues"));
        }
        state.config.write(0, &record.config);
        let mut config = [0; CONFIG_BYTES];
        state.config.read(0, &mut config);
        if config != record.config {
            return Err(unlike("another configuration space"));
        }
        self.follow_bars(state);
        let vectors = state.msix.restore(&record.vectors, self.msix_control(state));
        if !vectors.map_err(|source| TransportError::Kvm { source })? {
            return Err(unlike("another number of interrupt vectors"));
        }
        for (queue, record) in state.queues.iter_mut().zip(&record.queues) {
            queue.restore(record);
            if !chooses(&queue.interrupt, record.vector) {
                return Err(unlike("an interrupt vector that it does not have"));
            }
        }
        if !chooses(self.signals.config_interrupt(), record.config_vector) {
            return Err(unlike("an interrupt vector that it does not have"));
        }
        state.device_feature_select = record.device_feature_select;
        state.driver_feature_select = record.driver_feature_select;
        state.driver_features = record.driver_features;
        state.queue_select = record.queue_select;
        self.signals.restore(record.status, record.generation);
        Ok(())
    }

    /// Hands the queues to the workers, where a restored driver had them.
    pub fn go_on(&self) {
        let state = &mut *self.lock();
        match self.signals.status() {
            status if status & status::DRIVER_OK == 0 => {}
            // Its driver will reset it.
            status if status & DEVICE_NEEDS_RESET != 0 => state.running = true,
            _ => self.activate(state),
        }
    }
}

fn is_enabled(queues: &[QueueSetup], index: u16) -> bool {
    queues.get(usize::from(index)).is_some_and(|queue| queue.enabled)
}

fn chooses(interrupt: &Interrupt, vector: u16) -> bool {
    interrupt.choose(vector);
    interrupt.vector() == vector
}

impl QueueSetup {
    fn record(&self) -> QueueRecord {
        QueueRecord {
            size: self.size,
            enabled: self.enabled,
            rings: self.rings,
            vector: self.interrupt.vector(),
            position: self.position,
        }
    }

    fn restore(&mut self, record: &QueueRecord) {
        (self.size, self.enabled) = (record.size, record.enabled);
        (self.rings, self.position) = (record.rings, record.position);
    }
}

impl Record for QueueRecord {
    fn encode(&self, to: &mut Encoder) {
        to.u16(self.size);
        to.bool(self.enabled);
        self.rings.iter().for_each(|&address| to.u64(address));
        to.u16(self.vector);
        to.u16(self.position.available);
        to.u16(self.position.used);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        const WHAT: &str = "a queue";
        let (size, enabled) = (from.u16(WHAT)?, from.bool("whether a queue is enabled")?);
        let rings = [from.u64(WHAT)?, from.u64(WHAT)?, from.u64(WHAT)?];
        let vector = from.u16(WHAT)?;
        let position = QueuePosition { available: from.u16(WHAT)?, used: from.u16(WHAT)? };
        Ok(QueueRecord { size, enabled, rings, vector, position })
    }
}

impl Record for TransportRecord {
    fn encode(&self, to: &mut Encoder) {
        to.bytes(&self.config);
        to.list(&self.vectors);
        to.u32(self.device_feature_select);
        to.u32(self.driver_feature_select);
        to.u64(self.driver_features);
        to.u16(self.queue_select);
        to.u8(self.status);
        to.u8(self.generation);
        to.u16(self.config_vector);
        to.list(&self.queues);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        const WHAT: &str = "a device's registers";
        Ok(TransportRecord {
            config: from.array("a device's configuration space")?,
            vectors: from.list(QUEUES_MAX, "the number of a device's vectors")?,
            device_feature_select: from.u32(WHAT)?,
            driver_feature_select: from.u32(WHAT)?,
            driver_features: from.u64(WHAT)?,
            queue_select: from.u16(WHAT)?,
            status: from.u8(WHAT)?,
            generation: from.u8(WHAT)?,
            config_vector: from.u16(WHAT)?,
            queues: from.list(QUEUES_MAX, "the number of a device's queues")?,
        })
    }
}
