//! Locks of parts of one file, which exclude each other if one of them is for writing and they are not of one owner.
//!
//! Invariant: the ranges of one owner do not overlap, and two that touch and are of one kind are one.

use std::sync::Arc;

/// Who locks: an owner of a client's, by the client's name for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockOwner {
    pub(crate) client: u64,
    pub(crate) name: Arc<[u8]>,
}

/// Bytes from the first to the last, both of them included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Range {
    /// `length` bytes from `offset`, all that follow if it is [`u64::MAX`]; none if that is nothing, or ends where there is nothing.
    pub(crate) fn new(offset: u64, length: u64) -> Option<Self> {
        match length {
            0 => None,
            u64::MAX => Some(Self { first: offset, last: u64::MAX }),
            _ => offset.checked_add(length - 1).map(|last| Self { first: offset, last }),
        }
    }

    /// As RFC 8881 says it.
    pub(crate) fn length(self) -> u64 {
        if self.last == u64::MAX { u64::MAX } else { self.last - self.first + 1 }
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A part of a file that somebody has locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeLock {
    pub(crate) range: Range,
    pub(crate) is_write: bool,
    pub(crate) owner: LockOwner,
}

/// All locks of a file.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<RangeLock>);

impl Ranges {
    /// A lock of somebody else's that excludes `wanted`.
    pub(crate) fn conflict(&self, wanted: &RangeLock) -> Option<&RangeLock> {
        self.0.iter().find(|lock| {
            lock.owner != wanted.owner
                && (lock.is_write || wanted.is_write)
                && lock.range.overlaps(wanted.range)
        })
    }

    /// Locks what excludes nobody: what its owner had there before is now of this kind.
    pub(crate) fn lock(&mut self, new: RangeLock) {
        self.unlock(&new.owner, new.range);
        let mut merged = new;
        self.0.retain(|lock| {
            let (old, range) = (lock.range, &mut merged.range);
            let touches =
                old.last.checked_add(1) == Some(range.first) || range.last.checked_add(1) == Some(old.first);
            let is_one = touches && lock.owner == merged.owner && lock.is_write == merged.is_write;
            if is_one {
                *range = Range { first: range.first.min(old.first), last: range.last.max(old.last) };
            }
            !is_one
        });
        self.0.push(merged);
    }

    /// Nothing in `range` is locked by `owner` any more.
    pub(crate) fn unlock(&mut self, owner: &LockOwner, range: Range) {
        let mut rests = Vec::new();
        self.0.retain(|lock| {
            if lock.owner != *owner || !lock.range.overlaps(range) {
                return true;
            }
            let old = lock.range;
            if old.first < range.first {
                rests.push(RangeLock {
                    range: Range { first: old.first, last: range.first - 1 },
                    ..lock.clone()
                });
            }
            if old.last > range.last {
                rests.push(RangeLock {
                    range: Range { first: range.last + 1, last: old.last },
                    ..lock.clone()
                });
            }
            false
        });
        self.0.append(&mut rests);
    }

    /// Whether to unlock `range` makes two locks of one.
    pub(crate) fn splits(&self, owner: &LockOwner, range: Range) -> bool {
        let splits = |lock: &RangeLock| lock.range.first < range.first && lock.range.last > range.last;
        self.0.iter().any(|lock| lock.owner == *owner && splits(lock))
    }

    pub(crate) fn release(&mut self, gone: impl Fn(&LockOwner) -> bool) {
        self.0.retain(|lock| !gone(&lock.owner));
    }

    pub(crate) fn has(&self, owner: &LockOwner) -> bool {
        self.0.iter().any(|lock| lock.owner == *owner)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: u8 = 24;

    fn owner(number: u8) -> LockOwner {
        LockOwner { client: 1, name: Arc::new([number]) }
    }

    #[test]
    fn ranges_end_where_files_do() {
        assert_eq!(Range::new(5, 0), None);
        assert_eq!(Range::new(5, u64::MAX), Some(Range { first: 5, last: u64::MAX }));
        assert_eq!(Range::new(5, u64::MAX - 5), Some(Range { first: 5, last: u64::MAX - 1 }));
        assert_eq!(Range::new(5, u64::MAX - 4), Some(Range { first: 5, last: u64::MAX }));
        assert_eq!(Range::new(5, u64::MAX - 3), None);
        assert_eq!(Range::new(5, 3).unwrap().length(), 3);
        assert_eq!(Range::new(5, u64::MAX).unwrap().length(), u64::MAX);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Lock { owner: u8, first: u8, length: u8, is_write: bool },
        Unlock { owner: u8, first: u8, length: u8 },
        Release { owner: u8 },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let place = || (0u8..3, 0..BYTES, 1..=BYTES);
        prop_oneof![
            4 => (place(), any::<bool>())
                .prop_map(|((owner, first, length), is_write)| Step::Lock { owner, first, length, is_write }),
            2 => place().prop_map(|(owner, first, length)| Step::Unlock { owner, first, length }),
            1 => (0u8..3).prop_map(|owner| Step::Release { owner }),
        ]
    }

    proptest! {
        /// The same as a table that says for each byte and owner how it is locked.
        #[test]
        fn they_are_what_each_byte_says(steps in prop::collection::vec(any_step(), 0..60)) {
            let mut ranges = Ranges::default();
            let mut bytes = [[None; 3]; BYTES as usize * 2];
            for step in steps {
                match step {
                    Step::Lock { owner: by, first, length, is_write } => {
                        let range = Range::new(first.into(), length.into()).unwrap();
                        let wanted = RangeLock { range, is_write, owner: owner(by) };
                        let part = &mut bytes[usize::from(first)..usize::from(first + length)];
                        let excluded = part.iter().any(|locks| {
                            (0..3).any(|other| other != by as usize && locks[other].is_some_and(|write| write || is_write))
                        });
                        prop_assert_eq!(ranges.conflict(&wanted).is_some(), excluded);
                        if !excluded {
                            ranges.lock(wanted);
                            part.iter_mut().for_each(|locks| locks[by as usize] = Some(is_write));
                        }
                    }
                    Step::Unlock { owner: by, first, length } => {
                        ranges.unlock(&owner(by), Range::new(first.into(), length.into()).unwrap());
                        bytes[usize::from(first)..usize::from(first + length)].iter_mut().for_each(|locks| locks[by as usize] = None);
                    }
                    Step::Release { owner: by } => {
                        ranges.release(|gone| *gone == owner(by));
                        bytes.iter_mut().for_each(|locks| locks[by as usize] = None);
                    }
                }
                for by in 0..3u8 {
                    let of_bytes: Vec<_> = bytes.iter().map(|locks| locks[by as usize]).collect();
                    let runs = of_bytes.chunk_by(|a, b| a == b).filter(|run| run[0].is_some()).count();
                    prop_assert_eq!(ranges.0.iter().filter(|lock| lock.owner == owner(by)).count(), runs);
                    prop_assert_eq!(ranges.has(&owner(by)), runs > 0);
                }
            }
        }
    }
}
