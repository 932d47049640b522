//! The ring, and the memory that the kernel reads from and writes to.
//!
//! ```text
//!            receive ──▶ operation ──▶ kernel ──▶ Received(Buffer) ──┬─ send(Data::Received) ──▶ Sent ──▶ give_back
//! free buffers ◀─────────────────────────────── give_back ◀──────────┘
//! ```
//!
//! Invariants: memory that an operation names is the operation's own until its completion came, and neither moves nor is freed before; a [`Buffer`] is
//! the kernel's or somebody's, never both's, since it can be neither copied nor made. A socket stays open as long as an operation is under way on it.

use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};
use slab::Slab;

/// Heads, and bodies that are passed on piece by piece, come in these.
const BUFFER_BYTES: u32 = 64 << 10;
/// A power of two.
const BUFFERS: u16 = 512;
/// So many may wait for who is slow; the rest is for what comes.
const OUT_MAX: u16 = BUFFERS / 2;
const BUFFER_GROUP: u16 = 0;
/// Of memory that is new; a head has room in it.
const SPARE_BYTES: usize = 2048;
/// Memory of this size and more is not kept.
const SPARE_BYTES_MAX: usize = 32 << 10;
const SPARE_MAX: usize = 256;
/// What can be told between two calls of the kernel; more takes a call more.
const ENTRIES: u32 = 1024;
/// How long the end of a ring waits for the kernel to let go of it.
const END_TIME: Duration = Duration::from_secs(1);

/// A socket with operations under way on it, or soon.
pub(crate) type Socket = Rc<OwnedFd>;

/// Bytes that were received.
#[derive(Debug)]
pub(crate) struct Buffer(Memory);

#[derive(Debug)]
enum Memory {
    /// The kernel's, which it gets back.
    Lent { id: u16, length: usize },
    /// What was made of bytes that were received, such as plain text.
    Own(Vec<u8>),
}

impl Buffer {
    /// Without bytes: the end.
    pub(crate) const END: Self = Self(Memory::Own(Vec::new()));

    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Memory::Lent { length, .. } => *length,
            Memory::Own(bytes) => bytes.len(),
        }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Memory::Own(bytes))
    }
}

/// What is sent.
#[derive(Debug)]
pub(crate) enum Data {
    Bytes(Vec<u8>),
    /// These of what was received.
    Received(Buffer, Range<usize>),
}

/// What came of an operation.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Others follow, unless it is an error.
    Accepted(io::Result<OwnedFd>),
    /// None: there are no buffers left, until some are given back.
    Received(io::Result<Option<Buffer>>),
    /// All of it, or nobody knows how much.
    Sent(io::Result<()>, Data),
    Connected(io::Result<()>),
    /// Somebody wrote to an event.
    Woken,
    /// What [`Ring::post`] was asked for.
    Posted,
}

/// What an operation has come to, with what its starter said it belongs to.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) token: u64,
    pub(crate) outcome: Outcome,
}

struct Operation {
    token: u64,
    kind: Kind,
    /// Open until it ends.
    _socket: Option<Socket>,
}

enum Kind {
    Accept,
    Receive,
    Send(Data),
    /// To where, for the kernel to read.
    Connect {
        _address: Box<SockaddrStorage>,
    },
    Wake,
}

/// Of one thread.
pub(crate) struct Ring {
    uring: IoUring,
    posted: Vec<u64>,
    spare: Vec<Vec<u8>>,
    operations: ManuallyDrop<Slab<Operation>>,
    buffers: ManuallyDrop<Buffers>,
}

impl Ring {
    /// # Errors
    /// When the kernel has no io_uring with what is needed (Linux 6.1), or refuses one.
    pub(crate) fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(ENTRIES * 8)
            .build(ENTRIES)?;
        let buffers = Buffers::new();
        // SAFETY: the entries are as many as is said, and live as long as the ring: `drop` sees to it.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                buffers.entries.addr().get() as u64,
                BUFFERS,
                BUFFER_GROUP,
                0,
            )
        }?;
        Ok(Self {
            uring,
            posted: Vec::new(),
            spare: Vec::new(),
            operations: ManuallyDrop::new(Slab::new()),
            buffers: ManuallyDrop::new(buffers),
        })
    }

    /// Accepts all connections from now on.
    pub(crate) fn accept(&mut self, listener: &TcpListener, token: u64) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        self.begin(Operation { token, kind: Kind::Accept, _socket: None }, |_| entry);
    }

    /// Receives once. `is_late`: there is nothing yet, probably.
    pub(crate) fn receive(&mut self, socket: &Socket, is_late: bool, token: u64) {
        // IORING_RECVSEND_POLL_FIRST
        let order = u16::from(is_late);
        let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), std::ptr::null_mut(), 0)
            .buf_group(BUFFER_GROUP)
            .ioprio(order)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.begin(Operation { token, kind: Kind::Receive, _socket: Some(Rc::clone(socket)) }, |_| entry);
    }

    pub(crate) fn send(&mut self, socket: &Socket, data: Data, token: u64) {
        let fd = Fd(socket.as_raw_fd());
        let operation = Operation { token, kind: Kind::Send(data), _socket: Some(Rc::clone(socket)) };
        let bytes = self.bytes_of(&operation.kind);
        let (pointer, length) = (bytes.as_ptr(), u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        // All of it, however often the peer must make room.
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        // The bytes of a `Vec` stay where they are when it is moved.
        self.begin(operation, |_| opcode::Send::new(fd, pointer, length).flags(flags).build());
    }

    pub(crate) fn connect(&mut self, socket: &Socket, address: SocketAddr, token: u64) {
        let fd = Fd(socket.as_raw_fd());
        let address = Box::new(SockaddrStorage::from(address));
        let (pointer, length) = (address.as_ptr(), address.len());
        let operation =
            Operation { token, kind: Kind::Connect { _address: address }, _socket: Some(Rc::clone(socket)) };
        self.begin(operation, |_| opcode::Connect::new(fd, pointer, length).build());
    }

    /// Tells when somebody has written to `event`, once.
    pub(crate) fn watch(&mut self, event: BorrowedFd<'_>, token: u64) {
        let entry =
            opcode::PollAdd::new(Fd(event.as_raw_fd()), u32::from(libc::POLLIN.unsigned_abs())).build();
        self.begin(Operation { token, kind: Kind::Wake, _socket: None }, |_| entry);
    }

    /// Completes with [`Outcome::Posted`] soon, without the kernel: for who has to look again at what is not the kernel's.
    pub(crate) fn post(&mut self, token: u64) {
        self.posted.push(token);
    }

    fn bytes_of<'a>(&'a self, kind: &'a Kind) -> &'a [u8] {
        match kind {
            Kind::Send(data) => self.data(data),
            _ => &[],
        }
    }

    fn begin(&mut self, operation: Operation, entry: impl FnOnce(()) -> squeue::Entry) {
        let place = self.operations.insert(operation);
        let entry = entry(()).user_data(place as u64);
        loop {
            // SAFETY: what the entry points to is the operation's own, in `operations` until its completion is taken.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The queue is full; the kernel takes all of it, or says EBUSY until completions are taken.
            if self.uring.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }

    /// Bytes that were received.
    pub(crate) fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        match &buffer.0 {
            Memory::Lent { id, length } => self.buffers.bytes(*id, *length),
            Memory::Own(bytes) => bytes,
        }
    }

    /// What is to be sent.
    pub(crate) fn data<'a>(&'a self, data: &'a Data) -> &'a [u8] {
        match data {
            Data::Bytes(bytes) => bytes,
            Data::Received(buffer, range) => &self.bytes(buffer)[range.clone()],
        }
    }

    /// These of what was received, to be sent to somebody who may be slow to take it: a copy, if so much memory is out already that others might get none.
    pub(crate) fn keep(&mut self, buffer: Buffer, range: Range<usize>) -> Data {
        if matches!(buffer.0, Memory::Own(_)) || self.buffers.out < OUT_MAX {
            return Data::Received(buffer, range);
        }
        let copy = self.bytes(&buffer)[range].to_vec();
        self.give_back(buffer);
        Data::Bytes(copy)
    }

    /// Nobody looks at what was received any more.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        match buffer.0 {
            Memory::Lent { id, .. } => {
                self.buffers.out -= 1;
                self.buffers.give_back(id);
            }
            Memory::Own(memory) => self.keep_spare(memory),
        }
    }

    /// Memory to write something into that is sent.
    pub(crate) fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(SPARE_BYTES))
    }

    /// Memory that was sent is for others again.
    pub(crate) fn let_go(&mut self, data: Data) {
        match data {
            Data::Bytes(memory) => self.keep_spare(memory),
            Data::Received(buffer, _) => self.give_back(buffer),
        }
    }

    fn keep_spare(&mut self, mut memory: Vec<u8>) {
        if (1..SPARE_BYTES_MAX).contains(&memory.capacity()) && self.spare.len() < SPARE_MAX {
            memory.clear();
            self.spare.push(memory);
        }
    }

    /// Tells the kernel all that is to be done, and waits until something has been, or for so long.
    ///
    /// # Errors
    /// What io_uring_enter(2) says, but for being interrupted.
    pub(crate) fn wait(&mut self, time: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        if !self.posted.is_empty() {
            // What comes of these is told to the kernel together with the rest.
            let posted = self.posted.drain(..);
            completions.extend(posted.map(|token| Completion { token, outcome: Outcome::Posted }));
            return Ok(());
        }
        let time = Timespec::from(time);
        let waited = self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time));
        match waited {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        self.take(completions);
        Ok(())
    }

    fn take(&mut self, completions: &mut Vec<Completion>) {
        let Self { uring, operations, buffers, .. } = self;
        for entry in uring.completion() {
            let (Ok(place), result) = (usize::try_from(entry.user_data()), entry.result()) else { continue };
            // Cancellations have none.
            let Some(operation) = operations.get(place) else { continue };
            let token = operation.token;
            let outcome = outcome(result);
            if cqueue::more(entry.flags()) {
                let accepted = outcome.map(owned);
                completions.push(Completion { token, outcome: Outcome::Accepted(accepted) });
                continue;
            }
            let outcome = match operations.remove(place).kind {
                Kind::Accept => Outcome::Accepted(outcome.map(owned)),
                Kind::Receive => {
                    let id = cqueue::buffer_select(entry.flags());
                    Outcome::Received(match outcome {
                        Ok(length) => {
                            Ok(Some(buffers.taken(id, usize::try_from(length).unwrap_or_default())))
                        }
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(None),
                        Err(error) => Err(error),
                    })
                }
                Kind::Send(data) => Outcome::Sent(outcome.and_then(|sent| is_all(sent, &data)), data),
                Kind::Connect { .. } => Outcome::Connected(outcome.map(drop)),
                Kind::Wake => Outcome::Woken,
            };
            completions.push(Completion { token, outcome });
        }
    }
}

/// What the kernel has accepted.
fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has made this descriptor for whoever takes the completion, who is the only one to call this.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn outcome(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// The kernel sends a part only when the connection ends meanwhile.
fn is_all(sent: i32, data: &Data) -> io::Result<()> {
    let length = match data {
        Data::Bytes(bytes) => bytes.len(),
        Data::Received(_, range) => range.len(),
    };
    if usize::try_from(sent) == Ok(length) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel lets go of memory when an operation has completed, and not when the ring is closed.
        let time = Timespec::from(END_TIME);
        let cancelled = self.uring.submitter().register_sync_cancel(Some(time), CancelBuilder::any());
        let mut rest = Vec::new();
        let _ = self.wait(Duration::ZERO, &mut rest);
        if cancelled.is_ok() && self.operations.is_empty() {
            // SAFETY: neither is used afterwards, since this is `drop`.
            unsafe {
                ManuallyDrop::drop(&mut self.operations);
                ManuallyDrop::drop(&mut self.buffers);
            }
        }
        // What the kernel may still write to is left to it.
    }
}

/// Memory for what is received, and the list of what of it the kernel may take.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    tail: u16,
    /// How many are somebody's.
    out: u16,
}

/// The kernel wants the list to begin where a page does.
#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Page([u8; 4096]);

const ENTRY_PAGES: usize = (BUFFERS as usize * size_of::<BufRingEntry>()).div_ceil(4096);

impl Buffers {
    fn new() -> Self {
        let entries: Box<[Page; ENTRY_PAGES]> = Box::new([Page([0; 4096]); ENTRY_PAGES]);
        // Zeroes that are not touched are no memory yet.
        let memory = vec![0_u8; usize::from(BUFFERS) * BUFFER_BYTES as usize].into_boxed_slice();
        let mut buffers = Self {
            entries: NonNull::from(Box::leak(entries)).cast(),
            memory: NonNull::from(Box::leak(memory)).cast(),
            tail: 0,
            out: 0,
        };
        (0..BUFFERS).for_each(|id| buffers.give_back(id));
        buffers
    }

    fn memory_of(&self, id: u16) -> NonNull<u8> {
        // SAFETY: there are as many buffers as ids.
        unsafe { self.memory.add(usize::from(id) * BUFFER_BYTES as usize) }
    }

    /// Of a [`Buffer`].
    fn bytes(&self, id: u16, length: usize) -> &[u8] {
        // SAFETY: as long as there is a `Buffer` its memory is not the kernel's, which has written so many bytes to it.
        unsafe { std::slice::from_raw_parts(self.memory_of(id).as_ptr(), length) }
    }

    /// The kernel has chosen this one, or none if nothing came.
    fn taken(&mut self, id: Option<u16>, length: usize) -> Buffer {
        match id {
            Some(id) if length > 0 => {
                self.out += 1;
                Buffer(Memory::Lent { id, length })
            }
            Some(id) => {
                self.give_back(id);
                Buffer::END
            }
            None => Buffer::END,
        }
    }

    fn give_back(&mut self, id: u16) {
        let address = self.memory_of(id).addr().get() as u64;
        // SAFETY: the place is one of `BUFFERS`; the kernel looks at it when the tail is beyond it.
        let entry = unsafe { self.entries.add(usize::from(self.tail % BUFFERS)).as_mut() };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the list lives, and its first entry has the tail; the kernel reads it as an atomic, too.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let memory = std::ptr::slice_from_raw_parts_mut(
            self.memory.as_ptr(),
            usize::from(BUFFERS) * BUFFER_BYTES as usize,
        );
        // SAFETY: both were leaked by `new`, with these types and sizes.
        unsafe {
            drop(Box::from_raw(self.entries.as_ptr().cast::<[Page; ENTRY_PAGES]>()));
            drop(Box::from_raw(memory));
        }
    }
}
