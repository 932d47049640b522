//! A machine that is written to files, and one that is made of them.

#[cfg(test)]
mod tests;

use std::fs::File;

use kvm_ioctls::Kvm;

use super::run::Run;
use super::{BootSource, Machine, MachineError, MachineState, ThreadEntry};
use crate::console::ConsoleOutput;
use crate::cpu::{CpuEvent, HostCpuid};
use crate::memory;
use crate::platform::Request;
use crate::suspend::{self, GuestRecord, SuspendError, Suspended};
use crate::virtio::DeviceKind;

impl Machine {
    /// Writes the guest, which is held, to two files, whatever was in them. It is held afterwards as before.
    ///
    /// What the machine has told is carried out first ([`Machine::take_events`]): a guest that has asked for its end has no state.
    ///
    /// # Errors
    /// [`MachineError::State`] when it is not held, [`MachineError::Transport`] when a device cannot tell where it stands, [`MachineError`]
    /// when KVM refuses or the files cannot be written: then what is in them is refused too.
    pub fn suspend(&self, state: &File, memory: &File) -> Result<(), MachineError> {
        let record = self.record()?;
        let place = suspend::place_of(memory).map_err(refused)?;
        if self.memory_file == Some(place) {
            return Err(refused(SuspendError::OwnMemory));
        }
        suspend::save(&record, &self.memory, state, memory).map_err(refused)
    }

    fn record(&self) -> Result<GuestRecord, MachineError> {
        let (Some(run), true) = (&self.run, self.is_held) else {
            return Err(MachineError::State { operation: "a suspension", state: self.state() });
        };
        // First what still interrupts CPUs, then these.
        let devices = self.devices.iter().map(|(id, device)| run.device_record(id, device));
        let devices = devices.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let (vm, platform) = run.record()?;
        let msrs = self.kvm.get_msr_index_list().map_err(|source| MachineError::OpenKvm { source })?;
        let cpus = run.cpus.records(msrs.as_slice().into());
        Ok(GuestRecord {
            name: suspend::fresh_name().map_err(refused)?,
            spec: self.spec.clone(),
            cpus: cpus.map_err(|source| MachineError::Cpu { source })?,
            vm,
            platform,
            devices,
        })
    }

    /// A stopped machine without devices whose guest was suspended, and for which [`Machine::go_on`] waits. `here` is what CPUs of this
    /// host can; the rest is as for [`Machine::new`]. A [`Machine::start`] instead forgets the guest and boots.
    ///
    /// # Errors
    /// [`MachineError`] when the host is another than the guest ran on, or the memory cannot be had.
    pub fn restored(
        kvm: Kvm,
        suspended: Suspended,
        here: &HostCpuid,
        source: Box<dyn BootSource>,
        console: ConsoleOutput,
        enter: ThreadEntry,
    ) -> Result<Self, MachineError> {
        let Suspended { record, memory } = suspended;
        let is_same = record.spec.cpuid.must_equal(here);
        is_same.map_err(|source| refused(SuspendError::Processor { source }))?;
        let place = suspend::place_of(&memory).map_err(refused)?;
        let memory = memory::copy_of(&memory, record.spec.memory_bytes)
            .map_err(|source| MachineError::Memory { source })?;
        let spec = record.spec.clone();
        let mut machine = Self::with_memory(kvm, spec, memory, source, console, enter)?;
        (machine.suspended, machine.memory_is_fresh) = (Some(record), false);
        machine.memory_file = Some(place);
        Ok(machine)
    }

    /// Lets a restored guest run from where it was, with its devices plugged in: those it had, under the same ids.
    ///
    /// # Errors
    /// [`MachineError`] when there is no such guest, when the devices are others, or when one of them or KVM does not take its state. The
    /// guest can then not go on, but be started anew.
    pub fn go_on(&mut self) -> Result<(), MachineError> {
        let state = self.state();
        let record = self.suspended.take().filter(|_| state == MachineState::Stopped);
        let record = record.ok_or(MachineError::State { operation: "going on", state })?;
        self.take_slots(&record)?;
        let making = self.take_making()?;
        let run = Run::restored(self, &record, making)?;
        if run.has_ejected() {
            // It was told before, and has not been taken.
            self.teller.tell(CpuEvent::Request(Request::Eject));
        }
        run.go_on();
        run.cpus.run();
        (self.run, self.is_held) = (Some(run), false);
        Ok(())
    }

    /// Puts the devices where they were.
    fn take_slots(&mut self, record: &GuestRecord) -> Result<(), MachineError> {
        let is_known = |id: &String| record.devices.iter().any(|known| known.id == *id);
        if let Some(id) = self.devices.keys().find(|id| !is_known(id)) {
            return Err(refused(SuspendError::NewDevice { id: id.clone() }));
        }
        for known in &record.devices {
            let id = known.id.clone();
            let Some(device) = self.devices.get_mut(&id) else { return Err(MachineError::NoDevice { id }) };
            let here: DeviceKind = device.unit.device.kind();
            if here != known.kind {
                return Err(refused(SuspendError::OtherDevice { id, recorded: known.kind, here }));
            }
            (device.slot, device.leaving) = (known.slot, known.leaving);
        }
        Ok(())
    }
}

fn refused(source: SuspendError) -> MachineError {
    MachineError::Suspend { source }
}
