//! Frames captured, and links made worse, of an interface in use.

use std::time::{Duration, SystemTime};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::TimeVal;

use super::super::capture::{CaptureError, Direction, Record};
use super::super::{Impairment, Impairments};
use super::*;

fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::new(10, 0)).unwrap();
    (ours, theirs)
}

fn capture(net: &Net, snaplen: usize) -> OwnedFd {
    let (ours, theirs) = pair(SockType::SeqPacket);
    net.capture(theirs, snaplen).unwrap();
    ours
}

fn read(reader: &OwnedFd) -> (Record, Vec<u8>) {
    let mut packet = vec![0; Record::PACKET_BYTES_MAX];
    let length = nix::unistd::read(reader, &mut packet).expect("a packet of the capture");
    let (record, frame) = Record::decode(&packet[..length]).unwrap();
    (record, frame.to_vec())
}

fn both(impairment: &Impairment) -> Impairments {
    Impairments { inbound: Some(impairment.clone()), outbound: Some(impairment.clone()) }
}

fn latency(ms: u64) -> Impairment {
    Impairment { latency_us: ms * 1000, ..Impairment::default() }
}

/// Waits until a counter is so.
fn wait_for(bench: &Bench, direction: &str, counter: &str, value: u64) {
    let deadline = Instant::now() + PATIENCE;
    while bench.net.counters()[direction][counter] != value {
        assert!(Instant::now() < deadline, "{direction} {counter} is {}", bench.net.counters());
        std::thread::yield_now();
    }
}

#[test]
fn a_capture_has_the_frames_as_they_were_with_way_time_and_length() {
    let mut bench = Bench::new(BASE | feature::GUEST_CSUM | feature::GUEST_TSO4);
    let before = SystemTime::now();
    let (all, beginnings) = (capture(&bench.net, usize::MAX), capture(&bench.net, 20));
    bench.send([0; 12], &frame(1000, 1));
    assert_eq!(bench.link.receive(), frame(1000, 1));
    // The second one lies half in the spill when it is read from the tap.
    let mut offered = bench.offer([4096, 4096]);
    bench.link.send(&frame(60, 2));
    bench.link.send(&frame(40_000, 3));
    assert_eq!(bench.receive(&offered), frame(60, 2));
    let sent =
        [(Direction::Out, frame(1000, 1)), (Direction::In, frame(60, 2)), (Direction::In, frame(40_000, 3))];
    let mut last_ns =
        u64::try_from(before.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    for (direction, frame) in sent {
        let (record, bytes) = read(&all);
        assert_eq!((record.direction, &bytes), (direction, &frame));
        assert_eq!(usize::try_from(record.length).unwrap(), frame.len());
        assert!(record.time_ns >= last_ns);
        last_ns = record.time_ns;
        assert_eq!(read(&beginnings), (record, frame[..20].to_vec()));
    }
    assert!(
        last_ns
            <= u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos())
                .unwrap()
    );
    offered.extend(bench.offer((0..10).map(|_| 4096)));
    assert_eq!(bench.receive(&offered), frame(40_000, 3));
    let counters = bench.net.counters();
    assert_eq!((&counters["receive"]["captured"], &counters["transmit"]["captured"]), (&4.into(), &2.into()));
}

#[test]
fn a_reader_that_is_too_slow_loses_frames_and_the_guest_waits_for_none() {
    let mut bench = Bench::new(BASE);
    let (reader, theirs) = pair(SockType::SeqPacket);
    setsockopt(&theirs, sockopt::SndBuf, &8192).unwrap();
    bench.net.capture(theirs, usize::MAX).unwrap();
    for seed in 0..100 {
        bench.send([0; 12], &frame(1400, seed));
        assert_eq!(bench.link.receive(), frame(1400, seed));
        bench.transmit.wait_used();
    }
    let status = bench.net.captures().remove(0);
    assert!(
        status.dropped > 0 && status.captured > 0 && status.captured + status.dropped == 100,
        "{status:?}"
    );
    assert_eq!(bench.net.counters()["transmit"]["capture_dropped"], status.dropped);
    // What it got are the first ones, each whole; then there is room again.
    for seed in 0..status.captured {
        assert_eq!(read(&reader).1, frame(1400, seed.to_le_bytes()[0]));
    }
    bench.send([0; 12], &frame(1400, 200));
    assert_eq!(read(&reader).1, frame(1400, 200));
}

#[test]
fn a_capture_ends_with_its_reader_and_others_go_on() {
    let mut bench = Bench::new(BASE);
    let (gone, stays) = (capture(&bench.net, usize::MAX), capture(&bench.net, usize::MAX));
    assert_eq!(bench.net.captures().iter().map(|status| status.id).collect::<Vec<_>>(), [1, 2]);
    drop(gone);
    for seed in 0..2 {
        bench.send([0; 12], &frame(60, seed));
        assert_eq!(read(&stays).1, frame(60, seed));
        // It has been counted when the guest has its buffer back.
        bench.transmit.wait_used();
    }
    assert_eq!(
        bench.net.captures().iter().map(|status| (status.id, status.captured)).collect::<Vec<_>>(),
        [(2, 2)]
    );
}

#[test]
fn what_is_no_socket_of_packets_and_more_captures_than_there_may_be_are_refused() {
    let (net, _parts, _link) = device(1);
    let (pipe, _) = nix::unistd::pipe().unwrap();
    assert!(matches!(net.capture(pipe, 1), Err(CaptureError::NotPackets)));
    assert!(matches!(net.capture(pair(SockType::Stream).1, 1), Err(CaptureError::NotPackets)));
    let mut readers: Vec<_> = (0..16).map(|_| capture(&net, 1)).collect();
    assert!(matches!(net.capture(pair(SockType::SeqPacket).1, 1), Err(CaptureError::TooMany { max: 16 })));
    readers.pop();
    let _reader = capture(&net, 1);
}

#[test]
fn frames_of_a_link_with_a_latency_come_that_much_later_in_both_directions() {
    let mut bench = Bench::new(BASE);
    bench.net.impair(both(&latency(80)));
    let reader = capture(&bench.net, usize::MAX);
    let start = Instant::now();
    bench.send([0; 12], &frame(60, 1));
    assert_eq!(read(&reader).1, frame(60, 1));
    assert_eq!(bench.link.receive(), frame(60, 1));
    assert!(start.elapsed() >= Duration::from_millis(80));
    let offered = bench.offer([1526, 1526]);
    let start = Instant::now();
    bench.link.send(&frame(1514, 2));
    bench.link.send(&frame(1514, 3));
    for seed in 2..4 {
        assert_eq!(bench.receive(&offered), frame(1514, seed));
        assert!(start.elapsed() >= Duration::from_millis(80));
        assert_eq!(read(&reader).1, frame(1514, seed));
    }
    let counters = bench.net.counters();
    assert_eq!((&counters["receive"]["delayed"], &counters["transmit"]["delayed"]), (&2.into(), &1.into()));
}

#[test]
fn what_is_under_way_arrives_at_once_when_the_link_is_good_again() {
    let mut bench = Bench::new(BASE);
    bench.net.impair(both(&latency(60_000)));
    let offered = bench.offer([1526, 1526]);
    bench.send([0; 12], &frame(60, 1));
    bench.link.send(&frame(60, 2));
    // The guest has its buffer back, and does not wait for its frame to arrive.
    assert_eq!(bench.transmit.wait_used().1, 0);
    wait_for(&bench, "receive", "delayed", 1);
    bench.net.impair(both(&Impairment::default()));
    assert_eq!(bench.link.receive(), frame(60, 1));
    assert_eq!(bench.receive(&offered), frame(60, 2));
    bench.send([0; 12], &frame(60, 3));
    bench.link.send(&frame(60, 4));
    assert_eq!(bench.link.receive(), frame(60, 3));
    assert_eq!(bench.receive(&offered), frame(60, 4));
}

#[test]
fn a_direction_that_is_not_given_stays_as_it_is() {
    let (net, _parts, _link) = device(1);
    let (slow, good) = (Some(latency(5)), Some(Impairment::default()));
    net.impair(Impairments { inbound: slow.clone(), outbound: None });
    assert_eq!(net.impairments(), Impairments { inbound: slow.clone(), outbound: None });
    net.impair(Impairments { inbound: None, outbound: slow.clone() });
    assert_eq!(net.impairments(), Impairments { inbound: slow.clone(), outbound: slow.clone() });
    net.impair(Impairments { inbound: good, outbound: None });
    assert_eq!(net.impairments(), Impairments { inbound: None, outbound: slow });
}

#[test]
fn a_link_that_loses_all_loses_all() {
    let mut bench = Bench::new(BASE);
    let offered = bench.offer([1526]);
    bench.net.impair(both(&Impairment { loss_ppm: 1_000_000, ..Impairment::default() }));
    for seed in 0..10 {
        bench.send([0; 12], &frame(60, seed));
        bench.link.send(&frame(60, seed));
    }
    wait_for(&bench, "transmit", "impairment_dropped", 10);
    wait_for(&bench, "receive", "impairment_dropped", 10);
    bench.net.impair(both(&Impairment::default()));
    bench.send([0; 12], &frame(60, 20));
    bench.link.send(&frame(60, 21));
    assert_eq!(bench.link.receive(), frame(60, 20));
    assert_eq!(bench.receive(&offered), frame(60, 21));
}

#[test]
fn frames_pass_no_faster_than_the_rate() {
    let mut bench = Bench::new(BASE);
    // A frame of 1250 bytes takes 5 ms.
    bench.net.impair(both(&Impairment { rate_bps: Some(2_000_000), ..Impairment::default() }));
    let offered = bench.offer((0..40).map(|_| 1526));
    let start = Instant::now();
    for seed in 0..40 {
        bench.transmit.add(&[Piece::Out([&[0; 12][..], &frame(1250, seed)].concat())]);
        bench.link.send(&frame(1250, seed));
    }
    bench.transmit.kick();
    for seed in 0..40 {
        assert_eq!(bench.link.receive(), frame(1250, seed));
        assert!(start.elapsed() >= Duration::from_millis(5) * (u32::from(seed) + 1));
        assert_eq!(bench.receive(&offered), frame(1250, seed));
    }
}

#[test]
fn no_frame_is_forgotten_however_many_become_due_meanwhile() {
    let mut bench = Bench::new(BASE);
    // A frame each 24 us, in both directions.
    bench.net.impair(both(&Impairment {
        rate_bps: Some(20_000_000),
        latency_us: 100,
        ..Impairment::default()
    }));
    for _ in 0..10 {
        let offered = bench.offer((0..100).map(|_| 128));
        for seed in 0..100 {
            bench.send([0; 12], &frame(60, seed));
            bench.link.send(&frame(60, seed));
        }
        for seed in 0..100 {
            assert_eq!(bench.link.receive(), frame(60, seed));
            assert_eq!(bench.receive(&offered), frame(60, seed));
            bench.transmit.wait_used();
        }
    }
}

#[test]
fn a_long_frame_that_is_due_waits_for_buffers() {
    let mut bench = Bench::new(BASE | feature::GUEST_CSUM | feature::GUEST_TSO4);
    bench.net.impair(both(&latency(1)));
    let mut offered = bench.offer([4096, 4096]);
    bench.link.send(&frame(40_000, 1));
    bench.link.send(&frame(100, 2));
    wait_for(&bench, "receive", "delayed", 2);
    for _ in 0..3 {
        assert_eq!(bench.receive.take_used(), None);
        offered.extend(bench.offer([4096, 4096]));
    }
    offered.extend(bench.offer([4096, 4096, 4096]));
    assert_eq!(bench.receive(&offered), frame(40_000, 1));
    assert_eq!(bench.receive(&offered), frame(100, 2));
}

#[test]
fn what_becomes_due_while_the_machine_is_paused_arrives_when_it_goes_on() {
    let mut bench = Bench::new(BASE);
    bench.net.impair(both(&latency(500)));
    bench.send([0; 12], &frame(60, 1));
    wait_for(&bench, "transmit", "delayed", 1);
    bench.running.worker.pause();
    // Its time is over for certain.
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(bench.net.counters()["transmit"]["operations"], 0);
    bench.running.worker.resume();
    assert_eq!(bench.link.receive(), frame(60, 1));
}

#[test]
fn a_reset_of_the_guest_ends_what_is_under_way_and_nothing_else() {
    let mut bench = Bench::new(BASE);
    let impairments = both(&latency(60_000));
    bench.net.impair(impairments.clone());
    let reader = capture(&bench.net, usize::MAX);
    bench.send([0; 12], &frame(60, 1));
    wait_for(&bench, "transmit", "delayed", 1);
    bench.running.worker.stop();
    let memory = memory();
    [bench.receive, bench.transmit] = [0, 1].map(|index| Driver::new(&memory, index, 256));
    bench.control = Driver::new(&memory, 2, 64);
    bench.running.activate(&[&bench.receive, &bench.transmit, &bench.control], BASE);
    bench.send([0; 12], &frame(60, 2));
    wait_for(&bench, "transmit", "delayed", 2);
    assert_eq!(bench.net.impairments(), impairments);
    bench.net.impair(both(&Impairment::default()));
    assert_eq!(bench.link.receive(), frame(60, 2));
    assert_eq!((read(&reader).1, read(&reader).1), (frame(60, 1), frame(60, 2)));
}

#[test]
fn a_rate_is_the_interfaces_and_not_each_pairs() {
    let (net, parts, link) = device(2);
    let memory = memory();
    let mut drivers: Vec<Driver> = (0..5).map(|index| Driver::new(&memory, index, 64)).collect();
    let mut workers = parts.workers.into_iter();
    let features = BASE | feature::MQ;
    let _first = Running::start(workers.next().unwrap(), &[&drivers[0], &drivers[1], &drivers[4]], features);
    let _second = Running::start(workers.next().unwrap(), &[&drivers[2], &drivers[3]], features);
    let added = drivers[4].add(&[Piece::Out(vec![4, 0]), Piece::Out(vec![2, 0]), Piece::In(1)]);
    drivers[4].kick();
    assert_eq!(drivers[4].wait_used(), (added.head, 1));
    net.impair(both(&Impairment { rate_bps: Some(2_000_000), ..Impairment::default() }));
    let start = Instant::now();
    for seed in 0..10 {
        for index in [1, 3] {
            drivers[index].add(&[Piece::Out([&[0; 12][..], &frame(1250, seed)].concat())]);
            drivers[index].kick();
        }
    }
    (0..20).for_each(|_| drop(link.receive()));
    assert!(start.elapsed() >= Duration::from_millis(100));
}
