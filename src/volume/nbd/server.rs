//! Listening, and a thread for each client.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use super::Export;
use super::handshake::{self, HandshakeError};
use super::session::{self, SessionError};

/// How many clients there may be at a time; further ones are turned away.
const CLIENTS_MAX: usize = 256;
/// How long clients may take to read the last replies when the server stops.
const LAST_REPLIES_TIME: Duration = Duration::from_secs(3);
/// How long nobody is let in after the kernel had no descriptor or no memory for one.
const PAUSE: Duration = Duration::from_millis(100);

/// Where clients arrive.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Listener::Unix(listener) => Ok(listener.accept()?.0.into()),
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                // A client whose machine is gone is noticed some day.
                setsockopt(&stream, sockopt::KeepAlive, &true)?;
                Ok(stream.into())
            }
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Listener::Unix(listener) => listener.set_nonblocking(true),
            Listener::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    /// The address of a TCP listener, with the port that it got.
    ///
    /// # Errors
    /// What getsockname(2) says.
    pub fn tcp_address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Listener::Unix(_) => Ok(None),
            Listener::Tcp(listener) => listener.local_addr().map(Some),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// A server that runs. Dropping it stops it: requests that arrived are carried out and answered, then connections are closed.
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    exports: Vec<Export>,
    clients: Mutex<Clients>,
    /// A client is gone.
    left: Condvar,
    stop: EventFd,
}

#[derive(Default)]
struct Clients {
    next: u64,
    sockets: HashMap<u64, Arc<OwnedFd>>,
}

impl Server {
    /// Starts to serve the exports, whose names must differ.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or a thread.
    pub fn start(listener: Listener, exports: Vec<Export>) -> io::Result<Self> {
        listener.set_nonblocking()?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let clients = Mutex::new(Clients::default());
        let shared = Arc::new(Shared { exports, clients, left: Condvar::new(), stop });
        let acceptor = std::thread::Builder::new().name("nbd-accept".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept_clients(&listener)
        })?;
        Ok(Self { shared, acceptor: Some(acceptor) })
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.shared.clients().sockets.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.write(1).expect("an event is far from its end");
        if let Some(acceptor) = self.acceptor.take() {
            // If it panicked, nobody is let in any more, which is what is wanted.
            let _ = acceptor.join();
        }
        self.shared.see_clients_off();
    }
}

impl Shared {
    /// Nothing is left half changed by a panic.
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_clients(self: &Arc<Self>, listener: &Listener) {
        let mut pause = PollTimeout::NONE;
        loop {
            let mut events = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            ];
            let watched = if pause.is_none() { &mut events[..] } else { &mut events[..1] };
            if let Err(error) = poll(watched, pause)
                && error != nix::errno::Errno::EINTR
            {
                tracing::error!(%error, "no more clients are let in");
                return;
            }
            pause = PollTimeout::NONE;
            if events[0].any() == Some(true) {
                return;
            }
            match listener.accept() {
                Ok(socket) => self.let_in(socket),
                Err(error) => match error.raw_os_error() {
                    // Nobody is there (any more).
                    Some(libc::EAGAIN | libc::ECONNABORTED | libc::EINTR) => {}
                    _ => {
                        tracing::warn!(%error, "a client cannot be let in");
                        pause = PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::MAX);
                    }
                },
            }
        }
    }

    fn let_in(self: &Arc<Self>, socket: OwnedFd) {
        let socket = Arc::new(socket);
        let number = {
            let mut clients = self.clients();
            if clients.sockets.len() >= CLIENTS_MAX {
                tracing::warn!("a client was turned away: there are {CLIENTS_MAX}");
                return;
            }
            clients.next += 1;
            let number = clients.next;
            clients.sockets.insert(number, Arc::clone(&socket));
            number
        };
        let membership = Membership { shared: Arc::clone(self), number };
        let serve = move || {
            tracing::debug!(client = number, "a client connected");
            match serve_client(&socket, &membership.shared.exports) {
                Ok(()) => tracing::debug!(client = number, "a client left"),
                Err(error) => tracing::info!(client = number, "{}", with_sources(&error)),
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("nbd-client-{number}")).spawn(serve) {
            tracing::warn!(%error, "a client cannot be served");
        }
    }

    /// Ends all connections, and returns when they have ended.
    fn see_clients_off(&self) {
        // A stream that ends lets what arrived before be answered; then, whoever does not read is cut off.
        for (how, patience) in [(Shutdown::Read, Some(LAST_REPLIES_TIME)), (Shutdown::Both, None)] {
            let clients = self.clients();
            for socket in clients.sockets.values() {
                // It fails when the client has closed it already.
                let _ = shutdown(socket.as_raw_fd(), how);
            }
            let is_anybody_left = |clients: &mut Clients| !clients.sockets.is_empty();
            let poisoned = "no thread panics while it holds the list of clients";
            match patience {
                Some(patience) => {
                    drop(self.left.wait_timeout_while(clients, patience, is_anybody_left).expect(poisoned));
                }
                None => drop(self.left.wait_while(clients, is_anybody_left).expect(poisoned)),
            }
        }
    }
}

/// A client's place in the list, until its thread ends, in whatever way.
struct Membership {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.clients().sockets.remove(&self.number);
        self.shared.left.notify_all();
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Leads a client from its handshake to its end.
pub(super) fn serve_client(socket: &OwnedFd, exports: &[Export]) -> Result<(), ClientError> {
    if let Some(chosen) = handshake::negotiate(socket.as_fd(), exports)? {
        session::serve(socket.as_fd(), &exports[chosen.export], &chosen)?;
    }
    Ok(())
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
