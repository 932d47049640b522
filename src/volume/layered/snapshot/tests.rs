//! Real volumes with their threads: fetching on demand, a store that fails or is away, a fill with a limit.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{BlockBackend, BlockRequest, Content};
use crate::extents::extents;
use crate::layered::{Volume, VolumeError};
use crate::snapshot::store::memory::{Fault, MemoryStore};
use crate::snapshot::{
    CHUNK_BYTES, ObjectStore, Progress, Snapshot, SnapshotDisk, SnapshotError, SnapshotName, Snapshots,
    StoreError,
};
use crate::testing::{Memory, execute};

const SIZE: u64 = 64 << 20;

fn write(volume: &Volume, offset: u64, bytes: &[u8]) {
    let memory = Memory::from_bytes(bytes);
    let mut queue = volume.open_queue(4).unwrap();
    execute(&mut *queue, BlockRequest::Write { offset, buffers: &[memory.all()] }).unwrap();
    execute(&mut *queue, BlockRequest::Flush).unwrap();
}

fn read(volume: &Volume, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let memory = Memory::new(len);
    let mut queue = volume.open_queue(4).unwrap();
    execute(&mut *queue, BlockRequest::Read { offset, buffers: &[memory.all()] })?;
    Ok(memory.to_vec())
}

/// A store with a snapshot of a volume whose chunks 0, 3 and 100 are full of 1, 2 and 3.
fn snapshot(parent: &Path) -> (MemoryStore, Arc<dyn ObjectStore>, SnapshotName) {
    let store = MemoryStore::new();
    let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let folder = parent.join("origin");
    Volume::create(&folder, SIZE).unwrap();
    let volume = Volume::open(&folder).unwrap();
    for (chunk, byte) in [(0, 1), (3, 2), (100, 3)] {
        write(&volume, chunk * CHUNK_BYTES, &vec![byte; 512 << 10]);
    }
    let name = volume.begin_snapshot().unwrap();
    write(&volume, 0, &[9; 4096]);
    assert_eq!(volume.pending_snapshots(), [name]);
    volume.upload_snapshot(name, &objects, &|_| true).unwrap();
    assert_eq!((volume.pending_snapshots(), store.keys().len()), (vec![], 6));
    store.heal();
    (store, objects, name)
}

#[test]
fn a_volume_from_a_snapshot_fetches_what_is_read_and_only_once() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (store, objects, name) = snapshot(folder.path());
    let path = folder.path().join("volume");
    Volume::create_from(&path, &objects, name, Some(2 * SIZE)).unwrap();
    assert!(matches!(Volume::open(&path), Err(VolumeError::NeedsStore { snapshot }) if snapshot == name));
    let volume = Volume::open_with(&path, Some(Arc::clone(&objects))).unwrap();
    store.heal();
    // Eight readers of one chunk, while nobody answers.
    store.hold();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8u64)
            .map(|reader| {
                let volume = &volume;
                scope.spawn(move || read(volume, reader * 4096 + 512, 1024).unwrap())
            })
            .collect();
        store.heal();
        readers.into_iter().for_each(|reader| assert_eq!(reader.join().unwrap(), [1; 1024]));
    });
    assert!(store.calls() <= 3, "a node, a leaf, a chunk, and not more: {}", store.calls());
    // A whole block is written without being fetched, a part of one is laid over what was there.
    store.heal();
    write(&volume, 3 * CHUNK_BYTES, &[7; 4096]);
    assert_eq!(store.calls(), 0);
    write(&volume, 3 * CHUNK_BYTES + 4096 + 512, &[8; 512]);
    let expected = [&[7; 4096][..], &[2; 512], &[8; 512], &[2; 3072]].concat();
    assert_eq!(read(&volume, 3 * CHUNK_BYTES, 8192).unwrap(), expected);
    assert_eq!(read(&volume, 50 * CHUNK_BYTES, 4096).unwrap(), [0; 4096], "zeroes of the snapshot");
    assert_eq!(read(&volume, SIZE, 4096).unwrap(), [0; 4096], "beyond the snapshot");
    // Closed and opened again, deleted meanwhile: what was fetched is there, what was not can still be.
    drop(volume);
    Snapshots::new(Arc::clone(&objects)).delete(name).unwrap();
    let volume = Volume::open_with(&path, Some(Arc::clone(&objects))).unwrap();
    store.heal();
    assert_eq!(read(&volume, 3 * CHUNK_BYTES, 8192).unwrap(), expected);
    assert_eq!(store.calls(), 0);
    assert_eq!(read(&volume, 100 * CHUNK_BYTES, 512).unwrap(), [3; 512]);
    assert!(volume.fill(None, &|_| true).unwrap());
    drop(volume);
    let volume = Volume::open(&path).unwrap();
    assert_eq!(read(&volume, 3 * CHUNK_BYTES, 8192).unwrap(), expected);
    Snapshots::new(objects).collect(name).unwrap();
    assert_eq!(store.keys(), [""; 0], "nobody needs the snapshot any more");
}

#[test]
fn what_a_volume_from_a_snapshot_holds_is_known_without_fetching_it() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (store, objects, name) = snapshot(folder.path());
    let path = folder.path().join("volume");
    Volume::create_from(&path, &objects, name, Some(2 * SIZE)).unwrap();
    let volume = Volume::open_with(&path, Some(Arc::clone(&objects))).unwrap();
    write(&volume, SIZE + 4096, &[1; 4096]);
    let disk = SnapshotDisk::new(Snapshot::open(objects, name).unwrap());
    store.heal();
    let data_of = |disk: &dyn BlockBackend| -> Vec<(u64, u64)> {
        let all = extents(disk, 0, disk.size_bytes()).map(Result::unwrap);
        all.filter(|(_, extent)| extent.content == Content::Data)
            .map(|(at, extent)| (at, extent.len))
            .collect()
    };
    let of_snapshot = [0, 3, 100].map(|chunk| (chunk * CHUNK_BYTES, CHUNK_BYTES));
    assert_eq!(data_of(&disk), of_snapshot);
    assert_eq!(data_of(&volume), [&of_snapshot[..], &[(SIZE + 4096, 4096)]].concat());
    assert_eq!(store.calls(), 4, "a node and a leaf for each");
    // Zeroes hide what is in the snapshot.
    let mut queue = volume.open_queue(1).unwrap();
    execute(&mut *queue, BlockRequest::Discard { offset: 3 * CHUNK_BYTES, len: CHUNK_BYTES }).unwrap();
    assert_eq!(volume.extent(3 * CHUNK_BYTES + 512, SIZE).unwrap().content, Content::Zeroes);
}

/// A store in which a snapshot is deleted just before it is pinned.
struct Deletes(MemoryStore, SnapshotName);

impl ObjectStore for Deletes {
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if key.starts_with("pins/") {
            Snapshots::new(Arc::new(self.0.clone())).delete(self.1).unwrap();
        }
        self.0.put(key, bytes)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.0.get(key)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(&str)) -> Result<(), StoreError> {
        self.0.list(prefix, each)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.delete(key)
    }
}

#[test]
fn no_volume_is_made_from_a_snapshot_that_goes_before_it_is_pinned() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (store, _, name) = snapshot(folder.path());
    let path = folder.path().join("volume");
    let objects: Arc<dyn ObjectStore> = Arc::new(Deletes(store.clone(), name));
    let made = Volume::create_from(&path, &objects, name, None);
    assert!(matches!(made, Err(SnapshotError::NotFound { name: missing }) if missing == name), "{made:?}");
    assert!(Volume::open_with(&path, Some(objects)).is_err());
    assert_eq!(store.keys(), [""; 0], "nothing is pinned");
    Volume::create(&path, SIZE).unwrap();
}

#[test]
fn a_store_that_fails_fails_the_read_and_nothing_wrong_is_served() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (store, objects, name) = snapshot(folder.path());
    let path = folder.path().join("volume");
    Volume::create_from(&path, &objects, name, None).unwrap();
    let volume = Volume::open_with(&path, Some(Arc::clone(&objects))).unwrap();
    for fault in [Fault::Unavailable, Fault::Refused, Fault::WrongBytes] {
        store.heal();
        store.fault_at(1..u64::MAX, fault);
        assert_eq!(read(&volume, 0, 4096).unwrap_err().raw_os_error(), Some(libc::EIO), "{fault:?}");
        assert!(volume.read_at(0, &mut [0; 512]).is_err());
        // What needs nothing of the store goes on.
        write(&volume, 9 * 4096, &[5; 4096]);
        assert_eq!(read(&volume, 9 * 4096, 4096).unwrap(), [5; 4096]);
    }
    store.heal();
    assert_eq!(read(&volume, 0, 4096).unwrap(), [1; 4096]);
    let small = Volume::create_from(&folder.path().join("small"), &objects, name, Some(SIZE / 2));
    assert!(matches!(small, Err(SnapshotError::TooSmall { .. })));
    let pins = store.keys().into_iter().filter(|key| key.starts_with("pins/")).count();
    assert_eq!(pins, 1, "what was not made pins nothing");
}

#[test]
fn a_fill_keeps_its_limit_and_can_be_stopped() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (_, objects, name) = snapshot(folder.path());
    let path = folder.path().join("volume");
    Volume::create_from(&path, &objects, name, None).unwrap();
    let volume = Volume::open_with(&path, Some(objects)).unwrap();
    assert!(!volume.fill(None, &|progress: Progress| progress.done < 1).unwrap());
    let started = Instant::now();
    let seen = std::sync::Mutex::new(Vec::new());
    let filled = volume.fill(Some(10 * CHUNK_BYTES), &|progress| {
        seen.lock().unwrap().push(progress.percent());
        true
    });
    assert!(filled.unwrap());
    assert!(started.elapsed() >= Duration::from_millis(200), "three chunks at ten a second");
    let seen = seen.into_inner().unwrap();
    assert!(seen.is_sorted() && seen.first() == Some(&0) && seen.last() == Some(&100), "{seen:?}");
}

/// More than is put between two parts of the table: 32 GiB.
#[test]
fn a_large_snapshot_is_put_in_steps_and_is_whole() {
    const GIB: u64 = 1 << 30;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = MemoryStore::new();
    let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let path = folder.path().join("volume");
    Volume::create(&path, 100 * GIB + 4096).unwrap();
    let volume = Volume::open(&path).unwrap();
    let places = [0, 32 * GIB - 4096, 32 * GIB, 33 * GIB, 99 * GIB, 100 * GIB];
    let mut names = Vec::new();
    for bytes in [[1, 2, 3, 4, 5, 6], [1, 0, 7, 4, 8, 9]] {
        for (place, byte) in places.into_iter().zip(bytes) {
            write(&volume, place, &[byte; 4096]);
        }
        names.push(volume.begin_snapshot().unwrap());
        volume.upload_snapshot(*names.last().unwrap(), &objects, &|_| true).unwrap();
        let info = Snapshots::new(Arc::clone(&objects)).info(*names.last().unwrap()).unwrap();
        assert_eq!(info.chunks, bytes.iter().filter(|byte| **byte != 0).count() as u64);
    }
    let snapshots = Snapshots::new(Arc::clone(&objects));
    let [older, newer] = [names[0], names[1]].map(|name| snapshots.open(name).unwrap());
    let chunk = |place: u64| place / CHUNK_BYTES;
    assert_eq!(newer.changed(&older, 0, 100).unwrap(), [1, 2, 4, 5].map(|index: usize| chunk(places[index])));
    let copied = newer.copy_to(&(Arc::new(MemoryStore::new()) as Arc<dyn ObjectStore>), None, &|_| true);
    assert_ne!(copied.unwrap(), newer.name());
    let restored = folder.path().join("restored");
    Volume::create_from(&restored, &objects, names[1], None).unwrap();
    let restored = Volume::open_with(&restored, Some(Arc::clone(&objects))).unwrap();
    for (place, byte) in places.into_iter().zip([1, 0, 7, 4, 8, 9]) {
        assert_eq!(read(&restored, place, 4096).unwrap(), [byte; 4096], "at {place}");
    }
    restored.fill(None, &|_| true).unwrap();
    names.into_iter().for_each(|name| snapshots.delete(name).unwrap());
    assert_eq!(store.keys(), [""; 0]);
}
