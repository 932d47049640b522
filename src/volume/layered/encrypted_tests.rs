//! Encrypted volumes: that nothing of them is told to who has the files, and that nobody else's key opens them. That they are volumes like
//! any other is tested where that is: the conformance suite and both models run with and without a key.

use std::path::Path;
use std::sync::Arc;

use super::engine::Engine;
use super::folder::{self, read_manifest};
use super::format::Uuid;
use super::layer::Geometry;
use super::storage::fake::FakeStorage;
use super::storage::host::HostFolder;
use super::{Stores, Volume, VolumeError};
use crate::backend::{BlockBackend, BlockRequest};
use crate::crypt::{DataKey, KeyError, KeyFile, KeyName, OpenKeys, WrappedKey};
use crate::snapshot::store::memory::MemoryStore;
use crate::snapshot::{CHUNK_BYTES, ObjectStore, Snapshot, SnapshotError, SnapshotWriter};
use crate::testing::{Memory, execute};

const SIZE: u64 = 64 << 20;
/// Found nowhere but in what the tests write.
const SECRET: &[u8; 16] = b"plain as the day";

fn name(text: &str) -> KeyName {
    text.parse().unwrap()
}

pub(super) fn create_encrypted(storage: &FakeStorage, size_bytes: u64, geometry: Geometry) {
    let key = DataKey::random().unwrap();
    let wrap = |lineage: Uuid| WrappedKey::new(&OpenKeys, &name("key"), &lineage.0, &key);
    folder::create_encrypted(storage, size_bytes, geometry, &wrap).unwrap();
}

pub(super) fn stores(objects: Arc<dyn ObjectStore>) -> Stores {
    Stores { objects: Some(objects), keys: Some(Arc::new(OpenKeys)) }
}

pub(super) fn open(storage: FakeStorage) -> Engine<FakeStorage> {
    let stores = Stores { objects: None, keys: Some(Arc::new(OpenKeys)) };
    Engine::open_with(storage, stores).unwrap()
}

fn secret(len: usize) -> Vec<u8> {
    SECRET.iter().copied().cycle().take(len).collect()
}

fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET)
}

/// A folder with a key file of two keys.
fn keys(folder: &Path) -> KeyFile {
    let keys = KeyFile::new(folder.join("keys"));
    ["web", "other"].iter().for_each(|key| keys.add(&name(key)).unwrap());
    keys
}

fn with_keys(keys: &KeyFile, objects: Option<&Arc<dyn ObjectStore>>) -> Stores {
    Stores { keys: Some(Arc::new(keys.clone())), objects: objects.cloned() }
}

fn write(volume: &Volume, offset: u64, bytes: &[u8]) {
    let memory = Memory::from_bytes(bytes);
    let mut queue = volume.open_queue(4).unwrap();
    execute(&mut *queue, BlockRequest::Write { offset, buffers: &memory.pieces(7000) }).unwrap();
    assert!(memory.to_vec() == bytes, "a guest's memory is never changed by its write");
    execute(&mut *queue, BlockRequest::Flush).unwrap();
}

fn read(volume: &Volume, offset: u64, len: usize) -> Vec<u8> {
    let memory = Memory::from_bytes(&vec![0xee; len]);
    let mut queue = volume.open_queue(4).unwrap();
    execute(&mut *queue, BlockRequest::Read { offset, buffers: &memory.pieces(3000) }).unwrap();
    let mut again = vec![0; len];
    volume.read_at(offset, &mut again).unwrap();
    assert!(memory.to_vec() == again, "both ways of reading agree");
    again
}

/// All that is in the files of a volume, without their holes.
fn content(folder: &Path) -> Vec<u8> {
    use super::storage::{Storage, StorageFile};
    let storage = HostFolder::new(folder);
    let mut found = Vec::new();
    for name in storage.names().unwrap() {
        let file = storage.open(&name).unwrap();
        let mut next = 0;
        while let Some(at) = file.next_data(next).unwrap() {
            let start = found.len();
            found.resize(start + (1 << 20), 0);
            file.read_at(at, &mut found[start..]).unwrap();
            next = at + (1 << 20);
        }
    }
    found
}

#[test]
fn plain_text_is_neither_in_the_files_nor_in_the_store() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let keys = keys(folder.path());
    let store = MemoryStore::new();
    let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let plain = folder.path().join("plain");
    Volume::create(&plain, SIZE).unwrap();
    write(&Volume::open(&plain).unwrap(), 0, &secret(4096));
    assert!(has_secret(&content(&plain)), "it would be found");
    let path = folder.path().join("volume");
    Volume::create_encrypted(&path, SIZE, &keys, &name("web")).unwrap();
    let volume = Volume::open_with(&path, with_keys(&keys, None)).unwrap();
    assert_eq!(volume.key(), Some(name("web")));
    // Bulk, a few blocks, parts of blocks, in place, over several parts.
    let writes = [
        (0, 3 << 20),
        (8 << 20, 16384),
        ((9 << 20) + 512, 1024),
        (512, 700 * 512),
        ((10 << 20) + 512, 600 << 10),
    ];
    for (offset, len) in writes {
        write(&volume, offset, &secret(len));
        assert!(read(&volume, offset, len) == secret(len));
    }
    let snapshot = volume.begin_snapshot().unwrap();
    write(&volume, 4096, &secret(512));
    volume.upload_snapshot(snapshot, &objects, &|_| true).unwrap();
    write(&volume, 20 << 20, &secret(8192));
    let after = read(&volume, 0, 32 << 20);
    drop(volume);
    assert!(!has_secret(&content(&path)));
    for key in store.keys() {
        assert!(!has_secret(&objects.get(&key).unwrap()), "{key}");
    }
    let volume = Volume::open_with(&path, with_keys(&keys, None)).unwrap();
    assert!(read(&volume, 0, 32 << 20) == after);
    assert!(read(&volume, 9 << 20, 512) == [0; 512], "the rest of a block that was written in part");
    // A volume from the snapshot has its data key, and needs the same key.
    let restored = folder.path().join("restored");
    Volume::create_from(&restored, &objects, snapshot, None).unwrap();
    let needs = Volume::open_with(&restored, Some(Arc::clone(&objects))).map(drop).unwrap_err();
    assert!(matches!(&needs, VolumeError::NeedsKey { key } if *key == name("web")), "{needs}");
    let volume = Volume::open_with(&restored, with_keys(&keys, Some(&objects))).unwrap();
    for (offset, len) in writes {
        assert!(read(&volume, offset, len) == secret(len));
    }
    assert!(read(&volume, 20 << 20, 8192) == [0; 8192], "it was written after the snapshot");
    volume.fill(None, &|_| true).unwrap();
    drop(volume);
    assert!(!has_secret(&content(&restored)));
    assert!(Volume::check(&restored, true).unwrap().is_sound(), "a check needs no key");
}

#[test]
fn a_key_that_does_not_fit_is_named() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let keys = keys(folder.path());
    let (path, other) = (folder.path().join("volume"), folder.path().join("other"));
    let missing = Volume::create_encrypted(&path, SIZE, &keys, &name("nobody")).unwrap_err();
    assert!(
        matches!(&missing, VolumeError::Key(KeyError::Unknown { name: named, .. }) if *named == name("nobody"))
    );
    assert!(!path.exists(), "nothing was made");
    for path in [&path, &other] {
        Volume::create_encrypted(path, SIZE, &keys, &name("web")).unwrap();
    }
    let needs = Volume::open(&path).map(drop).unwrap_err();
    assert!(matches!(&needs, VolumeError::NeedsKey { key } if *key == name("web")), "{needs}");
    // A key of the same name in another file.
    let strange = KeyFile::new(folder.path().join("strange"));
    strange.add(&name("web")).unwrap();
    let rejected = |keys: &KeyFile| {
        let error = Volume::open_with(&path, with_keys(keys, None)).map(drop).unwrap_err();
        assert!(
            matches!(&error, VolumeError::Key(KeyError::Rejected { name: named }) if *named == name("web")),
            "{error}"
        );
    };
    rejected(&strange);
    // Another volume's data key, wrapped by the right key.
    let manifest = |folder: &Path| read_manifest(&HostFolder::new(folder)).unwrap();
    let stolen = super::format::Manifest { key: manifest(&other).key, ..manifest(&path) };
    std::fs::write(path.join("volume"), stolen.encode()).unwrap();
    rejected(&keys);
}

#[test]
fn the_key_of_a_volume_can_be_changed_and_its_data_stay() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let keys = keys(folder.path());
    let path = folder.path().join("volume");
    Volume::create_encrypted(&path, SIZE, &keys, &name("web")).unwrap();
    let volume = Volume::open_with(&path, with_keys(&keys, None)).unwrap();
    write(&volume, 512, &secret(9216));
    assert!(matches!(Volume::change_key(&path, &keys, &name("other")), Err(VolumeError::InUse)));
    drop(volume);
    let unknown = Volume::change_key(&path, &keys, &name("nobody")).unwrap_err();
    assert!(matches!(unknown, VolumeError::Key(KeyError::Unknown { .. })), "{unknown}");
    Volume::change_key(&path, &keys, &name("other")).unwrap();
    let volume = Volume::open_with(&path, with_keys(&keys, None)).unwrap();
    assert_eq!(volume.key(), Some(name("other")));
    assert!(read(&volume, 512, 9216) == secret(9216));
    let plain = folder.path().join("plain");
    Volume::create(&plain, SIZE).unwrap();
    assert!(matches!(Volume::change_key(&plain, &keys, &name("web")), Err(VolumeError::NotEncrypted)));
}

#[test]
fn a_snapshot_is_read_and_written_by_block_with_its_key_alone() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let keys = keys(folder.path());
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let path = folder.path().join("volume");
    Volume::create_encrypted(&path, SIZE, &keys, &name("web")).unwrap();
    let volume = Volume::open_with(&path, with_keys(&keys, None)).unwrap();
    write(&volume, 4096, &secret(4096));
    let parent = volume.begin_snapshot().unwrap();
    volume.upload_snapshot(parent, &objects, &|_| true).unwrap();
    let mut chunk = vec![0; usize::try_from(CHUNK_BYTES).unwrap()];
    chunk[4096..8192].copy_from_slice(&secret(4096));
    let mut snapshot = Snapshot::open(Arc::clone(&objects), parent).unwrap();
    assert_eq!(snapshot.key(), Some(&name("web")));
    assert!(matches!(snapshot.chunk(0), Err(SnapshotError::NeedsKey { .. })));
    snapshot.unlock(&keys).unwrap();
    assert!(snapshot.chunk(0).unwrap().unwrap() == chunk);
    let mut writer = SnapshotWriter::begin(Arc::clone(&objects), Some(parent), SIZE).unwrap();
    assert!(matches!(writer.put_chunk(3, &chunk), Err(SnapshotError::NeedsKey { .. })));
    writer.unlock(&keys).unwrap();
    writer.put_chunk(3, &chunk).unwrap();
    let child = writer.finish().unwrap();
    let elsewhere: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let copy =
        Snapshot::open(Arc::clone(&objects), child).unwrap().copy_to(&elsewhere, None, &|_| true).unwrap();
    let mut copy = Snapshot::open(elsewhere, copy).unwrap();
    copy.unlock(&keys).unwrap();
    for index in [0, 3] {
        assert!(copy.chunk(index).unwrap().unwrap() == chunk, "chunk {index}");
    }
    let restored = folder.path().join("restored");
    Volume::create_from(&restored, &objects, child, None).unwrap();
    let volume = Volume::open_with(&restored, with_keys(&keys, Some(&objects))).unwrap();
    assert!(read(&volume, 3 * CHUNK_BYTES, chunk.len()) == chunk);
}
