//! A server: a thread that accepts, one for each connection, and one that sees to what time brings.
//!
//! Threads and not an event loop: an answer needs the file system, which blocks; a request that came costs one system call to have and one
//! to answer, which no loop does better; and a thread stays who its client is to the kernel, which would else be told with every request.
//! A connection on which nothing comes has a small stack, and gives back its buffers.

mod records;

use std::collections::HashMap;
use std::io::{self, IoSlice, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, sendmsg, setsockopt, sockopt};
use types::SystemClock;

use crate::lock;
use crate::ops::Tail;
use crate::service::{Connection, Service, ServiceError};
use crate::xdr::{Writer, padding};
use records::Records;

/// Those that come when there are as many wait until others go. Each is a thread.
const CONNECTIONS_MAX: usize = 8192;
/// As many requests of one connection wait for the disk at a time, but for one.
const THREADS_MAX: usize = 16;
const STACK_BYTES: usize = 256 << 10;
/// After so long without a request, a connection gives back its memory.
const IDLE: Duration = Duration::from_secs(5);
const IDLE_BYTES: usize = 4 << 10;
/// The bit of a record's mark that says that nothing follows (RFC 5531, section 11).
const LAST_FRAGMENT: u32 = 1 << 31;

/// Which folder is served, and how.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    pub folder: PathBuf,
    /// What must outlive a restart is kept here, and nowhere below the folder.
    pub state: PathBuf,
    pub listen: SocketAddr,
    /// How long a client need not be heard of; also how long clients have to come back after a restart.
    pub lease: Duration,
}

/// Why a folder is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("no thread can be had")]
    Thread { source: io::Error },
}

/// A folder that is being served. It ends when it is dropped, and what clients hold stays theirs for a lease.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    service: Service,
    state: Mutex<State>,
    /// A connection ended, or the server is to.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_ending: bool,
    connections: HashMap<u64, Arc<TcpStream>>,
    next: u64,
}

impl Server {
    /// Begins to serve.
    ///
    /// # Errors
    /// [`ServerError`]; then nothing is served.
    pub fn start(spec: &ServerSpec) -> Result<Self, ServerError> {
        let service = Service::open(&spec.folder, &spec.state, Arc::new(SystemClock), spec.lease)?;
        let failed = |source| ServerError::Listen { address: spec.listen, source };
        let listener = Arc::new(TcpListener::bind(spec.listen).map_err(failed)?);
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared { service, state: Mutex::default(), changed: Condvar::new() });
        let mut server = Self { address, shared, listener, threads: Vec::new() };
        let (shared, listener) = (Arc::clone(&server.shared), Arc::clone(&server.listener));
        server.begin("accept", move || accept(&shared, &listener))?;
        let (shared, between) = (Arc::clone(&server.shared), spec.lease / 8);
        server.begin("leases", move || watch(&shared, between.max(Duration::from_millis(100))))?;
        Ok(server)
    }

    fn begin(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ServerError> {
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work);
        self.threads.push(thread.map_err(|source| ServerError::Thread { source })?);
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn service(&self) -> &Service {
        &self.shared.service
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.shared.state);
            state.is_ending = true;
            for stream in state.connections.values() {
                // One that is gone already is what is wanted.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for thread in self.threads.drain(..) {
            // A thread's panic was printed.
            let _ = thread.join();
        }
        let state = lock(&self.shared.state);
        let rest = self.shared.changed.wait_while(state, |state| !state.connections.is_empty());
        drop(rest.unwrap_or_else(PoisonError::into_inner));
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let state = lock(&shared.state);
        let is_full = |state: &mut State| !state.is_ending && state.connections.len() >= CONNECTIONS_MAX;
        let state = shared.changed.wait_while(state, is_full).unwrap_or_else(PoisonError::into_inner);
        if state.is_ending {
            return;
        }
        drop(state);
        match listener.accept() {
            Ok((stream, _)) => begin_connection(shared, stream),
            Err(error) => {
                if lock(&shared.state).is_ending {
                    return;
                }
                tracing::warn!("a connection cannot be accepted: {error}");
                // There are too many open files: some will be closed.
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn begin_connection(shared: &Arc<Shared>, stream: TcpStream) {
    let stream = Arc::new(stream);
    let number = {
        let mut state = lock(&shared.state);
        if state.is_ending {
            return;
        }
        state.next += 1;
        let number = state.next;
        state.connections.insert(number, Arc::clone(&stream));
        number
    };
    let threads = AtomicUsize::new(0);
    let line = Line { shared: Arc::clone(shared), stream, number, threads, sending: Mutex::new(()) };
    if let Err(error) = line.set_up() {
        tracing::debug!("a connection ends at once: {error}");
    } else if !Arc::new(line).attend(Records::new()) {
        tracing::warn!("a connection is closed, since no thread can be had");
    }
}

fn watch(shared: &Shared, between: Duration) {
    loop {
        let state = lock(&shared.state);
        let outcome = shared.changed.wait_timeout_while(state, between, |state| !state.is_ending);
        let (state, _) = outcome.unwrap_or_else(PoisonError::into_inner);
        if state.is_ending {
            return;
        }
        drop(state);
        shared.service.tick();
    }
}

/// A connection, of which one thread at a time receives what comes.
///
/// That thread answers as well. If it is about to wait for the disk, it has another one receive from there on, and ends when it has answered:
/// other requests do not wait with it, and none is handed over otherwise.
struct Line {
    shared: Arc<Shared>,
    stream: Arc<TcpStream>,
    number: u64,
    threads: AtomicUsize,
    sending: Mutex<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        lock(&self.shared.state).connections.remove(&self.number);
        self.shared.changed.notify_all();
    }
}

impl Line {
    fn set_up(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.set_read_timeout(Some(IDLE))?;
        setsockopt(&self.stream, sockopt::KeepAlive, &true)?;
        Ok(())
    }

    /// Has another thread receive what comes. False if there is none to be had.
    fn attend(self: &Arc<Self>, records: Records) -> bool {
        if self.threads.fetch_add(1, Ordering::AcqRel) >= THREADS_MAX {
            self.threads.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        let line = Arc::clone(self);
        let work = move || {
            if let Err(error) = line.serve(records) {
                tracing::debug!("a connection ends: {error}");
                // Whoever else serves it ends as well; that it may be closed already is what is wanted.
                let _ = line.stream.shutdown(Shutdown::Both);
            }
            line.threads.fetch_sub(1, Ordering::AcqRel);
        };
        let builder = thread::Builder::new().name("connection".to_owned()).stack_size(STACK_BYTES);
        let has_begun = builder.spawn(work).is_ok();
        if !has_begun {
            self.threads.fetch_sub(1, Ordering::AcqRel);
        }
        has_begun
    }

    /// Answers what comes, until the other side ends the connection or another thread receives.
    fn serve(self: &Arc<Self>, mut records: Records) -> io::Result<()> {
        let mut connection = Connection::default();
        let mut out = Writer::new();
        loop {
            match records.next(&self.stream) {
                Ok(None) => return Ok(()),
                Ok(Some((record, rest))) => {
                    let mut is_followed = false;
                    let mut step_aside = || is_followed = is_followed || self.attend(Records::from(rest));
                    begin_answer(&mut out);
                    let service = &self.shared.service;
                    let tail = service.answer(&mut connection, record, &mut out, &mut step_aside);
                    let tail = tail.map_err(io::Error::other)?;
                    end_answer(&mut out, tail);
                    self.send(&mut connection, &out, tail)?;
                    if is_followed {
                        return Ok(());
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    records.rest(IDLE_BYTES);
                    connection.pipe.discard();
                    out.truncate(0);
                    out.shrink_to(IDLE_BYTES);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&self, connection: &mut Connection, out: &Writer, tail: Tail) -> io::Result<()> {
        let _turn = lock(&self.sending);
        let mut stream = &*self.stream;
        if tail == Tail::default() {
            return stream.write_all(out.as_bytes());
        }
        let mut left = out.as_bytes();
        while !left.is_empty() {
            let more = MsgFlags::from_bits_retain(libc::MSG_MORE) | MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(left)], &[], more, None)?;
            left = &left[sent..];
        }
        connection.pipe.give_to(stream, tail)?;
        stream.write_all(&[0; 3][..padding(tail.bytes)])
    }
}

/// Leaves room for the record's mark.
fn begin_answer(out: &mut Writer) {
    out.truncate(0);
    out.u32(0);
}

fn end_answer(out: &mut Writer, tail: Tail) {
    let bytes = out.len() - 4 + tail.bytes + padding(tail.bytes);
    out.patch(0, LAST_FRAGMENT | u32::try_from(bytes).unwrap_or(0));
}
