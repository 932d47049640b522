//! Random histories of what people do, what fails and who is killed: once nothing fails any more, a group is as it is to be, and nothing is left over.

use std::time::Duration;

use proptest::prelude::*;
use types::InstanceId;

use super::world::{NAME, World, broken, id_of, mended};
use super::{hook, instance, set_desired, standby, with_hooks};
use crate::autoscaling::{api, process};
use crate::ports::{End, HostError};
use crate::records::{Cause, Instance, InstanceState, MemberState, ScalingGroup};
use crate::simulation::Delays;
use crate::testing::space;
use crate::zones::{self, ZoneState};

/// Numbers choose among those that there are.
#[derive(Debug, Clone)]
enum Event {
    Desire(i32),
    GuestEnds(usize, bool),
    UserTerminates(usize),
    UserStops(usize),
    ZoneFails(usize),
    ZoneRecovers(usize),
    HostRefuses(bool),
    TemplateBreaks(bool),
    Suspend(&'static str),
    Resume(&'static str),
    SaidUnhealthy(usize),
    EnterStandby(usize, bool),
    ExitStandby(usize),
    Detach(usize, bool),
    Terminate(usize, bool),
    Protect(usize),
    Complete(usize, bool),
    Kill,
    /// Who works gets so many turns.
    Turns(u8),
    Wait(u16),
}

fn any_event() -> impl Strategy<Value = Event> {
    let process = prop_oneof![
        Just("Launch"),
        Just("Terminate"),
        Just("ReplaceUnhealthy"),
        Just("HealthCheck"),
        Just("AZRebalance")
    ];
    prop_oneof![
        3 => (0i32..7).prop_map(Event::Desire),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(who, fails)| Event::GuestEnds(who, fails)),
        2 => any::<usize>().prop_map(Event::UserTerminates),
        1 => any::<usize>().prop_map(Event::UserStops),
        1 => (0usize..3).prop_map(Event::ZoneFails),
        1 => (0usize..3).prop_map(Event::ZoneRecovers),
        1 => any::<bool>().prop_map(Event::HostRefuses),
        1 => any::<bool>().prop_map(Event::TemplateBreaks),
        1 => process.clone().prop_map(Event::Suspend),
        1 => process.prop_map(Event::Resume),
        1 => any::<usize>().prop_map(Event::SaidUnhealthy),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(who, is_smaller)| Event::EnterStandby(who, is_smaller)),
        1 => any::<usize>().prop_map(Event::ExitStandby),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(who, is_smaller)| Event::Detach(who, is_smaller)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(who, is_smaller)| Event::Terminate(who, is_smaller)),
        1 => any::<usize>().prop_map(Event::Protect),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(who, does_go_on)| Event::Complete(who, does_go_on)),
        3 => Just(Event::Kill),
        3 => (0u8..40).prop_map(Event::Turns),
        4 => (0u16..400).prop_map(Event::Wait),
    ]
}

/// One of the group's instances.
fn chosen(world: &World, number: usize) -> Option<InstanceId> {
    let members = world.members();
    (!members.is_empty()).then(|| members[number % members.len()].id.instance)
}

fn chosen_text(world: &World, number: usize) -> Vec<String> {
    chosen(world, number).iter().map(ToString::to_string).collect()
}

async fn happens(world: &mut World, event: Event) {
    let group = NAME.to_owned();
    let now = world.plane.ledger.now();
    // What a user asks for may be refused: then nothing has changed.
    match event {
        Event::Desire(desired) => set_desired(world, desired).await,
        Event::GuestEnds(who, fails) => {
            if let Some(id) = chosen(world, who) {
                let end = if fails { End::Failed("it crashed".to_owned()) } else { End::PoweredOff };
                world.host.end(id, end);
            }
        }
        Event::UserTerminates(who) => {
            if let Some(id) = chosen(world, who) {
                enter(world, id, InstanceState::ShuttingDown { cause: Cause::User, since: now }).await;
            }
        }
        Event::UserStops(who) => {
            if let Some(id) = chosen(world, who) {
                let next = InstanceState::Stopping { cause: Cause::User, is_forced: false, since: now };
                enter(world, id, next).await;
            }
        }
        Event::ZoneFails(zone) => set_zone(world, zone, ZoneState::Failed).await,
        Event::ZoneRecovers(zone) => set_zone(world, zone, ZoneState::Available).await,
        Event::HostRefuses(refuses) => refuse(world, refuses),
        Event::TemplateBreaks(breaks) => choose_template(world, breaks).await,
        Event::Suspend(name) => {
            let input = api::ScalingProcessQuery {
                auto_scaling_group_name: group,
                scaling_processes: vec![name.to_owned()],
            };
            world.ask(|tx| process::suspend(tx, input)).await.unwrap();
        }
        Event::Resume(name) => resume(world, vec![name.to_owned()]).await,
        Event::SaidUnhealthy(who) => {
            let input = api::SetInstanceHealthQuery {
                instance_id: chosen_text(world, who).concat(),
                health_status: "Unhealthy".to_owned(),
                should_respect_grace_period: None,
            };
            let _ = world.ask(|tx| instance::set_health(tx, input)).await;
        }
        Event::EnterStandby(who, is_smaller) => {
            let input = api::EnterStandbyQuery {
                instance_ids: chosen_text(world, who),
                auto_scaling_group_name: group,
                should_decrement_desired_capacity: is_smaller,
            };
            let _ = world.ask(|tx| standby::enter(tx, input)).await;
        }
        Event::ExitStandby(who) => {
            let input = api::ExitStandbyQuery {
                instance_ids: chosen_text(world, who),
                auto_scaling_group_name: group,
            };
            let _ = world.ask(|tx| standby::exit(tx, input)).await;
        }
        Event::Detach(who, is_smaller) => {
            let input = api::DetachInstancesQuery {
                instance_ids: chosen_text(world, who),
                auto_scaling_group_name: group,
                should_decrement_desired_capacity: is_smaller,
            };
            let _ = world.ask(|tx| instance::detach(tx, input)).await;
        }
        Event::Terminate(who, is_smaller) => {
            let input = api::TerminateInstanceInAutoScalingGroupType {
                instance_id: Some(chosen_text(world, who).concat()),
                should_decrement_desired_capacity: is_smaller,
            };
            let _ = world.ask(|tx| instance::terminate(tx, input)).await;
        }
        Event::Protect(who) => protect(world, chosen_text(world, who), true).await,
        Event::Complete(who, does_go_on) => {
            for name in ["in", "out"] {
                let input = api::CompleteLifecycleActionType {
                    auto_scaling_group_name: group.clone(),
                    lifecycle_hook_name: name.to_owned(),
                    lifecycle_action_result: if does_go_on { "CONTINUE" } else { "ABANDON" }.to_owned(),
                    instance_id: Some(chosen_text(world, who).concat()),
                    ..Default::default()
                };
                let _ = world.ask(|tx| hook::complete(tx, input)).await;
            }
        }
        Event::Kill => world.kill().await,
        Event::Turns(turns) => {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }
        Event::Wait(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
    }
}

/// As EC2's operations do it: what is over stays so.
async fn enter(world: &World, id: InstanceId, next: InstanceState) {
    world
        .write(|tx| {
            tx.update::<Instance>(id, |instance| {
                if matches!(instance.state, InstanceState::Pending | InstanceState::Running) {
                    instance.state = next;
                }
            })
        })
        .await;
}

async fn set_zone(world: &World, number: usize, state: ZoneState) {
    zones::set(&world.plane, space().region.zones()[number], state).await.unwrap();
}

fn refuse(world: &World, refuses: bool) {
    let answer = refuses.then(|| Err(HostError::NoCapacity("full".to_owned())));
    *world.machines.answer.lock().unwrap() = answer;
}

async fn choose_template(world: &World, breaks: bool) {
    let (id, template) = (id_of(world), if breaks { broken() } else { mended() });
    world.write(|tx| tx.update::<ScalingGroup>(id, |group| group.template = template)).await;
}

/// All, if none is named.
async fn resume(world: &World, processes: Vec<String>) {
    let input =
        api::ScalingProcessQuery { auto_scaling_group_name: NAME.to_owned(), scaling_processes: processes };
    world.ask(|tx| process::resume(tx, input)).await.unwrap();
}

async fn protect(world: &World, ids: Vec<String>, is_protected: bool) {
    let input = api::SetInstanceProtectionQuery {
        instance_ids: ids,
        auto_scaling_group_name: NAME.to_owned(),
        protected_from_scale_in: is_protected,
    };
    let _ = world.ask(|tx| instance::set_protection(tx, input)).await;
}

/// Nothing fails from now on, and nobody stands in the way.
async fn calm(world: &World) {
    refuse(world, false);
    for zone in 0..3 {
        set_zone(world, zone, ZoneState::Available).await;
    }
    choose_template(world, false).await;
    resume(world, Vec::new()).await;
    for member in world.members() {
        protect(world, vec![member.id.instance.to_string()], false).await;
    }
}

async fn lives_through(events: Vec<Event>, has_hooks: bool, delays: Delays) -> Result<(), TestCaseError> {
    let configure = |input: &mut api::CreateAutoScalingGroupType| {
        if has_hooks {
            with_hooks(input);
        }
    };
    let mut world = World::with_group(delays, 2, configure).await;
    for event in events {
        happens(&mut world, event).await;
        let (group, members) = (world.group().unwrap(), world.members());
        prop_assert!(group.min <= group.desired && group.desired <= group.max);
        let on_their_way = members.iter().filter(|member| {
            matches!(
                member.state,
                MemberState::Pending { .. } | MemberState::PendingWait { .. } | MemberState::InService { .. }
            )
        });
        let spare = usize::try_from(group.max / 10).unwrap();
        prop_assert!(on_their_way.count() <= usize::try_from(group.max).unwrap() + spare);
    }
    calm(&world).await;
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    prop_assert_eq!(world.flaws(), Vec::<String>::new());
    let mut counts = space().region.zones().map(|zone| {
        let serving = world.members().into_iter().filter(|it| it.state != MemberState::Standby);
        serving.filter(|member| member.place.zone == zone).count()
    });
    counts.sort_unstable();
    prop_assert!(counts[2] - counts[0] <= 1, "{counts:?} are not in balance");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_group_comes_to_rest_as_it_is_to_be_whatever_happened(
        events in prop::collection::vec(any_event(), 0..40),
        has_hooks: bool,
        are_slow: bool,
    ) {
        let delays = if are_slow { Delays::like_aws(1.0) } else { Delays::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(lives_through(events, has_hooks, delays))?;
    }
}
