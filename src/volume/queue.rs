//! The one kind of queue that the disks of this crate have.
//!
//! A disk is one or more files and a [`Layout`] that says where each sector stands. A request becomes
//! one call for each run of sectors that stand together, all in one ring, and ends with the last of
//! them. Nothing is allocated for a request once a queue has warmed up: requests, calls and their
//! buffer lists are slots that are used again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::{BlockQueue, BlockRequest, Completion, IoBuffer, QueueFull, SECTOR_BYTES};
use crate::sys::{Call, FileIndex, Ring, RingFile, zeroes};

/// The most that one call writes where a file system cannot make zeroes by itself.
const ZEROES_PER_CALL_BYTES: u64 = 16 << 20;

/// Where the sectors of a disk stand.
pub(crate) trait Layout: Send + Sync + 'static {
    fn size_bytes(&self) -> u64;
    fn is_read_only(&self) -> bool;

    /// The files, in the order of their [`FileIndex`].
    fn files(&self) -> Vec<RingFile<'_>>;

    /// The file that holds what is at `offset`, and for how many bytes, at most `len`, it does.
    fn run(&self, offset: u64, len: u64) -> (FileIndex, u64);

    /// The file that everything is written to.
    fn top(&self) -> FileIndex;

    /// Takes note that the range was written to the top; before the guest hears of it.
    fn written(&self, offset: u64, len: u64);

    /// Whether a flush must reach stable storage; not if nobody can see the top after a crash.
    fn survives_crashes(&self) -> bool;

    /// What the file system of the top can do.
    fn top_abilities(&self) -> &Abilities;
}

/// What a file system turned out not to do; learnt at the first refusal, and then not tried again.
#[derive(Debug, Default)]
pub(crate) struct Abilities {
    lacks_punch_hole: AtomicBool,
    lacks_zero_range: AtomicBool,
}

/// A way to make a range read as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zeroing {
    PunchHole,
    ZeroRange,
    /// Writing zeroes from here on.
    Write {
        next: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Read,
    Write,
    Flush,
    Discard,
    Zeroes { may_unmap: bool, how: Zeroing },
}

struct Request {
    token: u64,
    work: Work,
    offset: u64,
    len: u64,
    calls: u32,
    error: Option<io::Error>,
}

pub(crate) struct Queue<L> {
    layout: Arc<L>,
    ring: Ring,
    depth: usize,
    requests: Vec<Request>,
    free: Vec<u32>,
    ended: VecDeque<Completion>,
    in_flight: usize,
}

impl<L: Layout> Queue<L> {
    pub(crate) fn new(layout: Arc<L>, depth: u16) -> io::Result<Self> {
        let ring = Ring::new(&layout.files(), depth)?;
        Ok(Self {
            layout,
            ring,
            depth: usize::from(depth.max(1)),
            requests: Vec::new(),
            free: Vec::new(),
            ended: VecDeque::new(),
            in_flight: 0,
        })
    }

    fn add(&mut self, request: Request) -> u32 {
        self.in_flight += 1;
        if let Some(index) = self.free.pop() {
            self.requests[index as usize] = request;
            return index;
        }
        self.requests.push(request);
        u32::try_from(self.requests.len() - 1).expect("a queue is at most 65,535 deep")
    }

    fn call(&mut self, index: u32, call: Call, buffers: impl IntoIterator<Item = IoBuffer>) {
        self.requests[index as usize].calls += 1;
        self.ring.start(index, call, buffers);
    }

    /// One call for each file that holds some of it, and the next part of the buffers for each.
    fn read(&mut self, index: u32, mut offset: u64, buffers: &[IoBuffer]) {
        let len = total_len(buffers);
        let end = offset + len;
        let mut cursor = Cursor::new(buffers);
        while offset < end {
            let (file, run) = self.layout.run(offset, end - offset);
            self.call(index, Call::Read { file, offset }, cursor.take(run));
            offset += run;
        }
    }

    /// Goes on with making zeroes; called once for each step.
    fn zero(&mut self, index: u32, how: Zeroing) {
        let file = self.layout.top();
        let request = &self.requests[index as usize];
        let (offset, len) = (request.offset, request.len);
        let allocate = |mode| Call::Allocate { file, mode: mode | libc::FALLOC_FL_KEEP_SIZE, offset, len };
        match how {
            Zeroing::PunchHole => self.call(index, allocate(libc::FALLOC_FL_PUNCH_HOLE), []),
            Zeroing::ZeroRange => self.call(index, allocate(libc::FALLOC_FL_ZERO_RANGE), []),
            Zeroing::Write { next } => {
                let len = u64::min(offset + len - next, ZEROES_PER_CALL_BYTES);
                self.call(index, Call::Write { file, offset: next }, zeroes(len));
            }
        }
    }

    /// A call of the request ended: the next step, or the request's end.
    fn call_ended(&mut self, index: u32, result: io::Result<()>) {
        let request = &mut self.requests[index as usize];
        request.calls -= 1;
        if let Err(error) = result {
            if let Some(how) = self.another_way(index, &error) {
                return self.zero(index, how);
            }
            let request = &mut self.requests[index as usize];
            let is_hint = request.work == Work::Discard && is_unsupported(&error);
            if !is_hint {
                request.error.get_or_insert(error);
            } else {
                // Nothing changed, so nothing is to be noted either.
                request.len = 0;
            }
        } else if let Work::Zeroes { may_unmap, how: Zeroing::Write { next } } = request.work {
            let next = next + ZEROES_PER_CALL_BYTES;
            if next < request.offset + request.len {
                let how = Zeroing::Write { next };
                request.work = Work::Zeroes { may_unmap, how };
                return self.zero(index, how);
            }
        }
        if self.requests[index as usize].calls == 0 {
            self.request_ended(index);
        }
    }

    fn request_ended(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        let result = request.error.take().map_or(Ok(()), Err);
        let changes = matches!(request.work, Work::Write | Work::Discard | Work::Zeroes { .. });
        if result.is_ok() && changes && request.len > 0 {
            self.layout.written(request.offset, request.len);
        }
        self.ended.push_back(Completion { token: request.token, result });
        self.free.push(index);
    }

    /// The next way to make zeroes, when the file system does not have the one that was tried.
    fn another_way(&mut self, index: u32, error: &io::Error) -> Option<Zeroing> {
        let abilities = self.layout.top_abilities();
        let request = &mut self.requests[index as usize];
        let tried = match request.work {
            Work::Discard => Zeroing::PunchHole,
            Work::Zeroes { how, .. } => how,
            _ => return None,
        };
        if !is_unsupported(error) {
            return None;
        }
        // A block device says "invalid" of a range that does not suit it; another may.
        if error.raw_os_error() != Some(libc::EINVAL) {
            match tried {
                Zeroing::PunchHole => abilities.lacks_punch_hole.store(true, Ordering::Relaxed),
                Zeroing::ZeroRange => abilities.lacks_zero_range.store(true, Ordering::Relaxed),
                Zeroing::Write { .. } => {}
            }
        }
        let Work::Zeroes { may_unmap, .. } = request.work else { return None };
        let how = match tried {
            Zeroing::PunchHole => abilities.zero_range_or_write(request.offset),
            Zeroing::ZeroRange => Zeroing::Write { next: request.offset },
            Zeroing::Write { .. } => return None,
        };
        request.work = Work::Zeroes { may_unmap, how };
        Some(how)
    }
}

impl<L: Layout> BlockQueue for Queue<L> {
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.ring.event()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        if self.in_flight >= self.depth {
            return Err(QueueFull);
        }
        let error = check(&request, self.layout.size_bytes(), self.layout.is_read_only()).err();
        let (work, offset, len) = match request {
            BlockRequest::Read { offset, buffers } => (Work::Read, offset, total_len(buffers)),
            BlockRequest::Write { offset, buffers } => (Work::Write, offset, total_len(buffers)),
            BlockRequest::Flush => (Work::Flush, 0, 0),
            BlockRequest::Discard { offset, len } => (Work::Discard, offset, len),
            BlockRequest::WriteZeroes { offset, len, may_unmap } => {
                let how = self.layout.top_abilities().zeroing(offset, may_unmap);
                (Work::Zeroes { may_unmap, how }, offset, len)
            }
        };
        let refused = error.is_some();
        let index = self.add(Request { token, work, offset, len, calls: 0, error });
        match (request, work) {
            _ if refused => {}
            (BlockRequest::Read { offset, buffers }, _) => self.read(index, offset, buffers),
            (BlockRequest::Write { offset, buffers }, _) if len > 0 => {
                let file = self.layout.top();
                self.call(index, Call::Write { file, offset }, buffers.iter().copied());
            }
            (BlockRequest::Flush, _) if self.layout.survives_crashes() => {
                self.call(index, Call::SyncData { file: self.layout.top() }, []);
            }
            (BlockRequest::Discard { .. }, _)
                if len > 0 && !self.layout.top_abilities().lacks_punch_hole.load(Ordering::Relaxed) =>
            {
                self.zero(index, Zeroing::PunchHole);
            }
            (_, Work::Zeroes { how, .. }) if len > 0 => self.zero(index, how),
            _ => {}
        }
        let request = &mut self.requests[index as usize];
        if request.calls == 0 {
            // There is nothing to do, but its end is told as any other.
            request.len = 0;
            self.call(index, Call::Nothing, []);
        }
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ring.submit()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.ended.pop_front() {
                self.in_flight -= 1;
                return Some(completion);
            }
            let ended = self.ring.next()?;
            self.call_ended(ended.owner, ended.result);
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn wait(&mut self) -> io::Result<()> {
        while self.ended.is_empty() && self.in_flight > 0 {
            self.ring.wait()?;
            while let Some(ended) = self.ring.next() {
                self.call_ended(ended.owner, ended.result);
            }
        }
        Ok(())
    }
}

impl Abilities {
    /// The first way to try.
    fn zeroing(&self, offset: u64, may_unmap: bool) -> Zeroing {
        if may_unmap && !self.lacks_punch_hole.load(Ordering::Relaxed) {
            return Zeroing::PunchHole;
        }
        self.zero_range_or_write(offset)
    }

    fn zero_range_or_write(&self, offset: u64) -> Zeroing {
        if self.lacks_zero_range.load(Ordering::Relaxed) {
            Zeroing::Write { next: offset }
        } else {
            Zeroing::ZeroRange
        }
    }
}

/// Refuses what is wrong in itself.
pub(crate) fn check(request: &BlockRequest<'_>, size_bytes: u64, read_only: bool) -> io::Result<()> {
    let (offset, len, writes) = match *request {
        BlockRequest::Read { offset, buffers } => (offset, total_len(buffers), false),
        BlockRequest::Write { offset, buffers } => (offset, total_len(buffers), true),
        BlockRequest::Flush => return Ok(()),
        BlockRequest::Discard { offset, len } | BlockRequest::WriteZeroes { offset, len, .. } => {
            (offset, len, true)
        }
    };
    if writes && read_only {
        return Err(io::Error::from_raw_os_error(libc::EROFS));
    }
    let whole_sectors = offset.is_multiple_of(SECTOR_BYTES) && len.is_multiple_of(SECTOR_BYTES);
    let within = offset.checked_add(len).is_some_and(|end| end <= size_bytes);
    if !whole_sectors || !within {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV))
}

pub(crate) fn total_len(buffers: &[IoBuffer]) -> u64 {
    buffers.iter().fold(0u64, |sum, buffer| sum.saturating_add(buffer.len() as u64))
}

/// Where a walk through a list of buffers stands.
pub(crate) struct Cursor<'a> {
    buffers: &'a [IoBuffer],
    /// How much of the first buffer was taken.
    first_done: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(buffers: &'a [IoBuffer]) -> Self {
        Self { buffers, first_done: 0 }
    }

    /// Leaves out the next `len` bytes.
    pub(crate) fn skip(&mut self, len: u64) {
        self.take(len).for_each(drop);
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: u64) -> impl Iterator<Item = IoBuffer> {
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        std::iter::from_fn(move || {
            let first = self.buffers.first()?;
            if left == 0 {
                return None;
            }
            let part = first.part(self.first_done, left);
            left -= part.len();
            self.first_done += part.len();
            if self.first_done == first.len() {
                self.buffers = &self.buffers[1..];
                self.first_done = 0;
            }
            Some(part)
        })
    }
}
