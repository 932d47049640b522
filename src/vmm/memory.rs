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
//! RAM is private anonymous memory, aligned to 2 MiB and advised to be huge; the host gives a page when it is first touched.

use std::sync::Arc;

use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

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

/// Maps `bytes` of zeroed RAM.
///
/// # Errors
/// [`MemoryError`] when the size is out of range or the host has no address space left.
pub fn allocate(bytes: u64) -> Result<Memory, MemoryError> {
    if !(RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(4096) {
        return Err(MemoryError::Size { bytes });
    }
    let mut regions = Vec::new();
    for (start, length) in ram_ranges(bytes) {
        let size = usize::try_from(length).map_err(|_| MemoryError::Size { bytes })?;
        let region = map_aligned(size).map_err(|source| MemoryError::Map { bytes: length, source })?;
        // SAFETY: the mapping was just made with this size and belongs to nobody else; it is never unmapped, because
        // a guest's memory lives as long as its process.
        let region = unsafe { MmapRegionBuilder::<()>::new(size).with_raw_mmap_pointer(region) }
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
            .map_err(|source| MemoryError::Region { bytes: length, source })?;
        regions.extend(GuestRegionMmap::new(region, start));
    }
    let ram = GuestMemoryMmap::from_regions(regions).map_err(|_| MemoryError::Size { bytes })?;
    Ok(Arc::new(ram))
}

/// Maps `size` bytes at an address that is a multiple of a huge page, so that one nested page table entry can
/// cover 2 MiB: a boot then faults a few hundred times, not twenty thousand.
fn map_aligned(size: usize) -> std::io::Result<*mut u8> {
    let whole = size + HUGE_PAGE_BYTES;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping; no existing memory is touched.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
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
        // Advice: a host without transparent huge pages says no, and the guest runs all the same.
        libc::madvise(aligned, size, libc::MADV_HUGEPAGE);
    }
    Ok(aligned.cast())
}

/// Gives all RAM back to the host: it reads as zero afterwards, as after power-on.
///
/// # Errors
/// What madvise(2) says.
pub fn clear(ram: &GuestRam) -> std::io::Result<()> {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    for region in ram.iter() {
        let size = usize::try_from(region.len()).map_err(std::io::Error::other)?;
        // SAFETY: the range is this region's private anonymous mapping, and no vCPU or device runs.
        if unsafe { libc::madvise(region.as_ptr().cast(), size, libc::MADV_DONTNEED) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
