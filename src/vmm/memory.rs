//! The guest's physical address map, and its RAM.
//!
//! ```text
//! 0x0000_0000_0000  RAM: zero page, boot stack and tables, kernel, initrd          (see `boot`)
//! 0x0000_000a_0000  hole: no VGA
//! 0x0000_000e_0000  ACPI and SMBIOS tables, reserved
//! 0x0000_0010_0000  RAM
//! 0x0000_c000_0000  PCI memory window: the BARs                                    to 0xdfff_ffff
//! 0x0000_e000_0000  PCI ECAM, one bus, 1 MiB
//! 0x0000_fec0_0000  I/O APIC   0xfee0_0000 local APIC   0xfffb_c000 KVM's own pages
//! 0x0001_0000_0000  RAM beyond 3 GiB
//! ```
//!
//! RAM is aligned to 2 MiB and advised to be huge; the host gives a page when it is first touched. It is private anonymous memory, or, for
//! a guest with devices that other processes serve, a nameless file that they map as well. Hosts make the latter of huge pages only where
//! `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says `advise` or more, so it is not the rule.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// The guest's RAM.
pub type GuestRam = GuestMemoryMmap<()>;
/// The guest's RAM, shared by the threads that touch it.
pub type Memory = Arc<GuestRam>;

/// Where RAM stops below 4 GiB and the devices begin.
pub const HOLE_START: u64 = 0xc000_0000;
/// Where RAM goes on.
pub const HOLE_END: u64 = 1 << 32;
/// PCI BARs live here.
pub const PCI_WINDOW_START: u64 = 0xc000_0000;
pub const PCI_WINDOW_END: u64 = 0xe000_0000;
/// The enhanced configuration access mechanism of bus 0.
pub const ECAM_START: u64 = 0xe000_0000;
pub const ECAM_BYTES: u64 = 1 << 20;
pub const IO_APIC_START: u64 = 0xfec0_0000;
pub const LOCAL_APIC_START: u64 = 0xfee0_0000;
/// Pages that KVM needs for itself on Intel: one for the identity map, then three for the TSS.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
pub const KVM_TSS: usize = 0xfffb_d000;
/// RAM below 1 MiB ends here; what follows up to 1 MiB is reserved for tables.
pub const LOW_RAM_END: u64 = 0xa_0000;
pub const TABLES_START: u64 = 0xe_0000;
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// The huge page that backs RAM where the host can.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// The smallest guest that can hold a kernel at all.
pub const RAM_BYTES_MIN: u64 = 16 << 20;
/// The largest that the 40 bits of physical address which every CPU has can hold, with room for the hole.
pub const RAM_BYTES_MAX: u64 = (1 << 40) - (HOLE_END - HOLE_START);

#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("a guest's memory is {RAM_BYTES_MIN} to {RAM_BYTES_MAX} bytes in steps of 4096, not {bytes}")]
    Size { bytes: u64 },
    #[error("cannot map {bytes} bytes for the guest's memory")]
    Map { bytes: u64, source: std::io::Error },
    #[error("cannot describe the guest's memory of {bytes} bytes")]
    Region { bytes: u64, source: MmapRegionError },
}

/// The address ranges of `bytes` of RAM, in order.
pub fn ram_ranges(bytes: u64) -> Vec<(GuestAddress, u64)> {
    let low = bytes.min(HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low)];
    if bytes > low {
        ranges.push((GuestAddress(HOLE_END), bytes - low));
    }
    ranges
}

/// What RAM is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// This process alone sees it.
    Private,
    /// Processes that are given its file see it too.
    Shared,
}

/// What the host has of RAM until the guest writes to it.
enum Source<'a> {
    Zeroes,
    Shared(Arc<File>),
    /// Pages of this file, which stays as it is.
    Copy(&'a File),
}

/// Maps `bytes` of zeroed RAM.
///
/// # Errors
/// [`MemoryError`] when the size is out of range or the host has no address space left.
pub fn allocate(bytes: u64, backing: Backing) -> Result<Memory, MemoryError> {
    check_size(bytes)?;
    let source = match backing {
        Backing::Private => Source::Zeroes,
        Backing::Shared => Source::Shared(Arc::new(
            sealed_file("guest-ram", bytes).map_err(|source| MemoryError::Map { bytes, source })?,
        )),
    };
    map(bytes, &source)
}

/// Maps `bytes` of RAM that begin as the file does. Nothing is read before it is touched, and nothing that the guest writes comes
/// to the file, which must stay as it is and as long for as long as the process lives.
///
/// # Errors
/// [`MemoryError`] when the size is out of range or the host has no address space left.
pub fn copy_of(file: &File, bytes: u64) -> Result<Memory, MemoryError> {
    check_size(bytes)?;
    map(bytes, &Source::Copy(file))
}

fn check_size(bytes: u64) -> Result<(), MemoryError> {
    if !(RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(4096) {
        return Err(MemoryError::Size { bytes });
    }
    Ok(())
}

fn map(bytes: u64, source: &Source<'_>) -> Result<Memory, MemoryError> {
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, length) in ram_ranges(bytes) {
        let size = usize::try_from(length).map_err(|_| MemoryError::Size { bytes })?;
        let (kind, file) = match source {
            Source::Zeroes => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None),
            Source::Shared(file) => (libc::MAP_SHARED, Some(&**file)),
            Source::Copy(file) => (libc::MAP_PRIVATE, Some(*file)),
        };
        let region = map_aligned(size, kind, file.map(|file| (file, offset)))
            .map_err(|source| MemoryError::Map { bytes: length, source })?;
        // SAFETY: the mapping was just made with this size and belongs to nobody else; it is never unmapped, because
        // a guest's memory lives as long as its process.
        let mut builder = unsafe { MmapRegionBuilder::<()>::new(size).with_raw_mmap_pointer(region) }
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(kind | libc::MAP_NORESERVE);
        // Whoever is given a region's file writes to it: so only shared ones tell theirs.
        if let Source::Shared(file) = source {
            builder = builder.with_file_offset(FileOffset::from_arc(Arc::clone(file), offset));
        }
        let region = builder.build().map_err(|source| MemoryError::Region { bytes: length, source })?;
        regions.extend(GuestRegionMmap::new(region, start));
        offset += length;
    }
    let ram = GuestMemoryMmap::from_regions(regions).map_err(|_| MemoryError::Size { bytes })?;
    Ok(Arc::new(ram))
}

/// A nameless file of zeroes that nobody can make shorter: whoever maps it need not fear to find it gone.
pub(crate) fn sealed_file(name: &str, bytes: u64) -> std::io::Result<File> {
    let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(bytes)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// Whether nobody can make the file shorter.
pub(crate) fn is_sealed(file: impl AsFd) -> bool {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_SHRINK))
}

/// Maps `size` bytes, of the file if there is one, at an address that is a multiple of a huge page, so that one nested page table entry can
/// cover 2 MiB: a boot then faults a few hundred times, not twenty thousand.
fn map_aligned(size: usize, kind: i32, place: Option<(&File, u64)>) -> std::io::Result<*mut u8> {
    let whole = size + HUGE_PAGE_BYTES;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping; no existing memory is touched.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), whole, access, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let before = start.align_offset(HUGE_PAGE_BYTES);
    let aligned = start.wrapping_byte_add(before);
    // SAFETY: both ranges lie inside the mapping made above and outside of the `size` bytes that are kept.
    unsafe {
        if before > 0 {
            libc::munmap(start, before);
        }
        libc::munmap(aligned.wrapping_byte_add(size), whole - size - before);
    }
    if let Some((file, offset)) = place {
        let offset = offset.try_into().map_err(std::io::Error::other)?;
        let flags = kind | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: it takes the place of the `size` bytes that were kept of the mapping made above, which nobody uses yet.
        if unsafe { libc::mmap(aligned, size, access, flags, file.as_raw_fd(), offset) } == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
    }
    // SAFETY: advice about the mapping made above. A host without transparent huge pages says no, and the guest runs all the same.
    unsafe { libc::madvise(aligned, size, libc::MADV_HUGEPAGE) };
    Ok(aligned.cast())
}

/// Gives all RAM back to the host: it reads as zero afterwards, as after power-on.
///
/// # Errors
/// What madvise(2) says.
pub fn clear(ram: &GuestRam) -> std::io::Result<()> {
    let release_by = release_of(ram);
    for region in ram.iter() {
        let size = usize::try_from(region.len()).map_err(std::io::Error::other)?;
        // SAFETY: the range is this region's mapping, and no vCPU or device runs.
        unsafe { release(region.as_ptr(), size, release_by) }?;
    }
    Ok(())
}

/// How pages of RAM are given back to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Private zeroes: the host forgets the pages.
    Forget,
    /// Of a file that others see: its pages are taken out of it.
    Punch,
    /// A copy of a file, whose pages would come back: fresh zeroes take their place.
    Replace,
}

/// How pages of `ram` are given back.
pub fn release_of(ram: &GuestRam) -> Release {
    let flags = ram.iter().fold(0, |flags, region| flags | region.flags());
    match (flags & libc::MAP_SHARED != 0, flags & libc::MAP_ANONYMOUS != 0) {
        (true, _) => Release::Punch,
        (false, true) => Release::Forget,
        (false, false) => Release::Replace,
    }
}

/// Gives whole pages of RAM back to the host; they read as zeroes then, for whoever maps them.
///
/// # Errors
/// What madvise(2) or mmap(2) says.
///
/// # Safety
/// The pages are RAM that is given back so, to which no Rust reference exists, and whose contents nobody needs.
pub unsafe fn release(start: *mut u8, bytes: usize, by: Release) -> std::io::Result<()> {
    let advice = match by {
        Release::Forget => libc::MADV_DONTNEED,
        // That would only unmap the pages; this also takes them out of the file.
        Release::Punch => libc::MADV_REMOVE,
        Release::Replace => {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
            // SAFETY: the caller says that these pages may go; the addresses stay RAM.
            let mapped = unsafe { libc::mmap(start.cast(), bytes, access, flags, -1, 0) };
            return if mapped == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(()) };
        }
    };
    // SAFETY: the caller says that these pages may go.
    if unsafe { libc::madvise(start.cast(), bytes, advice) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
