//! What the durable store does on a disk: `store_bench FOLDER`, where the folder lies on the disk to measure. It prints
//! `metric value unit`, one a line:
//!
//! - `sync`: an fdatasync(2) after 4 KiB were written in place, the median, for comparison;
//! - `put.N`: transactions a second of N writers, each of which puts one of 10,000 records of 100 bytes again;
//! - `create.N`: the same, where each transaction creates a record of 2 KiB, if it is absent, and another of 100 bytes;
//! - `…us_p50`, `…us_p99`: how long one takes;
//! - `open`, `open.killed`, `open.cold`: to open a store of 50,000 records of 2 KiB that was closed, whose process was killed, or of which
//!   nothing is in the page cache; `…_rss`: the process's memory then.

#![allow(clippy::unwrap_used, reason = "it measures, and ends if it cannot")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use control::store::durable::{Redb, Schema};
use control::store::{Store as _, Txn};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const SCHEMA: Schema = Schema { version: 1, migrations: &[] };
const WRITERS: [usize; 3] = [1, 16, 64];
const ROUND: Duration = Duration::from_secs(4);

fn main() {
    let folder = std::env::args_os().nth(1).expect("usage: store_bench FOLDER");
    let folder = tempfile::tempdir_in(folder).unwrap();
    let runtime = Runtime::new().unwrap();
    measure_open(&runtime, folder.path());
    measure_sync(&folder.path().join("sync"));
    for writers in WRITERS {
        let file = folder.path().join(format!("put.{writers}"));
        let txn = |number: u64| Txn::new().put(key("put", number * 7919 % 10_000), [7; 100]);
        measure(&runtime, &file, &format!("put.{writers}"), writers, txn);
    }
    for writers in WRITERS {
        let file = folder.path().join(format!("create.{writers}"));
        let txn = |number: u64| {
            // As random ids do, these fall anywhere between the others.
            let (large, small) = (key("large", scattered(number)), key("small", scattered(number)));
            Txn::new().if_absent(&large).put(large, [7; 2048]).put(small, [7; 100])
        };
        measure(&runtime, &file, &format!("create.{writers}"), writers, txn);
    }
}

fn key(kind: &str, number: u64) -> control::store::Key {
    format!("{kind}/i-{number:017x}").into()
}

fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn measure_sync(path: &Path) {
    let file = File::create(path).unwrap();
    let mut times: Vec<_> = (0..300)
        .map(|number| {
            file.write_all_at(&[7; 4096], number % 16 * 4096).unwrap();
            let begun = Instant::now();
            file.sync_data().unwrap();
            begun.elapsed()
        })
        .skip(20)
        .collect();
    print_times("sync", &mut times);
}

fn print_times(metric: &str, times: &mut [Duration]) {
    times.sort_unstable();
    for (name, part) in [("p50", 50), ("p99", 99)] {
        println!("{metric}_us_{name} {} us", times[times.len() * part / 100].as_micros());
    }
}

fn measure(
    runtime: &Runtime,
    path: &Path,
    metric: &str,
    writers: usize,
    txn: impl Fn(u64) -> Txn + Clone + Send + 'static,
) {
    let store = Arc::new(Redb::open(path, &SCHEMA).unwrap());
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut times = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..writers {
            let (store, next, txn) = (Arc::clone(&store), Arc::clone(&next), txn.clone());
            tasks.spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < ROUND {
                    let txn = txn(next.fetch_add(1, Ordering::Relaxed));
                    let begun = Instant::now();
                    assert!(store.commit(txn).await.unwrap().committed().is_some());
                    times.push(begun.elapsed());
                }
                times
            });
        }
        tasks.join_all().await.concat()
    });
    println!("{metric} {:.0} 1/s", times.len() as f64 / begun.elapsed().as_secs_f64());
    print_times(metric, &mut times);
}

fn measure_open(runtime: &Runtime, folder: &Path) {
    let (closed, killed) = (folder.join("closed"), folder.join("killed"));
    let store = Redb::open(&closed, &SCHEMA).unwrap();
    runtime.block_on(async {
        for first in (0..50_000).step_by(100) {
            let numbers = first..first + 100;
            let txn =
                numbers.fold(Txn::new(), |txn, number| txn.put(key("large", scattered(number)), [7; 2048]));
            assert!(store.commit(txn).await.unwrap().committed().is_some());
        }
    });
    // What is in the file now is what a process would leave that is killed now.
    std::fs::copy(&closed, &killed).unwrap();
    drop(store);
    println!("file {} MiB", std::fs::metadata(&closed).unwrap().len() >> 20);
    for (metric, path) in [("open", &closed), ("open.killed", &killed)] {
        measure_one_open(runtime, metric, path);
    }
    // As after the machine has started: what is read comes from the disk.
    let file = File::open(&closed).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    measure_one_open(runtime, "open.cold", &closed);
}

fn measure_one_open(runtime: &Runtime, metric: &str, path: &Path) {
    let begun = Instant::now();
    let store = Redb::open(path, &SCHEMA).unwrap();
    println!("{metric} {} ms", begun.elapsed().as_millis());
    let entries = runtime.block_on(store.range(b"")).unwrap().entries;
    assert_eq!(entries.len(), 50_000);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    println!("{metric}_rss {}", resident.trim());
}
