//! What a firmware would have left in memory: ACPI tables, SMBIOS structures, the VM generation id.
//!
//! ```text
//! 0xe0000  RSDP, then XSDT, FADT, MADT, MCFG, FACS, DSDT
//! 0xef000  VM generation id, 16 bytes
//! 0xf0000  SMBIOS entry point, then the structures
//! ```
//! All of it lies between [`memory::TABLES_START`](crate::memory::TABLES_START) and 1 MiB, which the memory map reserves:
//! kernels look for the anchors there.

mod acpi;
mod dsdt;
mod smbios;
#[cfg(test)]
mod tests;

use vm_memory::{Bytes, GuestAddress};

pub use smbios::SystemIdentity;

use crate::memory::{GuestRam, TABLES_START};

const GENERATION_ID: u64 = 0xe_f000;
const SMBIOS: u64 = 0xf_0000;

/// Where the RSDP stands, for the boot protocols that hand it over.
pub const RSDP: u64 = TABLES_START;

#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    #[error("the {what} of {bytes} bytes do not fit at guest address {address:#x}")]
    Room { what: &'static str, bytes: usize, address: u64 },
    #[error("cannot write the {what} at guest address {address:#x}")]
    Write { what: &'static str, address: u64, source: vm_memory::GuestMemoryError },
}

/// Writes everything for a machine of `cpus` CPUs. `generation` is new whenever the guest is a copy of another.
///
/// # Errors
/// [`FirmwareError`] when the tables do not fit, which no supported number of CPUs leads to.
pub fn write(
    ram: &GuestRam,
    cpus: u8,
    identity: &SystemIdentity,
    generation: u128,
) -> Result<(), FirmwareError> {
    place(ram, "ACPI tables", TABLES_START, GENERATION_ID, &acpi::tables(cpus, TABLES_START, GENERATION_ID))?;
    place(ram, "VM generation id", GENERATION_ID, SMBIOS, &generation.to_le_bytes())?;
    place(ram, "SMBIOS structures", SMBIOS, crate::memory::HIGH_RAM_START, &smbios::tables(identity, SMBIOS))
}

fn place(
    ram: &GuestRam,
    what: &'static str,
    address: u64,
    end: u64,
    bytes: &[u8],
) -> Result<(), FirmwareError> {
    if address + bytes.len() as u64 > end {
        return Err(FirmwareError::Room { what, bytes: bytes.len(), address });
    }
    ram.write_slice(bytes, GuestAddress(address)).map_err(|source| FirmwareError::Write {
        what,
        address,
        source,
    })
}
