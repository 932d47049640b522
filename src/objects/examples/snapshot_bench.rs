//! The steps of scripts/bench volume that are about snapshots, each timed by itself and in process:
//!
//! ```text
//! snapshot_bench make VOLUME RAW GIB STORE      a volume that holds what RAW does, and its first snapshot
//! snapshot_bench change SEED RAW VOLUME...      the same 10 MiB of changes to a file and to volumes of the same beginning
//! snapshot_bench snapshot VOLUME STORE          prints how long it takes until it is durable in the store, in ms
//! snapshot_bench restore NAME GIB FOLDER STORE  prints how long it takes from a snapshot's name to the first 4 KiB read, in ms
//! ```
//!
//! `make` and `snapshot` print the snapshot's name first. A volume that is larger than RAW has a block in every eighth chunk of the
//! rest, so that all pages of its table are there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use objects::Folder;
use volume::snapshot::{ObjectStore, SnapshotName};
use volume::testing::{Memory, execute};
use volume::{BlockBackend, BlockQueue, BlockRequest, Volume};

const MIB: u64 = 1 << 20;
const CHANGED: u64 = 10 * MIB;
const BLOCK: u64 = 4096;

/// Numbers that are the same every time (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Bytes that do not compress.
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

fn store(path: &str) -> Arc<dyn ObjectStore> {
    Arc::new(Folder::open(Path::new(path)).expect("a store"))
}

fn write(queue: &mut dyn BlockQueue, offset: u64, bytes: &[u8]) {
    let memory = Memory::from_bytes(bytes);
    execute(queue, BlockRequest::Write { offset, buffers: &[memory.all()] }).expect("a write");
}

fn make(path: &str, raw: &str, gib: &str, objects: &str) {
    let size = gib.parse::<u64>().expect("a size in GiB") << 30;
    let raw = File::open(raw).expect("an image");
    let content = raw.metadata().expect("its length").len();
    Volume::create(Path::new(path), size).expect("a volume");
    let volume = Volume::open(Path::new(path)).expect("a volume");
    let mut queue = volume.open_queue(4).expect("a queue");
    let mut bytes = vec![0; 16 << 20];
    for offset in (0..content).step_by(16 << 20) {
        raw.read_exact_at(&mut bytes, offset).expect("16 MiB of the image");
        write(&mut *queue, offset, &bytes);
    }
    for offset in (content..size).step_by(4 << 20) {
        write(&mut *queue, offset, &bytes[..4096]);
    }
    execute(&mut *queue, BlockRequest::Flush).expect("a flush");
    println!("{}", snapshot_of(&volume, &store(objects)));
}

fn snapshot_of(volume: &Volume, objects: &Arc<dyn ObjectStore>) -> SnapshotName {
    let name = volume.begin_snapshot().expect("a seal");
    volume.upload_snapshot(name, objects, &|_| true).expect("an upload");
    name
}

fn change(seed: &str, raw: &str, volumes: &[String]) {
    let mut numbers = Numbers(seed.parse::<u64>().expect("a number") | 1);
    let raw = File::options().write(true).open(raw).expect("an image");
    let content = raw.metadata().expect("its length").len();
    let volumes = volumes.iter().map(|path| Volume::open(Path::new(path)).expect("a volume"));
    let volumes: Vec<Volume> = volumes.collect();
    let mut left = CHANGED;
    while left > 0 {
        let len = (BLOCK * (1 + numbers.next() % 128)).min(left);
        let offset = numbers.next() % ((content - len) / BLOCK) * BLOCK;
        let bytes = numbers.bytes(len);
        raw.write_all_at(&bytes, offset).expect("a write");
        for volume in &volumes {
            write(&mut *volume.open_queue(1).expect("a queue"), offset, &bytes);
        }
        left -= len;
    }
    for volume in &volumes {
        execute(&mut *volume.open_queue(1).expect("a queue"), BlockRequest::Flush).expect("a flush");
    }
}

fn snapshot(path: &str, objects: &str) {
    let objects = store(objects);
    let volume = Volume::open(Path::new(path)).expect("a volume");
    let started = Instant::now();
    let name = snapshot_of(&volume, &objects);
    let took = started.elapsed();
    println!("{name}\n{}", took.as_secs_f64() * 1e3);
    volume.compact(&|| false).expect("merged layers");
}

fn restore(name: &str, gib: &str, folder: &str, objects: &str) {
    let name: SnapshotName = name.parse().expect("a snapshot's name");
    let size = gib.parse::<u64>().expect("a size in GiB") << 30;
    let (folder, objects, memory) = (Path::new(folder), store(objects), Memory::new(4096));
    let started = Instant::now();
    Volume::create_from(folder, &objects, name, Some(size)).expect("a volume");
    let volume = Volume::open_with(folder, Some(objects)).expect("a volume");
    let mut queue = volume.open_queue(1).expect("a queue");
    execute(&mut *queue, BlockRequest::Read { offset: 500 * MIB, buffers: &[memory.all()] }).expect("a read");
    println!("{}", started.elapsed().as_secs_f64() * 1e3);
    assert!(memory.to_vec().iter().any(|byte| *byte != 0), "it is not the snapshot's");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["make", volume, raw, gib, store] => make(volume, raw, gib, store),
        ["change", seed, raw, ..] => change(seed, raw, &arguments[3..]),
        ["snapshot", volume, store] => snapshot(volume, store),
        ["restore", name, gib, folder, store] => restore(name, gib, folder, store),
        _ => panic!("the file itself says how to call it"),
    }
}
