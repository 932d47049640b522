//! Which sectors a layer holds: one bit each.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::zeroed_words;

const WORD_BITS: u64 = 64;

/// A set of sectors below a bound, which any thread may read and add to. Nothing is ever taken out.
#[derive(Debug)]
pub(super) struct SectorMap {
    words: Box<[AtomicU64]>,
    sectors: u64,
}

impl SectorMap {
    /// An empty set of sectors below `sectors`.
    pub(super) fn new(sectors: u64) -> Self {
        let words = usize::try_from(sectors.div_ceil(WORD_BITS)).expect("64-bit addresses");
        Self { words: zeroed_words(words), sectors }
    }

    /// Whether `first` is in the set, and for how many sectors, at most `count` and at least one, the answer is the
    /// same. Sectors from the bound on never are.
    pub(super) fn run(&self, first: u64, count: u64) -> (bool, u64) {
        let end = first.saturating_add(count).min(self.sectors);
        let held = self.word(first) >> (first % WORD_BITS) & 1 == 1;
        let mut sector = first;
        while sector < end {
            let word = self.word(sector);
            let differing = if held { !word } else { word } >> (sector % WORD_BITS);
            if differing != 0 {
                sector += u64::from(differing.trailing_zeros());
                break;
            }
            sector = (sector / WORD_BITS + 1) * WORD_BITS;
        }
        (held, sector.min(end) - first)
    }

    /// Adds `count` sectors from `first`; those beyond the bound are left out.
    pub(super) fn insert(&self, first: u64, count: u64) {
        let end = first.saturating_add(count).min(self.sectors);
        let mut sector = first;
        while sector < end {
            let next = u64::min((sector / WORD_BITS + 1) * WORD_BITS, end);
            let bits = mask(sector % WORD_BITS..sector % WORD_BITS + (next - sector));
            let word = &self.words[index(sector)];
            // Rewriting what is held is the rule, and must not cost the other threads their cache line.
            if word.load(Ordering::Relaxed) & bits != bits {
                // Whoever sees the bits must also see what was written before.
                word.fetch_or(bits, Ordering::Release);
            }
            sector = next;
        }
    }

    fn word(&self, sector: u64) -> u64 {
        self.words[index(sector)].load(Ordering::Acquire)
    }
}

fn index(sector: u64) -> usize {
    usize::try_from(sector / WORD_BITS).expect("64-bit addresses")
}

/// The bits of a range within one word.
fn mask(bits: Range<u64>) -> u64 {
    let len = bits.end - bits.start;
    let ones = if len >= WORD_BITS { u64::MAX } else { (1 << len) - 1 };
    ones << bits.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_agree_with_a_plain_list(
            sectors in 1u64..300,
            inserts in prop::collection::vec((0u64..300, 0u64..150), 0..8),
            first in 0u64..300,
            count in 1u64..300,
        ) {
            let first = first % sectors;
            let map = SectorMap::new(sectors);
            let mut plain = vec![false; usize::try_from(sectors).unwrap()];
            for (start, len) in inserts {
                map.insert(start, len);
                for sector in plain.iter_mut().skip(start.try_into().unwrap()).take(len.try_into().unwrap()) {
                    *sector = true;
                }
            }
            let tail = &plain[usize::try_from(first).unwrap()..];
            let expected = tail.iter().take(count.try_into().unwrap()).take_while(|held| **held == tail[0]).count();
            prop_assert_eq!(map.run(first, count), (tail[0], expected as u64));
        }
    }
}
