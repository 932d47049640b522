//! Where instances are launched: in the zone that has the fewest of a group, and there in the subnet that has.
//!
//! Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-availability-zone-balanced.html>.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use types::{SubnetId, Zone};

use super::{Action, Decision, Hold, Rule, Seen, Situation, Step, per_zone};
use crate::records::{LaunchFailure, MemberState, Place, Process, ScalingGroup};

/// How long a place is left alone at most when launches fail there.
pub const BACK_OFF_MAX: SignedDuration = SignedDuration::from_mins(5);

/// How many there are where, as launches are decided on.
struct Counts {
    zones: BTreeMap<Zone, u32>,
    subnets: BTreeMap<SubnetId, u32>,
}

impl Counts {
    fn of(counted: &[Seen<'_>]) -> Self {
        let mut subnets = BTreeMap::new();
        counted.iter().for_each(|seen| *subnets.entry(seen.member.place.subnet).or_default() += 1);
        Self { zones: per_zone(counted), subnets }
    }

    fn zone(&self, zone: Zone) -> u32 {
        self.zones.get(&zone).copied().unwrap_or_default()
    }

    fn rank(&self, place: &Place) -> (u32, u32, Place) {
        (self.zone(place.zone), self.subnets.get(&place.subnet).copied().unwrap_or_default(), *place)
    }

    fn add(&mut self, place: Place) {
        *self.zones.entry(place.zone).or_default() += 1;
        *self.subnets.entry(place.subnet).or_default() += 1;
    }
}

/// Launches so many.
pub(super) fn grow(situation: &Situation<'_>, counted: &[Seen<'_>], missing: u32, decision: &mut Decision) {
    let group = situation.group;
    if group.is_suspended(Process::Launch) {
        decision.holds.push(Hold::Suspended(Process::Launch));
        return;
    }
    let is_well = |place: &&Place| !situation.failed_zones.contains(&place.zone);
    let mut places: Vec<Place> = group.places.iter().filter(is_well).copied().collect();
    // If none is, it is tried all the same, for people are told by what fails.
    if places.is_empty() {
        places.clone_from(&group.places);
    }
    let open = open(situation, &places, decision);
    let mut counts = Counts::of(counted);
    let actual = super::number(counted.len());
    let leaves_unwell = |step: &&Step| matches!(step.action, Action::Retire(_)) && step.rule.is_unhealthy();
    let leaving = super::number(decision.steps.iter().filter(leaves_unwell).count());
    let mut replaced = group.replaced + leaving;
    for _ in 0..missing {
        let Some(place) = open.iter().min_by_key(|place| counts.rank(place)).copied() else { return };
        let fewest = places.iter().map(|place| counts.zone(place.zone)).min();
        if group.balances_only && fewest.is_some_and(|fewest| fewest < counts.zone(place.zone)) {
            return;
        }
        let rule = match replaced.checked_sub(1) {
            Some(left) => {
                replaced = left;
                Rule::Replaces
            }
            None => Rule::Below { actual, wanted: group.wanted() },
        };
        counts.add(place);
        decision.steps.push(Step { action: Action::Launch { place, is_spare: false }, rule });
    }
}

/// What failed in a place, if none is to be launched there yet. A time too far off was noted before the clock was set back, and is over.
pub fn backs_off(group: &ScalingGroup, place: Place, now: Timestamp) -> Option<&LaunchFailure> {
    let latest = now.saturating_add(BACK_OFF_MAX).unwrap_or(Timestamp::MAX);
    group.failure_in(place.subnet).filter(|failure| failure.until > now && failure.until <= latest)
}

/// Those in which a launch may be tried now.
fn open(situation: &Situation<'_>, places: &[Place], decision: &mut Decision) -> Vec<Place> {
    let mut open = Vec::new();
    for place in places {
        match backs_off(situation.group, *place, situation.now) {
            None => open.push(*place),
            Some(failure) => {
                let (count, until) = (failure.count, failure.until);
                decision.holds.push(Hold::BacksOff { place: *place, count, until });
                decision.ask_at(Some(until));
            }
        }
    }
    open
}

/// Launches one more where there are the fewest, if another zone has two more at least: when it is in service, one of those goes. Several are launched
/// together, up to a tenth of the greatest size. Says whether anything is to be done.
pub(super) fn rebalance(situation: &Situation<'_>, counted: &[Seen<'_>], decision: &mut Decision) -> bool {
    let group = situation.group;
    let needed = [Process::AzRebalance, Process::Launch, Process::Terminate];
    if needed.iter().any(|process| group.is_suspended(*process)) {
        return false;
    }
    let is_well = |place: &&Place| !situation.failed_zones.contains(&place.zone);
    let places: Vec<Place> = group.places.iter().filter(is_well).copied().collect();
    let places = open(situation, &places, decision);
    let enabled: BTreeSet<Zone> = group.places.iter().map(|place| place.zone).collect();
    let mut counts = Counts::of(counted);
    let mut movable = movable(counted);
    let mut steps = Vec::new();
    for _ in 0..(group.max / 10).max(1) {
        let Some(place) = places.iter().min_by_key(|place| counts.rank(place)).copied() else { break };
        let fewest = counts.zone(place.zone);
        // From a zone that the group has no more, everybody moves.
        let is_crowded = |zone: Zone, count: u32| !enabled.contains(&zone) || count >= fewest + 2;
        let crowded: Vec<_> = counts
            .zones
            .iter()
            .map(|(zone, count)| (*zone, *count))
            .filter(|(zone, count)| is_crowded(*zone, *count))
            .collect();
        let from = crowded
            .iter()
            .filter(|(zone, _)| movable.get(zone).is_some_and(|left| *left > 0))
            .max_by_key(|(zone, count)| (!enabled.contains(zone), *count));
        let Some((from, _)) = from.copied() else { break };
        steps.push(Step {
            action: Action::Launch { place, is_spare: true },
            rule: Rule::Unbalanced { crowded },
        });
        counts.add(place);
        counts.zones.entry(from).and_modify(|count| *count -= 1);
        movable.entry(from).and_modify(|left| *left -= 1);
    }
    let is_any = !steps.is_empty();
    decision.steps.extend(steps);
    is_any
}

/// How many could go from each zone.
fn movable(counted: &[Seen<'_>]) -> BTreeMap<Zone, u32> {
    let can_go = |seen: &&Seen<'_>| {
        !seen.member.is_protected && matches!(seen.member.state, MemberState::InService { .. })
    };
    per_zone(&counted.iter().filter(can_go).copied().collect::<Vec<_>>())
}
