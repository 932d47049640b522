//! A write that gives blocks to the top layer: always of whole blocks.
//!
//! What the guest writes of a block is laid over what the block was (*copying up*). Of a few blocks the checksums are made, so that one
//! sync makes data and map durable; for that the data must stand still, which the guest's memory may not, so it is copied first.
//!
//! ```text
//!   with checksums, or encrypted     bounce: all blocks
//!   without                          bounce: the first block, if partial, then the last, if partial and another; the guest's memory between them
//! ```

use std::sync::Arc;

use super::{BLOCK_BYTES, Queue, Stage, Storage};
use crate::backend::IoBuffer;
use crate::layered::state::Permit;
use crate::queue::Cursor;
use crate::sys::{AlignedMemory, Call};

const BLOCK: usize = 4096;

/// How the range of a write lies in its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    first: u64,
    blocks: usize,
    /// The bytes of the first block before the range, and of the last one that are in it (0 for none: all are).
    head: usize,
    tail: usize,
}

impl Shape {
    fn new(at: u64, end: u64) -> Self {
        let part = |offset: u64| usize::try_from(offset % BLOCK_BYTES).expect("less than a block");
        let first = at / BLOCK_BYTES;
        let blocks = usize::try_from(end.div_ceil(BLOCK_BYTES) - first).expect("a write of memory");
        Self { first, blocks, head: part(at), tail: part(end) }
    }

    /// The partial blocks, each with its place in the bounce memory.
    fn partial(self, is_all_bounced: bool) -> impl Iterator<Item = (u64, usize)> {
        let last = self.blocks - 1;
        let is_tail_partial = self.tail != 0 && (last > 0 || self.head == 0);
        let tail_at = match (is_all_bounced, self.head != 0) {
            (true, _) => last * BLOCK,
            (false, true) => BLOCK,
            (false, false) => 0,
        };
        let head = (self.head != 0).then_some((self.first, 0));
        head.into_iter().chain(is_tail_partial.then_some((self.first + last as u64, tail_at)))
    }

    fn bounce_len(self, is_all_bounced: bool) -> usize {
        if is_all_bounced { self.blocks * BLOCK } else { self.partial(false).count() * BLOCK }
    }
}

impl<S: Storage> Queue<S> {
    /// Reads what the partial blocks were.
    pub(super) fn copy_up(&mut self, index: u32, permit: Permit<S::File>, has_checksums: bool) {
        let is_all_bounced = has_checksums || self.engine.cipher.is_some();
        let request = &mut self.requests[index as usize];
        let shape = Shape::new(request.at, request.part_end);
        request.reserve_bounce(shape.bounce_len(is_all_bounced));
        (request.has_checksums, request.is_all_bounced) = (has_checksums, is_all_bounced);
        (request.permit, request.stage) = (Some(permit), Stage::CopyingUp);
        for (block, at) in shape.partial(is_all_bounced) {
            let target = self.requests[index as usize].bounce.buffer().part(at, BLOCK);
            let layer = loop {
                let location = self.engine.map.get(block);
                if let Some(found) = self.files.find(&self.engine, &mut self.ring, location) {
                    break found;
                }
            };
            match layer {
                None => target.fill_with_zeroes(),
                Some(layer) => {
                    let place = layer.place(block);
                    self.scratch.clear();
                    self.scratch.push(target);
                    self.call(index, &layer, place.segment, |file| Call::Read { file, offset: place.offset });
                }
            }
        }
    }

    /// Lays the guest's bytes over the copies, and writes whole blocks; says that it does not wait.
    pub(super) fn copied_up(&mut self, index: u32) -> bool {
        let request = &mut self.requests[index as usize];
        request.stage = Stage::Writing;
        request.checksums.clear();
        let layer = match &request.permit {
            Some(permit) if request.error.is_none() => Arc::clone(&permit.layer),
            _ => return false,
        };
        let (at, end) = (request.at, request.part_end);
        let shape = Shape::new(at, end);
        let mut list = std::mem::take(&mut request.list);
        list.clear();
        if request.is_all_bounced {
            let len = shape.blocks * BLOCK;
            request.fill_bounce();
            let bounce = &mut request.bounce.bytes_mut()[..len];
            if let Some(cipher) = &self.engine.cipher {
                // What was there before is encrypted already, or zeroes, which say so themselves.
                let written = usize::try_from(end - at).expect("a write of memory");
                cipher.encrypt(at, &mut bounce[shape.head..shape.head + written]);
            }
            if request.has_checksums {
                request.checksums.extend(bounce.chunks_exact(BLOCK).map(crc32c::crc32c));
            }
            list.push(request.bounce.buffer().part(0, len));
        } else {
            lay_over(
                shape,
                &mut request.bounce,
                &request.buffers,
                usize::try_from(end - at).expect("memory"),
                &mut list,
            );
        }
        let (start, stop) = (shape.first * BLOCK_BYTES, end.next_multiple_of(BLOCK_BYTES));
        self.write_to(index, &layer, start, stop, &list);
        self.request(index).list = list;
        false
    }
}

/// Makes the list of buffers of a write without checksums.
fn lay_over(
    shape: Shape,
    bounce: &mut AlignedMemory,
    guest: &[IoBuffer],
    len: usize,
    list: &mut Vec<IoBuffer>,
) {
    let partial: Vec<(u64, usize)> = shape.partial(false).collect();
    let is_single = shape.blocks == 1 && !partial.is_empty();
    let head_len = match () {
        () if is_single => len,
        () if shape.head != 0 => BLOCK - shape.head,
        () => 0,
    };
    let tail_len = if is_single { 0 } else { shape.tail };
    let mut cursor = Cursor::new(guest);
    let mut take = |len: usize| -> Vec<IoBuffer> { cursor.take(len as u64).collect() };
    let (head, middle, tail) = (take(head_len), take(len - head_len - tail_len), take(tail_len));
    let mut places = partial.iter().map(|(_, at)| *at);
    if head_len != 0 {
        let at = places.next().expect("a head is a partial block");
        fill(&mut bounce.bytes_mut()[at + shape.head..at + BLOCK], &head);
        list.push(bounce.buffer().part(at, BLOCK));
    }
    list.extend(middle);
    if tail_len != 0 {
        let at = places.next().expect("a tail is a partial block");
        fill(&mut bounce.bytes_mut()[at..at + BLOCK], &tail);
        list.push(bounce.buffer().part(at, BLOCK));
    }
}

/// Copies all that buffers hold to the start of `target`.
fn fill(mut target: &mut [u8], buffers: &[IoBuffer]) {
    for buffer in buffers {
        let copied = buffer.copy_to(target);
        target = &mut target[copied..];
    }
}
