//! Images of an instance that runs: its guest is down while their snapshots begin, wherever the process ends.

use types::{SnapshotId, VolumeSpec};

use super::*;
use crate::ports::{
    BoxFuture, Disk, DiskSpec, Disks, OnDiskChange, SnapshotCopySpec, SnapshotProgress, SnapshotSpec,
};
use crate::records::{Outage, Sharing, Snapshot, SnapshotSource, SnapshotState};
use crate::simulation::Delays;

/// A host of which snapshots are begun when nobody writes.
struct Host {
    machines: Arc<FakeMachines>,
}

impl Host {
    fn new(inner: &Arc<Simulation>, left: usize, after: bool) -> Arc<Self> {
        let machines = Arc::new(FakeMachines::stopping(Arc::clone(inner), left, after));
        Arc::new(Self { machines })
    }

    fn inner(&self) -> &Simulation {
        &self.machines.inner
    }
}

impl Disks for Host {
    fn disk(&self, id: VolumeId) -> Option<Disk> {
        self.inner().disk(id)
    }

    fn snapshot(&self, id: SnapshotId) -> Option<SnapshotProgress> {
        self.inner().snapshot(id)
    }

    fn create(&self, spec: DiskSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.inner().create(spec)
    }

    fn modify(&self, id: VolumeId, spec: VolumeSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.inner().modify(id, spec)
    }

    fn delete(&self, id: VolumeId) -> BoxFuture<'_, Result<(), HostError>> {
        self.inner().delete(id)
    }

    fn plug<'a>(
        &'a self,
        id: VolumeId,
        instance: InstanceId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        self.inner().plug(id, instance, device)
    }

    fn unplug(
        &self,
        id: VolumeId,
        instance: InstanceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        self.inner().unplug(id, instance, is_forced)
    }

    fn begin_snapshots(&self, specs: Vec<SnapshotSpec>) -> BoxFuture<'_, Result<(), HostError>> {
        assert_ne!(self.inner().observe(id()), Some(Machine::Running), "the guest writes");
        self.machines.effect(|| self.inner().begin_snapshots(specs))
    }

    fn copy_snapshot(&self, spec: SnapshotCopySpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.inner().copy_snapshot(spec)
    }

    fn delete_snapshot(&self, id: SnapshotId) -> BoxFuture<'_, Result<(), HostError>> {
        self.inner().delete_snapshot(id)
    }

    fn on_disk_change(&self, call: OnDiskChange) {
        self.inner().on_disk_change(call);
    }
}

/// Both reconcilers, on one host.
fn work(plane: &Arc<Plane>, host: &Arc<Host>) -> tokio::task::JoinHandle<()> {
    let (plane, host) = (Arc::clone(plane), Arc::clone(host));
    tokio::spawn(async move {
        let instances = InstanceReconciler::new(Arc::clone(&plane), host.machines.clone()).run();
        let stopped = tokio::try_join!(instances, crate::reconcile::disk::run(plane, host));
        panic!("{:?}", stopped.err());
    })
}

fn snapshot_id(number: u8) -> SnapshotId {
    SnapshotId::from_random([number; 16])
}

/// What CreateImage writes of an instance that runs.
async fn image(plane: &Plane, number: u8) {
    let begin = plane.ledger.write(space(), |tx| {
        let started = tx.now();
        tx.put(Snapshot {
            id: snapshot_id(number),
            source: SnapshotSource::Volume { volume: root_id(), moment: snapshot_id(number) },
            size_gib: 8,
            description: String::new(),
            key: None,
            started,
            awaits: Some(id()),
            sharing: Sharing::default(),
            state: SnapshotState::Pending { percent: 0 },
        });
        tx.update::<Instance>(id(), |instance| {
            instance.rest.get_or_insert(Rest::Wanted);
        });
        Ok::<_, std::convert::Infallible>(())
    });
    begin.await.unwrap();
}

fn snapshot(plane: &Plane, number: u8) -> Snapshot {
    let (found, _) = plane.ledger.read(|state| {
        let tables = state.space(space())?;
        tables.snapshots.get(snapshot_id(number)).map(|snapshot| Snapshot::clone(snapshot))
    });
    found.unwrap()
}

fn is_complete(plane: &Plane, number: u8) -> bool {
    let snapshot = snapshot(plane, number);
    snapshot.awaits.is_none() && matches!(snapshot.state, SnapshotState::Completed { .. })
}

/// It is through, and has been running all the time as its owner sees it.
fn is_awake(instance: Option<&Instance>) -> bool {
    let instance = instance.unwrap();
    assert_eq!(instance.state, InstanceState::Running);
    instance.rest.is_none()
}

/// The first start, and then what an image takes: power button, forget, snapshots, start.
const EFFECTS: usize = 5;

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_ends_at_any_effect_of_an_image_is_gone_on_with_by_the_next() {
    for after in [false, true] {
        for effects in 1..=EFFECTS {
            let (store, inner) = (Arc::new(Memory::new()), Arc::new(Simulation::default()));
            let mut current = plane(store.clone(), 1).await;
            let host = Host::new(&inner, effects, after);
            launch(&current).await;
            let mut running = work(&current, &host);
            until(&current, is(is_running)).await;
            let launched = now_is(&current).unwrap().launched;
            image(&current, 1).await;
            let wait = tokio::time::timeout(Duration::from_secs(1), until(&current, is_awake)).await;
            assert_eq!(wait.is_err(), effects < EFFECTS, "{effects} effects are not all, or more");
            if wait.is_err() {
                running.abort();
                current = plane(store, 2).await;
                running = work(&current, &Host::new(&inner, usize::MAX, false));
                until(&current, is_awake).await;
            }
            assert_eq!(inner.observe(id()), Some(Machine::Running));
            let instance = now_is(&current).unwrap();
            assert_eq!((instance.reboots_done, instance.launched), (1, launched));
            assert!(is_complete(&current, 1), "{:?}", snapshot(&current, 1));
            running.abort();
        }
    }
}

/// One that comes when the guest is up again has it shut down once more, whether the first is complete or not.
#[tokio::test(start_paused = true)]
async fn an_image_does_not_wait_until_an_earlier_one_is_complete() {
    let inner = Arc::new(Simulation::with(Delays::like_aws(1.0)));
    let (plane, host) = (plane(Arc::new(Memory::new()), 1).await, Host::new(&inner, usize::MAX, false));
    launch(&plane).await;
    let running = work(&plane, &host);
    until(&plane, is(is_running)).await;
    image(&plane, 1).await;
    until(&plane, |it| it.unwrap().rest == Some(Rest::Over)).await;
    image(&plane, 2).await;
    let is_down_again =
        |it: &Instance| it.reboots_done == 1 && matches!(it.rest, Some(Rest::ShuttingDown { .. }));
    until(&plane, |it| is_down_again(it.unwrap())).await;
    assert!(!is_complete(&plane, 1) && snapshot(&plane, 1).awaits.is_none());
    until(&plane, |it| is_awake(it) && it.unwrap().reboots_done == 2).await;
    assert!(snapshot(&plane, 2).awaits.is_none());
    assert_eq!(inner.observe(id()), Some(Machine::Running));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(is_complete(&plane, 1) && is_complete(&plane, 2));
    running.abort();
}

/// Who is stopped meanwhile stays so, and what was begun is made of what its volumes hold then.
#[tokio::test(start_paused = true)]
async fn a_stop_and_an_end_go_before_an_image() {
    for (state, is_wanted) in [
        (stopping as fn(bool, Timestamp) -> InstanceState, is_stopped as fn(&InstanceState) -> bool),
        (|_, since| InstanceState::ShuttingDown { cause: Cause::User, since }, is_terminated),
    ] {
        let inner = Arc::new(Simulation::with(Delays::like_aws(1.0)));
        let (plane, host) = (plane(Arc::new(Memory::new()), 1).await, Host::new(&inner, usize::MAX, false));
        launch(&plane).await;
        let running = work(&plane, &host);
        until(&plane, is(is_running)).await;
        image(&plane, 1).await;
        until(&plane, |it| matches!(it.unwrap().rest, Some(Rest::ShuttingDown { .. }))).await;
        let now = plane.ledger.now();
        change(&plane, |instance| instance.state = state(false, now)).await;
        until(&plane, is(is_wanted)).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(is_complete(&plane, 1), "{:?}", snapshot(&plane, 1));
        assert_eq!((now_is(&plane).unwrap().rest, inner.observe(id())), (None, None));
        running.abort();
    }
}

#[test]
fn a_rest_goes_on_by_what_waits_for_it_and_by_what_the_host_says() {
    let now = Timestamp::UNIX_EPOCH;
    let next = |rest: Rest, machine: Option<Machine>, is_awaited: bool| {
        let instance =
            Instance { rest: Some(rest), ..crate::testing::instance(id(), InstanceState::Running, now) };
        plan(&instance, machine.as_ref(), &Around { volumes: Volumes::Ready, is_awaited, asked: None }, now)
    };
    let (up, down) = (|| Some(Machine::Running), || Some(Machine::Ended(End::PoweredOff)));
    let shutting_down = Rest::ShuttingDown { since: now };
    assert_eq!(next(Rest::Wanted, up(), true), Step::Rest(Some(shutting_down)));
    // The image is gone, or its guest went by itself.
    assert_eq!(next(Rest::Wanted, up(), false), Step::Rest(None));
    let stopped = InstanceState::Stopping { cause: Cause::Guest, is_forced: false, since: now };
    assert_eq!(next(Rest::Wanted, down(), true), Step::Enter(stopped));
    assert_eq!(next(shutting_down, up(), true), Step::PressPowerButton);
    assert_eq!(next(shutting_down, down(), true), Step::Forget);
    assert_eq!(next(shutting_down, None, true), Step::Rest(Some(Rest::Begun)));
    assert_eq!(next(Rest::Begun, None, true), Step::Wait(None));
    assert_eq!(next(Rest::Begun, None, false), Step::Rest(Some(Rest::Over)));
    assert_eq!(next(Rest::Over, None, true), Step::Start);
    assert_eq!(next(Rest::Over, down(), false), Step::Wake);
}

/// A guest that does not shut down is killed as late as by a stop, and in a zone that fails at once.
#[test]
fn a_guest_at_rest_that_stays_up_is_killed_in_the_end() {
    let since = Timestamp::UNIX_EPOCH;
    let next = |seconds: i64, outage: Option<Outage>, rest: Rest, machine: Option<Machine>| {
        let instance = Instance {
            rest: Some(rest),
            outage,
            ..crate::testing::instance(id(), InstanceState::Running, since)
        };
        let around = Around { volumes: Volumes::Ready, is_awaited: true, asked: Some(since) };
        plan(&instance, machine.as_ref(), &around, since + jiff::SignedDuration::from_secs(seconds))
    };
    let (rest, up) = (Rest::ShuttingDown { since }, || Some(Machine::Running));
    let wait = |seconds| Step::Wait(Some(since + jiff::SignedDuration::from_secs(seconds)));
    assert_eq!(next(1, None, rest, up()), wait(10));
    assert_eq!(next(10, None, rest, up()), Step::PressPowerButton);
    assert_eq!(next(120, None, rest, up()), Step::Kill);
    let outage = |is_over| Some(Outage { since, is_over });
    assert_eq!(next(1, outage(false), rest, up()), Step::Kill);
    assert_eq!(next(1, outage(false), Rest::Over, None), Step::Wait(None));
    assert_eq!(next(1, outage(true), Rest::Over, None), Step::Start);
}
