//! One thread's way to a layered volume.
//!
//! It is another kind of queue than [`crate::queue`]'s: there a request is calls on files that stay, here it may have to wait for
//! another request, read before it writes, or be a flush, which is the committer's work. What they share is the ring.
//!
//! ```text
//!   read      look up ─▶ reading ─▶ ended
//!   write     admitted in place ─▶ writing ─▶ settled
//!             admitted as tracked ─▶ copying up ─▶ writing ─▶ settled
//!   zeroes    for each part: its partial blocks as writes; the others admitted ─▶ punching ─▶ settled
//!   flush     asked for ─▶ told by the committer
//!   encrypted volumes: reads and writes in parts, each through the request's bounce memory
//!   each      to wait ─▶ parked ─▶ the waker is called ─▶ admitted anew
//! ```
//!
//! Nothing is allocated for a request once the queue has warmed up.

mod encrypted;
mod files;
mod lacking;
mod request;
mod tracked;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::engine::Engine;
use super::format::BLOCK_BYTES;
use super::layer::Layer;
use super::map::Location;
use super::state::{Admission, Outcome, Waker};
use super::storage::{Storage, StorageFile, StorageRing};
use crate::backend::{BlockQueue, BlockRequest, Completion, IoBuffer, QueueFull};
use crate::queue::{Cursor, check, is_unsupported, total_len};
use crate::snapshot::format::CHUNK_BLOCKS;
use crate::sys::{Call, zeroes};
use files::Files;
use lacking::Needs;
use request::{Request, Stage, Work};

/// How much a discard makes absent at a time, so that its changes fit into the log.
const ZERO_STEP_BLOCKS: u64 = 16_384;
/// How much of a request goes through the bounce memory of an encrypted volume at a time, in bytes: whole blocks.
const PART_BYTES: u64 = 256 << 10;
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

pub(crate) struct Queue<S: Storage> {
    engine: Arc<Engine<S>>,
    ring: S::Ring,
    files: Files<S::File>,
    waker: Arc<Waker>,
    depth: usize,
    requests: Vec<Request<S::File>>,
    free: Vec<u32>,
    ended: VecDeque<Completion>,
    in_flight: usize,
    /// Calls that the ring has.
    calls: usize,
    parked: VecDeque<u32>,
    /// Flushes that were asked for, with their numbers.
    flushes: Vec<(u32, u64)>,
    /// A list of buffers, to be used again.
    scratch: Vec<IoBuffer>,
}

impl<S: Storage> Queue<S> {
    pub(crate) fn new(engine: Arc<Engine<S>>, depth: u16) -> io::Result<Self> {
        let ring = engine.storage.ring(depth)?;
        Ok(Self {
            waker: Arc::new(Waker::new(Arc::clone(ring.event()))),
            files: Files::new(&engine),
            engine,
            ring,
            depth: usize::from(depth.max(1)),
            requests: Vec::new(),
            free: Vec::new(),
            ended: VecDeque::new(),
            in_flight: 0,
            calls: 0,
            parked: VecDeque::new(),
            flushes: Vec::new(),
            scratch: Vec::new(),
        })
    }

    fn add(&mut self, token: u64) -> u32 {
        self.in_flight += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.requests.push(Request::new());
            u32::try_from(self.requests.len() - 1).expect("a queue is at most 65,535 deep")
        });
        self.request(index).begin(token);
        index
    }

    fn request(&mut self, index: u32) -> &mut Request<S::File> {
        &mut self.requests[index as usize]
    }

    /// Starts a call for a request on a file of a layer, with the buffers in `scratch`.
    fn call(
        &mut self,
        index: u32,
        layer: &Arc<Layer<S::File>>,
        segment: usize,
        call: impl FnOnce(u32) -> Call,
    ) {
        let way = self.engine.way_to(layer.id);
        match self.files.slot(&mut self.ring, layer, segment, way) {
            Ok(slot) => {
                let request = &mut self.requests[index as usize];
                request.slots.push(slot);
                request.calls += 1;
                self.calls += 1;
                self.ring.start(index, call(slot), &self.scratch);
            }
            Err(error) => drop(self.request(index).error.get_or_insert(error)),
        }
    }

    /// Goes on with a request until it waits for calls, for another request, or has ended.
    fn go_on(&mut self, index: u32) {
        while self.request(index).calls == 0 {
            let is_waiting = match self.request(index).stage {
                Stage::Begun => self.begin(index),
                Stage::Reading => {
                    self.decrypt(index);
                    self.part_done(index)
                }
                Stage::InPlace => {
                    if let Some(permit) = self.request(index).permit.take() {
                        self.engine.update(|state| state.settle_in_place(&permit));
                    }
                    self.part_done(index)
                }
                Stage::CopyingUp => self.copied_up(index),
                Stage::Writing => self.settle(index, false),
                Stage::Punching => self.settle(index, true),
                Stage::Ended => {
                    self.end(index);
                    return;
                }
            };
            if is_waiting {
                return;
            }
        }
    }

    /// Begins what a request has to do next; says whether it waits.
    fn begin(&mut self, index: u32) -> bool {
        let is_encrypted = self.engine.cipher.is_some();
        let request = self.request(index);
        if request.error.is_some() || request.at == request.end {
            request.stage = Stage::Ended;
            return false;
        }
        let part_end = if is_encrypted { (request.at / PART_BYTES + 1) * PART_BYTES } else { request.end };
        request.part_end = part_end.min(request.end);
        match request.work {
            Work::Read => {
                let blocks = request.at / BLOCK_BYTES..request.part_end.div_ceil(BLOCK_BYTES);
                if self.lacks(index, blocks, Needs::Bytes) {
                    return self.request(index).error.is_none();
                }
                self.read(index);
                false
            }
            Work::Write => self.write(index),
            Work::Zero { punch } => self.zero(index, punch),
            Work::Flush => true,
        }
    }

    fn part_done(&mut self, index: u32) -> bool {
        let request = self.request(index);
        request.at = request.part_end;
        request.stage = Stage::Begun;
        false
    }

    fn end(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        request.arrived.clear();
        request.slots.drain(..).for_each(|slot| self.files.release(&mut self.ring, slot));
        let result = request.error.take().map_or(Ok(()), Err);
        self.ended.push_back(Completion { token: request.token, result });
        self.free.push(index);
    }

    /// One call for each run that stands in one place.
    fn read(&mut self, index: u32) {
        let is_encrypted = self.engine.cipher.is_some();
        let request = self.request(index);
        let buffers = std::mem::take(&mut request.buffers);
        let (mut at, end) = (request.at, request.part_end);
        let mut cursor = Cursor::new(&buffers);
        if is_encrypted {
            request.begin_bounced();
            cursor.skip(at - request.start);
        }
        while at < end {
            let (block, within) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
            let (location, run) = self.engine.map.run(block, end.div_ceil(BLOCK_BYTES) - block);
            let Some(layer) = self.files.find(&self.engine, &mut self.ring, location) else { continue };
            let run = match &layer {
                Some(layer) => run.min(layer.place(block).run),
                None => run.min(CHUNK_BLOCKS - block % CHUNK_BLOCKS),
            };
            let len = (run * BLOCK_BYTES - within).min(end - at);
            match layer {
                None => self.copy_arrived(index, location, at, &mut cursor, len),
                Some(layer) => {
                    let place = layer.place(block);
                    self.scratch.clear();
                    self.scratch.extend(cursor.take(len));
                    if is_encrypted {
                        self.requests[index as usize].bounce_run(at, len, &mut self.scratch);
                    }
                    let offset = place.offset + within;
                    self.call(index, &layer, place.segment, |file| Call::Read { file, offset });
                }
            }
            at += len;
        }
        let request = self.request(index);
        (request.buffers, request.stage) = (buffers, Stage::Reading);
    }

    /// Asks for the right to change some blocks; `None` when the request waits, or is refused.
    fn admit(&mut self, index: u32, blocks: Range<u64>, writes: bool) -> Option<Admission<S::File>> {
        loop {
            let map = &self.engine.map;
            let admission = self.engine.update(|state| state.admit(map, blocks.clone(), &self.waker, writes));
            match admission {
                Admission::Wait => {
                    self.parked.push_back(index);
                    return None;
                }
                Admission::Refuse => {
                    let request = self.request(index);
                    request.error.get_or_insert(io::Error::from_raw_os_error(libc::EIO));
                    return None;
                }
                Admission::Reserve { layer, page } => {
                    let (offset, len) = (Layer::<S::File>::map_offset(page, 0), 2 * BLOCK_BYTES);
                    if let Err(error) = layer.main().allocate(offset, len) {
                        self.request(index).error.get_or_insert(error);
                        return None;
                    }
                    self.engine.update(|state| state.reserved(layer.id, page));
                }
                admitted => return Some(admitted),
            }
        }
    }

    /// Writes a request's buffers to its part; says whether it waits.
    fn write(&mut self, index: u32) -> bool {
        let request = self.request(index);
        let (at, end) = (request.at, request.part_end);
        let blocks = at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        // What is written in part must be there first.
        for offset in [at, end] {
            let block = offset / BLOCK_BYTES;
            if !offset.is_multiple_of(BLOCK_BYTES) && self.lacks(index, block..block + 1, Needs::Place) {
                return self.request(index).error.is_none();
            }
        }
        match self.admit(index, blocks, true) {
            None => self.request(index).error.is_none(),
            Some(Admission::InPlace(permit)) => {
                let layer = Arc::clone(&permit.layer);
                let request = self.request(index);
                (request.permit, request.stage) = (Some(permit), Stage::InPlace);
                if self.engine.cipher.is_some() {
                    self.encrypt(index);
                    let list = std::mem::take(&mut self.request(index).list);
                    self.write_to(index, &layer, at, end, &list);
                    self.request(index).list = list;
                } else {
                    let buffers = std::mem::take(&mut self.request(index).buffers);
                    self.write_to(index, &layer, at, end, &buffers);
                    self.request(index).buffers = buffers;
                }
                false
            }
            Some(Admission::Tracked { permit, checksums }) => {
                self.copy_up(index, permit, checksums);
                false
            }
            Some(Admission::Wait | Admission::Refuse | Admission::Reserve { .. }) => {
                unreachable!("admit deals with these")
            }
        }
    }

    /// One call for each file of the layer that the range is in.
    fn write_to(&mut self, index: u32, layer: &Arc<Layer<S::File>>, at: u64, end: u64, buffers: &[IoBuffer]) {
        let mut cursor = Cursor::new(buffers);
        let mut next = at;
        while next < end {
            let place = layer.place(next / BLOCK_BYTES);
            let within = next % BLOCK_BYTES;
            let len = (place.run.saturating_mul(BLOCK_BYTES) - within).min(end - next);
            let offset = place.offset + within;
            self.scratch.clear();
            self.scratch.extend(cursor.take(len));
            self.call(index, layer, place.segment, |file| Call::Write { file, offset });
            next += len;
        }
    }

    /// Makes the next part of a range zeroes; says whether it waits.
    fn zero(&mut self, index: u32, punch: bool) -> bool {
        let request = self.request(index);
        let (at, end) = (request.at, request.end);
        let next_block = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
        if !at.is_multiple_of(BLOCK_BYTES) || next_block > end {
            (request.start, request.part_end) = (at, next_block.min(end));
            let len = request.part_end - at;
            request.buffers.clear();
            request.buffers.extend(zeroes(len));
            return self.write(index);
        }
        let (first, last) = (at / BLOCK_BYTES, end / BLOCK_BYTES);
        let (location, run) = self.engine.map.run(first, last - first);
        let is_lacking = location == Location::Absent && self.engine.lacks(first);
        if !matches!(location, Location::Layer(_)) && !is_lacking {
            self.request(index).part_end = (first + run) * BLOCK_BYTES;
            return self.part_done(index);
        }
        let blocks = first..last.min(first + ZERO_STEP_BLOCKS);
        self.request(index).part_end = blocks.end * BLOCK_BYTES;
        let permit = match self.admit(index, blocks.clone(), false) {
            Some(Admission::Tracked { permit, .. }) => permit,
            _ => return self.request(index).error.is_none(),
        };
        let layer = Arc::clone(&permit.layer);
        let request = self.request(index);
        (request.permit, request.stage) = (Some(permit), Stage::Punching);
        let mut is_here = false;
        self.engine.map.for_runs(blocks.start, blocks.end, |_, _, location| {
            is_here |= location == Location::Layer(layer.id);
        });
        if punch && is_here {
            self.scratch.clear();
            for (place, count) in layer.places(blocks.start, blocks.end) {
                let (offset, len) = (place.offset, count * BLOCK_BYTES);
                self.call(index, &layer, place.segment, |file| Call::Allocate {
                    file,
                    mode: PUNCH_HOLE,
                    offset,
                    len,
                });
            }
        }
        false
    }

    /// Ends a part that had its blocks alone.
    fn settle(&mut self, index: u32, zeroed: bool) -> bool {
        let map = &self.engine.map;
        let request = &mut self.requests[index as usize];
        if zeroed && request.error.as_ref().is_some_and(is_unsupported) {
            // The file system makes no holes: the map says that they are zeroes, and their space stays taken.
            request.error = None;
        }
        let outcome = match (&request.error, zeroed) {
            (Some(_), _) => Outcome::Failed,
            (None, true) => Outcome::Zeroed,
            (None, false) => Outcome::Written {
                checksums: Some(request.checksums.as_slice()).filter(|checksums| !checksums.is_empty()),
            },
        };
        if let Some(permit) = request.permit.take() {
            self.engine.update(|state| state.settle(map, &permit, &outcome));
        }
        self.part_done(index)
    }

    /// Somebody called: looks again at what waits.
    fn resume(&mut self) {
        let mut index = 0;
        while let Some(&(request, number)) = self.flushes.get(index) {
            let flushed = self.engine.state().flushed(number, &self.waker);
            match flushed {
                None => index += 1,
                Some(is_durable) => {
                    self.flushes.swap_remove(index);
                    let error = (!is_durable).then(|| io::Error::from_raw_os_error(libc::EIO));
                    self.request(request).error = error;
                    self.end(request);
                }
            }
        }
        for _ in 0..self.parked.len() {
            if let Some(index) = self.parked.pop_front() {
                self.go_on(index);
            }
        }
    }

    fn call_ended(&mut self, index: u32, result: io::Result<()>) {
        self.calls -= 1;
        let request = self.request(index);
        request.calls -= 1;
        if let Err(error) = result {
            request.error.get_or_insert(error);
        }
        self.go_on(index);
    }

    /// Does all that can be done without waiting.
    fn progress(&mut self) {
        loop {
            if self.waker.was_called() {
                self.resume();
            }
            match self.ring.next() {
                Some(ended) => self.call_ended(ended.owner, ended.result),
                // Ending the last call may have called this very queue.
                None if self.waker.was_called() => self.resume(),
                None => return,
            }
        }
    }

    /// Ends one call, if any is on its way: for tests, which choose what happens when.
    #[cfg(test)]
    pub(crate) fn step(&mut self) {
        if self.waker.was_called() {
            self.resume();
        }
        if let Some(ended) = self.ring.next() {
            self.call_ended(ended.owner, ended.result);
        }
    }

    /// What ended already.
    #[cfg(test)]
    pub(crate) fn take_ended(&mut self) -> Option<Completion> {
        let completion = self.ended.pop_front()?;
        self.in_flight -= 1;
        Some(completion)
    }
}

impl<S: Storage> BlockQueue for Queue<S> {
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.ring.event().as_fd()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        if self.in_flight >= self.depth {
            return Err(QueueFull);
        }
        self.files.refresh(&self.engine, &mut self.ring);
        let index = self.add(token);
        if let Err(error) = check(&request, self.engine.size_bytes(), false) {
            self.request(index).error = Some(error);
            self.end(index);
            return Ok(());
        }
        let (work, offset, len, buffers) = match request {
            BlockRequest::Read { offset, buffers } => (Work::Read, offset, total_len(buffers), buffers),
            BlockRequest::Write { offset, buffers } => (Work::Write, offset, total_len(buffers), buffers),
            BlockRequest::WriteZeroes { offset, len, may_unmap } => {
                (Work::Zero { punch: may_unmap }, offset, len, &[][..])
            }
            BlockRequest::Discard { offset, len } => {
                // Blocks that are in it as a whole; nobody promised anything about the others.
                let first = offset.next_multiple_of(BLOCK_BYTES);
                let last = (offset + len) / BLOCK_BYTES * BLOCK_BYTES;
                (Work::Zero { punch: true }, first, last.saturating_sub(first), &[][..])
            }
            BlockRequest::Flush => {
                let number = self.engine.update(|state| state.want_flush(&self.waker));
                self.request(index).work = Work::Flush;
                self.flushes.push((index, number));
                return Ok(());
            }
        };
        self.request(index).set(work, offset, len, buffers);
        self.go_on(index);
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ring.submit()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        if self.ended.is_empty() {
            self.progress();
        }
        let completion = self.ended.pop_front()?;
        self.in_flight -= 1;
        Some(completion)
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()?;
        self.progress();
        while self.ended.is_empty() && self.in_flight > 0 {
            // A call of another thread comes as the event, which `progress` has armed.
            let mut events = [PollFd::new(self.ring.event().as_fd(), PollFlags::POLLIN)];
            poll(&mut events, PollTimeout::NONE).or_else(|error| match error {
                nix::errno::Errno::EINTR => Ok(0),
                error => Err(error),
            })?;
            // It is looked at just below, whatever it says.
            let _ = self.ring.event().read();
            self.progress();
        }
        Ok(())
    }
}

impl<S: Storage> Drop for Queue<S> {
    /// Waits for what is in flight; what is parked was not begun.
    fn drop(&mut self) {
        // It fails on another thread than the owner's, whose calls have ended with it.
        while self.calls > 0 && self.ring.wait().is_ok() {
            let before = self.calls;
            while let Some(ended) = self.ring.next() {
                self.call_ended(ended.owner, ended.result);
            }
            if self.calls == before {
                break;
            }
        }
        let permits: Vec<_> = self.requests.iter_mut().filter_map(|request| request.permit.take()).collect();
        for permit in permits {
            let map = &self.engine.map;
            self.engine.update(|state| state.settle(map, &permit, &Outcome::Failed));
        }
    }
}
