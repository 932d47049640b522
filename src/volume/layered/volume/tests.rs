//! What is kept for a volume in a store, from before it is made until after it is removed.

use super::*;
use crate::snapshot::store::memory::{Fault, MemoryStore};
use crate::testing::{Memory, execute};

const SIZE: u64 = 4 << 20;

/// A store with a snapshot of a volume that holds something.
fn with_snapshot() -> (MemoryStore, Arc<dyn ObjectStore>, SnapshotName) {
    let (folder, memory) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let store: Arc<dyn ObjectStore> = Arc::new(memory.clone());
    Volume::create(folder.path(), SIZE).unwrap();
    let volume = Volume::open(folder.path()).unwrap();
    write(&volume);
    let name = volume.begin_snapshot().unwrap();
    volume.upload_snapshot(name, &store, &|_| true).unwrap();
    (memory, store, name)
}

fn write(volume: &Volume) {
    write_byte(volume, 7);
}

fn write_byte(volume: &Volume, byte: u8) {
    let mut queue = volume.open_queue(1).unwrap();
    let bytes = Memory::from_bytes(&[byte; 4096]);
    let buffers = &[bytes.all()];
    execute(&mut *queue, BlockRequest::Write { offset: 0, buffers }).unwrap();
    execute(&mut *queue, BlockRequest::Flush).unwrap();
}

#[test]
fn a_volume_whose_making_ends_anywhere_is_removed_with_all_that_is_kept_for_it() {
    let (memory, store, name) = with_snapshot();
    let before = memory.keys();
    memory.heal();
    for calls in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        // From then on nothing is done any more, as if the process were killed.
        memory.fault_at(1 + calls..u64::MAX, Fault::Unavailable);
        let made = Volume::create_from(&path, &store, name, None);
        memory.heal();
        let is_made = made.is_ok();
        assert!(is_made || Volume::open(&path).is_err());
        Volume::remove(&path, &Snapshots::new(Arc::clone(&store))).unwrap();
        assert_eq!((memory.keys(), path.exists()), (before.clone(), false), "after {calls} calls");
        if is_made {
            assert!(calls > 2, "it was stopped nowhere");
            return;
        }
    }
}

#[test]
fn who_makes_a_volume_again_where_one_was_not_made_leaves_no_pin_of_the_first() {
    let (memory, store, name) = with_snapshot();
    let before = memory.keys().len();
    let folder = tempfile::tempdir().unwrap();
    // The pin is there, and nothing can be done after it.
    memory.heal();
    let pinned = (1..).find(|first| {
        memory.fault_at(*first..u64::MAX, Fault::Unavailable);
        drop(Volume::create_from(folder.path(), &store, name, None).unwrap_err());
        memory.heal();
        memory.keys().len() > before
    });
    assert!(pinned.is_some());
    Volume::create_from(folder.path(), &store, name, None).unwrap();
    assert_eq!(memory.keys().len(), before + 1, "one pin: {:?}", memory.keys());
    let volume = Volume::open_with(folder.path(), Some(store)).unwrap();
    assert!(volume.fill(None, &|_| true).unwrap());
    assert_eq!(memory.keys().len(), before);
}

#[test]
fn a_snapshot_of_a_chosen_name_is_begun_once() {
    let (memory, store, _) = with_snapshot();
    let folder = tempfile::tempdir().unwrap();
    Volume::create(folder.path(), SIZE).unwrap();
    let volume = Volume::open(folder.path()).unwrap();
    let [name, other] = [0; 2].map(|_| volume.snapshot_name().unwrap());
    assert_ne!(name, other);
    for _ in 0..2 {
        volume.begin_snapshot_as(name).unwrap();
    }
    volume.upload_snapshot(name, &store, &|_| true).unwrap();
    write(&volume);
    let (keys, layers) = (memory.keys(), volume.layers());
    volume.begin_snapshot_as(name).unwrap();
    volume.upload_snapshot(name, &store, &|_| true).unwrap();
    // Of one that nobody has begun there is nothing to do.
    volume.upload_snapshot(other, &store, &|_| true).unwrap();
    assert_eq!((memory.keys(), volume.layers()), (keys, layers), "it is what it was");
    let foreign = SnapshotName { lineage: Uuid([1; 16]), id: Uuid([2; 16]) };
    assert!(matches!(volume.begin_snapshot_as(foreign), Err(SnapshotError::OtherLineage { .. })));
}

#[test]
fn a_volume_that_is_closed_can_be_opened_though_a_process_that_is_being_started_has_its_lock() {
    let folder = tempfile::tempdir().unwrap();
    Volume::create(folder.path(), SIZE).unwrap();
    let volume = Volume::open(folder.path()).unwrap();
    let inherited = volume.0._lock.inherited();
    drop(volume);
    drop(Volume::open(folder.path()).unwrap());
    drop(inherited);
}

/// The first block of a snapshot.
fn begin_of(store: &Arc<dyn ObjectStore>, name: SnapshotName) -> u8 {
    Snapshot::open(Arc::clone(store), name).unwrap().chunk(0).unwrap().map_or(0, |chunk| chunk[0])
}

#[test]
fn each_of_several_snapshots_is_of_the_moment_when_it_was_begun() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let store: Arc<dyn ObjectStore> = Arc::new(memory.clone());
    Volume::create(folder.path(), SIZE).unwrap();
    let mut volume = Volume::open(folder.path()).unwrap();
    let mut names = Vec::new();
    for byte in 1..=4 {
        write_byte(&volume, byte);
        names.push(volume.snapshot_name().unwrap());
        volume.begin_snapshot_as(names[names.len() - 1]).unwrap();
        if byte == 2 {
            drop(volume);
            volume = Volume::open(folder.path()).unwrap();
        }
    }
    write_byte(&volume, 9);
    assert_eq!(volume.pending_snapshots(), names);
    // Layers that a snapshot needs apart are not merged.
    let layers = volume.layers();
    volume.compact(&|| false).unwrap();
    assert_eq!(volume.layers(), layers);
    let snapshots = Snapshots::new(Arc::clone(&store));
    volume.cancel_snapshot(names[1], &snapshots).unwrap();
    // One is complete when those before it are.
    volume.upload_snapshot(names[2], &store, &|_| true).unwrap();
    assert_eq!(volume.pending_snapshots(), names[3..]);
    assert_eq!([0, 2].map(|index: usize| begin_of(&store, names[index])), [1, 3]);
    assert!(matches!(snapshots.open(names[1]), Err(SnapshotError::NotFound { .. })));
    volume.upload_snapshot(names[3], &store, &|_| true).unwrap();
    assert_eq!((begin_of(&store, names[3]), volume.pending_snapshots()), (4, vec![]));
    volume.compact(&|| false).unwrap();
    assert!(volume.layers().len() < layers.len());
}

#[test]
fn there_are_no_more_snapshots_at_a_time_than_may_be() {
    let folder = tempfile::tempdir().unwrap();
    Volume::create(folder.path(), SIZE).unwrap();
    let volume = Volume::open(folder.path()).unwrap();
    let begin = || volume.begin_snapshot_as(volume.snapshot_name().unwrap());
    let count = (0..).find(|_| begin().is_err()).unwrap();
    assert_eq!(volume.pending_snapshots().len(), count);
    let error = begin().unwrap_err();
    assert!(
        error.to_string().contains(&format!("{count} snapshots of the volume are being made")),
        "{error}"
    );
}

#[test]
fn a_volume_is_removed_with_a_snapshot_that_was_begun_and_without_one_that_is_complete() {
    let (memory, store, first) = with_snapshot();
    let snapshots = Snapshots::new(Arc::clone(&store));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    for is_complete in [false, true] {
        Volume::create_from(&path, &store, first, None).unwrap();
        let volume = Volume::open_with(&path, Some(Arc::clone(&store))).unwrap();
        assert!(matches!(Volume::remove(&path, &snapshots), Err(SnapshotError::Volume(VolumeError::InUse))));
        write(&volume);
        let name = volume.begin_snapshot().unwrap();
        let stopped = volume.upload_snapshot(name, &store, &|progress| is_complete || progress.done == 0);
        assert_eq!(stopped.is_ok(), is_complete);
        drop(volume);
        Volume::remove(&path, &snapshots).unwrap();
        assert_eq!(snapshots.list().unwrap().contains(&name), is_complete);
        assert!(!memory.keys().iter().any(|key| key.starts_with("pins/")), "{:?}", memory.keys());
    }
    // Of what is damaged nothing is known but that it is to go.
    Volume::create(&path, SIZE).unwrap();
    std::fs::write(path.join("volume"), "damaged").unwrap();
    Volume::remove(&path, &snapshots).unwrap();
    Volume::remove(&path, &snapshots).unwrap();
    assert!(!path.exists());
}
