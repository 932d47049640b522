//! With real taps, each in a network namespace of its own that lives as long as its descriptors.

mod experiments;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use types::MacAddress;

use super::{Net, NetSpec, TapError, feature};
use crate::virtio::driver::{Added, Driver, NEXT, PATIENCE, Piece, Running, WRITE, memory};
use crate::virtio::{DeviceParts, VirtioDevice};

/// IEEE 802's first EtherType for local experiments: nothing else speaks it.
const PROTOCOL: u16 = 0x88b5;
const BASE: u64 = feature::MAC | feature::MRG_RXBUF | feature::CTRL_VQ | feature::MTU;

fn checked(result: libc::c_int) -> libc::c_int {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}

/// A tap's other side: the kernel of a namespace.
struct Link {
    socket: OwnedFd,
}

/// Makes a tap that is up, with `queues` queues.
fn tap(queues: usize, flags: libc::c_int) -> (Vec<OwnedFd>, Link) {
    // The namespace of a thread ends with the thread and with what was opened in it.
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        // SAFETY: zeroes are a value of this plain structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name[0] = libc::c_char::try_from(b'n').unwrap();
        let queues = (0..queues)
            .map(|_| {
                let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
                request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap();
                // SAFETY: the request outlives the call, here and below.
                checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &request) });
                OwnedFd::from(file)
            })
            .collect();
        let protocol = libc::c_int::from(PROTOCOL.to_be());
        // SAFETY: a new socket, owned by nobody else.
        let socket =
            unsafe { OwnedFd::from_raw_fd(checked(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol))) };
        let fd = socket.as_raw_fd();
        request.ifr_ifru.ifru_mtu = 65521;
        // SAFETY: as above.
        unsafe {
            checked(libc::ioctl(fd, libc::SIOCSIFMTU, &request));
            request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap();
            checked(libc::ioctl(fd, libc::SIOCSIFFLAGS, &request));
            checked(libc::ioctl(fd, libc::SIOCGIFINDEX, &mut request));
        }
        // SAFETY: zeroes are a value of this plain structure; SIOCGIFINDEX sets the index.
        let (mut address, index): (libc::sockaddr_ll, _) =
            unsafe { (std::mem::zeroed(), request.ifr_ifru.ifru_ifindex) };
        address.sll_family = libc::c_ushort::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = PROTOCOL.to_be();
        address.sll_ifindex = index;
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
        let patience = libc::timeval { tv_sec: 10, tv_usec: 0 };
        let patience_length = libc::socklen_t::try_from(size_of::<libc::timeval>()).unwrap();
        // SAFETY: both structures outlive the calls, and their sizes are told.
        unsafe {
            checked(libc::bind(fd, (&raw const address).cast(), length));
            let value = (&raw const patience).cast();
            checked(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, patience_length));
        }
        (queues, Link { socket })
    })
    .join()
    .unwrap()
}

const TAP_FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

impl Link {
    fn send(&self, frame: &[u8]) {
        // SAFETY: the frame outlives the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(usize::try_from(sent).ok(), Some(frame.len()), "{}", io::Error::last_os_error());
    }

    fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 1 << 17];
        // SAFETY: the buffer is ours and outlives the call.
        let length =
            unsafe { libc::recv(self.socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        frame.truncate(usize::try_from(length).expect("a frame arrives at the tap's other side"));
        frame
    }
}

/// A frame of `length` bytes whose contents tell where they belong.
fn frame(length: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, seed]);
    frame.extend(PROTOCOL.to_be_bytes());
    frame.extend((14..length).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1] ^ seed));
    frame
}

fn device(queues: usize) -> (Arc<Net>, DeviceParts, Link) {
    let flags = if queues > 1 { TAP_FLAGS | libc::IFF_MULTI_QUEUE } else { TAP_FLAGS };
    let (taps, link) = tap(queues, flags);
    let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
    let spec = NetSpec { name: "net0".into(), mac, mtu: 1500, taps };
    let (net, parts) = Net::new(spec).unwrap();
    (net, parts, link)
}

/// An interface of one pair with its driver.
struct Bench {
    net: Arc<Net>,
    link: Link,
    receive: Driver,
    transmit: Driver,
    control: Driver,
    running: Running,
}

impl Bench {
    fn new(features: u64) -> Self {
        let (net, parts, link) = device(1);
        let memory = memory();
        let [receive, transmit] = [0, 1].map(|index| Driver::new(&memory, index, 256));
        let control = Driver::new(&memory, 2, 64);
        let part = parts.workers.into_iter().next().unwrap();
        let running = Running::start(part, &[&receive, &transmit, &control], features);
        Bench { net, link, receive, transmit, control, running }
    }

    /// Gives the device buffers of these sizes.
    fn offer(&mut self, sizes: impl IntoIterator<Item = u32>) -> Vec<Added> {
        let added = sizes.into_iter().map(|size| self.receive.add(&[Piece::In(size)])).collect();
        self.receive.kick();
        added
    }

    /// The next frame that the device gives, from as many chains as its header says, all of which are there.
    fn receive(&mut self, offered: &[Added]) -> Vec<u8> {
        let first = self.receive.wait_used();
        let chains = u16::from_le_bytes(self.bytes_of(first, offered)[10..12].try_into().unwrap());
        let mut whole = self.bytes_of(first, offered);
        for _ in 1..chains {
            let used = self.receive.take_used().expect("a frame's chains are given back together");
            whole.extend(self.bytes_of(used, offered));
        }
        whole.split_off(12)
    }

    fn bytes_of(&self, (head, written): (u16, u32), offered: &[Added]) -> Vec<u8> {
        let at = offered.iter().find(|added| added.head == head).unwrap().at[0];
        self.receive.read(at, usize::try_from(written).unwrap())
    }

    fn send(&mut self, header: [u8; 12], frame: &[u8]) {
        self.transmit.add(&[Piece::Out(header.to_vec()), Piece::Out(frame.to_vec())]);
        self.transmit.kick();
    }

    /// Gives a command and takes the answer.
    fn command(&mut self, class: u8, command: u8, data: &[u8]) -> u8 {
        let added =
            self.control.add(&[Piece::Out(vec![class, command]), Piece::Out(data.to_vec()), Piece::In(1)]);
        self.control.kick();
        assert_eq!(self.control.wait_used(), (added.head, 1));
        self.control.read(added.at[2], 1)[0]
    }
}

#[test]
fn frames_go_out_and_come_in() {
    let mut bench = Bench::new(BASE);
    bench.send([0; 12], &frame(60, 1));
    assert_eq!(bench.link.receive(), frame(60, 1));
    let offered = bench.offer([1526, 1526]);
    for seed in 2..4 {
        bench.link.send(&frame(1514, seed));
        assert_eq!(bench.receive(&offered), frame(1514, seed));
    }
    assert_eq!(bench.transmit.wait_used().1, 0);
    let counters = bench.net.counters();
    assert_eq!(counters["transmit"]["bytes"], 60);
    assert_eq!(counters["receive"]["operations"], 2);
    assert_eq!(counters["receive"]["bytes"], 2 * 1514);
}

#[test]
fn a_frame_may_be_cut_anywhere() {
    let mut bench = Bench::new(BASE);
    let whole = [&[0; 12][..], &frame(1000, 5)].concat();
    let pieces: Vec<Piece> = whole.chunks(7).map(|chunk| Piece::Out(chunk.to_vec())).collect();
    bench.transmit.add_indirect(&pieces);
    bench.transmit.kick();
    assert_eq!(bench.link.receive(), frame(1000, 5));
    let added = bench.receive.add(&[Piece::In(3), Piece::In(8), Piece::In(1), Piece::In(1600)]);
    bench.receive.kick();
    bench.link.send(&frame(1000, 6));
    assert_eq!(bench.receive.wait_used(), (added.head, 1012));
    assert_eq!(bench.receive.read(added.at[1] + 7, 1), [1]);
    assert_eq!(bench.receive.read(added.at[2], 1), [0]);
    assert_eq!(bench.receive.read(added.at[3], 1000), frame(1000, 6));
}

#[test]
fn a_long_frame_spans_chains_and_the_rest_is_left_for_the_next() {
    let mut bench = Bench::new(BASE | feature::GUEST_CSUM | feature::GUEST_TSO4);
    let offered = bench.offer((0..100).map(|_| 1526));
    for (length, seed) in [(60_000, 1), (64, 2), (30_000, 3)] {
        bench.link.send(&frame(length, seed));
        assert_eq!(bench.receive(&offered), frame(length, seed));
    }
}

#[test]
fn a_frame_for_which_buffers_are_missing_waits_for_them() {
    let mut bench = Bench::new(BASE | feature::GUEST_CSUM | feature::GUEST_TSO4);
    let mut offered = bench.offer([4096, 4096]);
    bench.link.send(&frame(40_000, 1));
    bench.link.send(&frame(100, 2));
    // Wherever the worker is, it has no whole frame to give.
    for _ in 0..3 {
        assert_eq!(bench.receive.take_used(), None);
        offered.extend(bench.offer([4096, 4096]));
    }
    offered.extend(bench.offer([4096, 4096, 4096]));
    assert_eq!(bench.receive(&offered), frame(40_000, 1));
    assert_eq!(bench.receive(&offered), frame(100, 2));
    assert_eq!(bench.net.counters()["receive"]["dropped"], 0);
}

#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_dropped() {
    let mut bench = Bench::new(feature::MAC);
    let offered = bench.offer([1526]);
    bench.link.send(&frame(3000, 1));
    bench.link.send(&frame(300, 2));
    assert_eq!(bench.receive(&offered), frame(300, 2));
    assert_eq!(bench.net.counters()["receive"]["dropped"], 1);
}

#[test]
fn a_header_that_the_kernel_refuses_costs_that_frame_alone() {
    let mut bench = Bench::new(BASE | feature::CSUM);
    // A checksum far beyond the frame's end; an unknown kind of segmentation; a frame shorter than Ethernet's header.
    bench.send([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], &frame(60, 1));
    bench.send([0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame(60, 2));
    bench.send([0; 12], &[1, 2, 3]);
    bench.send([0; 12], &frame(60, 4));
    assert_eq!(bench.link.receive(), frame(60, 4));
    for _ in 0..4 {
        bench.transmit.wait_used();
    }
    assert_eq!(bench.net.counters()["transmit"]["errors"], 3);
    assert!(!bench.running.needs_reset());
}

#[test]
fn commands_are_obeyed_or_refused() {
    let offloads = feature::CTRL_GUEST_OFFLOADS | feature::GUEST_CSUM;
    let mut bench = Bench::new(BASE | offloads);
    assert_eq!(bench.command(5, 0, &feature::GUEST_CSUM.to_le_bytes()), 0);
    assert_eq!(bench.command(5, 0, &feature::GUEST_TSO4.to_le_bytes()), 1, "it was not negotiated");
    assert_eq!(bench.command(5, 0, &[0; 3]), 1);
    assert_eq!(bench.command(4, 0, &[1, 0]), 1, "there is one pair");
    assert_eq!(bench.command(77, 0, &[]), 1);
    assert!(!bench.running.needs_reset());
}

#[test]
fn pairs_are_used_when_the_driver_says_so() {
    let (net, parts, link) = device(2);
    assert_ne!(net.features() & feature::MQ, 0);
    let memory = memory();
    let mut drivers: Vec<Driver> = (0..5).map(|index| Driver::new(&memory, index, 64)).collect();
    let features = BASE | feature::MQ;
    let mut workers = parts.workers.into_iter();
    let [first, second] = [&drivers[..], &drivers[2..4]];
    let _first = Running::start(workers.next().unwrap(), &[&first[0], &first[1], &first[4]], features);
    let _second = Running::start(workers.next().unwrap(), &[&second[0], &second[1]], features);
    for (pairs, ack) in [(0u16, 1), (3, 1), (2, 0), (2, 0)] {
        let pairs = pairs.to_le_bytes().to_vec();
        let added = drivers[4].add(&[Piece::Out(vec![4, 0]), Piece::Out(pairs), Piece::In(1)]);
        drivers[4].kick();
        drivers[4].wait_used();
        assert_eq!(drivers[4].read(added.at[2], 1), [ack]);
    }
    for (index, seed) in [(1, 1), (3, 2)] {
        drivers[index].add(&[Piece::Out([&[0; 12][..], &frame(60, seed)].concat())]);
        drivers[index].kick();
        assert_eq!(link.receive(), frame(60, seed));
    }
}

#[test]
fn a_driver_without_pairs_finds_its_control_queue_at_2() {
    let (_, parts, _link) = device(2);
    let mut control = Driver::new(&memory(), 2, 64);
    let offloads = feature::CTRL_GUEST_OFFLOADS | feature::GUEST_CSUM;
    let second = parts.workers.into_iter().nth(1).unwrap();
    assert_eq!(second.queues, [2, 3]);
    let _running = Running::start(second, &[&control], BASE | offloads);
    let added = control.add(&[
        Piece::Out(vec![5, 0]),
        Piece::Out(feature::GUEST_CSUM.to_le_bytes().to_vec()),
        Piece::In(1),
    ]);
    control.kick();
    assert_eq!(control.wait_used(), (added.head, 1));
}

#[test]
fn only_a_tap_of_the_right_kind_is_taken() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let spec = |taps| NetSpec { name: "n".into(), mac: MacAddress::BROADCAST, mtu: 1500, taps };
    assert!(matches!(Net::new(spec(vec![file.into()])), Err(TapError::NotATap { .. })));
    assert!(matches!(Net::new(spec(Vec::new())), Err(TapError::QueueCount { count: 0, .. })));
    let (taps, _link) = tap(1, libc::IFF_TAP | libc::IFF_NO_PI);
    assert!(matches!(Net::new(spec(taps)), Err(TapError::Flags { .. })));
}

#[test]
fn the_configuration_tells_address_link_and_mtu() {
    let (net, _parts, _link) = device(1);
    let config = || {
        let mut data = [0; 12];
        net.read_config(0, &mut data);
        data
    };
    assert_eq!(config(), [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xdc, 5]);
    net.set_link(false);
    assert_eq!(config()[6..8], [0, 0]);
}

/// One thing wrong with a good frame to send, or with a good buffer to receive into.
#[derive(Debug, Clone)]
enum Breakage {
    SendNothing,
    SendHeaderLength(u32),
    SendWritable,
    SendAddress(u64),
    SendLength(u32),
    SendNext(u16),
    ReceiveReadable,
    ReceiveAddress(u64),
    ReceiveLength(u32),
    ReceiveNext(u16),
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Sent,
    Refused,
    Received,
    NeedsReset,
}

fn predict(breakage: &Breakage) -> Outcome {
    let in_ram = |address: u64| address.checked_add(100).is_some_and(|end| end <= 32 << 20);
    match *breakage {
        Breakage::SendNothing => Outcome::Sent,
        // The frame is the next descriptor's, so a shorter header takes its first bytes.
        Breakage::SendHeaderLength(_) => Outcome::Sent,
        Breakage::SendWritable => Outcome::NeedsReset,
        Breakage::SendAddress(address) => {
            if in_ram(address) {
                Outcome::Sent
            } else {
                Outcome::NeedsReset
            }
        }
        Breakage::SendLength(length) if length < 14 => Outcome::Refused,
        Breakage::SendLength(_) => Outcome::Sent,
        Breakage::SendNext(_) | Breakage::ReceiveNext(_) | Breakage::ReceiveReadable => Outcome::NeedsReset,
        Breakage::ReceiveAddress(address) => {
            if in_ram(address) {
                Outcome::Received
            } else {
                Outcome::NeedsReset
            }
        }
        Breakage::ReceiveLength(length) if length < 12 => Outcome::NeedsReset,
        Breakage::ReceiveLength(_) => Outcome::Received,
    }
}

fn breakages() -> impl Strategy<Value = Breakage> {
    let address = || prop_oneof![0x30_0000u64..0x40_0000, (32u64 << 20) - 110..32 << 20, any::<u64>()];
    prop_oneof![
        Just(Breakage::SendNothing),
        (12u32..40).prop_map(Breakage::SendHeaderLength),
        Just(Breakage::SendWritable),
        address().prop_map(Breakage::SendAddress),
        (0u32..2000).prop_map(Breakage::SendLength),
        prop_oneof![0u16..2, 256u16..].prop_map(Breakage::SendNext),
        Just(Breakage::ReceiveReadable),
        address().prop_map(Breakage::ReceiveAddress),
        (0u32..200).prop_map(Breakage::ReceiveLength),
        prop_oneof![0u16..2, 256u16..].prop_map(Breakage::ReceiveNext),
    ]
}

fn try_broken(bench: &mut Bench, breakage: &Breakage) -> Outcome {
    let Bench { receive, transmit, .. } = bench;
    let out = transmit.lay(&[Piece::Out(vec![0; 12]), Piece::Out(vec![0xff; 100])]);
    let send = |number: u64, address, length, flags, next| {
        transmit.write_descriptor(transmit.table() + 16 * number, address, length, flags, next);
    };
    let into = receive.lay(&[Piece::In(1526), Piece::In(1526)]);
    let take = |number: u64, address, length, flags, next| {
        receive.write_descriptor(receive.table() + 16 * number, address, length, flags, next);
    };
    let mut is_receive = false;
    match *breakage {
        Breakage::SendNothing => {}
        Breakage::SendHeaderLength(length) => send(0, out.at[0], length, NEXT, 1),
        Breakage::SendWritable => send(1, out.at[1], 100, WRITE, 0),
        Breakage::SendAddress(address) => send(1, address, 100, 0, 0),
        Breakage::SendLength(length) => send(1, out.at[1], length, 0, 0),
        Breakage::SendNext(next) => send(1, out.at[1], 100, NEXT, next),
        _ => is_receive = true,
    }
    match *breakage {
        Breakage::ReceiveReadable => take(0, into.at[0], 1526, NEXT, 1),
        Breakage::ReceiveAddress(address) => take(1, address, 100, WRITE, 0),
        Breakage::ReceiveLength(length) => {
            take(0, into.at[0], length, WRITE | NEXT, 1);
            take(1, into.at[1], 0, WRITE, 0);
        }
        Breakage::ReceiveNext(next) => take(1, into.at[1], 1526, WRITE | NEXT, next),
        _ => {}
    }
    if is_receive {
        receive.make_available(into.head);
        receive.kick();
        bench.link.send(&frame(100, 1));
    } else {
        transmit.make_available(out.head);
        transmit.kick();
    }
    settle(bench)
}

fn settle(bench: &mut Bench) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    bench.transmit.want_interrupt_after(1);
    bench.receive.want_interrupt_after(1);
    let mut offered_more = false;
    loop {
        if bench.running.needs_reset() {
            return Outcome::NeedsReset;
        }
        if bench.receive.take_used().is_some() {
            return Outcome::Received;
        }
        if bench.transmit.take_used().is_some() {
            let errors = bench.net.counters()["transmit"]["errors"].as_u64().unwrap();
            return if errors == 0 { Outcome::Sent } else { Outcome::Refused };
        }
        // A short buffer takes the frame's beginning; this one its rest.
        if !std::mem::replace(&mut offered_more, true) {
            bench.offer([1526]);
        }
        assert!(Instant::now() < deadline, "neither an answer nor a reset");
        std::thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn one_broken_field_has_the_outcome_that_the_specification_wants(breakage in breakages()) {
        let mut bench = Bench::new(BASE);
        prop_assert_eq!(try_broken(&mut bench, &breakage), predict(&breakage));
    }
}
