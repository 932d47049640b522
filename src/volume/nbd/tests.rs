//! The server from a client's side, over socket pairs and over its listeners.

mod status;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::client::{About, Client, command, command_flag, transmission_flag};
use super::protocol::{option, option_reply};
use super::{DEPTH, Export, Listener, Server, TRANSFER_BYTES_MAX, serve_client};
use crate::ReadOnly;
use crate::testing::FakeDisk;
use crate::{RawFile, RawOptions};

const SECTOR: usize = 512;
const DISK_BYTES: usize = 64 * SECTOR;
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const INVALID: u32 = 22;
const NO_SPACE: u32 = 28;
const NOT_PERMITTED: u32 = 1;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from((index / SECTOR * 7 + index) % 251).unwrap()).collect()
}

fn export(name: &str, disk: &FakeDisk) -> Export {
    Export { name: name.to_owned(), disk: Arc::new(disk.clone()) }
}

/// A connection whose server ends with it.
struct Served {
    client: Client<UnixStream>,
    server: JoinHandle<()>,
}

impl Served {
    fn connect(exports: Vec<Export>) -> (UnixStream, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        (ours, std::thread::spawn(move || serve_client(theirs, &exports)))
    }

    fn greeted(exports: Vec<Export>) -> Self {
        let (stream, server) = Self::connect(exports);
        Self { client: Client::greet(stream).unwrap(), server }
    }

    /// In transmission with a disk.
    fn with(disk: &FakeDisk, structured: bool) -> Self {
        let mut served = Self::greeted(vec![export("disk", disk)]);
        if structured {
            served.client.ask_for_structured_replies().unwrap();
        }
        served.client.go("disk").unwrap();
        served
    }

    /// The result of a request, and what it read.
    fn request(
        &mut self,
        command: u16,
        flags: u16,
        offset: usize,
        len: usize,
        data: &[u8],
    ) -> Result<Vec<u8>, u32> {
        let len = u32::try_from(len).unwrap();
        let cookie = 0x1234_5678_9abc_def0 + u64::from(command);
        self.client.send(command, flags, cookie, offset as u64, len, data).unwrap();
        let mut reply = self.client.reply().unwrap();
        assert_eq!(reply.cookie, cookie);
        if command == command::READ && reply.result.is_ok() && !reply.is_structured {
            reply.data = self.client.read_data(len as usize).unwrap();
        }
        reply.result.map(|()| reply.data)
    }

    fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), u32> {
        self.request(command::WRITE, 0, offset, data.len(), data).map(drop)
    }

    fn read(&mut self, offset: usize, len: usize) -> Result<Vec<u8>, u32> {
        self.request(command::READ, 0, offset, len, &[])
    }

    /// The server has closed the connection, and is over.
    fn expect_close(mut self) {
        assert_eq!(self.client.stream.read(&mut [0; 1]).unwrap_or(0), 0);
        self.server.join().unwrap();
    }

    fn disconnect(mut self) {
        self.client.send(command::DISCONNECT, 0, 0, 0, 0, &[]).unwrap();
        self.expect_close();
    }
}

#[test]
fn an_export_is_described_and_chosen() {
    use transmission_flag::*;
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let read_only = Export { name: "fixed".to_owned(), disk: Arc::new(ReadOnly(Arc::new(disk.clone()))) };
    let mut served = Served::greeted(vec![export("disk", &disk), read_only]);
    let flags = HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN;
    let about = |name: &str, flags| About {
        size_bytes: DISK_BYTES as u64,
        flags,
        block_bytes: Some([512, 4096, TRANSFER_BYTES_MAX]),
        name: Some(name.to_owned()),
    };
    let writable = flags | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES;
    assert_eq!(served.client.info("disk").unwrap(), about("disk", writable));
    assert_eq!(served.client.info("fixed").unwrap(), about("fixed", flags | READ_ONLY));
    for name in ["other", ""] {
        assert_eq!(served.client.go(name).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
    served.client.ask_for_structured_replies().unwrap();
    assert_eq!(served.client.go("fixed").unwrap(), about("fixed", flags | READ_ONLY | SEND_DF));
    assert_eq!(served.write(0, &[1; SECTOR]), Err(NOT_PERMITTED));
    assert_eq!(served.request(command::TRIM, 0, 0, SECTOR, &[]), Err(NOT_PERMITTED));
    assert_eq!(served.request(command::FLUSH, 0, 0, 0, &[]), Ok(vec![]));
    served.disconnect();
}

#[test]
fn exports_are_listed() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let mut served = Served::greeted(vec![export("a", &disk), export("ü", &disk)]);
    let replies = served.client.option(option::LIST, &[]).unwrap();
    let server = |name: &[u8]| {
        let len = u32::try_from(name.len()).unwrap();
        (option_reply::SERVER, [&len.to_be_bytes(), name].concat())
    };
    assert_eq!(replies, [server(b"a"), server("ü".as_bytes()), (option_reply::ACK, vec![])]);
    assert_eq!(
        served.client.option(option::ABORT, &[]).unwrap().first().map(|(kind, _)| *kind),
        Some(option_reply::ACK)
    );
    served.expect_close();
}

#[test]
fn options_that_are_wrong_are_refused_and_the_next_one_is_not() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let mut served = Served::greeted(vec![export("", &disk)]);
    for (option, data, reply) in [
        (option::LIST, vec![0], option_reply::ERR_INVALID),
        (option::STRUCTURED_REPLY, vec![0], option_reply::ERR_INVALID),
        (option::GO, vec![], option_reply::ERR_INVALID),
        (option::GO, vec![0xff; 6], option_reply::ERR_INVALID),
        (option::GO, vec![0, 0, 0, 0, 0, 9], option_reply::ERR_INVALID),
        (option::INFO, vec![0, 0, 0, 0, 0, 0, 1], option_reply::ERR_INVALID),
        // TLS, extended headers, and what nobody knows.
        (5, vec![], option_reply::ERR_UNSUPPORTED),
        (11, vec![1, 2, 3], option_reply::ERR_UNSUPPORTED),
        (0xffff_ffff, vec![], option_reply::ERR_UNSUPPORTED),
        (option::GO, vec![0; 100_000], option_reply::ERR_TOO_BIG),
    ] {
        let replies = served.client.option(option, &data).unwrap();
        assert_eq!(replies.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [reply], "{option} {data:?}");
    }
    served.client.go("").unwrap();
    assert_eq!(served.read(0, SECTOR), Ok(vec![0; SECTOR]));
    served.disconnect();
}

/// As clients do that know nothing newer; the answer has 124 bytes of zeroes unless both can do without.
#[test]
fn an_export_can_be_chosen_by_the_oldest_option() {
    let disk = FakeDisk::new(pattern(DISK_BYTES));
    for (client_flags, zeroes) in [(0u32, 124), (1, 124), (3, 0)] {
        let (mut stream, server) = Served::connect(vec![export("disk", &disk)]);
        stream.read_exact(&mut [0; 18]).unwrap();
        stream.write_all(&client_flags.to_be_bytes()).unwrap();
        stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk").unwrap();
        let mut answer = vec![0; 10 + zeroes];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..8], (DISK_BYTES as u64).to_be_bytes());
        assert!(answer[10..].iter().all(|byte| *byte == 0));
        let mut served = Served { client: Client { stream }, server };
        assert_eq!(served.read(SECTOR, SECTOR), Ok(pattern(DISK_BYTES)[SECTOR..2 * SECTOR].to_vec()));
        served.disconnect();
    }
}

#[test]
fn a_client_of_another_protocol_is_turned_away() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    for said in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0\0\0\x01GET / HTTP/1.1",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x01x",
    ] {
        let (mut stream, server) = Served::connect(vec![export("disk", &disk)]);
        stream.write_all(said).unwrap();
        let mut heard = Vec::new();
        // A connection that is closed with something unread is reset.
        let _ = stream.read_to_end(&mut heard);
        assert_eq!(heard.len(), 18, "the greeting and nothing else");
        server.join().unwrap();
    }
}

#[test]
fn what_was_written_is_read_in_both_kinds_of_replies() {
    for structured in [false, true] {
        let disk = FakeDisk::new(pattern(DISK_BYTES));
        let mut served = Served::with(&disk, structured);
        let mut expected = pattern(DISK_BYTES);
        served.write(3 * SECTOR, &[9; 2 * SECTOR]).unwrap();
        expected[3 * SECTOR..5 * SECTOR].fill(9);
        served.request(command::WRITE_ZEROES, 0, 7 * SECTOR, SECTOR, &[]).unwrap();
        served.request(command::WRITE_ZEROES, command_flag::NO_HOLE, 8 * SECTOR, SECTOR, &[]).unwrap();
        served.request(command::TRIM, 0, 9 * SECTOR, SECTOR, &[]).unwrap();
        expected[7 * SECTOR..10 * SECTOR].fill(0);
        assert_eq!(served.read(0, DISK_BYTES).unwrap(), expected);
        let flags = if structured { command_flag::DF } else { 0 };
        let read = served.request(command::READ, flags, SECTOR, SECTOR, &[]);
        assert_eq!(read.unwrap(), expected[SECTOR..2 * SECTOR]);
        assert_eq!(served.read(0, 0), Ok(vec![]));
        assert_eq!(disk.to_vec(), expected);
        served.disconnect();
    }
}

#[test]
fn a_write_with_fua_is_flushed_before_it_is_answered_and_a_flush_once() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let mut served = Served::with(&disk, false);
    served.write(0, &[1; SECTOR]).unwrap();
    assert_eq!(disk.flushes(), 0);
    served.request(command::WRITE, command_flag::FUA, 0, SECTOR, &[2; SECTOR]).unwrap();
    assert_eq!(disk.flushes(), 1);
    served.request(command::WRITE_ZEROES, command_flag::FUA, 0, SECTOR, &[]).unwrap();
    served.request(command::TRIM, command_flag::FUA, 0, SECTOR, &[]).unwrap();
    assert_eq!(disk.flushes(), 3);
    served.request(command::FLUSH, command_flag::FUA, 0, 0, &[]).unwrap();
    served.request(command::READ, command_flag::FUA, 0, SECTOR, &[]).unwrap();
    assert_eq!(disk.flushes(), 4);
    disk.fail_flush(libc::EIO);
    assert_eq!(served.request(command::WRITE, command_flag::FUA, 0, SECTOR, &[2; SECTOR]), Err(5));
    served.disconnect();
}

#[test]
fn requests_that_are_wrong_are_refused_and_the_next_one_is_not() {
    for structured in [false, true] {
        let disk = FakeDisk::new(pattern(DISK_BYTES));
        let mut served = Served::with(&disk, structured);
        let too_long = TRANSFER_BYTES_MAX as usize + SECTOR;
        for (command, flags, offset, len, error) in [
            (command::READ, 0, 1, SECTOR, INVALID),
            (command::READ, 0, 0, SECTOR - 1, INVALID),
            (command::READ, 0, DISK_BYTES, SECTOR, INVALID),
            (command::READ, 0, usize::MAX - 511, SECTOR, INVALID),
            (command::READ, 0, 0, too_long, INVALID),
            (command::READ, command_flag::NO_HOLE, 0, SECTOR, INVALID),
            (command::WRITE, 0, 100, SECTOR, INVALID),
            (command::WRITE, 0, DISK_BYTES - SECTOR, 2 * SECTOR, NO_SPACE),
            (command::WRITE, 1 << 15, 0, SECTOR, INVALID),
            (command::WRITE, 0, 0, too_long, INVALID),
            (command::TRIM, 0, 0, DISK_BYTES + SECTOR, INVALID),
            (command::WRITE_ZEROES, 0, DISK_BYTES, SECTOR, NO_SPACE),
            // FAST_ZERO was not offered.
            (command::WRITE_ZEROES, 1 << 4, 0, SECTOR, INVALID),
            (command::FLUSH, 0, 0, SECTOR, INVALID),
            (5, 0, 0, SECTOR, INVALID),
            (0xffff, 0, 0, SECTOR, INVALID),
        ] {
            let data = if command == command::WRITE { vec![7; len] } else { Vec::new() };
            let result = served.request(command, flags, offset, len, &data);
            assert_eq!(result, Err(error), "{command} {flags} {offset} {len}");
        }
        if !structured {
            assert_eq!(served.request(command::READ, command_flag::DF, 0, SECTOR, &[]), Err(INVALID));
        }
        assert_eq!(served.read(0, DISK_BYTES).unwrap(), pattern(DISK_BYTES));
        served.disconnect();
    }
}

#[test]
fn errors_of_the_disk_are_told_by_the_protocols_numbers() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    for (sector, (errno, error)) in
        [(libc::EIO, 5), (libc::ENOSPC, 28), (libc::EDQUOT, 28), (libc::EROFS, 1), (libc::ENXIO, 5)]
            .into_iter()
            .enumerate()
    {
        disk.fail((sector * SECTOR) as u64..((sector + 1) * SECTOR) as u64, errno);
        let mut served = Served::with(&disk, sector % 2 == 0);
        assert_eq!(served.read(sector * SECTOR, SECTOR), Err(error));
        assert_eq!(served.write(sector * SECTOR, &[0; SECTOR]), Err(error));
        served.disconnect();
    }
}

#[test]
fn what_is_no_request_ends_the_connection_and_what_came_before_is_done() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let mut served = Served::with(&disk, false);
    served.write(0, &[1; SECTOR]).unwrap();
    served.client.stream.write_all(&[0; 28]).unwrap();
    served.expect_close();
    assert_eq!(disk.to_vec()[..SECTOR], [1; SECTOR]);
}

#[test]
fn a_client_that_claims_much_and_sends_little_costs_nothing_and_may_leave() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    for len in [SECTOR, TRANSFER_BYTES_MAX as usize, u32::MAX as usize] {
        let mut served = Served::with(&disk, false);
        let len = u32::try_from(len).unwrap();
        served.client.send(command::WRITE, 0, 1, 0, len, &[3; 100]).unwrap();
        served.client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        served.expect_close();
    }
    assert_eq!(disk.to_vec(), vec![0; DISK_BYTES]);
}

#[test]
fn requests_beyond_the_depth_wait_and_are_answered() {
    let disk = FakeDisk::new(pattern(DISK_BYTES));
    let mut served = Served::with(&disk, true);
    disk.hold();
    let count = 3 * u64::from(DEPTH);
    for cookie in 0..count {
        let offset = cookie % 64 * SECTOR as u64;
        served.client.send(command::READ, 0, cookie, offset, 512, &[]).unwrap();
    }
    disk.release();
    let mut cookies: Vec<u64> = (0..count)
        .map(|_| {
            let reply = served.client.reply().unwrap();
            let sector = usize::try_from(reply.cookie % 64).unwrap();
            assert_eq!(reply.data, pattern(DISK_BYTES)[sector * SECTOR..(sector + 1) * SECTOR]);
            reply.cookie
        })
        .collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..count).collect::<Vec<_>>());
    served.disconnect();
}

/// More replies than the sockets hold, so that the server has to stop reading and to go on.
#[test]
fn a_client_that_does_not_read_is_waited_for() {
    let bytes = pattern(32 << 20);
    let disk = FakeDisk::new(bytes.clone());
    for len in [4096usize, 1 << 20, 32 << 20] {
        let served = Served::with(&disk, false);
        let mut sender = Client { stream: served.client.stream.try_clone().unwrap() };
        let count = (96 << 20) / len as u64;
        let sending = std::thread::spawn(move || {
            for cookie in 0..count {
                sender.send(command::READ, 0, cookie, 0, u32::try_from(len).unwrap(), &[]).unwrap();
            }
            sender.send(command::DISCONNECT, 0, 0, 0, 0, &[]).unwrap();
        });
        let mut served = served;
        for _ in 0..count {
            served.client.reply().unwrap().result.unwrap();
            let data = served.client.read_data(len).unwrap();
            assert!(data == bytes[..len]);
        }
        sending.join().unwrap();
        served.expect_close();
    }
}

#[test]
fn requests_before_a_disconnect_are_carried_out_and_answered() {
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let mut served = Served::with(&disk, false);
    disk.hold();
    for sector in 0..10u8 {
        let offset = u64::from(sector) * SECTOR as u64;
        served.client.send(command::WRITE, 0, sector.into(), offset, 512, &[sector; SECTOR]).unwrap();
    }
    served.client.send(command::DISCONNECT, 0, 0, 0, 0, &[]).unwrap();
    disk.release();
    for _ in 0..10 {
        served.client.reply().unwrap().result.unwrap();
    }
    served.expect_close();
    let expected: Vec<u8> = (0..10).flat_map(|sector| [sector; SECTOR]).collect();
    assert_eq!(disk.to_vec()[..10 * SECTOR], expected);
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_server_has_many_clients_and_outlives_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let disk = FakeDisk::new(vec![0; DISK_BYTES]);
    let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
    let server = Server::start(listener, vec![export("disk", &disk)]).unwrap();
    let connect = || {
        let mut client = Client::greet(UnixStream::connect(&path).unwrap()).unwrap();
        client.go("disk").unwrap();
        client
    };
    let mut first = connect();
    let mut second = connect();
    // One that leaves in the middle of a request, one that never says a word.
    let mut rude = connect();
    rude.send(command::WRITE, 0, 0, 0, 4096, &[0; 9]).unwrap();
    let silent = UnixStream::connect(&path).unwrap();
    wait_until("four clients", || server.clients() == 4);
    drop((rude, silent));
    wait_until("two clients", || server.clients() == 2);
    first.send(command::WRITE, 0, 0, 0, 512, &[5; SECTOR]).unwrap();
    first.reply().unwrap().result.unwrap();
    second.send(command::READ, 0, 0, 0, 512, &[]).unwrap();
    second.reply().unwrap().result.unwrap();
    assert_eq!(second.read_data(SECTOR).unwrap(), [5; SECTOR]);
    drop(server);
    assert_eq!(first.stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(UnixStream::connect(&path).is_err(), "nobody listens any more");
}

#[test]
fn a_server_that_stops_answers_what_arrived_and_cuts_off_who_does_not_read() {
    let disk = FakeDisk::new(vec![0; 1 << 20]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::start(Listener::Tcp(listener), vec![export("disk", &disk)]).unwrap();
    let connect = || {
        let mut client = Client::greet(TcpStream::connect(address).unwrap()).unwrap();
        client.go("").unwrap();
        client
    };
    let (mut polite, mut deaf) = (connect(), connect());
    polite.send(command::WRITE, 0, 77, 0, 512, &[5; SECTOR]).unwrap();
    wait_until("the write", || disk.to_vec()[0] == 5);
    for cookie in 0..100 {
        deaf.send(command::READ, 0, cookie, 0, 1 << 20, &[]).unwrap();
    }
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(polite.reply().unwrap().cookie, 77);
}

/// One request of a history, in sectors.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read,
    Write { seed: u8, fua: bool },
    Zero { no_hole: bool },
    Trim,
    Flush,
}

fn any_step() -> impl Strategy<Value = (usize, usize, Step)> {
    let step = prop_oneof![
        4 => Just(Step::Read),
        5 => (any::<u8>(), any::<bool>()).prop_map(|(seed, fua)| Step::Write { seed, fua }),
        1 => any::<bool>().prop_map(|no_hole| Step::Zero { no_hole }),
        1 => Just(Step::Trim),
        1 => Just(Step::Flush),
    ];
    (0usize..600, 1usize..300, step).prop_map(|(first, count, step)| (first, count.min(600 - first), step))
}

/// What a request is as bytes, and what it makes of the disk.
fn encode(cookie: u64, first: usize, count: usize, step: Step, model: &mut [u8]) -> Vec<u8> {
    let range = first * SECTOR..(first + count) * SECTOR;
    let (command, flags, data) = match step {
        Step::Read => (command::READ, 0, Vec::new()),
        Step::Write { seed, fua } => {
            let data = pattern(range.len()).into_iter().map(|byte| byte ^ seed).collect();
            (command::WRITE, if fua { command_flag::FUA } else { 0 }, data)
        }
        Step::Zero { no_hole } => {
            (command::WRITE_ZEROES, if no_hole { command_flag::NO_HOLE } else { 0 }, Vec::new())
        }
        Step::Trim => (command::TRIM, 0, Vec::new()),
        Step::Flush => (command::FLUSH, 0, Vec::new()),
    };
    match step {
        Step::Write { .. } => model[range.clone()].copy_from_slice(&data),
        // A raw file punches holes.
        Step::Zero { .. } | Step::Trim => model[range.clone()].fill(0),
        Step::Read | Step::Flush => {}
    }
    let (offset, len) = if let Step::Flush = step { (0, 0) } else { (range.start, range.len()) };
    let mut client = Client { stream: std::io::Cursor::new(Vec::new()) };
    client.send(command, flags, cookie, offset as u64, u32::try_from(len).unwrap(), &data).unwrap();
    client.stream.into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Batches of requests that touch no sector twice, cut into pieces of any size, on a real file.
    #[test]
    fn a_disk_behind_a_connection_agrees_with_a_list_of_bytes(
        batches in prop::collection::vec(prop::collection::vec(any_step(), 1..40), 1..8),
        structured in any::<bool>(),
        pieces in prop::collection::vec(1usize..200_000, 1..9),
    ) {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("disk");
        let mut model = pattern(600 * SECTOR);
        std::fs::write(&path, &model).unwrap();
        let disk = Arc::new(RawFile::open(&path, RawOptions::default()).unwrap());
        let mut served = Served::greeted(vec![Export { name: "disk".to_owned(), disk }]);
        if structured {
            served.client.ask_for_structured_replies().unwrap();
        }
        served.client.go("disk").unwrap();
        let mut pieces = pieces.into_iter().cycle();
        for batch in batches {
            let before = model.clone();
            let mut touched = [false; 600];
            let mut sent = Vec::new();
            let mut taken = std::collections::HashMap::new();
            for (cookie, (first, count, step)) in (1u64..).zip(batch) {
                let sectors = first..first + count;
                if touched[sectors.clone()].contains(&true) {
                    continue;
                }
                touched[sectors].fill(true);
                sent.extend(encode(cookie, first, count, step, &mut model));
                taken.insert(cookie, (first, count, step));
            }
            let mut stream = served.client.stream.try_clone().unwrap();
            let sizes: Vec<usize> = pieces.by_ref().take(9).collect();
            let sending = std::thread::spawn(move || {
                let mut rest = &sent[..];
                for size in sizes.into_iter().cycle() {
                    let (piece, others) = rest.split_at(size.min(rest.len()));
                    stream.write_all(piece).unwrap();
                    rest = others;
                    if rest.is_empty() {
                        break;
                    }
                }
            });
            while !taken.is_empty() {
                let reply = served.client.reply().unwrap();
                prop_assert_eq!(reply.result, Ok(()));
                let (first, count, step) = taken.remove(&reply.cookie).expect("a request that was sent, once");
                if let Step::Read = step {
                    let range = first * SECTOR..(first + count) * SECTOR;
                    let data = if structured { reply.data } else { served.client.read_data(range.len()).unwrap() };
                    prop_assert!(data == before[range]);
                }
            }
            sending.join().unwrap();
        }
        served.disconnect();
        prop_assert!(std::fs::read(&path).unwrap() == model);
    }
}
