use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use types::{InstanceId, RandomId, SnapshotId, VolumeId, VolumeKind, VolumeSpec};

use super::*;
use crate::ports::{BoxFuture, Disk, DiskSpec, HostError, SnapshotCopySpec, SnapshotProgress, SnapshotSpec};
use crate::records::{
    AttachmentState, DeletedSnapshot, Image, ImageMapping, ImageOrigin, ImageState, Instance, InstanceState,
    ModificationState, Sharing, Snapshot, SnapshotSource, SnapshotState, Stored, Volume, VolumeAttachment,
    VolumeModification, VolumeState,
};
use crate::simulation::Simulation;
use crate::state::{Record as _, Transaction};
use crate::store::Memory;
use crate::testing::{plane, space};

/// A host that does as it is told in tests.
#[derive(Default)]
struct Fake {
    host: Simulation,
    told: Mutex<Told>,
    /// Told when an effect hangs: the process is to be killed then.
    hangs: Notify,
}

#[derive(Default)]
struct Told {
    effects: Vec<String>,
    refusal: Option<HostError>,
    /// After so many effects the next one does not return; and whether it is done nevertheless.
    hang: Option<(usize, bool)>,
    /// What is said of every volume and snapshot that is there.
    disk: Option<Disk>,
    progress: Option<SnapshotProgress>,
}

impl Fake {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    fn effect<'a>(
        &'a self,
        name: String,
        carry_out: impl FnOnce(&'a Simulation) -> BoxFuture<'a, Result<(), HostError>>,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        let mut told = self.told();
        told.effects.push(name);
        if let Some(refusal) = told.refusal.clone() {
            return Box::pin(async { Err(refusal) });
        }
        let Some((count, is_done)) = told.hang.filter(|(count, _)| told.effects.len() > *count) else {
            drop(told);
            return carry_out(&self.host);
        };
        assert_eq!(told.effects.len(), count + 1, "nobody does anything after it was killed");
        drop(told);
        if is_done {
            drop(carry_out(&self.host));
        }
        self.hangs.notify_one();
        Box::pin(std::future::pending())
    }
}

impl Disks for Fake {
    fn disk(&self, id: VolumeId) -> Option<Disk> {
        let says = self.told().disk.clone();
        self.host.disk(id).map(|disk| says.unwrap_or(disk))
    }

    fn snapshot(&self, id: SnapshotId) -> Option<SnapshotProgress> {
        let says = self.told().progress.clone();
        self.host.snapshot(id).map(|progress| says.unwrap_or(progress))
    }

    fn create(&self, spec: DiskSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("create".to_owned(), |host| host.create(spec))
    }

    fn modify(&self, id: VolumeId, spec: VolumeSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("modify".to_owned(), move |host| host.modify(id, spec))
    }

    fn delete(&self, id: VolumeId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("delete".to_owned(), move |host| host.delete(id))
    }

    fn plug<'a>(
        &'a self,
        id: VolumeId,
        instance: InstanceId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        self.effect(format!("plug {device}"), move |host| host.plug(id, instance, device))
    }

    fn unplug(
        &self,
        id: VolumeId,
        instance: InstanceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(format!("unplug {is_forced}"), move |host| host.unplug(id, instance, is_forced))
    }

    fn begin_snapshots(&self, specs: Vec<SnapshotSpec>) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(format!("snapshots {}", specs.len()), |host| host.begin_snapshots(specs))
    }

    fn copy_snapshot(&self, spec: SnapshotCopySpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("copy".to_owned(), |host| host.copy_snapshot(spec))
    }

    fn delete_snapshot(&self, id: SnapshotId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("delete snapshot".to_owned(), move |host| host.delete_snapshot(id))
    }

    fn on_disk_change(&self, call: Arc<dyn Fn() + Send + Sync>) {
        self.host.on_disk_change(call);
    }
}

fn id<Id: RandomId>(number: u8) -> Id {
    Id::from_random([number; 16])
}

fn gp3(size_gib: u64) -> VolumeSpec {
    VolumeSpec { kind: VolumeKind::Gp3, size_gib, iops: None, throughput_mib_s: None }
}

fn volume(number: u8, state: VolumeState, now: Timestamp) -> Volume {
    Volume {
        id: id(number),
        zone: space().region.zones()[0],
        spec: gp3(8),
        snapshot: None,
        key: None,
        is_multi_attach: false,
        enables_io_by_itself: false,
        created: now,
        state,
        attachments: Vec::new(),
        modification: None,
    }
}

fn attached(number: u8, state: AttachmentState, now: Timestamp) -> Volume {
    let attachment = VolumeAttachment {
        instance: id(1),
        device: "/dev/sdf".to_owned(),
        since: now,
        delete_on_termination: false,
        state,
    };
    Volume { attachments: vec![attachment], ..volume(number, VolumeState::Available, now) }
}

fn modified(number: u8, now: Timestamp) -> Volume {
    let modification = VolumeModification {
        original: gp3(8),
        original_is_multi_attach: false,
        target: gp3(16),
        target_is_multi_attach: false,
        started: now,
        state: ModificationState::Modifying,
    };
    Volume { modification: Some(modification), ..volume(number, VolumeState::Available, now) }
}

fn snapshot(number: u8, source: SnapshotSource, now: Timestamp) -> Snapshot {
    Snapshot {
        id: id(number),
        source,
        size_gib: 8,
        description: String::new(),
        key: None,
        started: now,
        sharing: Sharing::default(),
        state: SnapshotState::Pending { percent: 0 },
    }
}

fn of_volume(number: u8, volume: u8, moment: u8, now: Timestamp) -> Snapshot {
    snapshot(number, SnapshotSource::Volume { volume: id(volume), moment: id(moment) }, now)
}

fn image(number: u8, snapshot: u8, now: Timestamp) -> Image {
    let mapping = ImageMapping {
        device: "/dev/xvda".to_owned(),
        snapshot: Some(id(snapshot)),
        size_gib: 8,
        kind: VolumeKind::Gp3,
        iops: None,
        throughput_mib_s: None,
        is_encrypted: false,
        delete_on_termination: true,
    };
    Image {
        id: id(number),
        name: "image".to_owned(),
        description: String::new(),
        origin: ImageOrigin::Registered,
        root_device_name: "/dev/xvda".to_owned(),
        mappings: vec![mapping],
        boot_mode: None,
        requires_metadata_token: false,
        created: now,
        sharing: Sharing::default(),
        state: ImageState::Pending,
    }
}

async fn write(plane: &Plane, change: impl FnOnce(&mut Transaction<'_>, Timestamp)) {
    let all = |tx: &mut Transaction<'_>| {
        let now = tx.now();
        change(tx, now);
        Ok::<_, std::convert::Infallible>(())
    };
    plane.ledger.write(space(), all).await.unwrap();
}

fn get<R: Stored>(plane: &Plane, id: R::Id) -> Option<R> {
    plane.ledger.read(|state| R::table(state.space(space())?).get(id).map(|row| R::clone(row))).0
}

fn state(plane: &Plane, number: u8) -> Option<VolumeState> {
    get::<Volume>(plane, id(number)).map(|volume| volume.state)
}

fn is_settled(plane: &Plane) -> bool {
    let settled = |tables: &crate::records::Tables| {
        tables.volumes.iter().all(|it| it.is_settled())
            && tables.snapshots.iter().all(|it| it.is_settled())
            && tables.images.iter().all(|it| it.is_settled())
            && tables.deleted_snapshots.iter().len() == 0
    };
    plane.ledger.read(|state| state.space(space()).is_some_and(settled)).0
}

/// Volumes and snapshots on the host, and records that want something else of each.
const EFFECTS: usize = 8;

async fn host_before(host: &Simulation) {
    for number in [11, 12, 13, 14] {
        let (zone, spec) = (space().region.zones()[0], gp3(8));
        host.create(DiskSpec { id: id(number), zone, spec, snapshot: None, key: None }).await.unwrap();
    }
    host.plug(id(14), id(1), "/dev/sdf").await.unwrap();
    host.begin_snapshots(vec![SnapshotSpec { id: id(24), volume: id(12) }]).await.unwrap();
}

fn records(tx: &mut Transaction<'_>, now: Timestamp) {
    tx.put(running(now));
    tx.put(volume(10, VolumeState::Creating, now));
    tx.put(volume(11, VolumeState::Deleting, now));
    tx.put(modified(12, now));
    tx.put(attached(13, AttachmentState::Attaching, now));
    tx.put(attached(14, AttachmentState::Detaching { is_forced: true }, now));
    tx.put(of_volume(21, 12, 21, now));
    tx.put(of_volume(22, 13, 21, now));
    let region = space().region;
    tx.put(snapshot(23, SnapshotSource::Snapshot { snapshot: id(21), region }, now));
    tx.put(DeletedSnapshot { id: id(24) });
    tx.put(image(31, 22, now));
}

fn running(now: Timestamp) -> Instance {
    crate::testing::instance(id(1), InstanceState::Running, now)
}

fn check_all_done(plane: &Plane, host: &Simulation) {
    assert!(is_settled(plane));
    assert_eq!((state(plane, 10), state(plane, 11)), (Some(VolumeState::Available), None));
    assert!(host.disk(id(10)).is_some() && host.disk(id(11)).is_none());
    let modified: Volume = get(plane, id(12)).unwrap();
    assert_eq!(modified.spec, gp3(16));
    let over = modified.modification.unwrap().state;
    assert!(matches!(over, ModificationState::Completed { .. }), "{over:?}");
    let attached: Volume = get(plane, id(13)).unwrap();
    assert_eq!(attached.attachments[0].state, AttachmentState::Attached);
    let plugged = BTreeSet::from([id(1)]);
    assert_eq!(host.disk(id(13)), Some(Disk::Ready { spec: gp3(8), optimized_percent: 100, plugged }));
    assert!(get::<Volume>(plane, id(14)).unwrap().attachments.is_empty());
    for number in [21, 22, 23] {
        let snapshot: Snapshot = get(plane, id(number)).unwrap();
        assert!(matches!(snapshot.state, SnapshotState::Completed { .. }), "{snapshot:?}");
    }
    assert_eq!(get::<Image>(plane, id(31)).unwrap().state, ImageState::Available);
    assert_eq!(host.snapshot(id(24)), None);
}

#[tokio::test(start_paused = true)]
async fn one_pass_does_all_that_a_willing_host_lets_it() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Fake::default());
    host_before(&fake.host).await;
    write(&plane, records).await;
    pass(&plane, &fake).await.unwrap();
    check_all_done(&plane, &fake.host);
    // Both snapshots of one moment are begun at once.
    let effects = fake.told().effects.clone();
    let expected = [
        "create",
        "delete",
        "modify",
        "plug /dev/sdf",
        "unplug true",
        "snapshots 2",
        "copy",
        "delete snapshot",
    ];
    assert_eq!((effects, EFFECTS), (expected.map(str::to_owned).to_vec(), expected.len()));
    pass(&plane, &fake).await.unwrap();
    assert_eq!(fake.told().effects.len(), EFFECTS, "there is nothing left to do");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_killed_between_any_two_effects_is_gone_on_from() {
    for count in 0..EFFECTS {
        for is_done in [false, true] {
            let (store, fake) = (Arc::new(Memory::new()), Fake::default());
            host_before(&fake.host).await;
            let first = plane(store.clone(), 1).await;
            write(&first, records).await;
            fake.told().hang = Some((count, is_done));
            tokio::select! {
                outcome = pass(&first, &fake) => panic!("effect {count} came to an end: {outcome:?}"),
                () = fake.hangs.notified() => {}
            }
            drop(first);
            fake.told().hang = None;
            let next = plane(store, 2).await;
            pass(&next, &fake).await.unwrap();
            check_all_done(&next, &fake.host);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_host_cannot_do_is_told_by_the_records() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Fake::default());
    host_before(&fake.host).await;
    write(&plane, records).await;
    fake.told().refusal = Some(HostError::Failed("the disk is broken".to_owned()));
    pass(&plane, &fake).await.unwrap();
    let message = "the disk is broken".to_owned();
    assert_eq!(state(&plane, 10), Some(VolumeState::Error { message: message.clone() }));
    let modified: Volume = get(&plane, id(12)).unwrap();
    let over = modified.modification.unwrap().state;
    assert!(matches!(&over, ModificationState::Failed { message: said, .. } if *said == message), "{over:?}");
    assert_eq!(modified.spec, gp3(8));
    assert!(get::<Volume>(&plane, id(13)).unwrap().attachments.is_empty());
    for number in [21, 22, 23] {
        let snapshot: Snapshot = get(&plane, id(number)).unwrap();
        assert_eq!(snapshot.state, SnapshotState::Error { message: message.clone() });
    }
    assert_eq!(get::<Image>(&plane, id(31)).unwrap().state, ImageState::Failed { message });
    // From these there is no way back: they are tried again.
    assert_eq!(state(&plane, 11), Some(VolumeState::Deleting));
    assert!(!get::<Volume>(&plane, id(14)).unwrap().attachments.is_empty());
    assert!(get::<DeletedSnapshot>(&plane, id(24)).is_some());
    fake.told().refusal = None;
    pass(&plane, &fake).await.unwrap();
    assert!(is_settled(&plane));
    assert!(state(&plane, 11).is_none() && fake.host.snapshot(id(24)).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_full_is_asked_again_until_the_deadline() {
    for becomes_free in [true, false] {
        let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Fake::default());
        write(&plane, |tx, now| tx.put(volume(10, VolumeState::Creating, now))).await;
        fake.told().refusal = Some(HostError::NoCapacity("100 GiB are used".to_owned()));
        let wake = pass(&plane, &fake).await.unwrap();
        assert!(wake.is_some());
        assert_eq!(state(&plane, 10), Some(VolumeState::Creating));
        if becomes_free {
            fake.told().refusal = None;
        } else {
            tokio::time::advance(DEADLINE.unsigned_abs()).await;
        }
        pass(&plane, &fake).await.unwrap();
        let is_made = state(&plane, 10) == Some(VolumeState::Available);
        assert_eq!(is_made, becomes_free);
        assert!(is_settled(&plane));
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_stalls_is_not_waited_for_for_ever() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Fake::default());
    write(&plane, |tx, now| {
        tx.put(volume(10, VolumeState::Creating, now));
        tx.put(of_volume(21, 12, 21, now));
        tx.put(image(31, 21, now));
    })
    .await;
    fake.told().disk = Some(Disk::Making);
    fake.told().progress = Some(SnapshotProgress::Pending { percent: 40 });
    for _ in 0..3 {
        let wake = pass(&plane, &fake).await.unwrap();
        assert_eq!(wake, Some(plane.ledger.now() + DEADLINE));
    }
    assert_eq!(fake.told().effects, ["create", "snapshots 1"]);
    assert_eq!(get::<Snapshot>(&plane, id(21)).unwrap().state, SnapshotState::Pending { percent: 40 });
    tokio::time::advance(DEADLINE.unsigned_abs()).await;
    pass(&plane, &fake).await.unwrap();
    assert!(matches!(state(&plane, 10), Some(VolumeState::Error { .. })));
    tokio::time::advance(SNAPSHOT_DEADLINE.unsigned_abs()).await;
    pass(&plane, &fake).await.unwrap();
    assert!(matches!(get::<Image>(&plane, id(31)).unwrap().state, ImageState::Failed { .. }));
    assert!(is_settled(&plane));
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_kept_until_its_snapshots_are_complete() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Fake::default());
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(volume(11, VolumeState::Deleting, now));
        tx.put(of_volume(21, 11, 21, now));
    })
    .await;
    fake.told().progress = Some(SnapshotProgress::Pending { percent: 1 });
    pass(&plane, &fake).await.unwrap();
    assert!(fake.host.disk(id(11)).is_some());
    fake.told().progress = None;
    pass(&plane, &fake).await.unwrap();
    pass(&plane, &fake).await.unwrap();
    assert!(fake.host.disk(id(11)).is_none() && state(&plane, 11).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_kept_as_long_as_something_is_made_of_it() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Fake::default());
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(Volume { snapshot: Some(id(24)), ..volume(10, VolumeState::Creating, now) });
        tx.put(DeletedSnapshot { id: id(24) });
    })
    .await;
    fake.told().disk = Some(Disk::Making);
    pass(&plane, &fake).await.unwrap();
    assert!(fake.host.snapshot(id(24)).is_some());
    fake.told().disk = None;
    pass(&plane, &fake).await.unwrap();
    assert!(fake.host.snapshot(id(24)).is_none() && is_settled(&plane));
}

#[tokio::test(start_paused = true)]
async fn what_changes_meanwhile_is_not_overwritten() {
    let now = Timestamp::UNIX_EPOCH;
    let mut record = attached(13, AttachmentState::Detaching { is_forced: false }, now);
    Change::Attached(id(1)).make(&mut record, now);
    assert_eq!(record.attachments[0].state, AttachmentState::Detaching { is_forced: false });
    let mut record = attached(13, AttachmentState::Attached, now);
    Change::Detached(id(1)).make(&mut record, now);
    assert_eq!(record.attachments.len(), 1);
    let mut record = volume(10, VolumeState::Deleting, now);
    for change in [Change::Made, Change::Broken(String::new()), Change::Modified] {
        change.make(&mut record, now);
        assert_eq!(record.state, VolumeState::Deleting, "{change:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reconciler_works_on_what_changes() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    let work = tokio::spawn(run(Arc::clone(&plane), fake.clone()));
    write(&plane, records).await;
    let mut changes = plane.ledger.changes();
    let done = async {
        while !is_settled(&plane) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), done).await.unwrap();
    check_all_done(&plane, &fake.host);
    work.abort();
}
