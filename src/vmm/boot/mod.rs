//! From a kernel, an initrd and a command line to a guest that is ready to run its first instruction.
//!
//! ```text
//! 0x06000  PVH start info, module list, memory map   ─┐ one or
//! 0x07000  Linux boot parameters (the zero page)      │ the other
//! 0x08000  stack, below 0x9000                        │
//! 0x09000  page tables: low 4 GiB mapped to itself   ─┘
//! 0x20000  command line
//! 1 MiB    the kernel, where it wants to be; the initrd ends where RAM below the hole ends
//! ```
//!
//! A file is read from where it lies straight into the guest's memory: a kernel's 50 MiB go through no buffer of ours, whose
//! pages would cost more than the reading.
//!
//! An ELF kernel is entered by PVH. A bzImage is unpacked here, where memory is cheap and the processor is not emulated,
//! and then entered by PVH as well; when it cannot be, it is entered by Linux's 64-bit protocol and unpacks itself.

mod bzimage;
pub mod disk;
mod elf;
mod linux;
mod load;
mod pvh;
mod source;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use source::KernelFiles;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use self::load::Plan;
use crate::cpu::Entry;
use crate::memory::{
    ECAM_BYTES, ECAM_START, GuestRam, HIGH_RAM_START, HOLE_START, LOW_RAM_END, TABLES_START,
};

const COMMAND_LINE: u64 = 0x2_0000;
/// Linux on x86 takes 2,048 bytes with the terminating zero (`COMMAND_LINE_SIZE`).
const COMMAND_LINE_BYTES_MAX: usize = 2047;
const PAGE_BYTES: u64 = 4096;

/// A file that is loaded, wherever it lies. Several threads read it at the same time.
pub trait BootFile: Sync {
    fn size_bytes(&self) -> u64;

    /// Fills `into` from `offset` on, within the size.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadError>;
}

/// Why a file could not be read, in words for the operator.
pub type ReadError = Box<dyn std::error::Error + Send + Sync>;

/// A file that is in memory.
impl BootFile for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let start = usize::try_from(offset)?;
        let part = self.get(start..).and_then(|rest| rest.get(..into.len())).ok_or("beyond the end")?;
        into.copy_from_slice(part);
        Ok(())
    }
}

/// What a guest boots.
pub struct BootImage {
    /// An ELF file or a bzImage.
    pub kernel: Box<dyn BootFile>,
    /// Archives, loaded one behind the other.
    pub initrds: Vec<Box<dyn BootFile>>,
    pub command_line: String,
}

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("the kernel is neither an ELF file nor a Linux bzImage: it begins with {start:02x?}")]
    Unknown { start: Vec<u8> },
    #[error("the kernel is for {found}; this machine runs x86-64 kernels")]
    Architecture { found: String },
    #[error("the kernel is cut short: {bytes} bytes are there, {expected} are expected")]
    Truncated { bytes: usize, expected: usize },
    #[error("the ELF kernel has no PVH entry point (for Linux: CONFIG_PVH)")]
    NoPvh,
    #[error("the ELF kernel's {part} is broken")]
    Elf { part: &'static str },
    #[error("cannot read the {what}")]
    Read { what: &'static str, source: ReadError },
    #[error("the {what} of {need_mib} MiB does not fit into {ram_mib} MiB of memory; give the guest more")]
    Memory { what: &'static str, need_mib: u64, ram_mib: u64 },
    #[error("the bzImage has no 64-bit entry point")]
    No64Bit,
    #[error("the command line has {bytes} bytes; Linux takes {COMMAND_LINE_BYTES_MAX}")]
    CommandLine { bytes: usize },
    #[error("cannot write the {what} at guest address {address:#x}")]
    Write { what: &'static str, address: u64, source: vm_memory::GuestMemoryError },
}

/// Puts `image` into `ram` and says how to enter it.
///
/// # Errors
/// [`BootError`], which tells what is wrong with the kernel or that memory is too small.
pub fn load(ram: &GuestRam, image: &BootImage) -> Result<Entry, BootError> {
    write_command_line(ram, &image.command_line)?;
    let kernel = &*image.kernel;
    match kind(kernel)? {
        Kind::Elf => enter_by_pvh(ram, kernel, &image.initrds),
        Kind::BzImage => boot_bzimage(ram, read_all("kernel", kernel)?, &image.initrds),
    }
}

fn enter_by_pvh(
    ram: &GuestRam,
    elf: &dyn BootFile,
    initrds: &[Box<dyn BootFile>],
) -> Result<Entry, BootError> {
    let mut plan = Plan::new(ram);
    let kernel = elf::plan(ram, elf, &mut plan)?;
    let initrd = plan_initrds(ram, initrds, kernel.end, &mut plan)?;
    plan.run()?;
    pvh::write_start_info(ram, kernel.entry, initrd)
}

fn boot_bzimage(ram: &GuestRam, kernel: Vec<u8>, initrds: &[Box<dyn BootFile>]) -> Result<Entry, BootError> {
    let setup = bzimage::Setup::parse(&kernel)?;
    if let Some(elf) = setup.unpack(&kernel) {
        match enter_by_pvh(ram, &elf, initrds) {
            Err(BootError::NoPvh) => {}
            outcome => return outcome,
        }
    }
    let end = linux::load_kernel(ram, &kernel, &setup)?;
    let mut plan = Plan::new(ram);
    let initrd = plan_initrds(ram, initrds, end, &mut plan)?;
    plan.run()?;
    linux::write_boot_params(ram, &kernel, &setup, initrd)
}

/// A stretch of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    address: u64,
    bytes: u64,
}

enum Kind {
    Elf,
    BzImage,
}

/// Offsets and magic numbers that tell files apart.
const ELF_MACHINE: usize = 18;
const ELF_X86_64: u16 = 62;
/// "ARMd" at offset 56 of an arm64 Image, "RSC\x05" of a RISC-V one.
const IMAGE_MAGIC: usize = 56;
/// Both are often packed: x86's kernels are never a gzip file nor one that EFI unpacks (Linux, drivers/firmware/efi/libstub/zboot-header.S).
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZBOOT: &[u8] = b"MZ\0\0zimg";

fn kind(file: &dyn BootFile) -> Result<Kind, BootError> {
    let kernel = &read_part("kernel", file, 0, file.size_bytes().min(HEAD_BYTES))?;
    if kernel.starts_with(b"\x7fELF") {
        let machine =
            kernel.get(ELF_MACHINE..ELF_MACHINE + 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
        return match machine {
            Some(ELF_X86_64) => Ok(Kind::Elf),
            Some(183) => Err(BootError::Architecture { found: "arm64".into() }),
            Some(243) => Err(BootError::Architecture { found: "RISC-V".into() }),
            Some(3) => Err(BootError::Architecture { found: "32-bit x86".into() }),
            Some(other) => Err(BootError::Architecture { found: format!("ELF machine {other}") }),
            None => Err(BootError::Truncated { bytes: kernel.len(), expected: 64 }),
        };
    }
    if bzimage::is_one(kernel) {
        return Ok(Kind::BzImage);
    }
    if kernel.starts_with(GZIP) || kernel.starts_with(ZBOOT) {
        return Err(BootError::Architecture { found: "arm64 or RISC-V (it is a packed Image)".into() });
    }
    match kernel.get(IMAGE_MAGIC..IMAGE_MAGIC + 4) {
        Some(b"ARMd") => Err(BootError::Architecture { found: "arm64".into() }),
        Some(b"RSC\x05") => Err(BootError::Architecture { found: "RISC-V".into() }),
        _ => Err(BootError::Unknown { start: kernel.iter().take(8).copied().collect() }),
    }
}

/// Enough to tell what a file is.
const HEAD_BYTES: u64 = 1024;
/// No kernel or initrd is larger; a file that is must be something else.
const FILE_BYTES_MAX: u64 = 1 << 30;

fn read_part(what: &'static str, file: &dyn BootFile, offset: u64, bytes: u64) -> Result<Vec<u8>, BootError> {
    let mut part = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    file.read_at(offset, &mut part).map_err(|source| BootError::Read { what, source })?;
    Ok(part)
}

fn read_all(what: &'static str, file: &dyn BootFile) -> Result<Vec<u8>, BootError> {
    match file.size_bytes() {
        bytes if bytes > FILE_BYTES_MAX => {
            Err(BootError::Read { what, source: format!("{bytes} bytes are more than any has").into() })
        }
        bytes => read_part(what, file, 0, bytes),
    }
}

fn write_command_line(ram: &GuestRam, line: &str) -> Result<(), BootError> {
    if line.len() > COMMAND_LINE_BYTES_MAX {
        return Err(BootError::CommandLine { bytes: line.len() });
    }
    let bytes: Vec<u8> = line.bytes().chain([0]).collect();
    write(ram, "command line", COMMAND_LINE, &bytes)
}

/// Puts the initrds at the end of the RAM below the hole, above the kernel that ends at `kernel_end`. Each begins at a
/// multiple of four, as the kernel wants it (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
fn plan_initrds<'a>(
    ram: &GuestRam,
    initrds: &'a [Box<dyn BootFile>],
    kernel_end: u64,
    plan: &mut Plan<'a>,
) -> Result<Option<Extent>, BootError> {
    let places = initrds.iter().scan(0u64, |end, file| {
        let start = end.next_multiple_of(4);
        *end = start.saturating_add(file.size_bytes().min(FILE_BYTES_MAX));
        Some((start, *end))
    });
    let places: Vec<(u64, u64)> = places.collect();
    let Some(&(_, bytes)) = places.last().filter(|(_, end)| *end > 0) else { return Ok(None) };
    let start = low_ram_end(ram).checked_sub(bytes).map(|start| start - start % PAGE_BYTES);
    let address = start.filter(|start| *start >= kernel_end).ok_or(BootError::Memory {
        what: "initrd, with the kernel,",
        need_mib: mib(bytes + kernel_end),
        ram_mib: ram_mib(ram),
    })?;
    for (file, (start, end)) in initrds.iter().zip(places) {
        let is_planned = plan.add("initrd", &**file, 0, address + start, end - start)?;
        debug_assert!(is_planned, "initrds follow one another, above the kernel");
    }
    Ok(Some(Extent { address, bytes }))
}

fn write(ram: &GuestRam, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    ram.write_slice(bytes, GuestAddress(address)).map_err(|source| BootError::Write { what, address, source })
}

/// Where RAM below the hole ends.
fn low_ram_end(ram: &GuestRam) -> u64 {
    ram.iter().map(|region| region.len()).next().unwrap_or(0).min(HOLE_START)
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn ram_mib(ram: &GuestRam) -> u64 {
    mib(ram.iter().map(|region| region.len()).sum())
}

/// Types of the memory map, the same in both protocols.
const MAP_RAM: u32 = 1;
const MAP_RESERVED: u32 = 2;

/// What the guest may use as memory, and what it may not touch.
fn memory_map(ram: &GuestRam) -> Vec<(Extent, u32)> {
    use vm_memory::Address;
    let extent = |start: u64, end: u64| Extent { address: start, bytes: end - start };
    let mut map = vec![
        (extent(0, LOW_RAM_END), MAP_RAM),
        (extent(TABLES_START, HIGH_RAM_START), MAP_RESERVED),
        (extent(HIGH_RAM_START, low_ram_end(ram)), MAP_RAM),
        (extent(ECAM_START, ECAM_START + ECAM_BYTES), MAP_RESERVED),
    ];
    let high = ram
        .iter()
        .skip(1)
        .map(|region| Extent { address: region.start_addr().raw_value(), bytes: region.len() });
    map.extend(high.map(|extent| (extent, MAP_RAM)));
    map
}
