//! Linux's 64-bit boot protocol, for a bzImage that unpacks itself (Linux, Documentation/arch/x86/boot.rst).

use super::bzimage::Setup;
use super::{BootError, COMMAND_LINE, Extent, PAGE_BYTES, memory_map, mib, ram_mib, write};
use crate::cpu::Entry;
use crate::firmware;
use crate::kvm::low_half;
use crate::memory::{GuestRam, HIGH_RAM_START};

const BOOT_PARAMS: u64 = 0x7000;
const STACK: u64 = 0x9000;
const PAGE_TABLE: u64 = 0x9000;
/// The 64-bit entry point, from the load address.
const ENTRY: u64 = 0x200;

/// Offsets in the boot parameters (Linux, Documentation/arch/x86/zero-page.rst).
mod field {
    pub(super) const RSDP: usize = 0x070;
    pub(super) const MAP_ENTRIES: usize = 0x1e8;
    /// The setup header stands where it stands in the file.
    pub(super) const HEADER: usize = 0x1f1;
    pub(super) const HEADER_END: usize = 0x290;
    /// The loader's number, and behind it the flags.
    pub(super) const LOADER: usize = 0x210;
    pub(super) const INITRD_ADDRESS: usize = 0x218;
    pub(super) const INITRD_BYTES: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const MAP: usize = 0x2d0;
}

/// A loader that has no number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
/// Page table entries: present and writable; a huge page.
const PRESENT_WRITABLE: u64 = 3;
const HUGE: u64 = 1 << 7;

/// Puts the part that is loaded to 1 MiB; returns where the memory that it needs ends.
pub(super) fn load_kernel(ram: &GuestRam, kernel: &[u8], setup: &Setup) -> Result<u64, BootError> {
    if !setup.has_64_bit_entry {
        return Err(BootError::No64Bit);
    }
    let body = kernel.get(setup.body..).unwrap_or_default();
    let end = HIGH_RAM_START + u64::from(setup.init_size).max(body.len() as u64);
    if end > super::low_ram_end(ram) {
        return Err(BootError::Memory { what: "kernel", need_mib: mib(end), ram_mib: ram_mib(ram) });
    }
    write(ram, "kernel", HIGH_RAM_START, body)?;
    Ok(end)
}

pub(super) fn write_boot_params(
    ram: &GuestRam,
    kernel: &[u8],
    setup: &Setup,
    initrd: Option<Extent>,
) -> Result<Entry, BootError> {
    let short = BootError::Truncated { bytes: kernel.len(), expected: setup.body };
    let header = kernel.get(field::HEADER..field::HEADER_END).ok_or(short)?;
    let mut page = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(field::HEADER, header);
    put(field::RSDP, &firmware::RSDP.to_le_bytes());
    put(field::LOADER, &[LOADER_UNDEFINED, LOADED_HIGH]);
    put(field::COMMAND_LINE, &low_half(COMMAND_LINE).to_le_bytes());
    if let Some(initrd) = initrd {
        put(field::INITRD_ADDRESS, &low_half(initrd.address).to_le_bytes());
        put(field::INITRD_BYTES, &low_half(initrd.bytes).to_le_bytes());
    }
    let map = memory_map(ram);
    put(field::MAP_ENTRIES, &[u8::try_from(map.len()).unwrap_or(0)]);
    for (index, (extent, kind)) in map.iter().enumerate() {
        let at = field::MAP + index * 20;
        put(at, &extent.address.to_le_bytes());
        put(at + 8, &extent.bytes.to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    write(ram, "boot parameters", BOOT_PARAMS, &page)?;
    write_page_tables(ram)?;
    Ok(Entry::Linux64 {
        address: HIGH_RAM_START + ENTRY,
        boot_params: BOOT_PARAMS,
        page_table: PAGE_TABLE,
        stack: STACK,
    })
}

/// Four levels: one entry, four entries, and four tables of huge pages map the low 4 GiB to themselves.
fn write_page_tables(ram: &GuestRam) -> Result<(), BootError> {
    let upper = PAGE_TABLE + PAGE_BYTES;
    let first = upper + PAGE_BYTES;
    write(ram, "page tables", PAGE_TABLE, &(upper | PRESENT_WRITABLE).to_le_bytes())?;
    let tables: Vec<u8> =
        (0..4).flat_map(|index| ((first + index * PAGE_BYTES) | PRESENT_WRITABLE).to_le_bytes()).collect();
    write(ram, "page tables", upper, &tables)?;
    let pages: Vec<u8> =
        (0..2048u64).flat_map(|index| (index << 21 | PRESENT_WRITABLE | HUGE).to_le_bytes()).collect();
    write(ram, "page tables", first, &pages)
}
