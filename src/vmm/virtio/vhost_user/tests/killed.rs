//! Backends that end, in processes of their own, so that they can be killed with requests in flight.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use volume::{BlockQueue, BlockRequest, Completion, QueueFull, RawFile, RawOptions};

use super::*;
use crate::virtio::ReconnectError;

const IO_ERROR: u8 = 1;
const DISK: &str = "NIMBO_KILLED_BACKEND_DISK";
/// From this sector on a backend that is to be killed takes requests, and never ends them.
const HOLE: u64 = 1000;
const IS_WHOLE: &str = "NIMBO_KILLED_BACKEND_IS_WHOLE";
const BYTES: u64 = 4 << 20;

/// A disk that swallows requests.
struct Swallowing(RawFile);

struct SwallowingQueue(Box<dyn BlockQueue>);

impl BlockBackend for Swallowing {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        Ok(Box::new(SwallowingQueue(self.0.open_queue(depth)?)))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
}

impl BlockQueue for SwallowingQueue {
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.0.completion_event()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        match request {
            BlockRequest::Read { offset, .. } | BlockRequest::Write { offset, .. }
                if offset >= HOLE * 512 =>
            {
                Ok(())
            }
            request => self.0.push(token, request),
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        self.0.submit()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.0.next_completion()
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.0.wait()
    }
}

#[test]
#[ignore = "the process that the tests below kill"]
fn backend() {
    let Some(path) = std::env::var_os(DISK) else { return };
    let disk = RawFile::open(Path::new(&path), RawOptions::default()).unwrap();
    let disk: Arc<dyn BlockBackend> = match std::env::var_os(IS_WHOLE) {
        Some(_) => Arc::new(disk),
        None => Arc::new(Swallowing(disk)),
    };
    let stream = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let spec = BlockSpec { name: "disk".into(), serial: "vol1".into(), backend: disk, queues: 2 };
    Backend::new(stream.into(), spec, || {}).unwrap().serve().unwrap();
}

/// A file, and processes that serve it.
struct Host {
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Host {
    fn new() -> Self {
        let host = Host { folder: tempfile::tempdir().unwrap(), children: Vec::new() };
        std::fs::File::create(host.path()).unwrap().set_len(BYTES).unwrap();
        host
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Starts a process that serves the file, and says how to reach it.
    fn serve(&mut self, is_whole: bool) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "virtio::vhost_user::tests::killed::backend", "--ignored", "--test-threads=1"])
            .env(DISK, self.path())
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null());
        if is_whole {
            command.env(IS_WHOLE, "yes");
        }
        self.children.push(command.spawn().unwrap());
        near
    }

    fn kill(&mut self) {
        let child = self.children.last_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn sector(&self, sector: u64) -> Vec<u8> {
        let bytes = std::fs::read(self.path()).unwrap();
        bytes[usize::try_from(sector).unwrap() * 512..][..512].to_vec()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_used(guest: &mut Guest, queue: usize, count: usize) {
    for _ in 0..count {
        guest.drivers[queue].wait_used();
    }
}

#[test]
fn requests_in_flight_and_all_that_follow_fail_when_the_backend_is_killed() {
    let mut host = Host::new();
    let stream = host.serve(false);
    let mut guest = Guest::start(stream, 2);
    guest.write(0, 1, 7);
    guest.flush();
    // What is in flight, with one that was answered in between.
    let first = guest.ask(0, 1, HOLE, Piece::Out(vec![1; 512]));
    guest.write(0, 2, 7);
    guest.flush();
    let second = guest.ask(1, 0, HOLE + 1, Piece::In(512));
    host.kill();
    wait_used(&mut guest, 0, 1);
    wait_used(&mut guest, 1, 1);
    assert_eq!((guest.status(0, &first), guest.status(1, &second)), (IO_ERROR, IO_ERROR));
    guest.running.wait_needs_reset();
    for queue in [0, 1, 0] {
        assert_eq!(guest.request(queue, 0, 5, Piece::In(512)).1, IO_ERROR);
    }
    assert_eq!(guest.request(0, 4, 0, Piece::In(0)).1, IO_ERROR);
    // Another driver finds the same.
    guest.running.worker.stop();
    guest.running.signals.reset();
    let drivers: Vec<Driver> = (0..2).map(|index| Driver::new(&shared_memory(), index, 8)).collect();
    guest.drivers = drivers;
    guest.running.activate(&[&guest.drivers[0]], FEATURES);
    assert_eq!(guest.request(0, 1, 5, Piece::Out(vec![1; 512])).1, IO_ERROR);
}

#[test]
fn another_backend_carries_out_what_was_in_flight_and_what_came_meanwhile() {
    let mut host = Host::new();
    let stream = host.serve(false);
    let mut guest = Guest::start_with(stream, 2, Duration::from_secs(60));
    guest.write(0, 1, 7);
    guest.flush();
    // The second overwrites the first, so the order is seen.
    let first = guest.ask(0, 1, HOLE, Piece::Out(vec![1; 512]));
    let second = guest.ask(0, 1, HOLE, Piece::Out(vec![2; 512]));
    assert_eq!(guest.read(0, 1), [7; 512]);
    let third = guest.ask(1, 1, HOLE + 1, Piece::Out(vec![3; 512]));
    assert_eq!(guest.read(0, 1), [7; 512]);
    host.kill();
    wait_until("the device is disconnected", || !guest.running.signals.is_connected());
    let fourth = guest.ask(1, 1, 9, Piece::Out(vec![4; 512]));
    assert!(!guest.running.needs_reset());
    let again = host.serve(true);
    guest.device.reconnect(again).unwrap();
    wait_used(&mut guest, 0, 2);
    wait_used(&mut guest, 1, 2);
    for (queue, added) in [(0, &first), (0, &second), (1, &third), (1, &fourth)] {
        assert_eq!(guest.status(queue, added), OK);
    }
    wait_until("the device is connected", || guest.running.signals.is_connected());
    guest.flush();
    assert_eq!(guest.read(0, 1), [7; 512]);
    for (sector, byte) in [(HOLE + 1, 3), (9, 4)] {
        assert_eq!(host.sector(sector), [byte; 512]);
    }
    assert!([[1; 512], [2; 512]].iter().any(|either| host.sector(HOLE) == either));
    // It is served: nobody else may.
    let other = host.serve(true);
    assert!(matches!(guest.device.reconnect(other), Err(ReconnectError::Served)));
    guest.write(1, 3, 1);
}

#[test]
fn requests_fail_when_nobody_serves_the_disk_in_time() {
    let mut host = Host::new();
    let stream = host.serve(false);
    let mut guest = Guest::start_with(stream, 1, Duration::from_millis(300));
    guest.write(0, 1, 7);
    guest.flush();
    let added = guest.ask(0, 1, HOLE, Piece::Out(vec![1; 512]));
    assert_eq!(guest.read(0, 1), [7; 512]);
    host.kill();
    wait_used(&mut guest, 0, 1);
    assert_eq!(guest.status(0, &added), IO_ERROR);
    guest.running.wait_needs_reset();
    // Whoever comes then serves the next driver.
    let again = host.serve(true);
    guest.device.reconnect(again).unwrap();
    assert_eq!(guest.request(0, 0, 1, Piece::In(512)).1, IO_ERROR);
    guest.running.worker.stop();
    guest.running.signals.reset();
    guest.drivers = vec![Driver::new(&shared_memory(), 0, 8)];
    guest.running.activate(&[&guest.drivers[0]], FEATURES);
    assert_eq!(guest.read(0, 1), [7; 512]);
}

#[test]
fn a_disk_that_lost_what_was_not_flushed_is_not_gone_on_with() {
    let mut host = Host::new();
    let stream = host.serve(true);
    let mut guest = Guest::start_with(stream, 1, Duration::from_secs(60));
    guest.write(0, 1, 7);
    guest.flush();
    guest.write(0, 2, 7);
    host.kill();
    guest.running.wait_needs_reset();
    assert_eq!(guest.request(0, 0, 1, Piece::In(512)).1, IO_ERROR);
}

#[test]
fn a_backend_that_is_ended_in_order_leaves_nothing_unflushed() {
    let mut host = Host::new();
    let (served, stream) = Served::start(whole(&host), 1);
    let mut guest = Guest::start_with(stream, 1, Duration::from_secs(60));
    guest.write(0, 1, 7);
    served.end_in_order();
    wait_until("the device is disconnected", || !guest.running.signals.is_connected());
    let again = host.serve(true);
    guest.device.reconnect(again).unwrap();
    assert_eq!(guest.read(0, 1), [7; 512]);
    assert!(!guest.running.needs_reset());
}

fn whole(host: &Host) -> Arc<dyn BlockBackend> {
    Arc::new(RawFile::open(&host.path(), RawOptions::default()).unwrap())
}

#[test]
fn a_backend_of_another_disk_is_refused() {
    let mut host = Host::new();
    let stream = host.serve(true);
    let mut guest = Guest::start_with(stream, 2, Duration::from_secs(60));
    guest.write(0, 1, 7);
    guest.flush();
    host.kill();
    wait_until("the device is disconnected", || !guest.running.signals.is_connected());
    let folder = tempfile::tempdir().unwrap();
    let (larger, stream) = Served::start(volume(folder.path()), 2);
    let refused = |guest: &Guest, stream| match guest.device.reconnect(stream) {
        Err(ReconnectError::Unsuitable { source }) => source.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(&guest, stream).contains("another size"));
    larger.end().unwrap();
    let (fewer, stream) = Served::start(whole(&host), 1);
    assert!(refused(&guest, stream).contains("another"), "it has one queue");
    fewer.end().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    assert!(refused(&guest, near).contains("cannot"));
    let again = host.serve(true);
    guest.device.reconnect(again).unwrap();
    assert_eq!(guest.read(1, 1), [7; 512]);
}

#[test]
fn a_guest_that_stands_still_while_its_backend_is_replaced_goes_on() {
    let mut host = Host::new();
    let stream = host.serve(false);
    let mut guest = Guest::start_with(stream, 1, Duration::from_secs(60));
    guest.write(0, 1, 7);
    guest.running.worker.pause();
    host.kill();
    let again = host.serve(true);
    wait_until("the end is seen", || guest.device.reconnect(again.try_clone().unwrap()).is_ok());
    guest.running.worker.resume();
    assert_eq!(guest.read(0, 1), [7; 512]);
}

/// QEMU's backend, which keeps nothing of what is in flight.
fn serve_by_qemu(host: &mut Host) -> UnixStream {
    let socket = host.folder.path().join("socket");
    let _ = std::fs::remove_file(&socket);
    let blockdev = format!("driver=file,node-name=disk,filename={}", host.path().display());
    let export = format!(
        "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path={}",
        socket.display()
    );
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--blockdev", &blockdev, "--export", &export]);
    host.children.push(command.spawn().unwrap());
    let mut stream = None;
    wait_until("QEMU listens", || {
        stream = UnixStream::connect(&socket).ok();
        stream.is_some()
    });
    stream.unwrap()
}

/// A driver in the same memory, after a reset.
fn another_driver(before: &Driver) -> Driver {
    use vm_memory::Bytes;
    for ring in [before.available_ring(), before.used_ring()] {
        before.memory.write_slice(&[0; 0x1000], vm_memory::GuestAddress(ring)).unwrap();
    }
    Driver::new(&before.memory, 0, 8)
}

#[test]
fn a_backend_of_another_make_is_read_used_and_replaced() {
    let mut host = Host::new();
    let stream = serve_by_qemu(&mut host);
    let remote = RemoteDisk::connect(stream).unwrap();
    let reader = BootReader::new(remote.clone()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(host.path()).unwrap(),
        &[5; 512],
        512,
    )
    .unwrap();
    let mut bytes = [0; 1025];
    reader.begin().unwrap().read_at(511, &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[1], bytes[512], bytes[513]), (0, 5, 5, 0));
    let spec = VhostUserBlockSpec { name: "disk".into(), queues: 1, patience: Duration::from_secs(60) };
    let DeviceParts { device, mut workers } = remote.parts(spec).unwrap();
    let drivers = vec![Driver::new(&shared_memory(), 0, 16)];
    let running = Running::start(workers.remove(0), &[&drivers[0]], FEATURES);
    let mut guest = Guest { device, running, drivers };
    guest.write(0, 3, 7);
    guest.running.worker.pause();
    guest.running.worker.resume();
    guest.flush();
    // Once more, where a guest has been.
    guest.running.worker.stop();
    reader.begin().unwrap().read_at(3 * 512, &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[511], bytes[512]), (7, 7, 0));
    guest.drivers = vec![another_driver(&guest.drivers[0])];
    guest.running.activate(&[&guest.drivers[0]], FEATURES);
    assert_eq!(guest.read(0, 3), [7; 512]);
    host.kill();
    wait_until("the device is disconnected", || !guest.running.signals.is_connected());
    let meanwhile = guest.ask(0, 1, 4, Piece::Out(vec![8; 512]));
    let again = serve_by_qemu(&mut host);
    guest.device.reconnect(again).unwrap();
    assert_eq!(guest.drivers[0].wait_used().0, meanwhile.head);
    assert_eq!(guest.status(0, &meanwhile), OK);
    assert_eq!((guest.read(0, 3), guest.read(0, 4)), (vec![7; 512], vec![8; 512]));
    guest.flush();
    host.kill();
    // A driver that comes when nobody serves the disk waits as well.
    wait_until("the device is disconnected", || !guest.running.signals.is_connected());
    guest.running.worker.stop();
    guest.drivers = vec![another_driver(&guest.drivers[0])];
    guest.running.activate(&[&guest.drivers[0]], FEATURES);
    let added = guest.ask(0, 0, 3, Piece::In(512));
    let last = host.serve(true);
    wait_until("the end is seen", || guest.device.reconnect(last.try_clone().unwrap()).is_ok());
    wait_used(&mut guest, 0, 1);
    assert_eq!(guest.status(0, &added), OK);
}
