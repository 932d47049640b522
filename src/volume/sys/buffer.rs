//! Memory that is not ours alone: a guest may change it at any time.

use std::fmt;
use std::ptr;

/// A piece of memory that requests read into or write from, usually the guest's.
///
/// No reference to that memory is ever made, for the guest may change it at any time; it is only
/// handed to the kernel or copied from and to.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct IoBuffer(libc::iovec);

// SAFETY: an `IoBuffer` is an address and a length. `new` asks that the memory be usable from any
// thread for as long as any copy is used, and nothing here makes a reference to it.
unsafe impl Send for IoBuffer {}
// SAFETY: as above; its methods only copy through raw pointers.
unsafe impl Sync for IoBuffer {}

impl IoBuffer {
    /// The `len` bytes from `start`.
    ///
    /// # Safety
    /// The range must be mapped, readable and writable, and stay so while this value or a copy of it
    /// is used: for a request, until its completion was taken or its queue was dropped. No Rust
    /// reference to the memory may be alive meanwhile. Others may change the bytes at any time.
    pub unsafe fn new(start: *mut u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: start.cast(), iov_len: len })
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Whether there is nothing to transfer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part from `offset` on, at most `len` bytes of it.
    pub fn part(&self, offset: usize, len: usize) -> Self {
        let offset = offset.min(self.len());
        let len = len.min(self.len() - offset);
        Self(libc::iovec { iov_base: self.start().wrapping_add(offset).cast(), iov_len: len })
    }

    /// Copies out as many bytes as both hold, and says how many.
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        let len = self.len().min(target.len());
        // SAFETY: `new`'s contract makes `len` bytes from `start` readable, `target` is exclusively
        // ours, and the two do not overlap, as no reference to an `IoBuffer`'s memory exists.
        unsafe { ptr::copy_nonoverlapping(self.start(), target.as_mut_ptr(), len) };
        len
    }

    /// Copies in as many bytes as both hold, and says how many.
    pub fn copy_from(&self, source: &[u8]) -> usize {
        let len = self.len().min(source.len());
        // SAFETY: as in `copy_to`, with `start` writable.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), self.start(), len) };
        len
    }

    /// Makes all of it zeroes.
    pub fn fill_with_zeroes(&self) {
        // SAFETY: `new`'s contract makes the whole range writable.
        unsafe { ptr::write_bytes(self.start(), 0, self.len()) };
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({:p}, {})", self.start(), self.len())
    }
}
