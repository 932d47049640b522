//! For tests of what uses a disk: memory as a guest's, and a disk that fails and waits on demand.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::backend::{BlockBackend, BlockQueue, BlockRequest, Completion, IoBuffer, QueueFull, SECTOR_BYTES};
use crate::crypt::{Cipher, DataKey};
use crate::sys::AlignedMemory;

/// Page-aligned memory that requests can use. It must outlive them.
pub struct Memory(AlignedMemory, usize);

impl Memory {
    /// `len` bytes of zeroes.
    pub fn new(len: usize) -> Self {
        Self(AlignedMemory::zeroed(len), len)
    }

    /// A copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let memory = Self::new(bytes.len());
        memory.all().copy_from(bytes);
        memory
    }

    /// The whole of it.
    pub fn all(&self) -> IoBuffer {
        self.0.buffer().part(0, self.1)
    }

    /// The whole of it, cut into pieces of at most `len` bytes.
    pub fn pieces(&self, len: usize) -> Vec<IoBuffer> {
        (0..self.1).step_by(len.max(1)).map(|offset| self.all().part(offset, len)).collect()
    }

    /// What is in it.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.1];
        self.all().copy_to(&mut bytes);
        bytes
    }
}

/// The cipher of encrypted volumes by itself, to be measured.
pub struct BareCipher(Cipher);

impl BareCipher {
    /// # Panics
    /// If there is no memory for the key.
    pub fn new(key: &DataKey) -> Self {
        Self(Cipher::new(key).expect("memory for a key"))
    }

    /// Encrypts whole sectors that stand at `offset`.
    pub fn encrypt(&self, offset: u64, sectors: &mut [u8]) {
        self.0.encrypt(offset, sectors);
    }

    /// Decrypts whole sectors that stand at `offset`.
    pub fn decrypt(&self, offset: u64, sectors: &mut [u8]) {
        self.0.decrypt(offset, sectors);
    }
}

/// Pushes one request and waits for its end.
///
/// # Errors
/// What the request ended with.
///
/// # Panics
/// If the queue is full or broken, or ends another request instead.
pub fn execute(queue: &mut dyn BlockQueue, request: BlockRequest<'_>) -> io::Result<()> {
    queue.push(u64::MAX, request).expect("the queue is idle");
    queue.wait().expect("the queue works");
    let completion = queue.next_completion().expect("the queue waited for a completion");
    assert_eq!(completion.token, u64::MAX);
    completion.result
}

/// A disk in memory that does as it is told: it fails where it should, and can hold back its answers.
#[derive(Clone)]
pub struct FakeDisk(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

struct State {
    bytes: Vec<u8>,
    read_only: bool,
    failures: Vec<(Range<u64>, i32)>,
    flush_failure: Option<i32>,
    flushes: usize,
    held: bool,
    queues: Vec<Arc<EventFd>>,
}

impl FakeDisk {
    /// A disk that holds `bytes`, a whole number of sectors.
    ///
    /// # Panics
    /// If it is not.
    pub fn new(bytes: Vec<u8>) -> Self {
        assert!((bytes.len() as u64).is_multiple_of(SECTOR_BYTES), "a disk has whole sectors");
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                bytes,
                read_only: false,
                failures: Vec::new(),
                flush_failure: None,
                flushes: 0,
                held: false,
                queues: Vec::new(),
            }),
            released: Condvar::new(),
        }))
    }

    /// Refuses writes from now on.
    pub fn set_read_only(&self) {
        self.state().read_only = true;
    }

    /// Fails every request that touches a byte of `range` with the operating system's error `errno`.
    pub fn fail(&self, range: Range<u64>, errno: i32) {
        self.state().failures.push((range, errno));
    }

    /// Fails nothing any more.
    pub fn recover(&self) {
        let mut state = self.state();
        state.failures.clear();
        state.flush_failure = None;
    }

    /// Fails every flush.
    pub fn fail_flush(&self, errno: i32) {
        self.state().flush_failure = Some(errno);
    }

    /// Holds back all completions until [`release`](Self::release).
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Lets the completions that were held back go.
    pub fn release(&self) {
        let mut state = self.state();
        state.held = false;
        for event in &state.queues {
            event.write(1).expect("an event is far from its end");
        }
        self.0.released.notify_all();
    }

    /// What is on the disk.
    pub fn to_vec(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// How many flushes there were.
    pub fn flushes(&self) -> usize {
        self.state().flushes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no test panics while it holds the disk")
    }
}

impl BlockBackend for FakeDisk {
    fn size_bytes(&self) -> u64 {
        self.state().bytes.len() as u64
    }

    fn is_read_only(&self) -> bool {
        self.state().read_only
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        let event = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        self.state().queues.push(Arc::clone(&event));
        let depth = usize::from(depth.max(1));
        Ok(Box::new(FakeQueue {
            disk: self.clone(),
            event,
            depth,
            pushed: Vec::new(),
            ended: VecDeque::new(),
        }))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let range = state.range(offset, buffer.len() as u64)?;
        buffer.copy_from_slice(&state.bytes[range]);
        Ok(())
    }
}

struct FakeQueue {
    disk: FakeDisk,
    event: Arc<EventFd>,
    depth: usize,
    pushed: Vec<Completion>,
    ended: VecDeque<Completion>,
}

impl BlockQueue for FakeQueue {
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        if self.in_flight() >= self.depth {
            return Err(QueueFull);
        }
        let result = self.disk.state().execute(request);
        self.pushed.push(Completion { token, result });
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ended.extend(self.pushed.drain(..));
        if !self.disk.state().held {
            self.event.write(1)?;
        }
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion> {
        if self.disk.state().held {
            return None;
        }
        self.ended.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.pushed.len() + self.ended.len()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()?;
        let mut state = self.disk.state();
        while state.held && !self.ended.is_empty() {
            state = self.disk.0.released.wait(state).expect("no test panics while it holds the disk");
        }
        Ok(())
    }
}

impl State {
    fn range(&self, offset: u64, len: u64) -> io::Result<Range<usize>> {
        let outside = || io::Error::from_raw_os_error(libc::EINVAL);
        let end = offset.checked_add(len).ok_or_else(outside)?;
        for (bad, errno) in &self.failures {
            if offset < bad.end && bad.start < end {
                return Err(io::Error::from_raw_os_error(*errno));
            }
        }
        if end > self.bytes.len() as u64 {
            return Err(outside());
        }
        let index = |offset| usize::try_from(offset).map_err(|_| outside());
        Ok(index(offset)?..index(end)?)
    }

    fn execute(&mut self, request: BlockRequest<'_>) -> io::Result<()> {
        if self.read_only && !matches!(request, BlockRequest::Read { .. } | BlockRequest::Flush) {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        }
        let total = |buffers: &[IoBuffer]| buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let (offset, len) = match request {
            BlockRequest::Read { offset, buffers } | BlockRequest::Write { offset, buffers } => {
                (offset, total(buffers))
            }
            BlockRequest::Discard { offset, len } | BlockRequest::WriteZeroes { offset, len, .. } => {
                (offset, len)
            }
            BlockRequest::Flush => {
                self.flushes += 1;
                let failure = self.flush_failure.map(io::Error::from_raw_os_error);
                return failure.map_or(Ok(()), Err);
            }
        };
        if !offset.is_multiple_of(SECTOR_BYTES) || !len.is_multiple_of(SECTOR_BYTES) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let range = self.range(offset, len)?;
        let mut bytes = &mut self.bytes[range];
        match request {
            BlockRequest::Read { buffers, .. } => {
                let mut bytes = &*bytes;
                for buffer in buffers {
                    bytes = &bytes[buffer.copy_from(bytes)..];
                }
            }
            BlockRequest::Write { buffers, .. } => {
                for buffer in buffers {
                    let copied = buffer.copy_to(bytes);
                    bytes = &mut bytes[copied..];
                }
            }
            BlockRequest::WriteZeroes { .. } | BlockRequest::Discard { .. } => bytes.fill(0),
            BlockRequest::Flush => {}
        }
        Ok(())
    }
}
