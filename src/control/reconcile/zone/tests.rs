use std::sync::Arc;
use std::time::Duration;

use types::{RandomId as _, VolumeId};

use super::*;
use crate::plane::Plane;
use crate::ports::{Machine, Machines as _};
use crate::reconcile::instance::InstanceReconciler;
use crate::records::{Cause, InstanceState, VolumeState};
use crate::simulation::Simulation;
use crate::store::Memory;
use crate::testing::{plane, root_volume, space};
use crate::zones::{ZoneState, set};

fn id(number: u8) -> InstanceId {
    InstanceId::from_random([number; 16])
}

fn here() -> Zone {
    space().region.zones()[0]
}

async fn launch(plane: &Plane, number: u8, zone: Zone) {
    super::super::write(plane, space(), |tx| put(tx, number, zone)).await.unwrap();
}

fn put(tx: &mut Transaction<'_>, number: u8, zone: Zone) {
    let mut instance = crate::testing::instance(id(number), InstanceState::Pending, tx.now());
    instance.zone = zone;
    tx.put(instance);
    let volume = VolumeId::from_random([number; 16]);
    tx.put(root_volume(volume, id(number), VolumeState::Available, tx.now()));
}

async fn change(plane: &Plane, number: u8, change: impl FnOnce(&mut Instance)) {
    let write = |tx: &mut Transaction<'_>| {
        tx.update::<Instance>(id(number), change);
    };
    super::super::write(plane, space(), write).await.unwrap();
}

fn now_is(plane: &Plane, number: u8) -> Arc<Instance> {
    plane.ledger.read(|state| Arc::clone(state.space(space()).unwrap().instances.get(id(number)).unwrap())).0
}

async fn begin() -> (Arc<Plane>, Arc<Simulation>) {
    let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    tokio::spawn(InstanceReconciler::new(Arc::clone(&plane), machines.clone()).run());
    tokio::spawn(super::super::unhosted::run(Arc::clone(&plane)));
    (plane, machines)
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_in_a_zone_ends_when_it_fails_and_runs_again_when_it_recovers() {
    let (plane, machines) = begin().await;
    let elsewhere = space().region.zones()[1];
    launch(&plane, 1, here()).await;
    launch(&plane, 2, elsewhere).await;
    a_moment().await;
    set(&plane, here(), ZoneState::Failed).await.unwrap();
    a_moment().await;
    let failed = now_is(&plane, 1);
    assert_eq!(failed.state, InstanceState::Running, "to its owner it is there, and unreachable");
    assert!(failed.outage.is_some_and(|outage| !outage.is_over));
    assert_eq!((machines.observe(id(1)), machines.observe(id(2))), (None, Some(Machine::Running)));
    // A reboot that is asked for meanwhile is done with the recovery.
    change(&plane, 1, |instance| instance.reboots_wanted += 1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(machines.observe(id(1)), None);
    set(&plane, here(), ZoneState::Available).await.unwrap();
    a_moment().await;
    let recovered = now_is(&plane, 1);
    assert_eq!((recovered.outage, recovered.reboots_done), (None, 1));
    assert_eq!(machines.observe(id(1)), Some(Machine::Running));
    assert_eq!(recovered.launched, failed.launched);
}

#[tokio::test(start_paused = true)]
async fn what_is_to_stop_or_to_end_does_so_though_its_zone_has_failed() {
    let (plane, machines) = begin().await;
    for number in [1, 2, 3] {
        launch(&plane, number, here()).await;
    }
    a_moment().await;
    set(&plane, here(), ZoneState::Failed).await.unwrap();
    a_moment().await;
    let since = plane.ledger.now();
    change(&plane, 1, |instance| {
        instance.state = InstanceState::Stopping { cause: Cause::User, is_forced: false, since };
    })
    .await;
    change(&plane, 2, |instance| {
        instance.state = InstanceState::ShuttingDown { cause: Cause::User, since };
    })
    .await;
    a_moment().await;
    assert!(matches!(now_is(&plane, 1).state, InstanceState::Stopped { .. }));
    assert!(matches!(now_is(&plane, 2).state, InstanceState::Terminated { .. }));
    assert_eq!(now_is(&plane, 1).outage, None);
    set(&plane, here(), ZoneState::Available).await.unwrap();
    a_moment().await;
    assert_eq!([1, 2, 3].map(|number| machines.observe(id(number)).is_some()), [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_about_to_start_does_not() {
    let (plane, machines) = begin().await;
    set(&plane, here(), ZoneState::Failed).await.unwrap();
    let launch = |tx: &mut Transaction<'_>| {
        put(tx, 1, here());
        pass(tx);
    };
    super::super::write(&plane, space(), launch).await.unwrap();
    a_moment().await;
    let instance = now_is(&plane, 1);
    assert!(
        matches!(&instance.state, InstanceState::Terminated { cause: Cause::Failure { code, .. }, .. } if code == "Server.InternalError"),
        "{instance:?}"
    );
    assert_eq!(machines.observe(id(1)), None);
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_fails_and_recovers_at_once_leaves_all_running() {
    let (plane, machines) = begin().await;
    for number in 1..=250 {
        launch(&plane, number, here()).await;
    }
    a_moment().await;
    for _ in 0..3 {
        set(&plane, here(), ZoneState::Failed).await.unwrap();
        set(&plane, here(), ZoneState::Available).await.unwrap();
    }
    a_moment().await;
    for number in 1..=250 {
        let instance = now_is(&plane, number);
        assert_eq!((&instance.state, instance.outage), (&InstanceState::Running, None));
        assert_eq!(machines.observe(id(number)), Some(Machine::Running));
    }
}
