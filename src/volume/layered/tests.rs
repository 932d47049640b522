//! What one history says better than any: damage, a full disk, and what a volume costs.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::check::check;
use super::engine::Engine;
use super::folder;
use super::format::{BLOCKS_MAX, MapPage};
use super::layer::{Geometry, Layer};
use super::queue::Queue;
use super::storage::fake::{FakeFile, FakeStorage, Numbers, with_hook};
use super::storage::host::HostFolder;
use super::storage::{Storage as _, StorageFile as _};
use super::*;
use crate::backend::{BlockBackend, BlockQueue, BlockRequest};
use crate::testing::{Memory, execute};

const BLOCK: u64 = 4096;
const SMALL: Geometry = Geometry { segment_blocks: BLOCKS_MAX, log_pages: 8 };

/// A volume on a fake storage, with one queue; requests are done one at a time.
struct Fake {
    storage: FakeStorage,
    engine: Arc<Engine<FakeStorage>>,
    queue: Queue<FakeStorage>,
}

impl Fake {
    fn new() -> Self {
        let storage = FakeStorage::new();
        folder::create(&storage, 64 * BLOCK, SMALL).unwrap();
        Self::open(storage)
    }

    fn open(storage: FakeStorage) -> Self {
        let engine = Arc::new(Engine::open(storage.clone()).unwrap());
        let queue = Queue::new(Arc::clone(&engine), 8).unwrap();
        Self { storage, engine, queue }
    }

    fn run(&mut self, request: BlockRequest<'_>) -> std::io::Result<()> {
        self.queue.push(0, request).unwrap();
        loop {
            if self.engine.state().wants_round() {
                self.engine.round();
            }
            if let Some(completion) = self.queue.next_completion() {
                return completion.result;
            }
        }
    }

    fn write(&mut self, block: u64, byte: u8) -> std::io::Result<()> {
        let memory = Memory::from_bytes(&[byte; 4096]);
        self.run(BlockRequest::Write { offset: block * BLOCK, buffers: &[memory.all()] })
    }

    fn flush(&mut self) {
        self.run(BlockRequest::Flush).unwrap();
    }

    fn seal(&mut self) {
        self.engine.begin_seal().unwrap();
        self.engine.finish_seal().unwrap();
    }

    fn byte(&self, block: u64) -> u8 {
        let mut bytes = [0; 4096];
        self.engine.read_at(block * BLOCK, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a block is of one write");
        bytes[0]
    }
}

/// A volume with two layers, map pages in both, and records in the log of the top.
fn with_layers() -> FakeStorage {
    let mut volume = Fake::new();
    for (block, byte) in [(0, 1), (1, 2)] {
        volume.write(block, byte).unwrap();
    }
    volume.seal();
    for byte in 3..6 {
        volume.write(u64::from(byte), byte).unwrap();
        volume.flush();
    }
    volume.storage
}

#[test]
fn what_is_damaged_is_named_and_never_read_as_zeroes() {
    let map = Layer::<FakeFile>::map_offset(0, 0);
    // The second slot of the first layer's map was never used.
    for (file, offset) in [("volume", 40), ("layer-1", map + 200), ("layer-2", 4), ("layer-1", 4096 + 70)] {
        let storage = with_layers();
        storage.damage(file, offset, |page| page[usize::try_from(offset % BLOCK).unwrap()] ^= 1);
        if (file, offset) == ("layer-1", 4096 + 70) {
            // Of two headers one may be lost; with the other too the layer is.
            storage.damage(file, 0, |page| page.fill(0xff));
        }
        let error = Engine::open(storage.clone()).map(drop).unwrap_err();
        assert!(
            matches!(&error, VolumeError::Damaged { file: named, .. } if named == file),
            "{file}: {error}"
        );
        let report = check(&storage, true).unwrap();
        assert!(!report.is_sound() && !report.repaired, "{report:?}");
        assert!(report.findings.iter().any(|finding| finding.file == file), "{report:?}");
    }
}

#[test]
fn a_map_page_that_was_lost_is_missed() {
    let storage = with_layers();
    storage.damage("layer-1", Layer::<FakeFile>::map_offset(0, 0), |page| page.fill(0));
    let error = Engine::open(storage).map(drop).unwrap_err();
    assert!(matches!(&error, VolumeError::Damaged { file, .. } if file == "layer-1"), "{error}");
}

#[test]
fn a_record_that_later_ones_follow_is_missed_and_the_last_one_is_not() {
    // Records 0, 1 and 2 are in the log of the top.
    for (sequence, is_damage) in [(0, true), (1, true), (2, false)] {
        let storage = with_layers();
        let log = 64 << 10;
        storage.damage("layer-2", log + sequence * BLOCK, |page| page[100] ^= 1);
        match Engine::open(storage.clone()) {
            Err(VolumeError::Damaged { offset, .. }) if is_damage => {
                assert_eq!(offset, log + sequence * BLOCK)
            }
            Ok(_) if !is_damage => {}
            other => panic!("record {sequence}: {:?}", other.map(drop)),
        }
    }
}

#[test]
fn what_a_crash_leaves_is_repaired_and_then_nothing_is_found() {
    let storage = with_layers();
    storage.damage("layer-2", (64 << 10) + 3 * BLOCK, |page| page[..100].fill(7));
    let report = check(&storage, false).unwrap();
    assert!(report.is_sound() && report.findings.len() == 2, "{report:?}");
    assert!(check(&storage, true).unwrap().repaired);
    assert_eq!(check(&storage, true).unwrap().findings, []);
    let volume = Fake::open(storage);
    assert_eq!([0, 1, 2, 3, 4, 5].map(|block| volume.byte(block)), [1, 2, 0, 3, 4, 5]);
}

#[test]
fn a_full_disk_fails_the_write_that_needs_more_and_nothing_else() {
    let mut volume = Fake::new();
    volume.write(0, 1).unwrap();
    volume.flush();
    volume.storage.set_full(true);
    assert_eq!(volume.write(1, 2).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    volume.write(0, 3).unwrap();
    volume.flush();
    assert!(volume.engine.begin_seal().is_err());
    assert!(volume.engine.grow(65 * BLOCK).is_err());
    assert_eq!([0, 1].map(|block| volume.byte(block)), [3, 0]);
    volume.storage.set_full(false);
    volume.write(1, 4).unwrap();
    volume.seal();
    volume.engine.grow(65 * BLOCK).unwrap();
    let volume = Fake::open(volume.storage);
    assert_eq!([0, 1].map(|block| volume.byte(block)), [3, 4]);
}

#[test]
fn a_layer_that_was_merged_is_gone_and_its_blocks_are_not() {
    let mut volume = Fake::new();
    for (block, byte) in [(0, 1), (1, 1), (2, 1)] {
        volume.write(block, byte).unwrap();
    }
    volume.seal();
    volume.write(1, 2).unwrap();
    volume.run(BlockRequest::Discard { offset: 2 * BLOCK, len: BLOCK }).unwrap();
    volume.seal();
    volume.write(3, 3).unwrap();
    let stopped = volume.engine.merge(LayerId(1), LayerId(2), &|| true).unwrap();
    assert!(!stopped && volume.engine.stack().len() == 3);
    assert!(volume.engine.merge(LayerId(1), LayerId(2), &|| false).unwrap());
    assert!(volume.engine.merge(LayerId(1), LayerId(3), &|| false).is_err(), "the top is not sealed");
    volume.flush();
    let names = super::storage::Storage::names(&volume.storage).unwrap();
    assert_eq!(names, ["layer-1", "layer-3", "volume"]);
    let volume = Fake::open(volume.storage);
    assert_eq!([0, 1, 2, 3].map(|block| volume.byte(block)), [1, 2, 0, 3]);
}

#[test]
fn what_a_merge_moved_between_second_files_is_durable_before_the_upper_layer_goes() {
    let storage = FakeStorage::new();
    folder::create(&storage, 64 * BLOCK, Geometry { segment_blocks: 32, ..SMALL }).unwrap();
    let mut volume = Fake::open(storage);
    for byte in [1, 2] {
        volume.write(40, byte).unwrap();
        volume.seal();
    }
    assert!(volume.engine.merge(LayerId(1), LayerId(2), &|| false).unwrap());
    for seed in 0..32 {
        let left = volume.storage.crash(&mut Numbers::new(seed));
        assert_eq!(Fake::open(left).byte(40), 2);
    }
}

/// With two files for its blocks, of which the second has nothing to sync.
#[test]
fn a_volume_that_is_being_made_is_there_as_a_whole_or_can_be_made_again() {
    let geometry = Geometry { segment_blocks: 32, ..SMALL };
    let outcomes = Rc::new(RefCell::new([0, 0]));
    let look = {
        let outcomes = Rc::clone(&outcomes);
        move |storage: &FakeStorage, _: &'static str| {
            for seed in 0..8 {
                let left = storage.crash(&mut Numbers::new(seed));
                let is_there = left.open("volume").is_ok();
                outcomes.borrow_mut()[usize::from(is_there)] += 1;
                if !is_there {
                    folder::create(&left, 64 * BLOCK, geometry).unwrap();
                }
                assert!(check(&left, false).unwrap().is_sound());
                let mut volume = Fake::open(left);
                volume.write(40, 7).unwrap();
                volume.flush();
                let left = volume.storage.crash(&mut Numbers::new(seed));
                assert_eq!([39, 40, 41].map(|block| Fake::open(left.clone()).byte(block)), [0, 7, 0]);
            }
        }
    };
    let storage = FakeStorage::new();
    with_hook(Rc::new(look.clone()), || folder::create(&storage, 64 * BLOCK, geometry)).unwrap();
    assert!(outcomes.borrow().iter().all(|count| *count > 0), "{outcomes:?}");
    outcomes.borrow_mut()[0] = 0;
    look(&storage, "it was made");
    assert_eq!(outcomes.borrow()[0], 0, "what was made is there");
}

fn used_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn a_huge_volume_takes_space_for_what_was_written_and_gives_it_back() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    Volume::create(folder.path(), 64 << 40).unwrap();
    let volume = Volume::open(folder.path()).unwrap();
    let empty = used_bytes(folder.path());
    assert!(empty < 6 << 20, "{empty} bytes for nothing");
    let mut queue = volume.open_queue(4).unwrap();
    let memory = Memory::from_bytes(&vec![7; 32 << 20]);
    let offset = (64 << 40) - (32 << 20);
    execute(&mut *queue, BlockRequest::Write { offset, buffers: &[memory.all()] }).unwrap();
    execute(&mut *queue, BlockRequest::Flush).unwrap();
    let written = used_bytes(folder.path()) - empty;
    assert!(written <= (32 << 20) * 11 / 10, "{written} bytes for 32 MiB");
    assert!(volume.map_bytes() < 64 << 10, "{} bytes of map", volume.map_bytes());
    execute(&mut *queue, BlockRequest::Discard { offset, len: 32 << 20 }).unwrap();
    execute(&mut *queue, BlockRequest::Discard { offset: 0, len: 64 << 40 }).unwrap();
    let left = used_bytes(folder.path()) - empty;
    assert!(left < 1 << 20, "{left} bytes after all was discarded");
}

#[test]
fn one_process_at_a_time_has_a_volume_and_a_new_one_is_made_once() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    Volume::create(folder.path(), 1 << 30).unwrap();
    assert!(matches!(Volume::create(folder.path(), 1 << 30), Err(VolumeError::Exists { .. })));
    assert!(matches!(Volume::create(folder.path(), 1000), Err(VolumeError::BadSize { .. })));
    let volume = Volume::open(folder.path()).unwrap();
    assert!(matches!(Volume::open(folder.path()), Err(VolumeError::InUse)));
    assert!(matches!(Volume::check(folder.path(), true), Err(VolumeError::InUse)));
    // A queue keeps it open.
    let queue = volume.open_queue(1).unwrap();
    drop(volume);
    assert!(matches!(Volume::open(folder.path()), Err(VolumeError::InUse)));
    drop(queue);
    assert_eq!(Volume::check(folder.path(), false).unwrap().findings, []);
    let volume = Volume::open(folder.path()).unwrap();
    volume.grow(2 << 30).unwrap();
    assert!(matches!(volume.grow(1 << 30), Err(VolumeError::CannotShrink { .. })));
    assert_eq!(volume.size_bytes(), 2 << 30);
}

#[test]
fn a_volume_that_is_closed_keeps_what_nobody_flushed() {
    let folder = tempfile::tempdir().unwrap();
    Volume::create(folder.path(), 1 << 30).unwrap();
    let volume = Volume::open(folder.path()).unwrap();
    let written = Memory::from_bytes(&[7; 4096]);
    let mut queue = volume.open_queue(1).unwrap();
    execute(&mut *queue, BlockRequest::Write { offset: 8192, buffers: &[written.all()] }).unwrap();
    drop((queue, volume));
    let mut found = [0; 4096];
    Volume::open(folder.path()).unwrap().read_at(8192, &mut found).unwrap();
    assert_eq!(found, [7; 4096]);
}

#[test]
fn a_map_page_covers_whole_chunks() {
    assert!(MapPage::BLOCKS.is_multiple_of(512));
}

/// Its space is there from the beginning; it is written when there is time, or the first flush comes.
#[test]
fn the_log_of_a_new_volume_is_written_once() {
    const LOG_AT: u64 = 64 << 10;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    Volume::create(folder.path(), 64 * BLOCK).unwrap();
    let storage = HostFolder::new(folder.path());
    let log = || storage.open("layer-1").unwrap().next_data(LOG_AT).unwrap();
    assert_ne!(log(), Some(LOG_AT));
    assert!(std::fs::metadata(folder.path().join("layer-1")).unwrap().blocks() * 512 >= 1024 * BLOCK);
    let volume = Volume::open(folder.path()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while log() != Some(LOG_AT) {
        assert!(Instant::now() < deadline, "nobody writes the log");
        std::thread::yield_now();
    }
    let mut queue = volume.open_queue(1).unwrap();
    let memory = Memory::from_bytes(&[7; 4096]);
    execute(&mut *queue, BlockRequest::Write { offset: 0, buffers: &[memory.all()] }).unwrap();
    execute(&mut *queue, BlockRequest::Flush).unwrap();
    drop((queue, volume));
    // What is in it by now stays.
    let volume = Volume::open(folder.path()).unwrap();
    let mut bytes = [0; 4096];
    volume.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
}
