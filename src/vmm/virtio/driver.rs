//! The other side of a queue, for tests: a driver that lays out rings, adds chains, kicks and waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::worker::WorkerThread;
use super::{Activation, ActiveQueue, DeviceSignals, Interrupt, InterruptVectors, WorkerPart, feature};
use crate::memory::{self, Memory};
use crate::poll::event_fd;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// How long a test waits before it says that something does not happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Each queue's rings lie in a piece of this size, queue 0's at the start of RAM; buffers lie beyond.
const RINGS_BYTES: u64 = 0x8000;
const BUFFERS_START: u64 = 0x10_0000;
const BUFFERS_BYTES: u64 = 0x10_0000;

pub(crate) fn memory() -> Memory {
    memory::allocate(32 << 20, memory::Backing::Private).unwrap()
}

/// A piece of a chain.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    /// The device reads these bytes.
    Out(Vec<u8>),
    /// The device may fill so many.
    In(u32),
}

/// A chain in the ring.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    pub(crate) head: u16,
    /// The pieces' guest addresses.
    pub(crate) at: Vec<u64>,
}

pub(crate) struct Driver {
    pub(crate) memory: Memory,
    index: u16,
    size: u16,
    rings: u64,
    next_descriptor: u16,
    next_buffer: u64,
    available: u16,
    used_seen: u16,
    kick: EventFd,
    vectors: InterruptVectors,
}

impl Driver {
    pub(crate) fn new(memory: &Memory, index: u16, size: u16) -> Self {
        let vectors: InterruptVectors = Arc::from([EventFd::new(EFD_NONBLOCK).unwrap()]);
        Driver {
            memory: memory.clone(),
            index,
            size,
            rings: u64::from(index) * RINGS_BYTES,
            next_descriptor: 0,
            next_buffer: BUFFERS_START + u64::from(index) * BUFFERS_BYTES,
            available: 0,
            used_seen: 0,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            vectors,
        }
    }

    pub(crate) fn table(&self) -> u64 {
        self.rings
    }

    pub(crate) fn available_ring(&self) -> u64 {
        self.rings + 0x4000
    }

    pub(crate) fn used_ring(&self) -> u64 {
        self.rings + 0x5000
    }

    /// The queue as the transport would hand it over.
    pub(crate) fn active(&self) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        let low = |address: u64| Some(u32::try_from(address).unwrap());
        queue.set_size(self.size);
        queue.set_desc_table_address(low(self.table()), Some(0));
        queue.set_avail_ring_address(low(self.available_ring()), Some(0));
        queue.set_used_ring_address(low(self.used_ring()), Some(0));
        queue.set_ready(true);
        let interrupt = Interrupt::new(self.vectors.clone());
        interrupt.choose(0);
        let kick = self.kick.try_clone().unwrap();
        ActiveQueue {
            index: self.index,
            queue,
            kick,
            interrupt,
            memory: self.memory.clone(),
            in_flight: None,
        }
    }

    pub(crate) fn write_descriptor(&self, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Room for a buffer, anew from the start when it is used up.
    pub(crate) fn room(&mut self, length: u32) -> u64 {
        let start = BUFFERS_START + u64::from(self.index) * BUFFERS_BYTES;
        if self.next_buffer + u64::from(length) > start + BUFFERS_BYTES {
            self.next_buffer = start;
        }
        let at = self.next_buffer;
        self.next_buffer += u64::from(length.next_multiple_of(16));
        at
    }

    /// Where the next chain begins.
    pub(crate) fn next_head(&self) -> u16 {
        self.next_descriptor
    }

    /// Writes a chain into the descriptor table and makes it available.
    pub(crate) fn add(&mut self, pieces: &[Piece]) -> Added {
        let added = self.lay(pieces);
        self.make_available(added.head);
        added
    }

    /// Writes a chain into the descriptor table.
    pub(crate) fn lay(&mut self, pieces: &[Piece]) -> Added {
        let head = self.next_descriptor;
        let count = u16::try_from(pieces.len()).unwrap();
        let mut at = Vec::new();
        for (position, piece) in (0..count).zip(pieces) {
            let (address, length, write) = self.place(piece);
            let number = (head + position) % self.size;
            let next = (number + 1) % self.size;
            let flags = write | if position + 1 < count { NEXT } else { 0 };
            self.write_descriptor(self.table() + 16 * u64::from(number), address, length, flags, next);
            at.push(address);
        }
        self.next_descriptor = (head + count) % self.size;
        Added { head, at }
    }

    /// Writes a chain into an indirect table and makes it available.
    pub(crate) fn add_indirect(&mut self, pieces: &[Piece]) -> Added {
        let count = u16::try_from(pieces.len()).unwrap();
        let bytes = 16 * u32::from(count);
        let table = self.room(bytes);
        let mut at = Vec::new();
        for (position, piece) in (0..count).zip(pieces) {
            let (address, length, write) = self.place(piece);
            let flags = write | if position + 1 < count { NEXT } else { 0 };
            self.write_descriptor(table + 16 * u64::from(position), address, length, flags, position + 1);
            at.push(address);
        }
        let head = self.next_descriptor;
        self.next_descriptor = (head + 1) % self.size;
        self.write_descriptor(self.table() + 16 * u64::from(head), table, bytes, INDIRECT, 0);
        self.make_available(head);
        Added { head, at }
    }

    fn place(&mut self, piece: &Piece) -> (u64, u32, u16) {
        match piece {
            Piece::Out(bytes) => {
                let length = u32::try_from(bytes.len()).unwrap();
                let address = self.room(length);
                self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
                (address, length, 0)
            }
            Piece::In(length) => (self.room(*length), *length, WRITE),
        }
    }

    pub(crate) fn make_available(&mut self, head: u16) {
        let ring = self.available_ring();
        let place = u64::from(self.available % self.size);
        self.memory.write_obj(head, GuestAddress(ring + 4 + 2 * place)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available_index(self.available);
    }

    pub(crate) fn set_available_index(&self, index: u16) {
        use std::sync::atomic::Ordering;
        self.memory.store(index, GuestAddress(self.available_ring() + 2), Ordering::Release).unwrap();
    }

    /// With `EVENT_IDX`: after how many more used chains the device is to interrupt, at least 1.
    pub(crate) fn want_interrupt_after(&self, chains: u16) {
        let event = self.used_seen.wrapping_add(chains - 1);
        let at = self.available_ring() + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(event, GuestAddress(at)).unwrap();
    }

    pub(crate) fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// The next chain that the device gave back, with how much it filled, if there is one.
    pub(crate) fn take_used(&mut self) -> Option<(u16, u32)> {
        use std::sync::atomic::Ordering;
        let index: u16 = self.memory.load(GuestAddress(self.used_ring() + 2), Ordering::Acquire).unwrap();
        if index == self.used_seen {
            return None;
        }
        let at = self.used_ring() + 4 + 8 * u64::from(self.used_seen % self.size);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let written: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        self.used_seen = self.used_seen.wrapping_add(1);
        Some((u16::try_from(head).unwrap(), written))
    }

    /// As [`Driver::take_used`], waiting for interrupts.
    pub(crate) fn wait_used(&mut self) -> (u16, u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.take_used() {
                return used;
            }
            self.want_interrupt_after(1);
            if let Some(used) = self.take_used() {
                return used;
            }
            assert!(self.interrupted_before(deadline), "the device gave no chain back");
        }
    }

    /// Whether the device interrupted, waiting for it until `deadline`.
    pub(crate) fn interrupted_before(&self, deadline: Instant) -> bool {
        wait_for(&self.vectors[0], deadline)
    }

    pub(crate) fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}

fn wait_for(event: &EventFd, deadline: Instant) -> bool {
    let fd = event_fd(event);
    loop {
        if event.read().is_ok() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut fds, timeout);
    }
}

/// A worker of a device, running on a thread of its own.
pub(crate) struct Running {
    pub(crate) worker: WorkerThread,
    pub(crate) signals: Arc<DeviceSignals>,
    config_vectors: InterruptVectors,
}

impl Running {
    pub(crate) fn spawn(part: WorkerPart) -> Self {
        let config_vectors: InterruptVectors = Arc::from([EventFd::new(EFD_NONBLOCK).unwrap()]);
        let interrupt = Interrupt::new(config_vectors.clone());
        interrupt.choose(0);
        let signals = Arc::new(DeviceSignals::new(interrupt, None));
        Running { worker: WorkerThread::spawn(part, || {}).unwrap(), signals, config_vectors }
    }

    /// Starts `part` with the queues of `drivers`, the ring features negotiated beside `features`.
    pub(crate) fn start(part: WorkerPart, drivers: &[&Driver], features: u64) -> Self {
        let running = Self::spawn(part);
        running.activate(drivers, features);
        running
    }

    pub(crate) fn activate(&self, drivers: &[&Driver], features: u64) {
        self.worker.start(Activation {
            queues: drivers.iter().map(|driver| driver.active()).collect(),
            features: features | feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC,
            memory: drivers[0].memory.clone(),
            signals: self.signals.clone(),
        });
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.signals.status() & 64 != 0
    }

    /// Waits until the device says that it needs a reset.
    pub(crate) fn wait_needs_reset(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.needs_reset() {
            assert!(wait_for(&self.config_vectors[0], deadline), "the device does not ask for a reset");
        }
    }
}
