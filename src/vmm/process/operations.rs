//! What the control socket asks of the machine, carried out.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use types::ByteSize;
use volume::{RawFile, RawOptions};

use super::{Disk, Interface, ProcessError, Served, disk_parts, interface_parts};
use crate::control::api::{
    BalloonStatus, BalloonTarget, CaptureSpec, CaptureStatus, Counters, DeviceCounters, DeviceId,
    DeviceState, DeviceStatus, DiskSpec, EventKind, Impairments, InterfaceSpec, InterfaceStatus,
    MachineState, MachineStatus, VcpuCounters,
};
use crate::control::operations::{OperationError, Operations, Removal, Removed};
use crate::control::{EventLog, ProcessMemoryFile};
use crate::cpu::CpuCounts;
use crate::machine::{self, DriverState, Machine, MachineError, MachineEvent};
use crate::memory::Backing;
use crate::virtio::balloon::Balloon;
use crate::virtio::net::{CaptureError, Net};
use crate::virtio::vhost_user::RemoteDisk;
use crate::virtio::{DeviceKind, DeviceParts, ReconnectError};

/// The machine and what is known about it beside.
pub(super) struct Owned {
    pub(super) id: String,
    pub(super) machine: Machine,
    /// Devices that were there at the start and stay.
    pub(super) fixed: BTreeSet<String>,
    pub(super) balloon: Option<Arc<Balloon>>,
    pub(super) events: Arc<EventLog>,
    pub(super) memory_file: ProcessMemoryFile,
    pub(super) started: Instant,
    pub(super) is_off: bool,
    /// It begins anew when it powers off, or at this time.
    pub(super) reboot_by: Option<Instant>,
}

/// Slots for devices, as many as the bus has beside the host bridge.
const SLOTS: usize = 31;
const MTU_DEFAULT: u16 = 1500;
/// How long a guest may take to shut down before it is reset. A stock systemd gives its services 90 s.
const REBOOT_TIME: Duration = Duration::from_secs(120);

impl Owned {
    /// Publishes what happened to a device; ids of the machine are those of the control socket.
    pub(super) fn tell(&self, id: &str, event: impl FnOnce(DeviceId) -> EventKind) {
        if let Ok(device) = id.parse() {
            self.events.publish(event(device));
        }
    }

    /// It was to reboot, and has powered off.
    pub(super) fn begin_anew(&mut self) -> Result<(), MachineError> {
        self.reboot_by = None;
        let events = self.machine.begin_anew()?;
        self.tell_reset(events);
        Ok(())
    }

    /// It was to reboot, and has not powered off in time.
    pub(super) fn reset_in_time(&mut self) -> Result<(), MachineError> {
        self.reboot_by = None;
        let events = self.machine.reset()?;
        self.tell_reset(events);
        Ok(())
    }

    fn tell_reset(&self, events: Vec<MachineEvent>) {
        for event in events {
            match event {
                MachineEvent::Unplugged { id } => self.tell_unplugged(&id),
                _ => self.events.publish(EventKind::Reset),
            }
        }
    }

    pub(super) fn tell_unplugged(&self, id: &str) {
        self.tell(id, |device| EventKind::DeviceUnplugged { device });
    }

    fn state(&self) -> MachineState {
        match self.machine.state() {
            _ if self.is_off => MachineState::Off,
            machine::MachineState::Stopped => MachineState::Off,
            machine::MachineState::Running => MachineState::Running,
            machine::MachineState::Held => MachineState::Paused,
        }
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn expect_on(&self, operation: &'static str) -> Result<(), OperationError> {
        match self.state() {
            MachineState::Off => Err(OperationError::WrongState { operation, state: MachineState::Off }),
            MachineState::Running | MachineState::Paused => Ok(()),
        }
    }

    fn status(&self, device: &machine::DeviceStatus) -> Option<DeviceStatus> {
        let state = match device.driver {
            _ if device.leaving => DeviceState::Unplugging,
            DriverState::NeedsReset => DeviceState::NeedsReset,
            DriverState::Disconnected => DeviceState::Disconnected,
            DriverState::Active => DeviceState::Active,
            DriverState::None => DeviceState::Plugged,
        };
        Some(DeviceStatus {
            id: device.id.parse().ok()?,
            kind: device.kind,
            state,
            pci_address: format!("0000:00:{:02x}.0", device.slot),
            removable: !self.fixed.contains(&device.id),
        })
    }

    fn find(&self, id: &DeviceId) -> Result<DeviceStatus, OperationError> {
        let found = self.devices().into_iter().find(|device| device.id == *id);
        found.ok_or_else(|| OperationError::NoDevice { id: id.clone() })
    }

    fn interface(&self, id: &DeviceId) -> Result<&Net, OperationError> {
        let mut interfaces = self.machine.interfaces();
        let found = interfaces.find(|(known, _)| *known == id.as_str());
        found.map(|(_, net)| net).ok_or_else(|| OperationError::NoDevice { id: id.clone() })
    }

    /// A disk that whoever is at the other end of a socket serves.
    fn elsewhere(&self, spec: &DiskSpec, socket: File) -> Result<Served, OperationError> {
        let invalid = |member, reason: &str| OperationError::Invalid { member, reason: reason.to_owned() };
        if self.machine.spec().backing == Backing::Private {
            let reason = "who serves it needs the machine's memory, which is private; start the machine with shared memory";
            return Err(invalid("disk", reason));
        }
        if spec.read_only || spec.serial.is_some() {
            return Err(invalid("disk", "who serves it says whether it is read-only, and its serial number"));
        }
        let remote = RemoteDisk::connect(OwnedFd::from(socket).into()).map_err(host("open the disk"))?;
        Ok(Served::Elsewhere { remote, patience: Duration::from_millis(spec.reconnect_ms) })
    }

    fn plug(
        &mut self,
        operation: &'static str,
        id: &DeviceId,
        parts: DeviceParts,
    ) -> Result<DeviceStatus, OperationError> {
        self.machine.plug(id.as_str(), parts).map_err(|error| match error {
            MachineError::Duplicate { .. } => OperationError::DeviceExists { id: id.clone() },
            MachineError::NoSlot { .. } => OperationError::NoSlot { slots: SLOTS },
            error => host(operation)(error),
        })?;
        self.events.publish(EventKind::DevicePlugged { device: id.clone() });
        self.find(id)
    }
}

fn host<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
) -> impl Fn(E) -> OperationError {
    move |source| OperationError::Host { operation, source: Box::new(source) }
}

impl Operations for Owned {
    fn machine(&self) -> MachineStatus {
        MachineStatus {
            id: self.id.clone(),
            state: self.state(),
            vcpus: self.machine.spec().cpus,
            memory_bytes: ByteSize::from_bytes(self.machine.spec().memory_bytes),
            uptime_ms: self.uptime_ms(),
            devices: self.devices(),
        }
    }

    fn pause(&mut self) -> Result<(), OperationError> {
        self.expect_on("pause")?;
        if self.state() == MachineState::Running {
            self.machine.hold().map_err(host("pause the machine"))?;
            self.events.publish(EventKind::Paused);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), OperationError> {
        self.expect_on("resume")?;
        if self.state() == MachineState::Paused {
            self.machine.resume().map_err(host("resume the machine"))?;
            self.events.publish(EventKind::Resumed);
        }
        Ok(())
    }

    fn press_power_button(&mut self) -> Result<(), OperationError> {
        match self.state() {
            MachineState::Running => {
                self.machine.press_power_button().map_err(host("press the power button"))?;
                // What was asked last counts.
                self.reboot_by = None;
                Ok(())
            }
            state => Err(OperationError::WrongState { operation: "press the power button of", state }),
        }
    }

    fn reboot(&mut self) -> Result<(), OperationError> {
        // Asked again, the guest has no more time.
        let by = self.reboot_by.unwrap_or_else(|| Instant::now() + REBOOT_TIME);
        self.press_power_button()?;
        self.reboot_by = Some(by);
        Ok(())
    }

    fn reset(&mut self) -> Result<(), OperationError> {
        self.expect_on("reset")?;
        self.reboot_by = None;
        let events = self.machine.reset().map_err(host("reset the machine"))?;
        self.tell_reset(events);
        Ok(())
    }

    fn power_off(&mut self) -> Result<(), OperationError> {
        self.machine.stop();
        self.is_off = true;
        Ok(())
    }

    fn counters(&mut self) -> Result<Counters, OperationError> {
        let process = self.memory_file.read().map_err(host("read this process's memory"))?;
        let devices = self.machine.devices().into_iter().filter_map(|device| {
            let id = device.id.parse().ok()?;
            Some(DeviceCounters { id, kind: device.kind, counters: device.counters })
        });
        let vcpus =
            (0u8..).zip(self.machine.cpu_counts()).map(|(index, counts)| vcpu_counters(index, counts));
        Ok(Counters {
            uptime_ms: self.uptime_ms(),
            vcpus: vcpus.collect(),
            devices: devices.collect(),
            process,
        })
    }

    fn devices(&self) -> Vec<DeviceStatus> {
        self.machine.devices().iter().filter_map(|device| self.status(device)).collect()
    }

    fn add_disk(&mut self, spec: DiskSpec, disk: OwnedFd) -> Result<DeviceStatus, OperationError> {
        self.expect_on("add a disk to")?;
        let id = spec.id.clone();
        let file = File::from(disk);
        let kind = file.metadata().map_err(host("look at the disk"))?.file_type();
        let served = if kind.is_socket() { self.elsewhere(&spec, file)? } else { here(spec, file)? };
        let parts = disk_parts(Disk { id: id.clone(), served, is_removable: true }, self.machine.spec().cpus);
        let parts = parts.map_err(host("open the disk"))?;
        self.plug("add the disk", &id, parts)
    }

    fn reconnect_disk(&mut self, id: &DeviceId, server: OwnedFd) -> Result<DeviceStatus, OperationError> {
        self.expect_on("reconnect a disk of")?;
        let device = self.find(id)?;
        if device.kind != DeviceKind::Block {
            return Err(OperationError::NoDevice { id: id.clone() });
        }
        let server = File::from(server);
        if !server.metadata().map_err(host("look at the server"))?.file_type().is_socket() {
            let reason = "it is not a socket".to_owned();
            return Err(OperationError::Invalid { member: "server", reason });
        }
        self.machine.reconnect(id.as_str(), UnixStream::from(OwnedFd::from(server))).map_err(|error| {
            match error {
                MachineError::Reconnect { source: ReconnectError::Unsuitable { source }, .. } => {
                    OperationError::Invalid { member: "server", reason: chain(&*source) }
                }
                MachineError::Reconnect { source: ReconnectError::Served, .. } => {
                    OperationError::NotDisconnected { id: id.clone() }
                }
                error => host("reconnect the disk")(error),
            }
        })?;
        self.find(id)
    }

    fn add_interface(
        &mut self,
        spec: InterfaceSpec,
        taps: Vec<OwnedFd>,
    ) -> Result<DeviceStatus, OperationError> {
        self.expect_on("add an interface to")?;
        let InterfaceSpec { id, mac, mtu } = spec;
        let mtu = mtu.unwrap_or(MTU_DEFAULT);
        let interface = Interface { id: id.clone(), mac, mtu, taps, is_removable: true };
        let parts = interface_parts(interface).map_err(|error| match error {
            ProcessError::Interface { source, .. } => {
                OperationError::Invalid { member: "taps", reason: chain(&source) }
            }
            error => host("open the taps")(error),
        })?;
        self.plug("add the interface", &id, parts)
    }

    fn interfaces(&self) -> Vec<InterfaceStatus> {
        let statuses = self.machine.interfaces();
        statuses.filter_map(|(id, net)| Some(interface_status(id.parse().ok()?, net))).collect()
    }

    fn impair(&mut self, id: &DeviceId, impairments: Impairments) -> Result<InterfaceStatus, OperationError> {
        let net = self.interface(id)?;
        net.impair(impairments);
        Ok(interface_status(id.clone(), net))
    }

    fn capture(
        &mut self,
        id: &DeviceId,
        spec: CaptureSpec,
        socket: OwnedFd,
    ) -> Result<CaptureStatus, OperationError> {
        let all = usize::MAX;
        let snaplen = spec.snaplen.map_or(all, |bytes| usize::try_from(bytes).unwrap_or(all));
        self.interface(id)?.capture(socket, snaplen).map_err(|error| match error {
            CaptureError::TooMany { max } => OperationError::TooManyCaptures { id: id.clone(), max },
            CaptureError::NotPackets => {
                OperationError::Invalid { member: "socket", reason: error.to_string() }
            }
            error @ CaptureError::SetUp { .. } => host("capture")(error),
        })
    }

    fn remove_device(
        &mut self,
        kind: DeviceKind,
        id: &DeviceId,
        removal: Removal,
    ) -> Result<Removed, OperationError> {
        self.expect_on("remove a device from")?;
        let device = self.find(id)?;
        if device.kind != kind {
            return Err(OperationError::NoDevice { id: id.clone() });
        }
        if !device.removable {
            return Err(OperationError::NotRemovable { id: id.clone() });
        }
        match self
            .machine
            .unplug(id.as_str(), removal == Removal::Force)
            .map_err(host("remove the device"))?
        {
            Some(MachineEvent::Unplugged { id }) => {
                self.tell_unplugged(&id);
                Ok(Removed::Gone)
            }
            _ => self.find(id).map(Removed::Unplugging),
        }
    }

    fn balloon(&self) -> Result<BalloonStatus, OperationError> {
        let balloon = self.balloon.as_ref().ok_or(OperationError::NoBalloon)?;
        Ok(BalloonStatus {
            target_bytes: ByteSize::from_bytes(balloon.target_bytes()),
            actual_bytes: ByteSize::from_bytes(balloon.actual_bytes()),
        })
    }

    fn set_balloon(&mut self, target: BalloonTarget) -> Result<BalloonStatus, OperationError> {
        let balloon = self.balloon.as_ref().ok_or(OperationError::NoBalloon)?;
        let memory_bytes = self.machine.spec().memory_bytes;
        if target.target_bytes.bytes() > memory_bytes {
            let reason = format!("the machine has {}", ByteSize::from_bytes(memory_bytes));
            return Err(OperationError::Invalid { member: "target_bytes", reason });
        }
        balloon.set_target_bytes(target.target_bytes.bytes());
        self.balloon()
    }
}

/// A disk that is a file.
fn here(spec: DiskSpec, file: File) -> Result<Served, OperationError> {
    let options = RawOptions { read_only: spec.read_only, ..RawOptions::default() };
    // The path is for messages: the file came as a descriptor.
    let raw = RawFile::from_file(file, Path::new(spec.id.as_str()), options)
        .map_err(|error| OperationError::Invalid { member: "disk", reason: chain(&error) })?;
    let serial = spec.serial.unwrap_or_else(|| spec.id.to_string());
    Ok(Served::Here { serial, backend: Arc::new(raw) })
}

fn interface_status(id: DeviceId, net: &Net) -> InterfaceStatus {
    InterfaceStatus { id, mac: net.mac(), captures: net.captures(), impairments: net.impairments() }
}

fn vcpu_counters(index: u8, counts: CpuCounts) -> VcpuCounters {
    let exits = [
        ("port_read", counts.exits_port_read),
        ("port_write", counts.exits_port_write),
        ("memory_read", counts.exits_memory_read),
        ("memory_write", counts.exits_memory_write),
        ("interrupted", counts.exits_interrupted),
        ("other", counts.exits_other),
    ];
    let exits = exits.into_iter().map(|(reason, count)| (reason.into(), count)).collect::<BTreeMap<_, _>>();
    VcpuCounters { index, cpu_ns: counts.time_ns, exits }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
