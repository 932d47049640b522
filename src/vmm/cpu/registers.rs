//! A CPU's registers when the guest begins, as the boot protocols want them.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

/// How the boot CPU enters the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// PVH: 32-bit protected mode without paging; `ebx` points to the start info
    /// (xen/docs/misc/pvh.pandoc).
    Pvh { address: u32, start_info: u32 },
    /// Linux's 64-bit boot protocol: long mode, low memory mapped to itself; `rsi` points to the boot parameters
    /// (Linux, Documentation/arch/x86/boot.rst).
    Linux64 { address: u64, boot_params: u64, page_table: u64, stack: u64 },
}

/// Control register bits.
const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_ENABLE: u64 = 1 << 8;
const EFER_LONG_ACTIVE: u64 = 1 << 10;
/// Reserved, always set.
const RFLAGS: u64 = 2;

/// Selectors of Linux's boot protocol; PVH cares only for the hidden parts.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// Model-specific registers.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
/// Range registers on, what they do not cover is write-back.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

pub(super) fn set_entry(cpu: &VcpuFd, entry: Entry) -> Result<(), kvm_ioctls::Error> {
    let mut system = cpu.get_sregs()?;
    let general = match entry {
        Entry::Pvh { address, start_info } => {
            flat_segments(&mut system, false);
            system.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
            (system.cr4, system.efer) = (0, 0);
            kvm_regs { rip: address.into(), rbx: start_info.into(), rflags: RFLAGS, ..Default::default() }
        }
        Entry::Linux64 { address, boot_params, page_table, stack } => {
            flat_segments(&mut system, true);
            system.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
            (system.cr3, system.cr4) = (page_table, CR4_PHYSICAL_ADDRESS_EXTENSION);
            system.efer = EFER_LONG_ENABLE | EFER_LONG_ACTIVE;
            kvm_regs {
                rip: address,
                rsi: boot_params,
                rsp: stack,
                rbp: stack,
                rflags: RFLAGS,
                ..Default::default()
            }
        }
    };
    cpu.set_sregs(&system)?;
    cpu.set_regs(&general)
}

pub(super) fn set_model_specific(cpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entries = [(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING), (MSR_MTRR_DEFAULT, MTRR_ENABLED_WRITE_BACK)]
        .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    // A host that does not know one of them leaves it at its reset value, which is sound too.
    cpu.set_msrs(&msrs).map(|_| ())
}

fn flat_segments(system: &mut kvm_sregs, long: bool) {
    let flat = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: DATA,
        type_: 3,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment { selector: CODE, type_: 11, db: u8::from(!long), l: u8::from(long), ..flat };
    let task = kvm_segment { selector: TASK, limit: 0x67, type_: 11, s: 0, db: 0, g: 0, ..flat };
    system.cs = code;
    (system.ds, system.es, system.fs, system.gs, system.ss) = (flat, flat, flat, flat, flat);
    system.tr = task;
}
