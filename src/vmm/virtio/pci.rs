//! The PCI transport (virtio 1.2, 4.1), modern only.
//!
//! Everything lies in one 32 KiB BAR:
//! ```text
//! 0x0000  common configuration     0x3000  notifications, 4 bytes a queue (ioeventfd)
//! 0x1000  ISR, always 0: no INTx   0x4000  MSI-X table
//! 0x2000  device configuration     0x6000  MSI-X pending bits
//! ```
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

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::interrupt::DEVICE_NEEDS_RESET;
use super::worker::WorkerThread;
use super::{Activation, ActiveQueue, DeviceKind, DeviceSignals, Interrupt, VirtioDevice, feature};
use crate::kvm::{KvmError, Vm, low_half};
use crate::memory::{Memory, PCI_WINDOW_START};
use crate::pci::{Capability, ConfigSpace, Identity, MsixTable, PciFunction, Slot};

const BAR_BYTES: u32 = 0x8000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x6000;
/// Each region but the table and the pending bits is a page.
const REGION_BYTES: u32 = 0x1000;
const NOTIFY_MULTIPLIER: u32 = 4;
/// The MSI-X table has room for 512 vectors: one for the configuration, the rest for queues.
const QUEUES_MAX: usize = 511;

/// Device status bits (virtio 1.2, 2.1).
mod status {
    pub(super) const DRIVER_OK: u8 = 4;
    pub(super) const FEATURES_OK: u8 = 8;
}

/// Configuration structure types (virtio 1.2, 4.1.4).
mod structure {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
    pub(super) const PCI: u8 = 5;
}
const VENDOR_CAPABILITY: u8 = 0x09;
/// Offsets in a `virtio_pci_cfg_cap`.
const WINDOW_BAR: u16 = 4;
const WINDOW_OFFSET: u16 = 8;
const WINDOW_LENGTH: u16 = 12;
const WINDOW_DATA: u16 = 16;

const NOT_DECODED: u64 = u64::MAX;

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("no file descriptor for the interrupts of a {kind} device")]
    Descriptors { kind: DeviceKind, source: std::io::Error },
    #[error("a {kind} device has {queues} queues; at most {QUEUES_MAX} can be")]
    TooManyQueues { kind: DeviceKind, queues: usize },
}

/// A device with the threads that serve it: it outlives the machine's resets.
pub struct DeviceUnit {
    pub device: Arc<dyn VirtioDevice>,
    pub workers: Vec<WorkerThread>,
}

/// A queue as the driver set it up.
struct QueueSetup {
    size_max: u16,
    size: u16,
    enabled: bool,
    /// Guest addresses of the descriptor table, the available ring and the used ring.
    rings: [u64; 3],
    interrupt: Interrupt,
    kick: EventFd,
    /// Where its kick is connected, while the device runs.
    connected: Option<u64>,
}

impl QueueSetup {
    fn forget(&mut self) {
        self.size = self.size_max;
        self.enabled = false;
        self.rings = [0; 3];
        self.interrupt.choose(super::NO_VECTOR);
    }

    fn build(&self, ram: &crate::memory::GuestRam, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.size_max).ok()?;
        let [descriptors, available, used] = self.rings.map(GuestAddress);
        queue.try_set_size(self.size).ok()?;
        queue.try_set_desc_table_address(descriptors).ok()?;
        queue.try_set_avail_ring_address(available).ok()?;
        queue.try_set_used_ring_address(used).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.is_valid(ram).then_some(queue)
    }
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
    /// The device is broken until its driver resets it.
    NeedsReset,
}

/// A virtio device in a PCI slot.
pub struct PciTransport {
    unit: Arc<DeviceUnit>,
    vm: Arc<Vm>,
    memory: Memory,
    signals: Arc<DeviceSignals>,
    /// Offsets of the MSI-X capability and of the window into the BAR, in configuration space.
    msix_capability: u16,
    window: u16,
    /// Where the BAR is decoded.
    bar: AtomicU64,
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
        let mut queues = Vec::with_capacity(sizes.len());
        for size_max in sizes {
            let kick = EventFd::new(EFD_NONBLOCK).map_err(descriptors)?;
            let interrupt = Interrupt::new(msix.events());
            let connected = None;
            queues.push(QueueSetup {
                size_max,
                size: size_max,
                enabled: false,
                rings: [0; 3],
                interrupt,
                kick,
                connected,
            });
        }

        let bar = low_half(PCI_WINDOW_START) + u32::from(slot.number()) * BAR_BYTES;
        let mut config = ConfigSpace::new(identity(kind));
        config.set_memory_bar(bar, BAR_BYTES);
        let msix_capability = config.add_capability(&msix.capability(low_half(TABLE), low_half(PENDING)));
        for (structure, offset, extra) in [
            (structure::COMMON, COMMON, None),
            (structure::NOTIFY, NOTIFY, Some(NOTIFY_MULTIPLIER)),
            (structure::ISR, ISR, None),
            (structure::DEVICE, DEVICE, None),
        ] {
            config.add_capability(&structure_capability(structure, low_half(offset), extra));
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
            vm,
            memory,
            signals,
            msix_capability,
            window,
            bar,
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
            0x04 => feature_half(self.offered_features(), state.device_feature_select),
            0x08 => state.driver_feature_select,
            0x0c => feature_half(state.driver_features, state.driver_feature_select),
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
                set_feature_half(&mut state.driver_features, state.driver_feature_select, value);
            }
            0x10 => self.signals.config_interrupt().choose(half),
            0x14 => self.write_status(state, low),
            0x16 => state.queue_select = half,
            _ => write_queue(state, offset, value, half),
        }
    }

    fn write_status(&self, state: &mut State, value: u8) {
        let before = self.signals.status();
        if value == 0 {
            return self.reset_device(state);
        }
        let mut now = value;
        if now & status::FEATURES_OK != 0
            && before & status::FEATURES_OK == 0
            && !self.accepts(state.driver_features)
        {
            now &= !status::FEATURES_OK;
        }
        self.signals.set_status(now);
        let ready = status::DRIVER_OK | status::FEATURES_OK;
        if now & ready == ready && !state.running {
            self.activate(state);
        }
    }

    /// A driver must know version 1 and may ask for nothing that was not offered.
    fn accepts(&self, features: u64) -> bool {
        features & feature::VERSION_1 != 0 && features & !self.offered_features() == 0
    }

    /// Hands the enabled queues to the workers.
    fn activate(&self, state: &mut State) {
        state.running = true;
        let event_idx = state.driver_features & feature::EVENT_IDX != 0;
        for worker in &self.unit.workers {
            let mut queues = Vec::new();
            for &index in worker.queues() {
                let Some(setup) = state.queues.get_mut(usize::from(index)).filter(|q| q.enabled) else {
                    continue;
                };
                let Some(queue) = setup.build(&self.memory, event_idx) else {
                    return self.signals.needs_reset();
                };
                let Ok(kick) = setup.kick.try_clone() else { return self.signals.needs_reset() };
                let (interrupt, memory) = (setup.interrupt.clone(), self.memory.clone());
                queues.push(ActiveQueue { index, queue, kick, interrupt, memory });
            }
            if !queues.is_empty() {
                let (memory, signals) = (self.memory.clone(), self.signals.clone());
                worker.start(Activation { queues, features: state.driver_features, memory, signals });
            }
        }
        self.connect_kicks(state);
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
        let bar = self.bar.load(Ordering::Acquire);
        if bar == NOT_DECODED || !state.running {
            return;
        }
        for (index, queue) in (0u64..).zip(&mut state.queues).filter(|(_, queue)| queue.enabled) {
            let address = bar + NOTIFY + index * u64::from(NOTIFY_MULTIPLIER);
            queue.connected = self.vm.connect_write(address, &queue.kick).is_ok().then_some(address);
        }
    }

    fn disconnect_kicks(&self, state: &mut State) {
        for queue in &mut state.queues {
            if let Some(address) = queue.connected.take() {
                // KVM forgets it with the machine at the latest.
                let _ = self.vm.disconnect_write(address, &queue.kick);
            }
        }
    }

    /// The driver wrote the command register or the BAR.
    fn follow_bar(&self, state: &mut State) {
        let decoded = state.config.memory_bar().map_or(NOT_DECODED, u64::from);
        if decoded != self.bar.swap(decoded, Ordering::AcqRel) {
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
        let sound = bar == [0]
            && usize::try_from(size) == Ok(length)
            && offset.is_multiple_of(size)
            && offset < BAR_BYTES;
        sound.then_some(offset.into())
    }

    fn fail_on(&self, outcome: Result<(), KvmError>) {
        if outcome.is_err() {
            self.signals.needs_reset();
        }
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
            self.read_bar(target, data);
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let target = {
            let state = &mut *self.lock();
            state.config.write(offset, data);
            match offset {
                0x04..0x08 | 0x10..0x14 => self.follow_bar(state),
                _ if (self.msix_capability..self.msix_capability + 4).contains(&offset) => {
                    let mut control = [0; 2];
                    state.config.read(self.msix_capability + 2, &mut control);
                    let outcome = state.msix.set_control(u16::from_le_bytes(control));
                    self.fail_on(outcome);
                }
                _ => {}
            }
            (offset == self.window + WINDOW_DATA).then(|| self.window_target(state, data.len())).flatten()
        };
        if let Some(target) = target {
            self.write_bar(target, data);
        }
    }

    fn bar_offset(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.bar.load(Ordering::Acquire))?;
        (offset < u64::from(BAR_BYTES)).then_some(offset)
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        match offset {
            ..ISR => self.read_common(offset - COMMON, data),
            ISR..DEVICE | NOTIFY..TABLE => data.fill(0),
            DEVICE..NOTIFY => self.unit.device.read_config(offset - DEVICE, data),
            TABLE..PENDING => self.lock().msix.read_table(offset - TABLE, data),
            PENDING.. => self.lock().msix.read_pending(offset - PENDING, data),
        }
    }

    fn write_bar(&self, offset: u64, data: &[u8]) {
        match offset {
            ..ISR => self.write_common(offset - COMMON, data),
            DEVICE..NOTIFY => self.unit.device.write_config(offset - DEVICE, data),
            NOTIFY..TABLE => {
                let index =
                    usize::try_from((offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER)).unwrap_or(usize::MAX);
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

fn write_queue(state: &mut State, offset: u64, value: u32, half: u16) {
    let Some(queue) = state.queues.get_mut(usize::from(state.queue_select)) else { return };
    // A queue in use does not move (virtio 1.2, 4.1.4.3.2); its vector may.
    if offset == 0x1a {
        return queue.interrupt.choose(half);
    }
    if queue.enabled {
        return;
    }
    match offset {
        0x18 => queue.size = half,
        0x1c => queue.enabled = half == 1,
        0x20..0x38 if offset.is_multiple_of(4) => {
            let ring = &mut queue.rings[usize::from(offset >= 0x28) + usize::from(offset >= 0x30)];
            set_feature_half(ring, u32::from(!offset.is_multiple_of(8)), value);
        }
        _ => {}
    }
}

/// Half `select` of a 64-bit value; there are two, and what is beyond reads as zero.
fn feature_half(value: u64, select: u32) -> u32 {
    match select {
        0 => low_half(value),
        1 => low_half(value >> 32),
        _ => 0,
    }
}

fn set_feature_half(value: &mut u64, select: u32, half: u32) {
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

/// Ids of virtio 1.2, 4.1.2; revision 1 says modern.
fn identity(kind: DeviceKind) -> Identity {
    let class = match kind {
        DeviceKind::Net => 0x02_00_00,
        DeviceKind::Block => 0x01_80_00,
        DeviceKind::Rng | DeviceKind::Balloon | DeviceKind::Vsock => 0xff_00_00,
    };
    let device = 0x1040 + kind.id();
    Identity { vendor: 0x1af4, device, revision: 1, class, subsystem_vendor: 0x1af4, subsystem: device }
}

/// `virtio_pci_cap`: length, type, BAR, id, two bytes of padding, offset, length; for notifications the multiplier.
fn structure_capability(kind: u8, offset: u32, extra: Option<u32>) -> Capability {
    let length = if extra.is_some() { 20 } else { 16 };
    let mut body = vec![length, kind, 0, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(REGION_BYTES.to_le_bytes());
    body.extend(extra.into_iter().flat_map(u32::to_le_bytes));
    let writable = vec![0; body.len()];
    Capability { id: VENDOR_CAPABILITY, body, writable }
}

/// `virtio_pci_cfg_cap`: through it a driver that cannot map the BAR reaches it.
fn window_capability() -> Capability {
    let mut capability = structure_capability(structure::PCI, 0, Some(0));
    capability.body[6..].fill(0);
    // Bar, offset, length and data; the body begins two bytes after the capability.
    capability.writable[usize::from(WINDOW_BAR) - 2] = 0xff;
    capability.writable[usize::from(WINDOW_OFFSET) - 2..].fill(0xff);
    capability
}
