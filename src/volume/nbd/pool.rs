//! The memory of a connection's data: aligned, in pieces of one size, used again and again.
//!
//! Untouched pieces are no memory yet, since the kernel gives pages on first touch; the last one that was given back is the next one that is
//! taken, so a client of small requests stays within the processor's cache.

use std::io;
use std::num::NonZeroUsize;

use super::{DEPTH, TRANSFER_BYTES_MAX};
use crate::sys::{Arena, IoBuffer};

/// Small enough for the list of the largest request to fit into one system call, large enough for most requests to be one piece.
const PIECE_BYTES: usize = 64 << 10;
/// The largest request always finds room when nothing else does, and as many small ones as are in flight.
const PIECES: usize = TRANSFER_BYTES_MAX as usize / PIECE_BYTES + DEPTH as usize;
/// The most memory that the data of one connection takes.
pub(super) const BYTES: NonZeroUsize = NonZeroUsize::new(PIECES * PIECE_BYTES).expect("there are pieces");

pub(super) struct Pool {
    memory: Arena,
    free: Vec<usize>,
}

impl Pool {
    /// # Errors
    /// When there is no room for so many addresses.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { memory: Arena::new(BYTES)?, free: (0..PIECES).rev().collect() })
    }

    /// Fills an empty list with pieces of `len` bytes together; false when there is not enough, and then the list stays empty.
    pub(super) fn take(&mut self, len: u32, pieces: &mut Vec<IoBuffer>) -> bool {
        let mut left = len as usize;
        if left.div_ceil(PIECE_BYTES) > self.free.len() {
            return false;
        }
        while left > 0 {
            let index = self.free.pop().expect("they were counted");
            let piece = self.memory.buffer().part(index * PIECE_BYTES, left.min(PIECE_BYTES));
            left -= piece.len();
            pieces.push(piece);
        }
        true
    }

    /// Takes back what [`take`](Self::take) gave, and empties the list.
    pub(super) fn give(&mut self, pieces: &mut Vec<IoBuffer>) {
        let start = self.memory.buffer().start().addr();
        self.free.extend(pieces.drain(..).rev().map(|piece| (piece.start().addr() - start) / PIECE_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_largest_request_fits_beside_as_many_small_ones_as_there_may_be() {
        let mut pool = Pool::new().unwrap();
        let mut lists = vec![Vec::new(); usize::from(DEPTH)];
        assert!(pool.take(TRANSFER_BYTES_MAX, &mut lists[0]));
        assert!(lists.iter_mut().skip(1).all(|list| pool.take(4096, list)));
    }

    proptest! {
        #[test]
        fn pieces_are_whole_and_nobody_elses(lens in prop::collection::vec((0u32..=TRANSFER_BYTES_MAX, any::<bool>()), 1..40)) {
            let mut pool = Pool::new().unwrap();
            let mut lists: Vec<Vec<IoBuffer>> = Vec::new();
            for (len, gives_back) in lens {
                let mut list = Vec::new();
                if pool.take(len, &mut list) {
                    prop_assert_eq!(list.iter().map(IoBuffer::len).sum::<usize>(), len as usize);
                    lists.push(list);
                } else {
                    prop_assert!(list.is_empty() && !lists.is_empty());
                }
                let mut starts: Vec<usize> = lists.iter().flatten().map(|piece| piece.start().addr()).collect();
                starts.sort_unstable();
                prop_assert!(starts.windows(2).all(|pair| pair[0] + PIECE_BYTES <= pair[1]));
                if gives_back && let Some(mut list) = lists.pop() {
                    pool.give(&mut list);
                }
            }
            lists.iter_mut().for_each(|list| pool.give(list));
            prop_assert_eq!(pool.free.len(), PIECES);
        }
    }
}
