//! Memory that is not ours alone: a guest may change it at any time.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::UnsafeCell;
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

    /// Copies as many bytes as both hold into another one, and says how many.
    pub(crate) fn copy_to_buffer(&self, target: &IoBuffer) -> usize {
        let len = self.len().min(target.len());
        // SAFETY: `new`'s contract makes both ranges usable for `len` bytes; they may overlap.
        unsafe { ptr::copy(self.start(), target.start(), len) };
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

/// What the address of memory for direct I/O is a multiple of.
const PAGE_BYTES: usize = 4096;

/// Page-aligned memory of our own, for transfers that the guest's memory does not suit.
pub(crate) struct AlignedMemory {
    start: ptr::NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is plain memory that this value owns.
unsafe impl Send for AlignedMemory {}

impl AlignedMemory {
    pub(crate) fn zeroed(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), PAGE_BYTES).expect("a length of memory that exists");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = ptr::NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout }
    }

    /// All of it, for a call to the kernel that ends before this value does.
    pub(crate) fn buffer(&self) -> IoBuffer {
        // SAFETY: the memory is ours and no reference to it is made; the caller keeps `self`.
        unsafe { IoBuffer::new(self.start.as_ptr(), self.layout.size()) }
    }

    /// The bytes, for use while no call is with the kernel.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is ours, initialised, and borrowed as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }

    /// Copies `sources` in, one after the other.
    pub(crate) fn gather(&self, sources: &[IoBuffer]) {
        self.copy(sources, |here, there, len| {
            // SAFETY: both are valid for `len` bytes, and `self`'s memory is nobody else's.
            unsafe { ptr::copy_nonoverlapping(there, here, len) };
        });
    }

    /// Copies out to `targets`, one after the other.
    pub(crate) fn scatter(&self, targets: &[IoBuffer]) {
        self.copy(targets, |here, there, len| {
            // SAFETY: as in `gather`.
            unsafe { ptr::copy_nonoverlapping(here, there, len) };
        });
    }

    fn copy(&self, others: &[IoBuffer], copy: impl Fn(*mut u8, *mut u8, usize)) {
        let mut offset = 0;
        for other in others {
            let here = self.buffer().part(offset, other.len());
            copy(here.start(), other.start(), here.len());
            offset += here.len();
        }
    }
}

impl Drop for AlignedMemory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and is freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

const ZEROES_BYTES: usize = 64 << 10;

/// Writable only in name: it is in memory that may be written, as `IoBuffer` asks, but never is.
struct Zeroes(UnsafeCell<[u8; ZEROES_BYTES]>);

// SAFETY: nobody writes it; see `zeroes`.
unsafe impl Sync for Zeroes {}

static ZEROES: Zeroes = Zeroes(UnsafeCell::new([0; ZEROES_BYTES]));

/// `len` bytes of zeroes to write to a file, as a list of buffers. They are shared: never read into
/// them.
pub(crate) fn zeroes(len: u64) -> impl Iterator<Item = IoBuffer> {
    // SAFETY: a static lives for ever, is writable memory, and no reference to its inside exists.
    let all = unsafe { IoBuffer::new(ZEROES.0.get().cast(), ZEROES_BYTES) };
    let step = ZEROES_BYTES as u64;
    (0..len.div_ceil(step)).map(move |index| {
        let rest = usize::try_from(len - index * step).unwrap_or(usize::MAX);
        all.part(0, rest)
    })
}
