use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use volume::{BlockBackend, BlockQueue, BlockRequest, Completion, QueueFull, RawFile, RawOptions};

use super::{Block, BlockSpec, feature};
use crate::virtio::driver::{Driver, INDIRECT, NEXT, PATIENCE, Piece, Running, WRITE, memory};
use crate::virtio::{DeviceParts, VirtioDevice};

const DISK_BYTES: usize = 1 << 20;
const ALL: u64 = feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES | feature::MQ;

/// A disk in memory that does its work at `submit` and reports it there, or later when told to.
struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    journal: Mutex<Vec<&'static str>>,
    submits: Mutex<usize>,
    is_read_only: bool,
    fails: AtomicBool,
    holds: AtomicBool,
    /// How many waits are still to fail, as when the kernel is short of something.
    failing_waits: AtomicU32,
}

impl MemoryDisk {
    fn new() -> Self {
        MemoryDisk {
            bytes: Mutex::new(vec![0; DISK_BYTES]),
            journal: Mutex::default(),
            submits: Mutex::default(),
            is_read_only: false,
            fails: AtomicBool::new(false),
            holds: AtomicBool::new(false),
            failing_waits: AtomicU32::new(0),
        }
    }

    fn execute(&self, request: BlockRequest<'_>) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap();
        let (name, range, value) = match request {
            BlockRequest::Read { .. } => ("read", 0..0, None),
            BlockRequest::Write { .. } => ("write", 0..0, None),
            BlockRequest::Flush => ("flush", 0..0, None),
            BlockRequest::Discard { offset, len } => ("discard", at(offset)..at(offset + len), Some(0xdd)),
            BlockRequest::WriteZeroes { offset, len, .. } => ("zero", at(offset)..at(offset + len), Some(0)),
        };
        self.journal.lock().unwrap().push(name);
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is broken"));
        }
        if let Some(value) = value {
            bytes[range].fill(value);
        }
        match request {
            BlockRequest::Read { offset, buffers } => {
                buffers.iter().fold(at(offset), |from, buffer| from + buffer.copy_from(&bytes[from..]));
            }
            BlockRequest::Write { offset, buffers } => {
                buffers.iter().fold(at(offset), |to, buffer| to + buffer.copy_to(&mut bytes[to..]));
            }
            _ => {}
        }
        Ok(())
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

struct MemoryQueue {
    disk: Arc<MemoryDisk>,
    event: EventFd,
    depth: usize,
    done: VecDeque<Completion>,
    in_flight: usize,
}

/// A backend is shared, and its queues need it too.
struct Backend(Arc<MemoryDisk>);

impl BlockBackend for Backend {
    fn size_bytes(&self) -> u64 {
        u64::try_from(self.0.bytes.lock().unwrap().len()).unwrap()
    }

    fn is_read_only(&self) -> bool {
        self.0.is_read_only
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        Ok(Box::new(MemoryQueue {
            disk: self.0.clone(),
            event: EventFd::new(EFD_NONBLOCK)?,
            depth: usize::from(depth),
            done: VecDeque::new(),
            in_flight: 0,
        }))
    }

    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl BlockQueue for MemoryQueue {
    fn completion_event(&self) -> BorrowedFd<'_> {
        // SAFETY: the event lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        if self.in_flight == self.depth {
            return Err(QueueFull);
        }
        self.in_flight += 1;
        let result = self.disk.execute(request);
        self.done.push_back(Completion { token, result });
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        *self.disk.submits.lock().unwrap() += 1;
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion> {
        if self.disk.holds.load(Ordering::Relaxed) {
            return None;
        }
        let completion = self.done.pop_front()?;
        self.in_flight -= 1;
        Some(completion)
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn wait(&mut self) -> io::Result<()> {
        let less = |left: u32| left.checked_sub(1);
        if self.disk.failing_waits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.disk.holds.store(false, Ordering::Relaxed);
        Ok(())
    }
}

fn device(disk: &Arc<MemoryDisk>, queues: u16) -> (Arc<Block>, DeviceParts) {
    let backend = Arc::new(Backend(disk.clone()));
    let spec = BlockSpec { name: "blk0".into(), serial: "vol0123456789abcdef0".into(), backend, queues };
    Block::new(spec).unwrap()
}

/// A disk of one queue with its driver and its running worker.
struct Bench {
    disk: Arc<MemoryDisk>,
    block: Arc<Block>,
    driver: Driver,
    running: Running,
}

impl Bench {
    fn new() -> Self {
        Self::with(MemoryDisk::new(), ALL)
    }

    fn with(disk: MemoryDisk, features: u64) -> Self {
        let disk = Arc::new(disk);
        let (block, parts) = device(&disk, 1);
        let driver = Driver::new(&memory(), 0, 256);
        let running = Running::start(parts.workers.into_iter().next().unwrap(), &[&driver], features);
        Bench { disk, block, driver, running }
    }

    /// Sends one request; gives its status and the data read.
    fn ask(&mut self, kind: u32, sector: u64, data: Piece) -> (u8, Vec<u8>) {
        let added = self.driver.add(&request(kind, sector, &[data]));
        self.driver.kick();
        assert_eq!(self.driver.wait_used().0, added.head);
        let status = self.driver.read(added.at[2], 1)[0];
        let length = usize::try_from(added.at[2] - added.at[1]).unwrap();
        (status, self.driver.read(added.at[1], length))
    }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn request(kind: u32, sector: u64, data: &[Piece]) -> Vec<Piece> {
    [&[Piece::Out(header(kind, sector))], data, &[Piece::In(1)]].concat()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Piece {
    Piece::Out([&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat())
}

#[test]
fn what_is_written_is_read_back_and_counted() {
    let mut bench = Bench::new();
    let data: Vec<u8> = (0..4096u32).map(|i| i.to_le_bytes()[0]).collect();
    assert_eq!(bench.ask(1, 8, Piece::Out(data.clone())).0, 0);
    assert_eq!(bench.ask(0, 8, Piece::In(4096)), (0, data));
    assert_eq!(bench.ask(4, 0, Piece::Out(Vec::new())).0, 0);
    let counters = bench.block.counters();
    assert_eq!(counters["read"]["bytes"], 4096);
    assert_eq!(counters["write"]["operations"], 1);
    assert_eq!(counters["flush"]["operations"], 1);
    assert_eq!(*bench.disk.journal.lock().unwrap(), ["write", "read", "flush"]);
}

#[test]
fn a_ring_full_of_requests_costs_one_submit_and_one_interrupt() {
    let mut bench = Bench::new();
    bench.running.worker.pause();
    bench.driver.want_interrupt_after(32);
    for sector in 0..32 {
        bench.driver.add_indirect(&request(0, sector, &[Piece::In(512)]));
    }
    bench.running.worker.resume();
    assert!(bench.driver.interrupted_before(Instant::now() + PATIENCE));
    for _ in 0..32 {
        bench.driver.take_used().expect("all are answered when the interrupt comes");
    }
    assert_eq!(*bench.disk.submits.lock().unwrap(), 1);
    assert_eq!(bench.block.counters()["read"]["operations"], 32);
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let mut bench = Bench::new();
    bench.disk.bytes.lock().unwrap()[512..1024].fill(7);
    let head = header(0, 1);
    let (first, second) = head.split_at(5);
    let pieces = [
        Piece::Out(first.to_vec()),
        Piece::Out(Vec::new()),
        Piece::Out(second.to_vec()),
        Piece::In(100),
        Piece::In(413),
    ];
    let added = bench.driver.add(&pieces);
    bench.driver.kick();
    assert_eq!(bench.driver.wait_used(), (added.head, 513));
    assert_eq!(bench.driver.read(added.at[3], 100), [7; 100]);
    assert_eq!(bench.driver.read(added.at[4], 413), [&[7; 412][..], &[0]].concat());
}

#[test]
fn a_buffer_may_cross_from_one_region_of_ram_to_the_next() {
    let half = 16 << 20;
    let ranges = [(GuestAddress(0), half), (GuestAddress(half as u64), half)];
    let ram = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
    let disk = Arc::new(MemoryDisk::new());
    disk.bytes.lock().unwrap()[..4096].fill(9);
    let (_, parts) = device(&disk, 1);
    let mut driver = Driver::new(&ram, 0, 256);
    let _running = Running::start(parts.workers.into_iter().next().unwrap(), &[&driver], ALL);
    let added = driver.lay(&request(0, 0, &[Piece::In(4096)]));
    let border = half as u64 - 1000;
    driver.write_descriptor(driver.table() + 16, border, 4096, WRITE | NEXT, 2);
    driver.make_available(added.head);
    driver.kick();
    assert_eq!(driver.wait_used(), (added.head, 4097));
    assert_eq!(driver.read(border, 4096), [9; 4096]);
}

#[test]
fn the_serial_number_is_read() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(8, 0, Piece::In(20)).1[..20], *b"vol0123456789abcdef0");
}

#[test]
fn what_cannot_be_served_is_answered_by_its_status() {
    const END: u64 = DISK_BYTES as u64 / 512;
    let mut bench = Bench::new();
    let cases: [(&str, u32, u64, Piece, u8); 12] = [
        ("unknown type", 99, 0, Piece::In(0), 2),
        ("beyond the end", 0, END, Piece::In(512), 1),
        ("across the end", 1, END - 1, Piece::Out(vec![0; 1024]), 1),
        ("a sector that overflows", 0, u64::MAX / 2, Piece::In(512), 1),
        ("half a sector", 0, 0, Piece::In(256), 1),
        ("nothing at the end", 0, END, Piece::In(0), 0),
        ("discard", 11, 0, range(0, 8, 0), 0),
        ("discard that asks to unmap", 11, 0, range(0, 8, 1), 2),
        ("discard beyond the end", 11, 0, range(END, 1, 0), 1),
        ("write zeroes", 13, 0, range(0, 8, 1), 0),
        ("write zeroes with unknown flags", 13, 0, range(0, 8, 2), 2),
        ("a range of half its size", 13, 0, Piece::Out(vec![0; 8]), 1),
    ];
    for (what, kind, sector, data, status) in cases {
        assert_eq!(bench.ask(kind, sector, data).0, status, "{what}");
    }
    assert!(!bench.running.needs_reset());
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let mut bench =
        Bench::with(MemoryDisk { is_read_only: true, ..MemoryDisk::new() }, feature::FLUSH | feature::RO);
    assert_eq!(bench.block.features() & (feature::RO | feature::DISCARD), feature::RO);
    assert_eq!(bench.ask(1, 0, Piece::Out(vec![1; 512])).0, 1);
    assert_eq!(bench.ask(0, 0, Piece::In(512)).0, 0);
}

#[test]
fn a_broken_disk_is_an_error_to_the_guest_and_counted() {
    let mut bench = Bench::new();
    bench.disk.fails.store(true, Ordering::Relaxed);
    assert_eq!(bench.ask(0, 0, Piece::In(512)).0, 1);
    assert_eq!(bench.block.counters()["read"]["errors"], 1);
    assert!(!bench.running.needs_reset());
}

#[test]
fn without_flush_each_write_is_flushed_before_it_is_reported() {
    let mut bench = Bench::with(MemoryDisk::new(), 0);
    assert_eq!(bench.ask(1, 0, Piece::Out(vec![1; 512])).0, 0);
    assert_eq!(*bench.disk.journal.lock().unwrap(), ["write", "flush"]);
    assert_eq!(bench.ask(11, 0, range(0, 8, 0)).0, 2, "discard was not negotiated");
}

#[test]
fn a_real_file_is_read_and_written_through_the_kernels_ring() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    for (direct, features) in [(false, ALL), (true, ALL), (false, 0)] {
        let options = RawOptions { direct, ..RawOptions::default() };
        let backend = Arc::new(RawFile::open(file.path(), options).unwrap());
        let spec = BlockSpec { name: "blk0".into(), serial: String::new(), backend, queues: 1 };
        let (block, parts) = Block::new(spec).unwrap();
        let mut driver = Driver::new(&memory(), 0, 256);
        let running = Running::start(parts.workers.into_iter().next().unwrap(), &[&driver], features);
        for kind in [1, 0] {
            running.worker.pause();
            let added: Vec<_> = (0..80u8)
                .map(|sector| {
                    let data = if kind == 1 { Piece::Out(vec![sector; 512]) } else { Piece::In(512) };
                    driver.add(&request(kind, u64::from(sector), &[data]))
                })
                .collect();
            running.worker.resume();
            for _ in &added {
                driver.wait_used();
            }
            for (sector, added) in (0u8..).zip(&added) {
                assert_eq!(driver.read(added.at[2], 1), [0]);
                assert_eq!(driver.read(added.at[1], 512), [sector; 512]);
            }
        }
        driver.add(&request(4, 0, &[]));
        driver.kick();
        driver.wait_used();
        let counters = block.counters();
        assert_eq!(counters["read"]["bytes"], 80 * 512);
        assert_eq!(counters["flush"]["operations"], 1);
    }
}

#[test]
fn a_pause_waits_for_what_is_in_flight_also_when_the_kernel_is_short_of_something() {
    let mut bench = Bench::new();
    bench.disk.failing_waits.store(3, Ordering::Relaxed);
    bench.disk.holds.store(true, Ordering::Relaxed);
    let added = bench.driver.add(&request(0, 0, &[Piece::In(512)]));
    bench.driver.kick();
    let deadline = Instant::now() + PATIENCE;
    while bench.disk.journal.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the request does not reach the disk");
        std::thread::yield_now();
    }
    assert_eq!(bench.driver.take_used(), None);
    bench.running.worker.pause();
    assert_eq!(bench.disk.failing_waits.load(Ordering::Relaxed), 0);
    assert_eq!(bench.driver.take_used(), Some((added.head, 513)));
    let later = bench.driver.add(&request(0, 0, &[Piece::In(512)]));
    bench.driver.kick();
    bench.running.worker.resume();
    assert_eq!(bench.driver.wait_used(), (later.head, 513));
}

#[test]
fn after_a_reset_the_device_works_again() {
    let mut bench = Bench::new();
    bench.driver.set_available_index(300);
    bench.driver.kick();
    bench.running.wait_needs_reset();
    bench.running.worker.stop();
    bench.driver = Driver::new(&memory(), 0, 64);
    bench.running.activate(&[&bench.driver], ALL);
    assert_eq!(bench.ask(0, 0, Piece::In(512)).0, 0);
}

#[test]
fn the_configuration_follows_the_disk() {
    let disk = Arc::new(MemoryDisk::new());
    let (block, parts) = device(&disk, 3);
    assert_eq!(parts.workers.len(), 3);
    assert_ne!(block.features() & feature::MQ, 0);
    let read = |offset: u64, length: usize| {
        let mut data = vec![0xff; length];
        block.read_config(offset, &mut data);
        data
    };
    assert_eq!(read(0, 8), (DISK_BYTES as u64 / 512).to_le_bytes());
    assert_eq!(read(34, 2), 3u16.to_le_bytes());
    assert_eq!(read(58, 8), [0; 8]);
    assert_eq!(read(u64::MAX, 1), [0]);
    disk.bytes.lock().unwrap().resize(2 * DISK_BYTES, 0);
    block.refresh_size();
    assert_eq!(read(0, 8), (DISK_BYTES as u64 / 256).to_le_bytes());
}

/// One thing wrong with an otherwise good read of two sectors into two buffers.
#[derive(Debug, Clone)]
enum Breakage {
    None,
    HeaderLength(u32),
    HeaderAddress(u64),
    HeaderWritable,
    DataReadable,
    DataAddress(u64),
    DataLength(u32),
    StatusReadable,
    StatusLength(u32),
    Next(u16),
    NestedIndirect,
    Sector(u64),
    Kind(u32),
    Head(u16),
    AvailableIndex(u16),
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Status(u8),
    NeedsReset,
}

const RAM_BYTES: u64 = 32 << 20;

/// What the specification wants of each.
fn predict(breakage: &Breakage) -> Outcome {
    use Outcome::{NeedsReset, Status};
    let in_ram = |address: u64, length: u64| address.checked_add(length).is_some_and(|end| end <= RAM_BYTES);
    match *breakage {
        Breakage::None => Status(0),
        Breakage::HeaderLength(length) if length < 16 => NeedsReset,
        // More readable bytes than a header are data to write, which a read does not have.
        Breakage::HeaderLength(length) if length > 16 => NeedsReset,
        Breakage::HeaderLength(_) => Status(0),
        // Zeroes stand there: a read of sector 0.
        Breakage::HeaderAddress(address) if in_ram(address, 16) => Status(0),
        Breakage::DataAddress(address) if in_ram(address, 512) => Status(0),
        Breakage::HeaderAddress(_) | Breakage::DataAddress(_) => NeedsReset,
        Breakage::HeaderWritable | Breakage::DataReadable | Breakage::StatusReadable => NeedsReset,
        Breakage::DataLength(length) if !length.is_multiple_of(512) => Status(1),
        Breakage::DataLength(length) if u64::from(length) + 1024 > DISK_BYTES as u64 => Status(1),
        Breakage::DataLength(_) => Status(0),
        // The last byte is the status, the others are data then.
        Breakage::StatusLength(0) => Status(1),
        Breakage::StatusLength(1) => Status(0),
        Breakage::StatusLength(length) if (length - 1).is_multiple_of(512) => Status(0),
        Breakage::StatusLength(_) => Status(1),
        Breakage::Next(_) | Breakage::NestedIndirect => NeedsReset,
        Breakage::Sector(sector) if sector <= DISK_BYTES as u64 / 512 - 2 => Status(0),
        Breakage::Sector(_) => Status(1),
        Breakage::Kind(0 | 8) => Status(0),
        Breakage::Kind(4) => Status(0),
        Breakage::Kind(1 | 11 | 13) => NeedsReset,
        Breakage::Kind(_) => Status(2),
        Breakage::Head(_) | Breakage::AvailableIndex(_) => NeedsReset,
    }
}

fn breakages() -> impl Strategy<Value = Breakage> {
    prop_oneof![
        Just(Breakage::None),
        (0u32..64).prop_map(Breakage::HeaderLength),
        prop_oneof![0x20_0000u64..0x21_0000, RAM_BYTES - 20..RAM_BYTES + 20, any::<u64>()]
            .prop_map(Breakage::HeaderAddress),
        Just(Breakage::HeaderWritable),
        Just(Breakage::DataReadable),
        prop_oneof![0x20_0000u64..0x21_0000, RAM_BYTES - 520..RAM_BYTES + 20, any::<u64>()]
            .prop_map(Breakage::DataAddress),
        prop_oneof![0u32..4096, (0u32..8).prop_map(|n| n * 512), Just(2 << 20)]
            .prop_map(Breakage::DataLength),
        Just(Breakage::StatusReadable),
        prop_oneof![0u32..4, Just(513)].prop_map(Breakage::StatusLength),
        // Back to a descriptor of the chain, or beyond the table.
        prop_oneof![0u16..3, 256u16..].prop_map(Breakage::Next),
        Just(Breakage::NestedIndirect),
        prop_oneof![0u64..4096, any::<u64>()].prop_map(Breakage::Sector),
        prop_oneof![0u32..16, any::<u32>()].prop_map(Breakage::Kind),
        (256u16..).prop_map(Breakage::Head),
        (257u16..).prop_map(Breakage::AvailableIndex),
    ]
}

fn try_broken(breakage: &Breakage) -> Outcome {
    let mut bench = Bench::new();
    let driver = &mut bench.driver;
    let (mut kind, mut sector) = (0, 4);
    match *breakage {
        Breakage::Sector(other) => sector = other,
        Breakage::Kind(other) => kind = other,
        _ => {}
    }
    let added = driver.lay(&request(kind, sector, &[Piece::In(512), Piece::In(512)]));
    let table = driver.table();
    let set = |number: u64, address: u64, length: u32, flags: u16, next: u16| {
        driver.write_descriptor(table + 16 * number, address, length, flags, next);
    };
    let mut head = added.head;
    let mut status_at = added.at[3];
    match *breakage {
        Breakage::HeaderLength(length) => set(0, added.at[0], length, NEXT, 1),
        Breakage::HeaderAddress(address) => set(0, address, 16, NEXT, 1),
        Breakage::HeaderWritable => set(0, added.at[0], 16, NEXT | WRITE, 1),
        Breakage::DataReadable => set(2, added.at[2], 512, NEXT, 3),
        Breakage::DataAddress(address) => set(2, address, 512, NEXT | WRITE, 3),
        Breakage::DataLength(length) => set(2, 0x10_0000, length, NEXT | WRITE, 3),
        Breakage::StatusReadable => set(3, added.at[3], 1, 0, 0),
        Breakage::StatusLength(0) => {
            // The status is then the last byte of the data.
            set(3, added.at[3], 0, WRITE, 0);
            status_at = added.at[2] + 511;
        }
        Breakage::StatusLength(length) => {
            set(3, added.at[3], length, WRITE, 0);
            status_at += u64::from(length) - 1;
        }
        Breakage::Next(next) => set(2, added.at[2], 512, NEXT | WRITE, next),
        Breakage::NestedIndirect => {
            set(3, table + 16 * 4, 16, INDIRECT, 0);
            set(4, table + 16 * 5, 16, INDIRECT, 0);
        }
        Breakage::Head(other) => head = other,
        _ => {}
    }
    driver.memory.write_obj(0xffu8, GuestAddress(status_at)).unwrap();
    driver.make_available(head);
    if let Breakage::AvailableIndex(index) = *breakage {
        driver.set_available_index(index);
    }
    driver.kick();
    settle(&mut bench, status_at)
}

/// The device answers the chain or asks for a reset.
fn settle(bench: &mut Bench, status_at: u64) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    bench.driver.want_interrupt_after(1);
    loop {
        if bench.running.needs_reset() {
            return Outcome::NeedsReset;
        }
        if bench.driver.take_used().is_some() {
            return Outcome::Status(bench.driver.read(status_at, 1)[0]);
        }
        assert!(Instant::now() < deadline, "neither an answer nor a reset");
        std::thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn one_broken_field_has_the_outcome_that_the_specification_wants(breakage in breakages()) {
        prop_assert_eq!(try_broken(&breakage), predict(&breakage));
    }
}
