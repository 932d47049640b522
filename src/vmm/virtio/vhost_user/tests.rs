use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::*;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use volume::{BlockBackend, Volume};

use super::message::{Form, Region, Request, fuzz_request, receive, send};
use super::*;
use crate::memory::{self, Backing, Memory};
use crate::virtio::block::{Block, BlockSpec, feature as block};
use crate::virtio::driver::{Added, Driver, PATIENCE, Piece, Running};
use crate::virtio::in_flight::RegionSpec;
use crate::virtio::{
    Activation, ActiveQueue, DeviceParts, Interrupt, InterruptVectors, VirtioDevice, feature,
};

const DISK_BYTES: u64 = 1 << 30;
const FEATURES: u64 = block::FLUSH | block::MQ;
const OK: u8 = 0;

fn shared_memory() -> Memory {
    memory::allocate(32 << 20, Backing::Shared).unwrap()
}

fn volume(folder: &Path) -> Arc<Volume> {
    Volume::create(folder, DISK_BYTES).unwrap();
    Arc::new(Volume::open(folder).unwrap())
}

struct Served {
    block: Arc<Block>,
    stream: UnixStream,
    end: JoinHandle<Result<(), BackendError>>,
}

impl Served {
    /// Serves a disk on one end of a pair of sockets, whose other end is returned.
    fn start(disk: Arc<dyn BlockBackend>, queues: u16) -> (Self, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let stream = far.try_clone().unwrap();
        let spec = BlockSpec { name: "disk".into(), serial: "vol1".into(), backend: disk, queues };
        let backend = Backend::new(far, spec, || {}).unwrap();
        let block = backend.block().clone();
        (Served { block, stream, end: std::thread::spawn(move || backend.serve()) }, near)
    }

    fn end(self) -> Result<(), BackendError> {
        self.end.join().unwrap()
    }

    /// As who serves ends it.
    fn end_in_order(self) {
        self.stream.shutdown(std::net::Shutdown::Read).unwrap();
        self.end.join().unwrap().unwrap();
    }
}

fn connect(stream: UnixStream, queues: u16) -> Result<DeviceParts, FrontendError> {
    connect_with(stream, queues, Duration::ZERO)
}

fn connect_with(stream: UnixStream, queues: u16, patience: Duration) -> Result<DeviceParts, FrontendError> {
    let spec = VhostUserBlockSpec { name: "disk".into(), queues, patience };
    Ok(RemoteDisk::connect(stream)?.parts(spec).unwrap())
}

/// A guest with a disk that is served elsewhere.
struct Guest {
    device: Arc<dyn VirtioDevice>,
    running: Running,
    drivers: Vec<Driver>,
}

impl Guest {
    fn start(stream: UnixStream, queues: u16) -> Self {
        Self::start_with(stream, queues, Duration::ZERO)
    }

    /// A guest whose requests wait for `patience` for another backend.
    fn start_with(stream: UnixStream, queues: u16, patience: Duration) -> Self {
        let memory = shared_memory();
        let DeviceParts { device, mut workers } = connect_with(stream, queues, patience).unwrap();
        let drivers: Vec<Driver> = (0..queues).map(|index| Driver::new(&memory, index, 16)).collect();
        let each: Vec<&Driver> = drivers.iter().collect();
        let running = Running::start(workers.remove(0), &each, FEATURES);
        Guest { device, running, drivers }
    }

    fn ask(&mut self, queue: usize, kind: u32, sector: u64, data: Piece) -> Added {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let driver = &mut self.drivers[queue];
        let data = Some(data).filter(|data| !matches!(data, Piece::In(0)));
        let pieces: Vec<Piece> = [Piece::Out(header)].into_iter().chain(data).chain([Piece::In(1)]).collect();
        let added = driver.add(&pieces);
        driver.kick();
        added
    }

    fn request(&mut self, queue: usize, kind: u32, sector: u64, data: Piece) -> (Vec<u8>, u8) {
        let length = match &data {
            Piece::In(length) => *length,
            Piece::Out(_) => 0,
        };
        let added = self.ask(queue, kind, sector, data);
        self.drivers[queue].wait_used();
        (self.drivers[queue].read(added.at[1], length.try_into().unwrap()), self.status(queue, &added))
    }

    fn status(&self, queue: usize, added: &Added) -> u8 {
        self.drivers[queue].read(*added.at.last().unwrap(), 1)[0]
    }

    fn flush(&mut self) {
        assert_eq!(self.request(0, 4, 0, Piece::In(0)).1, OK);
    }

    fn write(&mut self, queue: usize, sector: u64, byte: u8) {
        assert_eq!(self.request(queue, 1, sector, Piece::Out(vec![byte; 512])).1, OK);
    }

    fn read(&mut self, queue: usize, sector: u64) -> Vec<u8> {
        let (data, status) = self.request(queue, 0, sector, Piece::In(512));
        assert_eq!(status, OK);
        data
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_disk_that_is_served_elsewhere_keeps_what_is_written_by_each_queue() {
    let folder = tempfile::tempdir().unwrap();
    let (served, stream) = Served::start(volume(folder.path()), 2);
    let mut guest = Guest::start(stream, 2);
    let config = guest.device.config();
    assert_eq!(config[..8], (DISK_BYTES / 512).to_le_bytes());
    assert_eq!(config[34..36], 2u16.to_le_bytes());
    for (queue, sector) in [(0, 0), (1, 9), (0, DISK_BYTES / 512 - 1)] {
        guest.write(queue, sector, 7);
        assert_eq!(guest.read(1 - queue, sector), [7; 512]);
    }
    assert_eq!(guest.read(0, 100), [0; 512]);
    assert_eq!(served.block.counters()["write"]["operations"], 3);
    drop(guest);
    served.end().unwrap();
}

#[test]
fn a_guest_that_stands_still_finds_its_queues_where_they_were_and_another_driver_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (served, stream) = Served::start(volume(folder.path()), 1);
    let mut guest = Guest::start(stream, 1);
    for round in 0..5u8 {
        guest.write(0, u64::from(round), round + 1);
        guest.running.worker.pause();
        // What is asked meanwhile is carried out afterwards.
        guest.running.worker.resume();
        assert_eq!(guest.read(0, u64::from(round)), [round + 1; 512]);
    }
    guest.running.worker.stop();
    let mut driver = Driver::new(&shared_memory(), 0, 8);
    std::mem::swap(&mut guest.drivers[0], &mut driver);
    guest.running.activate(&[&guest.drivers[0]], FEATURES);
    assert_eq!(guest.read(0, 2), [3; 512]);
    drop(guest);
    served.end().unwrap();
}

#[test]
fn guests_of_one_volume_see_what_the_other_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(folder.path());
    let (first, to_first) = Served::start(volume.clone(), 1);
    let (second, to_second) = Served::start(volume, 1);
    let (mut one, mut other) = (Guest::start(to_first, 1), Guest::start(to_second, 1));
    for round in 0..20u8 {
        one.write(0, 5, round);
        assert_eq!(other.read(0, 5), [round; 512]);
        other.write(0, 6, round);
        assert_eq!(one.read(0, 6), [round; 512]);
    }
    drop(one);
    first.end().unwrap();
    assert_eq!(other.read(0, 6), [19; 512], "one that ends does not disturb the other");
    drop(other);
    second.end().unwrap();
}

#[test]
fn a_guest_is_told_that_its_disk_grew() {
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(folder.path());
    let (served, stream) = Served::start(volume.clone(), 1);
    let mut guest = Guest::start(stream, 1);
    guest.write(0, 0, 1);
    let generation = guest.running.signals.generation();
    volume.grow(2 * DISK_BYTES).unwrap();
    served.block.refresh_size();
    wait_until("the driver is told", || guest.running.signals.generation() != generation);
    assert_eq!(guest.device.config()[..8], (2 * DISK_BYTES / 512).to_le_bytes());
    guest.write(0, 2 * DISK_BYTES / 512 - 1, 3);
    drop(guest);
    served.end().unwrap();
}

#[test]
fn a_backend_that_ends_leaves_a_device_that_needs_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let (served, stream) = Served::start(volume(folder.path()), 1);
    let cut = stream.try_clone().unwrap();
    let mut guest = Guest::start(stream, 1);
    guest.write(0, 0, 1);
    cut.shutdown(std::net::Shutdown::Both).unwrap();
    guest.running.wait_needs_reset();
    drop(guest);
    // It took the end of the stream for the frontend's.
    served.end().unwrap();
}

#[test]
fn a_driver_that_chooses_another_vector_is_told_by_that() {
    let folder = tempfile::tempdir().unwrap();
    let (served, stream) = Served::start(volume(folder.path()), 1);
    let DeviceParts { device, mut workers } = connect(stream, 1).unwrap();
    let running = Running::spawn(workers.remove(0));
    let driver = Driver::new(&shared_memory(), 0, 16);
    let vectors: InterruptVectors = Arc::from([0, 1].map(|_| EventFd::new(EFD_NONBLOCK).unwrap()));
    let interrupt = Interrupt::new(vectors.clone());
    interrupt.choose(0);
    let active = ActiveQueue { interrupt: interrupt.clone(), ..driver.active() };
    running.worker.start(Activation {
        queues: vec![active],
        features: FEATURES | feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC,
        memory: driver.memory.clone(),
        signals: running.signals.clone(),
    });
    let mut guest = Guest { device, running, drivers: vec![driver] };
    let mut is_told_by = |vector: usize| {
        let _ = vectors[vector].read();
        guest.drivers[0].want_interrupt_after(1);
        guest.ask(0, 0, 0, Piece::In(512));
        wait_until("the read ends", || guest.drivers[0].take_used().is_some());
        vectors[vector].read().is_ok()
    };
    wait_until("the first vector tells", || is_told_by(0));
    interrupt.choose(1);
    wait_until("the second vector tells", || is_told_by(1));
    interrupt.choose(0);
    wait_until("the first vector tells again", || is_told_by(0));
    drop(guest);
    served.end().unwrap();
}

#[test]
fn a_disk_is_read_before_there_is_a_guest_and_between_two() {
    let folder = tempfile::tempdir().unwrap();
    let disk = volume(folder.path());
    let (served, stream) = Served::start(disk.clone(), 2);
    let remote = RemoteDisk::connect(stream).unwrap();
    let reader = BootReader::new(remote.clone()).unwrap();
    let spec = VhostUserBlockSpec { name: "disk".into(), queues: 2, patience: Duration::ZERO };
    let DeviceParts { device, mut workers } = remote.parts(spec).unwrap();
    let mut guest = Guest { device, running: Running::spawn(workers.remove(0)), drivers: Vec::new() };
    for round in 1..4u8 {
        let memory = shared_memory();
        guest.drivers = (0..2).map(|index| Driver::new(&memory, index, 16)).collect();
        guest.running.activate(&[&guest.drivers[0], &guest.drivers[1]], FEATURES);
        for sector in [0, 7, DISK_BYTES / 512 - 1] {
            guest.write(usize::from(round % 2), sector, round);
        }
        guest.running.worker.stop();
        let session: Arc<dyn BlockBackend> = Arc::new(reader.begin().unwrap());
        assert_eq!(session.size_bytes(), DISK_BYTES);
        let mut bytes = vec![0; (3 << 20) + 5];
        session.read_at(511, &mut bytes).unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte == round).count(), 1 + 512);
        let mut end = [0; 700];
        session.read_at(DISK_BYTES - 700, &mut end).unwrap();
        assert_eq!((end[187], end[188], end[699]), (0, round, round));
        assert!(session.read_at(DISK_BYTES - 699, &mut end).is_err());
    }
    let session = reader.begin().unwrap();
    served.end_in_order();
    let ended = |error: std::io::Error| assert!(error.to_string().contains("has ended"), "{error}");
    ended(session.read_at(0, &mut [0; 512]).unwrap_err());
    drop(session);
    ended(reader.begin().map(drop).unwrap_err());
}

/// More at once than have a place in the reader's memory.
#[test]
fn a_disk_is_read_by_many_before_there_is_a_guest() {
    const SECTORS: u8 = 64;
    let folder = tempfile::tempdir().unwrap();
    let (served, stream) = Served::start(volume(folder.path()), 1);
    let remote = RemoteDisk::connect(stream).unwrap();
    let reader = BootReader::new(remote.clone()).unwrap();
    let spec = VhostUserBlockSpec { name: "disk".into(), queues: 1, patience: Duration::ZERO };
    let DeviceParts { device, mut workers } = remote.parts(spec).unwrap();
    let drivers = vec![Driver::new(&shared_memory(), 0, 16)];
    let running = Running::start(workers.remove(0), &[&drivers[0]], FEATURES);
    let mut guest = Guest { device, running, drivers };
    for sector in 0..SECTORS {
        guest.write(0, sector.into(), sector);
    }
    guest.running.worker.stop();
    let session = reader.begin().unwrap();
    let read = |from: u8| {
        for (first, count) in (from..SECTORS).zip([1, 2, 3, 5, 8].into_iter().cycle()) {
            let count = usize::from(count.min(SECTORS - first));
            let mut bytes = vec![0xff; count * 512];
            session.read_at(u64::from(first) * 512, &mut bytes).unwrap();
            for (sector, bytes) in (first..).zip(bytes.chunks(512)) {
                assert!(bytes.iter().all(|byte| *byte == sector), "sector {sector} of {count} from {first}");
            }
        }
    };
    std::thread::scope(|scope| {
        for reader in 0..9 {
            scope.spawn(move || (0..20).for_each(|_| read(reader)));
        }
    });
    served.end_in_order();
    std::thread::scope(|scope| {
        for _ in 0..9 {
            scope.spawn(|| {
                let error = session.read_at(0, &mut [0; 512]).unwrap_err();
                assert!(error.to_string().contains("has ended"), "{error}");
            });
        }
    });
}

#[test]
fn a_broken_ring_is_found_by_the_backend_and_told_to_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let (served, stream) = Served::start(volume(folder.path()), 1);
    let mut guest = Guest::start(stream, 1);
    guest.write(0, 0, 1);
    // A request without a header.
    guest.drivers[0].add(&[Piece::In(1)]);
    guest.drivers[0].kick();
    guest.running.wait_needs_reset();
    drop(guest);
    served.end().unwrap();
}

#[test]
fn private_memory_cannot_be_given_away() {
    let folder = tempfile::tempdir().unwrap();
    let (served, stream) = Served::start(volume(folder.path()), 1);
    let DeviceParts { mut workers, .. } = connect(stream, 1).unwrap();
    let driver = Driver::new(&memory::allocate(32 << 20, Backing::Private).unwrap(), 0, 16);
    let running = Running::start(workers.remove(0), &[&driver], FEATURES);
    running.wait_needs_reset();
    drop(running);
    served.end().unwrap();
}

#[test]
fn memory_that_can_be_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (served, stream) = Served::start(volume(folder.path()), 1);
    let file = memfd_create("ram", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    std::fs::File::from(file.try_clone().unwrap()).set_len(1 << 20).unwrap();
    let region = Region { guest: 0, bytes: 1 << 20, frontend: 0, offset: 0 };
    let (number, body) = Request::SetMemory(vec![region]).encode();
    send(&stream, number, Form::Plain, &body, &[file.as_fd()]).unwrap();
    assert!(matches!(served.end(), Err(BackendError::NotSealed)));
}

#[test]
fn memory_beyond_the_end_of_its_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let memory = shared_memory();
    let file = memory.iter().find_map(|region| region.file_offset()).unwrap().file();
    for (offset, bytes) in [(0, 33 << 20), (16 << 20, 17 << 20), (u64::MAX, 2), (1 << 40, 4096)] {
        let path = folder.path().join(format!("{offset}-{bytes}"));
        let (served, stream) = Served::start(volume(&path), 1);
        let region = Region { guest: 0, bytes, frontend: 0, offset };
        let (number, body) = Request::SetMemory(vec![region]).encode();
        send(&stream, number, Form::Plain, &body, &[file.as_fd()]).unwrap();
        assert!(matches!(served.end(), Err(BackendError::Memory { .. })), "{offset} {bytes}");
    }
}

#[test]
fn a_backend_that_lacks_something_is_refused() {
    for (offered, lacks) in [(0, "protocol features"), (PROTOCOL_FEATURES, "virtio 1")] {
        let (near, far) = UnixStream::pair().unwrap();
        let backend = std::thread::spawn(move || {
            let asked = receive(&far).unwrap().unwrap();
            send(&far, asked.number, Form::Reply, &u64::to_le_bytes(offered), &[]).unwrap();
        });
        match connect(near, 1).map(drop) {
            Err(FrontendError::Lacks { what }) => assert_eq!(what, lacks),
            other => panic!("{other:?}"),
        }
        backend.join().unwrap();
    }
}

fn any_region() -> impl Strategy<Value = RegionSpec> {
    any::<(u64, u64, u16, u16)>().prop_map(|(bytes, offset, queues, queue_size)| RegionSpec {
        bytes,
        offset,
        queues,
        queue_size,
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let region = any::<[u64; 4]>().prop_map(|[guest, bytes, frontend, offset]| Region {
        guest,
        bytes,
        frontend,
        offset,
    });
    let ring = 0u32..4;
    prop_oneof![
        Just(Request::GetFeatures),
        any::<u64>().prop_map(Request::SetFeatures),
        Just(Request::SetOwner),
        prop::collection::vec(region, 1..8).prop_map(Request::SetMemory),
        (ring.clone(), any::<u32>()).prop_map(|(ring, size)| Request::SetRingSize { ring, size }),
        (ring.clone(), any::<[u64; 3]>()).prop_map(|(ring, [descriptors, used, available])| {
            Request::SetRingAddresses { ring, descriptors, used, available }
        }),
        (ring.clone(), any::<u32>()).prop_map(|(ring, base)| Request::SetRingBase { ring, base }),
        ring.clone().prop_map(|ring| Request::GetRingBase { ring }),
        any::<u8>().prop_map(|ring| Request::SetRingKick { ring, is_given: false }),
        any::<u8>().prop_map(|ring| Request::SetRingCall { ring, is_given: false }),
        any::<u8>().prop_map(|ring| Request::SetRingError { ring, is_given: false }),
        Just(Request::GetProtocolFeatures),
        any::<u64>().prop_map(Request::SetProtocolFeatures),
        Just(Request::GetQueueCount),
        (ring, any::<bool>()).prop_map(|(ring, enabled)| Request::EnableRing { ring, enabled }),
        (any::<u32>(), 0u32..300).prop_map(|(offset, bytes)| Request::GetConfig { offset, bytes }),
        any_region().prop_map(Request::GetInFlight),
        any_region().prop_map(Request::SetInFlight),
    ]
}

mod killed;

proptest! {
    #[test]
    fn requests_are_what_they_were(request in any_request()) {
        let (number, body) = request.encode();
        prop_assert_eq!(Request::decode(number, &body).unwrap(), request);
    }

    #[test]
    fn any_bytes_are_a_request_or_none(
        number in 0u32..45,
        body in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        fuzz_request(number, &body);
    }

    /// Whatever a frontend says, the backend answers or closes, and ends when the frontend does.
    #[test]
    fn a_frontend_cannot_confuse_a_backend(
        requests in prop::collection::vec(any_request(), 0..30),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, [0; 4096]).unwrap();
        let disk = volume::RawFile::open(&path, volume::RawOptions::default()).unwrap();
        let (served, stream) = Served::start(Arc::new(disk), 2);
        for request in &requests {
            let (number, body) = request.encode();
            if send(&stream, number, Form::Plain, &body, &[]).is_err() {
                break;
            }
        }
        // It may have closed already.
        let _ = (&stream).write_all(&rest);
        drop(stream);
        // How it ended does not matter: that it did.
        let _ = served.end();
    }
}
