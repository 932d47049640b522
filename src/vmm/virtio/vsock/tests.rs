use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Instant;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use proptest::prelude::*;

use super::request::HEADER_BYTES;
use super::{BACKLOG_BYTES, REPLIES_MAX, Vsock, VsockError, VsockSpec};
use crate::descriptors;
use crate::virtio::driver::{Added, Driver, NEXT, PATIENCE, Piece, Running, WRITE, memory};

const CID: u64 = 42;
const ROOM: u32 = 1 << 20;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RESET: u16 = 3;
const SHUTDOWN: u16 = 4;
const DATA: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

/// A header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    from: u64,
    to: u64,
    from_port: u32,
    to_port: u32,
    length: u32,
    kind: u16,
    operation: u16,
    flags: u32,
    room: u32,
    forwarded: u32,
}

impl Header {
    /// From the guest to the host.
    fn new(operation: u16, from_port: u32, to_port: u32) -> Self {
        let (length, flags, forwarded) = (0, 0, 0);
        Header {
            from: CID,
            to: 2,
            from_port,
            to_port,
            length,
            kind: 1,
            operation,
            flags,
            room: ROOM,
            forwarded,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        [
            &self.from.to_le_bytes()[..],
            &self.to.to_le_bytes(),
            &self.from_port.to_le_bytes(),
            &self.to_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.operation.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.room.to_le_bytes(),
            &self.forwarded.to_le_bytes(),
        ]
        .concat()
    }

    fn read(bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Header {
            from: long(0),
            to: long(8),
            from_port: word(16),
            to_port: word(20),
            length: word(24),
            kind: half(28),
            operation: half(30),
            flags: word(32),
            room: word(36),
            forwarded: word(40),
        }
    }
}

/// A guest, played by hand, and its host.
struct Bench {
    receive: Driver,
    transmit: Driver,
    offered: Vec<Added>,
    running: Running,
    device: std::sync::Arc<dyn crate::virtio::VirtioDevice>,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
    services: OwnedFd,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let kind = SockType::SeqPacket;
        let (ours, services) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let parts = Vsock::parts(VsockSpec {
            name: "vsock".into(),
            guest_cid: CID,
            listener: Some(UnixListener::bind(&path).unwrap()),
            services: Some(ours),
        })
        .unwrap();
        let memory = memory();
        let [receive, transmit] = [0, 1].map(|index| Driver::new(&memory, index, 128));
        let device = parts.device.clone();
        let part = parts.workers.into_iter().next().unwrap();
        let running = Running::start(part, &[&receive, &transmit], 0);
        Bench { receive, transmit, offered: Vec::new(), running, device, path, _folder: folder, services }
    }

    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let added = self.receive.add(&[Piece::In(44), Piece::In(4096)]);
            self.offered.retain(|before| before.head != added.head);
            self.offered.push(added);
        }
        self.receive.kick();
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let bytes = [Header { length, ..header }.bytes(), data.to_vec()].concat();
        self.transmit.add(&[Piece::Out(bytes)]);
        self.transmit.kick();
    }

    /// The next packet for the guest.
    fn next(&mut self) -> (Header, Vec<u8>) {
        self.offer(1);
        let (head, written) = self.receive.wait_used();
        let at = self.offered.iter().find(|added| added.head == head).unwrap().at.clone();
        let header = Header::read(&self.receive.read(at[0], HEADER_BYTES));
        assert_eq!((header.from, header.to), (2, CID));
        assert_eq!(written, 44 + header.length);
        (header, self.receive.read(at[1], usize::try_from(header.length).unwrap()))
    }

    /// A connection from the host to the guest's port 52, and the host's port.
    fn connect(&mut self) -> (UnixStream, u32) {
        let mut client = UnixStream::connect(&self.path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"CONNECT 52\n").unwrap();
        let (request, _) = self.next();
        assert_eq!((request.operation, request.to_port), (REQUEST, 52));
        assert_eq!(request.room, BACKLOG_BYTES);
        self.send(Header::new(RESPONSE, 52, request.from_port), &[]);
        let mut line = vec![0; format!("OK {}\n", request.from_port).len()];
        client.read_exact(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", request.from_port).into_bytes());
        (client, request.from_port)
    }

    /// What the guest asks at the services socket, with the stream that the answer goes to.
    fn asked(&self) -> (Vec<u8>, UnixStream) {
        let mut bytes = [0; 64];
        let received = descriptors::receive(&self.services, &mut bytes).unwrap();
        let answer = received.descriptors.into_iter().next().unwrap();
        (bytes[..received.length].to_vec(), answer.into())
    }

    /// Gives the guest a service, and returns what is its end.
    fn serve(answer: UnixStream) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        descriptors::send(&answer, b"OK\n", &[far.as_fd()]).unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        near
    }
}

#[test]
fn the_host_reaches_a_service_of_the_guest() {
    let mut bench = Bench::new();
    let (mut client, port) = bench.connect();
    client.write_all(b"ping").unwrap();
    let (header, data) = bench.next();
    assert_eq!((header.operation, header.to_port, data), (DATA, 52, b"ping".to_vec()));
    bench.send(Header { forwarded: 4, ..Header::new(DATA, 52, port) }, b"pong");
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"pong");
    client.shutdown(Shutdown::Write).unwrap();
    let (header, _) = bench.next();
    assert_eq!((header.operation, header.flags), (SHUTDOWN, 2));
    bench.send(Header { flags: 3, ..Header::new(SHUTDOWN, 52, port) }, &[]);
    assert_eq!(bench.next().0.operation, RESET);
    assert_eq!(client.read(&mut answer).unwrap(), 0);
    let counters = bench.device.counters();
    assert_eq!((&counters["to_guest"]["bytes"], &counters["from_guest"]["bytes"]), (&4.into(), &4.into()));
    assert_eq!((&counters["connections_opened"], &counters["connections_closed"]), (&1.into(), &1.into()));
}

#[test]
fn the_guest_reaches_a_service_of_the_host() {
    let mut bench = Bench::new();
    bench.send(Header::new(REQUEST, 1000, 7), &[]);
    let (line, answer) = bench.asked();
    assert_eq!(line, b"CONNECT 7\n");
    let mut service = Bench::serve(answer);
    let (header, _) = bench.next();
    assert_eq!((header.operation, header.from_port, header.to_port), (RESPONSE, 7, 1000));
    bench.send(Header::new(DATA, 1000, 7), b"hello");
    let mut data = [0; 5];
    service.read_exact(&mut data).unwrap();
    assert_eq!(data, *b"hello");
    drop(service);
    let (header, _) = bench.next();
    assert_eq!((header.operation, header.flags), (SHUTDOWN, 3));
}

#[test]
fn whoever_is_not_there_refuses() {
    let mut bench = Bench::new();
    let (_, other) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    drop(std::mem::replace(&mut bench.services, other));
    bench.send(Header::new(REQUEST, 1000, 7), &[]);
    assert_eq!(bench.next().0.operation, RESET);
    let mut client = UnixStream::connect(&bench.path).unwrap();
    client.write_all(b"CONNECT 52\n").unwrap();
    let (request, _) = bench.next();
    bench.send(Header::new(RESET, 52, request.from_port), &[]);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn the_guest_is_refused_by_whoever_does_not_answer_with_a_service() {
    let mut bench = Bench::new();
    for (port, answer) in [(7, &b""[..]), (8, b"OK\n"), (9, b"NO\n"), (10, &[b'x'; 40])] {
        bench.send(Header::new(REQUEST, 1000, port), &[]);
        let (_, mut stream) = bench.asked();
        stream.write_all(answer).unwrap();
        drop(stream);
        let (header, _) = bench.next();
        assert_eq!((header.operation, header.from_port), (RESET, port));
    }
    assert_eq!(bench.device.counters()["connections_refused"], 4);
}

#[test]
fn a_guest_that_sends_before_it_was_answered_is_reset() {
    let mut bench = Bench::new();
    bench.send(Header::new(REQUEST, 1000, 7), &[]);
    let (_, answer) = bench.asked();
    bench.send(Header::new(DATA, 1000, 7), b"too early");
    assert_eq!(bench.next().0.operation, RESET);
    assert!(descriptors::send(&answer, b"OK\n", &[answer.as_fd()]).is_err(), "nobody waits any more");
}

#[test]
fn a_client_that_says_nonsense_is_closed() {
    let bench = Bench::new();
    for nonsense in [&b"HELLO\n"[..], b"CONNECT x\n", b"CONNECT 4294967296\n", &[b'x'; 40]] {
        let mut client = UnixStream::connect(&bench.path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(nonsense).unwrap();
        // Unread bytes make the close a reset.
        assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
}

/// Alone in its process, whose descriptors it uses up.
#[test]
#[ignore = "run by the test below"]
fn body_of_a_client_that_comes_when_descriptors_have_run_out() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::socket::{UnixAddr, connect, socket};

    let mut bench = Bench::new();
    let (mut first, port) = bench.connect();
    let second = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The next descriptor would be the one above the last.
    let next = File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(next).unwrap(), limit).unwrap();
    assert!(File::open("/dev/null").is_err());
    connect(second.as_raw_fd(), &UnixAddr::new(&bench.path).unwrap()).unwrap();
    // What the guest gets now came after the device was told of the second client.
    first.write_all(b"first").unwrap();
    assert_eq!(bench.next().1, b"first");
    drop(first);
    assert_eq!(bench.next().0.operation, SHUTDOWN);
    bench.send(Header::new(RESET, 52, port), &[]);
    let mut second = UnixStream::from(second);
    second.write_all(b"CONNECT 52\n").unwrap();
    assert_eq!(bench.next().0.operation, REQUEST);
}

#[test]
fn a_client_that_comes_when_descriptors_have_run_out_is_taken_when_there_are_some() {
    let name = "virtio::vsock::tests::body_of_a_client_that_comes_when_descriptors_have_run_out";
    let test = std::env::current_exe().unwrap();
    let output = Command::new(test).args(["--exact", name, "--ignored", "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{output:?}");
}

#[test]
fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let mut bench = Bench::new();
    let (mut client, port) = bench.connect();
    bench.send(Header { room: 100, ..Header::new(CREDIT_UPDATE, 52, port) }, &[]);
    // Its packets are served in order, so the reset of a stray one says that the update was taken.
    bench.send(Header::new(DATA, 1, 1), &[]);
    assert_eq!(bench.next().0.operation, RESET);
    client.write_all(&[5; 250]).unwrap();
    assert_eq!(bench.next().1, [5; 100]);
    assert_eq!(bench.next().0.operation, CREDIT_REQUEST);
    bench.send(Header { room: 100, forwarded: 60, ..Header::new(CREDIT_UPDATE, 52, port) }, &[]);
    assert_eq!(bench.next().1, [5; 60]);
}

#[test]
fn a_host_that_does_not_read_stops_the_guest_and_loses_nothing() {
    let mut bench = Bench::new();
    let (mut client, port) = bench.connect();
    let mut sent = 0u64;
    let mut forwarded = 0u64;
    // The socket's buffer fills, then ours, and then there is no credit left.
    while sent - forwarded + 4096 <= u64::from(BACKLOG_BYTES) {
        let value = (sent / 4096).to_le_bytes()[0];
        bench.send(Header::new(DATA, 52, port), &[value; 4096]);
        sent += 4096;
        bench.transmit.wait_used();
        bench.send(Header::new(CREDIT_REQUEST, 52, port), &[]);
        let (header, _) = bench.next();
        assert_eq!(header.operation, CREDIT_UPDATE);
        forwarded = u64::from(header.forwarded);
    }
    bench.offer(64);
    for value in 0..sent / 4096 {
        let mut data = [0; 4096];
        client.read_exact(&mut data).unwrap();
        assert_eq!(data, [value.to_le_bytes()[0]; 4096]);
    }
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_reset() {
    let mut bench = Bench::new();
    let (_client, port) = bench.connect();
    for _ in 0..2 {
        bench.send(Header::new(DATA, 52, port), &vec![1; usize::try_from(BACKLOG_BYTES).unwrap() + 1]);
        assert_eq!(bench.next().0.operation, RESET);
    }
    assert!(!bench.running.needs_reset());
}

#[test]
fn nonsense_is_reset_and_strangers_are_ignored() {
    let mut bench = Bench::new();
    bench.send(Header { from: 99, ..Header::new(DATA, 1, 1) }, b"x");
    bench.send(Header { to: 99, ..Header::new(DATA, 1, 2) }, b"x");
    bench.send(Header::new(RESET, 1, 3), &[]);
    bench.send(Header { kind: 2, ..Header::new(REQUEST, 1, 4) }, &[]);
    let (header, _) = bench.next();
    assert_eq!((header.operation, header.kind, header.from_port), (RESET, 2, 4));
    for operation in [0, RESPONSE, SHUTDOWN, DATA, CREDIT_UPDATE, CREDIT_REQUEST, 8, u16::MAX] {
        bench.send(Header::new(operation, 1, 5), &[]);
        let (header, _) = bench.next();
        assert_eq!((header.operation, header.from_port), (RESET, 5), "{operation}");
    }
}

#[test]
fn a_guest_that_takes_no_answers_is_not_heard_until_it_does() {
    let mut bench = Bench::new();
    let count = u32::try_from(REPLIES_MAX).unwrap() + 40;
    for port in 0..count {
        bench.send(Header::new(DATA, 1, port), &[]);
    }
    for _ in 0..REPLIES_MAX {
        bench.transmit.wait_used();
    }
    assert_eq!(bench.transmit.take_used(), None);
    for port in 0..count {
        let (header, _) = bench.next();
        assert_eq!((header.operation, header.from_port), (RESET, port));
    }
}

#[test]
fn a_guest_is_heard_again_whoever_woke_the_device_when_it_took_answers() {
    let mut bench = Bench::new();
    for port in 0..u32::try_from(REPLIES_MAX).unwrap() + 1 {
        bench.send(Header::new(DATA, 1000, port), &[]);
    }
    for _ in 0..REPLIES_MAX {
        bench.transmit.wait_used();
    }
    // As by a driver that saw the device at work, and so does not kick it: what wakes it is a client.
    for _ in 0..REPLIES_MAX {
        bench.receive.add(&[Piece::In(44)]);
    }
    let _client = UnixStream::connect(&bench.path).unwrap();
    bench.transmit.wait_used();
}

#[test]
fn a_reset_of_the_device_closes_all_connections() {
    let mut bench = Bench::new();
    let (mut client, _) = bench.connect();
    bench.running.worker.stop();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn an_address_is_one_that_a_guest_can_have() {
    for cid in [0, 2, u64::from(u32::MAX), 1 << 32] {
        let spec = VsockSpec { name: "v".into(), guest_cid: cid, listener: None, services: None };
        assert!(matches!(Vsock::parts(spec), Err(VsockError::Cid { .. })));
    }
}

/// One thing wrong with a request for a connection, cut into two buffers, which a good driver would see reset.
#[derive(Debug, Clone)]
enum Breakage {
    From(u64),
    To(u64),
    Length(u32),
    Kind(u16),
    Operation(u16),
    Address(u64),
    FirstLength(u32),
    Writable,
    Next(u16),
    RoomLength(u32),
    RoomReadable,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Reset,
    Ignored,
    NeedsReset,
}

fn predict(breakage: &Breakage) -> Outcome {
    match *breakage {
        Breakage::From(cid) if cid != CID => Outcome::Ignored,
        Breakage::To(cid) if cid != 2 => Outcome::Ignored,
        // Ten more bytes lie in the chain.
        Breakage::Length(length) if length > 10 => Outcome::NeedsReset,
        Breakage::Operation(RESET) => Outcome::Ignored,
        Breakage::Address(at) if at.checked_add(34).is_none_or(|end| end > 32 << 20) => Outcome::NeedsReset,
        // Zeroes are from address 0.
        Breakage::Address(_) => Outcome::Ignored,
        // 34 bytes lie in the second buffer.
        Breakage::FirstLength(length) if length < 10 => Outcome::NeedsReset,
        Breakage::FirstLength(20) => Outcome::Reset,
        Breakage::Writable | Breakage::Next(_) | Breakage::RoomReadable => Outcome::NeedsReset,
        Breakage::RoomLength(length) if length < 44 => Outcome::NeedsReset,
        _ => Outcome::Reset,
    }
}

fn breakages() -> impl Strategy<Value = Breakage> {
    prop_oneof![
        any::<u64>().prop_map(Breakage::From),
        (0u64..5).prop_map(Breakage::To),
        prop_oneof![0u32..20, any::<u32>()].prop_map(Breakage::Length),
        (2u16..9).prop_map(Breakage::Kind),
        prop_oneof![0u16..9, any::<u16>()].prop_map(Breakage::Operation),
        prop_oneof![0x180_0000u64..0x190_0000, (32u64 << 20) - 40.., any::<u64>()]
            .prop_map(Breakage::Address),
        (0u32..10).prop_map(Breakage::FirstLength),
        Just(Breakage::Writable),
        prop_oneof![0u16..2, 128u16..].prop_map(Breakage::Next),
        (0u32..100).prop_map(Breakage::RoomLength),
        Just(Breakage::RoomReadable),
    ]
}

fn try_broken(breakage: &Breakage) -> Outcome {
    let mut bench = Bench::new();
    // A service that nobody offers: what is asked of it is refused.
    let (_, other) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    drop(std::mem::replace(&mut bench.services, other));
    let mut header = Header::new(REQUEST, 1, 2);
    match *breakage {
        Breakage::From(cid) => header.from = cid,
        Breakage::To(cid) => header.to = cid,
        Breakage::Length(length) => header.length = length,
        Breakage::Kind(kind) => header.kind = kind,
        Breakage::Operation(operation) => header.operation = operation,
        _ => {}
    }
    let bytes = [header.bytes(), vec![0; 10]].concat();
    let (first, second) = bytes.split_at(20);
    let added = bench.transmit.lay(&[Piece::Out(first.to_vec()), Piece::Out(second.to_vec())]);
    let table = bench.transmit.table();
    let set = |number: u64, at, length, flags, next| {
        bench.transmit.write_descriptor(table + 16 * number, at, length, flags, next);
    };
    match *breakage {
        Breakage::Address(at) => set(0, at, 20, NEXT, 1),
        Breakage::FirstLength(length) => set(0, added.at[0], length, NEXT, 1),
        Breakage::Writable => set(1, added.at[1], 34, WRITE, 0),
        Breakage::Next(next) => set(1, added.at[1], 34, NEXT, next),
        _ => {}
    }
    let room = bench.receive.lay(&[Piece::In(100)]);
    let (length, flags) = match *breakage {
        Breakage::RoomLength(length) => (length, WRITE),
        Breakage::RoomReadable => (100, 0),
        _ => (100, WRITE),
    };
    bench.receive.write_descriptor(bench.receive.table(), room.at[0], length, flags, 0);
    bench.receive.make_available(room.head);
    bench.transmit.make_available(added.head);
    bench.transmit.kick();
    settle(&mut bench)
}

fn settle(bench: &mut Bench) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    let mut was_heard = false;
    loop {
        if bench.running.needs_reset() {
            return Outcome::NeedsReset;
        }
        if bench.receive.take_used().is_some() {
            return Outcome::Reset;
        }
        if was_heard {
            // Commands are carried out after what was there before them: no answer will come.
            bench.running.worker.pause();
            return match (bench.running.needs_reset(), bench.receive.take_used()) {
                (true, _) => Outcome::NeedsReset,
                (false, Some(_)) => Outcome::Reset,
                (false, None) => Outcome::Ignored,
            };
        }
        was_heard = bench.transmit.take_used().is_some();
        assert!(Instant::now() < deadline, "neither an answer nor a reset");
        std::thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn one_broken_field_has_the_outcome_that_the_specification_wants(breakage in breakages()) {
        prop_assert_eq!(try_broken(&breakage), predict(&breakage));
    }
}
