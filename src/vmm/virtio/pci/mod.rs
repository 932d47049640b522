//! The PCI transport (virtio 1.2, 4.1), modern only.
//!
//! The registers lie in one 32 KiB BAR, but for the kicks, which are I/O ports:
//! ```text
//! 0x0000  common configuration     0x4000  MSI-X table
//! 0x1000  ISR, always 0: no INTx   0x6000  MSI-X pending bits
//! 0x2000  device configuration     ports   kicks, 4 a queue (ioeventfd)
//! ```
//! A write to a port tells KVM all by its exit. For a write to memory a processor of AMD's says where, but not what
//! instruction it was: KVM then reads and emulates it, and the kick takes half as long again, or more.
//!
//! The device's status decides what happens:
//! ```text
//! 0 ─ACKNOWLEDGE, DRIVER─▶ negotiating ─FEATURES_OK─▶ set up ─DRIVER_OK─▶ running
//! ▲                                                                         │ broken ring, chain or host:
//! └──────────────── 0 is written: workers stop, all is forgotten ◀──────────┴─ NEEDS_RESET
//! ```
//!
//! Vector 0 is the configuration's by convention of drivers, but any choice works. One lock guards the driver-facing
//! state; the fast paths, kick and interrupt, never take it.

mod capability;
mod queue;
mod record;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::interrupt::DEVICE_NEEDS_RESET;
use super::worker::{WorkerThread, report};
use super::{
    Activation, ActiveQueue, DeviceError, DeviceKind, DeviceSignals, Interrupt, VirtioDevice, feature,
};
use crate::kvm::{KvmError, Vm, low_half};
use crate::memory::{Memory, PCI_WINDOW_START};
use crate::pci::{ConfigSpace, MsixTable, PORT_WINDOW, PciFunction, Slot};
use capability::{
    WINDOW_BAR, WINDOW_DATA, WINDOW_LENGTH, WINDOW_OFFSET, identity, structure_capabilities,
    window_capability,
};
use queue::QueueSetup;
pub use record::TransportRecord;

const BAR_BYTES: u32 = 0x8000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
/// Here kicks are among the registers; no capability leads to them but by their port.
const KICKS: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x6000;
/// Each region but the table and the pending bits is a page.
const REGION_BYTES: u32 = 0x1000;
const REGISTERS_BAR: u8 = 0;
const KICKS_BAR: u8 = 1;
/// How far apart the ports of two queues are.
const KICK_STRIDE: u16 = 4;
/// With so many for each slot, all slots fit the window.
const KICK_PORTS: u16 = 0x80;
const QUEUES_MAX: usize = (KICK_PORTS / KICK_STRIDE) as usize;

/// Device status bits (virtio 1.2, 2.1).
mod status {
    pub(super) const DRIVER_OK: u8 = 4;
    pub(super) const FEATURES_OK: u8 = 8;
}

const NOT_DECODED: u64 = u64::MAX;
/// A first port beyond all others.
const NO_PORTS: u16 = u16::MAX;

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("no file descriptor for the interrupts of a {kind} device")]
    Descriptors { kind: DeviceKind, source: std::io::Error },
    #[error("a {kind} device has {queues} queues; at most {QUEUES_MAX} can be")]
    TooManyQueues { kind: DeviceKind, queues: usize },
    #[error(
        "a {kind} device whose driver uses it cannot tell where it stands; unplug it before the guest is suspended"
    )]
    Unable { kind: DeviceKind },
    #[error("a {kind} device had {what}")]
    Unlike { kind: DeviceKind, what: &'static str },
    #[error("its interrupts")]
    Kvm { source: KvmError },
}

/// A device with the threads that serve it: it outlives the machine's resets.
pub struct DeviceUnit {
    pub device: Arc<dyn VirtioDevice>,
    pub workers: Vec<WorkerThread>,
}

/// What the driver reads and writes, under the lock.
struct State {
    config: ConfigSpace,
    msix: MsixTable,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    queues: Vec<QueueSetup>,
    running: bool,
}

/// Whether a driver uses a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverState {
    /// No driver, or not yet.
    None,
    Active,
    /// A driver uses it, and whoever is to serve it is gone.
    Disconnected,
    /// The device is broken until its driver resets it.
    NeedsReset,
}

/// A virtio device in a PCI slot.
pub struct PciTransport {
    unit: Arc<DeviceUnit>,
    slot: Slot,
    vm: Arc<Vm>,
    memory: Memory,
    signals: Arc<DeviceSignals>,
    /// Offsets of the MSI-X capability and of the window into the BAR, in configuration space.
    msix_capability: u16,
    window: u16,
    /// Where the memory BAR is decoded, and the first port of the other.
    bar: AtomicU64,
    ports: AtomicU16,
    state: Mutex<State>,
}

impl PciTransport {
    /// Puts `unit` behind a function for `slot`. `failure` is signalled when the device needs a reset.
    ///
    /// # Errors
    /// [`TransportError`] when the host has no descriptors left.
    pub fn new(
        unit: Arc<DeviceUnit>,
        slot: Slot,
        vm: Arc<Vm>,
        memory: Memory,
        failure: EventFd,
    ) -> Result<Arc<Self>, TransportError> {
        let kind = unit.device.kind();
        let sizes = unit.device.queue_sizes().to_vec();
        if sizes.len() > QUEUES_MAX {
            return Err(TransportError::TooManyQueues { kind, queues: sizes.len() });
        }
        let descriptors = |source| TransportError::Descriptors { kind, source };
        let vectors = u16::try_from(sizes.len() + 1).unwrap_or(u16::MAX);
        let msix = MsixTable::new(vm.clone(), vectors).map_err(descriptors)?;
        let signals = Arc::new(DeviceSignals::new(Interrupt::new(msix.events()), Some(failure)));
        let queues = sizes.into_iter().map(|size| QueueSetup::new(size, msix.events()));
        let queues = queues.collect::<Result<_, _>>().map_err(descriptors)?;

        let bar = low_half(PCI_WINDOW_START) + u32::from(slot.number()) * BAR_BYTES;
        let mut config = ConfigSpace::new(identity(kind));
        config.set_memory_bar(bar, BAR_BYTES);
        let ports = PORT_WINDOW.start + u16::from(slot.number()) * KICK_PORTS;
        config.set_port_bar(ports, KICK_PORTS);
        let msix_capability = config.add_capability(&msix.capability(low_half(TABLE), low_half(PENDING)));
        for capability in structure_capabilities() {
            config.add_capability(&capability);
        }
        let window = config.add_capability(&window_capability());

        unit.device.attach(signals.clone());
        let state = State {
            config,
            msix,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues,
            running: false,
        };
        let bar = AtomicU64::new(u64::from(bar));
        Ok(Arc::new(PciTransport {
            unit,
            slot,
            vm,
            memory,
            signals,
            msix_capability,
            window,
            bar,
            ports: AtomicU16::new(ports),
            state: Mutex::new(state),
        }))
    }

    /// Takes the queues away from the device's workers; nothing is in flight afterwards.
    pub fn reset(&self) {
        self.reset_device(&mut self.lock());
    }

    /// How the driver gets along with the device.
    pub fn state(&self) -> DriverState {
        match self.signals.status() {
            status if status & DEVICE_NEEDS_RESET != 0 => DriverState::NeedsReset,
            status if status & status::DRIVER_OK != 0 && !self.signals.is_connected() => {
                DriverState::Disconnected
            }
            status if status & status::DRIVER_OK != 0 => DriverState::Active,
            _ => DriverState::None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offered_features(&self) -> u64 {
        self.unit.device.features() | feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC
    }

    fn read_common(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        let queue = state.queues.get(usize::from(state.queue_select));
        let ring = |index: usize, shift: u32| low_half(queue.map_or(0, |q| q.rings[index]) >> shift);
        let value: u32 = match offset {
            0x00 => state.device_feature_select,
            0x04 => half_of(self.offered_features(), state.device_feature_select),
            0x08 => state.driver_feature_select,
            0x0c => half_of(state.driver_features, state.driver_feature_select),
            0x10 => self.signals.config_interrupt().vector().into(),
            0x12 => u32::try_from(state.queues.len()).unwrap_or(0),
            0x14 => self.signals.status().into(),
            0x15 => self.signals.generation().into(),
            0x16 => state.queue_select.into(),
            0x18 => queue.map_or(0, |q| q.size).into(),
            0x1a => queue.map_or(super::NO_VECTOR, |q| q.interrupt.vector()).into(),
            0x1c => queue.map_or(0, |q| u16::from(q.enabled)).into(),
            0x1e => state.queue_select.into(),
            0x20 => ring(0, 0),
            0x24 => ring(0, 32),
            0x28 => ring(1, 0),
            0x2c => ring(1, 32),
            0x30 => ring(2, 0),
            0x34 => ring(2, 32),
            _ => 0,
        };
        let bytes = value.to_le_bytes();
        let count = data.len().min(bytes.len());
        data.fill(0);
        data[..count].copy_from_slice(&bytes[..count]);
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        let Some(target) = bytes.get_mut(..data.len()) else { return };
        target.copy_from_slice(data);
        let value = u32::from_le_bytes(bytes);
        let [low, high, ..] = bytes;
        let half = u16::from_le_bytes([low, high]);
        let state = &mut *self.lock();
        match offset {
            0x00 => state.device_feature_select = value,
            0x08 => state.driver_feature_select = value,
            0x0c if self.signals.status() & status::FEATURES_OK == 0 => {
                set_half(&mut state.driver_features, state.driver_feature_select, value);
            }
            0x10 => self.signals.config_interrupt().choose(half),
            0x14 => self.write_status(state, low),
            0x16 => state.queue_select = half,
            _ => {
                let is_running = state.running;
                if let Some(queue) = state.queues.get_mut(usize::from(state.queue_select)) {
                    queue.write(offset, value, half, is_running);
                }
            }
        }
    }

    /// Bits are only added until 0 is written (virtio 1.2, 2.1.1). What has no agreed features is not made to run.
    fn write_status(&self, state: &mut State, value: u8) {
        if value == 0 {
            return self.reset_device(state);
        }
        let before = self.signals.status();
        let mut now = before | value;
        if before & status::FEATURES_OK == 0 && !self.accepts(state.driver_features) {
            now &= !status::FEATURES_OK;
        }
        if now & status::FEATURES_OK == 0 {
            now &= !status::DRIVER_OK;
        }
        self.signals.set_status(now);
        if now & status::DRIVER_OK != 0 && !state.running {
            self.activate(state);
        }
    }

    /// A driver must know version 1 and may ask for nothing that was not offered.
    fn accepts(&self, features: u64) -> bool {
        features & feature::VERSION_1 != 0 && features & !self.offered_features() == 0
    }

    /// Hands the enabled queues to the workers: to all of them or, when one is set up wrong, to none.
    fn activate(&self, state: &mut State) {
        state.running = true;
        match self.activations(state) {
            Ok(activations) => {
                for (worker, activation) in self.unit.workers.iter().zip(activations) {
                    if !activation.queues.is_empty() {
                        worker.start(activation);
                    }
                }
                self.connect_kicks(state);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// What each worker gets.
    fn activations(&self, state: &State) -> Result<Vec<Activation>, DeviceError> {
        let host = |source| DeviceError::Host { operation: "keep a queue's kick", source };
        let active = |&index: &u16| {
            let setup = state.queues.get(usize::from(index)).filter(|queue| queue.enabled)?;
            let queue = setup.build().map_err(|source| DeviceError::Queue { index, source });
            let (interrupt, memory) = (setup.interrupt.clone(), self.memory.clone());
            let kick = setup.kick.try_clone().map_err(host);
            Some(queue.and_then(|queue| {
                Ok(ActiveQueue { index, queue, kick: kick?, interrupt, memory, in_flight: None })
            }))
        };
        let activation = |worker: &WorkerThread| {
            let queues = worker.queues().iter().filter_map(active).collect::<Result<_, _>>()?;
            let (memory, signals) = (self.memory.clone(), self.signals.clone());
            Ok(Activation { queues, features: state.driver_features, memory, signals })
        };
        self.unit.workers.iter().map(activation).collect()
    }

    fn reset_device(&self, state: &mut State) {
        if state.running {
            self.disconnect_kicks(state);
            self.unit.workers.iter().for_each(WorkerThread::stop);
            state.running = false;
        }
        state.queues.iter_mut().for_each(QueueSetup::forget);
        state.driver_features = 0;
        (state.device_feature_select, state.driver_feature_select, state.queue_select) = (0, 0, 0);
        self.signals.reset();
    }

    /// Lets kicks reach the workers without an exit. Where KVM refuses, they come as exits all the same.
    fn connect_kicks(&self, state: &mut State) {
        let first = self.ports.load(Ordering::Acquire);
        if first == NO_PORTS || !state.running {
            return;
        }
        for (index, queue) in (0u16..).zip(&mut state.queues).filter(|(_, queue)| queue.enabled) {
            let port = first + index * KICK_STRIDE;
            queue.connected = self.vm.connect_port(port, &queue.kick).is_ok().then_some(port);
        }
    }

    fn disconnect_kicks(&self, state: &mut State) {
        for queue in &mut state.queues {
            if let Some(port) = queue.connected.take() {
                // KVM forgets it with the machine at the latest.
                let _ = self.vm.disconnect_port(port, &queue.kick);
            }
        }
    }

    fn msix_control(&self, state: &State) -> u16 {
        let mut control = [0; 2];
        state.config.read(self.msix_capability + 2, &mut control);
        u16::from_le_bytes(control)
    }

    /// The driver wrote the command register or a BAR.
    fn follow_bars(&self, state: &mut State) {
        let decoded = state.config.memory_bar().map_or(NOT_DECODED, u64::from);
        self.bar.store(decoded, Ordering::Release);
        let ports = state.config.port_bar().filter(|first| PORT_WINDOW.contains(first)).unwrap_or(NO_PORTS);
        if ports != self.ports.swap(ports, Ordering::AcqRel) {
            self.disconnect_kicks(state);
            self.connect_kicks(state);
        }
    }

    /// Where the window capability points: an offset in the BAR, if it does.
    fn window_target(&self, state: &State, length: usize) -> Option<u64> {
        let mut bar = [0];
        state.config.read(self.window + WINDOW_BAR, &mut bar);
        let (offset, size) = (
            read_dword(&state.config, self.window + WINDOW_OFFSET),
            read_dword(&state.config, self.window + WINDOW_LENGTH),
        );
        let sound = bar == [REGISTERS_BAR]
            && usize::try_from(size) == Ok(length)
            && offset.is_multiple_of(size)
            && offset < BAR_BYTES;
        sound.then_some(offset.into())
    }

    fn fail_on(&self, outcome: Result<(), KvmError>) {
        if let Err(error) = outcome {
            self.fail(&error);
        }
    }

    /// The driver learns it from the status, the machine's owner by an event, the operator from the log.
    fn fail(&self, error: &dyn std::error::Error) {
        report(&format!("{} device in slot {}", self.unit.device.kind(), self.slot.number()), error);
        self.signals.needs_reset();
    }
}

impl PciFunction for PciTransport {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let target = {
            let state = self.lock();
            state.config.read(offset, data);
            (offset == self.window + WINDOW_DATA).then(|| self.window_target(&state, data.len())).flatten()
        };
        if let Some(target) = target {
            self.read_register(target, data);
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let target = {
            let state = &mut *self.lock();
            state.config.write(offset, data);
            match offset {
                0x04..0x08 | 0x10..0x18 => self.follow_bars(state),
                _ if (self.msix_capability..self.msix_capability + 4).contains(&offset) => {
                    let control = self.msix_control(state);
                    let outcome = state.msix.set_control(control);
                    self.fail_on(outcome);
                }
                _ => {}
            }
            (offset == self.window + WINDOW_DATA).then(|| self.window_target(state, data.len())).flatten()
        };
        if let Some(target) = target {
            self.write_register(target, data);
        }
    }

    fn memory_register(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.bar.load(Ordering::Acquire))?;
        (offset < u64::from(BAR_BYTES)).then_some(offset)
    }

    fn port_register(&self, port: u16) -> Option<u64> {
        let offset = port.checked_sub(self.ports.load(Ordering::Acquire))?;
        (offset < KICK_PORTS).then_some(KICKS + u64::from(offset))
    }

    fn read_register(&self, offset: u64, data: &mut [u8]) {
        match offset {
            ..ISR => self.read_common(offset - COMMON, data),
            ISR..DEVICE | KICKS..TABLE => data.fill(0),
            DEVICE..KICKS => self.unit.device.read_config(offset - DEVICE, data),
            TABLE..PENDING => self.lock().msix.read_table(offset - TABLE, data),
            PENDING.. => self.lock().msix.read_pending(offset - PENDING, data),
        }
    }

    fn write_register(&self, offset: u64, data: &[u8]) {
        match offset {
            ..ISR => self.write_common(offset - COMMON, data),
            DEVICE..KICKS => self.unit.device.write_config(offset - DEVICE, data),
            KICKS..TABLE => {
                let index = usize::try_from((offset - KICKS) / u64::from(KICK_STRIDE)).unwrap_or(usize::MAX);
                if let Some(queue) = self.lock().queues.get(index) {
                    let _ = queue.kick.write(1);
                }
            }
            TABLE..PENDING => {
                let outcome = self.lock().msix.write_table(offset - TABLE, data);
                self.fail_on(outcome);
            }
            _ => {}
        }
    }
}

impl Drop for PciTransport {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Half `select` of a 64-bit value; there are two, and what is beyond reads as zero.
fn half_of(value: u64, select: u32) -> u32 {
    match select {
        0 => low_half(value),
        1 => low_half(value >> 32),
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, half: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        _ => {}
    }
}

fn read_dword(config: &ConfigSpace, offset: u16) -> u32 {
    let mut bytes = [0; 4];
    config.read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}
