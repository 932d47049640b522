//! Snapshots to a folder, and volumes made from them: `cargo run --release --package objects --example snapshot_bench [FOLDER]`. Sizes in
//! turns; prints medians in milliseconds.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use objects::Folder;
use volume::snapshot::{ObjectStore, Snapshots};
use volume::testing::{Memory, execute};
use volume::{BlockBackend, BlockRequest, Volume};

const ROUNDS: usize = 7;
const GIB: u64 = 1 << 30;
const CHANGED: usize = 10 << 20;

/// Bytes that do not compress (xorshift64*, Vigna 2016).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let words = (0..len / 8).flat_map(|_| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    });
    words.collect()
}

fn write(volume: &Volume, offset: u64, bytes: &[u8]) {
    let mut queue = volume.open_queue(4).expect("a queue");
    let memory = Memory::from_bytes(bytes);
    execute(&mut *queue, BlockRequest::Write { offset, buffers: &[memory.all()] }).expect("a write");
    execute(&mut *queue, BlockRequest::Flush).expect("a flush");
}

fn snapshot(volume: &Volume, objects: &Arc<dyn ObjectStore>) -> volume::snapshot::SnapshotName {
    let name = volume.begin_snapshot().expect("a snapshot");
    volume.upload_snapshot(objects, &|_| true).expect("an upload");
    name
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64() * 1e3
}

fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| "/var/tmp".to_owned());
    let folder = tempfile::tempdir_in(parent).expect("a folder");
    let objects: Arc<dyn ObjectStore> =
        Arc::new(Folder::open(&folder.path().join("objects")).expect("a store"));
    // A GiB that is full, and 64 times as much with a block in every eighth chunk: each page of its table is there.
    let volumes = [GIB, 64 * GIB].map(|size| {
        let path = folder.path().join(format!("volume-{size}"));
        Volume::create(&path, size).expect("a volume");
        let volume = Volume::open(&path).expect("a volume");
        if size == GIB {
            (0..GIB).step_by(16 << 20).for_each(|at| write(&volume, at, &noise(at, 16 << 20)));
        } else {
            let mut queue = volume.open_queue(64).expect("a queue");
            let memory = Memory::from_bytes(&noise(size, 4096));
            for offset in (0..size).step_by(4 << 20) {
                execute(&mut *queue, BlockRequest::Write { offset, buffers: &[memory.all()] })
                    .expect("a write");
            }
        }
        println!(
            "first snapshot of {} GiB: {:.0} ms",
            size / GIB,
            milliseconds(|| {
                snapshot(&volume, &objects);
            })
        );
        (size, volume)
    });
    let mut times = [Vec::new(), Vec::new()];
    let mut seals = Vec::new();
    let mut last = Vec::new();
    for round in 0..ROUNDS {
        for (index, (size, volume)) in volumes.iter().enumerate() {
            let place = (round as u64 * 97 + 13) * (CHANGED as u64) % (size - CHANGED as u64);
            write(volume, place / 4096 * 4096, &noise(round as u64 + size, CHANGED));
            times[index].push(milliseconds(|| {
                seals.push(milliseconds(|| {
                    volume.begin_snapshot().expect("a seal");
                }));
                last.push(snapshot(volume, &objects));
            }));
            volume.compact(&|| false).expect("merged layers");
        }
    }
    let [small, large] = times.map(|mut times| median(&mut times));
    println!("snapshot after 10 MiB: 1 GiB {small:.1} ms, 64 GiB {large:.1} ms, ratio {:.2}", large / small);
    println!("the seal within: {:.1} ms", median(&mut seals));
    for (index, size) in [GIB, 64 * GIB, 64 << 40].into_iter().enumerate() {
        restore(folder.path(), &objects, last[last.len() - 2 + index.min(1)], size);
    }
    let snapshots = Snapshots::new(Arc::clone(&objects));
    let first = last[0];
    println!("delete: {:.1} ms", milliseconds(|| snapshots.delete(first).expect("deleted")));
}

fn restore(folder: &Path, objects: &Arc<dyn ObjectStore>, name: volume::snapshot::SnapshotName, size: u64) {
    let (mut made, mut opened, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        let path = folder.join(format!("restored-{size}-{round}"));
        made.push(milliseconds(|| Volume::create_from(&path, objects, name, Some(size)).expect("a volume")));
        let mut volume = None;
        opened.push(milliseconds(|| {
            volume = Some(Volume::open_with(&path, Some(Arc::clone(objects))).expect("a volume"));
        }));
        let volume = volume.expect("it was opened");
        let memory = Memory::new(4096);
        read.push(milliseconds(|| {
            let mut queue = volume.open_queue(4).expect("a queue");
            let request = BlockRequest::Read { offset: (round * 37 + 5) << 20, buffers: &[memory.all()] };
            execute(&mut *queue, request).expect("a read");
        }));
    }
    println!(
        "volume of {} GiB from a snapshot: made {:.2} ms, opened {:.2} ms, first read {:.2} ms",
        size / GIB,
        median(&mut made),
        median(&mut opened),
        median(&mut read)
    );
}
