use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::TargetGroup;
use crate::targets::TagKey;

fn at(ms: u64) -> Instant {
    Instant(Duration::from_millis(ms))
}

/// A group with a target in each of `zones`, named 0, 1 and so on.
fn config(algorithm: &str, slow_start_s: u32, zones: &[&str]) -> TargetGroup {
    let target = |(at, zone): (usize, &&str)| json!({"id": at.to_string(), "ip": "10.0.0.1", "port": 8000 + at, "zone": zone});
    let targets: Vec<_> = zones.iter().enumerate().map(target).collect();
    serde_json::from_value(json!({"algorithm": algorithm, "slow_start_s": slow_start_s, "targets": targets}))
        .unwrap()
}

fn group(config: &TargetGroup, zone: Option<&str>, previous: Option<&Group>) -> Arc<Group> {
    Arc::new(Group::new("web", config, zone, &TagKey::new([1; 32]), previous))
}

/// A group of which all targets are ready, and a picker for it.
fn ready(algorithm: &str, zones: &[&str]) -> Picker {
    let group = group(&config(algorithm, 0, zones), None, None);
    set_all(&group, &vec![Standing::Ready; zones.len()]);
    Picker::new(group, Random::new(1))
}

fn set_all(group: &Group, standings: &[Standing]) {
    for (member, standing) in group.members().iter().zip(standings) {
        group.set_standing(member, *standing, at(0));
    }
}

fn id(lease: &Lease) -> usize {
    lease.member().target.id.parse().unwrap()
}

/// The ids of the next `count` that are picked, each of which is done before the next.
fn picks(picker: &mut Picker, count: usize, now: Instant) -> Vec<usize> {
    (0..count).map(|_| id(&picker.pick(now).unwrap())).collect()
}

fn counts(ids: &[usize]) -> BTreeMap<usize, usize> {
    ids.iter().fold(BTreeMap::new(), |mut counts, id| {
        *counts.entry(*id).or_default() += 1;
        counts
    })
}

const ALGORITHMS: [&str; 3] = ["round_robin", "least_outstanding_requests", "weighted_random"];

#[test]
fn round_robin_gives_each_its_turn_and_goes_from_zone_to_zone() {
    let zones = ["a", "a", "a", "b", "b", "b"];
    let mut picker = ready("round_robin", &zones);
    let ids = picks(&mut picker, 60, at(0));
    assert!(counts(&ids).values().all(|count| *count == 10), "{ids:?}");
    assert!(ids.windows(2).all(|pair| zones[pair[0]] != zones[pair[1]]), "{ids:?}");
}

#[test]
fn workers_do_not_all_begin_with_the_same_target() {
    let picker = ready("round_robin", &["a"; 10]);
    let first = |seed| id(&Picker::new(Arc::clone(picker.group()), Random::new(seed)).pick(at(0)).unwrap());
    assert!(counts(&(0..100).map(first).collect::<Vec<_>>()).len() > 5);
}

#[test]
fn the_one_with_the_fewest_outstanding_requests_is_next_and_ties_take_turns() {
    let mut picker = ready("least_outstanding_requests", &["a"; 4]);
    let held: Vec<Lease> = (0..4).map(|_| picker.pick(at(0)).unwrap()).collect();
    assert_eq!(counts(&held.iter().map(id).collect::<Vec<_>>()).len(), 4, "ties take turns");
    let freed = id(&held[2]);
    drop(held.into_iter().nth(2));
    // Dropping the others freed all of them; hold all but one anew.
    let others: Vec<Lease> =
        std::iter::from_fn(|| picker.pick(at(0))).take(4).filter(|lease| id(lease) != freed).collect();
    assert_eq!(others.len(), 3);
    assert_eq!(picks(&mut picker, 3, at(0)), [freed; 3]);
    assert!(picker.group().members().iter().all(|member| member.outstanding() <= 1));
    drop(others);
    assert!(picker.group().members().iter().all(|member| member.outstanding() == 0));
}

#[test]
fn weighted_random_is_even_without_anomalies() {
    let mut picker = ready("weighted_random", &["a"; 5]);
    let ids = picks(&mut picker, 5000, at(0));
    assert!(counts(&ids).values().all(|count| (850..1150).contains(count)));
    assert!(ids.windows(2).any(|pair| pair[0] == pair[1]), "a turn is no dice");
}

#[test]
fn with_cross_zone_off_only_the_own_zone_is_picked() {
    let config = config("round_robin", 0, &["a", "b", "a", "b"]);
    let near = group(&config, Some("b"), None);
    // Unhealthy ones of the own zone are better than healthy ones elsewhere.
    set_all(&near, &[Standing::Ready, Standing::Doubtful, Standing::Ready, Standing::Doubtful]);
    let mut picker = Picker::new(near, Random::new(1));
    let picked = counts(&picks(&mut picker, 10, at(0)));
    assert_eq!(picked, BTreeMap::from([(1, 5), (3, 5)]));
    assert!(Picker::new(group(&config, Some("c"), None), Random::new(1)).pick(at(0)).is_none());
}

#[test]
fn a_group_that_changes_keeps_its_members_and_their_counts() {
    let mut picker = ready("round_robin", &["a"; 3]);
    let held: Vec<Lease> = (0..3).map(|_| picker.pick(at(0)).unwrap()).collect();
    let mut config = config("round_robin", 0, &["a"; 4]);
    config.targets.remove(0);
    let old = Arc::clone(picker.group());
    picker.replace(group(&config, None, Some(&old)));
    let members = picker.group().members();
    let seen: Vec<_> = members
        .iter()
        .map(|member| (member.target.id.as_str(), member.standing(), member.outstanding()))
        .collect();
    // The new one has yet to be proven, and the one that is gone gets nothing.
    assert_eq!(seen, [("1", Standing::Ready, 1), ("2", Standing::Ready, 1), ("3", Standing::Doubtful, 0)]);
    assert_eq!(counts(&picks(&mut picker, 10, at(0))), BTreeMap::from([(1, 5), (2, 5)]));
    drop(held);
    assert!(old.members().iter().all(|member| member.outstanding() == 0));
}

#[test]
fn a_target_that_becomes_healthy_gets_a_share_that_grows_in_a_line() {
    let config = config("round_robin", 100, &["a"; 3]);
    let group = group(&config, None, None);
    let [first, second, slow] = group.members() else { panic!("three members") };
    // Nobody could take their part if these began slowly.
    group.set_standing(first, Standing::Ready, at(0));
    group.set_standing(second, Standing::Ready, at(200_000));
    group.set_standing(slow, Standing::Ready, at(400_000));
    let mut picker = Picker::new(Arc::clone(&group), Random::new(1));
    // Of 3000 requests, with a share s against two whole ones: 3000 s / (2 + s).
    for (ms, expected) in
        [(400_000, 0), (425_000, 333), (450_000, 600), (475_000, 818), (500_000, 1000), (900_000, 1000)]
    {
        let picked = counts(&picks(&mut picker, 3000, at(ms)));
        let slow = picked.get(&2).copied().unwrap_or(0);
        assert!(slow.abs_diff(expected) <= 2, "{slow} instead of {expected} at {ms}");
        assert!(picked[&0].abs_diff(picked[&1]) <= 2);
    }
    // Unhealthy and back, it begins anew.
    group.set_standing(slow, Standing::Doubtful, at(900_000));
    group.set_standing(slow, Standing::Ready, at(950_000));
    assert!(!picks(&mut picker, 100, at(950_000)).contains(&2));
    // With nobody else left, it takes all.
    for member in [first, second] {
        group.set_standing(member, Standing::Out, at(951_000));
    }
    assert_eq!(picks(&mut picker, 10, at(951_000)), [2; 10]);
}

#[test]
fn the_first_targets_of_a_group_do_not_begin_slowly() {
    let group = group(&config("round_robin", 100, &["a"; 2]), None, None);
    let [first, second] = group.members() else { panic!("two members") };
    group.set_standing(first, Standing::Ready, at(1000));
    assert!(first.share(group.slow_start, at(1000)) >= 1.0);
    // And one after them does.
    group.set_standing(second, Standing::Ready, at(2000));
    assert!((second.share(group.slow_start, at(52_000)) - 0.5).abs() < 1e-9);
    // Saying again that it is ready changes nothing.
    group.set_standing(second, Standing::Ready, at(50_000));
    assert!((second.share(group.slow_start, at(52_000)) - 0.5).abs() < 1e-9);
}

#[test]
fn who_is_healthy_when_slow_start_is_turned_on_keeps_a_full_share() {
    let before = group(&config("round_robin", 0, &["a"; 2]), None, None);
    set_all(&before, &[Standing::Ready; 2]);
    let after = group(&config("round_robin", 100, &["a"; 2]), None, Some(&before));
    assert!(after.members().iter().all(|member| member.share(after.slow_start, at(1)) >= 1.0));
}

#[test]
fn only_a_tag_of_one_that_may_be_picked_finds_a_target() {
    let picker = ready("round_robin", &["a"; 3]);
    let group = picker.group();
    let tag = picker.tag(&group.members()[1]).unwrap();
    assert_eq!(id(&picker.sticky(tag).unwrap()), 1);
    assert!(picker.sticky(tag ^ 1).is_none());
    group.set_standing(&group.members()[1], Standing::Doubtful, at(0));
    assert!(picker.sticky(tag).is_none(), "while others are ready");
    set_all(group, &[Standing::Doubtful; 3]);
    assert_eq!(id(&picker.sticky(tag).unwrap()), 1);
    group.set_standing(&group.members()[1], Standing::Out, at(0));
    assert!(picker.sticky(tag).is_none());
}

fn any_standing() -> impl Strategy<Value = Standing> {
    prop::sample::select(vec![Standing::Ready, Standing::Doubtful, Standing::Out])
}

proptest! {
    /// Whatever happens, and by whichever algorithm.
    #[test]
    fn a_doubtful_target_is_picked_only_while_none_is_ready_and_one_that_is_out_never(
        algorithm in prop::sample::select(ALGORITHMS.to_vec()),
        slow_start_s in prop::sample::select(vec![0, 30]),
        changes in prop::collection::vec((prop::collection::vec(any_standing(), 6), 0u64..40_000), 1..20),
    ) {
        let group = group(&config(algorithm, slow_start_s, &["a", "b", "a", "c", "a", "b"]), None, None);
        let mut picker = Picker::new(Arc::clone(&group), Random::new(9));
        let mut held = Vec::new();
        let mut now = at(0);
        for (standings, wait) in changes {
            now = now.after(Duration::from_millis(wait));
            for (member, standing) in group.members().iter().zip(&standings) {
                group.set_standing(member, *standing, now);
            }
            let best = [Standing::Ready, Standing::Doubtful].into_iter().find(|best| standings.contains(best));
            for _ in 0..10 {
                let lease = picker.pick(now);
                let picked = lease.as_ref().map(|lease| standings[id(lease)]);
                prop_assert_eq!(picked, best);
                held.extend(lease);
            }
        }
    }

    /// Also while some are out: those that are left have equal parts.
    #[test]
    fn turns_are_even_over_those_that_are_ready(is_out in prop::collection::vec(any::<bool>(), 1..12), rounds in 1usize..20) {
        let mut picker = ready("round_robin", &vec!["a"; is_out.len()]);
        for (member, is_out) in picker.group().members().iter().zip(&is_out) {
            if *is_out {
                picker.group().set_standing(member, Standing::Out, at(0));
            }
        }
        let left = is_out.iter().filter(|is_out| !**is_out).count();
        let picked = counts(&picks(&mut picker, rounds * left, at(0)));
        prop_assert!(picked.values().all(|count| *count == rounds));
        prop_assert_eq!(picked.len(), left);
    }
}

/// What a pick and its lease cost among fifty targets: `cargo test --release -p balancer -- --ignored --nocapture nanoseconds`.
#[test]
#[ignore = "a measurement"]
fn nanoseconds_of_a_pick_among_fifty_targets() {
    for algorithm in ALGORITHMS {
        let mut picker = ready(algorithm, &["a", "b"].repeat(25));
        let mut round = || {
            let started = std::time::Instant::now();
            for _ in 0..1000 {
                std::hint::black_box(picker.pick(at(0)));
            }
            started.elapsed().as_nanos() / 1000
        };
        println!("{algorithm:30} {:?}", (0..1000).map(|_| round()).min());
    }
}
