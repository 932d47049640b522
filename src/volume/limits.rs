//! A disk that gives no more than its type does.
//!
//! ```text
//!   push ─┬─ the meters let it go ─▶ the disk
//!         └─ or say when ─▶ held, in order ──alarm──▶ the disk
//! ```
//!
//! All queues share the meters ([`bucket`]); each holds what is not to go yet. Nothing waits: a queue's owner does something else until the
//! completion event says that it may go on, which an alarm also raises. A request that is larger than an operation is several, and small
//! ones that follow each other are one, as EBS counts ("Amazon EBS I/O characteristics and monitoring"). A discard or write of zeroes is one
//! operation that moves no bytes, and a flush is free: it is about what was written and paid for.
//!
//! Reads and writes of the host itself ([`BlockBackend::read_at`]) are not limited. A disk may have no limits for a time; then a request
//! costs a glance at a flag.
//!
//! For a short while writes may be held altogether ([`Limited::pause`]), so that several disks can be sealed at one moment: who waits for one
//! write before it asks for the next, on whichever of them, has had no answer meanwhile to go on from.

pub mod bucket;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use types::{Clock, Instant, SystemClock};

use crate::alarm::Alarms;
use crate::backend::{BlockBackend, BlockQueue, BlockRequest, Completion, Extent, QueueFull, Topology};
use crate::kept::Kept;
use crate::queue::{check, total_len};
use bucket::{Cost, Meters, Stream};
use types::volume::Limits;

const POISONED: &str = "no thread panics while it holds this lock";
/// How long who only waits sleeps at a time.
const PACE: Duration = Duration::from_millis(1);

/// A disk with limits, if it has any.
pub struct Limited {
    disk: Arc<dyn BlockBackend>,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Whether anything may be held: so that nobody waits for the lock where nothing is.
    is_limited: AtomicBool,
    alarms: Alarms,
}

#[derive(Default)]
struct State {
    limits: Option<(Limits, Meters)>,
    /// Writes are held until then.
    paused: Option<Instant>,
}

impl Shared {
    fn with_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().expect(POISONED);
        let result = work(&mut state);
        self.is_limited.store(state.limits.is_some() || state.paused.is_some(), Ordering::Release);
        result
    }

    /// Whether a request may go now, or else when.
    fn take(&self, is_write: bool, cost: Cost) -> Result<(), Instant> {
        let now = SystemClock.now();
        self.with_state(|state| {
            state.paused = state.paused.filter(|until| now < *until);
            match (state.paused, &mut state.limits) {
                (Some(until), _) if is_write => Err(until),
                (_, Some((_, meters))) => meters.take(now, cost),
                (_, None) => Ok(()),
            }
        })
    }

    /// What a request may be measured by; nothing where none is held.
    fn limits(&self) -> Option<Option<Limits>> {
        let is_limited = self.is_limited.load(Ordering::Acquire);
        is_limited.then(|| self.with_state(|state| state.limits.as_ref().map(|(limits, _)| *limits)))
    }
}

impl Limited {
    /// Limits a disk, which has all its credits.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn new(disk: Arc<dyn BlockBackend>, limits: Option<Limits>) -> io::Result<Self> {
        let (state, is_limited, alarms) = (Mutex::default(), AtomicBool::new(false), Alarms::start()?);
        let limited = Self { disk, shared: Arc::new(Shared { state, is_limited, alarms }) };
        limited.set_limits(limits);
        Ok(limited)
    }

    /// Changes the limits while the disk is used. Credits stay; a disk that had no limits has all of them.
    pub fn set_limits(&self, limits: Option<Limits>) {
        self.shared.with_state(|state| {
            let now = SystemClock.now();
            state.limits = limits.map(|limits| {
                let meters = match state.limits.take() {
                    Some((_, mut meters)) => {
                        meters.change(&limits, now);
                        meters
                    }
                    None => Meters::new(&limits, now),
                };
                (limits, meters)
            });
        });
        // What is held may go sooner now.
        self.shared.alarms.ring_all();
    }

    /// Holds writes that come from now on, until [`resume`](Self::resume) or for at most so long. Those that came before go on.
    pub fn pause(&self, at_most: Duration) {
        let now = SystemClock.now();
        let until = Instant(now.0.saturating_add(at_most));
        self.shared.with_state(|state| state.paused = Some(until));
    }

    /// Lets go what is held; says whether it was all the time.
    pub fn resume(&self) -> bool {
        let now = SystemClock.now();
        let paused = self.shared.with_state(|state| state.paused.take());
        self.shared.alarms.ring_all();
        paused.is_some_and(|until| now < until)
    }
}

impl BlockBackend for Limited {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        self.disk.is_read_only()
    }

    fn topology(&self) -> Topology {
        self.disk.topology()
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        let queue = self.disk.open_queue(depth)?;
        let event = Arc::new(File::from(queue.completion_event().try_clone_to_owned()?));
        Ok(Box::new(Queue {
            depth: usize::from(depth.max(1)),
            disk: Arc::clone(&self.disk),
            queue,
            shared: Arc::clone(&self.shared),
            event,
            stream: Stream::default(),
            held: VecDeque::new(),
            spare: Vec::new(),
        }))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buffer)
    }

    fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.disk.extent(offset, len)
    }
}

struct Queue {
    disk: Arc<dyn BlockBackend>,
    queue: Box<dyn BlockQueue>,
    shared: Arc<Shared>,
    /// The completion event of the disk's queue.
    event: Arc<File>,
    depth: usize,
    stream: Stream,
    held: VecDeque<Held>,
    spare: Vec<Kept>,
}

/// A request whose time has not come.
struct Held {
    token: u64,
    is_write: bool,
    cost: Cost,
    kept: Kept,
}

impl Queue {
    /// Gives the disk what may go; says whether there was any, and until when the next one is held.
    fn release(&mut self) -> (bool, Option<Instant>) {
        let mut has_released = false;
        while let Some(held) = self.held.front() {
            if let Err(until) = self.shared.take(held.is_write, held.cost) {
                self.shared.alarms.set(until, &self.event);
                return (has_released, Some(until));
            }
            let pushed = self.queue.push(held.token, held.kept.request());
            pushed.expect("the disk's queue is as deep as this one");
            self.spare.extend(self.held.pop_front().map(|held| held.kept));
            has_released = true;
        }
        (has_released, None)
    }

    fn hold(&mut self, token: u64, is_write: bool, cost: Cost, request: BlockRequest<'_>) {
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.keep(request);
        self.held.push_back(Held { token, is_write, cost, kept });
    }
}

impl BlockQueue for Queue {
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.queue.completion_event()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        if self.in_flight() >= self.depth {
            return Err(QueueFull);
        }
        // It may overtake what is held from before: requests in flight have no order.
        let Some(limits) = self.shared.limits() else { return self.queue.push(token, request) };
        // What is wrong in itself costs nothing; the disk says what it is.
        if check(&request, self.disk.size_bytes(), self.disk.is_read_only()).is_err() {
            return self.queue.push(token, request);
        }
        let mut cost = |offset, buffers, is_write| {
            limits.map_or_else(Cost::default, |limits| {
                self.stream.cost(offset, total_len(buffers), is_write, &limits)
            })
        };
        let (is_write, cost) = match request {
            BlockRequest::Flush => return self.queue.push(token, request),
            BlockRequest::Read { offset, buffers } => (false, cost(offset, buffers, false)),
            BlockRequest::Write { offset, buffers } => (true, cost(offset, buffers, true)),
            BlockRequest::Discard { .. } | BlockRequest::WriteZeroes { .. } => {
                (true, Cost { operations: 1, bytes: 0 })
            }
        };
        if self.held.is_empty() && self.shared.take(is_write, cost).is_ok() {
            return self.queue.push(token, request);
        }
        self.hold(token, is_write, cost, request);
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        self.release();
        self.queue.submit()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.queue.next_completion() {
                return Some(completion);
            }
            if !self.release().0 {
                return None;
            }
            // If the ring is broken, what it had does not end, and whoever submits is told.
            let _ = self.queue.submit();
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight() + self.held.len()
    }

    fn wait(&mut self) -> io::Result<()> {
        loop {
            let (_, until) = self.release();
            if self.queue.in_flight() > 0 {
                return self.queue.wait();
            }
            self.queue.submit()?;
            match until {
                None => return Ok(()),
                // Nothing is under way, and whoever calls this has nothing else to do. A pause may end sooner.
                Some(until) => std::thread::sleep(until.since(SystemClock.now()).min(PACE)),
            }
        }
    }
}

impl Drop for Queue {
    /// What is held was not begun.
    fn drop(&mut self) {
        self.shared.alarms.remove(&self.event);
    }
}
