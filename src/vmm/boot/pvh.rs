//! The PVH boot protocol (xen/include/public/arch-x86/hvm/start_info.h).

use super::{BootError, COMMAND_LINE, Extent, memory_map, write};
use crate::cpu::Entry;
use crate::firmware;
use crate::memory::GuestRam;

const START_INFO: u32 = 0x6000;
const MODULES: u64 = 0x6040;
const MEMORY_MAP: u64 = 0x6080;
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

pub(super) fn write_start_info(
    ram: &GuestRam,
    entry: u32,
    initrd: Option<Extent>,
) -> Result<Entry, BootError> {
    let map = memory_map(ram);
    let mut entries = Vec::new();
    for (extent, kind) in &map {
        entries.extend(extent.address.to_le_bytes());
        entries.extend(extent.bytes.to_le_bytes());
        entries.extend(kind.to_le_bytes());
        entries.extend([0; 4]);
    }
    write(ram, "memory map", MEMORY_MAP, &entries)?;

    let mut modules = Vec::new();
    if let Some(initrd) = initrd {
        // Address, size, command line, reserved.
        modules.extend([initrd.address, initrd.bytes, 0, 0].into_iter().flat_map(u64::to_le_bytes));
    }
    write(ram, "module list", MODULES, &modules)?;

    let mut info = Vec::new();
    info.extend([MAGIC, VERSION, 0, u32::from(initrd.is_some())].into_iter().flat_map(u32::to_le_bytes));
    info.extend([MODULES, COMMAND_LINE, firmware::RSDP, MEMORY_MAP].into_iter().flat_map(u64::to_le_bytes));
    info.extend(u32::try_from(map.len()).unwrap_or(0).to_le_bytes());
    info.extend([0; 4]);
    write(ram, "start info", START_INFO.into(), &info)?;
    Ok(Entry::Pvh { address: entry, start_info: START_INFO })
}
