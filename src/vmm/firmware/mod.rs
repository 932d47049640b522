//! What a firmware would have left in memory: ACPI tables, SMBIOS structures, the VM generation id.
//!
//! ```text
//! 0xe0000  RSDP, then XSDT, FADT, MADT, MCFG, FACS, DSDT
//! 0xef000  VM generation id, 16 bytes
//! 0xf0000  SMBIOS entry point, then the structures
//! 0xffff0  the reset vector: code that resets the machine
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

use crate::memory::{GuestRam, HIGH_RAM_START, TABLES_START};
use crate::platform::{RESET_PORT, RESET_VALUE};

const GENERATION_ID: u64 = 0xe_f000;
const SMBIOS: u64 = 0xf_0000;
const RESET_VECTOR: u64 = 0xf_fff0;

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
    place(ram, "SMBIOS structures", SMBIOS, RESET_VECTOR, &smbios::tables(identity, SMBIOS))?;
    place(ram, "reset vector", RESET_VECTOR, HIGH_RAM_START, &reset_code())
}

/// What stands where a PC's processor begins, in real mode. Linux on a hardware-reduced platform without EFI reboots
/// by jumping there (`machine_real_restart`), and never asks for ACPI's reset register.
fn reset_code() -> [u8; 10] {
    let [port_low, port_high] = RESET_PORT.to_le_bytes();
    // mov al, RESET_VALUE; mov dl, low; mov dh, high; out dx, al; hlt; jmp to the hlt: the same in 16 and 32 bits
    [0xb0, RESET_VALUE, 0xb2, port_low, 0xb6, port_high, 0xee, 0xf4, 0xeb, 0xfd]
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
