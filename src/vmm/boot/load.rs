//! What is to be read from files into guest memory, and the reading of all of it at once.
//!
//! Most of the time goes into the first touch of the memory, which several threads do side by side. So everything is planned first,
//! cut into pieces, and each reader takes the next piece that is left.

use std::sync::{Mutex, PoisonError};
use std::thread;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{BootError, BootFile, ReadError};
use crate::memory::GuestRam;

const READERS: usize = 4;
/// The largest page that the memory may have: two readers never touch the same.
const PIECE_BYTES: u64 = 2 << 20;

/// Stretches of files, and where each goes.
pub(super) struct Plan<'a> {
    ram: &'a GuestRam,
    pieces: Vec<Piece<'a>>,
    /// Where what is planned begins and ends.
    taken: Vec<(u64, u64)>,
}

struct Piece<'a> {
    what: &'static str,
    file: &'a dyn BootFile,
    offset: u64,
    into: &'a mut [u8],
}

impl Piece<'_> {
    fn read(self) -> Result<(), BootError> {
        let what = self.what;
        self.file.read_at(self.offset, self.into).map_err(|source| BootError::Read { what, source })
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(ram: &'a GuestRam) -> Self {
        Plan { ram, pieces: Vec::new(), taken: Vec::new() }
    }

    /// `bytes` of `file` from `offset` on go to guest address `address`. False when something else is to go there.
    ///
    /// # Errors
    /// When there is no RAM.
    #[must_use = "what overlaps is not planned"]
    pub(super) fn add(
        &mut self,
        what: &'static str,
        file: &'a dyn BootFile,
        offset: u64,
        address: u64,
        bytes: u64,
    ) -> Result<bool, BootError> {
        let end = address.saturating_add(bytes);
        if self.taken.iter().any(|&(start, taken_end)| address < taken_end && start < end) {
            return Ok(false);
        }
        self.taken.push((address, end));
        let mut at = address;
        while at < end {
            let next = end.min((at + 1).next_multiple_of(PIECE_BYTES));
            let into = self.memory(what, at, next - at)?;
            self.pieces.push(Piece { what, file, offset: offset + (at - address), into });
            at = next;
        }
        Ok(true)
    }

    fn memory(&self, what: &'static str, address: u64, bytes: u64) -> Result<&'a mut [u8], BootError> {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let slice = self.ram.get_slice(GuestAddress(address), length);
        let slice = slice.map_err(|source| BootError::Write { what, address, source })?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: the slice is mapped RAM of this length. Nobody else uses it: the guest does not run yet, and no two
        // pieces overlap.
        Ok(unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), length) })
    }

    /// Reads everything.
    ///
    /// # Errors
    /// The first that a reader met.
    pub(super) fn run(self) -> Result<(), BootError> {
        let helpers = self.pieces.len().min(READERS).saturating_sub(1);
        let left = Mutex::new(self.pieces.into_iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let read = || std::iter::from_fn(next).try_for_each(Piece::read);
        thread::scope(|scope| {
            let helpers: Vec<_> =
                (0..helpers).map_while(|_| thread::Builder::new().spawn_scoped(scope, read).ok()).collect();
            let own = read();
            let died = |_| {
                let source = ReadError::from("its reader panicked");
                Err(BootError::Read { what: "kernel or the initrd", source })
            };
            helpers.into_iter().fold(own, |so_far, helper| so_far.and(helper.join().unwrap_or_else(died)))
        })
    }
}
