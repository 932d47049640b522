//! Memory that the kernel gives page by page, on first touch.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::buffer::IoBuffer;

/// Page-aligned zeroes of which only what was touched is memory. `AlignedMemory` has touched all of its own.
pub(crate) struct Arena {
    start: NonNull<libc::c_void>,
    len: NonZeroUsize,
}

// SAFETY: it is plain memory that this value owns.
unsafe impl Send for Arena {}

impl Arena {
    /// # Errors
    /// When there is no room for `len` addresses.
    pub(crate) fn new(len: NonZeroUsize) -> io::Result<Self> {
        let (access, flags) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
        // SAFETY: a new mapping at a place that the kernel chooses touches nothing else.
        let start = unsafe { mmap_anonymous(None, len, access, flags) }?;
        Ok(Self { start, len })
    }

    /// All of it; to be used only as long as the arena is there.
    pub(crate) fn buffer(&self) -> IoBuffer {
        // SAFETY: the memory is ours and no reference to it is made; the caller keeps `self`.
        unsafe { IoBuffer::new(self.start.as_ptr().cast(), self.len.get()) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody uses it any more.
        let unmapped = unsafe { munmap(self.start, self.len.get()) };
        unmapped.expect("a mapping that is there");
    }
}
