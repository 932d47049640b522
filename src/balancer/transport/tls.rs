//! A connection in records (TLS), over a socket.
//!
//! The session is given what came and says what is to be sent; it has no socket. One receive and one send are under way on the socket at most: the handshake's, or
//! what the owner asked for. Plain text that nobody has asked for waits in `inbox`, and then nothing more is received.
//!
//! A client's first bytes are told when nothing of the handshake is under way any more: then its connection may get another token.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use rustls::{Connection, ProtocolVersion};

use super::{cut, end, gone};
use crate::engine::{Buffer, Data, Outcome, Ring, Socket};

/// How a connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secured {
    /// As OpenSSL names it: `TLSv1.3`.
    pub(crate) version: &'static str,
    /// As OpenSSL names it: `TLS_AES_128_GCM_SHA256`, `ECDHE-RSA-AES128-GCM-SHA256`.
    pub(crate) cipher: &'static str,
}

pub(super) struct Tls {
    socket: Socket,
    session: Connection,
    /// Of the kernel's operations on the socket.
    is_receiving: bool,
    is_sending: bool,
    stage: Stage,
    /// Plain text that nobody has asked for yet.
    inbox: Vec<u8>,
    /// Nothing comes any more: the end, or why not.
    over: Option<io::Result<()>>,
    /// Nothing is sent any more when all was sent.
    ends: bool,
    is_posted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is no connection yet.
    Connecting,
    Handshake,
    /// The owner knows nothing of it yet.
    Agreed,
    Up,
}

impl Tls {
    pub(super) fn new(socket: Socket, mut session: Connection) -> Self {
        let stage = match session {
            Connection::Server(_) => Stage::Handshake,
            Connection::Client(_) => Stage::Connecting,
        };
        session.set_buffer_limit(None);
        let (inbox, over) = (Vec::new(), None);
        Self {
            socket,
            session,
            is_receiving: false,
            is_sending: false,
            stage,
            inbox,
            over,
            ends: false,
            is_posted: false,
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        !self.is_receiving && !self.is_sending && !self.is_posted
    }

    pub(super) fn speaks_http2(&self) -> bool {
        self.session.alpn_protocol() == Some(b"h2")
    }

    /// What a client asked for in its handshake.
    pub(super) fn server_name(&self) -> Option<String> {
        match &self.session {
            Connection::Server(session) => session.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        }
    }

    /// There was a connection, and no agreement on it.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.stage, Stage::Handshake | Stage::Agreed) && self.over.is_some()
    }

    pub(super) fn secured(&self) -> Option<Secured> {
        let version = match self.session.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let cipher = crate::tls::cipher_name(self.session.negotiated_cipher_suite()?.suite());
        Some(Secured { version, cipher })
    }

    pub(super) fn connect(&mut self, ring: &mut Ring, address: SocketAddr, token: u64) {
        self.is_sending = true;
        ring.connect(&self.socket, address, token);
    }

    pub(super) fn receive(&mut self, ring: &mut Ring, is_late: bool, token: u64) {
        if self.inbox.is_empty() && self.over.is_none() {
            self.fill(ring, is_late, token);
        } else if !std::mem::replace(&mut self.is_posted, true) {
            ring.post(token);
        }
    }

    pub(super) fn send(&mut self, ring: &mut Ring, data: Data, token: u64) {
        // Its buffer has no limit.
        let _ = self.session.writer().write_all(ring.data(&data));
        ring.let_go(data);
        self.flush(ring, token);
    }

    pub(super) fn end(&mut self, ring: &mut Ring, token: u64) {
        self.session.send_close_notify();
        self.ends = true;
        self.flush(ring, token);
    }

    pub(super) fn cut(&mut self) {
        cut(&self.socket);
    }

    fn fill(&mut self, ring: &mut Ring, is_late: bool, token: u64) {
        if !std::mem::replace(&mut self.is_receiving, true) {
            ring.receive(&self.socket, is_late, token);
        }
    }

    /// Sends what the session has for the other end, unless something is under way, behind which it waits.
    fn flush(&mut self, ring: &mut Ring, token: u64) {
        if self.is_sending {
            return;
        }
        if self.session.wants_write() {
            let mut out = ring.spare();
            while self.session.wants_write() {
                // To write into memory cannot fail.
                let _ = self.session.write_tls(&mut out);
            }
            self.is_sending = true;
            ring.send(&self.socket, Data::Bytes(out), token);
        } else if self.ends {
            end(&self.socket);
        }
    }

    /// `receives` and `sends` is what the owner waits for.
    pub(super) fn completed(
        &mut self,
        ring: &mut Ring,
        outcome: Outcome,
        receives: bool,
        sends: bool,
        token: u64,
    ) -> Option<Outcome> {
        match outcome {
            Outcome::Posted => self.is_posted = false,
            Outcome::Connected(connected) => {
                self.is_sending = false;
                match connected {
                    Ok(()) => self.stage = Stage::Handshake,
                    Err(error) => self.over = Some(Err(error)),
                }
            }
            Outcome::Received(received) => {
                self.is_receiving = false;
                match received {
                    Ok(Some(buffer)) if buffer.len() > 0 => {
                        self.take(ring.bytes(&buffer));
                        ring.give_back(buffer);
                    }
                    // All memory is in use by others, who give it back.
                    Ok(None) => {}
                    Ok(Some(_)) => self.over = Some(Ok(())),
                    Err(error) => self.over = Some(Err(error)),
                }
            }
            Outcome::Sent(sent, data) => {
                self.is_sending = false;
                match sent {
                    Ok(()) => self.flush(ring, token),
                    Err(_) => self.over = Some(Err(gone())),
                }
                if sends && self.stage == Stage::Up && !self.is_sending {
                    return Some(Outcome::Sent(sent, data));
                }
                ring.let_go(data);
            }
            other => return Some(other),
        }
        self.look(ring, receives, sends, token)
    }

    /// Reads records.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.over.is_none() {
            let read = self.session.read_tls(&mut bytes);
            let taken = read.and_then(|_| self.session.process_new_packets().map_err(io::Error::other));
            let state = match taken {
                Ok(state) => state,
                Err(error) => {
                    self.over = Some(Err(error));
                    return;
                }
            };
            let plain = state.plaintext_bytes_to_read();
            if plain > 0 {
                let from = self.inbox.len();
                self.inbox.resize(from + plain, 0);
                // As much as there is.
                let _ = io::Read::read_exact(&mut self.session.reader(), &mut self.inbox[from..]);
            }
            if state.peer_has_closed() {
                self.over = Some(Ok(()));
            }
        }
    }

    /// What is to be told, and done next.
    fn look(&mut self, ring: &mut Ring, receives: bool, sends: bool, token: u64) -> Option<Outcome> {
        if self.stage != Stage::Connecting {
            self.flush(ring, token);
        }
        if self.stage == Stage::Handshake && !self.session.is_handshaking() {
            self.stage = Stage::Agreed;
        }
        // Also of why there is no session the other end is told before it ends.
        let is_settled = !self.is_sending || self.stage == Stage::Up;
        if self.stage == Stage::Agreed && is_settled {
            self.stage = Stage::Up;
            if matches!(self.session, Connection::Client(_)) {
                return Some(Outcome::Connected(Ok(())));
            }
        }
        if self.over.is_some() && !self.is_sending && self.stage != Stage::Up && sends {
            return Some(Outcome::Connected(Err(gone())));
        }
        if receives && is_settled {
            if !self.inbox.is_empty() && self.stage == Stage::Up {
                return Some(Outcome::Received(Ok(Some(Buffer::from(std::mem::take(&mut self.inbox))))));
            }
            match &self.over {
                Some(Ok(())) => return Some(Outcome::Received(Ok(Some(Buffer::END)))),
                Some(Err(_)) => return Some(Outcome::Received(Err(gone()))),
                None => {}
            }
        }
        if self.over.is_none()
            && (receives || matches!(self.stage, Stage::Handshake | Stage::Agreed))
            && self.inbox.is_empty()
        {
            self.fill(ring, true, token);
        }
        None
    }
}
