//! A driver that does anything: it writes what it likes into the rings and into memory, kicks when it likes, and is
//! paused and reset meanwhile. The device's handler runs on the fuzzer's own thread.
//!
//! What must hold: no panic, no hang, nothing written outside of RAM (the sanitizer's to see); after an error, and
//! after each reset, the handler starts again.

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm::memory::Memory;
use vmm::virtio::worker::WorkerContext;
use vmm::virtio::{
    Activation, ActiveQueue, DeviceError, DeviceSignals, Interrupt, InterruptVectors, VirtioDevice,
    WorkerPart,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::input::{Bytes, steps};

/// Two regions of RAM that touch, so that buffers can cross from one to the other.
const REGION_BYTES: u32 = 0x1_0000;
const QUEUE_SIZE: u16 = 16;
const RINGS_BYTES: u32 = 0x400;

/// What the driver does next.
#[derive(Debug, Arbitrary)]
pub enum Step {
    Write {
        at: u32,
        bytes: Bytes,
    },
    Descriptor {
        queue: u8,
        place: u8,
        address: u32,
        length: u32,
        flags: u16,
        next: u16,
    },
    /// A descriptor that may well be good: in RAM, flags that exist, followed by its neighbour.
    Plausible {
        queue: u8,
        place: u8,
        address: u16,
        length: u16,
        flags: u8,
    },
    /// A good chain of these pieces, made available and kicked.
    Chain {
        queue: u8,
        has_prefix: bool,
        out: Vec<Bytes>,
        into: Vec<u16>,
    },
    MakeAvailable {
        queue: u8,
        head: u16,
    },
    AvailableIndex {
        queue: u8,
        index: u16,
    },
    Wishes {
        queue: u8,
        flags: u16,
        used_event: u16,
    },
    Kick {
        queue: u8,
    },
    Ready {
        token: u8,
    },
    PauseAndResume,
    /// The driver starts anew, without the queues whose bit is set.
    Reset {
        features: u64,
        is_misplaced: bool,
        left_out: u8,
    },
    WriteConfig {
        offset: u16,
        data: Bytes,
    },
    /// Something of the device's own, at its other side.
    Host {
        bytes: Bytes,
    },
}

pub struct Machine {
    device: Arc<dyn VirtioDevice>,
    part: WorkerPart,
    context: WorkerContext,
    memory: Memory,
    signals: Arc<DeviceSignals>,
    vectors: InterruptVectors,
    /// What every request begins with that is to be understood at all.
    prefix: &'static [u8],
    next_descriptor: u16,
}

impl Machine {
    /// A machine with one device, of which `part` is one worker.
    pub fn new(device: Arc<dyn VirtioDevice>, part: WorkerPart, prefix: &'static [u8]) -> Self {
        let size = usize::try_from(REGION_BYTES).expect("64 bits");
        let ranges = [(GuestAddress(0), size), (GuestAddress(REGION_BYTES.into()), size)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).expect("there is memory"));
        let vectors: InterruptVectors =
            Arc::from([EventFd::new(EFD_NONBLOCK).expect("there are descriptors")]);
        let signals = Arc::new(DeviceSignals::new(Interrupt::new(vectors.clone()), None));
        let context = WorkerContext::new().expect("there are descriptors");
        Machine { device, part, context, memory, signals, vectors, prefix, next_descriptor: 0 }
    }

    /// Does what the driver in `data` does: the features that it negotiates, then its steps. `host` carries out the
    /// device's own.
    pub fn run(&mut self, data: &[u8], mut host: impl FnMut(&[u8])) {
        let mut data = Unstructured::new(data);
        let features = data.arbitrary().unwrap_or(0);
        self.next_descriptor = 0;
        vmm::memory::clear(&self.memory).expect("RAM is there");
        let mut is_started = self.start(features, false, 0).is_ok();
        for step in steps(&mut data) {
            let outcome = self.step(&step, &mut is_started, &mut host);
            if outcome.is_err() {
                self.part.handler.stop(&self.context);
                is_started = false;
            }
        }
        self.part.handler.stop(&self.context);
        std::hint::black_box(self.device.counters());
    }

    fn start(&mut self, features: u64, is_misplaced: bool, left_out: u8) -> Result<(), DeviceError> {
        let there = |place: &usize| left_out >> place & 1 == 0;
        let places = (0..self.part.queues.len()).filter(there);
        let queues: Vec<ActiveQueue> = places.map(|place| self.queue(place, is_misplaced)).collect();
        if queues.is_empty() {
            // The transport leaves such a worker alone.
            return Ok(());
        }
        let (memory, signals) = (self.memory.clone(), self.signals.clone());
        self.part.handler.start(Activation { queues, features, memory, signals }, &self.context)
    }

    /// Where a queue's rings are: far enough from each other for any of them to be written whole.
    fn rings(place: usize) -> u64 {
        u64::from(Self::low_rings(place))
    }

    fn low_rings(place: usize) -> u32 {
        u32::try_from(place).expect("a worker has few queues") * RINGS_BYTES
    }

    fn queue(&self, place: usize, is_misplaced: bool) -> ActiveQueue {
        let rings = if is_misplaced { REGION_BYTES - 0x100 } else { Self::low_rings(place) };
        let mut queue = Queue::new(QUEUE_SIZE).expect("the size is a power of two");
        queue.set_desc_table_address(Some(rings), Some(0));
        queue.set_avail_ring_address(Some(rings + 0x100), Some(0));
        queue.set_used_ring_address(Some(rings + 0x200), Some(0));
        queue.set_ready(true);
        let interrupt = Interrupt::new(self.vectors.clone());
        interrupt.choose(0);
        let kick = EventFd::new(EFD_NONBLOCK).expect("there are descriptors");
        let index = self.part.queues[place];
        ActiveQueue { index, queue, kick, interrupt, memory: self.memory.clone(), in_flight: None }
    }

    fn step(
        &mut self,
        step: &Step,
        is_started: &mut bool,
        host: &mut impl FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        let count = self.part.queues.len();
        let place = |queue: &u8| usize::from(*queue) % count;
        if let Step::Chain { queue, has_prefix, out, into } = step {
            let place = place(queue);
            if self.add_chain(place, *has_prefix, out, into) && *is_started {
                return self.part.handler.kicked(self.part.queues[place], &self.context);
            }
            return Ok(());
        }
        let handler = &mut self.part.handler;
        match step {
            Step::Write { at, bytes } => {
                // Beyond RAM nothing is written, as on a machine.
                let _ = self.memory.write(&bytes.0, GuestAddress(u64::from(*at)));
            }
            Step::Descriptor { queue, place: at, address, length, flags, next } => {
                let at = Self::rings(place(queue)) + 16 * u64::from(at % 16);
                self.write(at, u64::from(*address));
                self.write(at + 8, *length);
                self.write(at + 12, *flags);
                self.write(at + 14, *next);
            }
            Step::Plausible { queue, place: number, address, length, flags } => {
                let number = number % 16;
                let at = Self::rings(place(queue)) + 16 * u64::from(number);
                self.write(at, 0x8000 + u64::from(*address));
                self.write(at + 8, u32::from(*length));
                self.write(at + 12, u16::from(flags % 8));
                self.write(at + 14, u16::from((number + 1) % 16));
            }
            Step::Chain { .. } => {}
            Step::MakeAvailable { queue, head } => self.make_available(place(queue), head % (QUEUE_SIZE + 1)),
            Step::AvailableIndex { queue, index } => self.write(Self::rings(place(queue)) + 0x102, *index),
            Step::Wishes { queue, flags, used_event } => {
                let ring = Self::rings(place(queue)) + 0x100;
                self.write(ring, *flags);
                self.write(ring + 4 + 2 * u64::from(QUEUE_SIZE), *used_event);
            }
            Step::WriteConfig { offset, data } => self.device.write_config(u64::from(*offset), &data.0),
            Step::Host { bytes } => host(&bytes.0),
            Step::Reset { features, is_misplaced, left_out } => {
                handler.stop(&self.context);
                *is_started = true;
                return self.start(*features, *is_misplaced, *left_out);
            }
            _ if !*is_started => {}
            Step::Kick { queue } => return handler.kicked(self.part.queues[place(queue)], &self.context),
            Step::Ready { token } => return handler.ready(u64::from(*token), &self.context),
            Step::PauseAndResume => {
                handler.quiesce()?;
                return handler.resume(&self.context);
            }
        }
        Ok(())
    }

    /// Lays a chain into the next descriptors; false when it has no piece or more than there are descriptors.
    fn add_chain(&mut self, place: usize, has_prefix: bool, out: &[Bytes], into: &[u16]) -> bool {
        let prefix = if has_prefix { self.prefix } else { &[] };
        let pieces = usize::from(has_prefix) + out.len() + into.len();
        let pieces = u16::try_from(pieces).unwrap_or(u16::MAX);
        if pieces == 0 || pieces > QUEUE_SIZE {
            return false;
        }
        let head = self.next_descriptor;
        let mut address = 0x8000u64;
        let outgoing =
            has_prefix.then_some(prefix).into_iter().chain(out.iter().map(|bytes| bytes.0.as_slice()));
        let outgoing =
            outgoing.map(|bytes| (Some(bytes), u32::try_from(bytes.len()).expect("pieces are short")));
        let incoming = into.iter().map(|length| (None, u32::from(*length)));
        for (number, (bytes, length)) in (0..).zip(outgoing.chain(incoming)) {
            if let Some(bytes) = bytes {
                let _ = self.memory.write(bytes, GuestAddress(address));
            }
            let has_next = u16::from(number + 1 < pieces);
            let at = Self::rings(place) + 16 * u64::from((head + number) % QUEUE_SIZE);
            self.write(at, address);
            self.write(at + 8, length);
            self.write(at + 12, has_next | if bytes.is_none() { 2 } else { 0 });
            self.write(at + 14, (head + number + 1) % QUEUE_SIZE);
            address += u64::from(length);
        }
        self.next_descriptor = (head + pieces) % QUEUE_SIZE;
        self.make_available(place, head);
        true
    }

    fn make_available(&self, place: usize, head: u16) {
        let ring = Self::rings(place) + 0x100;
        let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).expect("rings are in RAM");
        self.write(ring + 4 + 2 * u64::from(index % QUEUE_SIZE), head);
        self.write(ring + 2, index.wrapping_add(1));
    }

    fn write<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).expect("rings are in RAM");
    }
}
