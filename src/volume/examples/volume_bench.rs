//! A layered volume beside a raw file, and an encrypted one beside one that is not, in one process and in turns: `cargo run --release --package volume --features testing --example
//! volume_bench [FOLDER]`. Prints for each metric the medians and their ratio.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use volume::crypt::{DataKey, KeyFile};
use volume::testing::{BareCipher, Memory, execute};
use volume::{BlockBackend, BlockQueue, BlockRequest, RawFile, RawOptions, Stores, Volume};

const SIZE: u64 = 1 << 30;
const BLOCK: u64 = 4096;
const ROUNDS: usize = 9;
const DEPTH: usize = 32;
const READS: usize = 200_000;
const WRITES: usize = 50_000;
const FLUSHES: usize = 2_000;

/// Pseudo-random numbers (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn block(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % (SIZE / BLOCK)
    }
}

/// Keeps [`DEPTH`] requests in flight until all blocks were asked for.
fn transfer(queue: &mut dyn BlockQueue, blocks: &[u64], writes: bool) -> Duration {
    transfer_pieces(queue, blocks, 4096, DEPTH, writes)
}

/// All of a disk, in requests of 1 MiB.
fn stream(queue: &mut dyn BlockQueue, writes: bool) -> Duration {
    let blocks: Vec<u64> = (0..SIZE / BLOCK).step_by(256).collect();
    transfer_pieces(queue, &blocks, 1 << 20, 4, writes)
}

fn transfer_pieces(
    queue: &mut dyn BlockQueue,
    blocks: &[u64],
    len: usize,
    depth: usize,
    writes: bool,
) -> Duration {
    let memories: Vec<Memory> = (0..depth).map(|_| Memory::from_bytes(&vec![0x5a; len])).collect();
    let mut free: Vec<usize> = (0..depth).collect();
    let mut blocks = blocks.iter();
    let started = Instant::now();
    loop {
        while let Some(slot) = free.pop() {
            let Some(block) = blocks.next() else { break };
            let (offset, buffers) = (block * BLOCK, &[memories[slot].all()]);
            let request = match writes {
                true => BlockRequest::Write { offset, buffers },
                false => BlockRequest::Read { offset, buffers },
            };
            queue.push(slot as u64, request).expect("a slot was free");
        }
        if queue.in_flight() == 0 {
            return started.elapsed();
        }
        queue.wait().expect("the queue works");
        while let Some(completion) = queue.next_completion() {
            completion.result.expect("the disk works");
            free.push(usize::try_from(completion.token).expect("a slot"));
        }
    }
}

/// The median time of a write and the flush after it.
fn flushes(queue: &mut dyn BlockQueue, blocks: &[u64]) -> Duration {
    let memory = Memory::from_bytes(&[0xa5; 4096]);
    let mut times: Vec<Duration> = blocks
        .iter()
        .map(|block| {
            let started = Instant::now();
            let write = BlockRequest::Write { offset: block * BLOCK, buffers: &[memory.all()] };
            execute(queue, write).expect("the disk works");
            execute(queue, BlockRequest::Flush).expect("the disk works");
            started.elapsed()
        })
        .collect();
    median(&mut times)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// An empty disk, or one that was written once.
fn raw(folder: &Path, name: &str) -> RawFile {
    let path = folder.join(name);
    let _ = std::fs::remove_file(&path);
    let file = std::fs::File::create(&path).expect("a new file");
    file.set_len(SIZE).expect("a size");
    RawFile::open(&path, RawOptions { direct: true, ..RawOptions::default() }).expect("a raw disk")
}

fn layered(folder: &Path, name: &str) -> Volume {
    let path = folder.join(name);
    let _ = std::fs::remove_dir_all(&path);
    Volume::create(&path, SIZE).expect("a new volume");
    Volume::open(&path).expect("a volume")
}

fn encrypted(folder: &Path, name: &str) -> Volume {
    let path = folder.join(name);
    let _ = std::fs::remove_dir_all(&path);
    let keys = KeyFile::new(folder.join("keys"));
    let key = "bench".parse().expect("a good name");
    let _ = keys.add(&key);
    Volume::create_encrypted(&path, SIZE, &keys, &key).expect("a new volume");
    let stores = Stores { keys: Some(Arc::new(keys)), ..Stores::default() };
    Volume::open_with(&path, stores).expect("a volume")
}

/// What one thread encrypts and decrypts in blocks of 4 KiB, in GiB a second.
fn cipher_rates() -> (f64, f64) {
    let cipher = BareCipher::new(&DataKey::random().expect("random bytes"));
    let mut bytes = vec![0x5a; 1 << 20];
    let mut rate = |work: &dyn Fn(u64, &mut [u8])| {
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let started = Instant::now();
                for offset in (0..SIZE / 4).step_by(bytes.len()) {
                    let blocks = bytes.chunks_mut(4096).zip((offset..).step_by(4096));
                    blocks.for_each(|(block, offset)| work(offset, block));
                }
                started.elapsed()
            })
            .collect();
        0.25 / median(&mut times).as_secs_f64()
    };
    (rate(&|at, block| cipher.encrypt(at, block)), rate(&|at, block| cipher.decrypt(at, block)))
}

fn fill(queue: &mut dyn BlockQueue) {
    let memory = Memory::from_bytes(&vec![1; 1 << 20]);
    for offset in (0..SIZE).step_by(1 << 20) {
        execute(queue, BlockRequest::Write { offset, buffers: &[memory.all()] }).expect("the disk works");
    }
    execute(queue, BlockRequest::Flush).expect("the disk works");
}

fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| "/var/tmp".to_owned());
    let folder = tempfile::tempdir_in(parent).expect("a folder");
    let folder = folder.path();
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let mut times: Vec<(&str, Vec<Duration>, Vec<Duration>)> = Vec::new();
    let mut note =
        |metric, ours: Duration, raw: Duration| match times.iter_mut().find(|(name, ..)| *name == metric) {
            Some((_, all_ours, all_raw)) => {
                all_ours.push(ours);
                all_raw.push(raw);
            }
            None => times.push((metric, vec![ours], vec![raw])),
        };
    let (full_raw, full) = (raw(folder, "full-raw"), layered(folder, "full"));
    let mut full_raw = full_raw.open_queue(64).expect("a queue");
    fill(&mut *full_raw);
    let mut queue = full.open_queue(64).expect("a queue");
    fill(&mut *queue);
    let single = layered(folder, "single");
    let mut single = single.open_queue(64).expect("a queue");
    fill(&mut *single);
    let sealed = encrypted(folder, "encrypted");
    let mut sealed = sealed.open_queue(64).expect("a queue");
    fill(&mut *sealed);
    // Half of the blocks in a layer above another. Its pages come to the page cache one by one, and not in large folios as the others.
    full.seal().expect("a sealed layer");
    let every_other: Vec<u64> = (0..SIZE / BLOCK).step_by(2).collect();
    transfer(&mut *queue, &every_other, true);
    execute(&mut *queue, BlockRequest::Flush).expect("the disk works");
    for round in 0..ROUNDS {
        let ours_first = round % 2 == 0;
        let in_turns = |ours: &mut dyn FnMut() -> Duration, raw: &mut dyn FnMut() -> Duration| {
            let first = if ours_first { ours() } else { raw() };
            let second = if ours_first { raw() } else { ours() };
            if ours_first { (first, second) } else { (second, first) }
        };
        let blocks: Vec<u64> = (0..READS).map(|_| numbers.block()).collect();
        let (ours, raw_time) = in_turns(&mut || transfer(&mut *single, &blocks, false), &mut || {
            transfer(&mut *full_raw, &blocks, false)
        });
        note("randread", ours, raw_time);
        let (ours, plain_time) = in_turns(&mut || transfer(&mut *sealed, &blocks, false), &mut || {
            transfer(&mut *single, &blocks, false)
        });
        note("encrypted_randread", ours, plain_time);
        for (metric, writes) in [("encrypted_read", false), ("encrypted_rewrite", true)] {
            let (ours, plain_time) =
                in_turns(&mut || stream(&mut *sealed, writes), &mut || stream(&mut *single, writes));
            note(metric, ours, plain_time);
        }
        let (ours, raw_time) = in_turns(&mut || transfer(&mut *queue, &blocks, false), &mut || {
            transfer(&mut *full_raw, &blocks, false)
        });
        note("randread_two_layers", ours, raw_time);
        let rewritten: Vec<u64> = blocks.iter().map(|block| block & !1).take(FLUSHES).collect();
        let (ours, raw_time) =
            in_turns(&mut || flushes(&mut *queue, &rewritten), &mut || flushes(&mut *full_raw, &rewritten));
        note("flush", ours, raw_time);
        let (new_raw, new) = (raw(folder, "new-raw"), layered(folder, "new"));
        let mut new_raw = new_raw.open_queue(64).expect("a queue");
        let mut new_queue = new.open_queue(64).expect("a queue");
        let first: Vec<u64> = (0..WRITES as u64).map(|index| index * 40_503 % (SIZE / BLOCK)).collect();
        let (ours, raw_time) = in_turns(&mut || transfer(&mut *new_queue, &first, true), &mut || {
            transfer(&mut *new_raw, &first, true)
        });
        note("firstwrite", ours, raw_time);
        let (new_plain, new_sealed) = (layered(folder, "new-plain"), encrypted(folder, "new-encrypted"));
        let mut new_plain = new_plain.open_queue(64).expect("a queue");
        let mut new_sealed = new_sealed.open_queue(64).expect("a queue");
        let (ours, plain_time) = in_turns(&mut || transfer(&mut *new_sealed, &first, true), &mut || {
            transfer(&mut *new_plain, &first, true)
        });
        note("encrypted_firstwrite", ours, plain_time);
        let (ours, raw_time) = in_turns(
            &mut || {
                execute(&mut *new_queue, BlockRequest::Flush).expect("the disk works");
                flushes(&mut *new_queue, &new_blocks())
            },
            &mut || {
                execute(&mut *new_raw, BlockRequest::Flush).expect("the disk works");
                flushes(&mut *new_raw, &new_blocks())
            },
        );
        note("flush_of_new_block", ours, raw_time);
    }
    println!("{:<22} {:>12} {:>12} {:>7}", "metric", "ours", "peer", "ratio");
    for (metric, mut ours, mut raw) in times {
        let (ours, raw) = (median(&mut ours), median(&mut raw));
        println!("{metric:<22} {ours:>12.1?} {raw:>12.1?} {:>7.2}", ours.as_secs_f64() / raw.as_secs_f64());
    }
    let (encrypt, decrypt) = cipher_rates();
    println!(
        "xts: {encrypt:.2} GiB/s encrypted, {decrypt:.2} GiB/s decrypted by one thread, 4 KiB at a time"
    );
}

/// Blocks that the first writes have left out.
fn new_blocks() -> Vec<u64> {
    let last = SIZE / BLOCK - 1;
    let written: std::collections::HashSet<u64> =
        (0..WRITES as u64).map(|index| index * 40_503 % (SIZE / BLOCK)).collect();
    (0..=last).rev().filter(|block| !written.contains(block)).step_by(3).take(FLUSHES).collect()
}
