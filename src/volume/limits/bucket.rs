//! What is left of a limit, as a function of time: pure, and exact.
//!
//! A bucket fills at its rate up to its capacity. A request may go when the bucket is not overdrawn, and may overdraw it, so that a request
//! that is larger than the bucket gets its turn too; the next one waits until that is paid. Levels are in billionths, since a rate is
//! for a second and time is in nanoseconds: nothing is ever rounded but the moment until which to wait, which is rounded up.

use std::time::Duration;

use types::Instant;

use types::volume::{Allowance, Limits};

const BILLION: i128 = 1_000_000_000;
/// How much of a rate may be saved up by who did nothing for a moment, so that a wake-up that comes late costs nothing: one part in so
/// many, 10 ms.
const SLACK: u64 = 100;

/// A bucket of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    rate: u64,
    capacity: u64,
    /// In billionths of a token, at `at`.
    level: i128,
    at: Instant,
}

impl Bucket {
    /// One that is full, with a rate of at least 1 a second.
    pub fn full(rate: u64, capacity: u64, now: Instant) -> Self {
        Self { rate: rate.max(1), capacity, level: i128::from(capacity) * BILLION, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let nanoseconds = i128::try_from(now.since(self.at).as_nanos()).unwrap_or(i128::MAX);
        let more = i128::from(self.rate).saturating_mul(nanoseconds);
        self.level = self.level.saturating_add(more).min(i128::from(self.capacity) * BILLION);
        self.at = self.at.max(now);
    }

    /// Whether a request may go now, or else when.
    fn ready(&mut self, now: Instant) -> Result<(), Instant> {
        self.refill(now);
        if self.level >= 0 {
            return Ok(());
        }
        let rate = i128::from(self.rate);
        let nanoseconds = u64::try_from((-self.level + rate - 1) / rate).unwrap_or(u64::MAX);
        Err(self.at.after(Duration::from_nanos(nanoseconds)))
    }

    fn spend(&mut self, amount: u64) {
        self.level -= i128::from(amount) * BILLION;
    }

    /// Takes so many tokens, or says when they can be had if nobody else takes any.
    ///
    /// # Errors
    /// The moment, and nothing was taken.
    pub fn take(&mut self, now: Instant, amount: u64) -> Result<(), Instant> {
        self.ready(now)?;
        self.spend(amount);
        Ok(())
    }

    /// Changes the rate from now on, and the capacity. What is in it stays, as far as it has room.
    pub fn change(&mut self, now: Instant, rate: u64, capacity: u64) {
        self.refill(now);
        (self.rate, self.capacity) = (rate.max(1), capacity);
        self.refill(now);
    }

    /// How many whole tokens there are; none if it is overdrawn.
    pub fn level(&mut self, now: Instant) -> u64 {
        self.refill(now);
        u64::try_from(self.level / BILLION).unwrap_or(0)
    }
}

/// An allowance as it is used up.
#[derive(Debug, Clone)]
struct Meter {
    peak: Bucket,
    /// Without them, the base is the peak.
    credits: Option<Bucket>,
}

impl Meter {
    fn new(allowance: Allowance, now: Instant) -> Self {
        let Allowance { base, peak, credits } = allowance;
        let bursts = base < peak;
        Self {
            peak: Bucket::full(peak, peak / SLACK, now),
            credits: bursts.then(|| Bucket::full(base, credits, now)),
        }
    }

    fn change(&mut self, allowance: Allowance, now: Instant) {
        let Allowance { base, peak, credits } = allowance;
        self.peak.change(now, peak, peak / SLACK);
        match (&mut self.credits, base < peak) {
            (Some(bucket), true) => bucket.change(now, base, credits),
            (bucket, false) => *bucket = None,
            (bucket, true) => *bucket = Some(Bucket::full(base, credits, now)),
        }
    }

    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        std::iter::once(&mut self.peak).chain(&mut self.credits)
    }
}

/// What a request costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub operations: u64,
    pub bytes: u64,
}

/// All that limits a volume.
#[derive(Debug, Clone)]
pub struct Meters {
    iops: Meter,
    bytes: Meter,
}

impl Meters {
    /// Of a volume that was idle so far: all its credits are there.
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Self { iops: Meter::new(limits.iops, now), bytes: Meter::new(limits.bytes, now) }
    }

    /// Changes the limits from now on. Credits stay.
    pub fn change(&mut self, limits: &Limits, now: Instant) {
        self.iops.change(limits.iops, now);
        self.bytes.change(limits.bytes, now);
    }

    /// Lets a request go, or says when to ask again.
    ///
    /// # Errors
    /// The moment, and nothing was taken.
    pub fn take(&mut self, now: Instant, cost: Cost) -> Result<(), Instant> {
        let mut wait = None;
        for bucket in self.iops.buckets().chain(self.bytes.buckets()) {
            wait = wait.max(bucket.ready(now).err());
        }
        if let Some(until) = wait {
            return Err(until);
        }
        self.iops.buckets().for_each(|bucket| bucket.spend(cost.operations));
        self.bytes.buckets().for_each(|bucket| bucket.spend(cost.bytes));
        Ok(())
    }
}

/// The requests of one queue, as operations: those that follow each other on the disk become one, up to its unit.
#[derive(Debug, Default)]
pub struct Stream {
    end: u64,
    writes: bool,
    /// What still goes with the last operation.
    left: u64,
}

impl Stream {
    /// What a read or write costs.
    pub fn cost(&mut self, offset: u64, len: u64, writes: bool, limits: &Limits) -> Cost {
        let goes_on = offset == self.end && writes == self.writes;
        let left = if goes_on { self.left } else { 0 };
        let more = len.saturating_sub(left);
        let operations = more.div_ceil(limits.unit_bytes);
        self.left = match operations {
            0 => left - len,
            _ => operations * limits.unit_bytes - more,
        };
        (self.end, self.writes) = (offset.saturating_add(len), writes);
        let bytes = if limits.whole_units { operations * limits.unit_bytes } else { len };
        Cost { operations, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use types::volume::{VolumeKind, VolumeSpec};

    fn at(nanoseconds: u64) -> Instant {
        Instant(Duration::from_nanos(nanoseconds))
    }

    fn limits(kind: VolumeKind, size_gib: u64) -> Limits {
        VolumeSpec { kind, size_gib, iops: None, throughput_mib_s: None }.check().unwrap()
    }

    proptest! {
        #[test]
        fn a_bucket_gives_its_rate_and_what_it_held_and_never_more(
            rate in 1u64..1_000_000,
            capacity in 0u64..100_000,
            steps in prop::collection::vec((0u64..2_000_000_000, 0u64..50_000), 1..100),
        ) {
            let mut bucket = Bucket::full(rate, capacity, at(0));
            let (mut now, mut taken) = (0, 0u128);
            for (pause, amount) in steps {
                now += pause;
                match bucket.take(at(now), amount) {
                    Ok(()) => {
                        let most = u128::from(capacity) * 1_000_000_000 + u128::from(rate) * u128::from(now);
                        prop_assert!(taken * 1_000_000_000 <= most, "before this one");
                        taken += u128::from(amount);
                    }
                    Err(until) => {
                        prop_assert!(until > at(now));
                        // Not a moment sooner, and then for sure.
                        let sooner = Instant(until.0 - Duration::from_nanos(1));
                        prop_assert!(bucket.clone().take(sooner, 1).is_err());
                        prop_assert_eq!(bucket.clone().take(until, 1), Ok(()));
                    }
                }
            }
        }

        #[test]
        fn a_patient_client_gets_exactly_the_rate(rate in 1u64..100_000, amount in 1u64..1000) {
            let mut bucket = Bucket::full(rate, 0, at(0));
            let mut now = at(0);
            for _ in 0..100 {
                if let Err(until) = bucket.take(now, amount) {
                    now = until;
                    prop_assert_eq!(bucket.take(now, amount), Ok(()));
                }
            }
            let due = u128::from(amount) * 99 * 1_000_000_000 / u128::from(rate);
            prop_assert!(now.0.as_nanos().abs_diff(due) <= 100, "{now:?}, not {due} ns");
        }

        #[test]
        fn time_that_goes_back_changes_nothing(rate in 1u64..1000, first in 0u64..u64::MAX, second in 0u64..u64::MAX) {
            let mut bucket = Bucket::full(rate, 10, at(0));
            prop_assert_eq!(bucket.take(at(first), 20), Ok(()));
            let before = bucket.clone();
            let _ = bucket.ready(at(first.min(second)));
            prop_assert_eq!(bucket, before);
        }
    }

    /// How many operations of 4 KiB a client gets in some seconds that always has one waiting.
    fn operations(meters: &mut Meters, from_s: u64, to_s: u64) -> u64 {
        let (mut now, end) = (Instant(Duration::from_secs(from_s)), Instant(Duration::from_secs(to_s)));
        let mut count = 0;
        while now < end {
            match meters.take(now, Cost { operations: 1, bytes: 4096 }) {
                Ok(()) => count += 1,
                Err(until) => now = until,
            }
        }
        count
    }

    #[test]
    fn the_burst_of_gp2_lasts_as_long_as_published_and_comes_back() {
        // 100 GiB: 300 IOPS; 5.4 million credits at a net loss of 2,700 a second last for 2,000 s.
        let mut meters = Meters::new(&limits(VolumeKind::Gp2, 100), at(0));
        let close =
            |found: u64, expected: u64| assert!(found.abs_diff(expected) <= 40, "{found}, not {expected}");
        close(operations(&mut meters, 0, 1999), 1999 * 3000);
        operations(&mut meters, 1999, 2001);
        close(operations(&mut meters, 2001, 2101), 100 * 300);
        // Idle for 100 s: 30,000 credits, with which the peak lasts 11 s.
        close(operations(&mut meters, 2201, 2212), 11 * 3000);
        operations(&mut meters, 2212, 2213);
        close(operations(&mut meters, 2213, 2223), 10 * 300);
        // It becomes a gp3 volume while in use, and what it was has no say any more.
        meters.change(&limits(VolumeKind::Gp3, 100), Instant(Duration::from_secs(2223)));
        close(operations(&mut meters, 2223, 2233), 10 * 3000);
    }

    #[test]
    fn a_hard_disk_spends_its_credits_on_whole_units() {
        let limits = limits(VolumeKind::St1, 1024);
        let mut stream = Stream::default();
        let unit = 1 << 20;
        assert_eq!(stream.cost(5 << 30, 4096, false, &limits), Cost { operations: 1, bytes: unit });
        // What follows is of the same unit, until that is full.
        for index in 1..256 {
            assert_eq!(stream.cost((5 << 30) + index * 4096, 4096, false, &limits), Cost::default());
        }
        assert_eq!(stream.cost((5 << 30) + unit, 4096, false, &limits), Cost { operations: 1, bytes: unit });
        // A write is another stream than a read.
        assert_eq!(stream.cost((5 << 30) + unit + 4096, 4096, true, &limits).operations, 1);
    }

    #[test]
    fn a_large_request_is_several_operations_and_small_ones_in_a_row_are_one() {
        let limits = limits(VolumeKind::Gp3, 100);
        let mut stream = Stream::default();
        assert_eq!(stream.cost(1 << 30, 1 << 20, true, &limits), Cost { operations: 4, bytes: 1 << 20 });
        let in_a_row: u64 =
            (0..8).map(|index| stream.cost(index << 15, 32 << 10, false, &limits).operations).sum();
        let apart: u64 =
            (0..8).map(|index| stream.cost(index << 20, 32 << 10, false, &limits).operations).sum();
        assert_eq!((in_a_row, apart), (1, 8));
    }
}
