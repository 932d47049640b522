//! Platform, bus and devices of a machine that has no CPU: the test makes the accesses that a guest would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kvm_ioctls::Kvm;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::console::{Console, ConsoleOutput, ConsoleSpec, SerialInput};
use crate::kvm::Vm;
use crate::machine::DriverState;
use crate::memory::{self, Memory};
use crate::pci::hotplug::HotplugRegisters;
use crate::pci::{PciBus, Slot};
use crate::platform::{Platform, PowerRegisters, Request, Rtc, SerialPort};
use crate::virtio::DeviceParts;
use crate::virtio::pci::{DeviceUnit, PciTransport};
use crate::virtio::worker::WorkerThread;

/// A device with its threads, which outlives a board's resets.
pub struct Device(Arc<DeviceUnit>);

impl Device {
    /// # Panics
    /// When the host has no thread left.
    pub fn new(parts: DeviceParts) -> Self {
        let spawn = |part| WorkerThread::spawn(part, || {}).expect("there are threads");
        Device(Arc::new(DeviceUnit {
            device: parts.device,
            workers: parts.workers.into_iter().map(spawn).collect(),
        }))
    }
}

/// The machine.
pub struct Board {
    transports: BTreeMap<u8, Arc<PciTransport>>,
    platform: Platform,
    vm: Arc<Vm>,
    memory: Memory,
    /// Signalled when a device needs a reset.
    failure: EventFd,
    output: ConsoleOutput,
    _console: Console,
}

impl Board {
    /// # Panics
    /// When there is no KVM, or no memory.
    pub fn new(memory_bytes: u64) -> Self {
        let memory = memory::allocate(memory_bytes, memory::Backing::Private).expect("there is memory");
        let vm = Vm::new(&Kvm::new().expect("these tests need /dev/kvm"), &memory).expect("KVM works");
        let (output, console) = Console::new(ConsoleSpec::default()).expect("there are descriptors");
        let serial = SerialPort::new(output.clone()).expect("there are descriptors");
        let platform = platform(Arc::new(serial));
        let failure = EventFd::new(EFD_NONBLOCK).expect("there are descriptors");
        Board { transports: BTreeMap::new(), platform, vm, memory, failure, output, _console: console }
    }

    /// As a machine's reset: what was plugged in must be so again.
    ///
    /// # Panics
    /// When the host has no descriptor left.
    pub fn reset(&mut self) {
        self.transports.clear();
        self.platform.serial.reset().expect("there are descriptors");
        self.platform = platform(self.platform.serial.clone());
    }

    /// # Panics
    /// When there is no such slot.
    pub fn plug(&mut self, slot: u8, device: &Device) {
        let slot = Slot::new(slot).expect("slots are 1 to 31");
        let failure = self.failure.try_clone().expect("there are descriptors");
        let transport =
            PciTransport::new(device.0.clone(), slot, self.vm.clone(), self.memory.clone(), failure);
        let transport = transport.expect("there are descriptors");
        self.platform.pci.plug(slot, transport.clone());
        self.transports.insert(slot.number(), transport);
        self.platform.hotplug.announce(slot);
    }

    /// Takes the device out, if there is one.
    pub fn unplug(&mut self, slot: u8) {
        if let (Some(transport), Some(slot)) = (self.transports.remove(&slot), Slot::new(slot)) {
            self.platform.pci.unplug(slot);
            transport.reset();
        }
    }

    /// # Panics
    /// When there is no such slot.
    pub fn ask_removal(&self, slot: u8) {
        self.platform.hotplug.ask_removal(Slot::new(slot).expect("slots are 1 to 31"));
    }

    /// How the driver in `slot` gets along with its device.
    pub fn driver_state(&self, slot: u8) -> DriverState {
        self.transports.get(&slot).map_or(DriverState::None, |transport| transport.state())
    }

    #[cfg(test)]
    pub(crate) fn transport(&self, slot: u8) -> Option<&PciTransport> {
        self.transports.get(&slot).map(|transport| &**transport)
    }

    pub fn slots(&self) -> impl Iterator<Item = u8> {
        self.transports.keys().copied()
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What the guest wrote to its serial port.
    pub fn output(&self) -> &ConsoleOutput {
        &self.output
    }

    /// Types as much of `bytes` as the serial port has room for.
    pub fn type_in(&self, bytes: &[u8]) {
        let serial = &self.platform.serial;
        serial.push(&bytes[..bytes.len().min(serial.room())]);
    }

    /// Whether a device has come to need a reset since this was asked last.
    pub fn was_told_of_failure(&self) -> bool {
        self.failure.read().is_ok()
    }

    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        self.platform.read_port(port, data);
    }

    /// Whether the guest asked something of the machine by it: to be switched off, to be reset, to have a device taken out.
    pub fn write_port(&self, port: u16, data: &[u8]) -> Option<Request> {
        self.platform.write_port(port, data)
    }

    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        self.platform.read_memory(address, data);
    }

    pub fn write_memory(&self, address: u64, data: &[u8]) {
        self.platform.write_memory(address, data);
    }
}

fn platform(serial: Arc<SerialPort>) -> Platform {
    Platform {
        serial,
        rtc: Mutex::new(Rtc::default()),
        power: PowerRegisters::new().expect("there are descriptors"),
        hotplug: HotplugRegisters::default(),
        pci: PciBus::default(),
    }
}
