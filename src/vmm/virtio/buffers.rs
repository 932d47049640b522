//! The memory of one descriptor chain.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemory, Permissions};
use volume::IoBuffer;

use crate::memory::Memory;

/// The readable and the writable pieces of a chain, in host memory.
///
/// ```text
///  pieces   │ header │ data │ data ║ data │ data │ status │
///           first                  split                   end
/// ```
///
/// How a driver cuts a request into descriptors means nothing (virtio 1.2, 2.7.4), so a device takes its header from
/// the front of the readable bytes and its status from the end of the writable ones, wherever the cuts are.
///
/// It keeps the RAM of its pieces mapped; whoever copies a piece out of it keeps the [`Memory`] too.
#[derive(Debug)]
pub struct Buffers {
    pieces: Vec<IoBuffer>,
    pieces_max: usize,
    first: usize,
    split: usize,
    readable_bytes: u32,
    writable_bytes: u32,
    memory: Option<Memory>,
}

impl Buffers {
    /// Room for `pieces_max` pieces. Nothing is allocated later.
    pub fn with_capacity(pieces_max: usize) -> Self {
        let pieces = Vec::with_capacity(pieces_max);
        Buffers { pieces, pieces_max, first: 0, split: 0, readable_bytes: 0, writable_bytes: 0, memory: None }
    }

    /// Empties it, for a chain in `memory`.
    pub(super) fn restart(&mut self, memory: &Memory) {
        self.pieces.clear();
        (self.first, self.split, self.readable_bytes, self.writable_bytes) = (0, 0, 0, 0);
        if !self.memory.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, memory)) {
            self.memory = Some(memory.clone());
        }
    }

    /// Appends what a descriptor describes; it is cut where RAM is.
    pub(super) fn add(
        &mut self,
        address: GuestAddress,
        length: u32,
        is_writable: bool,
    ) -> Result<(), &'static str> {
        const OUTSIDE: &str = "a buffer is not in the guest's memory";
        if !is_writable && self.pieces.len() > self.split {
            return Err("a buffer to read follows one to write");
        }
        if length == 0 {
            return Ok(());
        }
        let total = if is_writable { &mut self.writable_bytes } else { &mut self.readable_bytes };
        *total = total.checked_add(length).ok_or("its buffers are longer than 4 GiB")?;
        let bytes = usize::try_from(length).map_err(|_| OUTSIDE)?;
        let Some(ram) = &self.memory else { return Err(OUTSIDE) };
        for slice in ram.get_slices(address, bytes, Permissions::ReadWrite).map_err(|_| OUTSIDE)? {
            let slice = slice.map_err(|_| OUTSIDE)?;
            if self.pieces.len() == self.pieces_max {
                return Err("it has more buffers than the device allows");
            }
            // SAFETY: the slice is RAM, readable and writable, and mapped for as long as `memory` is kept. Nobody
            // makes references to RAM.
            self.pieces.push(unsafe { IoBuffer::new(slice.ptr_guard_mut().as_ptr(), slice.len()) });
        }
        if !is_writable {
            self.split = self.pieces.len();
        }
        Ok(())
    }

    /// What the driver wrote for the device.
    pub fn readable(&self) -> &[IoBuffer] {
        &self.pieces[self.first..self.split]
    }

    /// What the device may fill.
    pub fn writable(&self) -> &[IoBuffer] {
        &self.pieces[self.split..]
    }

    pub fn readable_bytes(&self) -> u32 {
        self.readable_bytes
    }

    pub fn writable_bytes(&self) -> u32 {
        self.writable_bytes
    }

    /// Takes `N` bytes from the front of the readable part; `None`, and nothing taken, when there are fewer.
    pub fn take_front<const N: usize>(&mut self) -> Option<[u8; N]> {
        let left = self.readable_bytes.checked_sub(u32::try_from(N).ok()?)?;
        let mut taken = [0; N];
        let mut filled = 0;
        while filled < N {
            let piece = &mut self.pieces[self.first];
            let count = piece.copy_to(&mut taken[filled..]);
            filled += count;
            *piece = piece.part(count, usize::MAX);
            if piece.is_empty() {
                self.first += 1;
            }
        }
        self.readable_bytes = left;
        Some(taken)
    }

    /// Takes the last writable byte; `None` when there is none.
    pub fn take_last_byte(&mut self) -> Option<IoBuffer> {
        self.writable_bytes = self.writable_bytes.checked_sub(1)?;
        let piece = self.pieces.last_mut()?;
        let rest = piece.len() - 1;
        let byte = piece.part(rest, 1);
        *piece = piece.part(0, rest);
        if rest == 0 {
            self.pieces.pop();
        }
        Some(byte)
    }

    /// Copies `bytes` to the front of the writable part; says how many fitted.
    pub fn fill_front(&self, mut bytes: &[u8]) -> usize {
        let whole = bytes.len();
        for piece in self.writable() {
            bytes = &bytes[piece.copy_from(bytes)..];
        }
        whole - bytes.len()
    }
}
