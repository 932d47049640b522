mod rest;

use types::{RandomId as _, VolumeId};

use super::*;
use crate::ports::{End, Machine};
use crate::records::ShutdownBehavior;
use crate::simulation::Simulation;
use crate::store::Memory;
use crate::testing::{FakeMachines, plane, space};

fn id() -> InstanceId {
    InstanceId::from_random([7; 16])
}

fn pending(now: Timestamp) -> Instance {
    crate::testing::instance(id(), InstanceState::Pending, now)
}

async fn change(plane: &Plane, change: impl FnOnce(&mut Instance)) {
    let write = plane.ledger.write(space(), |tx| {
        tx.update::<Instance>(id(), change);
        Ok::<_, std::convert::Infallible>(())
    });
    write.await.unwrap();
}

/// A root volume in this state.
fn root(state: VolumeState, now: Timestamp) -> Volume {
    crate::testing::root_volume(root_id(), id(), state, now)
}

fn root_id() -> VolumeId {
    VolumeId::from_random([8; 16])
}

async fn launch(plane: &Plane) {
    launch_with(plane, VolumeState::Available).await;
}

async fn launch_with(plane: &Plane, volume: VolumeState) {
    let launch = |tx: &mut crate::state::Transaction<'_>| {
        let now = tx.now();
        tx.put(root(volume, now));
        tx.put(pending(now));
        Ok::<_, std::convert::Infallible>(())
    };
    plane.ledger.write(space(), launch).await.unwrap();
}

fn now_is(plane: &Plane) -> Option<Arc<Instance>> {
    plane.ledger.read(|state| find(state, space(), id())).0.map(|seen| seen.record)
}

/// Waits until the record is as wanted.
async fn until(plane: &Plane, is_wanted: impl Fn(Option<&Instance>) -> bool) {
    let mut changes = plane.ledger.changes();
    let wait = async {
        while !is_wanted(now_is(plane).as_deref()) {
            changes.changed().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(24 * 3600), wait).await;
    assert!(waited.is_ok(), "it stays {:?}", now_is(plane));
}

fn is(state: fn(&InstanceState) -> bool) -> impl Fn(Option<&Instance>) -> bool {
    move |instance| instance.is_some_and(|instance| state(&instance.state))
}

fn is_running(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Running)
}

fn is_stopped(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Stopped { .. })
}

fn is_terminated(state: &InstanceState) -> bool {
    matches!(state, InstanceState::Terminated { .. })
}

fn stopping(is_forced: bool, since: Timestamp) -> InstanceState {
    InstanceState::Stopping { cause: Cause::User, is_forced, since }
}

#[tokio::test(start_paused = true)]
async fn an_instance_runs_stops_runs_again_reboots_and_ends() {
    let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    let work = tokio::spawn(InstanceReconciler::new(Arc::clone(&plane), machines.clone()).run());
    launch(&plane).await;
    until(&plane, is(is_running)).await;
    assert_eq!(machines.observe(id()), Some(Machine::Running));
    change(&plane, |instance| instance.reboots_wanted += 1).await;
    until(&plane, |instance| instance.is_some_and(|instance| instance.reboots_done == 1)).await;
    let now = plane.ledger.now();
    change(&plane, |instance| instance.state = stopping(false, now)).await;
    until(&plane, is(is_stopped)).await;
    assert_eq!(machines.observe(id()), None);
    change(&plane, |instance| instance.state = InstanceState::Pending).await;
    until(&plane, is(is_running)).await;
    let now = plane.ledger.now();
    change(&plane, |instance| {
        instance.state = InstanceState::ShuttingDown { cause: Cause::User, since: now }
    })
    .await;
    until(&plane, is(is_terminated)).await;
    // An hour later it is forgotten.
    let before = tokio::time::Instant::now();
    until(&plane, |instance| instance.is_none()).await;
    assert!(before.elapsed() >= REMEMBERED.unsigned_abs(), "{:?}", before.elapsed());
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_does_to_itself_is_seen() {
    for (behavior, is_wanted) in [
        (ShutdownBehavior::Stop, is_stopped as fn(&InstanceState) -> bool),
        (ShutdownBehavior::Terminate, is_terminated),
    ] {
        let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
        let work = tokio::spawn(InstanceReconciler::new(Arc::clone(&plane), machines.clone()).run());
        launch(&plane).await;
        change(&plane, |instance| instance.shutdown_behavior = behavior).await;
        until(&plane, is(is_running)).await;
        let before = tokio::time::Instant::now();
        machines.end(id(), End::PoweredOff);
        until(&plane, is(is_wanted)).await;
        assert!(before.elapsed() < Duration::from_millis(10), "it was not told but found");
        let cause = match &now_is(&plane).unwrap().state {
            InstanceState::Stopped { cause, .. } | InstanceState::Terminated { cause, .. } => cause.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(cause, Cause::Guest);
        work.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_fails_stops_its_instance_and_says_why() {
    let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    let work = tokio::spawn(InstanceReconciler::new(Arc::clone(&plane), machines.clone()).run());
    launch(&plane).await;
    until(&plane, is(is_running)).await;
    machines.end(id(), End::Failed("a triple fault".to_owned()));
    until(&plane, is(is_stopped)).await;
    let InstanceState::Stopped { cause: Cause::Failure { code, message }, .. } =
        &now_is(&plane).unwrap().state
    else {
        panic!("no failure")
    };
    assert_eq!((code.as_str(), message.as_str()), ("Server.InternalError", "a triple fault"));
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn an_instance_starts_when_its_volumes_are_made() {
    let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    let work = tokio::spawn(InstanceReconciler::new(Arc::clone(&plane), machines.clone()).run());
    launch_with(&plane, VolumeState::Creating).await;
    // However long that takes.
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(machines.observe(id()), None);
    let before = tokio::time::Instant::now();
    let made = plane.ledger.write(space(), |tx| {
        tx.update::<Volume>(root_id(), |volume| volume.state = VolumeState::Available);
        Ok::<_, std::convert::Infallible>(())
    });
    made.await.unwrap();
    until(&plane, is(is_running)).await;
    assert!(before.elapsed() < Duration::from_millis(10), "it was not told but found");
    work.abort();
}

/// Volumes that cannot be made, and a host that starts nothing, are the same to an instance.
#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_started_ends_the_first_time_and_is_stopped_later() {
    for (has_run, is_wanted) in [
        (false, is_terminated as fn(&InstanceState) -> bool),
        (true, is_stopped as fn(&InstanceState) -> bool),
    ] {
        let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
        let work = tokio::spawn(InstanceReconciler::new(Arc::clone(&plane), machines.clone()).run());
        launch_with(&plane, VolumeState::Creating).await;
        change(&plane, |instance| instance.has_run = has_run).await;
        let broken = plane.ledger.write(space(), |tx| {
            let message = "no space left".to_owned();
            tx.update::<Volume>(root_id(), |volume| volume.state = VolumeState::Error { message });
            Ok::<_, std::convert::Infallible>(())
        });
        broken.await.unwrap();
        until(&plane, is(is_wanted)).await;
        let (InstanceState::Stopped { cause: Cause::Failure { message, .. }, .. }
        | InstanceState::Terminated { cause: Cause::Failure { message, .. }, .. }) =
            &now_is(&plane).unwrap().state
        else {
            panic!("no failure")
        };
        assert!(message.contains(&root_id().to_string()) && message.contains("no space left"), "{message}");
        assert_eq!(machines.observe(id()), None);
        work.abort();
    }
}

#[test]
fn a_guest_is_asked_to_power_off_again_and_again_until_it_is_killed() {
    let start = Timestamp::UNIX_EPOCH;
    let instance = crate::testing::instance(id(), stopping(false, start), start);
    let next = |asked: Option<i64>, now: i64| {
        let after = |seconds| start + jiff::SignedDuration::from_secs(seconds);
        let asked = asked.map(after);
        let around = Around { volumes: Volumes::Ready, is_awaited: false, asked };
        plan(&instance, Some(&Machine::Running), &around, after(now))
    };
    let wait = |seconds| Step::Wait(Some(start + jiff::SignedDuration::from_secs(seconds)));
    assert_eq!(next(None, 0), Step::PressPowerButton);
    assert_eq!(next(Some(0), 1), wait(10));
    assert_eq!(next(Some(0), 10), Step::PressPowerButton);
    assert_eq!(next(Some(115), 116), wait(120));
    assert_eq!(next(Some(115), 120), Step::Kill);
}

/// What is asked for, and when it is done.
type Wish = (fn(&mut Instance, Timestamp), fn(&Instance) -> bool);

const WISHES: [Wish; 5] = [
    (|_, _| {}, |instance| is_running(&instance.state)),
    (|instance, _| instance.reboots_wanted = 1, |instance| instance.reboots_done == 1),
    (|instance, now| instance.state = stopping(false, now), |instance| is_stopped(&instance.state)),
    (|instance, _| instance.state = InstanceState::Pending, |instance| is_running(&instance.state)),
    (
        |instance, now| instance.state = InstanceState::ShuttingDown { cause: Cause::User, since: now },
        |instance| is_terminated(&instance.state),
    ),
];

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_ends_at_any_effect_is_gone_on_with_by_the_next() {
    for after in [false, true] {
        for effects in 0..12 {
            let (store, inner) = (Arc::new(Memory::new()), Arc::new(Simulation::default()));
            let mut seed = 1;
            let mut current = plane(store.clone(), seed).await;
            launch(&current).await;
            let machines = Arc::new(FakeMachines::stopping(inner.clone(), effects, after));
            let mut work = tokio::spawn(InstanceReconciler::new(Arc::clone(&current), machines).run());
            for (wish, is_granted) in WISHES {
                let now = current.ledger.now();
                change(&current, |instance| wish(instance, now)).await;
                let granted = |instance: Option<&Instance>| instance.is_some_and(is_granted);
                let wait = until(&current, granted);
                if tokio::time::timeout(Duration::from_secs(1), wait).await.is_err() {
                    // It hangs at the last effect: another process takes over.
                    work.abort();
                    seed += 1;
                    current = plane(store.clone(), seed).await;
                    work = tokio::spawn(InstanceReconciler::new(Arc::clone(&current), inner.clone()).run());
                    until(&current, granted).await;
                }
            }
            assert_eq!(inner.observe(id()), None, "{effects} effects, {after}");
            work.abort();
        }
    }
}
