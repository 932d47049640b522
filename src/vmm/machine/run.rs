//! What a machine has from a start to the next reset or the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use kvm_ioctls::Kvm;

use super::{Machine, MachineError, Plugged};
use crate::boot::{self, BootImage};
use crate::cpu::{Beginning, CpuThreads, Entry, Teller};
use crate::firmware;
use crate::kvm::{KvmError, Vm, VmRecord};
use crate::memory::Memory;
use crate::pci::hotplug::HotplugRegisters;
use crate::pci::{PciBus, Slot};
use crate::platform::{Platform, PlatformRecord, PowerRegisters, Rtc, SERIAL_INTERRUPT, SerialPort};
use crate::suspend::{DeviceRecord, GuestRecord};
use crate::virtio::pci::{DeviceUnit, DriverState, PciTransport};

/// KVM's machine and everything that is forgotten when it goes. Fields are dropped in this order: CPUs first.
pub(super) struct Run {
    pub(super) cpus: CpuThreads,
    transports: BTreeMap<String, Arc<PciTransport>>,
    pub(super) platform: Arc<Platform>,
    vm: Arc<Vm>,
}

impl Run {
    /// A machine that is ready for its first instruction, its CPUs held.
    pub(super) fn new(machine: &Machine, image: &BootImage, making: Making) -> Result<Self, MachineError> {
        // The first touch of the memory that the kernel goes to takes its time.
        let entry = fill(machine, image)?;
        let vm = making.wait()?;
        let platform = platform(&vm, &machine.serial)?;
        Run::with_platform(machine, vm, platform, Beginning::Entry(entry))
    }

    /// A machine that is where the recorded one was, its CPUs held.
    pub(super) fn restored(
        machine: &Machine,
        record: &GuestRecord,
        making: Making,
    ) -> Result<Self, MachineError> {
        let vm = making.wait()?;
        let platform = platform(&vm, &machine.serial)?;
        platform.restore(&record.platform).map_err(|source| MachineError::Platform { source })?;
        // CPUs before all that interrupts them.
        let run = Run::with_platform(machine, vm, platform, Beginning::Records(&record.cpus))?;
        for DeviceRecord { id, transport, .. } in &record.devices {
            let restored = run.transports.get(id).map_or(Ok(()), |known| known.restore(transport));
            restored.map_err(|source| MachineError::Transport { id: id.clone(), source })?;
        }
        run.vm.restore(&record.vm).map_err(|source| MachineError::Kvm { source })?;
        Ok(run)
    }

    fn with_platform(
        machine: &Machine,
        vm: Arc<Vm>,
        platform: Platform,
        beginning: Beginning<'_>,
    ) -> Result<Self, MachineError> {
        let (spec, platform) = (&machine.spec, Arc::new(platform));
        let (teller, enter) = (&machine.teller, machine.enter.cpu);
        let cpus = CpuThreads::new(&vm, &spec.cpuid, spec.cpus, beginning, &platform, teller, enter)
            .map_err(|source| MachineError::Cpu { source })?;
        let mut run = Run { cpus, transports: BTreeMap::new(), platform, vm };
        for (id, device) in &machine.devices {
            run.plug(id, &device.unit, device.slot, &machine.memory, teller)?;
        }
        Ok(run)
    }

    /// Hands restored devices their queues.
    pub(super) fn go_on(&self) {
        self.transports.values().for_each(|transport| transport.go_on());
    }

    /// Where a plugged device stands, its workers paused.
    pub(super) fn device_record(
        &self,
        id: &str,
        device: &Plugged,
    ) -> Result<Option<DeviceRecord>, MachineError> {
        let Some(transport) = self.transports.get(id) else { return Ok(None) };
        let transport =
            transport.record().map_err(|source| MachineError::Transport { id: id.into(), source })?;
        Ok(Some(DeviceRecord {
            id: id.into(),
            kind: device.unit.device.kind(),
            slot: device.slot,
            leaving: device.leaving,
            transport,
        }))
    }

    /// What CPUs share, once the interrupts that are under way have arrived.
    pub(super) fn record(&self) -> Result<(VmRecord, PlatformRecord), MachineError> {
        let kvm = |source| MachineError::Kvm { source };
        let serial = (SERIAL_INTERRUPT, self.platform.serial.interrupt());
        for (pin, event) in self.platform.power.interrupts().into_iter().chain([serial]) {
            self.vm.settle_pin(pin, event).map_err(kvm)?;
        }
        Ok((self.vm.record().map_err(kvm)?, self.platform.record()))
    }

    pub(super) fn plug(
        &mut self,
        id: &str,
        unit: &Arc<DeviceUnit>,
        slot: Slot,
        memory: &Memory,
        teller: &Teller,
    ) -> Result<(), MachineError> {
        let failure = teller.wake.try_clone().map_err(|source| MachineError::Events { source })?;
        let transport = PciTransport::new(unit.clone(), slot, self.vm.clone(), memory.clone(), failure)
            .map_err(|source| MachineError::Transport { id: id.into(), source })?;
        self.platform.pci.plug(slot, transport.clone());
        self.transports.insert(id.into(), transport);
        Ok(())
    }

    /// The device is gone when this returns: nothing of it touches guest memory any more.
    pub(super) fn unplug(&mut self, id: &str, slot: Slot) {
        self.platform.pci.unplug(slot);
        if let Some(transport) = self.transports.remove(id) {
            transport.reset();
        }
    }

    pub(super) fn announce(&self, slot: Slot) {
        self.platform.hotplug.announce(slot);
        self.platform.power.tell_hotplug();
    }

    pub(super) fn ask_removal(&self, slot: Slot) {
        self.platform.hotplug.ask_removal(slot);
        self.platform.power.tell_hotplug();
    }

    /// The slots that the guest has let go of.
    pub(super) fn take_ejected(&self) -> Vec<Slot> {
        self.platform.hotplug.take_ejected()
    }

    pub(super) fn has_ejected(&self) -> bool {
        let [.., ejected] = self.platform.hotplug.maps();
        ejected != 0
    }

    pub(super) fn driver_state(&self, id: &str) -> DriverState {
        self.transports.get(id).map_or(DriverState::None, |transport| transport.state())
    }
}

/// KVM's machine, which a thread makes meanwhile: it takes about as long as all else before the first instruction.
pub(super) struct Making(JoinHandle<Result<Arc<Vm>, KvmError>>);

impl Making {
    pub(super) fn begin(kvm: &Arc<Kvm>, memory: &Memory, enter: fn()) -> Result<Self, MachineError> {
        let (kvm, memory) = (kvm.clone(), memory.clone());
        let make = move || {
            enter();
            Vm::new(&kvm, &memory)
        };
        let thread = thread::Builder::new().name("maker".to_owned()).spawn(make);
        thread.map(Self).map_err(|source| MachineError::Thread { source })
    }

    fn wait(self) -> Result<Arc<Vm>, MachineError> {
        let made = self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        made.map_err(|source| MachineError::Kvm { source })
    }
}

impl Drop for Run {
    /// The serial port's interrupt is the next run's too, so it is taken back and not left to KVM's own time.
    fn drop(&mut self) {
        // A refusal would show when the next run connects it.
        let _ = self.vm.disconnect_pin(SERIAL_INTERRUPT, self.platform.serial.interrupt());
    }
}

/// Puts the firmware's tables and the kernel into the memory.
fn fill(machine: &Machine, image: &BootImage) -> Result<Entry, MachineError> {
    let (spec, memory) = (&machine.spec, &machine.memory);
    firmware::write(memory, spec.cpus, &spec.identity, spec.generation)
        .map_err(|source| MachineError::Firmware { source })?;
    boot::load(memory, image).map_err(|source| MachineError::Boot { source })
}

fn platform(vm: &Vm, serial: &Arc<SerialPort>) -> Result<Platform, MachineError> {
    let events = |source| MachineError::Events { source };
    let kvm = |source: KvmError| MachineError::Kvm { source };
    serial.reset().map_err(events)?;
    let platform = Platform {
        serial: serial.clone(),
        rtc: Mutex::new(Rtc::default()),
        power: PowerRegisters::new().map_err(events)?,
        hotplug: HotplugRegisters::default(),
        pci: PciBus::default(),
    };
    vm.connect_pin(SERIAL_INTERRUPT, platform.serial.interrupt()).map_err(kvm)?;
    for (pin, event) in platform.power.interrupts() {
        vm.connect_pin(pin, event).map_err(kvm)?;
    }
    Ok(platform)
}
