//! ACPI tables of a hardware-reduced platform (ACPI 6.5, 4.1): no SCI, no PM timer, no PIT, no PIC. A kernel that reads
//! this looks for none of them, which is a good part of a fast boot.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::dsdt;
use crate::kvm::low_half;
use crate::memory::{ECAM_START, IO_APIC_START, LOCAL_APIC_START};
use crate::platform::{CENTURY_REGISTER, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT};

pub(super) const OEM: [u8; 6] = *b"NIMBO ";
pub(super) const OEM_TABLE: [u8; 8] = *b"NIMBOVM ";
pub(super) const OEM_REVISION: u32 = 1;

/// No VGA is there to be probed (FADT boot flags, bit 2).
const NO_VGA: u16 = 1 << 2;

/// All tables, to be placed at `base`, the RSDP first.
pub(super) fn tables(cpus: u8, base: u64, generation_id: u64) -> Vec<u8> {
    let dsdt = dsdt::table(cpus, generation_id);
    let madt = bytes_of(&madt(cpus));
    let mcfg = bytes_of(&mcfg());

    // The RSDP names the XSDT, which names the others: place the others first.
    let mut placed = Vec::new();
    let rsdp_room = Rsdp::len().next_multiple_of(16) as u64;
    let mut put = |table: &[u8]| {
        let address = base + rsdp_room + placed.len() as u64;
        placed.extend_from_slice(table);
        placed.resize(placed.len().next_multiple_of(16), 0);
        address
    };
    let dsdt = put(&dsdt);
    let fadt = put(&bytes_of(&fadt(dsdt)));
    let (madt, mcfg) = (put(&madt), put(&mcfg));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    [fadt, madt, mcfg].into_iter().for_each(|table| xsdt.add_entry(table));
    let xsdt = put(&bytes_of(&xsdt));

    let mut all = bytes_of(&Rsdp::new(OEM, xsdt));
    all.resize(all.len().next_multiple_of(16), 0);
    all.extend(placed);
    all
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let port =
        |address: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(address));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = NO_VGA.into();
    fadt.century = CENTURY_REGISTER;
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let local = LocalInterruptController::Address(low_half(LOCAL_APIC_START));
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, local);
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, low_half(IO_APIC_START), 0));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(ECAM_START, 0, 0, 0);
    mcfg
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
