//! The state of a CPU that stands still, told by its thread and given to another.

use std::ops::RangeInclusive;

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use crate::suspend::format::{Decoder, Encoder, FormatError, Record};

/// More than any KVM has.
const MSRS_MAX: u32 = 1024;
/// What KVM's list of registers to save leaves out, and keeps: the last branch and single step control, the kinds of memory, and
/// the machine check banks. A processor that lacks one does not tell it.
const UNLISTED: [RangeInclusive<u32>; 7] =
    [0x1d9..=0x1d9, 0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x2ff..=0x2ff, 0x400..=0x47f];
/// Set after all others: it starts the timer, by the counter and the local APIC as they then are.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Frequencies may differ by so many parts in a million, which is what clocks of one kind do.
const TSC_TOLERANCE_PPM: u64 = 250;
const XSAVE_WORDS: usize = 1024;
/// Set by a guest that runs guests of its own, on processors of either maker.
const EFER_SVM: u64 = 1 << 12;
const CR4_VMX: u64 = 1 << 13;

/// What a CPU is between two instructions.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuRecord {
    /// Of its time stamp counter.
    tsc_khz: u32,
    run_state: kvm_mp_state,
    general: kvm_regs,
    system: kvm_sregs,
    extended_control: kvm_xcrs,
    debug: kvm_debugregs,
    /// What is about to happen to it: exceptions, interrupts.
    events: kvm_vcpu_events,
    local_apic: kvm_lapic_state,
    /// Floating point and vectors, as XSAVE lays them out.
    extended: Box<[u32; XSAVE_WORDS]>,
    model_specific: Vec<ModelSpecific>,
}

/// A model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ModelSpecific {
    index: u32,
    value: u64,
}

/// Why a CPU's state cannot be told, or taken.
#[derive(Debug, thiserror::Error)]
pub enum CpuRecordError {
    #[error("{call}")]
    Call { call: &'static str, source: kvm_ioctls::Error },
    #[error("its time stamp counter counts at {recorded} kHz; this host's at {here}")]
    Frequency { recorded: u32, here: u32 },
    #[error("this host's KVM does not take {value:#x} for model-specific register {index:#x}")]
    ModelSpecific { index: u32, value: u64 },
    #[error("it has stopped for good")]
    Stuck,
    #[error("it may run a guest of its own, whose state is not kept: the guest must stop its hypervisor")]
    Nested,
}

fn call(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> CpuRecordError {
    move |source| CpuRecordError::Call { call, source }
}

impl CpuRecord {
    /// That of `cpu`, which has no instruction half done; `msrs` are those that KVM has.
    pub(super) fn of(cpu: &VcpuFd, msrs: &[u32]) -> Result<Self, CpuRecordError> {
        // First, because it lets start-up signals that wait come to the rest.
        let run_state = cpu.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?;
        let system = cpu.get_sregs().map_err(call("KVM_GET_SREGS"))?;
        if may_run_guests(&system) {
            return Err(CpuRecordError::Nested);
        }
        let msrs: Vec<u32> = msrs.iter().copied().chain(UNLISTED.into_iter().flatten()).collect();
        Ok(CpuRecord {
            tsc_khz: cpu.get_tsc_khz().map_err(call("KVM_GET_TSC_KHZ"))?,
            run_state,
            general: cpu.get_regs().map_err(call("KVM_GET_REGS"))?,
            system,
            extended_control: cpu.get_xcrs().map_err(call("KVM_GET_XCRS"))?,
            debug: cpu.get_debug_regs().map_err(call("KVM_GET_DEBUGREGS"))?,
            extended: Box::new(cpu.get_xsave().map_err(call("KVM_GET_XSAVE"))?.region),
            model_specific: read_model_specific(cpu, &msrs)?,
            local_apic: cpu.get_lapic().map_err(call("KVM_GET_LAPIC"))?,
            events: cpu.get_vcpu_events().map_err(call("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Makes a CPU that has its CPUID and has not run what the recorded one was.
    pub(super) fn give(&self, cpu: &VcpuFd) -> Result<(), CpuRecordError> {
        let here = cpu.get_tsc_khz().map_err(call("KVM_GET_TSC_KHZ"))?;
        let difference = u64::from(self.tsc_khz.abs_diff(here)) * 1_000_000;
        if difference > u64::from(here) * TSC_TOLERANCE_PPM {
            return Err(CpuRecordError::Frequency { recorded: self.tsc_khz, here });
        }
        cpu.set_mp_state(self.run_state).map_err(call("KVM_SET_MP_STATE"))?;
        cpu.set_regs(&self.general).map_err(call("KVM_SET_REGS"))?;
        cpu.set_sregs(&self.system).map_err(call("KVM_SET_SREGS"))?;
        // Before what it says of the layout is used.
        cpu.set_xcrs(&self.extended_control).map_err(call("KVM_SET_XCRS"))?;
        let extended = kvm_xsave { region: *self.extended, ..Default::default() };
        // SAFETY: without features that the process asked for by arch_prctl(2), and it asks for none, KVM reads 4096 bytes.
        unsafe { cpu.set_xsave(&extended) }.map_err(call("KVM_SET_XSAVE"))?;
        cpu.set_debug_regs(&self.debug).map_err(call("KVM_SET_DEBUGREGS"))?;
        cpu.set_lapic(&self.local_apic).map_err(call("KVM_SET_LAPIC"))?;
        write_model_specific(cpu, &self.model_specific)?;
        cpu.set_vcpu_events(&self.events).map_err(call("KVM_SET_VCPU_EVENTS"))
    }
}

fn may_run_guests(system: &kvm_sregs) -> bool {
    system.efer & EFER_SVM != 0 || system.cr4 & CR4_VMX != 0
}

/// KVM reads up to the first register that this processor lacks, though its list has it.
fn read_model_specific(cpu: &VcpuFd, indexes: &[u32]) -> Result<Vec<ModelSpecific>, CpuRecordError> {
    let mut read = Vec::with_capacity(indexes.len());
    let mut rest = indexes;
    while !rest.is_empty() {
        let entries: Vec<_> =
            rest.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = messages(&entries)?;
        let count = cpu.get_msrs(&mut msrs).map_err(call("KVM_GET_MSRS"))?;
        let known = msrs.as_slice().iter().take(count);
        read.extend(known.map(|entry| ModelSpecific { index: entry.index, value: entry.data }));
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    read.sort_by_key(|register| register.index == MSR_TSC_DEADLINE);
    Ok(read)
}

/// A register that does not take its value is no loss where it has it already.
fn write_model_specific(cpu: &VcpuFd, registers: &[ModelSpecific]) -> Result<(), CpuRecordError> {
    let mut rest = registers;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|register| kvm_msr_entry {
                index: register.index,
                data: register.value,
                ..Default::default()
            })
            .collect();
        let count = cpu.set_msrs(&messages(&entries)?).map_err(call("KVM_SET_MSRS"))?;
        if let Some(&refused) = rest.get(count)
            && read_model_specific(cpu, &[refused.index])? != [refused]
        {
            let ModelSpecific { index, value } = refused;
            return Err(CpuRecordError::ModelSpecific { index, value });
        }
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    Ok(())
}

fn messages(entries: &[kvm_msr_entry]) -> Result<Msrs, CpuRecordError> {
    let too_many =
        |_| CpuRecordError::Call { call: "KVM_GET_MSRS", source: kvm_ioctls::Error::new(libc::E2BIG) };
    Msrs::from_entries(entries).map_err(too_many)
}

impl Record for ModelSpecific {
    fn encode(&self, to: &mut Encoder) {
        to.u32(self.index);
        to.u64(self.value);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        const WHAT: &str = "a model-specific register";
        Ok(ModelSpecific { index: from.u32(WHAT)?, value: from.u64(WHAT)? })
    }
}

impl Record for CpuRecord {
    fn encode(&self, to: &mut Encoder) {
        to.u32(self.tsc_khz);
        to.structure(&self.run_state);
        to.structure(&self.general);
        to.structure(&self.system);
        to.structure(&self.extended_control);
        to.structure(&self.debug);
        to.structure(&self.events);
        to.structure(&self.local_apic);
        self.extended.iter().for_each(|&word| to.u32(word));
        to.list(&self.model_specific);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, FormatError> {
        let tsc_khz = from.u32("a CPU's frequency")?;
        let (run_state, general, system) = (from.structure()?, from.structure()?, from.structure()?);
        let (extended_control, debug) = (from.structure()?, from.structure()?);
        let (events, local_apic) = (from.structure()?, from.structure()?);
        let mut extended = Box::new([0; XSAVE_WORDS]);
        for word in extended.iter_mut() {
            *word = from.u32("a CPU's extended state")?;
        }
        let model_specific = from.list(MSRS_MAX, "the number of model-specific registers")?;
        Ok(CpuRecord {
            tsc_khz,
            run_state,
            general,
            system,
            extended_control,
            debug,
            events,
            local_apic,
            extended,
            model_specific,
        })
    }
}

#[cfg(test)]
impl CpuRecord {
    /// Without what time changes: the time stamp counter, and what is left of the local APIC's timer.
    pub(crate) fn timeless(mut self) -> Self {
        const MSR_TSC: u32 = 0x10;
        const TIMER_LEFT: usize = 0x390;
        self.model_specific.retain(|register| register.index != MSR_TSC);
        self.local_apic.regs[TIMER_LEFT..TIMER_LEFT + 4].fill(0);
        self
    }

    /// What it has of a model-specific register.
    pub(crate) fn model_specific(&self, index: u32) -> Option<u64> {
        self.model_specific.iter().find(|register| register.index == index).map(|register| register.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_with_guests_is_known_on_either_makers_processors() {
        let system = kvm_sregs::default();
        assert!(!may_run_guests(&system));
        assert!(may_run_guests(&kvm_sregs { efer: EFER_SVM, ..system }));
        assert!(may_run_guests(&kvm_sregs { cr4: CR4_VMX, ..system }));
    }
}
