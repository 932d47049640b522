//! A disk whose writers wait while there is no room for what they write.
//!
//! What ends with `ENOSPC` or `EDQUOT` is asked again, each [`RETRY`], until it ends otherwise: whoever uses the disk sees a slow write instead of an error, which
//! a file system may answer by refusing all further ones. Requests in flight have no order, so one that is asked again later is as if it had
//! been slow.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use types::{Clock, Instant, SystemClock};

use crate::alarm::Alarms;
use crate::backend::{BlockBackend, BlockQueue, BlockRequest, Completion, QueueFull, Topology};
use crate::kept::Kept;

/// How long after it failed a request is asked again.
pub const RETRY: Duration = Duration::from_secs(1);

/// A disk that is waited for.
pub struct Waiting {
    disk: Arc<dyn BlockBackend>,
    shared: Arc<Shared>,
}

struct Shared {
    /// How many requests wait.
    waiting: AtomicUsize,
    alarms: Alarms,
}

impl Waiting {
    /// Makes the writers of a disk wait.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn new(disk: Arc<dyn BlockBackend>) -> io::Result<Self> {
        let shared = Shared { waiting: AtomicUsize::new(0), alarms: Alarms::start()? };
        Ok(Self { disk, shared: Arc::new(shared) })
    }

    /// How many requests wait for room now.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }
}

impl BlockBackend for Waiting {
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
        let slots = (0..depth.max(1)).map(|_| Slot::default()).collect::<Vec<_>>();
        let free = (0..slots.len()).rev().collect();
        let held = VecDeque::new();
        Ok(Box::new(Queue { queue, event, shared: Arc::clone(&self.shared), slots, free, held }))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buffer)
    }
}

struct Queue {
    queue: Box<dyn BlockQueue>,
    /// The completion event of the disk's queue.
    event: Arc<File>,
    shared: Arc<Shared>,
    /// What is in flight. The disk's queue knows each by its index.
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Those that wait for room, and until when.
    held: VecDeque<(usize, Instant)>,
}

#[derive(Default)]
struct Slot {
    token: u64,
    kept: Kept,
}

/// The disk's queue knows requests by numbers of 64 bits.
fn index(token: u64) -> usize {
    usize::try_from(token).expect("an index was given")
}

fn is_full(result: &io::Result<()>) -> bool {
    let error = result.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(error, Some(libc::ENOSPC | libc::EDQUOT))
}

impl Queue {
    fn hold(&mut self, slot: usize) {
        if self.shared.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("a disk has no room for what is written to it; writes wait until there is some");
        }
        self.held.push_back((slot, SystemClock.now().after(RETRY)));
    }

    /// Asks again what has waited long enough; says whether there was any, and until when the next one waits.
    fn release(&mut self) -> (bool, Option<Instant>) {
        let mut has_released = false;
        while let Some((slot, until)) = self.held.front().copied() {
            if until > SystemClock.now() {
                self.shared.alarms.set(until, &self.event);
                return (has_released, Some(until));
            }
            self.held.pop_front();
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            let pushed = self.queue.push(slot as u64, self.slots[slot].kept.request());
            pushed.expect("the disk's queue is as deep as this one");
            has_released = true;
        }
        (has_released, None)
    }
}

impl BlockQueue for Queue {
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.queue.completion_event()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        let slot = self.free.pop().ok_or(QueueFull)?;
        self.slots[slot].token = token;
        self.slots[slot].kept.keep(request);
        self.queue.push(slot as u64, request)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.release();
        self.queue.submit()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        loop {
            match self.queue.next_completion() {
                Some(Completion { token, result }) if is_full(&result) => self.hold(index(token)),
                Some(Completion { token, result }) => {
                    let slot = index(token);
                    self.free.push(slot);
                    return Some(Completion { token: self.slots[slot].token, result });
                }
                None if !self.release().0 => return None,
                // If the ring is broken, what it had does not end, and whoever submits is told.
                None => drop(self.queue.submit()),
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn wait(&mut self) -> io::Result<()> {
        let (_, until) = self.release();
        match until {
            // Nothing is under way, and whoever calls this has nothing else to do.
            Some(until) if self.queue.in_flight() == 0 => {
                std::thread::sleep(until.since(SystemClock.now()));
                self.release();
                self.queue.wait()
            }
            _ => self.queue.wait(),
        }
    }
}

impl Drop for Queue {
    /// What waits was not carried out.
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(self.held.len(), Ordering::Relaxed);
        self.shared.alarms.remove(&self.event);
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;
    use crate::testing::{FakeDisk, Memory, execute};

    /// A disk that is full.
    fn full() -> (Waiting, FakeDisk) {
        let disk = FakeDisk::new(vec![0; 65536]);
        disk.fail(0..65536, libc::ENOSPC);
        (Waiting::new(Arc::new(disk.clone())).unwrap(), disk)
    }

    #[test]
    fn a_write_waits_for_room_and_all_else_goes_on() {
        let (disk, inner) = full();
        let mut queue = disk.open_queue(8).unwrap();
        let written: Vec<_> = (1..=4u8).map(|byte| Memory::from_bytes(&[byte; 4096])).collect();
        for (place, memory) in written.iter().enumerate() {
            let request = BlockRequest::Write { offset: place as u64 * 4096, buffers: &[memory.all()] };
            queue.push(100 + place as u64, request).unwrap();
        }
        queue.submit().unwrap();
        assert!(queue.next_completion().is_none());
        assert_eq!((disk.waiting(), queue.in_flight()), (4, 4));
        execute(&mut *disk.open_queue(1).unwrap(), BlockRequest::Flush).unwrap();
        inner.recover();
        let mut ended = Vec::new();
        while ended.len() < 4 {
            queue.wait().unwrap();
            while let Some(Completion { token, result }) = queue.next_completion() {
                result.unwrap();
                ended.push(token);
            }
        }
        assert_eq!(ended, [100, 101, 102, 103]);
        assert_eq!((disk.waiting(), queue.in_flight()), (0, 0));
        let mut bytes = [0; 4 * 4096];
        disk.read_at(0, &mut bytes).unwrap();
        assert!((0..4u8).all(|place| bytes[usize::from(place) * 4096] == place + 1));
    }

    #[test]
    fn whoever_watches_the_event_is_woken_for_the_next_try() {
        let (disk, inner) = full();
        let mut queue = disk.open_queue(1).unwrap();
        let memory = Memory::from_bytes(&[1; 4096]);
        queue.push(7, BlockRequest::Write { offset: 0, buffers: &[memory.all()] }).unwrap();
        assert!(queue.push(8, BlockRequest::Flush).is_err(), "one is in flight");
        queue.submit().unwrap();
        let deadline = SystemClock.now().after(Duration::from_secs(60));
        loop {
            if let Some(Completion { token, result }) = queue.next_completion() {
                result.unwrap();
                assert_eq!(token, 7);
                break;
            }
            assert!(SystemClock.now() < deadline, "nobody was woken");
            if disk.waiting() == 1 {
                inner.recover();
            }
            let mut watched = [PollFd::new(queue.completion_event(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut watched, 60_000u16).unwrap(), 1, "nobody was woken");
            nix::unistd::read(queue.completion_event(), &mut [0; 8]).unwrap();
        }
    }

    #[test]
    fn what_waits_when_its_queue_is_dropped_waits_no_more() {
        let (disk, _) = full();
        let mut queue = disk.open_queue(1).unwrap();
        let memory = Memory::from_bytes(&[1; 4096]);
        queue.push(7, BlockRequest::Write { offset: 0, buffers: &[memory.all()] }).unwrap();
        queue.submit().unwrap();
        assert!(queue.next_completion().is_none());
        drop(queue);
        assert_eq!(disk.waiting(), 0);
    }
}
