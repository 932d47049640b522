//! A link that is worse than it is: slower, later, and losing some.
//!
//! ```text
//!  frame ─▶ lost? ─▶ queue, which leaves at the rate ─▶ latency, more or less ─▶ due
//!                      └─▶ dropped when it is full
//! ```
//!
//! [`Link`] is one direction of an interface. It says when a frame is due and holds none: it is told the time and draws
//! numbers that follow from a seed, so the same frames at the same times fare the same. All pairs of queues share it, so
//! that a rate is the interface's. A [`Line`] holds the frames of one pair until they are due.
//!
//! The rate is kept as a time at which the link is free again, which is a token bucket without a burst: a worker that
//! wakes late finds several frames due and loses none of the rate.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::HEADER_BYTES;
use super::device::DirectionCounters;

const LATENCY_US_MAX: u64 = 60_000_000;
const MILLION: u32 = 1_000_000;
const RATE_MIN: u64 = 1_000;
const RATE_MAX: u64 = 1_000_000_000_000;
/// The longest frame fits into the shortest queue.
const QUEUE_BYTES_MIN: u64 = 128 << 10;
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// What a queue holds if nobody says: before a rate as much as a router does, else what a fast link has under way.
const QUEUE_BYTES_BEFORE_RATE: u64 = 1 << 20;
const QUEUE_BYTES_DEFAULT: u64 = 16 << 20;

/// What it takes to hold a frame, beside its bytes.
const HOLDING_BYTES: u64 = 128;

/// What is wrong with one direction of an interface: nothing, if all is as by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Impairment {
    /// Microseconds that each frame is under way, at most a minute.
    pub latency_us: u64,
    /// By so many microseconds more or less, at most the latency; any such time is as likely.
    pub jitter_us: u64,
    /// Of a million frames so many are lost.
    pub loss_ppm: u32,
    /// Of a million frames so many come twice.
    pub duplicate_ppm: u32,
    /// Bits of frames that pass in a second, 1,000 to 10^12; as many as can if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_bps: Option<u64>,
    /// What waits and is under way at most, 128 KiB to 64 MiB, 128 bytes added to each frame; what comes beyond is dropped. If
    /// not given, 1 MiB before a rate and else 16 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u64>,
    /// A frame may overtake others by its jitter.
    pub reorder: bool,
    /// From which the numbers follow that decide what is lost, comes twice, and how late.
    pub seed: u64,
}

/// A member of an [`Impairment`] that is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member}: expected {expected}")]
pub struct ImpairmentError {
    pub member: &'static str,
    pub expected: &'static str,
}

impl Impairment {
    /// Whether each member is in its range.
    ///
    /// # Errors
    /// [`ImpairmentError`], of the first that is not.
    pub fn check(&self) -> Result<(), ImpairmentError> {
        let is_within = |given: Option<u64>, min, max| given.is_none_or(|given| (min..=max).contains(&given));
        let checks = [
            ("latency_us", self.latency_us <= LATENCY_US_MAX, "at most 60000000, which is a minute"),
            ("jitter_us", self.jitter_us <= self.latency_us, "at most the latency"),
            ("loss_ppm", self.loss_ppm <= MILLION, "at most 1000000, which is all"),
            ("duplicate_ppm", self.duplicate_ppm <= MILLION, "at most 1000000, which is all"),
            ("rate_bps", is_within(self.rate_bps, RATE_MIN, RATE_MAX), "1000 to 1000000000000 bits a second"),
            (
                "queue_bytes",
                is_within(self.queue_bytes, QUEUE_BYTES_MIN, QUEUE_BYTES_MAX),
                "131072 to 67108864 bytes",
            ),
        ];
        match checks.into_iter().find(|(_, is_good, _)| !is_good) {
            Some((member, _, expected)) => Err(ImpairmentError { member, expected }),
            None => Ok(()),
        }
    }

    /// What waits and is under way at most.
    fn room(&self) -> u64 {
        let default = self.rate_bps.map_or(QUEUE_BYTES_DEFAULT, |_| QUEUE_BYTES_BEFORE_RATE);
        self.queue_bytes.unwrap_or(default)
    }

    /// Whether a frame fares as it would without it.
    pub fn is_nothing(&self) -> bool {
        (self.latency_us, self.loss_ppm, self.duplicate_ppm, self.rate_bps) == (0, 0, 0, None)
    }
}

/// Both directions of an interface, as the guest sees them: in what is told, those with which something is wrong, and in what is asked, those
/// that are to be so. The other stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Impairments {
    /// Of what comes to the guest.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Impairment>,
    /// Of what the guest sends.
    #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Impairment>,
}

/// Pseudo-random numbers that follow from a seed: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if there is none.
    fn below(&mut self, end: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(end)) >> u64::BITS).unwrap_or(0)
    }

    fn happens(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(u64::from(MILLION)) < u64::from(ppm)
    }
}

/// One direction of an interface. Times are nanoseconds of one clock.
#[derive(Debug)]
pub(super) struct Link {
    impairment: Option<Impairment>,
    /// Counts how often it was set.
    revision: u64,
    random: Random,
    /// When what was let in so far has left.
    free_at: u64,
    /// What lines hold.
    held_bytes: u64,
}

impl Default for Link {
    fn default() -> Self {
        Link { impairment: None, revision: 0, random: Random(0), free_at: 0, held_bytes: 0 }
    }
}

impl Link {
    pub(super) fn set(&mut self, impairment: Impairment) {
        self.revision += 1;
        self.random = Random(impairment.seed);
        self.free_at = 0;
        self.impairment = Some(impairment).filter(|impairment| !impairment.is_nothing());
    }

    pub(super) fn impairment(&self) -> Option<&Impairment> {
        self.impairment.as_ref()
    }

    fn loses(&mut self) -> bool {
        self.impairment.as_ref().is_some_and(|impairment| self.random.happens(impairment.loss_ppm))
    }

    fn duplicates(&mut self) -> bool {
        self.impairment.as_ref().is_some_and(|impairment| self.random.happens(impairment.duplicate_ppm))
    }

    /// When a frame of `bytes` is due that comes now; `None` when there is no room for it.
    fn let_in(&mut self, now: u64, bytes: u64) -> Option<u64> {
        let queue_bytes = self.impairment.as_ref().map_or(QUEUE_BYTES_DEFAULT, Impairment::room);
        let held_bytes = self.held_bytes + bytes + HOLDING_BYTES;
        if held_bytes > queue_bytes {
            return None;
        }
        self.held_bytes = held_bytes;
        let Some(impairment) = &self.impairment else { return Some(now) };
        let mut due = now;
        if let Some(rate) = impairment.rate_bps {
            self.free_at = self.free_at.max(now) + bytes * 8 * 1_000_000_000 / rate;
            due = self.free_at;
        }
        let jitter = impairment.jitter_us * 1_000;
        let earliest = impairment.latency_us * 1_000 - jitter;
        Some(due + earliest + if jitter == 0 { 0 } else { self.random.below(2 * jitter + 1) })
    }

    fn let_go(&mut self, bytes: u64) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes + HOLDING_BYTES);
    }
}

pub(super) fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a frame is without virtio's header.
fn bytes_of(frame: &[u8]) -> u64 {
    u64::try_from(frame.len().saturating_sub(HEADER_BYTES)).unwrap_or(0)
}

/// The frames of one pair and direction that are under way, with their headers.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// By when they are due and, of the same time, by how they came.
    frames: BTreeMap<(u64, u64), Box<[u8]>>,
    /// How many have come.
    count: u64,
    /// When the last of them is due.
    last_due: u64,
    /// What of the link is heeded.
    revision: u64,
    is_impaired: bool,
    keeps_order: bool,
}

impl Line {
    /// Frames pass as if there were no line.
    pub(super) fn is_open(&self) -> bool {
        !self.is_impaired && self.frames.is_empty()
    }

    /// Takes up what was set of the link since the last call. What is under way then arrives at once: how long it would have
    /// taken is no more of interest.
    pub(super) fn heed(&mut self, link: &Link) {
        if self.revision == link.revision {
            return;
        }
        self.revision = link.revision;
        self.is_impaired = link.impairment.is_some();
        self.keeps_order = link.impairment.as_ref().is_none_or(|impairment| !impairment.reorder);
        let waiting = std::mem::take(&mut self.frames).into_values();
        self.frames = (0..).zip(waiting).map(|(place, frame)| ((0, place), frame)).collect();
        (self.count, self.last_due) = (u64::try_from(self.frames.len()).unwrap_or(0), 0);
    }

    /// Sends a frame of `bytes` with its header, which `copy` gives if it is to be kept.
    pub(super) fn send(
        &mut self,
        link: &Mutex<Link>,
        now: u64,
        bytes: usize,
        copy: impl Fn() -> Box<[u8]>,
        counters: &DirectionCounters,
    ) {
        let bytes = u64::try_from(bytes.saturating_sub(HEADER_BYTES)).unwrap_or(0);
        let mut link = lock(link);
        if link.loses() {
            counters.impairment_dropped.add(1);
            return;
        }
        let first = link.let_in(now, bytes);
        let second = link.duplicates().then(|| link.let_in(now, bytes));
        drop(link);
        for due in std::iter::once(first).chain(second) {
            match due {
                Some(due) => {
                    counters.delayed.add(1);
                    self.keep(due, copy());
                }
                None => counters.impairment_dropped.add(1),
            }
        }
    }

    fn keep(&mut self, due: u64, frame: Box<[u8]>) {
        let due = if self.keeps_order { due.max(self.last_due) } else { due };
        self.frames.insert((due, self.count), frame);
        (self.count, self.last_due) = (self.count + 1, due);
    }

    /// When the next frame is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.frames.first_key_value().map(|((due, _), _)| *due)
    }

    /// The next frame that is due.
    pub(super) fn take_due(&mut self, link: &Mutex<Link>, now: u64) -> Option<Box<[u8]>> {
        let first = self.frames.first_entry().filter(|first| first.key().0 <= now)?;
        let frame = first.remove();
        lock(link).let_go(bytes_of(&frame));
        Some(frame)
    }

    /// Drops what is under way.
    pub(super) fn clear(&mut self, link: &Mutex<Link>) {
        for frame in std::mem::take(&mut self.frames).into_values() {
            lock(link).let_go(bytes_of(&frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    /// A link, a line on it, and when each of `frames`, which are (time, bytes), arrives; each is numbered in its first bytes.
    fn arrivals(impairment: Impairment, frames: &[(u64, usize)]) -> (Vec<(u64, u32)>, DirectionCounters) {
        impairment.check().unwrap();
        let (link, mut line, counters) =
            (Mutex::new(Link::default()), Line::default(), DirectionCounters::default());
        lock(&link).set(impairment);
        line.heed(&lock(&link));
        let mut arrived = Vec::new();
        let mut arrive_until = |line: &mut Line, now| {
            while let Some(due) = line.next_due().filter(|due| *due <= now) {
                assert!(due.checked_sub(1).and_then(|before| line.take_due(&link, before)).is_none());
                let frame = line.take_due(&link, due).unwrap();
                arrived.push((due, u32::from_le_bytes(frame[..4].try_into().unwrap())));
            }
        };
        for (number, &(now, bytes)) in (0u32..).zip(frames) {
            arrive_until(&mut line, now);
            let mut frame = vec![0; bytes + HEADER_BYTES];
            frame[..4].copy_from_slice(&number.to_le_bytes());
            line.send(&link, now, frame.len(), || frame.clone().into(), &counters);
        }
        arrive_until(&mut line, u64::MAX);
        assert_eq!(lock(&link).held_bytes, 0);
        (arrived, counters)
    }

    #[test]
    fn a_frame_is_as_late_as_the_latency_says() {
        let impairment = Impairment { latency_us: 50_000, ..Impairment::default() };
        let (arrived, counters) = arrivals(impairment, &[(0, 60), (7 * MS, 1500)]);
        assert_eq!(arrived, [(50 * MS, 0), (57 * MS, 1)]);
        assert_eq!((counters.delayed.get(), counters.impairment_dropped.get()), (2, 0));
    }

    #[test]
    fn frames_leave_at_the_rate_and_not_sooner_after_a_rest() {
        // 1250 bytes are 1 ms of 10 Mbit/s.
        let impairment =
            Impairment { rate_bps: Some(10_000_000), latency_us: 1_000, ..Impairment::default() };
        let (arrived, _) = arrivals(impairment, &[(0, 1250), (0, 1250), (100 * MS, 1250), (100 * MS, 2500)]);
        assert_eq!(arrived, [(2 * MS, 0), (3 * MS, 1), (102 * MS, 2), (104 * MS, 3)]);
    }

    #[test]
    fn what_the_queue_does_not_hold_is_dropped_and_what_left_makes_room() {
        let impairment =
            Impairment { rate_bps: Some(1_000_000), queue_bytes: Some(128 << 10), ..Impairment::default() };
        // Two fit, with what it takes to hold them.
        let (arrived, counters) =
            arrivals(impairment, &[(0, 60_000), (0, 60_000), (0, 60_000), (480 * MS, 60_000)]);
        assert_eq!(arrived, [(480 * MS, 0), (960 * MS, 1), (1440 * MS, 3)]);
        assert_eq!(counters.impairment_dropped.get(), 1);
    }

    #[test]
    fn frames_without_bytes_fill_the_queue_too() {
        let impairment = Impairment { latency_us: 1, queue_bytes: Some(128 << 10), ..Impairment::default() };
        let (arrived, _) = arrivals(impairment, &vec![(0, 0); 2000]);
        assert_eq!(arrived.len(), 1024);
    }

    #[test]
    fn jitter_keeps_the_order_unless_it_may_not() {
        let impairment =
            Impairment { latency_us: 10_000, jitter_us: 10_000, seed: 3, ..Impairment::default() };
        let frames: Vec<_> = (0..200).map(|number| (number * MS / 10, 60)).collect();
        let (arrived, _) = arrivals(impairment.clone(), &frames);
        assert!(arrived.iter().map(|(_, number)| *number).eq(0..200));
        assert!(
            arrived.iter().all(|&(at, number)| at - frames[usize::try_from(number).unwrap()].0 <= 20 * MS)
        );
        let (arrived, _) = arrivals(Impairment { reorder: true, ..impairment }, &frames);
        assert!(!arrived.iter().map(|(_, number)| *number).eq(0..200));
        let late = arrived.iter().map(|&(at, number)| at - frames[usize::try_from(number).unwrap()].0);
        let (min, max) = (late.clone().min().unwrap(), late.max().unwrap());
        assert!(min < 2 * MS && (18 * MS..=20 * MS).contains(&max), "{min} to {max}");
    }

    #[test]
    fn what_is_lost_and_comes_twice_follows_from_the_seed() {
        let impairment =
            Impairment { loss_ppm: 100_000, duplicate_ppm: 50_000, seed: 1, ..Impairment::default() };
        let frames = vec![(0, 60); 10_000];
        let (arrived, counters) = arrivals(impairment.clone(), &frames);
        let (again, _) = arrivals(impairment.clone(), &frames);
        assert_eq!(arrived, again);
        let (other, _) = arrivals(Impairment { seed: 2, ..impairment }, &frames);
        assert_ne!(arrived, other);
        let lost = counters.impairment_dropped.get();
        assert!((900..1100).contains(&lost), "{lost} of 10000 were lost");
        let twice = arrived.len() - (10_000 - usize::try_from(lost).unwrap());
        assert!((380..520).contains(&twice), "{twice} of 9000 came twice");
    }

    #[test]
    fn what_is_under_way_when_the_link_is_set_again_arrives_at_once_and_in_order() {
        let (link, mut line, counters) =
            (Mutex::new(Link::default()), Line::default(), DirectionCounters::default());
        assert!(line.is_open());
        let slow = Impairment { latency_us: 1_000_000, ..Impairment::default() };
        lock(&link).set(slow.clone());
        line.heed(&lock(&link));
        let send = |line: &mut Line, number: u8| {
            line.send(&link, 5, HEADER_BYTES + 1, || vec![number; HEADER_BYTES + 1].into(), &counters);
        };
        send(&mut line, 1);
        send(&mut line, 2);
        assert!(line.take_due(&link, MS).is_none());
        lock(&link).set(Impairment::default());
        line.heed(&lock(&link));
        // Nothing impairs it, but others are before it.
        assert!(!line.is_open());
        send(&mut line, 3);
        let mut next = || line.take_due(&link, 5).map(|frame| frame[0]);
        assert_eq!([next(), next(), next(), next()], [Some(1), Some(2), Some(3), None]);
        assert!(line.is_open() && lock(&link).held_bytes == 0);
        lock(&link).set(slow);
        line.heed(&lock(&link));
        send(&mut line, 4);
        line.clear(&link);
        assert!(line.next_due().is_none() && lock(&link).held_bytes == 0);
    }

    #[test]
    fn members_out_of_their_range_are_named() {
        let wrong = |impairment: Impairment| impairment.check().unwrap_err().member;
        assert_eq!(wrong(Impairment { latency_us: 60_000_001, ..Impairment::default() }), "latency_us");
        assert_eq!(wrong(Impairment { latency_us: 5, jitter_us: 6, ..Impairment::default() }), "jitter_us");
        assert_eq!(wrong(Impairment { loss_ppm: 1_000_001, ..Impairment::default() }), "loss_ppm");
        assert_eq!(wrong(Impairment { duplicate_ppm: u32::MAX, ..Impairment::default() }), "duplicate_ppm");
        assert_eq!(wrong(Impairment { rate_bps: Some(999), ..Impairment::default() }), "rate_bps");
        assert_eq!(wrong(Impairment { queue_bytes: Some(1), ..Impairment::default() }), "queue_bytes");
    }

    proptest! {
        /// Whatever is set, within its ranges, and whenever frames come: none is early, none overflows, none is held for ever.
        #[test]
        fn no_frame_is_early_or_out_of_order(
            latency_us in 0..=LATENCY_US_MAX, jitter in 0..=1000u64, rate_bps in prop::option::of(RATE_MIN..=RATE_MAX),
            loss_ppm in 0..=MILLION, duplicate_ppm in 0..=MILLION, seed: u64,
            mut frames in prop::collection::vec((0..1000 * MS, 0..65_000usize), 0..50),
        ) {
            frames.sort_unstable();
            let jitter_us = latency_us * jitter / 1000;
            let impairment = Impairment { latency_us, jitter_us, loss_ppm, duplicate_ppm, rate_bps, seed, ..Impairment::default() };
            let (arrived, counters) = arrivals(impairment, &frames);
            prop_assert!(arrived.is_sorted());
            for (at, number) in &arrived {
                let (sent, bytes) = frames[usize::try_from(*number).unwrap()];
                let rate = rate_bps.unwrap_or(u64::MAX);
                let least = (latency_us - jitter_us) * 1000 + u64::try_from(bytes).unwrap() * 8_000_000_000 / rate;
                prop_assert!(*at >= sent + least);
            }
            prop_assert_eq!(u64::try_from(arrived.len()).unwrap(), counters.delayed.get());
        }
    }
}
