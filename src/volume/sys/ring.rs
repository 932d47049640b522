//! One io_uring, and whole transfers through it.
//!
//! The kernel may read or write less than it was asked to, and refuses buffers that direct I/O cannot
//! use; [`Ring`] hides both. A call started here ends when all of it was done or failed.
//!
//! ```text
//!   start ─▶ ready ──submit──▶ with the kernel ──▶ arrived ──all of it──▶ ended
//!              ▲                                     │
//!              └──────── a part of it ◀──────────────┘
//! ```
//!
//! Invariants: a slot that is with the kernel owns its buffer list and its bounce memory, and neither
//! moves or is freed before its completion arrived; never more calls are with the kernel than the
//! completion queue has room for, so that it cannot overflow.
//!
//! The event is kept quiet while the owner works: `submit` silences it, and `next` arms it when it
//! finds nothing more. Arming races with arrivals, so the ring is looked at once more afterwards.
//! That needs deferred task work (Linux 6.1), where nothing arrives but on the owner's own calls and
//! the kernel raises a flag, with a full barrier, before it looks whether the event is wanted.
//!
//! A read from the page cache is a copy, which the kernel makes while it takes the call, one after the other. Large ones that are
//! under way together are made by its workers instead, on several processors: those that this thread may run on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use io_uring::{IoUring, opcode, squeue, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::buffer::{AlignedMemory, IoBuffer};
use super::setup;

/// The most buffers that one call to the kernel may have (`IOV_MAX`).
const BUFFERS_MAX: usize = 1024;
/// The most bytes that the kernel moves in one call (`MAX_RW_COUNT`).
const TRANSFER_BYTES_MAX: u64 = 0x7fff_f000;
/// A copy of at least so many bytes, some 30 µs, is worth handing to another processor.
const SHARED_READ_BYTES_MIN: u64 = 256 << 10;
/// How often a call is repeated that the kernel asks to repeat, without any progress in between.
const RETRIES_MAX: u8 = 64;

/// A file of the ring, by its place in the list that the ring was opened with.
pub(crate) type FileIndex = u32;

/// What a ring should know of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingFile<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    /// What the addresses of buffers must be multiples of; `None` when the page cache is used and
    /// anything goes.
    pub(crate) direct_alignment: Option<usize>,
    pub(crate) in_place: InPlace,
}

/// Which transfers the ring does by itself, in `submit`, instead of giving them to the kernel's ring.
///
/// A file system that cannot tell beforehand whether a transfer would wait makes io_uring hand it to
/// a worker thread, one at a time for writes to one file. Where all there is to do is a copy to the
/// page cache, that hand-over costs five times the copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct InPlace {
    pub(crate) reads: bool,
    pub(crate) writes: bool,
}

/// What the kernel is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read {
        file: FileIndex,
        offset: u64,
    },
    Write {
        file: FileIndex,
        offset: u64,
    },
    SyncData {
        file: FileIndex,
    },
    Allocate {
        file: FileIndex,
        mode: i32,
        offset: u64,
        len: u64,
    },
    /// Nothing but a completion.
    Nothing,
}

/// A call that has ended, with what its starter said it belongs to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) owner: u32,
    pub(crate) result: io::Result<()>,
}

struct FileSettings {
    fd: RawFd,
    direct_alignment: Option<usize>,
    in_place: InPlace,
}

struct Slot {
    call: Call,
    owner: u32,
    /// What the kernel still has to transfer, from `first` on.
    buffers: Vec<IoBuffer>,
    first: usize,
    left: u64,
    retries: u8,
    /// Where the data of a bounced read must go in the end.
    scatter: Vec<IoBuffer>,
    bounce: Option<AlignedMemory>,
}

pub(crate) struct Ring {
    uring: IoUring,
    event: Arc<EventFd>,
    files: Vec<FileSettings>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    ready: VecDeque<u32>,
    /// Transfers to be done in place, and those that were.
    in_place: VecDeque<u32>,
    done_in_place: VecDeque<Ended>,
    with_kernel: usize,
    with_kernel_max: usize,
    enabled: bool,
    /// Where the kernel's workers are to run, until it knows.
    affinity: Option<libc::cpu_set_t>,
    armed: bool,
}

impl Ring {
    /// A ring of `entries` calls on `files`, which it keeps open.
    pub(crate) fn new(files: &[RingFile<'_>], entries: u16) -> io::Result<Self> {
        let uring = setup::build(ring_entries(entries), setup::Files::Fixed)?;
        let descriptors: Vec<RawFd> = files.iter().map(|file| file.fd.as_raw_fd()).collect();
        uring.submitter().register_files(&descriptors)?;
        Self::start_up(uring, files.iter().map(FileSettings::new).collect())
    }

    /// A ring of `entries` calls on files that come and go, with room for `files` at a time: see
    /// [`set_file`](Self::set_file).
    pub(crate) fn with_table(files: u32, entries: u16) -> io::Result<Self> {
        let uring = setup::build(ring_entries(entries), setup::Files::Changing)?;
        uring.submitter().register_files_sparse(files)?;
        Self::start_up(uring, (0..files).map(|_| FileSettings::none()).collect())
    }

    /// Puts a file at a place of a ring's list, or nothing. No call may be on its way to what stood there,
    /// and whoever puts a file there keeps it open until something else stands there.
    pub(crate) fn set_file(&mut self, index: FileIndex, file: Option<RingFile<'_>>) -> io::Result<()> {
        let settings = file.as_ref().map_or_else(FileSettings::none, FileSettings::new);
        self.uring.submitter().register_files_update(index, &[settings.fd])?;
        self.files[index as usize] = settings;
        Ok(())
    }

    fn start_up(uring: IoUring, files: Vec<FileSettings>) -> io::Result<Self> {
        let event = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        uring.submitter().register_eventfd(event.as_fd().as_raw_fd())?;
        let with_kernel_max = usize::try_from(uring.params().cq_entries()).unwrap_or(usize::MAX);
        Ok(Self {
            uring,
            event,
            files,
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            in_place: VecDeque::new(),
            done_in_place: VecDeque::new(),
            with_kernel: 0,
            with_kernel_max,
            enabled: false,
            affinity: setup::affinity(),
            armed: true,
        })
    }

    /// Readable when something arrived while the ring was armed.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// The same event, for others that want to make it readable.
    pub(crate) fn shared_event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// Takes a call; the kernel sees it at the next `submit`.
    pub(crate) fn start(&mut self, owner: u32, call: Call, buffers: impl IntoIterator<Item = IoBuffer>) {
        let index = self.free.pop().unwrap_or_else(|| self.add_slot());
        let slot = &mut self.slots[index as usize];
        slot.call = call;
        slot.owner = owner;
        slot.first = 0;
        slot.retries = 0;
        slot.buffers.clear();
        slot.buffers.extend(buffers.into_iter().filter(|buffer| !buffer.is_empty()));
        slot.left = slot.buffers.iter().map(|buffer| buffer.len() as u64).sum();
        if let Call::Read { file, .. } | Call::Write { file, .. } = call {
            let settings = &self.files[file as usize];
            if let Some(alignment) = settings.direct_alignment {
                slot.bounce_unless_aligned(alignment);
            }
            let is_read = matches!(call, Call::Read { .. });
            if is_read && settings.in_place.reads || !is_read && settings.in_place.writes {
                self.in_place.push_back(index);
                return;
            }
        }
        self.ready.push_back(index);
    }

    fn add_slot(&mut self) -> u32 {
        self.slots.push(Slot {
            call: Call::Nothing,
            owner: 0,
            buffers: Vec::new(),
            first: 0,
            left: 0,
            retries: 0,
            scatter: Vec::new(),
            bounce: None,
        });
        u32::try_from(self.slots.len() - 1).expect("a queue has far fewer than 2^32 calls")
    }

    /// Hands what is ready to the kernel.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        if !self.ready.is_empty() {
            self.silence();
        }
        while !self.ready.is_empty() && self.with_kernel < self.with_kernel_max {
            self.fill_submission_queue();
            self.enter(0)?;
        }
        // Last, for they may wait, and the others go on meanwhile.
        while let Some(index) = self.in_place.pop_front() {
            let result = self.transfer_in_place(index);
            let ended = self.end(index, result);
            self.done_in_place.push_back(ended);
        }
        Ok(())
    }

    fn transfer_in_place(&mut self, index: u32) -> io::Result<()> {
        loop {
            let slot = &self.slots[index as usize];
            let result = if slot.left == 0 { 0 } else { slot.transfer(&self.files) };
            if let Some(result) = self.arrived(index, result) {
                return result;
            }
            // What `arrived` would give to the kernel goes on right here.
            self.ready.pop_back();
        }
    }

    /// Waits until something arrived, or nothing is with the kernel.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.submit()?;
        while self.done_in_place.is_empty() && self.with_kernel > 0 && self.uring.completion().is_empty() {
            self.enter(1)?;
        }
        Ok(())
    }

    /// A call that has ended, if any has; arms the event when there is none.
    pub(crate) fn next(&mut self) -> Option<Ended> {
        // The kernel's flag that work waits for this thread may stay when the work is done: the two are set by two threads, one after the
        // other. So the kernel is asked once, and again only after it gave something, or after arming, when an event would be missed.
        let mut has_asked = false;
        loop {
            if let Some(ended) = self.done_in_place.pop_front() {
                return Some(ended);
            }
            let arrival = self.uring.completion().next();
            if let Some(arrival) = arrival {
                self.with_kernel -= 1;
                has_asked = false;
                let index = u32::try_from(arrival.user_data()).expect("we set it to an index");
                if let Some(result) = self.arrived(index, arrival.result()) {
                    return Some(self.end(index, result));
                }
                continue;
            }
            let wants_entry = self.with_kernel > 0 && !has_asked && self.uring.submission().taskrun();
            let has_room = self.with_kernel < self.with_kernel_max;
            let may_submit = !self.in_place.is_empty() || (!self.ready.is_empty() && has_room);
            if wants_entry || may_submit {
                has_asked = true;
                let entered = if may_submit { self.submit() } else { self.enter(0) };
                if entered.is_err() {
                    // The kernel is short of something: come back instead of spinning here.
                    // Writing can fail only when the counter is at its end: readable already.
                    let _ = self.event.write(1);
                    return None;
                }
            } else if self.armed {
                return None;
            } else {
                self.arm();
                has_asked = false;
            }
        }
    }

    /// What became of a call that the kernel answered; `None` when it must go on.
    fn arrived(&mut self, index: u32, result: i32) -> Option<io::Result<()>> {
        let slot = &mut self.slots[index as usize];
        let Ok(transferred) = u32::try_from(result) else {
            let error = io::Error::from_raw_os_error(-result);
            let repeat = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
            if repeat && slot.retries < RETRIES_MAX {
                slot.retries += 1;
                self.ready.push_back(index);
                return None;
            }
            return Some(Err(error));
        };
        let (file, is_read) = match slot.call {
            Call::Read { file, .. } => (file, true),
            Call::Write { file, .. } => (file, false),
            _ => return Some(Ok(())),
        };
        slot.advance(u64::from(transferred));
        // Direct I/O goes on at a multiple of its alignment; less than a sector is the file's end.
        let at_end = transferred == 0
            || (self.files[file as usize].direct_alignment.is_some()
                && !u64::from(transferred).is_multiple_of(crate::SECTOR_BYTES));
        if slot.left == 0 {
            Some(Ok(()))
        } else if !at_end {
            slot.retries = 0;
            self.ready.push_back(index);
            None
        } else if is_read {
            // The file ends before the disk does: what is beyond reads as zeroes.
            slot.buffers[slot.first..].iter().for_each(IoBuffer::fill_with_zeroes);
            Some(Ok(()))
        } else {
            Some(Err(io::ErrorKind::WriteZero.into()))
        }
    }

    fn end(&mut self, index: u32, result: io::Result<()>) -> Ended {
        let slot = &mut self.slots[index as usize];
        if let Some(bounce) = slot.bounce.take()
            && matches!(slot.call, Call::Read { .. })
            && result.is_ok()
        {
            bounce.scatter(&slot.scatter);
        }
        self.free.push(index);
        Ended { owner: slot.owner, result }
    }

    fn fill_submission_queue(&mut self) {
        let mut queue = self.uring.submission();
        while self.with_kernel < self.with_kernel_max && !queue.is_full() {
            let Some(index) = self.ready.pop_front() else { break };
            let slot = &self.slots[index as usize];
            let mut entry = slot.entry().user_data(u64::from(index));
            // The last one is made right here meanwhile.
            let is_last = self.ready.is_empty();
            if !is_last && slot.is_large_copy(&self.files) {
                entry = entry.flags(squeue::Flags::ASYNC);
            }
            // SAFETY: the entry points at the slot's buffers, which stay where they are, and name
            // memory that stays valid, until its completion arrived: `buffers` is a vector that is
            // left alone meanwhile, and `Drop` waits for the kernel before it goes.
            let pushed = unsafe { queue.push(&entry) };
            assert!(pushed.is_ok(), "the queue was not full");
            self.with_kernel += 1;
        }
    }

    /// Calls the kernel: it takes what is in the submission queue, does the work that waits for this
    /// thread, and waits for `want` completions.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        if !self.enabled {
            // Here and not in `new`: the thread that enables a ring owns it.
            self.uring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        loop {
            match self.uring.submitter().submit_and_wait(want) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // There are workers only after the first call. A kernel that refuses lets them run anywhere.
        if let Some(affinity) = self.affinity.take() {
            let _ = self.uring.submitter().register_iowq_aff(&affinity);
        }
        Ok(())
    }

    fn silence(&mut self) {
        if self.armed {
            self.uring.completion().disable_eventfd();
            self.armed = false;
        }
    }

    fn arm(&mut self) {
        self.uring.completion().enable_eventfd();
        // The caller looks at the ring again, and must not do so before the kernel can see the above.
        fence(Ordering::SeqCst);
        self.armed = true;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.with_kernel > 0 {
            // It fails on another thread than the owner's, and then the owner is gone: a thread that
            // ends waits for its own calls first.
            if self.enter(1).is_err() {
                return;
            }
            self.with_kernel -= self.uring.completion().count();
        }
    }
}

fn ring_entries(wanted: u16) -> u32 {
    u32::from(wanted.clamp(1, 4096)).next_power_of_two()
}

impl FileSettings {
    /// A place without a file.
    fn none() -> Self {
        Self { fd: -1, direct_alignment: None, in_place: InPlace::default() }
    }

    fn new(file: &RingFile<'_>) -> Self {
        Self { fd: file.fd.as_raw_fd(), direct_alignment: file.direct_alignment, in_place: file.in_place }
    }
}

impl Slot {
    /// Transfers as much as one call does, and gives its result as the ring would.
    fn transfer(&self, files: &[FileSettings]) -> i32 {
        let buffers = &self.buffers[self.first..];
        let count = i32::try_from(buffers.len().min(BUFFERS_MAX)).expect("at most BUFFERS_MAX");
        let start = buffers.as_ptr().cast::<libc::iovec>();
        let position = |offset| i64::try_from(offset).unwrap_or(i64::MAX);
        let result = match self.call {
            Call::Read { file, offset } => {
                // SAFETY: `start` points at `count` buffers (`IoBuffer` is transparent), whose memory
                // is valid and writable, as its maker promised.
                unsafe { libc::preadv(files[file as usize].fd, start, count, position(offset)) }
            }
            Call::Write { file, offset } => {
                // SAFETY: as above.
                unsafe { libc::pwritev(files[file as usize].fd, start, count, position(offset)) }
            }
            _ => 0,
        };
        match i32::try_from(result) {
            Ok(transferred) if transferred >= 0 => transferred,
            _ => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
        }
    }

    fn is_large_copy(&self, files: &[FileSettings]) -> bool {
        let Call::Read { file, .. } = self.call else { return false };
        self.left >= SHARED_READ_BYTES_MIN && files[file as usize].direct_alignment.is_none()
    }

    fn entry(&self) -> squeue::Entry {
        let buffers = &self.buffers[self.first..];
        let count = u32::try_from(buffers.len().min(BUFFERS_MAX)).expect("at most BUFFERS_MAX");
        let single = |buffer: &IoBuffer| {
            let len = u64::min(buffer.len() as u64, TRANSFER_BYTES_MAX);
            (buffer.start(), u32::try_from(len).expect("at most TRANSFER_BYTES_MAX"))
        };
        match self.call {
            Call::Read { file, offset } => match buffers {
                [buffer] => {
                    let (start, len) = single(buffer);
                    opcode::Read::new(types::Fixed(file), start, len).offset(offset).build()
                }
                _ => opcode::Readv::new(types::Fixed(file), buffers.as_ptr().cast(), count)
                    .offset(offset)
                    .build(),
            },
            Call::Write { file, offset } => match buffers {
                [buffer] => {
                    let (start, len) = single(buffer);
                    opcode::Write::new(types::Fixed(file), start, len).offset(offset).build()
                }
                _ => opcode::Writev::new(types::Fixed(file), buffers.as_ptr().cast(), count)
                    .offset(offset)
                    .build(),
            },
            Call::SyncData { file } => {
                opcode::Fsync::new(types::Fixed(file)).flags(types::FsyncFlags::DATASYNC).build()
            }
            Call::Allocate { file, mode, offset, len } => {
                opcode::Fallocate::new(types::Fixed(file), len).offset(offset).mode(mode).build()
            }
            Call::Nothing => opcode::Nop::new().build().flags(squeue::Flags::FIXED_FILE),
        }
    }

    /// Takes note that `transferred` bytes more were done.
    fn advance(&mut self, transferred: u64) {
        self.left = self.left.saturating_sub(transferred);
        if let Call::Read { offset, .. } | Call::Write { offset, .. } = &mut self.call {
            *offset += transferred;
        }
        let mut rest = usize::try_from(transferred).expect("64-bit addresses");
        while let Some(buffer) = self.buffers.get_mut(self.first)
            && rest > 0
        {
            if rest < buffer.len() {
                *buffer = buffer.part(rest, usize::MAX);
                return;
            }
            rest -= buffer.len();
            self.first += 1;
        }
    }

    /// Direct I/O takes only aligned memory: other goes through a copy.
    fn bounce_unless_aligned(&mut self, alignment: usize) {
        let sector = 512;
        let fits = |buffer: &IoBuffer| {
            buffer.start().addr().is_multiple_of(alignment) && buffer.len().is_multiple_of(sector)
        };
        if self.buffers.iter().all(fits) {
            return;
        }
        let len = usize::try_from(self.left).expect("64-bit addresses");
        let memory = AlignedMemory::zeroed(len);
        if matches!(self.call, Call::Write { .. }) {
            memory.gather(&self.buffers);
        } else {
            self.scatter.clear();
            self.scatter.append(&mut self.buffers);
        }
        self.buffers.clear();
        self.buffers.push(memory.buffer());
        self.bounce = Some(memory);
    }
}
