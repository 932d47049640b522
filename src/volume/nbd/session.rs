//! The transmission phase of one connection: requests in, replies out, on one thread and one queue of the disk.
//!
//! ```text
//!   socket ─▶ received ─▶ slot ─▶ BlockQueue ─▶ outgoing ─▶ socket
//!             many requests       one submit     many replies
//!             in one call         for all        in one call
//! ```
//!
//! A request has a slot from its header's arrival until its reply was sent. Its data are in pieces of the pool, which the disk and the
//! socket transfer to and from directly; only what of a write came together with headers is copied once. When no slot or no memory is left, the
//! header stays where it is and nothing more is read.
//!
//! A block status needs no queue and is answered at once; where the disk has to ask an object store for it, all of the connection waits.
//!
//! Invariants: a slot is either free, with the receiver, with the queue or in `outgoing`; its pieces are the kernel's only while it is with
//! the queue. The queue ends before the memory does.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::handshake::Chosen;
use super::pool::Pool;
use super::protocol::{
    Error, REPLY_BYTES_MAX, REQUEST_BYTES, ReplyHeader, RequestHeader, allocation_flag, command, command_flag,
};
use super::{DEPTH, Export, TRANSFER_BYTES_MAX};
use crate::backend::{BlockQueue, BlockRequest, Content, SECTOR_BYTES};
use crate::extents::extents;
use crate::sys::{AlignedMemory, Arena, IoBuffer, Waiting, receive, send};

/// Room for the requests and small writes that arrive together.
const RECEIVED_BYTES: NonZeroUsize = NonZeroUsize::new(256 << 10).expect("it is not zero");
const SLOTS: usize = DEPTH as usize;
/// As many requests are begun with at once. With 32, the disk stands still while they are read, and this thread while they are done.
const BATCH: usize = 8;
/// A length and what is told of it.
const DESCRIPTOR_BYTES: u32 = 8;
/// How many parts are told at a time: a piece of the pool.
const DESCRIPTORS_MAX: u32 = 8192;
/// How many buffers that were sent may stand before those that were not.
const OUTGOING_KEPT: usize = 1024;
/// Whose event it is.
const SOCKET: u64 = 0;
const QUEUE: u64 = 1;

/// Why a session ended before the client ended it.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("the disk cannot be opened for a client")]
    Open(#[source] io::Error),
    #[error("the connection failed")]
    Connection(#[source] io::Error),
    #[error("the client sent something that is no request")]
    NotARequest,
    #[error("the disk's queue failed")]
    Queue(#[source] io::Error),
}

/// Serves a client that chose an export, until it disconnects. What is in flight then is ended and answered.
///
/// # Errors
/// [`SessionError`]
pub(super) fn serve(socket: BorrowedFd<'_>, export: &Export, chosen: &Chosen) -> Result<(), SessionError> {
    Session::new(socket, export, chosen)?.run()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes { may_unmap: bool },
    BlockStatus { only_one: bool },
}

/// A request, from its header to its reply.
struct Slot {
    cookie: u64,
    offset: u64,
    len: u32,
    work: Work,
    /// It is to be durable before it is answered.
    then_flush: bool,
    pieces: Vec<IoBuffer>,
}

/// What the next byte from the client belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Header,
    /// The data of a write, of which so much is in its pieces.
    Data {
        slot: usize,
        done: usize,
    },
    /// The data of a write that is refused, of which so much is to come.
    Refused {
        slot: usize,
        left: u32,
        error: Error,
    },
    /// Nothing more is wanted.
    Ended,
}

struct Session<'a> {
    // The first to be dropped: that waits until the disk has no more to do with the memory below.
    queue: Box<dyn BlockQueue>,
    socket: BorrowedFd<'a>,
    export: &'a Export,
    structured: bool,
    allocation: bool,
    events: Epoll,
    /// What is known of the socket since its last event.
    is_readable: bool,
    is_writable: bool,

    slots: Vec<Slot>,
    free: Vec<usize>,
    pool: Pool,
    reply_headers: AlignedMemory,

    received: Arena,
    /// What of `received` was not looked at yet.
    from: usize,
    to: usize,
    receiving: Receiving,
    /// There is a header for which there was no room.
    is_stalled: bool,
    /// Requests were pushed since completions were looked for.
    has_pushed: bool,
    /// How many of them the queue was not told to begin with.
    unsubmitted: usize,

    outgoing: Vec<IoBuffer>,
    /// How many of them were sent.
    sent: usize,
    /// The slots that they belong to, each with the number of its last one.
    replying: Vec<(usize, usize)>,
    /// Buffers of one call.
    scratch: Vec<IoBuffer>,
}

impl<'a> Session<'a> {
    fn new(socket: BorrowedFd<'a>, export: &'a Export, chosen: &Chosen) -> Result<Self, SessionError> {
        let queue = export.disk.open_queue(DEPTH).map_err(SessionError::Open)?;
        let events = watch(socket, queue.completion_event()).map_err(SessionError::Open)?;
        let slot = || Slot {
            cookie: 0,
            offset: 0,
            len: 0,
            work: Work::Flush,
            then_flush: false,
            pieces: Vec::new(),
        };
        Ok(Self {
            queue,
            socket,
            export,
            structured: chosen.structured,
            allocation: chosen.allocation,
            events,
            is_readable: true,
            is_writable: true,
            slots: (0..SLOTS).map(|_| slot()).collect(),
            free: (0..SLOTS).rev().collect(),
            pool: Pool::new().map_err(SessionError::Open)?,
            reply_headers: AlignedMemory::zeroed(SLOTS * REPLY_BYTES_MAX),
            received: Arena::new(RECEIVED_BYTES).map_err(SessionError::Open)?,
            from: 0,
            to: 0,
            receiving: Receiving::Header,
            is_stalled: false,
            has_pushed: false,
            unsubmitted: 0,
            outgoing: Vec::new(),
            sent: 0,
            replying: Vec::new(),
            scratch: Vec::new(),
        })
    }

    fn run(mut self) -> Result<(), SessionError> {
        loop {
            self.submit()?;
            self.has_pushed = false;
            self.take_completions();
            if self.has_pushed {
                continue;
            }
            self.send_replies()?;
            if self.is_stalled {
                self.take_requests()?;
            }
            if self.has_pushed || self.can_send() {
                continue;
            }
            let is_idle = self.queue.in_flight() == 0 && self.outgoing.is_empty();
            if is_idle && self.receiving == Receiving::Ended {
                return Ok(());
            }
            if self.wants_more() && (self.is_readable || is_idle) {
                // With nothing else to do, the next request can be waited for in the call that takes it.
                self.receive(if is_idle { Waiting::Waits } else { Waiting::Returns })?;
                self.take_requests()?;
            } else {
                self.wait()?;
            }
        }
    }

    fn can_send(&self) -> bool {
        self.is_writable && !self.outgoing.is_empty()
    }

    fn wants_more(&self) -> bool {
        !self.is_stalled && self.receiving != Receiving::Ended
    }

    fn wait(&mut self) -> Result<(), SessionError> {
        let mut events = [EpollEvent::empty(); 2];
        let count = match self.events.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => 0,
            outcome => outcome.map_err(|error| SessionError::Queue(error.into()))?,
        };
        for event in events.iter().take(count).filter(|event| event.data() == SOCKET) {
            // An error or an end shows when the socket is used.
            let over = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP;
            self.is_readable |= event.events().intersects(over | EpollFlags::EPOLLIN);
            self.is_writable |= event.events().intersects(over | EpollFlags::EPOLLOUT);
        }
        Ok(())
    }

    /// Has the queue begin with what was pushed.
    fn submit(&mut self) -> Result<(), SessionError> {
        if std::mem::take(&mut self.unsubmitted) > 0 {
            self.queue.submit().map_err(SessionError::Queue)?;
        }
        Ok(())
    }

    /// As [`Self::submit`], when it is worth a call: the disk works on the first requests while the others are still read here.
    fn submit_batch(&mut self) -> Result<(), SessionError> {
        if self.unsubmitted < BATCH { Ok(()) } else { self.submit() }
    }
}

/// Both are watched for edges, so neither has to be read or changed to become quiet.
fn watch(socket: BorrowedFd<'_>, completions: BorrowedFd<'_>) -> io::Result<Epoll> {
    let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let of_socket = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    events.add(socket, EpollEvent::new(of_socket, SOCKET))?;
    events.add(completions, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, QUEUE))?;
    Ok(events)
}

/// From the socket to the queue.
impl Session<'_> {
    /// Takes from the socket what is there: the rest of a write's data to its place, what follows to `received`.
    fn receive(&mut self, waiting: Waiting) -> Result<(), SessionError> {
        // Less than a header is left, if anything.
        let mut rest = [0; REQUEST_BYTES];
        let rest_len = self.received.buffer().part(self.from, self.to - self.from).copy_to(&mut rest);
        self.received.buffer().copy_from(&rest[..rest_len]);
        (self.from, self.to) = (0, rest_len);

        self.scratch.clear();
        let mut data_left = 0;
        if let Receiving::Data { slot, done } = self.receiving {
            let slot = &self.slots[slot];
            data_left = slot.len as usize - done;
            skip(&slot.pieces, done, &mut self.scratch);
        }
        self.scratch.push(self.received.buffer().part(self.to, RECEIVED_BYTES.get()));
        let room = data_left + RECEIVED_BYTES.get() - self.to;
        let count = match receive(self.socket, &self.scratch, waiting) {
            Ok(0) => {
                self.receiving = Receiving::Ended;
                return Ok(());
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
                return Ok(());
            }
            Err(error) => return Err(SessionError::Connection(error)),
        };
        // A stream that gives less than there is room for has no more, and tells when it has.
        self.is_readable = count == room;
        let data = count.min(data_left);
        if let Receiving::Data { done, .. } = &mut self.receiving {
            *done += data;
        }
        self.to += count - data;
        Ok(())
    }

    /// Takes as many requests from `received` as are there and find room.
    fn take_requests(&mut self) -> Result<(), SessionError> {
        self.is_stalled = false;
        loop {
            let there = self.to - self.from;
            match self.receiving {
                Receiving::Ended => return Ok(()),
                Receiving::Header if there < REQUEST_BYTES => return Ok(()),
                Receiving::Header => {
                    let mut bytes = [0; REQUEST_BYTES];
                    self.received.buffer().part(self.from, REQUEST_BYTES).copy_to(&mut bytes);
                    let header = RequestHeader::decode(&bytes).ok_or(SessionError::NotARequest)?;
                    if !self.begin(&header) {
                        self.is_stalled = true;
                        return Ok(());
                    }
                    self.from += REQUEST_BYTES;
                    self.submit_batch()?;
                }
                Receiving::Data { slot, done } => {
                    let done = done + self.copy_data(slot, done);
                    if done < self.slots[slot].len as usize {
                        self.receiving = Receiving::Data { slot, done };
                        return Ok(());
                    }
                    self.receiving = Receiving::Header;
                    self.push(slot);
                    self.submit_batch()?;
                }
                Receiving::Refused { slot, left, error } => {
                    let passed_over = there.min(left as usize);
                    self.from += passed_over;
                    let left = left - u32::try_from(passed_over).expect("at most what is left");
                    if left > 0 {
                        self.receiving = Receiving::Refused { slot, left, error };
                        return Ok(());
                    }
                    self.receiving = Receiving::Header;
                    self.reply(slot, Err(error));
                }
            }
        }
    }

    /// Copies data of a write out of `received`, and says how much.
    fn copy_data(&mut self, slot: usize, done: usize) -> usize {
        self.scratch.clear();
        skip(&self.slots[slot].pieces, done, &mut self.scratch);
        let start = self.from;
        for piece in &self.scratch {
            let source = self.received.buffer().part(self.from, self.to - self.from);
            self.from += source.copy_to_buffer(piece);
        }
        self.from - start
    }

    /// Starts with a request; false if there is no room for it now.
    fn begin(&mut self, header: &RequestHeader) -> bool {
        if header.command == command::DISCONNECT {
            self.receiving = Receiving::Ended;
            return true;
        }
        let Some(&index) = self.free.last() else { return false };
        let work = self.check(header);
        let slot = &mut self.slots[index];
        slot.cookie = header.cookie;
        slot.offset = header.offset;
        slot.len = header.len;
        // What is refused is answered as a flush is: without data.
        slot.work = work.unwrap_or(Work::Flush);
        slot.then_flush = header.flags & command_flag::FUA != 0
            && matches!(slot.work, Work::Write | Work::Trim | Work::WriteZeroes { .. });
        let data_len = match work {
            Ok(Work::Read | Work::Write) => header.len,
            Ok(Work::BlockStatus { .. }) => DESCRIPTOR_BYTES * DESCRIPTORS_MAX,
            _ => 0,
        };
        if !self.pool.take(data_len, &mut slot.pieces) {
            return false;
        }
        self.free.pop();
        match work {
            Ok(Work::Write) => self.receiving = Receiving::Data { slot: index, done: 0 },
            Ok(Work::BlockStatus { only_one }) => self.tell_status(index, only_one),
            Ok(_) => self.push(index),
            Err(error) if header.command == command::WRITE => {
                self.receiving = Receiving::Refused { slot: index, left: header.len, error };
            }
            Err(error) => self.reply(index, Err(error)),
        }
        true
    }

    /// What a request asks for, if it may.
    fn check(&self, header: &RequestHeader) -> Result<Work, Error> {
        let (work, flags) = match header.command {
            command::READ if self.structured => (Work::Read, command_flag::DF),
            command::READ => (Work::Read, 0),
            command::WRITE => (Work::Write, 0),
            command::FLUSH => (Work::Flush, 0),
            command::TRIM => (Work::Trim, 0),
            command::WRITE_ZEROES => {
                let may_unmap = header.flags & command_flag::NO_HOLE == 0;
                (Work::WriteZeroes { may_unmap }, command_flag::NO_HOLE)
            }
            command::BLOCK_STATUS if self.allocation && header.len > 0 => {
                let only_one = header.flags & command_flag::REQ_ONE != 0;
                (Work::BlockStatus { only_one }, command_flag::REQ_ONE)
            }
            _ => return Err(Error::Invalid),
        };
        // FUA may stand at every request.
        if header.flags & !(flags | command_flag::FUA) != 0 {
            return Err(Error::Invalid);
        }
        if work == Work::Flush {
            return if header.offset == 0 && header.len == 0 { Ok(work) } else { Err(Error::Invalid) };
        }
        let is_reading = matches!(work, Work::Read | Work::BlockStatus { .. });
        if !is_reading && self.export.disk.is_read_only() {
            return Err(Error::NotPermitted);
        }
        let is_transfer = matches!(work, Work::Read | Work::Write);
        let is_too_long = is_transfer && header.len > TRANSFER_BYTES_MAX;
        let is_whole =
            header.offset.is_multiple_of(SECTOR_BYTES) && u64::from(header.len).is_multiple_of(SECTOR_BYTES);
        if is_too_long || !is_whole {
            return Err(Error::Invalid);
        }
        let end = header.offset.checked_add(u64::from(header.len));
        if end.is_none_or(|end| end > self.export.disk.size_bytes()) {
            let grows = matches!(work, Work::Write | Work::WriteZeroes { .. });
            return Err(if grows { Error::NoSpace } else { Error::Invalid });
        }
        Ok(work)
    }

    fn push(&mut self, index: usize) {
        let slot = &self.slots[index];
        let (offset, len) = (slot.offset, u64::from(slot.len));
        let request = match slot.work {
            Work::Read => BlockRequest::Read { offset, buffers: &slot.pieces },
            Work::Write => BlockRequest::Write { offset, buffers: &slot.pieces },
            Work::Flush => BlockRequest::Flush,
            Work::Trim => BlockRequest::Discard { offset, len },
            Work::WriteZeroes { may_unmap } => BlockRequest::WriteZeroes { offset, len, may_unmap },
            Work::BlockStatus { .. } => unreachable!("no queue has part in it"),
        };
        self.queue.push(index as u64, request).expect("a queue carries as many requests as there are slots");
        self.has_pushed = true;
        self.unsubmitted += 1;
    }
}

/// What needs no queue: which parts hold anything.
impl Session<'_> {
    fn tell_status(&mut self, index: usize, only_one: bool) {
        let slot = &mut self.slots[index];
        let most = if only_one { 1 } else { DESCRIPTORS_MAX as usize };
        let mut descriptors = Vec::new();
        let mut failure = None;
        for part in extents(&*self.export.disk, slot.offset, u64::from(slot.len)).take(most) {
            match part {
                Ok((_, extent)) => {
                    let len = u32::try_from(extent.len).expect("a part of the request");
                    let flags = match extent.content {
                        Content::Data => 0,
                        Content::Zeroes => allocation_flag::ZERO,
                        Content::Hole => allocation_flag::HOLE | allocation_flag::ZERO,
                    };
                    descriptors.extend([len, flags].map(u32::to_be_bytes).concat());
                }
                Err(error) => failure = Some(error),
            }
        }
        // What is known is told, which may be less than was asked for.
        let result = match failure {
            Some(error) if descriptors.is_empty() => Err(Error::from(error)),
            _ => Ok(()),
        };
        if let [piece] = &mut slot.pieces[..] {
            *piece = piece.part(0, descriptors.len());
            piece.copy_from(&descriptors);
        }
        self.reply(index, result);
    }
}

/// The part of the pieces after so many bytes.
fn skip(pieces: &[IoBuffer], mut bytes: usize, rest: &mut Vec<IoBuffer>) {
    for piece in pieces {
        if bytes < piece.len() {
            rest.push(piece.part(bytes, piece.len()));
        }
        bytes = bytes.saturating_sub(piece.len());
    }
}

/// From the queue to the socket.
impl Session<'_> {
    fn take_completions(&mut self) {
        while let Some(completion) = self.queue.next_completion() {
            let index = usize::try_from(completion.token).expect("the number of a slot");
            let slot = &mut self.slots[index];
            if completion.result.is_ok() && std::mem::take(&mut slot.then_flush) {
                slot.work = Work::Flush;
                self.push(index);
                continue;
            }
            self.reply(index, completion.result.map_err(Error::from));
        }
    }

    /// Puts the reply of a request that is over among the outgoing.
    fn reply(&mut self, index: usize, result: Result<(), Error>) {
        let slot = &self.slots[index];
        let has_data = matches!(slot.work, Work::Read | Work::BlockStatus { .. });
        let header = match result {
            Ok(()) if slot.work == Work::Read && self.structured => {
                ReplyHeader::data(slot.cookie, slot.offset, slot.len)
            }
            Ok(()) if has_data && self.structured => {
                let len = slot.pieces.iter().map(IoBuffer::len).sum::<usize>();
                ReplyHeader::block_status(slot.cookie, u32::try_from(len).expect("a piece"))
            }
            Err(error) if self.structured => ReplyHeader::failure(slot.cookie, error),
            _ => ReplyHeader::simple(slot.cookie, result.err()),
        };
        let place = self.reply_headers.buffer().part(index * REPLY_BYTES_MAX, REPLY_BYTES_MAX);
        let len = place.copy_from(header.bytes());
        self.outgoing.push(place.part(0, len));
        if has_data && result.is_ok() {
            self.outgoing.extend_from_slice(&slot.pieces);
        }
        self.replying.push((index, self.outgoing.len()));
    }

    /// Sends what there is, as far as the socket takes it.
    fn send_replies(&mut self) -> Result<(), SessionError> {
        while self.can_send() {
            match send(self.socket, &self.outgoing[self.sent..], Waiting::Returns) {
                Ok(count) => self.note_sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) => return Err(SessionError::Connection(error)),
            }
        }
        Ok(())
    }

    /// Frees the slots whose replies are on their way.
    fn note_sent(&mut self, mut bytes: usize) {
        while let Some(first) = self.outgoing.get_mut(self.sent) {
            if bytes < first.len() {
                *first = first.part(bytes, first.len());
                break;
            }
            bytes -= first.len();
            self.sent += 1;
        }
        let ended = self.replying.iter().take_while(|(_, last)| *last <= self.sent).count();
        for (index, _) in self.replying.drain(..ended) {
            self.pool.give(&mut self.slots[index].pieces);
            self.free.push(index);
        }
        // Where a slow client never lets it become empty, it must not grow for ever.
        if self.sent == self.outgoing.len() || self.sent >= OUTGOING_KEPT {
            self.outgoing.drain(..self.sent);
            self.replying.iter_mut().for_each(|(_, last)| *last -= self.sent);
            self.sent = 0;
        }
    }
}
