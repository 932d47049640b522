//! What only a raw system call tells of a file, and memory that is zeroes until it is written.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

use super::ring::InPlace;

/// What direct I/O on a file must be a multiple of, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirectAlignment {
    pub(crate) memory: u32,
    pub(crate) offset: u32,
}

/// What direct I/O on the file needs; `None` when the kernel (before Linux 6.1) or the file system
/// does not say.
pub(crate) fn direct_alignment(file: BorrowedFd<'_>) -> io::Result<Option<DirectAlignment>> {
    const EMPTY: &CStr = c"";
    let mut status = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a C string, and `status` is writable memory of the right type.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            EMPTY.as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            status.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, which is a valid value, and the kernel filled it in.
    let status = unsafe { status.assume_init() };
    let known = status.stx_mask & libc::STATX_DIOALIGN != 0 && status.stx_dio_offset_align != 0;
    Ok(known
        .then_some(DirectAlignment { memory: status.stx_dio_mem_align, offset: status.stx_dio_offset_align }))
}

/// Begins to write the file's part of the page cache to the disk. It is a hint: what became of it, a sync tells.
pub(crate) fn begin_writeback(file: BorrowedFd<'_>) {
    // SAFETY: the call takes no memory, and the descriptor is open as long as it is borrowed.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Words of zeroes. The kernel gives their pages on first touch, so a large list that is hardly used
/// costs hardly any memory.
pub(crate) fn zeroed_words(count: usize) -> Box<[AtomicU64]> {
    let words = vec![0u64; count].into_boxed_slice();
    // SAFETY: `AtomicU64` has the size and the bit validity of `u64`, and on the targets that KVM
    // runs on (64-bit) also its alignment, so the allocation's layout stays the same.
    unsafe { Box::from_raw(Box::into_raw(words) as *mut [AtomicU64]) }
}

/// Which transfers on a file that uses the page cache are best done in place.
pub(crate) fn transfers_in_place(file: BorrowedFd<'_>) -> InPlace {
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs};
    let Ok(kind) = fstatfs(file).map(|status| status.filesystem_type()) else {
        return InPlace::default();
    };
    // XFS and btrfs write to the page cache without waiting, or say that they would have to.
    let writes = kind != XFS_SUPER_MAGIC && kind != BTRFS_SUPER_MAGIC;
    // tmpfs is the page cache.
    InPlace { reads: kind == TMPFS_MAGIC, writes }
}
