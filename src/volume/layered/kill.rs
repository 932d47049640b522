//! A real process that writes, flushes, seals and merges, on real files through io_uring, and is killed at any moment, again and again.
//!
//! Which sectors the write of a number touches follows from the number, so the writer only has to tell up to which number its flushes
//! were acknowledged. Every sector must then have what the last such write of it left, or a later one.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::storage::fake::Numbers;
use super::{Stores, Volume};
use crate::backend::{BlockBackend, BlockQueue, BlockRequest};
use crate::crypt::OpenKeys;
use crate::testing::Memory;

const FOLDER: &str = "NIMBO_KILLED_VOLUME";
const START: &str = "NIMBO_KILLED_START";
const SECTOR: usize = 512;
const SECTORS: usize = 2048;
const WRITERS: u64 = 2;
const DEPTH: usize = 8;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The sectors of write `number`; each writer has its own part of the volume.
fn sectors(writer: u64, number: u64) -> std::ops::Range<usize> {
    let mut numbers = Numbers::new((number * WRITERS + writer).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let part = SECTORS / usize::try_from(WRITERS).unwrap();
    let (first, count) = if numbers.below(3) == 0 {
        (numbers.below(part), 1 + numbers.below(20))
    } else {
        (numbers.below(part / 8) * 8, 8 * (1 + numbers.below(3)))
    };
    let start = usize::try_from(writer).unwrap() * part;
    start + first..start + (first + count).min(part)
}

fn content(number: u64, sector: usize) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    bytes.chunks_mut(16).for_each(|chunk| {
        chunk[..8].copy_from_slice(&number.to_le_bytes());
        chunk[8..].copy_from_slice(&(sector as u64).to_le_bytes());
    });
    bytes
}

fn open(folder: &Path) -> Volume {
    Volume::open_with(folder, Stores { keys: Some(Arc::new(OpenKeys)), objects: None }).unwrap()
}

#[test]
#[ignore = "the process that the test below kills"]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let start: u64 = std::env::var(START).unwrap().parse().unwrap();
    let volume = open(Path::new(&folder));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let volume = &volume;
            scope.spawn(move || write_for_ever(volume, writer, start));
        }
        loop {
            std::thread::sleep(Duration::from_millis(5));
            volume.seal().unwrap();
            if let [.., lower, upper, _] = volume.layers()[..]
                && volume.layers().len() > 3
            {
                volume.merge(lower, upper, &|| false).unwrap();
            }
        }
    });
}

fn write_for_ever(volume: &Volume, writer: u64, start: u64) {
    let mut queue = volume.open_queue(64).unwrap();
    let mut in_flight: Vec<(u64, std::ops::Range<usize>, Memory)> = Vec::new();
    for number in start.. {
        let range = sectors(writer, number);
        let meets = |other: &std::ops::Range<usize>| other.start < range.end && range.start < other.end;
        while in_flight.len() >= DEPTH || in_flight.iter().any(|(_, other, _)| meets(other)) {
            let token = wait_for_one(&mut *queue);
            in_flight.retain(|(number, ..)| *number != token);
        }
        if number % 7 == 0 {
            while !in_flight.is_empty() {
                let token = wait_for_one(&mut *queue);
                in_flight.retain(|(number, ..)| *number != token);
            }
            queue.push(u64::MAX, BlockRequest::Flush).unwrap();
            assert_eq!(wait_for_one(&mut *queue), u64::MAX);
            // In one call, so that no line is torn.
            std::io::stdout().write_all(format!("flushed {writer} {number}\n").as_bytes()).unwrap();
        }
        let bytes: Vec<_> = range.clone().map(|sector| content(number, sector)).collect();
        let memory = Memory::from_bytes(&bytes.concat());
        let offset = (range.start * SECTOR) as u64;
        queue.push(number, BlockRequest::Write { offset, buffers: &[memory.all()] }).unwrap();
        queue.submit().unwrap();
        in_flight.push((number, range, memory));
    }
}

fn wait_for_one(queue: &mut dyn BlockQueue) -> u64 {
    queue.wait().unwrap();
    let completion = queue.next_completion().unwrap();
    completion.result.unwrap();
    completion.token
}

/// When a writer is killed.
enum Moment {
    /// So long after its start, which may be while it opens the volume.
    After(Duration),
    /// When so many flushes were acknowledged, however long that takes.
    Flushed(usize),
}

/// Runs a writer until a moment, kills it, and says up to which number each of its parts was flushed.
fn killed_writer(folder: &Path, start: u64, moment: &Moment) -> [u64; 2] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "layered::kill::writer", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(START, start.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (teller, told) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut flushed = [0; 2];
        for line in lines.map_while(Result::ok) {
            // The test's own name may stand before the first.
            let Some((_, line)) = line.rsplit_once("flushed ") else { continue };
            let (writer, number) = line.split_once(' ').unwrap();
            flushed[writer.parse::<usize>().unwrap()] = number.parse().unwrap();
            // Nobody may be waiting any more.
            let _ = teller.send(());
        }
        flushed
    });
    match moment {
        Moment::After(time) => std::thread::sleep(*time),
        Moment::Flushed(count) => {
            (0..*count).for_each(|_| told.recv_timeout(PATIENCE).expect("the writer writes"));
        }
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the writer ended by itself");
    reader.join().unwrap()
}

const SIZE: u64 = (SECTORS * SECTOR) as u64;

#[test]
fn what_was_flushed_is_there_after_the_process_is_killed_at_any_moment() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    Volume::create(folder.path(), SIZE).unwrap();
    kill_again_and_again(folder.path(), 120);
}

#[test]
fn so_it_is_in_an_encrypted_volume() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    Volume::create_encrypted(folder.path(), SIZE, &OpenKeys, &"key".parse().unwrap()).unwrap();
    kill_again_and_again(folder.path(), 60);
}

fn kill_again_and_again(folder: &Path, rounds: u64) {
    let rounds = std::env::var("NIMBO_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(rounds);
    let mut numbers = Numbers::new(7);
    // What each sector had when it was looked at last, and from which number on the writer goes on.
    let (mut least, mut start) = (vec![0; SECTORS], 1);
    for round in 0..rounds {
        let moment = match numbers.below(2) {
            0 => Moment::After(Duration::from_micros(60 * numbers.below(500) as u64)),
            _ => Moment::Flushed(1 + numbers.below(30)),
        };
        let flushed = killed_writer(folder, start, &moment);
        for (writer, flushed) in (0u64..).zip(flushed) {
            for number in start..flushed {
                sectors(writer, number).for_each(|sector| least[sector] = number);
            }
        }
        let report = Volume::check(folder, false).unwrap();
        assert!(report.is_sound(), "round {round}: {report:?}");
        let volume = open(folder);
        let mut bytes = vec![0; SECTORS * SECTOR];
        volume.read_at(0, &mut bytes).unwrap();
        for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
            let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(
                number == 0 || bytes == content(number, sector),
                "round {round}: sector {sector} is torn"
            );
            assert!(
                number >= least[sector],
                "round {round}: sector {sector} has write {number}, and {} was flushed",
                least[sector]
            );
            least[sector] = number;
            start = start.max(number + 1);
        }
        start = start.max(flushed[0]).max(flushed[1]);
    }
}
