//! One queue of a disk in service.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use volume::{BlockQueue, BlockRequest, Completion, IoBuffer};

use super::device::{QueueCounters, Shared};
use super::request::{self, Disk, Request, Status};
use super::{QUEUE_SIZE, SEGMENTS_MAX, feature};
use crate::poll::{Interest, Token};
use crate::virtio::in_flight::Tracker;
use crate::virtio::worker::{WorkerContext, report};
use crate::virtio::{
    Activation, Buffers, DeviceError, OperationCounters, QueueHandler, QueuePosition, Ring, nanoseconds_since,
};

const COMPLETIONS: Token = 0;

/// The token of a request that is not the driver's.
const NO_SLOT: u64 = u64::MAX;

/// How often a worker goes back to a ring that the driver keeps filling before it looks at its commands.
const ROUNDS_MAX: usize = 16;

/// How often, and how long, a worker that must know that nothing is in flight waits for a kernel that is short of something.
const RETRIES_MAX: u32 = 1000;
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Header and status, and a cut more for each place where a buffer may cross from one region of RAM to the next.
const PIECES_MAX: usize = SEGMENTS_MAX as usize + 4;

pub(super) struct BlockHandler {
    // Dropped first: that waits for what the kernel still does in the guest's memory.
    disk: Box<dyn BlockQueue>,
    shared: Arc<Shared>,
    index: u16,
    /// Requests in flight. A slot's index is the token of its request.
    slots: Box<[Slot]>,
    free: Vec<u16>,
    buffers: Buffers,
    epoch: Instant,
    running: Option<Running>,
}

struct Running {
    ring: Ring,
    features: u64,
}

/// A request in flight.
#[derive(Clone, Copy)]
struct Slot {
    head: u16,
    kind: Kind,
    status: Option<IoBuffer>,
    /// Bytes of data, and how many of them the device writes into the guest's memory.
    bytes: u64,
    fills: u32,
    started_ns: u64,
    flush_after: bool,
    cache: Cache,
}

/// What a request that succeeds does to the disk's cache of writes.
#[derive(Clone, Copy)]
enum Cache {
    Same,
    /// What it wrote may be there alone.
    Fills,
    /// All writes are durable that were told done when it began: so many.
    Empties(u64),
}

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
    Other,
}

impl Kind {
    fn counters(self, queue: &QueueCounters) -> &OperationCounters {
        match self {
            Kind::Read => &queue.read,
            Kind::Write => &queue.write,
            Kind::Flush => &queue.flush,
            Kind::Discard => &queue.discard,
            Kind::WriteZeroes => &queue.write_zeroes,
            Kind::Other => &queue.other,
        }
    }
}

/// Why [`BlockHandler::take_requests`] came back.
#[derive(PartialEq, Eq)]
enum Taken {
    All,
    NoSlot,
}

impl BlockHandler {
    pub(super) fn new(disk: Box<dyn BlockQueue>, shared: Arc<Shared>, index: u16) -> Self {
        let empty = Slot {
            head: 0,
            kind: Kind::Other,
            status: None,
            bytes: 0,
            fills: 0,
            started_ns: 0,
            flush_after: false,
            cache: Cache::Same,
        };
        BlockHandler {
            disk,
            shared,
            index,
            slots: vec![empty; usize::from(QUEUE_SIZE)].into(),
            free: (0..QUEUE_SIZE).collect(),
            buffers: Buffers::with_capacity(PIECES_MAX),
            epoch: Instant::now(),
            running: None,
        }
    }

    /// Takes what the driver asks, hands it to the disk, and answers what is done.
    fn serve(&mut self) -> Result<(), DeviceError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let outcome = self.serve_rounds(&mut running);
        self.running = Some(running);
        outcome
    }

    fn serve_rounds(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        for _ in 0..ROUNDS_MAX {
            running.ring.suppress_kicks();
            let taken = self.take_requests(running)?;
            let answered = self.answer(&mut running.ring)?;
            match taken {
                // A completion's event brings the worker back.
                Taken::NoSlot if answered == 0 => return Ok(()),
                Taken::NoSlot => {}
                Taken::All if !running.ring.allow_kicks() => return Ok(()),
                Taken::All => {}
            }
        }
        running.ring.kick_self();
        Ok(())
    }

    fn take_requests(&mut self, running: &mut Running) -> Result<Taken, DeviceError> {
        let disk = Disk {
            size_bytes: self.shared.size_bytes(),
            block_bytes: u64::from(self.shared.block_bytes),
            is_read_only: self.shared.is_read_only,
            features: running.features,
        };
        let mut now_ns = None;
        let mut pushed = false;
        // No more than a ringful: a driver that adds chains without end is answered in between.
        for _ in 0..running.ring.size() {
            let Some(&slot) = self.free.last() else { break };
            let Some(head) = running.ring.pop()? else { break };
            running.ring.gather(head, &mut self.buffers)?;
            let parsed = request::parse(&mut self.buffers, &disk).map_err(|r| running.ring.bad_chain(r))?;
            match parsed.request {
                Ok(Request::Id) => {
                    let written = self.buffers.fill_front(&self.shared.id);
                    let written = u32::try_from(written).unwrap_or(0);
                    self.finish_at_once(&mut running.ring, head, parsed.status, Status::Ok, written);
                }
                Ok(request) => {
                    let started_ns = *now_ns.get_or_insert_with(|| nanoseconds_since(self.epoch));
                    self.push(slot, head, parsed.status, request, started_ns, running)?;
                    pushed = true;
                }
                Err(status) => self.finish_at_once(&mut running.ring, head, parsed.status, status, 0),
            }
        }
        if pushed {
            self.submit()?;
        }
        Ok(if self.free.is_empty() { Taken::NoSlot } else { Taken::All })
    }

    /// Gives a request to the disk under the number `slot`, the last of the free ones.
    fn push(
        &mut self,
        slot: u16,
        head: u16,
        status: IoBuffer,
        request: Request,
        started_ns: u64,
        running: &Running,
    ) -> Result<(), DeviceError> {
        let (kind, bytes, fills, request) = match request {
            Request::Read { offset } => {
                let bytes = self.buffers.writable_bytes();
                let request = BlockRequest::Read { offset, buffers: self.buffers.writable() };
                (Kind::Read, u64::from(bytes), bytes, request)
            }
            Request::Write { offset } => {
                let bytes = u64::from(self.buffers.readable_bytes());
                let request = BlockRequest::Write { offset, buffers: self.buffers.readable() };
                (Kind::Write, bytes, 0, request)
            }
            Request::Flush => (Kind::Flush, 0, 0, BlockRequest::Flush),
            Request::Discard { offset, len } => {
                (Kind::Discard, len, 0, BlockRequest::Discard { offset, len })
            }
            Request::WriteZeroes { offset, len, may_unmap } => {
                (Kind::WriteZeroes, len, 0, BlockRequest::WriteZeroes { offset, len, may_unmap })
            }
            Request::Id => return Ok(()),
        };
        let is_write_through = running.features & feature::FLUSH == 0;
        let flush_after = is_write_through && matches!(kind, Kind::Write | Kind::WriteZeroes);
        let cache = match kind {
            Kind::Flush => Cache::Empties(running.ring.tracker().map_or(0, Tracker::written)),
            Kind::Write | Kind::Discard | Kind::WriteZeroes if !is_write_through => Cache::Fills,
            _ => Cache::Same,
        };
        self.disk.push(u64::from(slot), request).map_err(host("push a request"))?;
        self.free.pop();
        self.slots[usize::from(slot)] =
            Slot { head, kind, status: Some(status), bytes, fills, started_ns, flush_after, cache };
        Ok(())
    }

    fn submit(&mut self) -> Result<(), DeviceError> {
        self.disk.submit().map_err(|source| DeviceError::Host { operation: "submit to the disk", source })
    }

    /// Answers a request that never reached the disk.
    fn finish_at_once(&self, ring: &mut Ring, head: u16, place: IoBuffer, status: Status, written: u32) {
        let counters = &self.shared.queues[usize::from(self.index)].other;
        match status {
            Status::Ok => counters.done(u64::from(written), 0),
            Status::IoError | Status::Unsupported => counters.failed(),
        }
        place.copy_from(&[status.byte()]);
        ring.put_used(head, written + u32::from(written == self.buffers.writable_bytes()));
    }

    /// Answers everything that the disk has done, and tells the driver once. Says how many requests that were.
    fn answer(&mut self, ring: &mut Ring) -> Result<usize, DeviceError> {
        let mut answered = 0;
        let mut now_ns = None;
        loop {
            let mut pushed = false;
            while let Some(completion) = self.disk.next_completion() {
                if self.flush_after(&completion)? {
                    pushed = true;
                } else {
                    let now_ns = *now_ns.get_or_insert_with(|| nanoseconds_since(self.epoch));
                    answered += self.finish(ring, completion, now_ns);
                }
            }
            if !pushed {
                break;
            }
            // What ends at once has no event, so there may be completions again.
            self.submit()?;
        }
        ring.notify();
        Ok(answered)
    }

    /// Sends a flush after a write that must not be reported without one. False when there is none to send.
    fn flush_after(&mut self, completion: &Completion) -> Result<bool, DeviceError> {
        let slot = usize::try_from(completion.token).ok().and_then(|index| self.slots.get_mut(index));
        let needs_flush = slot.is_some_and(|slot| std::mem::take(&mut slot.flush_after));
        if !needs_flush || completion.result.is_err() {
            return Ok(false);
        }
        self.disk.push(completion.token, BlockRequest::Flush).map_err(host("push a flush"))?;
        Ok(true)
    }

    /// Answers one request; says how many that were, since a token that we never gave is none.
    fn finish(&mut self, ring: &mut Ring, completion: Completion, now_ns: u64) -> usize {
        let Ok(index) = u16::try_from(completion.token) else { return 0 };
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return 0 };
        let Some(place) = slot.status.take() else { return 0 };
        let counters = slot.kind.counters(&self.shared.queues[usize::from(self.index)]);
        // The used length is what the device is sure to have filled, from the front of the chain on.
        let (status, written) = match completion.result {
            Ok(()) => {
                counters.done(slot.bytes, now_ns.saturating_sub(slot.started_ns));
                match (ring.tracker(), slot.cache) {
                    (Some(tracker), Cache::Fills) => tracker.count_write(),
                    (Some(tracker), Cache::Empties(written)) => tracker.flushed(written),
                    (None, _) | (_, Cache::Same) => {}
                }
                (Status::Ok, slot.fills.saturating_add(1))
            }
            Err(_) => {
                counters.failed();
                (Status::IoError, u32::from(slot.fills == 0))
            }
        };
        place.copy_from(&[status.byte()]);
        ring.put_used(slot.head, written);
        self.free.push(index);
        1
    }

    /// Leaves nothing in the disk's cache that could be lost with this process, where another may take over.
    fn empty_cache(&mut self, ring: &Ring) -> Result<(), DeviceError> {
        let Some(tracker) = ring.tracker().filter(|tracker| tracker.has_unflushed()) else { return Ok(()) };
        let written = tracker.written();
        self.disk.push(NO_SLOT, BlockRequest::Flush).map_err(host("push a flush"))?;
        let mut is_durable = false;
        self.drain(|handler| {
            while let Some(completion) = handler.disk.next_completion() {
                is_durable = completion.result.is_ok();
            }
            Ok(())
        })?;
        if is_durable {
            tracker.flushed(written);
        }
        Ok(())
    }

    /// Waits until nothing is in flight. That the kernel is short of something passes.
    fn drain(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut retries = 0;
        while self.disk.in_flight() > 0 {
            match self.disk.wait() {
                Ok(()) => each(self)?,
                Err(_) if retries < RETRIES_MAX => {
                    retries += 1;
                    thread::sleep(RETRY_AFTER);
                }
                Err(source) => return Err(DeviceError::Host { operation: "wait for the disk", source }),
            }
        }
        Ok(())
    }
}

/// A queue is never given more than it was opened for, so that it is full is the host's defect, not the guest's.
fn host(operation: &'static str) -> impl Fn(volume::QueueFull) -> DeviceError {
    move |full| DeviceError::Host { operation, source: std::io::Error::other(full) }
}

impl QueueHandler for BlockHandler {
    fn start(&mut self, activation: Activation, context: &WorkerContext) -> Result<(), DeviceError> {
        let features = activation.features;
        let Some(queue) = activation.queues.into_iter().next() else { return Ok(()) };
        let ring = Ring::new(queue, features)?;
        context
            .watch(self.disk.completion_event(), COMPLETIONS, Interest::ReadEdge)
            .map_err(|source| DeviceError::Host { operation: "watch the disk's completions", source })?;
        self.running = Some(Running { ring, features });
        self.serve()
    }

    fn kicked(&mut self, _index: u16, _context: &WorkerContext) -> Result<(), DeviceError> {
        self.serve()
    }

    fn ready(&mut self, _token: Token, _context: &WorkerContext) -> Result<(), DeviceError> {
        self.serve()
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let drained = self.drain(|handler| handler.answer(&mut running.ring).map(|_| ()));
        let outcome = drained.and_then(|()| self.empty_cache(&running.ring));
        self.running = Some(running);
        outcome
    }

    /// What it wrote without a flush may be in the cache of whoever keeps the disk's data, not in this process.
    fn positions(&mut self) -> Option<Vec<(u16, QueuePosition)>> {
        let ring = self.running.iter_mut().map(|running| &mut running.ring);
        Some(ring.map(|ring| (ring.index(), ring.position())).collect())
    }

    fn resume(&mut self, _context: &WorkerContext) -> Result<(), DeviceError> {
        self.serve()
    }

    fn stop(&mut self, context: &WorkerContext) {
        // The driver no longer waits for answers.
        let drained = self.drain(|handler| {
            while handler.disk.next_completion().is_some() {}
            Ok(())
        });
        if let Err(error) = drained {
            // What is in flight would land in memory that is something else's by then.
            report(&format!("queue {}", self.index), &error);
            std::process::abort();
        }
        self.free.clear();
        self.free.extend(0..QUEUE_SIZE);
        self.running = None;
        // It is not watched when nothing was started.
        let _ = context.unwatch(self.disk.completion_event());
    }
}
