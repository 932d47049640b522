use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use types::{LaunchTemplateId, RandomId as _, SubnetId};

use super::*;
use crate::records::{
    Cause, DeletionProtection, HookWait, LaunchFailure, MemberId, Outage, TemplateChoice, TemplateVersion,
    TerminationPolicy, Unhealthy, VersionId,
};
use crate::testing::{instance, space};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn id(number: u8) -> InstanceId {
    InstanceId::from_random([number; 16])
}

/// One in each zone.
fn places() -> Vec<Place> {
    let zones = space().region.zones().into_iter();
    (1..)
        .zip(zones)
        .map(|(number, zone)| Place { zone, subnet: SubnetId::from_random([number; 16]) })
        .collect()
}

fn group(desired: u32) -> ScalingGroup {
    ScalingGroup {
        id: Uuid::from_random([1; 16]),
        name: "web".to_owned(),
        created: at(0),
        template: TemplateChoice {
            template: LaunchTemplateId::from_random([1; 16]),
            version: TemplateVersion::Default,
        },
        min: 0,
        max: 20,
        desired,
        cooldown_s: 300,
        places: places(),
        has_named_subnets: true,
        grace_s: 0,
        termination_policies: vec![TerminationPolicy::Default],
        protects_new: false,
        deletion_protection: DeletionProtection::None,
        hooks: Vec::new(),
        tags: BTreeMap::new(),
        lifetime_max_s: None,
        warmup_s: None,
        context: None,
        balances_only: false,
        suspended: BTreeSet::new(),
        schedule: Vec::new(),
        change: None,
        replaced: 0,
        is_deleting: false,
        failures: Vec::new(),
        activities: 0,
        scaled: None,
    }
}

fn version(number: u64) -> VersionId {
    VersionId { template: LaunchTemplateId::from_random([1; 16]), number }
}

/// A member and its instance.
type Pair = (ScalingMember, Option<Instance>);

/// In service since a second after its launch, in one of the zones.
fn served(number: u8, zone: usize, launched: i64) -> Pair {
    let place = places()[zone];
    let member = ScalingMember {
        id: MemberId { group: Uuid::from_random([1; 16]), instance: id(number) },
        place,
        template: Some(version(1)),
        is_protected: false,
        is_spare: false,
        unhealthy: None,
        state: MemberState::InService { since: at(launched + 1) },
    };
    let mut instance = instance(id(number), InstanceState::Running, at(launched));
    (instance.zone, instance.health) = (place.zone, Health::Well);
    (member, Some(instance))
}

fn in_state(number: u8, zone: usize, state: MemberState, instance: InstanceState) -> Pair {
    let mut pair = served(number, zone, 0);
    pair.0.state = state;
    pair.1.as_mut().unwrap().state = instance;
    pair
}

fn pending(number: u8, zone: usize) -> Pair {
    in_state(number, zone, MemberState::Pending { activity: 1, is_new: true }, InstanceState::Pending)
}

fn decided_at(group: &ScalingGroup, pairs: &[Pair], failed: &[usize], now: Timestamp) -> Decision {
    let members = pairs.iter().map(|(member, instance)| Seen { member, instance: instance.as_ref() });
    let failed_zones = failed.iter().map(|zone| places()[*zone].zone).collect();
    decide(&Situation { group, members: members.collect(), failed_zones, now })
}

fn decided(group: &ScalingGroup, pairs: &[Pair]) -> Decision {
    decided_at(group, pairs, &[], at(100))
}

fn actions(decision: &Decision) -> Vec<Action> {
    decision.steps.iter().map(|step| step.action).collect()
}

/// In which zones instances are launched.
fn launches(decision: &Decision) -> Vec<usize> {
    let zone = |place: Place| places().iter().position(|other| *other == place).unwrap();
    let launched = decision.steps.iter().filter_map(|step| match step.action {
        Action::Launch { place, .. } => Some(zone(place)),
        _ => None,
    });
    launched.collect()
}

fn retired(decision: &Decision) -> Vec<InstanceId> {
    let retired = decision.steps.iter().filter_map(|step| match step.action {
        Action::Retire(id) => Some(id),
        _ => None,
    });
    retired.collect()
}

fn shutting_down() -> InstanceState {
    InstanceState::ShuttingDown { cause: Cause::User, since: at(50) }
}

#[test]
fn what_is_missing_is_launched_where_there_are_the_fewest() {
    assert_eq!(launches(&decided(&group(5), &[])), [0, 1, 2, 0, 1]);
    let decision = decided(&group(3), &[served(1, 0, 0), served(2, 1, 0)]);
    assert_eq!(launches(&decision), [2]);
    assert_eq!(decision.steps[0].rule, Rule::Below { actual: 2, wanted: 3 });
    assert_eq!(decided(&group(2), &[served(1, 0, 0), pending(2, 1)]), Decision::default());
}

#[test]
fn nothing_is_launched_in_a_zone_that_has_failed_unless_there_is_no_other() {
    assert_eq!(launches(&decided_at(&group(3), &[], &[0], at(0))), [1, 2, 1]);
    assert_eq!(launches(&decided_at(&group(1), &[], &[0, 1, 2], at(0))), [0]);
}

#[test]
fn launches_that_failed_are_tried_elsewhere_or_later() {
    let mut group = group(2);
    let failure = |place: Place| LaunchFailure { subnet: place.subnet, count: 2, until: at(110) };
    group.failures = vec![failure(places()[0])];
    let decision = decided(&group, &[]);
    assert_eq!((launches(&decision), decision.next), (vec![1, 2], Some(at(110))));
    group.balances_only = true;
    assert_eq!(launches(&decided(&group, &[served(1, 1, 0)])), [2], "there it would not be balanced only");
    assert_eq!(launches(&decided(&group, &[served(1, 1, 0), served(2, 2, 0)])), [] as [usize; 0]);
    group.failures = places().into_iter().map(failure).collect();
    let decision = decided(&group, &[]);
    assert_eq!((launches(&decision).len(), decision.next, decision.holds.len()), (0, Some(at(110)), 3));
    assert_eq!(launches(&decided_at(&group, &[], &[], at(110))), [0, 1]);
    assert_eq!(launches(&decided_at(&group, &[], &[], at(-9000))), [0, 1], "the clock was set back");
}

#[test]
fn what_is_too_much_goes_from_the_zone_that_has_the_most() {
    let pairs = [served(1, 0, 0), served(2, 1, 10), served(3, 1, 20)];
    let decision = decided(&group(2), &pairs);
    assert_eq!(decision.steps[0].rule, Rule::Above { actual: 3, wanted: 2 });
    // The one that is further into its hour.
    assert_eq!(retired(&decision), [id(2)]);
    // Of those who are left, in balance again, whoever is.
    assert_eq!(retired(&decided(&group(1), &pairs)), [id(2), id(1)]);
}

#[test]
fn termination_policies_choose_in_turn() {
    let mut group = group(2);
    let mut pairs = [served(1, 0, 30), served(2, 1, 20), served(3, 2, 10)];
    pairs[1].0.template = Some(version(1));
    (pairs[0].0.template, pairs[2].0.template) = (Some(version(2)), Some(version(2)));
    for (policies, victim) in [
        (vec![TerminationPolicy::Default], 2),
        (vec![TerminationPolicy::OldestInstance], 3),
        (vec![TerminationPolicy::NewestInstance], 1),
        (vec![TerminationPolicy::OldestLaunchTemplate], 2),
        (vec![TerminationPolicy::OldestLaunchConfiguration, TerminationPolicy::AllocationStrategy], 1),
        (vec![TerminationPolicy::ClosestToNextInstanceHour], 3),
    ] {
        group.termination_policies.clone_from(&policies);
        assert_eq!(retired(&decided(&group, &pairs)), [id(victim)], "{policies:?}");
    }
}

#[test]
fn of_two_templates_the_one_that_was_used_last_stays() {
    let mut pairs = [served(1, 0, 30), served(2, 1, 20)];
    // The older instance's template has the higher number.
    pairs[1].0.template = Some(VersionId { template: LaunchTemplateId::from_random([2; 16]), number: 9 });
    assert_eq!(retired(&decided(&group(1), &pairs)), [id(2)]);
}

#[test]
fn who_is_protected_stays_and_the_group_is_too_large() {
    let mut pairs = [served(1, 0, 0), served(2, 0, 0), served(3, 1, 0)];
    (pairs[0].0.is_protected, pairs[1].0.is_protected) = (true, true);
    assert_eq!(retired(&decided(&group(2), &pairs)), [id(3)]);
    pairs[2].0.is_protected = true;
    let decision = decided(&group(2), &pairs);
    assert_eq!((decision.steps.len(), decision.holds), (0, vec![Hold::Protected]));
}

#[test]
fn who_does_not_run_is_replaced_at_once_and_who_is_impaired_after_grace() {
    let mut group = group(1);
    group.grace_s = 300;
    let mut pairs = [served(1, 0, 0)];
    pairs[0].1.as_mut().unwrap().state = shutting_down();
    let decision = decided(&group, &pairs);
    assert_eq!(actions(&decision)[0], Action::Retire(id(1)));
    assert_eq!(launches(&decision), [0], "its replacement is launched in the same breath");
    let mut pairs = [served(1, 0, 0)];
    pairs[0].1.as_mut().unwrap().health = Health::Impaired { since: at(50) };
    let decision = decided(&group, &pairs);
    assert_eq!((decision.steps.len(), decision.next), (0, Some(at(301))));
    assert_eq!(decided_at(&group, &pairs, &[], at(301)).steps[0].rule, Rule::Impaired);
    let mut pairs = [served(1, 0, 0)];
    pairs[0].1.as_mut().unwrap().outage = Some(Outage { since: at(0), is_over: true });
    assert_eq!(decided_at(&group, &pairs, &[], at(301)), Decision::default(), "it boots again");
}

#[test]
fn what_is_said_of_health_respects_grace_if_it_is_to() {
    let mut group = group(1);
    group.grace_s = 300;
    let mut pairs = [served(1, 0, 0)];
    pairs[0].0.unhealthy = Some(Unhealthy { respects_grace: true });
    let decision = decided(&group, &pairs);
    assert_eq!((decision.steps.len(), decision.next), (0, Some(at(301))));
    pairs[0].0.unhealthy = Some(Unhealthy { respects_grace: false });
    assert_eq!(decided(&group, &pairs).steps[0].rule, Rule::SaidUnhealthy);
}

#[test]
fn suspended_processes_do_nothing_and_say_so() {
    for (process, pairs, desired) in [
        (Process::Launch, vec![], 1),
        (Process::Terminate, vec![served(1, 0, 0)], 0),
        (Process::ReplaceUnhealthy, vec![in_state(1, 0, served(1, 0, 0).0.state, shutting_down())], 1),
    ] {
        let mut group = group(desired);
        assert!(!decided(&group, &pairs).steps.is_empty(), "{process:?}");
        group.suspended.insert(process);
        let decision = decided(&group, &pairs);
        assert_eq!(
            (decision.steps.len(), decision.holds),
            (0, vec![Hold::Suspended(process)]),
            "{process:?}"
        );
    }
    let mut group = group(1);
    group.suspended.insert(Process::HealthCheck);
    let stopped = in_state(1, 0, served(1, 0, 0).0.state, shutting_down());
    assert_eq!(decided(&group, &[stopped]), Decision::default(), "nobody looks");
}

#[test]
fn zones_are_balanced_by_one_more_before_one_less() {
    let crowded = [served(1, 1, 0), served(2, 1, 0), served(3, 2, 0)];
    let decision = decided_at(&group(3), &crowded, &[0], at(100));
    assert_eq!(decision, Decision::default(), "the zone that has none has failed");
    let decision = decided(&group(3), &crowded);
    let place = places()[0];
    let zone = places()[1].zone;
    assert_eq!(actions(&decision), [Action::Launch { place, is_spare: true }]);
    assert_eq!(decision.steps[0].rule, Rule::Unbalanced { crowded: vec![(zone, 2)] });
    // Until it is in service nothing more is done.
    let mut spare = pending(4, 0);
    spare.0.is_spare = true;
    let with_spare = [crowded.as_slice(), &[spare]].concat();
    assert_eq!(decided(&group(3), &with_spare), Decision::default());
    let after = [crowded.as_slice(), &[served(4, 0, 50)]].concat();
    let gone = retired(&decided(&group(3), &after));
    assert!(gone == [id(1)] || gone == [id(2)], "{gone:?}");
    let mut suspended = group(3);
    suspended.suspended.insert(Process::AzRebalance);
    assert_eq!(decided(&suspended, &crowded), Decision::default());
}

#[test]
fn a_zone_that_the_group_has_no_more_is_left() {
    let mut group = group(1);
    group.places.remove(2);
    let pairs = [served(1, 2, 0)];
    assert_eq!(launches(&decided(&group, &pairs)), [0]);
    let both = [served(1, 2, 0), served(2, 0, 50)];
    assert_eq!(retired(&decided(&group, &both)), [id(1)]);
}

#[test]
fn nobody_is_launched_to_balance_who_could_not_replace_one() {
    let mut pairs = [served(1, 1, 0), served(2, 1, 0), served(3, 2, 0)];
    (pairs[0].0.is_protected, pairs[1].0.is_protected) = (true, true);
    assert_eq!(decided(&group(3), &pairs), Decision::default());
}

fn hooked(state: fn(u64, LifecycleAction) -> MemberState, until: i64) -> Pair {
    let wait = HookWait {
        hook: "hook".to_owned(),
        token: Uuid::from_random([9; 16]),
        heartbeat_s: 30,
        default_result: HookResult::Continue,
        until: at(until),
        until_max: at(3000),
    };
    let action = LifecycleAction { waits: vec![wait], abandoned: None };
    in_state(1, 0, state(1, action), InstanceState::Running)
}

#[test]
fn a_member_waits_for_its_hooks_until_their_time() {
    let waits = |activity, action| MemberState::PendingWait { activity, action };
    let mut pairs = [hooked(waits, 130)];
    let decision = decided(&group(1), &pairs);
    assert_eq!((decision.steps.len(), decision.next), (0, Some(at(130))));
    let decision = decided_at(&group(1), &pairs, &[], at(130));
    let token = Uuid::from_random([9; 16]);
    assert_eq!(
        actions(&decision),
        [Action::TimeOut { instance: id(1), token, result: HookResult::Continue }]
    );
    pairs[0].0.state.action_mut().unwrap().end(token, HookResult::Continue);
    assert_eq!(actions(&decided(&group(1), &pairs)), [Action::Admit(id(1))]);
    let mut pairs = [hooked(waits, 130)];
    pairs[0].0.state.action_mut().unwrap().end(token, HookResult::Abandon);
    let decision = decided(&group(1), &pairs);
    assert_eq!(decision.steps[0].action, Action::Abandon(id(1)));
    assert_eq!(launches(&decision), [0]);
}

#[test]
fn who_leaves_is_ended_when_hooks_are_over_or_nothing_is_left_of_it() {
    let waits = |activity, action| MemberState::TerminatingWait { activity, action };
    let mut pairs = [hooked(waits, 130)];
    assert_eq!(decided(&group(0), &pairs).next, Some(at(130)));
    pairs[0].1.as_mut().unwrap().state = shutting_down();
    assert_eq!(actions(&decided(&group(0), &pairs)), [Action::End(id(1))]);
    let leaving = |instance| [in_state(1, 0, MemberState::Terminating { activity: Some(1) }, instance)];
    assert_eq!(decided(&group(0), &leaving(shutting_down())), Decision::default());
    let terminated = InstanceState::Terminated { cause: Cause::User, since: at(60) };
    assert_eq!(actions(&decided(&group(0), &leaving(terminated))), [Action::Remove(id(1))]);
    assert_eq!(actions(&decided(&group(0), &leaving(InstanceState::Running))), [Action::End(id(1))]);
}

#[test]
fn who_never_came_into_service_is_abandoned() {
    for state in [shutting_down(), InstanceState::Stopped { cause: Cause::User, since: at(5) }] {
        let pairs = [in_state(1, 0, MemberState::Pending { activity: 1, is_new: true }, state)];
        assert_eq!(actions(&decided(&group(1), &pairs))[0], Action::Abandon(id(1)));
    }
}

#[test]
fn the_oldest_is_renewed_alone_when_it_is_too_old() {
    let mut group = group(2);
    group.lifetime_max_s = Some(86_400);
    let pairs = [served(1, 0, 0), served(2, 1, 10)];
    let decision = decided(&group, &pairs);
    assert_eq!((decision.steps.len(), decision.next), (0, Some(at(86_401))));
    let decision = decided_at(&group, &pairs, &[], at(90_000));
    assert_eq!(actions(&decision), [Action::Retire(id(1))]);
    let going_on = [served(1, 0, 0), pending(2, 1)];
    assert!(decided_at(&group, &going_on, &[], at(90_000)).steps.is_empty());
}

#[test]
fn a_group_that_is_deleted_goes_with_all_that_is_in_it() {
    let mut group = group(0);
    group.is_deleting = true;
    group.suspended.extend(Process::ALL);
    let mut pairs =
        [served(1, 0, 0), in_state(2, 0, MemberState::Standby, InstanceState::Running), pending(3, 1)];
    pairs[0].0.is_protected = true;
    assert_eq!(retired(&decided(&group, &pairs)), [id(1), id(2), id(3)]);
    assert_eq!(actions(&decided(&group, &[])), [Action::RemoveGroup]);
}

fn any_pair() -> impl Strategy<Value = (usize, u8, u8, bool, bool)> {
    (0usize..3, 0u8..6, 0u8..5, any::<bool>(), any::<bool>())
}

fn pair_of(
    number: u8,
    (zone, state, instance, is_protected, is_impaired): (usize, u8, u8, bool, bool),
) -> Pair {
    let state = match state {
        0 => MemberState::Pending { activity: 1, is_new: true },
        1 => MemberState::PendingWait { activity: 1, action: LifecycleAction::default() },
        2 => MemberState::Standby,
        3 => MemberState::TerminatingWait { activity: 1, action: LifecycleAction::default() },
        4 => MemberState::Terminating { activity: None },
        _ => MemberState::InService { since: at(0) },
    };
    let instance = match instance {
        0 => InstanceState::Pending,
        1 => InstanceState::Stopped { cause: Cause::User, since: at(5) },
        2 => shutting_down(),
        _ => InstanceState::Running,
    };
    let mut pair = in_state(number, zone, state, instance);
    pair.0.is_protected = is_protected;
    if is_impaired {
        pair.1.as_mut().unwrap().health = Health::Impaired { since: at(1) };
    }
    pair
}

proptest! {
    /// Whatever a group is like: no more are launched than are missing, no more retired for size than are too many, nobody twice, and nobody protected.
    #[test]
    fn steps_are_never_more_than_are_needed(desired in 0u32..8, kinds in prop::collection::vec(any_pair(), 0..10)) {
        let pairs: Vec<Pair> = (1..).zip(kinds).map(|(number, kind)| pair_of(number, kind)).collect();
        let decision = decided(&group(desired), &pairs);
        let (spare, launched): (Vec<_>, Vec<_>) = decision.steps.iter()
            .filter_map(|step| match step.action { Action::Launch { is_spare, .. } => Some(is_spare), _ => None })
            .partition(|is_spare| *is_spare);
        let ended: Vec<InstanceId> = decision.steps.iter().filter_map(|step| match step.action {
            Action::Retire(id) | Action::Abandon(id) | Action::End(id) | Action::Remove(id) => Some(id),
            _ => None,
        }).collect();
        let leaving: BTreeSet<InstanceId> = decision.steps.iter().filter_map(|step| match step.action {
            Action::Retire(id) | Action::Abandon(id) => Some(id),
            _ => None,
        }).collect();
        let stay = pairs.iter().filter(|(member, _)| !leaving.contains(&member.id.instance)).filter(|(member, _)| matches!(
            member.state,
            MemberState::Pending { .. } | MemberState::PendingWait { .. } | MemberState::InService { .. }
        )).count();
        let stay = u32::try_from(stay).unwrap();
        prop_assert_eq!(ended.iter().collect::<BTreeSet<_>>().len(), ended.len(), "{:?}", decision);
        prop_assert!(stay + u32::try_from(launched.len()).unwrap() <= desired.max(stay));
        if !launched.is_empty() {
            prop_assert_eq!(stay + u32::try_from(launched.len()).unwrap(), desired);
            prop_assert!(spare.is_empty());
        }
        for step in &decision.steps {
            if let (Action::Retire(id), Rule::Above { .. }) = (step.action, &step.rule) {
                let (member, _) = pairs.iter().find(|(member, _)| member.id.instance == id).unwrap();
                prop_assert!(!member.is_protected);
                prop_assert!(stay >= desired, "{stay} stay of {desired}");
            }
        }
    }
}
