//! Which chains of a device's queues are in flight, kept in memory that outlives the process that serves them.
//!
//! ```text
//!   region   queue 0 │ queue 1 │ …                                                        all of one length
//!   queue    features: u64, version: u16, count: u16, last batch: u16, used: u16 │ states │ tally
//!   state    in flight: u8, 5 bytes, next: u16, order: u64                                one for each descriptor
//!   tally    written: u64, flushed: u64                                                   ours; others leave it zero
//! ```
//!
//! The layout and its use are those of vhost-user (QEMU's `docs/interop/vhost-user.rst`, "Inflight I/O tracking", split virtqueues). A chain
//! is marked when it is taken. Chains that are given back are linked as a batch, then the driver is shown them all, then they are
//! unmarked: wherever the process ends in between, the used ring says which of the last batch the driver has.
//!
//! The tally is what that does not tell: how many writes a disk said are done, and how many of these a flush has covered. A process that
//! ends takes with it what it had not made durable, and the driver, which may rely on it until the machine ends, would not know. A flush
//! covers the writes of all queues that were told before it, so its number is their sum, which can only be the same again if no queue
//! told any since.
//!
//! Nothing in the region is trusted: it is mapped only if nobody can make it shorter, numbers from it are checked before they are used,
//! and walks are bounded.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use vm_memory::{FileOffset, MmapRegion};

use crate::memory::{is_sealed, sealed_file};

const VERSION: u16 = 1;
const VERSION_AT: usize = 8;
const COUNT_AT: usize = 10;
const LAST_BATCH_AT: usize = 12;
const USED_AT: usize = 14;
const HEADER_BYTES: usize = 16;
const STATE_BYTES: usize = 16;
const NEXT_AT: usize = 6;
const ORDER_AT: usize = 8;
const TALLY_BYTES: usize = 16;
/// Rings have numbers of 8 bits, and at most so many descriptors (virtio 1.2, 2.7).
const QUEUES_MAX: u16 = 256;
const QUEUE_SIZE_MAX: u16 = 32768;
/// What others align queues to.
const QUEUE_ALIGNMENT: usize = 64;

/// How a region lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegionSpec {
    pub(crate) bytes: u64,
    pub(crate) offset: u64,
    pub(crate) queues: u16,
    /// The most descriptors that a queue has.
    pub(crate) queue_size: u16,
}

/// A region that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    #[error("it can be cut short; it must be a memfd with F_SEAL_SHRINK")]
    NotSealed,
    #[error("{bytes} bytes are no memory for {queues} queues of {queue_size}")]
    Size { bytes: u64, queues: u16, queue_size: u16 },
    #[error("its version is {version}; {VERSION} is known")]
    Version { version: u16 },
    #[error("it cannot be mapped")]
    Map { source: io::Error },
}

/// The region of a device.
#[derive(Debug)]
pub(crate) struct InFlightRegion {
    map: MmapRegion<()>,
    queue_bytes: usize,
    queues: u16,
    queue_size: u16,
}

impl InFlightRegion {
    /// A region in which nothing is in flight, in a file of its own.
    ///
    /// # Errors
    /// When the host has no memory or descriptor to give.
    pub(crate) fn create(queues: u16, queue_size: u16) -> io::Result<(File, RegionSpec)> {
        let (queues, queue_size) = (queues.clamp(1, QUEUES_MAX), queue_size.clamp(1, QUEUE_SIZE_MAX));
        let each = queue_bytes(queue_size).next_multiple_of(QUEUE_ALIGNMENT);
        let bytes = (each * usize::from(queues)) as u64;
        Ok((sealed_file("in-flight", bytes)?, RegionSpec { bytes, offset: 0, queues, queue_size }))
    }

    /// Maps what somebody says is a region.
    ///
    /// # Errors
    /// [`RegionError`]
    pub(crate) fn map(file: OwnedFd, spec: &RegionSpec) -> Result<Self, RegionError> {
        let RegionSpec { bytes, offset, queues, queue_size } = *spec;
        let size = || RegionError::Size { bytes, queues, queue_size };
        if !is_sealed(&file) {
            return Err(RegionError::NotSealed);
        }
        let file = File::from(file);
        let length = file.metadata().map_err(|source| RegionError::Map { source })?.len();
        let is_known = (1..=QUEUES_MAX).contains(&queues) && (1..=QUEUE_SIZE_MAX).contains(&queue_size);
        // Whoever touches what is mapped beyond a file's end is ended by a signal.
        if offset.checked_add(bytes).is_none_or(|end| end > length) || !is_known {
            return Err(size());
        }
        let length = usize::try_from(bytes).map_err(|_| size())?;
        let each = length / usize::from(queues) / 8 * 8;
        if each < HEADER_BYTES + STATE_BYTES * usize::from(queue_size) {
            return Err(size());
        }
        let map = MmapRegion::from_file(FileOffset::new(file, offset), length)
            .map_err(|error| RegionError::Map { source: io::Error::other(error) })?;
        let region = InFlightRegion { map, queue_bytes: each, queues, queue_size };
        for index in 0..queues {
            match region.word(index, VERSION_AT).load(Ordering::Relaxed) {
                0 | VERSION => {}
                version => return Err(RegionError::Version { version }),
            }
        }
        Ok(region)
    }

    /// The part of queue `index`, if there is one for so large a queue.
    pub(crate) fn queue(self: &Arc<Self>, index: u16, queue_size: u16) -> Option<InFlightQueue> {
        (index < self.queues && queue_size <= self.queue_size)
            .then(|| InFlightQueue { region: Arc::clone(self), index })
    }

    /// How many writes were told done that no flush has covered.
    pub(crate) fn unflushed(&self) -> u64 {
        let flushed = (0..self.queues).filter_map(|index| self.tally(index)).map(|tally| tally[1]);
        let flushed = flushed.map(|count| count.load(Ordering::Acquire)).max().unwrap_or(0);
        self.written().saturating_sub(flushed)
    }

    /// How many writes all queues have told done.
    fn written(&self) -> u64 {
        let written = (0..self.queues).filter_map(|index| self.tally(index)).map(|tally| tally[0]);
        written.fold(0, |sum, count| sum.wrapping_add(count.load(Ordering::Acquire)))
    }

    fn tally(&self, index: u16) -> Option<[&AtomicU64; 2]> {
        let at = HEADER_BYTES + STATE_BYTES * usize::from(self.queue_size);
        (at + TALLY_BYTES <= self.queue_bytes).then(|| [self.long(index, at), self.long(index, at + 8)])
    }

    fn place(&self, index: u16, at: usize) -> *mut u8 {
        debug_assert!(index < self.queues && at < self.queue_bytes);
        self.map.as_ptr().wrapping_add(usize::from(index) * self.queue_bytes + at)
    }

    fn byte(&self, index: u16, at: usize) -> &AtomicU8 {
        // SAFETY: callers name a queue that there is and a field within it, so the byte lies in the mapping, which lives as long as `self`.
        unsafe { AtomicU8::from_ptr(self.place(index, at)) }
    }

    fn word(&self, index: u16, at: usize) -> &AtomicU16 {
        // SAFETY: as for `byte`; the mapping begins with a page, queues are multiples of 8 long, and the fields are aligned within them.
        unsafe { AtomicU16::from_ptr(self.place(index, at).cast()) }
    }

    fn long(&self, index: u16, at: usize) -> &AtomicU64 {
        // SAFETY: as for `word`.
        unsafe { AtomicU64::from_ptr(self.place(index, at).cast()) }
    }
}

fn queue_bytes(queue_size: u16) -> usize {
    HEADER_BYTES + STATE_BYTES * usize::from(queue_size) + TALLY_BYTES
}

/// What is in flight of one queue. Whoever serves the queue is the only one that changes it.
#[derive(Debug)]
pub struct InFlightQueue {
    region: Arc<InFlightRegion>,
    index: u16,
}

impl InFlightQueue {
    /// The chains that were taken and that the driver, whose used ring stands at `used`, has not got back, in the order in which they
    /// were taken.
    fn recover(&self, used: u16) -> Vec<u16> {
        if self.word(VERSION_AT).load(Ordering::Acquire) == 0 {
            self.word(COUNT_AT).store(self.region.queue_size, Ordering::Relaxed);
            self.word(VERSION_AT).store(VERSION, Ordering::Release);
        }
        let shown = used.wrapping_sub(self.word(USED_AT).load(Ordering::Acquire));
        // The last batch was shown to the driver, and not all of it unmarked.
        let mut head = self.word(LAST_BATCH_AT).load(Ordering::Acquire);
        for _ in 0..shown.min(self.region.queue_size) {
            let Some(state) = self.state(head) else { break };
            self.region.byte(self.index, state).store(0, Ordering::Relaxed);
            head = self.word(state + NEXT_AT).load(Ordering::Relaxed);
        }
        self.word(USED_AT).store(used, Ordering::Release);
        let mut marked: Vec<(u64, u16)> = (0..self.region.queue_size)
            .filter_map(|head| {
                let state = self.state(head)?;
                let is_marked = self.region.byte(self.index, state).load(Ordering::Acquire) == 1;
                is_marked
                    .then(|| (self.region.long(self.index, state + ORDER_AT).load(Ordering::Relaxed), head))
            })
            .collect();
        marked.sort_unstable();
        marked.into_iter().map(|(_, head)| head).collect()
    }

    fn last_order(&self) -> u64 {
        let states = (0..self.region.queue_size).filter_map(|head| self.state(head));
        let orders =
            states.map(|state| self.region.long(self.index, state + ORDER_AT).load(Ordering::Relaxed));
        orders.max().unwrap_or(0)
    }

    fn word(&self, at: usize) -> &AtomicU16 {
        self.region.word(self.index, at)
    }

    fn state(&self, head: u16) -> Option<usize> {
        (head < self.region.queue_size).then(|| HEADER_BYTES + STATE_BYTES * usize::from(head))
    }
}

/// Keeps what is in flight of a queue in service.
#[derive(Debug)]
pub(super) struct Tracker {
    queue: InFlightQueue,
    order: u64,
    /// Given back, and not yet shown to the driver.
    batch: Vec<u16>,
}

impl Tracker {
    /// Begins where whoever served the queue before has ended, with the chains that were in flight then.
    pub(super) fn resume(queue: InFlightQueue, used: u16) -> (Self, Vec<u16>) {
        let heads = queue.recover(used);
        let (order, batch) = (queue.last_order(), Vec::with_capacity(usize::from(queue.region.queue_size)));
        (Tracker { queue, order, batch }, heads)
    }

    pub(super) fn taken(&mut self, head: u16) {
        let Some(state) = self.queue.state(head) else { return };
        self.order = self.order.wrapping_add(1);
        let (region, index) = (&self.queue.region, self.queue.index);
        region.long(index, state + ORDER_AT).store(self.order, Ordering::Relaxed);
        region.byte(index, state).store(1, Ordering::Release);
    }

    pub(super) fn given_back(&mut self, head: u16) {
        let Some(state) = self.queue.state(head) else { return };
        let last = self.queue.word(LAST_BATCH_AT);
        self.queue.word(state + NEXT_AT).store(last.load(Ordering::Relaxed), Ordering::Relaxed);
        last.store(head, Ordering::Release);
        self.batch.push(head);
    }

    /// The driver was shown all that was given back; the used ring stands at `used`.
    pub(super) fn shown(&mut self, used: u16) {
        for head in self.batch.drain(..) {
            if let Some(state) = self.queue.state(head) {
                self.queue.region.byte(self.queue.index, state).store(0, Ordering::Release);
            }
        }
        self.queue.word(USED_AT).store(used, Ordering::Release);
    }

    /// How many writes all queues have told done: what a flush that begins now covers.
    pub(super) fn written(&self) -> u64 {
        self.queue.region.written()
    }

    /// A write is done that no flush has covered; the driver is not told yet.
    pub(super) fn count_write(&self) {
        if let Some([written, _]) = self.queue.region.tally(self.queue.index) {
            // Nobody else writes to it.
            written.store(written.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        }
    }

    /// A flush is done that began when `written` was the sum.
    pub(super) fn flushed(&self, written: u64) {
        if let Some([_, flushed]) = self.queue.region.tally(self.queue.index) {
            flushed.store(flushed.load(Ordering::Relaxed).max(written), Ordering::Release);
        }
    }

    pub(super) fn has_unflushed(&self) -> bool {
        self.queue.region.unflushed() > 0
    }
}

#[cfg(test)]
mod tests;
