//! Real clients with a real clock: what they get in a moment, and that they are woken.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::testing::{FakeDisk, Memory, execute};
use types::volume::{Allowance, VolumeKind, VolumeSpec};

const SIZE: u64 = 16 << 20;
const BLOCK: u64 = 4096;

fn gp3(iops: u32) -> Limits {
    let spec = VolumeSpec { kind: VolumeKind::Gp3, size_gib: 100, iops: Some(iops), throughput_mib_s: None };
    spec.check().unwrap()
}

fn disk() -> Arc<dyn BlockBackend> {
    Arc::new(FakeDisk::new(vec![0; usize::try_from(SIZE).unwrap()]))
}

/// Reads so many single blocks, none after the one before it, with some in flight, as a device does: it sleeps until the event says that
/// there is something to do.
fn reads(disk: &Limited, count: u64, depth: u16) -> Duration {
    let mut queue = disk.open_queue(depth).unwrap();
    let memory = Memory::new(4096);
    let started = Instant::now();
    let (mut pushed, mut ended) = (0, 0);
    while ended < count {
        while pushed < count {
            let offset = pushed * 3 % (SIZE / BLOCK) * BLOCK;
            if queue.push(pushed, BlockRequest::Read { offset, buffers: &[memory.all()] }).is_err() {
                break;
            }
            pushed += 1;
        }
        queue.submit().unwrap();
        let before = ended;
        while let Some(completion) = queue.next_completion() {
            completion.result.unwrap();
            ended += 1;
        }
        if ended == before {
            let event = queue.completion_event();
            let mut events = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
            assert!(poll(&mut events, PollTimeout::from(5000u16)).unwrap() > 0, "nobody woke the client");
            let _ = nix::unistd::read(event, &mut [0; 8]);
        }
    }
    started.elapsed()
}

/// Whether a rate comes out: never more but for what may be saved up between two runs, and not less, if the machine is not always too busy.
fn gives(expected: u32, saved: u64, count: u64, run: impl Fn(u64) -> Duration) {
    run(saved + 1);
    let mut found = Vec::new();
    for _ in 0..8 {
        let [least, ideal] = [count - saved, count].map(|count| Duration::from_secs(count) / expected);
        let took = run(count);
        assert!(took > least.mul_f64(0.99), "{count} in {took:?}, not {ideal:?}");
        if took < ideal.mul_f64(1.03) {
            return;
        }
        found.push(took);
    }
    panic!("{count} in {found:?}, not in {expected} a second");
}

#[test]
fn a_client_gets_the_operations_that_the_volume_has() {
    let disk = Limited::new(disk(), Some(gp3(3000))).unwrap();
    gives(3000, 30, 900, |count| reads(&disk, count, 32));
    disk.set_limits(Some(gp3(12_000)));
    gives(12_000, 120, 3600, |count| reads(&disk, count, 32));
}

#[test]
fn clients_of_several_queues_share_what_the_volume_has() {
    let disk = Limited::new(disk(), Some(gp3(3000))).unwrap();
    gives(3000, 30, 900, |count| {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| reads(&disk, count / 3, 16));
            }
        });
        started.elapsed()
    });
}

#[test]
fn large_requests_are_limited_by_their_bytes() {
    let disk = Limited::new(disk(), Some(gp3(3000))).unwrap();
    let mib = 1 << 20;
    let memory = Memory::new(mib);
    gives(125, 2, 32, |count| {
        let mut queue = disk.open_queue(4).unwrap();
        let started = Instant::now();
        for index in 0..count {
            let offset = index * 5 % 16 * mib as u64;
            execute(&mut *queue, BlockRequest::Write { offset, buffers: &[memory.all()] }).unwrap();
        }
        started.elapsed()
    });
}

#[test]
fn a_flush_does_not_wait_and_new_limits_wake_who_does() {
    let one = Allowance { base: 1, peak: 1, credits: 0 };
    let slow = Limits { iops: one, ..gp3(3000) };
    let disk = Limited::new(disk(), Some(slow)).unwrap();
    let mut queue = disk.open_queue(8).unwrap();
    let memory = Memory::new(4096);
    for token in 0..4 {
        let request = BlockRequest::Read { offset: token * 2 * BLOCK, buffers: &[memory.all()] };
        queue.push(token, request).unwrap();
    }
    queue.push(9, BlockRequest::Flush).unwrap();
    queue.submit().unwrap();
    let mut take = || {
        std::iter::from_fn(|| queue.next_completion()).map(|completion| completion.token).collect::<Vec<_>>()
    };
    assert_eq!(take(), [0, 9]);
    assert_eq!(take(), []);
    disk.set_limits(Some(gp3(50_000)));
    // What was overdrawn at one a second is paid back at the new rate.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut found = Vec::new();
    while found.len() < 3 {
        assert!(Instant::now() < deadline, "it is held as if nothing had changed: {found:?}");
        found.extend(take());
        std::thread::yield_now();
    }
    assert_eq!(found, [1, 2, 3]);
}

/// Writes a number that grows by one to one disk after the other, and waits for each, as often as it is told to go on.
fn count_on(disks: &[Arc<Limited>; 2], go_on: &dyn Fn() -> bool) {
    let mut queues = disks.each_ref().map(|disk| disk.open_queue(1).unwrap());
    for number in 1u64.. {
        for queue in &mut queues {
            let memory = Memory::from_bytes(&[number.to_le_bytes(); 64].concat());
            execute(&mut **queue, BlockRequest::Write { offset: 0, buffers: &[memory.all()] }).unwrap();
            if !go_on() {
                return;
            }
        }
    }
}

fn number_on(disk: &Limited) -> u64 {
    let mut bytes = [0; 8];
    disk.read_at(0, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn what_is_read_of_two_disks_while_both_are_paused_was_there_at_one_moment() {
    for limits in [None, Some(gp3(10_000))] {
        let disks = [0; 2].map(|_| Arc::new(Limited::new(disk(), limits).unwrap()));
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| count_on(&disks, &|| !is_over.load(Ordering::Relaxed)));
            for _ in 0..20 {
                let before = number_on(&disks[1]);
                for disk in &disks {
                    disk.pause(Duration::from_secs(10));
                }
                // The second one long before the first: without a pause it would be far behind.
                let second = number_on(&disks[1]);
                std::thread::sleep(Duration::from_millis(2));
                let first = number_on(&disks[0]);
                assert!(first == second || first == second + 1, "{first}, {second}");
                assert!(disks.iter().all(|disk| disk.resume()));
                while number_on(&disks[1]) <= before {
                    std::thread::yield_now();
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn a_pause_ends_by_itself_and_holds_no_reads() {
    let limited = Limited::new(disk(), None).unwrap();
    let mut queue = limited.open_queue(1).unwrap();
    let memory = Memory::new(4096);
    let started = Instant::now();
    limited.pause(Duration::from_millis(50));
    execute(&mut *queue, BlockRequest::Read { offset: 0, buffers: &[memory.all()] }).unwrap();
    let read = started.elapsed();
    execute(&mut *queue, BlockRequest::Write { offset: 0, buffers: &[memory.all()] }).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(50) && read < started.elapsed());
    assert!(!limited.resume(), "it was over");
    // From then on there is nothing to be looked at.
    assert!(limited.shared.limits().is_none());
}
