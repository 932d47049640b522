mod history;
mod world;

use std::time::Duration;

use world::{NAME, World, id_of};

use super::*;
use crate::ports::{End, HostError};
use crate::records::{
    ActivityKind, ActivityStatus, InstanceState, MemberState, ScalingActivity, ScalingGroup, ScalingMember,
    TagSet,
};
use crate::simulation::Delays;
use crate::zones::{self, ZoneState};

fn slow() -> Delays {
    Delays::like_aws(1.0)
}

async fn set_desired(world: &World, desired: i32) {
    let input = api::SetDesiredCapacityType {
        auto_scaling_group_name: NAME.to_owned(),
        desired_capacity: desired,
        ..Default::default()
    };
    world.ask(|tx| capacity::set(tx, input)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_comes_up_in_all_zones_grows_shrinks_and_goes() {
    let world = World::with_group(slow(), 3, |_| {}).await;
    world.until_in_service(3).await;
    let mut zones: Vec<_> = world.members().iter().map(|member| member.place.zone).collect();
    zones.sort_unstable();
    assert_eq!(zones, crate::testing::space().region.zones());
    assert_eq!(world.flaws(), [] as [&str; 0]);
    set_desired(&world, 5).await;
    world.until_in_service(5).await;
    set_desired(&world, 1).await;
    world.until_in_service(1).await;
    assert_eq!(world.flaws(), [] as [&str; 0]);
    let input = api::DeleteAutoScalingGroupType {
        auto_scaling_group_name: NAME.to_owned(),
        force_delete: Some(true),
    };
    world.ask(|tx| group::delete(tx, input)).await.unwrap();
    world.until("it is gone", |world| world.group().is_none()).await;
    let left = world.look(|view| {
        let tables = view.tables();
        (tables.scaling_members.iter().len(), tables.scaling_activities.iter().len())
    });
    assert_eq!(left, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn activities_tell_why_in_words_of_aws() {
    let world = World::with_group(Delays::default(), 1, |_| {}).await;
    world.until_in_service(1).await;
    set_desired(&world, 2).await;
    world.until_in_service(2).await;
    set_desired(&world, 1).await;
    world.until_in_service(1).await;
    let told: Vec<ScalingActivity> = world.activities();
    let gone = told[2].instance.unwrap();
    let causes: Vec<&str> = told.iter().map(|activity| activity.cause.as_str()).collect();
    let at = "At 2027-01-15T08:00:00Z";
    assert_eq!(
        causes,
        [
            format!(
                "{at} a user request created an AutoScalingGroup changing the desired capacity from 0 to 1.  {at} an instance was started in response to a difference between desired and actual capacity, increasing the capacity from 0 to 1."
            ),
            format!(
                "{at} a user request explicitly set group desired capacity changing the desired capacity from 1 to 2.  {at} an instance was started in response to a difference between desired and actual capacity, increasing the capacity from 1 to 2."
            ),
            format!(
                "{at} a user request explicitly set group desired capacity changing the desired capacity from 2 to 1.  {at} an instance was taken out of service in response to a difference between desired and actual capacity, shrinking the capacity from 2 to 1.  {at} instance {gone} was selected for termination."
            ),
        ]
    );
    assert!(told.iter().all(|activity| activity.status == ActivityStatus::Successful));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_dies_is_replaced_in_the_same_moment() {
    let world = World::with_group(Delays::default(), 2, |_| {}).await;
    world.until_in_service(2).await;
    let dead = world.in_service()[0];
    let before = tokio::time::Instant::now();
    world.host.end(dead, End::Failed("killed by signal 9".to_owned()));
    world
        .until("it is replaced", |world| world.in_service().len() == 2 && !world.in_service().contains(&dead))
        .await;
    assert_eq!(before.elapsed(), Duration::ZERO, "no clock is waited for");
    let told = world.activities();
    let kinds: Vec<_> =
        told[2..].iter().map(|activity| (activity.kind, activity.instance == Some(dead))).collect();
    assert_eq!(kinds, [(ActivityKind::Terminate, true), (ActivityKind::Launch, false)]);
    assert!(told[2].cause.ends_with("an instance was taken out of service in response to an EC2 health check indicating it has been terminated or stopped."));
    assert!(
        told[3].cause.ends_with(
            "an instance was launched in response to an unhealthy instance needing to be replaced."
        )
    );
    world.until("the dead one is gone", |world| world.members().len() == 2).await;
    assert_eq!(world.flaws(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_host_without_room_is_asked_less_and_less_often() {
    let world = World::with_group(Delays::default(), 0, |_| {}).await;
    *world.machines.answer.lock().unwrap() = Some(Err(HostError::NoCapacity("full".to_owned())));
    set_desired(&world, 1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let failed = world.activities();
    assert!((10..60).contains(&failed.len()), "{}", failed.len());
    assert!(failed.iter().all(|activity| activity.status == ActivityStatus::Failed), "{failed:?}");
    let message = failed[0].message.clone().unwrap();
    assert_eq!(
        message,
        "Instance became unhealthy while waiting for instance to be in InService state. Termination Reason: Server.InsufficientInstanceCapacity: there is no room: full"
    );
    *world.machines.answer.lock().unwrap() = None;
    world.until_in_service(1).await;
    assert_eq!(world.flaws(), [] as [&str; 0]);
    assert!(world.group().unwrap().failures.len() < 3, "where it worked nothing is held against it");
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_cannot_be_tells_why_and_leaves_nothing() {
    let world = World::with_group(Delays::default(), 0, |_| {}).await;
    let id = id_of(&world);
    world.write(|tx| tx.update::<ScalingGroup>(id, |group| group.template = world::broken())).await;
    set_desired(&world, 2).await;
    world.until("it is told", |world| world.activities().len() == 3).await;
    for activity in world.activities() {
        assert_eq!((activity.status, activity.instance), (ActivityStatus::Failed, None));
        let message = activity.message.unwrap();
        assert!(message.ends_with("does not exist. Launching EC2 instance failed."), "{message}");
    }
    assert_eq!(world.look(|view| view.tables().instances.iter().len()), 0);
    world.write(|tx| tx.update::<ScalingGroup>(id, |group| group.template = world::mended())).await;
    world.until_in_service(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_fails_is_left_and_comes_back_into_balance() {
    let world = World::with_group(Delays::default(), 6, |_| {}).await;
    world.until_in_service(6).await;
    let [zone, ..] = crate::testing::space().region.zones();
    let there = |world: &World| world.members().iter().filter(|member| member.place.zone == zone).count();
    assert_eq!(there(&world), 2);
    zones::set(&world.plane, zone, ZoneState::Failed).await.unwrap();
    world.until("nobody is there", |world| there(world) == 0 && world.in_service().len() == 6).await;
    zones::set(&world.plane, zone, ZoneState::Available).await.unwrap();
    world.until("all zones have two", |world| there(world) == 2 && world.members().len() == 6).await;
    let balanced =
        world.activities().into_iter().filter(|it| it.cause.contains("aid in balancing the group's zones"));
    assert_eq!(balanced.count(), 2);
    assert_eq!(world.flaws(), [] as [&str; 0]);
}

fn with_hooks(input: &mut api::CreateAutoScalingGroupType) {
    let hook = |name: &str, transition: &str, result: &str| api::LifecycleHookSpecification {
        lifecycle_hook_name: name.to_owned(),
        lifecycle_transition: format!("autoscaling:EC2_INSTANCE_{transition}"),
        heartbeat_timeout: Some(60),
        default_result: Some(result.to_owned()),
        ..Default::default()
    };
    input.lifecycle_hook_specification_list =
        vec![hook("in", "LAUNCHING", "CONTINUE"), hook("out", "TERMINATING", "ABANDON")];
}

fn state_of(world: &World, is_wanted: fn(&MemberState) -> bool) -> Option<ScalingMember> {
    world.members().into_iter().find(|member| is_wanted(&member.state))
}

fn waits_to_enter(state: &MemberState) -> bool {
    matches!(state, MemberState::PendingWait { .. })
}

fn waits_to_leave(state: &MemberState) -> bool {
    matches!(state, MemberState::TerminatingWait { .. })
}

#[tokio::test(start_paused = true)]
async fn hooks_that_nobody_completes_end_by_themselves() {
    let world = World::with_group(Delays::default(), 1, with_hooks).await;
    world.until("it waits", |world| state_of(world, waits_to_enter).is_some()).await;
    let before = tokio::time::Instant::now();
    world.until_in_service(1).await;
    assert_eq!(before.elapsed().as_secs(), 60);
    set_desired(&world, 0).await;
    world.until("it waits", |world| state_of(world, waits_to_leave).is_some()).await;
    let id = world.members()[0].id.instance;
    assert_eq!(world.instance(id).unwrap().state, InstanceState::Running);
    let before = tokio::time::Instant::now();
    world.until_in_service(0).await;
    assert_eq!(before.elapsed().as_secs(), 60);
}

fn completion(world: &World, hook: &str, result: &str) -> api::CompleteLifecycleActionType {
    api::CompleteLifecycleActionType {
        auto_scaling_group_name: NAME.to_owned(),
        lifecycle_hook_name: hook.to_owned(),
        lifecycle_action_result: result.to_owned(),
        instance_id: Some(world.members()[0].id.instance.to_string()),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_are_completed_kept_waiting_and_abandoned() {
    let world = World::with_group(Delays::default(), 1, with_hooks).await;
    world.until("it waits", |world| state_of(world, waits_to_enter).is_some()).await;
    let before = tokio::time::Instant::now();
    let wanted = completion(&world, "in", "CONTINUE");
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        let beat = api::RecordLifecycleActionHeartbeatType {
            auto_scaling_group_name: NAME.to_owned(),
            lifecycle_hook_name: "in".to_owned(),
            instance_id: wanted.instance_id.clone(),
            ..Default::default()
        };
        world.ask(|tx| hook::heartbeat(tx, beat)).await.unwrap();
    }
    assert!(state_of(&world, waits_to_enter).is_some());
    world.ask(|tx| hook::complete(tx, wanted.clone())).await.unwrap();
    world.until_in_service(1).await;
    assert_eq!(before.elapsed().as_secs(), 250);
    let again = world.ask(|tx| hook::complete(tx, wanted.clone())).await.unwrap_err();
    assert_eq!(
        again.message,
        format!("No active Lifecycle Action found with instance ID {}", wanted.instance_id.unwrap())
    );
    set_desired(&world, 2).await;
    world.until("another waits", |world| state_of(world, waits_to_enter).is_some()).await;
    let waiting = state_of(&world, waits_to_enter).unwrap().id.instance;
    let abandoned = api::CompleteLifecycleActionType {
        instance_id: Some(waiting.to_string()),
        ..completion(&world, "in", "ABANDON")
    };
    world.ask(|tx| hook::complete(tx, abandoned)).await.unwrap();
    world.until("it is gone", |world| !world.members().iter().any(|it| it.id.instance == waiting)).await;
    let launch = world.activities().into_iter().find(|it| it.instance == Some(waiting)).unwrap();
    assert_eq!(launch.status, ActivityStatus::Cancelled);
    assert!(
        launch.message.unwrap().ends_with("was abandoned: Lifecycle Action Completed with ABANDON Result")
    );
    world.until_in_service(2).await;
}

#[tokio::test(start_paused = true)]
async fn what_hooks_abandon_is_launched_less_and_less_often() {
    let abandons = |input: &mut api::CreateAutoScalingGroupType| {
        with_hooks(input);
        input.lifecycle_hook_specification_list[0].default_result = None;
    };
    let world = World::with_group(Delays::default(), 1, abandons).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let launches = world.activities().into_iter().filter(|it| it.kind == ActivityKind::Launch).count();
    // Each waits a minute for its hook: without a pause there were sixty.
    assert!((10..50).contains(&launches), "{launches}");
}

#[tokio::test(start_paused = true)]
async fn instances_stand_by_come_back_leave_and_join() {
    let world = World::with_group(Delays::default(), 2, |_| {}).await;
    world.until_in_service(2).await;
    let id = world.in_service()[0];
    let ids = vec![id.to_string()];
    let group = NAME.to_owned();
    let enter = api::EnterStandbyQuery {
        instance_ids: ids.clone(),
        auto_scaling_group_name: group.clone(),
        should_decrement_desired_capacity: true,
    };
    let told = world.ask(|tx| standby::enter(tx, enter)).await.unwrap().activities.unwrap();
    assert_eq!(
        told[0].cause.as_deref(),
        Some(&*format!(
            "At 2027-01-15T08:00:00Z instance {id} was moved to standby in response to a user request, shrinking the capacity from 2 to 1."
        ))
    );
    let exit = api::ExitStandbyQuery { instance_ids: ids.clone(), auto_scaling_group_name: group.clone() };
    world.ask(|tx| standby::exit(tx, exit)).await.unwrap();
    world.until_in_service(2).await;
    assert_eq!(world.group().unwrap().desired, 2);
    let detach = api::DetachInstancesQuery {
        instance_ids: ids.clone(),
        auto_scaling_group_name: group.clone(),
        should_decrement_desired_capacity: true,
    };
    world.ask(|tx| instance::detach(tx, detach)).await.unwrap();
    assert_eq!(world.in_service().len(), 1);
    let is_tagged = world.look(|view| {
        let tags = view.get::<TagSet>(id.into()).map(|set| &set.tags);
        tags.is_some_and(|tags| tags.contains_key("aws:autoscaling:groupName"))
    });
    assert!(!is_tagged);
    let attach = api::AttachInstancesQuery { instance_ids: ids, auto_scaling_group_name: group };
    world.ask(|tx| instance::attach(tx, attach)).await.unwrap();
    world.until_in_service(2).await;
    assert!(world.in_service().contains(&id));
    assert_eq!(world.flaws(), [] as [&str; 0]);
}

fn scheduled(name: &str) -> api::PutScheduledUpdateGroupActionType {
    api::PutScheduledUpdateGroupActionType {
        auto_scaling_group_name: NAME.to_owned(),
        scheduled_action_name: name.to_owned(),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn sizes_change_at_their_times_and_pass_while_suspended() {
    let mut world = World::with_group(Delays::default(), 1, |_| {}).await;
    world.until_in_service(1).await;
    let begin = world.plane.ledger.now();
    let once = api::PutScheduledUpdateGroupActionType {
        start_time: Some(begin + Duration::from_secs(1800)),
        min_size: Some(3),
        ..scheduled("once")
    };
    // On the hour; it begins at eight, so that is over.
    let often = api::PutScheduledUpdateGroupActionType {
        recurrence: Some("0 * * * *".to_owned()),
        end_time: Some(begin + Duration::from_secs(3 * 3600)),
        desired_capacity: Some(5),
        ..scheduled("often")
    };
    world.ask(|tx| schedule::put(tx, once)).await.unwrap();
    world.ask(|tx| schedule::put(tx, often)).await.unwrap();
    let since = |world: &World| world.plane.ledger.now().duration_since(begin).as_secs();
    world.until_in_service(3).await;
    assert_eq!(since(&world), 1800);
    let names = |world: &World| -> Vec<String> {
        world.group().unwrap().schedule.into_iter().map(|action| action.name).collect()
    };
    assert_eq!(names(&world), ["often"], "what happens once is over");
    world.until_in_service(5).await;
    assert_eq!(since(&world), 3600);
    let cause = world.activities().last().unwrap().cause.clone();
    let why = "a scheduled action update of AutoScalingGroup constraints to min: 3, max: 10, desired: 5 changing the desired capacity from 3 to 5.";
    assert!(cause.contains(why), "{cause}");
    set_desired(&world, 4).await;
    let suspend = api::ScalingProcessQuery {
        auto_scaling_group_name: NAME.to_owned(),
        scaling_processes: vec!["ScheduledActions".to_owned()],
    };
    world.ask(|tx| process::suspend(tx, suspend.clone())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3700)).await;
    assert_eq!(world.group().unwrap().desired, 4);
    world.ask(|tx| process::resume(tx, suspend)).await.unwrap();
    world.kill().await;
    // The last one is at its end.
    world.until_in_service(5).await;
    assert_eq!((since(&world), names(&world).len()), (3 * 3600, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_activities_are_remembered_than_there_is_room_for() {
    let world = World::with_group(Delays::default(), 0, |_| {}).await;
    let id = id_of(&world);
    world.write(|tx| tx.update::<ScalingGroup>(id, |group| group.template = world::broken())).await;
    set_desired(&world, 1).await;
    let is_many = |world: &World| world.group().unwrap().activities > 1200;
    tokio::time::sleep(Duration::from_secs(7 * 24 * 3600)).await;
    assert!(is_many(&world), "{}", world.group().unwrap().activities);
    assert_eq!(world.activities().len(), 1000);
}
