//! What the proxy sends to and receives from: bytes in order, in both directions, whatever carries them.
//!
//! ```text
//! proxy ── receive, send ──▶ Transport ─┬─ Plain ─────────────────▶ socket
//!       ◀──── Outcome ──────            ├─ Tls: records ──────────▶ socket
//!                                       └─ Stream: frames ─▶ Link ─▶ Transport of many streams
//! ```
//!
//! Whoever owns a transport asks it for one thing at a time in each direction. What the ring says of the transport's token goes through [`Transport::completed`],
//! which tells what has come of what the owner asked for, or nothing, if it was the transport's own business, such as a handshake.
//!
//! Invariants: what was asked for is answered once, also when the transport is cut; a place with this token may be used again when the transport
//! [is quiet](Transport::is_quiet).

mod stream;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{Shutdown, shutdown};
use rustls::{ClientConnection, Connection, ServerConnection};

use crate::engine::{Data, Outcome, Ring, Socket};
use stream::Stream;
pub(crate) use stream::{Link, SharedLink};
pub(crate) use tls::Secured;
use tls::Tls;

/// One end of a connection, or of one stream of it.
pub(crate) struct Transport {
    token: u64,
    /// What the owner waits for.
    is_receiving: bool,
    is_sending: bool,
    carrier: Carrier,
}

enum Carrier {
    Plain(Socket),
    Tls(Box<Tls>),
    Stream(Stream),
}

impl Transport {
    /// Completions have `token`.
    pub(crate) fn plain(socket: OwnedFd, token: u64) -> Self {
        Self::new(Carrier::Plain(Rc::new(socket)), token)
    }

    /// A client's connection, which begins with its handshake.
    pub(crate) fn accepted(socket: OwnedFd, session: ServerConnection, token: u64) -> Self {
        Self::new(Carrier::Tls(Box::new(Tls::new(Rc::new(socket), Connection::Server(session)))), token)
    }

    /// A connection to a target, which is up after its handshake.
    pub(crate) fn connecting(socket: OwnedFd, session: ClientConnection, token: u64) -> Self {
        Self::new(Carrier::Tls(Box::new(Tls::new(Rc::new(socket), Connection::Client(session)))), token)
    }

    /// The stream `id` of `link`.
    pub(crate) fn stream(link: SharedLink, id: u32, token: u64) -> Self {
        link.borrow_mut().own(id, token);
        Self::new(Carrier::Stream(Stream::new(link, id)), token)
    }

    fn new(carrier: Carrier, token: u64) -> Self {
        Self { token, is_receiving: false, is_sending: false, carrier }
    }

    /// The same connection with another token. It must be quiet.
    pub(crate) fn known_as(self, token: u64) -> Self {
        debug_assert!(self.is_quiet());
        Self { token, ..self }
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.is_sending
    }

    /// Nothing more will be heard of it.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_receiving
            && !self.is_sending
            && match &self.carrier {
                Carrier::Plain(_) => true,
                Carrier::Tls(tls) => tls.is_quiet(),
                Carrier::Stream(stream) => stream.is_quiet(),
            }
    }

    /// How it is secured, after its handshake.
    pub(crate) fn secured(&self) -> Option<Secured> {
        match &self.carrier {
            Carrier::Plain(_) => None,
            Carrier::Tls(tls) => tls.secured(),
            Carrier::Stream(stream) => stream.link().borrow().secured(),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        match &self.carrier {
            Carrier::Plain(_) => false,
            Carrier::Tls(_) => true,
            Carrier::Stream(stream) => stream.link().borrow().is_tls(),
        }
    }

    /// What a client asked for in its handshake.
    pub(crate) fn server_name(&self) -> Option<String> {
        match &self.carrier {
            Carrier::Plain(_) => None,
            Carrier::Tls(tls) => tls.server_name(),
            Carrier::Stream(stream) => stream.link().borrow().server_name(),
        }
    }

    /// There was a connection, and no agreement on how it is secured.
    pub(crate) fn has_failed_handshake(&self) -> bool {
        matches!(&self.carrier, Carrier::Tls(tls) if tls.has_failed())
    }

    /// Both ends have agreed on HTTP/2.
    pub(crate) fn speaks_http2(&self) -> bool {
        matches!(&self.carrier, Carrier::Tls(tls) if tls.speaks_http2())
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.carrier, Carrier::Stream(_))
    }

    /// Answered by [`Outcome::Connected`].
    pub(crate) fn connect(&mut self, ring: &mut Ring, address: SocketAddr) {
        self.is_sending = true;
        match &mut self.carrier {
            Carrier::Plain(socket) => ring.connect(socket, address, self.token),
            Carrier::Tls(tls) => tls.connect(ring, address, self.token),
            Carrier::Stream(stream) => stream.connect(ring),
        }
    }

    /// Answered by [`Outcome::Received`]; an empty buffer is the end. `is_late`: there is nothing yet, probably. Nothing is done if it is under way.
    pub(crate) fn receive(&mut self, ring: &mut Ring, is_late: bool) {
        if std::mem::replace(&mut self.is_receiving, true) {
            return;
        }
        match &mut self.carrier {
            Carrier::Plain(socket) => ring.receive(socket, is_late, self.token),
            Carrier::Tls(tls) => tls.receive(ring, is_late, self.token),
            Carrier::Stream(stream) => stream.receive(ring),
        }
    }

    /// Answered by [`Outcome::Sent`], with memory that is to be let go.
    pub(crate) fn send(&mut self, ring: &mut Ring, data: Data) {
        debug_assert!(!self.is_sending);
        self.is_sending = true;
        match &mut self.carrier {
            Carrier::Plain(socket) => ring.send(socket, data, self.token),
            Carrier::Tls(tls) => tls.send(ring, data, self.token),
            Carrier::Stream(stream) => stream.send(ring, data),
        }
    }

    /// What has come of what the owner asked for.
    pub(crate) fn completed(&mut self, ring: &mut Ring, outcome: Outcome) -> Option<Outcome> {
        let told = match &mut self.carrier {
            Carrier::Plain(_) => Some(outcome),
            Carrier::Tls(tls) => tls.completed(ring, outcome, self.is_receiving, self.is_sending, self.token),
            Carrier::Stream(stream) => stream.completed(ring, self.is_receiving, self.is_sending),
        };
        match &told {
            Some(Outcome::Received(_)) => self.is_receiving = false,
            Some(Outcome::Sent(..) | Outcome::Connected(_)) => self.is_sending = false,
            _ => {}
        }
        told
    }

    /// All was sent: the other end learns it. Nothing may be under way in that direction.
    pub(crate) fn end(&mut self, ring: &mut Ring) {
        match &mut self.carrier {
            Carrier::Plain(socket) => end(socket),
            Carrier::Tls(tls) => tls.end(ring, self.token),
            Carrier::Stream(stream) => stream.end(ring),
        }
    }

    /// What is under way completes; nothing comes any more.
    pub(crate) fn cut(&mut self, ring: &mut Ring) {
        match &mut self.carrier {
            Carrier::Plain(socket) => cut(socket),
            Carrier::Tls(tls) => tls.cut(),
            Carrier::Stream(stream) => stream.cut(ring, self.is_receiving || self.is_sending),
        }
    }
}

fn end(socket: &Socket) {
    // The other end may have gone.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
}

fn cut(socket: &Socket) {
    // It may have been cut before.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
