//! Picks a target of one group, for one worker.

use std::sync::Arc;

use types::Instant;

use super::group::{Group, Lease, Member, Standing};
use super::random::Random;
use crate::config::Algorithm;

/// A worker's turns in a group.
#[derive(Debug)]
pub struct Picker {
    group: Arc<Group>,
    /// Whose turn is next, in [`Group::turns`].
    next: usize,
    /// How much of a turn each has saved up that is not yet given a whole one.
    saved: Vec<f64>,
    random: Random,
}

impl Picker {
    /// Begins at a turn that `random` gives, so that workers do not all begin with the same target.
    pub fn new(group: Arc<Group>, mut random: Random) -> Self {
        let count = group.turns.len();
        let next = random.below(u32::try_from(count).unwrap_or(u32::MAX)) as usize;
        Self { group, next, saved: vec![0.0; count], random }
    }

    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Goes on with `group` in place of the one until now.
    pub fn replace(&mut self, group: Arc<Group>) {
        self.next = self.next.checked_rem(group.turns.len()).unwrap_or(0);
        self.saved = vec![0.0; group.turns.len()];
        self.group = group;
    }

    /// A target for the next request, by the group's algorithm; none if no target may have it.
    pub fn pick(&mut self, now: Instant) -> Option<Lease> {
        // Ready ones are asked for again: the first may have become so after the others were asked for.
        [Standing::Ready, Standing::Doubtful, Standing::Ready].into_iter().find_map(|standing| {
            let turn = match self.group.algorithm {
                Algorithm::RoundRobin => self.round_robin(standing, now),
                Algorithm::LeastOutstandingRequests => self.least_outstanding(standing),
                Algorithm::WeightedRandom => self.random(standing),
            }?;
            Some(Lease::new(&self.group.turns[turn]))
        })
    }

    /// The target that the cookie tag `tag` was made for, if it may have requests.
    pub(super) fn sticky(&self, tag: u128) -> Option<Lease> {
        let tags = &self.group.member_tags;
        let at = tags.binary_search_by_key(&tag, |(tag, _)| *tag).ok()?;
        let member = &self.group.turns[tags[at].1];
        let is_served = match member.standing() {
            Standing::Ready => true,
            Standing::Doubtful => self.turns(Standing::Ready).next().is_none(),
            Standing::Out => false,
        };
        is_served.then(|| Lease::new(member))
    }

    /// How many targets there are.
    pub(super) fn count(&self) -> usize {
        self.group.turns.len()
    }

    /// Whether `member` is of this group.
    pub(super) fn has(&self, member: &Arc<Member>) -> bool {
        self.group.turns.iter().any(|turn| Arc::ptr_eq(turn, member))
    }

    /// What cookies call `member`, which is of this group.
    pub(super) fn tag(&self, member: &Arc<Member>) -> Option<u128> {
        let is_it = |(_, turn): &&(u128, usize)| Arc::ptr_eq(&self.group.turns[*turn], member);
        self.group.member_tags.iter().find(is_it).map(|(tag, _)| *tag)
    }

    /// The turns of those that stand as `standing`, from the next one on.
    fn turns(&self, standing: Standing) -> impl Iterator<Item = usize> + use<'_> {
        let count = self.group.turns.len();
        (self.next..count)
            .chain(0..self.next)
            .filter(move |turn| self.group.turns[*turn].standing() == standing)
    }

    /// Each has a turn; in slow start it takes it only when it has saved a whole one.
    fn round_robin(&mut self, standing: Standing, now: Instant) -> Option<usize> {
        for step in 0..self.group.turns.len() {
            let turn = (self.next + step) % self.group.turns.len();
            let member = &self.group.turns[turn];
            if member.standing() != standing {
                continue;
            }
            self.saved[turn] += member.share(self.group.slow_start, now);
            if self.saved[turn] >= 1.0 {
                self.saved[turn] -= 1.0;
                self.next = (turn + 1) % self.group.turns.len();
                return Some(turn);
            }
        }
        // All of them are in slow start, which there is no other to make up for.
        let turn = self.turns(standing).next()?;
        self.next = (turn + 1) % self.group.turns.len();
        Some(turn)
    }

    /// Of several with as few, the one whose turn is next.
    fn least_outstanding(&mut self, standing: Standing) -> Option<usize> {
        let turn = self.turns(standing).min_by_key(|turn| self.group.turns[*turn].outstanding())?;
        self.next = (turn + 1) % self.group.turns.len();
        Some(turn)
    }

    /// All have the same weight, for there is no anomaly mitigation that could change one's.
    fn random(&mut self, standing: Standing) -> Option<usize> {
        let count = u32::try_from(self.turns(standing).count()).unwrap_or(u32::MAX);
        let at = self.random.below(count) as usize;
        // Another may have taken a standing since they were counted.
        self.turns(standing).nth(at).or_else(|| self.turns(standing).next())
    }
}

#[cfg(test)]
mod tests;
