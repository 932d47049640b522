//! A microVM: its memory, its CPUs, its devices, and what happens to it.
//!
//! ```text
//!      start, go_on           hold
//! Stopped ──────▶ Running ◀────────▶ Held ──suspend──▶ two files
//!    ▲               │ run             │
//!    ├── power-off ──┤                 │
//!    ├── fault ──────┤                 │
//!    └── stop ───────┴─────────────────┘       reset: Running ─▶ Stopped ─▶ Running
//! ```
//!
//! What outlives a reset (devices with their threads, the memory's mapping) is the [`Machine`]'s; what does not (KVM's
//! virtual machine, the CPUs, the bus, what drivers negotiated) is made anew for each run, so a reset is as clean
//! as a power-on. One thread owns the machine and calls it; CPUs and workers reach that thread only by events.

mod run;
mod suspend;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use kvm_ioctls::Kvm;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot::{BootError, BootImage};
use crate::console::ConsoleOutput;
use crate::cpu::{CpuCounts, CpuEvent, Teller};
pub use crate::cpu::{CpuError, HostCpuid};
use crate::firmware::FirmwareError;
pub use crate::firmware::SystemIdentity;
use crate::kvm::KvmError;
use crate::memory::{self, Backing, Memory, MemoryError};
use crate::pci::Slot;
use crate::platform::{Request, SerialPort};
use crate::suspend::{GuestRecord, SuspendError};
use crate::virtio::net::Net;
pub use crate::virtio::pci::DriverState;
use crate::virtio::pci::{DeviceUnit, TransportError};
use crate::virtio::worker::WorkerThread;
use crate::virtio::{DeviceKind, DeviceParts, ReconnectError};
use run::{Making, Run};

/// So many events are carried out at a time: a guest that asks for ever does not keep its owner from others.
const EVENTS_PER_TURN: usize = 64;

/// What a machine is, for as long as its process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// 1 to 32.
    pub cpus: u8,
    /// What its CPUs can.
    pub cpuid: HostCpuid,
    pub memory_bytes: u64,
    /// Devices that other processes serve need shared memory.
    pub backing: Backing,
    pub identity: SystemIdentity,
    /// Differs between copies of one guest (VM generation id).
    pub generation: u128,
}

/// Where a kernel comes from, asked at every start, so that an upgrade inside the guest takes effect.
pub trait BootSource: Send {
    /// # Errors
    /// Why there is nothing to boot, in words for the operator.
    fn image(&self) -> Result<BootImage, Box<dyn std::error::Error + Send + Sync>>;
}

/// What threads do first, by what they are: where their system call filters are put on.
#[derive(Clone, Copy)]
pub struct ThreadEntry {
    /// The one that has KVM make a machine.
    pub maker: fn(),
    pub cpu: fn(),
    pub worker: fn(DeviceKind),
}

impl ThreadEntry {
    /// Threads without filters.
    pub const OPEN: ThreadEntry = ThreadEntry { maker: || {}, cpu: || {}, worker: |_| {} };
}

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("cannot use KVM")]
    Kvm { source: KvmError },
    #[error("/dev/kvm cannot be used")]
    OpenKvm { source: kvm_ioctls::Error },
    #[error("no thread to make the machine on")]
    Thread { source: std::io::Error },
    #[error("the guest's memory")]
    Memory { source: MemoryError },
    #[error("the guest's memory cannot be cleared for its reset")]
    Clear { source: std::io::Error },
    #[error("nothing to boot")]
    Nothing { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the guest cannot be booted")]
    Boot { source: BootError },
    #[error("the tables for the guest")]
    Firmware { source: FirmwareError },
    #[error("the guest's CPUs")]
    Cpu { source: CpuError },
    #[error("device {id}")]
    Transport { id: String, source: TransportError },
    #[error("device {id}: no thread for it")]
    Worker { id: String, source: std::io::Error },
    #[error("there is a device {id} already")]
    Duplicate { id: String },
    #[error("there is no device {id}")]
    NoDevice { id: String },
    #[error("device {id}")]
    Reconnect { id: String, source: ReconnectError },
    #[error("device {id}: all 31 slots are taken")]
    NoSlot { id: String },
    #[error("the machine is {state:?}; {operation} needs another state")]
    State { operation: &'static str, state: MachineState },
    #[error("no file descriptor left for the machine's events")]
    Events { source: std::io::Error },
    #[error("the guest cannot be suspended, or go on")]
    Suspend { source: SuspendError },
    #[error("what was connected to the guest's ports")]
    Platform { source: std::io::Error },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineState {
    Stopped,
    Running,
    Held,
}

/// What happened to the machine, for whoever runs its loop.
#[derive(Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest switched itself off; the machine is stopped.
    PoweredOff,
    /// The guest was reset and runs again.
    Reset,
    /// The guest let go of a device that it was asked for; the device is gone.
    Unplugged { id: String },
    /// A device is broken until its driver resets it.
    NeedsReset { id: String },
    /// Whoever serves a device has ended; its requests wait for another.
    Disconnected { id: String },
    /// Another serves it.
    Reconnected { id: String },
    /// KVM cannot run the guest any more; the machine is stopped.
    Fault(String),
}

/// A device in its slot.
struct Plugged {
    unit: Arc<DeviceUnit>,
    slot: Slot,
    /// The guest has been asked to let go of it.
    leaving: bool,
    /// What was told last of its driver.
    told: DriverState,
}

/// What is told of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceStatus {
    pub id: String,
    pub kind: DeviceKind,
    pub slot: u8,
    pub driver: DriverState,
    pub leaving: bool,
    pub counters: serde_json::Value,
}

/// A microVM.
pub struct Machine {
    kvm: Arc<Kvm>,
    /// For the first start: begun as soon as it could be.
    making: Option<Making>,
    spec: MachineSpec,
    source: Box<dyn BootSource>,
    serial: Arc<SerialPort>,
    enter: ThreadEntry,
    memory: Memory,
    memory_is_fresh: bool,
    /// The guest that goes on, or is forgotten, at the first start.
    suspended: Option<GuestRecord>,
    /// The device and the inode of the file that the memory is a copy of.
    memory_file: Option<(u64, u64)>,
    devices: BTreeMap<String, Plugged>,
    run: Option<Run>,
    is_held: bool,
    teller: Teller,
    events: Receiver<CpuEvent>,
}

impl Machine {
    /// A stopped machine without devices. `kvm` is `/dev/kvm`, opened; its serial port writes to `console`.
    ///
    /// # Errors
    /// [`MachineError`] when the memory cannot be had.
    pub fn new(
        kvm: Kvm,
        spec: MachineSpec,
        source: Box<dyn BootSource>,
        console: ConsoleOutput,
        enter: ThreadEntry,
    ) -> Result<Self, MachineError> {
        let memory = memory::allocate(spec.memory_bytes, spec.backing)
            .map_err(|source| MachineError::Memory { source })?;
        Self::with_memory(kvm, spec, memory, source, console, enter)
    }

    fn with_memory(
        kvm: Kvm,
        spec: MachineSpec,
        memory: Memory,
        source: Box<dyn BootSource>,
        console: ConsoleOutput,
        enter: ThreadEntry,
    ) -> Result<Self, MachineError> {
        let kvm = Arc::new(kvm);
        let making = Making::begin(&kvm, &memory, enter.maker)?;
        let wake = EventFd::new(EFD_NONBLOCK).map_err(|source| MachineError::Events { source })?;
        let serial = SerialPort::new(console).map_err(|source| MachineError::Events { source })?;
        let (sender, events) = channel();
        Ok(Machine {
            kvm,
            making: Some(making),
            spec,
            source,
            serial: Arc::new(serial),
            enter,
            memory,
            memory_is_fresh: true,
            suspended: None,
            memory_file: None,
            devices: BTreeMap::new(),
            run: None,
            is_held: false,
            teller: Teller { events: sender, wake },
            events,
        })
    }

    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    pub fn state(&self) -> MachineState {
        match (&self.run, self.is_held) {
            (None, _) => MachineState::Stopped,
            (Some(_), true) => MachineState::Held,
            (Some(_), false) => MachineState::Running,
        }
    }

    /// Plugs a device in. A guest that runs is told and may use it at once.
    ///
    /// # Errors
    /// [`MachineError`] when the id is taken, no slot is free or the host has no thread left.
    pub fn plug(&mut self, id: &str, parts: DeviceParts) -> Result<Slot, MachineError> {
        if self.devices.contains_key(id) {
            return Err(MachineError::Duplicate { id: id.into() });
        }
        let taken: Vec<Slot> = self.devices.values().map(|device| device.slot).collect();
        let free = (1..crate::pci::SLOT_COUNT).filter_map(Slot::new).find(|slot| !taken.contains(slot));
        let slot = free.ok_or_else(|| MachineError::NoSlot { id: id.into() })?;
        let (kind, enter) = (parts.device.kind(), self.enter.worker);
        let workers = parts
            .workers
            .into_iter()
            .map(|part| WorkerThread::spawn(part, move || enter(kind)))
            .collect::<Result<_, _>>()
            .map_err(|source| MachineError::Worker { id: id.into(), source })?;
        let unit = Arc::new(DeviceUnit { device: parts.device, workers });
        if let Some(run) = &mut self.run {
            run.plug(id, &unit, slot, &self.memory, &self.teller)?;
            run.announce(slot);
        }
        self.devices.insert(id.into(), Plugged { unit, slot, leaving: false, told: DriverState::None });
        Ok(slot)
    }

    /// Asks the guest to let go of a device; [`MachineEvent::Unplugged`] follows when it has. A guest that does not run is not
    /// asked, and with `by_force` none is: then the device is gone at once.
    ///
    /// # Errors
    /// [`MachineError::NoDevice`].
    pub fn unplug(&mut self, id: &str, by_force: bool) -> Result<Option<MachineEvent>, MachineError> {
        let Some(device) = self.devices.get_mut(id) else {
            return Err(MachineError::NoDevice { id: id.into() });
        };
        match &self.run {
            Some(run) if !by_force => {
                device.leaving = true;
                run.ask_removal(device.slot);
                Ok(None)
            }
            _ => {
                let slot = device.slot;
                let gone = self.remove(id);
                // Its driver lets go of what is not there any more, and the slot can be used again.
                self.run.iter().for_each(|run| run.ask_removal(slot));
                Ok(gone)
            }
        }
    }

    fn remove(&mut self, id: &str) -> Option<MachineEvent> {
        let device = self.devices.remove(id)?;
        if let Some(run) = &mut self.run {
            run.unplug(id, device.slot);
        }
        Some(MachineEvent::Unplugged { id: id.into() })
    }

    /// Boots the guest.
    ///
    /// # Errors
    /// [`MachineError`] when it runs already or cannot be booted.
    pub fn start(&mut self) -> Result<(), MachineError> {
        if self.run.is_some() {
            return Err(MachineError::State { operation: "a start", state: self.state() });
        }
        self.suspended = None;
        let making = self.take_making()?;
        let image = self.source.image().map_err(|source| MachineError::Nothing { source })?;
        if !std::mem::take(&mut self.memory_is_fresh) {
            memory::clear(&self.memory).map_err(|source| MachineError::Clear { source })?;
        }
        let run = Run::new(self, &image, making)?;
        drop(image);
        run.cpus.run();
        (self.run, self.is_held) = (Some(run), false);
        Ok(())
    }

    /// KVM's machine for the next run, made already or begun now.
    fn take_making(&mut self) -> Result<Making, MachineError> {
        match self.making.take() {
            Some(making) => Ok(making),
            None => Making::begin(&self.kvm, &self.memory, self.enter.maker),
        }
    }

    /// Takes the guest's CPUs and devices away at once, as if the power failed.
    pub fn stop(&mut self) {
        self.run = None;
        self.is_held = false;
        // What the CPUs told last is of no interest any more.
        while self.events.try_recv().is_ok() {}
    }

    /// Boots the guest anew, without the devices that it was asked to let go of.
    ///
    /// # Errors
    /// [`MachineError`] when it does not run or cannot be booted again.
    pub fn reset(&mut self) -> Result<Vec<MachineEvent>, MachineError> {
        if self.run.is_none() {
            return Err(MachineError::State { operation: "a reset", state: self.state() });
        }
        self.stop();
        self.begin_anew()
    }

    /// As [`Machine::reset`], of a machine that has stopped.
    ///
    /// # Errors
    /// [`MachineError`] when it runs or cannot be booted again.
    pub fn begin_anew(&mut self) -> Result<Vec<MachineEvent>, MachineError> {
        let mut told = self.remove_leaving(|_| true);
        self.start()?;
        told.push(MachineEvent::Reset);
        Ok(told)
    }

    /// Stops CPUs and devices where they are: nothing changes in guest memory until [`Machine::resume`].
    ///
    /// # Errors
    /// [`MachineError::State`] when it does not run.
    pub fn hold(&mut self) -> Result<(), MachineError> {
        match (&self.run, self.is_held) {
            (Some(run), false) => {
                run.cpus.hold();
                self.workers().for_each(WorkerThread::pause);
                self.is_held = true;
                Ok(())
            }
            _ => Err(MachineError::State { operation: "a pause", state: self.state() }),
        }
    }

    /// # Errors
    /// [`MachineError::State`] when it is not held.
    pub fn resume(&mut self) -> Result<(), MachineError> {
        match (&self.run, self.is_held) {
            (Some(run), true) => {
                self.workers().for_each(WorkerThread::resume);
                run.cpus.run();
                self.is_held = false;
                Ok(())
            }
            _ => Err(MachineError::State { operation: "a resume", state: self.state() }),
        }
    }

    /// Presses the power button: a guest that listens shuts down.
    ///
    /// # Errors
    /// [`MachineError::State`] when it does not run.
    pub fn press_power_button(&self) -> Result<(), MachineError> {
        match &self.run {
            Some(run) => {
                run.platform.power.press();
                Ok(())
            }
            None => Err(MachineError::State { operation: "the power button", state: self.state() }),
        }
    }

    /// Readable when [`Machine::take_events`] has something.
    pub fn event_fd(&self) -> &EventFd {
        &self.teller.wake
    }

    /// Carries out what the guest has asked for, and tells.
    ///
    /// # Errors
    /// [`MachineError`] when a guest that reset itself cannot be booted again.
    pub fn take_events(&mut self) -> Result<Vec<MachineEvent>, MachineError> {
        let _ = self.teller.wake.read();
        let mut told = Vec::new();
        for turn in 1..=EVENTS_PER_TURN {
            let Ok(event) = self.events.try_recv() else { break };
            if turn == EVENTS_PER_TURN {
                // There may be more: whoever waits looks again.
                let _ = self.teller.wake.write(1);
            }
            match event {
                CpuEvent::Request(Request::PowerOff) => {
                    self.stop();
                    told.push(MachineEvent::PoweredOff);
                }
                CpuEvent::Request(Request::Reset) => {
                    told.extend(self.reset()?);
                }
                CpuEvent::Request(Request::Eject) => told.extend(self.eject()),
                CpuEvent::Fault(text) => {
                    self.stop();
                    told.push(MachineEvent::Fault(text));
                }
            }
        }
        told.extend(self.news_of_devices());
        Ok(told)
    }

    fn driver_state(&self, id: &str) -> DriverState {
        self.run.as_ref().map_or(DriverState::None, |run| run.driver_state(id))
    }

    /// What is otherwise with devices than when it was looked last.
    fn news_of_devices(&mut self) -> Vec<MachineEvent> {
        let Some(run) = &self.run else { return Vec::new() };
        let mut news = Vec::new();
        for (id, device) in &mut self.devices {
            let now = run.driver_state(id);
            let before = std::mem::replace(&mut device.told, now);
            let id = id.clone();
            match (before, now) {
                (before, now) if before == now => {}
                (_, DriverState::NeedsReset) => news.push(MachineEvent::NeedsReset { id }),
                (_, DriverState::Disconnected) => news.push(MachineEvent::Disconnected { id }),
                (DriverState::Disconnected, DriverState::Active) => {
                    news.push(MachineEvent::Reconnected { id })
                }
                _ => {}
            }
        }
        news
    }

    /// Has somebody else serve a device, whose server has ended.
    ///
    /// # Errors
    /// [`MachineError::NoDevice`], [`MachineError::Reconnect`].
    pub fn reconnect(&self, id: &str, stream: UnixStream) -> Result<(), MachineError> {
        let device = self.devices.get(id).ok_or_else(|| MachineError::NoDevice { id: id.into() })?;
        let reconnected = device.unit.device.reconnect(stream);
        reconnected.map_err(|source| MachineError::Reconnect { id: id.into(), source })
    }

    /// The network interfaces, with their ids.
    pub fn interfaces(&self) -> impl Iterator<Item = (&str, &Net)> {
        self.devices.iter().filter_map(|(id, device)| Some((id.as_str(), device.unit.device.as_net()?)))
    }

    /// The serial port, for whoever types.
    pub fn serial(&self) -> &Arc<SerialPort> {
        &self.serial
    }

    pub fn cpu_counts(&self) -> Vec<CpuCounts> {
        self.run.as_ref().map(|run| run.cpus.counts()).unwrap_or_default()
    }

    pub fn devices(&self) -> Vec<DeviceStatus> {
        self.devices
            .iter()
            .map(|(id, device)| DeviceStatus {
                id: id.clone(),
                kind: device.unit.device.kind(),
                slot: device.slot.number(),
                driver: self.driver_state(id),
                leaving: device.leaving,
                counters: device.unit.device.counters(),
            })
            .collect()
    }

    fn workers(&self) -> impl Iterator<Item = &WorkerThread> {
        self.devices.values().flat_map(|device| &device.unit.workers)
    }

    /// A guest may let go of a slot by itself; only what it was asked for is taken out of the machine.
    fn eject(&mut self) -> Vec<MachineEvent> {
        let slots = self.run.as_ref().map(Run::take_ejected).unwrap_or_default();
        self.remove_leaving(|slot| slots.contains(&slot))
    }

    /// Takes out the devices in slots of these that the guest was asked to let go of.
    fn remove_leaving(&mut self, is_free: impl Fn(Slot) -> bool) -> Vec<MachineEvent> {
        let leaving = self.devices.iter().filter(|(_, device)| device.leaving && is_free(device.slot));
        let ids: Vec<String> = leaving.map(|(id, _)| id.clone()).collect();
        ids.iter().filter_map(|id| self.remove(id)).collect()
    }
}

impl Drop for Machine {
    /// CPUs end before the devices that they use.
    fn drop(&mut self) {
        self.stop();
    }
}
