mod fake;
mod refusal;

use std::collections::BTreeSet;

use jiff::Timestamp;
use types::{RandomId, VolumeKind, VolumeSpec};

use super::*;
use crate::ports::{Disk, DiskSpec, HostError, SnapshotProgress, SnapshotSpec};
use crate::records::{
    AttachmentState, DeletedSnapshot, Image, ImageMapping, ImageOrigin, ImageState, Instance, InstanceState,
    ModificationState, Rest, Sharing, Snapshot, SnapshotSource, SnapshotState, Stored, Volume,
    VolumeAttachment, VolumeModification, VolumeState,
};
use crate::simulation::Simulation;
use crate::state::{Record as _, Transaction};
use crate::store::Memory;
use crate::testing::{plane, space};
use fake::Fake;

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
        // As large as the one that is modified becomes.
        size_gib: 16,
        description: String::new(),
        key: None,
        started: now,
        awaits: None,
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

/// All that can be done at once, and no more: long before anything is asked again.
async fn pass(plane: &Arc<Plane>, fake: &Arc<Fake>) {
    tokio::select! {
        stopped = run(Arc::clone(plane), fake.clone()) => panic!("{stopped:?}"),
        () = tokio::time::sleep(RETRY / 10) => {}
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

/// How often the host was asked.
fn asked(fake: &Fake) -> usize {
    fake.told().effects.len()
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
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, records).await;
    pass(&plane, &fake).await;
    check_all_done(&plane, &fake.host);
    // Both snapshots of one moment are begun at once.
    let mut effects = fake.told().effects.clone();
    effects.sort();
    let expected = [
        "copy",
        "create",
        "delete",
        "delete snapshot",
        "modify",
        "plug /dev/sdf",
        "snapshots 2",
        "unplug true",
    ];
    assert_eq!((effects, EFFECTS), (expected.map(str::to_owned).to_vec(), expected.len()));
    pass(&plane, &fake).await;
    assert_eq!(fake.told().effects.len(), EFFECTS, "there is nothing left to do");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_killed_between_any_two_effects_is_gone_on_from() {
    for count in 0..EFFECTS {
        for is_done in [false, true] {
            let (store, fake) = (Arc::new(Memory::new()), Arc::new(Fake::default()));
            host_before(&fake.host).await;
            let first = plane(store.clone(), 1).await;
            write(&first, records).await;
            fake.told().hang = Some((count, is_done));
            tokio::select! {
                outcome = run(Arc::clone(&first), fake.clone()) => panic!("effect {count}: {outcome:?}"),
                () = fake.hangs.notified() => {}
            }
            drop(first);
            fake.told().hang = None;
            let next = plane(store, 2).await;
            pass(&next, &fake).await;
            check_all_done(&next, &fake.host);
        }
    }
}

/// What awaits a guest begins when that is down, and goes on awaiting it until the host says that it has begun.
#[tokio::test(start_paused = true)]
async fn a_snapshot_waits_for_a_guest_to_shut_down() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(Instance { rest: Some(Rest::Wanted), ..running(now) });
        for (number, volume) in [(21, 12), (22, 13)] {
            tx.put(Snapshot { awaits: Some(id(1)), ..of_volume(number, volume, 21, now) });
        }
    })
    .await;
    let rest = async |rest| {
        write(&plane, |tx, _| assert!(tx.update::<Instance>(id(1), |it| it.rest = Some(rest)))).await;
        pass(&plane, &fake).await;
    };
    let awaits = || [21, 22].map(|number| get::<Snapshot>(&plane, id(number)).unwrap().awaits);
    pass(&plane, &fake).await;
    rest(Rest::ShuttingDown { since: Timestamp::UNIX_EPOCH }).await;
    assert_eq!(asked(&fake), 0);
    fake.told().progress = Some(SnapshotProgress::Beginning);
    rest(Rest::Begun).await;
    assert_eq!((fake.told().effects.clone(), awaits()), (vec!["snapshots 2".to_owned()], [Some(id(1)); 2]));
    fake.told().progress = Some(SnapshotProgress::Pending { percent: 0 });
    pass(&plane, &fake).await;
    assert_eq!((asked(&fake), awaits()), (1, [None; 2]));
}

/// An instance at rest is given what was attached to it when it is started, and nothing before.
#[tokio::test(start_paused = true)]
async fn a_volume_is_not_plugged_into_a_guest_at_rest() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(Instance { rest: Some(Rest::Begun), ..running(now) });
        tx.put(attached(13, AttachmentState::Attaching, now));
    })
    .await;
    pass(&plane, &fake).await;
    let state = |plane: &Plane| get::<Volume>(plane, id(13)).unwrap().attachments[0].state;
    assert_eq!((asked(&fake), state(&plane)), (0, AttachmentState::Attaching));
    write(&plane, |tx, _| assert!(tx.update::<Instance>(id(1), |it| it.rest = None))).await;
    pass(&plane, &fake).await;
    assert_eq!(state(&plane), AttachmentState::Attached);
}

#[tokio::test(start_paused = true)]
async fn a_volume_grows_when_the_snapshots_of_it_as_it_was_are_begun() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(modified(12, now));
        tx.put(Snapshot { size_gib: 8, ..of_volume(21, 12, 21, now) });
    })
    .await;
    fake.told().refusal = Some(HostError::Unavailable("its process died".to_owned()));
    let work = tokio::spawn(run(Arc::clone(&plane), fake.clone()));
    tokio::time::sleep(RETRY * 10).await;
    let is_asked = |effect: &str| fake.told().effects.iter().any(|other| other == effect);
    assert!(is_asked("snapshots 1") && !is_asked("modify"), "{:?}", fake.told().effects);
    fake.told().refusal = None;
    tokio::time::sleep(RETRY * 3).await;
    assert!(is_asked("modify") && is_settled(&plane), "{:?}", fake.told().effects);
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_its_time_for_one_holds_up_no_other() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    write(&plane, |tx, now| tx.put(volume(10, VolumeState::Creating, now))).await;
    fake.told().hang = Some((0, false));
    let work = tokio::spawn(run(Arc::clone(&plane), fake.clone()));
    fake.hangs.notified().await;
    fake.told().hang = None;
    write(&plane, |tx, now| tx.put(volume(11, VolumeState::Creating, now))).await;
    tokio::time::sleep(RETRY / 10).await;
    let states = (state(&plane, 10), state(&plane, 11));
    assert_eq!(states, (Some(VolumeState::Creating), Some(VolumeState::Available)));
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_let_go_is_asked_now_and_then() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(running(now));
        tx.put(attached(14, AttachmentState::Detaching { is_forced: false }, now));
    })
    .await;
    let plugged = BTreeSet::from([id(1)]);
    fake.told().disk = Some(Disk::Ready { spec: gp3(8), optimized_percent: 100, plugged });
    let work = tokio::spawn(run(Arc::clone(&plane), fake.clone()));
    tokio::time::sleep(RETRY * 5 + RETRY / 2).await;
    assert_eq!(fake.told().effects, ["unplug false"; 6]);
    // It lets go, and that is seen at once.
    fake.told().disk = None;
    let before = tokio::time::Instant::now();
    fake.host.unplug(id(14), id(1), false).await.unwrap();
    let mut changes = plane.ledger.changes();
    while !is_settled(&plane) {
        changes.changed().await.unwrap();
    }
    assert!(before.elapsed() < RETRY / 10, "{:?}", before.elapsed());
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn a_host_that_stalls_is_not_waited_for_for_ever() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    write(&plane, |tx, now| {
        tx.put(volume(10, VolumeState::Creating, now));
        tx.put(of_volume(21, 12, 21, now));
        tx.put(image(31, 21, now));
    })
    .await;
    fake.told().disk = Some(Disk::Making);
    fake.told().progress = Some(SnapshotProgress::Pending { percent: 40 });
    for _ in 0..3 {
        pass(&plane, &fake).await;
    }
    assert_eq!(fake.told().effects, ["create", "snapshots 1"]);
    assert_eq!(get::<Snapshot>(&plane, id(21)).unwrap().state, SnapshotState::Pending { percent: 40 });
    tokio::time::advance(DEADLINE.unsigned_abs()).await;
    pass(&plane, &fake).await;
    assert!(matches!(state(&plane, 10), Some(VolumeState::Error { .. })));
    tokio::time::advance(SNAPSHOT_DEADLINE.unsigned_abs()).await;
    pass(&plane, &fake).await;
    assert!(matches!(get::<Image>(&plane, id(31)).unwrap().state, ImageState::Failed { .. }));
    assert!(is_settled(&plane));
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_kept_until_its_snapshots_are_complete() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(volume(11, VolumeState::Deleting, now));
        tx.put(of_volume(21, 11, 21, now));
    })
    .await;
    fake.told().progress = Some(SnapshotProgress::Pending { percent: 1 });
    pass(&plane, &fake).await;
    assert!(fake.host.disk(id(11)).is_some());
    fake.told().progress = None;
    pass(&plane, &fake).await;
    pass(&plane, &fake).await;
    assert!(fake.host.disk(id(11)).is_none() && state(&plane, 11).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_kept_as_long_as_something_is_made_of_it() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(Volume { snapshot: Some(id(24)), ..volume(10, VolumeState::Creating, now) });
        tx.put(DeletedSnapshot { id: id(24) });
    })
    .await;
    fake.told().disk = Some(Disk::Making);
    pass(&plane, &fake).await;
    assert!(fake.host.snapshot(id(24)).is_some());
    fake.told().disk = None;
    pass(&plane, &fake).await;
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

/// What an instance is started with was settled when that began: what is attached meanwhile is plugged in when it runs.
#[tokio::test(start_paused = true)]
async fn a_volume_of_an_instance_that_is_being_started_is_attached_when_it_runs() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, |tx, now| {
        tx.put(crate::testing::instance(id(1), InstanceState::Pending, now));
        tx.put(attached(13, AttachmentState::Attaching, now));
        tx.put(attached(14, AttachmentState::Detaching { is_forced: false }, now));
    })
    .await;
    let states = || {
        let attachment =
            |number| get::<Volume>(&plane, id(number)).unwrap().attachments.first().map(|it| it.state);
        (attachment(13), attachment(14))
    };
    let before = states();
    pass(&plane, &fake).await;
    assert_eq!((states(), fake.told().effects.len()), (before, 0));
    let run = |instance: &mut Instance| instance.state = InstanceState::Running;
    write(&plane, |tx, _| assert!(tx.update(id(1), run))).await;
    pass(&plane, &fake).await;
    assert_eq!(states(), (Some(AttachmentState::Attached), None));
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
