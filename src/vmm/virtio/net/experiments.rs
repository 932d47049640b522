//! What is done to an interface's frames from outside, while it is used: they are captured, and their link is made worse.
//!
//! ```text
//!                          control socket
//!                                ▼
//!                           Experiments ─── wake ──┐
//!                                                  ▼
//!           out: guest ─▶ captures ─▶ line ─▶ tap      one Passage for each worker
//!           in:  guest ◀─ captures ◀─ line ◀─ tap
//! ```
//!
//! [`Experiments`] are the interface's: what is set there is counted, and a [`Passage`] looks at that count once for each batch of
//! frames. So an interface of which nothing is wanted pays one load for a batch, and one comparison for a frame. Captures see what the guest sees:
//! what is lost on the way to it is not in them, and what it sends is, before that is lost.
//!
//! Both outlive a reset of the guest; what was under way does not.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;
use volume::IoBuffer;

use super::capture::{Capture, CaptureError, CaptureStatus, Direction, Watchers};
use super::device::PairCounters;
use super::impairment::{Impairments, Line, Link, lock};
use super::receive::{Receiver, Source};
use super::{FRAME_BYTES_MAX, HEADER_BYTES, Tap};
use crate::poll::{Interest, Token, event_fd, timer_fd};
use crate::virtio::worker::WorkerContext;
use crate::virtio::{DeviceError, nanoseconds_since};

/// Each takes a descriptor, and a system call for each frame.
const CAPTURES_MAX: usize = 16;

/// Frames that one call reads from the tap, or writes to it, before others get their turn.
const FRAMES_PER_TURN: usize = 64;

/// What is wanted of an interface.
#[derive(Debug)]
pub(super) struct Experiments {
    /// Counts what was set; read by workers.
    changes: AtomicU64,
    captures: Mutex<Captures>,
    inbound: Mutex<Link>,
    outbound: Mutex<Link>,
    /// Of each worker.
    wakes: Vec<EventFd>,
    /// When the links' time began.
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Captures {
    list: Vec<Arc<Capture>>,
    /// How many there ever were.
    count: u64,
}

impl Captures {
    fn forget_ended(&mut self) {
        self.list.retain(|capture| !capture.has_ended());
    }
}

impl Experiments {
    /// For an interface with `pairs` of queues.
    ///
    /// # Errors
    /// When the host has no descriptor to give.
    pub(super) fn new(pairs: u16) -> io::Result<Self> {
        let wakes = (0..pairs).map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<_>>()?;
        Ok(Experiments {
            changes: AtomicU64::new(0),
            captures: Mutex::default(),
            inbound: Mutex::default(),
            outbound: Mutex::default(),
            wakes,
            epoch: Instant::now(),
        })
    }

    fn captures(&self) -> MutexGuard<'_, Captures> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames are shown to who is at the other end of `socket` from now on, `snaplen` bytes of each.
    pub(super) fn capture(&self, socket: OwnedFd, snaplen: usize) -> Result<CaptureStatus, CaptureError> {
        let mut captures = self.captures();
        captures.forget_ended();
        if captures.list.len() >= CAPTURES_MAX {
            return Err(CaptureError::TooMany { max: CAPTURES_MAX });
        }
        let capture = Capture::new(captures.count + 1, socket, snaplen)?;
        let status = capture.status();
        captures.count += 1;
        captures.list.push(Arc::new(capture));
        drop(captures);
        self.tell();
        Ok(status)
    }

    pub(super) fn capture_statuses(&self) -> Vec<CaptureStatus> {
        let mut captures = self.captures();
        captures.forget_ended();
        captures.list.iter().map(|capture| capture.status()).collect()
    }

    pub(super) fn impair(&self, impairments: Impairments) {
        let Impairments { inbound, outbound } = impairments;
        for (link, wanted) in [(&self.inbound, inbound), (&self.outbound, outbound)] {
            if let Some(wanted) = wanted {
                lock(link).set(wanted);
            }
        }
        self.tell();
    }

    pub(super) fn impairments(&self) -> Impairments {
        let of = |link: &Mutex<Link>| lock(link).impairment().cloned();
        Impairments { inbound: of(&self.inbound), outbound: of(&self.outbound) }
    }

    fn tell(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        for wake in &self.wakes {
            // The counter can only be at its end when the worker has been woken already.
            let _ = wake.write(1);
        }
    }

    fn now(&self) -> u64 {
        nanoseconds_since(self.epoch)
    }
}

/// The way of one pair's frames between guest and tap.
pub(super) struct Passage {
    experiments: Arc<Experiments>,
    pair: usize,
    counters: Arc<PairCounters>,
    /// What was set that is heeded.
    heeded: u64,
    watchers: Watchers,
    inbound: Line,
    /// What is due to the guest waits for buffers or for its turn, and not for time.
    awaits_buffers: bool,
    outbound: Line,
    /// Rings when the next frame is due.
    timer: TimerFd,
    armed: Option<u64>,
    /// What is read from the tap to go onto the line; empty until it is needed.
    arriving: Box<[u8]>,
}

impl Passage {
    /// # Errors
    /// When the host has no descriptor to give.
    pub(super) fn new(
        experiments: Arc<Experiments>,
        pair: usize,
        counters: Arc<PairCounters>,
    ) -> io::Result<Self> {
        Ok(Passage {
            experiments,
            pair,
            counters,
            heeded: 0,
            watchers: Watchers::default(),
            inbound: Line::default(),
            awaits_buffers: false,
            outbound: Line::default(),
            timer: TimerFd::new()?,
            armed: None,
            arriving: Box::default(),
        })
    }

    /// Has the worker woken by `token` when something was set, or a frame is due.
    pub(super) fn watch(&self, context: &WorkerContext, token: Token) -> io::Result<()> {
        // Edge-triggered, so that neither is ever read.
        context.watch(event_fd(&self.experiments.wakes[self.pair]), token, Interest::ReadEdge)?;
        context.watch(timer_fd(&self.timer), token, Interest::ReadEdge)
    }

    /// Drops what is under way, and wakes the worker no more.
    pub(super) fn stop(&mut self, context: &WorkerContext) {
        self.inbound.clear(&self.experiments.inbound);
        self.outbound.clear(&self.experiments.outbound);
        // They are not watched when nothing was started.
        let _ = context.unwatch(event_fd(&self.experiments.wakes[self.pair]));
        let _ = context.unwatch(timer_fd(&self.timer));
    }

    /// Takes up what was set since the last call.
    pub(super) fn heed(&mut self) {
        let changes = self.experiments.changes.load(Ordering::Acquire);
        if changes != self.heeded {
            self.heeded = changes;
            self.watchers.set(self.experiments.captures().list.clone());
            self.inbound.heed(&lock(&self.experiments.inbound));
            self.outbound.heed(&lock(&self.experiments.outbound));
        }
    }

    /// Moves frames from the tap to the guest.
    pub(super) fn receive(&mut self, tap: &Tap, receiver: &mut Receiver) -> Result<(), DeviceError> {
        if self.inbound.is_open() {
            return receiver.receive(&mut &*tap, &mut self.watchers);
        }
        let now = self.experiments.now();
        let is_drained = self.collect(tap, now);
        let mut due = Due { line: &mut self.inbound, link: &self.experiments.inbound, now };
        receiver.receive(&mut due, &mut self.watchers)?;
        self.awaits_buffers = self.inbound.next_due().is_some_and(|due| due <= now);
        if !is_drained {
            receiver.call_again();
        }
        self.set_timer(now)
    }

    /// Puts what the tap has onto the line; false when there may be more.
    fn collect(&mut self, tap: &Tap, now: u64) -> bool {
        if self.arriving.is_empty() {
            self.arriving = vec![0; FRAME_BYTES_MAX].into();
        }
        for _ in 0..FRAMES_PER_TURN {
            let bytes = match tap.read(&[buffer(&mut self.arriving)]) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return true,
                Err(_) => {
                    self.counters.receive.errors.add(1);
                    return true;
                }
            };
            let frame = &self.arriving[..bytes];
            self.inbound.send(&self.experiments.inbound, now, bytes, || frame.into(), &self.counters.receive);
        }
        false
    }

    /// Sends a frame of `bytes` that the guest has in `pieces`, both with virtio's header.
    pub(super) fn transmit(&mut self, tap: &Tap, pieces: &[IoBuffer], bytes: usize) {
        let counters = &self.counters.transmit;
        self.watchers.show(Direction::Out, pieces, bytes, counters);
        if self.outbound.is_open() {
            return write(tap, pieces, bytes, &self.counters);
        }
        let copy = || {
            let mut frame = vec![0; bytes];
            let mut filled = 0;
            for piece in pieces {
                filled += piece.copy_to(&mut frame[filled..]);
            }
            frame.into_boxed_slice()
        };
        self.outbound.send(&self.experiments.outbound, self.experiments.now(), bytes, copy, counters);
    }

    /// Gives the tap what is due; false when there may be more.
    pub(super) fn send_due(&mut self, tap: &Tap) -> Result<bool, DeviceError> {
        if self.outbound.is_open() {
            return Ok(true);
        }
        let now = self.experiments.now();
        for _ in 0..FRAMES_PER_TURN {
            let Some(mut frame) = self.outbound.take_due(&self.experiments.outbound, now) else {
                return self.set_timer(now).map(|()| true);
            };
            let bytes = frame.len();
            write(tap, &[buffer(&mut frame)], bytes, &self.counters);
        }
        Ok(false)
    }

    /// A frame may have become due since `now`, when the lines were looked at: then the timer rings at once.
    fn set_timer(&mut self, now: u64) -> Result<(), DeviceError> {
        let inbound = self.inbound.next_due().filter(|_| !self.awaits_buffers);
        let next = inbound.into_iter().chain(self.outbound.next_due()).min();
        if next == self.armed {
            return Ok(());
        }
        self.armed = next;
        let set = match next {
            // A timer of zero would never ring.
            Some(due) => self.timer.reset(Duration::from_nanos(due.saturating_sub(now).max(1)), None),
            None => self.timer.clear(),
        };
        set.map_err(|error| DeviceError::Host {
            operation: "set the timer of frames under way",
            source: error.into(),
        })
    }
}

fn write(tap: &Tap, pieces: &[IoBuffer], bytes: usize, counters: &PairCounters) {
    match tap.write(pieces) {
        Ok(()) => counters.transmit.frame(bytes - HEADER_BYTES),
        // A bad header or frame; an interface that is down; a queue that is detached.
        Err(_) => counters.transmit.errors.add(1),
    }
}

/// All of `bytes`, for a call to the kernel that ends before they do.
fn buffer(bytes: &mut [u8]) -> IoBuffer {
    // SAFETY: the bytes are ours, and nobody refers to them while the kernel has the buffer.
    unsafe { IoBuffer::new(bytes.as_mut_ptr(), bytes.len()) }
}

/// The frames that are due.
struct Due<'a> {
    line: &'a mut Line,
    link: &'a Mutex<Link>,
    now: u64,
}

impl Source for Due<'_> {
    fn next(&mut self, into: &[IoBuffer]) -> io::Result<Option<usize>> {
        let Some(frame) = self.line.take_due(self.link, self.now) else { return Ok(None) };
        let mut copied = 0;
        for piece in into {
            copied += piece.copy_from(&frame[copied..]);
        }
        Ok(Some(copied))
    }
}
