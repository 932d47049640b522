//! When each target is checked.
//!
//! A target has its own moments: one in every interval, at a phase that a hash of its key gives. So the checks of many targets are spread
//! over the interval, whenever they were registered and however long checks take, and a target's moments stay where they are when others
//! come and go. A new target need not wait for its first one: it is checked within a second, also at its phase, which spreads a thousand
//! targets that come at once.
//!
//! What is late, because nobody asked for long, is due once and not as often as it was missed. Two checks of a target are never less than half
//! an interval apart, so that a short disturbance fails one of them and not several.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use types::Instant;

/// In which a new target is checked first.
const FIRST: Duration = Duration::from_secs(1);

/// The moments of all targets of a group.
#[derive(Debug, Clone)]
pub struct Schedule<K> {
    interval: Duration,
    by_key: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Clone + Ord + Hash> Schedule<K> {
    /// Without any target. `interval` is not zero.
    pub fn new(interval: Duration) -> Self {
        Self { interval, by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Begins to check `key`, whose first check is due within a second. One that is there already stays as it is.
    pub fn add(&mut self, key: K, now: Instant) {
        if !self.by_key.contains_key(&key) {
            let first = now.after(phase(&key, FIRST.min(self.interval)));
            self.set(key, first);
        }
    }

    /// Checks `key` no more.
    pub fn remove(&mut self, key: &K) {
        if let Some(due) = self.by_key.remove(key) {
            self.by_time.remove(&(due, key.clone()));
        }
    }

    /// Checks only those keys any more that `is_kept`.
    pub fn retain(&mut self, is_kept: impl Fn(&K) -> bool) {
        self.by_key.retain(|key, _| is_kept(key));
        self.by_time.retain(|(_, key)| is_kept(key));
    }

    /// When the next check is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// A key that is due `now`, if there is one: its next check is at its next moment that is not too soon after this one. To be asked until there is none.
    pub fn due(&mut self, now: Instant) -> Option<K> {
        let (_, key) = self.by_time.first().filter(|(due, _)| *due <= now)?.clone();
        self.remove(&key);
        let moment = self.moment_after(&key, now.after(self.interval / 2));
        self.set(key.clone(), moment);
        Some(key)
    }

    fn set(&mut self, key: K, due: Instant) {
        self.by_key.insert(key.clone(), due);
        self.by_time.insert((due, key));
    }

    /// The first of `key`'s own moments that is later than `earliest`.
    fn moment_after(&self, key: &K, earliest: Instant) -> Instant {
        let interval = self.interval.as_nanos();
        let phase = phase(key, self.interval).as_nanos();
        // How long ago its last moment was.
        let ago = (earliest.0.as_nanos() + interval - phase) % interval;
        let wait = u64::try_from(interval - ago).unwrap_or(u64::MAX);
        earliest.after(Duration::from_nanos(wait))
    }
}

/// Where in `span` a key is: always at the same place, and keys evenly over it.
fn phase(key: &impl Hash, span: Duration) -> Duration {
    // Without a seed, so that it is the same after a restart.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let share = hasher.finish() >> 32;
    let nanos = (span.as_nanos() * u128::from(share)) >> 32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(Duration::from_millis(ms))
    }

    const INTERVAL: Duration = Duration::from_secs(10);

    fn due_now(schedule: &mut Schedule<u32>, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| schedule.due(now)).collect()
    }

    #[test]
    fn a_new_target_is_checked_within_a_second_and_then_once_in_every_interval() {
        let mut schedule = Schedule::new(INTERVAL);
        schedule.add(7, at(123_456));
        let mut checks = Vec::new();
        while checks.len() < 5 {
            let due = schedule.next_due().unwrap();
            assert_eq!(schedule.due(Instant(due.0 - Duration::from_nanos(1))), None);
            assert_eq!(due_now(&mut schedule, due), [7]);
            checks.push(due);
        }
        assert!(checks[0].since(at(123_456)) < FIRST);
        assert!((INTERVAL / 2..=INTERVAL * 3 / 2).contains(&checks[1].since(checks[0])));
        assert!(checks[1..].windows(2).all(|pair| pair[1].since(pair[0]) == INTERVAL));
        schedule.remove(&7);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn targets_that_come_together_are_checked_at_different_times() {
        let mut schedule = Schedule::new(INTERVAL);
        (0..1000).for_each(|key| schedule.add(key, at(0)));
        let tenths = |schedule: &mut Schedule<u32>, start: Instant, span: Duration| -> Vec<usize> {
            (1..=10).map(|tenth| due_now(schedule, start.after(span / 10 * tenth)).len()).collect()
        };
        let first = tenths(&mut schedule, at(0), FIRST);
        // After a while, all are in step.
        (10..=200).for_each(|tenth| drop(due_now(&mut schedule, at(tenth * 100))));
        let later = tenths(&mut schedule, at(20_000), INTERVAL);
        for counts in [first, later] {
            assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}");
            assert_eq!(counts.iter().sum::<usize>(), 1000, "{counts:?}");
        }
    }

    #[test]
    fn what_was_missed_is_due_once() {
        let mut schedule = Schedule::new(INTERVAL);
        schedule.add(1, at(0));
        assert_eq!(due_now(&mut schedule, at(1_000_000)), [1]);
        assert!(schedule.next_due() > Some(at(1_000_000)));
    }

    proptest! {
        /// However often it is asked, and whatever comes and goes.
        #[test]
        fn checks_of_a_target_are_neither_too_far_apart_nor_too_close(
            steps in prop::collection::vec((0u64..3_000, 0u32..8, any::<bool>()), 1..200),
        ) {
            let mut schedule = Schedule::new(INTERVAL);
            // When each was checked, or came.
            let mut last: BTreeMap<u32, (Instant, bool)> = BTreeMap::new();
            let mut now = at(0);
            for (wait, key, is_there) in steps {
                now = now.after(Duration::from_millis(wait));
                for key in due_now(&mut schedule, now) {
                    let before = last.insert(key, (now, true));
                    prop_assert!(before.is_some(), "{} was removed", key);
                    let is_apart = |(last, _)| now.since(last) >= INTERVAL / 2;
                    prop_assert!(before.filter(|(_, was_checked)| *was_checked).is_none_or(is_apart));
                }
                if is_there {
                    schedule.add(key, now);
                    last.entry(key).or_insert((now, false));
                } else {
                    schedule.remove(&key);
                    last.remove(&key);
                }
                // Nobody asked for up to three seconds before the last check, and before this moment.
                let longest = INTERVAL * 3 / 2 + Duration::from_secs(3);
                prop_assert!(last.values().all(|(last, _)| now.since(*last) <= longest));
                prop_assert_eq!(schedule.by_key.keys().collect::<Vec<_>>(), last.keys().collect::<Vec<_>>());
            }
        }
    }
}
