//! The last bytes of an endless stream, addressed by their offset from its beginning.

use std::collections::VecDeque;

/// A bounded log: appending drops the oldest bytes, and readers are told what they missed.
///
/// ```text
/// 0 ──────────── start ──────────── end ─▶
///     dropped          kept
/// ```
#[derive(Debug)]
pub struct Ring {
    kept: VecDeque<u8>,
    capacity: usize,
    end: u64,
}

/// What a read gave: `length` bytes that begin at `offset`, which is later than asked by `lost` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub length: usize,
    pub lost: u64,
}

impl Span {
    /// Where the next read goes on.
    pub fn end(&self) -> u64 {
        self.offset + count(self.length)
    }
}

impl Ring {
    /// An empty ring that keeps `capacity` bytes. Its memory is used as it fills.
    pub fn new(capacity: usize) -> Self {
        Ring { kept: VecDeque::with_capacity(capacity), capacity, end: 0 }
    }

    /// The offset of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.end - count(self.kept.len())
    }

    /// The offset that the next byte gets.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn append(&mut self, bytes: &[u8]) {
        self.end += count(bytes.len());
        let fitting = &bytes[bytes.len().saturating_sub(self.capacity)..];
        let excess = (self.kept.len() + fitting.len()).saturating_sub(self.capacity);
        self.kept.drain(..excess);
        self.kept.extend(fitting);
    }

    /// Copies what is kept from `offset` on, as much as `into` holds. An offset beyond the end reads nothing, from the end.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Span {
        let from = offset.clamp(self.start(), self.end);
        let skipped = usize::try_from(from - self.start()).unwrap_or(usize::MAX);
        let length = into.len().min(self.kept.len() - skipped);
        let (older, newer) = self.kept.as_slices();
        let of_older = older.get(skipped..).unwrap_or_default();
        let of_newer = &newer[skipped.saturating_sub(older.len())..];
        let split = of_older.len().min(length);
        into[..split].copy_from_slice(&of_older[..split]);
        into[split..length].copy_from_slice(&of_newer[..length - split]);
        Span { offset: from, length, lost: from.saturating_sub(offset) }
    }
}

/// A length as an offset: no slice is longer than an address space.
pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reader_that_comes_late_learns_what_it_lost() {
        let mut ring = Ring::new(4);
        ring.append(b"abcdef");
        let mut bytes = [0; 8];
        assert_eq!(ring.read(0, &mut bytes), Span { offset: 2, length: 4, lost: 2 });
        assert_eq!(&bytes[..4], b"cdef");
        assert_eq!(ring.read(6, &mut bytes), Span { offset: 6, length: 0, lost: 0 });
        assert_eq!(ring.read(99, &mut bytes), Span { offset: 6, length: 0, lost: 0 });
    }

    proptest! {
        #[test]
        fn a_ring_is_the_tail_of_all_that_was_appended(
            capacity in 0usize..40,
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
            offset in 0u64..400,
            room in 0usize..50,
        ) {
            let mut ring = Ring::new(capacity);
            let mut all = Vec::new();
            for bytes in &writes {
                ring.append(bytes);
                all.extend_from_slice(bytes);
            }
            prop_assert_eq!(ring.end(), count(all.len()));
            prop_assert_eq!(ring.start(), count(all.len().saturating_sub(capacity)));

            let mut into = vec![0; room];
            let span = ring.read(offset, &mut into);
            let from = usize::try_from(span.offset).unwrap();
            prop_assert_eq!(&into[..span.length], &all[from..from + span.length]);
            prop_assert_eq!(span.lost, ring.start().saturating_sub(offset));
            prop_assert!(span.length == room || span.end() == ring.end());
        }
    }
}
