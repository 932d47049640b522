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
    volume.upload_snapshot(&store, &|_| true).unwrap();
    (memory, store, name)
}

fn write(volume: &Volume) {
    let mut queue = volume.open_queue(1).unwrap();
    let bytes = Memory::from_bytes(&[7; 4096]);
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
        assert_eq!(volume.begin_snapshot_as(name).unwrap(), name);
    }
    assert_eq!(volume.begin_snapshot_as(other).unwrap(), name, "that one has not ended");
    volume.upload_snapshot(&store, &|_| true).unwrap();
    write(&volume);
    let (keys, layers) = (memory.keys(), volume.layers());
    assert_eq!(volume.begin_snapshot_as(name).unwrap(), name);
    volume.upload_snapshot(&store, &|_| true).unwrap();
    assert_eq!((memory.keys(), volume.layers()), (keys, layers), "it is what it was");
    let foreign = SnapshotName { lineage: Uuid([1; 16]), id: Uuid([2; 16]) };
    assert!(matches!(volume.begin_snapshot_as(foreign), Err(SnapshotError::OtherLineage { .. })));
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
        let stopped = volume.upload_snapshot(&store, &|progress| is_complete || progress.done == 0);
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
