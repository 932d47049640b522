use types::RandomId as _;

use super::*;
use crate::simulation::Simulation;
use crate::store::Memory;
use crate::testing::{plane, space};

fn id() -> InstanceId {
    InstanceId::from_random([7; 16])
}

async fn write(plane: &Plane, change: impl FnOnce(&mut Transaction<'_>)) {
    super::super::write(plane, space(), change).await.unwrap();
}

fn health(plane: &Plane) -> Health {
    plane.ledger.read(|state| state.space(space()).unwrap().instances.get(id()).unwrap().health).0
}

async fn running(is_silent: bool) -> (Arc<Plane>, Arc<Simulation>) {
    let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    machines.silence(id(), is_silent);
    tokio::spawn(run(Arc::clone(&plane), machines.clone()));
    write(&plane, |tx| {
        let now = tx.now();
        tx.put(crate::testing::instance(id(), InstanceState::Running, now));
    })
    .await;
    (plane, machines)
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_answers_is_well_at_once() {
    let (plane, _machines) = running(false).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(health(&plane), Health::Well);
}

#[tokio::test(start_paused = true)]
async fn a_guest_has_time_to_boot_and_is_well_soon_after_it_has() {
    let (plane, machines) = running(true).await;
    seconds(100).await;
    assert_eq!(health(&plane), Health::Initializing);
    machines.silence(id(), false);
    seconds(6).await;
    assert_eq!(health(&plane), Health::Well);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_is_impaired_in_the_end() {
    let (plane, _machines) = running(true).await;
    seconds(BOOT_TIME.unsigned_abs().as_secs() + 10).await;
    assert!(matches!(health(&plane), Health::Impaired { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_falls_silent_is_impaired_since_then_until_it_answers_or_boots() {
    let (plane, machines) = running(false).await;
    seconds(600).await;
    machines.silence(id(), true);
    let before = plane.ledger.now();
    seconds(70).await;
    let Health::Impaired { since } = health(&plane) else { panic!("{:?}", health(&plane)) };
    assert!(since > before);
    seconds(600).await;
    assert_eq!(health(&plane), Health::Impaired { since }, "it is impaired since the first time");
    machines.silence(id(), false);
    seconds(6).await;
    assert_eq!(health(&plane), Health::Well);
    machines.silence(id(), true);
    write(&plane, |tx| {
        tx.update::<Instance>(id(), |instance| {
            instance.reboots_done += 1;
            instance.reboots_wanted += 1;
            instance.health = Health::Initializing;
        });
    })
    .await;
    seconds(70).await;
    assert_eq!(health(&plane), Health::Initializing, "a boot begins anew");
}

#[test]
fn one_silence_is_not_enough() {
    let now = Timestamp::from_second(1000).unwrap();
    let old = SignedDuration::from_hours(1);
    assert_eq!(next(Health::Well, 1, old, now), Health::Well);
    assert_eq!(next(Health::Well, 2, old, now), Health::Impaired { since: now });
    let since = Timestamp::from_second(10).unwrap();
    assert_eq!(next(Health::Impaired { since }, 9, old, now), Health::Impaired { since });
}
