//! Who goes when a group is too large: of the zone that has the most, whom the termination policies leave.
//!
//! Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-termination-policies.html>.

use jiff::Timestamp;
use types::{InstanceId, Zone};

use super::{Seen, Situation, per_zone};
use crate::records::{TerminationPolicy, VersionId};

/// So many of them, or fewer if others are protected.
pub(super) fn choose(situation: &Situation<'_>, counted: &[Seen<'_>], count: u32) -> Vec<InstanceId> {
    let mut rest = counted.to_vec();
    let mut chosen = Vec::new();
    for _ in 0..count {
        let Some(victim) = next(situation, &rest) else { break };
        rest.retain(|seen| seen.member.id.instance != victim);
        chosen.push(victim);
    }
    chosen
}

fn next(situation: &Situation<'_>, counted: &[Seen<'_>]) -> Option<InstanceId> {
    let group = situation.group;
    let counts = per_zone(counted);
    // A zone that the group has no more goes first.
    let rank = |zone: Zone| {
        let is_enabled = group.places.iter().any(|place| place.zone == zone);
        (!is_enabled, counts.get(&zone).copied().unwrap_or_default())
    };
    let mut left: Vec<Seen<'_>> = counted.iter().filter(|seen| !seen.member.is_protected).copied().collect();
    keep_most(&mut left, |seen| rank(seen.member.place.zone));
    for policy in &group.termination_policies {
        narrow(&mut left, *policy, situation.now);
    }
    left.first().map(|seen| seen.member.id.instance)
}

fn narrow(left: &mut Vec<Seen<'_>>, policy: TerminationPolicy, now: Timestamp) {
    match policy {
        TerminationPolicy::AllocationStrategy | TerminationPolicy::OldestLaunchConfiguration => {}
        TerminationPolicy::ClosestToNextInstanceHour => keep_most(left, |seen| into_hour(seen, now)),
        TerminationPolicy::Default => {
            narrow(left, TerminationPolicy::OldestLaunchTemplate, now);
            narrow(left, TerminationPolicy::ClosestToNextInstanceHour, now);
        }
        TerminationPolicy::NewestInstance => keep_most(left, launched),
        TerminationPolicy::OldestInstance => keep_least(left, launched),
        TerminationPolicy::OldestLaunchTemplate => oldest_template(left),
    }
}

/// Who was launched with another template than most recently goes before all others, and of one template the lowest version.
fn oldest_template(left: &mut Vec<Seen<'_>>) {
    // Templates by when they were last used.
    let used = |template: VersionId| {
        let of = |seen: &&Seen<'_>| {
            seen.member.template.is_some_and(|version| version.template == template.template)
        };
        left.iter().filter(of).filter_map(launched).max()
    };
    let ranks: Vec<_> = left
        .iter()
        .map(|seen| seen.member.template.map(|version| (used(version), version.template, version.number)))
        .collect();
    let least = ranks.iter().min().copied();
    let mut ranks = ranks.into_iter();
    left.retain(|_| ranks.next() == least);
}

fn launched(seen: &Seen<'_>) -> Option<Timestamp> {
    seen.instance.map(|instance| instance.launched)
}

/// Seconds into the hour that it runs.
fn into_hour(seen: &Seen<'_>, now: Timestamp) -> i64 {
    launched(seen).map_or(0, |launched| now.duration_since(launched).as_secs().rem_euclid(3600))
}

fn keep_most<K: Ord>(left: &mut Vec<Seen<'_>>, key: impl Fn(&Seen<'_>) -> K) {
    let most = left.iter().map(&key).max();
    left.retain(|seen| Some(key(seen)) == most);
}

fn keep_least<K: Ord>(left: &mut Vec<Seen<'_>>, key: impl Fn(&Seen<'_>) -> K) {
    let least = left.iter().map(&key).min();
    left.retain(|seen| Some(key(seen)) == least);
}
