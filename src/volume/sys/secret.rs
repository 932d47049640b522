//! Memory for keys.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// A value in pages of its own, which are left out of core dumps and are not inherited by a child. It never moves, and when it is dropped
/// the pages go back to the kernel; what is in it wipes itself.
pub(crate) struct Secret<T> {
    value: NonNull<T>,
    len: NonZeroUsize,
}

// SAFETY: it owns its value as a box does.
unsafe impl<T: Send> Send for Secret<T> {}
// SAFETY: as above; only shared references to the value are given out.
unsafe impl<T: Sync> Sync for Secret<T> {}

impl<T> Secret<T> {
    /// # Errors
    /// When there is no memory.
    pub(crate) fn new(value: T) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096, "a mapping is aligned to pages") };
        let len = NonZeroUsize::new(size_of::<T>()).expect("a key has a size");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses touches nothing else.
        let start = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_PRIVATE) }?;
        let secret = Self { value: start.cast(), len };
        // SAFETY: the mapping is new, ours, large enough, and aligned to a page.
        unsafe { secret.value.write(value) };
        for advice in [MmapAdvise::MADV_DONTDUMP, MmapAdvise::MADV_DONTFORK] {
            // SAFETY: the advice changes nothing that this process sees of the mapping, which is ours.
            unsafe { madvise(start, len.get(), advice) }?;
        }
        Ok(secret)
    }
}

impl<T> Deref for Secret<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value is there from `new` to `drop`, and only shared references are made meanwhile.
        unsafe { self.value.as_ref() }
    }
}

impl<T> Drop for Secret<T> {
    fn drop(&mut self) {
        // SAFETY: the value is there, and nobody refers to it any more.
        unsafe { self.value.drop_in_place() };
        // SAFETY: it was mapped with this length, and what was in it is gone.
        let unmapped = unsafe { munmap(self.value.cast(), self.len.get()) };
        unmapped.expect("a mapping that is there");
    }
}
