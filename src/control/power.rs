//! A machine that is about to go down: whatever runs on it is stopped, as who runs the region says. AWS has no operation for it.
//!
//! To an instance's owner it is as if the instance had been stopped, and why is told by AWS's code for a host that is taken out of service.

use aws::Error;
use types::InstanceId;

use crate::ledger::Stopped;
use crate::plane::Plane;
use crate::records::{Cause, Instance, InstanceState, Tables};
use crate::state::{State, Transaction};

pub use crate::reconcile::instance::GRACE;

/// So many instances are changed in one transaction.
const INSTANCES_MAX: usize = 500;

/// Has all instances of all accounts and regions stop, whatever protects them from their owners; says how many are to. If it is forced, those
/// that are stopping already have no time left for it.
///
/// # Errors
/// When nothing can be written.
pub async fn stop_all(plane: &Plane, is_forced: bool) -> Result<usize, Error> {
    let all = |state: &State| {
        let ids = |tables: &Tables| tables.instances.iter().map(|it| it.id).collect::<Vec<_>>();
        state.spaces().map(|(space, tables)| (space, ids(tables))).collect::<Vec<_>>()
    };
    let (all, _) = plane.ledger.read(all);
    let mut stopping = 0;
    for (space, ids) in all {
        for some in ids.chunks(INSTANCES_MAX) {
            let stop =
                |tx: &mut Transaction<'_>| Ok(some.iter().filter(|id| stop(tx, **id, is_forced)).count());
            stopping += plane.write(space, stop).await?;
        }
    }
    Ok(stopping)
}

/// Says whether it is to stop now.
fn stop(tx: &mut Transaction<'_>, id: InstanceId, is_forced: bool) -> bool {
    let now = tx.now();
    let Some(instance) = tx.get::<Instance>(id) else { return false };
    let (cause, since) = match &instance.state {
        InstanceState::Pending | InstanceState::Running => (cause(), now),
        InstanceState::Stopping { cause, since, .. } => (cause.clone(), *since),
        // It ends by itself.
        InstanceState::ShuttingDown { .. } => return true,
        InstanceState::Stopped { .. } | InstanceState::Terminated { .. } => return false,
    };
    tx.update::<Instance>(id, |instance| {
        let is_forced =
            is_forced || matches!(instance.state, InstanceState::Stopping { is_forced: true, .. });
        instance.state = InstanceState::Stopping { cause, is_forced, since };
    });
    true
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html>.
fn cause() -> Cause {
    Cause::Failure {
        code: "Server.ScheduledStop".to_owned(),
        message: "The host was taken down by nimbo down".to_owned(),
    }
}

/// Returns when no instance has anything on a host, and that is durable.
///
/// # Errors
/// When nothing can be written any more.
pub async fn idle(plane: &Plane) -> Result<(), Stopped> {
    let mut records = plane.ledger.changes();
    loop {
        let (busy, as_of) = plane.ledger.read(on_host);
        if busy.is_empty() {
            return plane.ledger.settled(as_of).await;
        }
        // The ledger, which is there, tells them.
        let _ = records.changed().await;
    }
}

/// The instances that have something on a host.
pub fn busy(plane: &Plane) -> Vec<InstanceId> {
    plane.ledger.read(on_host).0
}

fn on_host(state: &State) -> Vec<InstanceId> {
    let all = state.spaces().flat_map(|(_, tables)| tables.instances.iter());
    all.filter(|instance| instance.is_on_host()).map(|instance| instance.id).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use types::{RandomId as _, VolumeId};

    use super::*;
    use crate::ports::Machines as _;
    use crate::reconcile::instance::InstanceReconciler;
    use crate::records::VolumeState;
    use crate::simulation::Simulation;
    use crate::store::Memory;
    use crate::testing::{instance, plane, root_volume, space};

    fn id(number: u8) -> InstanceId {
        InstanceId::from_random([number; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn all_stop_whatever_protects_them_and_say_why() {
        let (plane, machines) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
        let stopped_before = |now| InstanceState::Stopped { cause: Cause::User, since: now };
        let put = |tx: &mut Transaction<'_>| {
            let now = tx.now();
            let states = [InstanceState::Pending, InstanceState::Running, stopped_before(now)];
            for (number, state) in (1..).zip(states) {
                let mut made = instance(id(number), state, now);
                made.is_protected_from_stop = true;
                tx.put(made);
                let volume = VolumeId::from_random([number; 16]);
                tx.put(root_volume(volume, id(number), VolumeState::Available, now));
            }
            Ok(())
        };
        plane.write(space(), put).await.unwrap();
        assert_eq!(busy(&plane), [id(1), id(2)]);
        assert_eq!(stop_all(&plane, false).await.unwrap(), 2);
        tokio::spawn(InstanceReconciler::new(Arc::clone(&plane), machines.clone()).run());
        idle(&plane).await.unwrap();
        let cause_of = |number| {
            let cause =
                |state: &State| match &state.space(space()).unwrap().instances.get(id(number)).unwrap().state
                {
                    InstanceState::Stopped { cause, .. } => cause.clone(),
                    other => panic!("{other:?}"),
                };
            plane.ledger.read(cause).0
        };
        assert_eq!([1, 2, 3].map(cause_of), [cause(), cause(), Cause::User]);
        assert!(machines.ids().is_empty() && busy(&plane).is_empty());
        assert_eq!(stop_all(&plane, true).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_forced_has_no_time_left_and_the_reason_of_before() {
        let plane = plane(Arc::new(Memory::new()), 1).await;
        let put = |tx: &mut Transaction<'_>| {
            let (cause, since) = (Cause::User, tx.now());
            let stopping = InstanceState::Stopping { cause, is_forced: false, since };
            tx.put(instance(id(1), stopping, since));
            Ok(since)
        };
        let since = plane.write(space(), put).await.unwrap();
        let state = || {
            plane
                .ledger
                .read(|state| state.space(space()).unwrap().instances.get(id(1)).unwrap().state.clone())
                .0
        };
        for is_forced in [false, true, false] {
            stop_all(&plane, is_forced).await.unwrap();
            let was_forced = matches!(state(), InstanceState::Stopping { is_forced: true, .. });
            assert!(was_forced || !is_forced);
        }
        assert_eq!(state(), InstanceState::Stopping { cause: Cause::User, is_forced: true, since });
    }
}
