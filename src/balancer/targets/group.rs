//! A target group as all workers see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use types::Instant;

use super::cookie::TagKey;
use crate::config::{Algorithm, Protocol, ProtocolVersion, Stickiness, Target, TargetGroup};

/// What health means to those who pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It gets requests.
    Ready,
    /// It gets requests only while no other of its group is ready.
    Doubtful,
    /// It gets none.
    Out,
}

/// A registered target. It is the same through changes of configuration, as long as it is registered.
#[derive(Debug)]
pub struct Member {
    pub target: Target,
    /// A [`Standing`].
    standing: AtomicU8,
    /// Since when its share grows: milliseconds of [`Instant`] and one, or 0 if it has its full share.
    growing_since: AtomicU64,
    /// Until when it may answer what it was asked, once it was taken away: milliseconds of [`Instant`] and one, or 0 if it is registered.
    leaves_at: AtomicU64,
    outstanding: AtomicU32,
}

impl Member {
    fn new(target: Target) -> Self {
        let (growing_since, leaves_at) = (AtomicU64::new(0), AtomicU64::new(0));
        let (standing, outstanding) = (AtomicU8::new(Standing::Doubtful as u8), AtomicU32::new(0));
        Self { target, standing, growing_since, leaves_at, outstanding }
    }

    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            standing if standing == Standing::Ready as u8 => Standing::Ready,
            standing if standing == Standing::Doubtful as u8 => Standing::Doubtful,
            _ => Standing::Out,
        }
    }

    /// How many requests it has been given and not answered, by all workers.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// It was taken away, and its delay is over: what it still does ends.
    pub fn has_left(&self, now: Instant) -> bool {
        let at = self.leaves_at.load(Ordering::Relaxed);
        at > 0 && now >= Instant(Duration::from_millis(at - 1))
    }

    /// It was taken away, and has until `until`, or less if that was so before.
    fn leave(&self, until: Instant) {
        let at = ms(until).saturating_add(1);
        // It is put back and taken away by one thread alone.
        if self.leaves_at.load(Ordering::Relaxed) == 0 {
            self.leaves_at.store(at, Ordering::Relaxed);
        }
    }

    /// Its part of a full share: 1 but in slow start.
    pub(super) fn share(&self, slow_start: Duration, now: Instant) -> f64 {
        let since = self.growing_since.load(Ordering::Relaxed);
        if since == 0 {
            return 1.0;
        }
        let age = now.since(Instant(Duration::from_millis(since - 1)));
        if age >= slow_start { 1.0 } else { age.div_duration_f64(slow_start) }
    }
}

fn ms(at: Instant) -> u64 {
    u64::try_from(at.0.as_millis()).unwrap_or(u64::MAX - 1)
}

/// A request's hold on its target, which counts as outstanding until this is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Member>);

impl Lease {
    pub(super) fn new(member: &Arc<Member>) -> Self {
        member.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(member))
    }

    pub fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A target group of one configuration.
#[derive(Debug)]
pub struct Group {
    pub(super) protocol: Protocol,
    pub(super) version: ProtocolVersion,
    pub(super) algorithm: Algorithm,
    pub(super) slow_start: Duration,
    /// How long those that are taken away have for what they were asked.
    delay: Duration,
    pub(super) stickiness: Option<Stickiness>,
    /// As in [`TargetGroup::targets`].
    members: Vec<Arc<Member>>,
    /// Those that were taken away, as long as they have something to answer.
    leaving: Vec<Arc<Member>>,
    /// Those that may be picked, in the order of their turns, in which zones alternate.
    pub(super) turns: Vec<Arc<Member>>,
    /// What stickiness cookies call the group, and those that may be picked, in order of the tags.
    pub(super) tag: u128,
    pub(super) member_tags: Vec<(u128, usize)>,
}

impl Group {
    /// The group `name` as `config` says. Members of `previous` that are still there stay what they are; new ones are doubtful until somebody
    /// says more. With `zone`, cross-zone balancing is off, and only targets of this zone are picked.
    pub fn new(
        name: &str,
        config: &TargetGroup,
        zone: Option<&str>,
        key: &TagKey,
        previous: Option<&Self>,
    ) -> Self {
        let member = |target: &Target| {
            let old = previous.and_then(|group| group.member(target));
            old.map_or_else(|| Arc::new(Member::new(target.clone())), Arc::clone)
        };
        let members: Vec<Arc<Member>> = config.targets.iter().map(member).collect();
        let before = previous.iter().flat_map(|group| group.members.iter().chain(&group.leaving));
        let is_gone = |member: &&Arc<Member>| !members.iter().any(|other| Arc::ptr_eq(other, member));
        let leaving = before.filter(is_gone).filter(|member| member.outstanding() > 0).cloned().collect();
        let is_near =
            |member: &&Arc<Member>| zone.is_none_or(|zone| member.target.zone.as_deref() == Some(zone));
        let turns = alternate(members.iter().filter(is_near).cloned().collect());
        let mut member_tags: Vec<(u128, usize)> =
            turns.iter().enumerate().map(|(turn, member)| (key.member(name, &member.target), turn)).collect();
        member_tags.sort_unstable();
        Self {
            protocol: config.protocol,
            version: config.protocol_version,
            algorithm: config.algorithm,
            slow_start: Duration::from_secs(config.slow_start_s.into()),
            delay: Duration::from_secs(config.deregistration_delay_s.into()),
            stickiness: config.stickiness.clone(),
            members,
            leaving,
            turns,
            tag: key.group(name),
            member_tags,
        }
    }

    /// All that are registered, in the order of the configuration.
    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Those that were taken away and still have something to answer, since the last change.
    pub fn leaving(&self) -> &[Arc<Member>] {
        &self.leaving
    }

    fn member(&self, target: &Target) -> Option<&Arc<Member>> {
        self.members.iter().chain(&self.leaving).find(|member| member.target == *target)
    }

    /// Takes the place of `previous`: members that are in this one stay, or are put back, and all others have its delay from `now` on.
    pub fn succeed(&self, previous: &Self, now: Instant) {
        self.members.iter().for_each(|member| member.leaves_at.store(0, Ordering::Relaxed));
        for member in previous.members.iter().chain(&previous.leaving) {
            if !self.members.iter().any(|other| Arc::ptr_eq(other, member)) {
                member.leave(now.after(self.delay));
            }
        }
    }

    /// The group is no more: all members have its delay from `now` on.
    pub fn dissolve(&self, now: Instant) {
        self.members.iter().chain(&self.leaving).for_each(|member| member.leave(now.after(self.delay)));
    }

    /// Says how `member`, one of this group's, stands from `now` on. One that becomes ready begins slowly if the group is to, and if another
    /// is ready that does not. To be called by health's one owner only.
    pub fn set_standing(&self, member: &Member, standing: Standing, now: Instant) {
        let was = member.standing();
        if was != Standing::Ready && standing == Standing::Ready {
            let is_full = |other: &&Arc<Member>| {
                other.standing() == Standing::Ready && other.share(self.slow_start, now) >= 1.0
            };
            let is_slow = !self.slow_start.is_zero() && self.members.iter().any(|other| is_full(&other));
            member.growing_since.store(if is_slow { ms(now) + 1 } else { 0 }, Ordering::Relaxed);
        }
        member.standing.store(standing as u8, Ordering::Relaxed);
    }
}

/// The members so that one of each zone follows another, as long as there are.
fn alternate(mut members: Vec<Arc<Member>>) -> Vec<Arc<Member>> {
    let mut seen = std::collections::BTreeMap::<Option<String>, usize>::new();
    members.sort_by_cached_key(|member| {
        let count = seen.entry(member.target.zone.clone()).or_default();
        *count += 1;
        (*count, member.target.zone.clone())
    });
    members
}
