//! What this machine's KVM can do, found out by trying it: for `nimbo doctor`.
//!
//! There are KVMs without VT-x or SVM, based on page tables. They answer every capability as the others do and run
//! user mode natively, but emulate each kernel-mode instruction at about a microsecond, and a stock kernel does not
//! finish unpacking itself there. Only the clock tells them apart, so [`kernel_loop_ns`] runs a loop of kernel code
//! in a throw-away VM of one page table and one vCPU, with no devices:
//!
//! ```text
//! 0x1000 PML4 ─▶ 0x2000 PDPT ─▶ 0x3000 PD: one 2 MiB page, identity    0x4000 code    0x5000 counter
//! ```

use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const RAM_BYTES: usize = 0x8000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x4000;
const COUNTER: u64 = 0x5000;

/// Counts [`COUNTER`] up and RCX down until RCX is zero. The memory operand is what makes an iteration take the
/// few nanoseconds of a store that is loaded again, and an emulator walk the page tables.
const LOOP: [u8; 14] = [
    0x48, 0xff, 0x04, 0x25, 0x00, 0x50, 0x00, 0x00, // incq  0x5000
    0x48, 0xff, 0xc9, //                               decq  %rcx
    0x75, 0xf3, //                                     jnz   to the start
    0xf4, //                                           hlt
];

/// The first run is this long, and each run after it ten times the one before.
const ITERATIONS_FIRST: u64 = 100;
/// A run as long as this has told enough: entering and leaving the VM is a small part of it.
const RUN_ENOUGH: Duration = Duration::from_millis(10);
/// Reached in less than [`RUN_ENOUGH`] only by a CPU that is faster than any.
const ITERATIONS_MAX: u64 = 100_000_000;

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot open /dev/kvm")]
    Open { source: io::Error },
    #[error("KVM speaks version {found} of its interface, not {KVM_API_VERSION}")]
    ApiVersion { found: i32 },
    #[error("cannot {operation}")]
    Kvm { operation: &'static str, source: kvm_ioctls::Error },
    #[error("cannot lay out the probe's memory: {reason}")]
    Memory { reason: String },
    #[error("the probe's vCPU stopped with {exit} after {counted} of {iterations} iterations")]
    Stopped { exit: String, counted: u64, iterations: u64 },
}

fn open() -> Result<Kvm, ProbeError> {
    let kvm = Kvm::new().map_err(|e| ProbeError::Open { source: e.into() })?;
    let found = kvm.get_api_version();
    if u32::try_from(found) != Ok(KVM_API_VERSION) {
        return Err(ProbeError::ApiVersion { found });
    }
    Ok(kvm)
}

/// The capabilities that a microVM needs and this machine's KVM lacks, by name; none on a machine that will do.
///
/// # Errors
/// [`ProbeError`] when KVM cannot be opened at all, or speaks another version of its interface.
pub fn missing_capabilities() -> Result<Vec<&'static str>, ProbeError> {
    let kvm = open()?;
    Ok(crate::kvm::missing_capabilities(&kvm).collect())
}

/// Nanoseconds that one iteration of a loop of long-mode kernel code takes: about 5 on hardware, some tens in a
/// KVM whose own machine is emulated, over 1,000 where kernel mode is emulated instruction by instruction.
///
/// Takes some ten milliseconds, and a tenth of a second at the most unless an iteration takes more than 100 µs.
///
/// # Errors
/// [`ProbeError`] when a VM cannot be made, or its vCPU does not run the loop to its end.
pub fn kernel_loop_ns() -> Result<f64, ProbeError> {
    let kvm = open()?;
    let ram = lay_out_memory().map_err(|reason| ProbeError::Memory { reason })?;
    let vm = kvm.create_vm().map_err(failed("create a VM"))?;
    let host_address =
        ram.get_host_address(GuestAddress(0)).map_err(|e| ProbeError::Memory { reason: e.to_string() })?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: RAM_BYTES as u64,
        userspace_addr: host_address as u64,
    };
    // SAFETY: the range is exactly the mapping that `ram` owns, and `ram` outlives `vm`, which is declared after it.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("give the VM its memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("create a vCPU"))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("read the supported CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(failed("set the vCPU's CPUID"))?;
    enter_long_mode(&vcpu)?;

    let mut iterations = ITERATIONS_FIRST;
    loop {
        let took = run_loop(&mut vcpu, &ram, iterations)?;
        if took >= RUN_ENOUGH || iterations >= ITERATIONS_MAX {
            return Ok(took.as_secs_f64() * 1e9 / iterations as f64);
        }
        iterations *= 10;
    }
}

fn failed(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> ProbeError {
    move |source| ProbeError::Kvm { operation, source }
}

fn lay_out_memory() -> Result<GuestMemoryMmap<()>, String> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE_PAGE: u64 = 1 << 7;
    let ram =
        GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).map_err(|e| e.to_string())?;
    for (table, entry) in
        [(PML4, PDPT | PRESENT_WRITABLE), (PDPT, PD | PRESENT_WRITABLE), (PD, LARGE_PAGE | PRESENT_WRITABLE)]
    {
        ram.write_obj(entry, GuestAddress(table)).map_err(|e| e.to_string())?;
    }
    ram.write_slice(&LOOP, GuestAddress(CODE)).map_err(|e| e.to_string())?;
    Ok(ram)
}

/// Intel SDM volume 3, 4.5: PAE, a page table, and EFER's LME and LMA make long mode; ring 0 by the segments' DPL.
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), ProbeError> {
    const CR0_PROTECTED_AND_PAGING: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME_LMA: u64 = 1 << 10 | 1 << 8;
    const CODE_EXECUTE_READ: u8 = 0b1011;
    const DATA_READ_WRITE: u8 = 0b0011;
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    let code = kvm_segment { type_: CODE_EXECUTE_READ, selector: 0x08, l: 1, ..flat };
    let data = kvm_segment { type_: DATA_READ_WRITE, selector: 0x10, db: 1, ..flat };

    let mut sregs = vcpu.get_sregs().map_err(failed("read the vCPU's system registers"))?;
    (sregs.cs, sregs.ds, sregs.es, sregs.ss) = (code, data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.cr0 = CR0_PROTECTED_AND_PAGING;
    sregs.cr3 = PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME_LMA;
    vcpu.set_sregs(&sregs).map_err(failed("put the vCPU into long mode"))
}

/// Runs the loop once, and makes sure that it really ran.
fn run_loop(vcpu: &mut VcpuFd, ram: &GuestMemoryMmap<()>, iterations: u64) -> Result<Duration, ProbeError> {
    const RFLAGS_RESERVED: u64 = 1 << 1;
    let memory = |e: vm_memory::GuestMemoryError| ProbeError::Memory { reason: e.to_string() };
    ram.write_obj(0u64, GuestAddress(COUNTER)).map_err(memory)?;
    let regs = kvm_regs { rip: CODE, rcx: iterations, rflags: RFLAGS_RESERVED, ..Default::default() };
    vcpu.set_regs(&regs).map_err(failed("set the vCPU's registers"))?;
    let start = Instant::now();
    let exit = loop {
        match vcpu.run() {
            // A signal, or a KVM that lets go of the CPU now and then: not the loop's end.
            Err(e) if [libc::EINTR, libc::EAGAIN].contains(&e.errno()) => {}
            Err(source) => return Err(ProbeError::Kvm { operation: "run the vCPU", source }),
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
            Ok(exit) => break exit,
        }
    };
    let took = start.elapsed();
    let halted = matches!(exit, VcpuExit::Hlt);
    let exit = format!("{exit:?}");
    let counted: u64 = ram.read_obj(GuestAddress(COUNTER)).map_err(memory)?;
    if !halted || counted != iterations {
        return Err(ProbeError::Stopped { exit, counted, iterations });
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_kvm_runs_the_loop_and_an_iteration_takes_some_time() {
        assert_eq!(missing_capabilities().unwrap(), Vec::<&str>::new());
        let ns = kernel_loop_ns().unwrap();
        assert!((0.1..1e6).contains(&ns), "{ns} ns");
    }
}
