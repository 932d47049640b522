//! Connections of clients, and what is asked on them.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, getpeername, setsockopt, sockopt};
use rustls::ServerConnection;

use super::answer::{self, Manner};
use super::exchange::Exchange;
use super::{Entrance, LINGER_TIME, Owner, Worker};
use crate::access_log::Line;
use crate::counters::Count;
use crate::engine::{Buffer, Data, Outcome};
use crate::http1::{self, Body, Flaw, HEAD_BYTES_MAX};
use crate::targets::Choice;
use crate::transport::Transport;
use types::Instant;

/// What a client may send ahead of what is answered.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// A client's connection.
pub(super) struct Client {
    pub(super) transport: Transport,
    pub(super) peer: SocketAddr,
    pub(super) entrance: Rc<Entrance>,
    pub(super) is_tls: bool,
    /// Of all requests of one connection.
    pub(super) connection: u128,
    /// What came and is not looked at yet, and how much of it is no whole head.
    pub(super) inbox: Vec<u8>,
    seen: usize,
    pub(super) exchange: Option<Exchange>,
    /// Since when nothing came and went.
    pub(super) still_since: Instant,
    began: Instant,
    end: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    /// It has been told all; what it still sends is not looked at.
    Lingers,
    Cut,
}

impl Client {
    fn is_over(&self) -> bool {
        self.end == Ending::Cut && self.transport.is_quiet()
    }
}

impl Worker {
    pub(super) fn begin_client(&mut self, entrance: &Rc<Entrance>, socket: OwnedFd) {
        let peer = getpeername::<SockaddrStorage>(socket.as_raw_fd()).ok().and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
        });
        // Whoever has gone already has no address, and a listener that has gone no clients.
        let (Some(peer), Some(listener)) = (peer, entrance.listener.get()) else { return };
        let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
        let token = Owner::Client.token(self.clients.vacant_key());
        let transport = match self.routes.plan().tls(listener) {
            None => Transport::plain(socket, token),
            Some(config) => match ServerConnection::new(Arc::clone(config)) {
                Ok(session) => Transport::accepted(socket, session, token),
                Err(_) => return,
            },
        };
        self.counters.all.one(Count::NewConnections);
        let connection = u128::from(self.random.draw()) << 64 | u128::from(self.random.draw());
        self.add_client(transport, peer, Rc::clone(entrance), connection);
    }

    /// Its transport has the token of the next client.
    pub(super) fn add_client(
        &mut self,
        transport: Transport,
        peer: SocketAddr,
        entrance: Rc<Entrance>,
        connection: u128,
    ) {
        let place = self.clients.insert(Client {
            is_tls: transport.is_tls(),
            connection,
            transport,
            peer,
            entrance,
            inbox: Vec::new(),
            seen: 0,
            exchange: None,
            still_since: self.now,
            began: self.now,
            end: Ending::Open,
        });
        self.receive_from_client(place, false);
    }

    pub(super) fn client_completed(&mut self, place: usize, outcome: Outcome) {
        let Some(client) = self.clients.get_mut(place) else { return };
        client.still_since = self.now;
        match client.transport.completed(&mut self.ring, outcome) {
            Some(Outcome::Received(received)) => match received {
                Ok(Some(buffer)) if buffer.len() > 0 => self.client_sent_us(place, buffer),
                // All memory is in use by others, who give it back.
                Ok(None) if client.end != Ending::Cut => self.receive_from_client(place, true),
                _ => self.cut_client(place),
            },
            Some(Outcome::Sent(sent, data)) => {
                self.ring.let_go(data);
                match sent {
                    Ok(()) => self.client_has_got_it(place),
                    Err(_) => self.cut_client(place),
                }
            }
            _ => {}
        }
        if self.clients.get(place).is_some_and(Client::is_over) {
            self.clients.remove(place);
        }
    }

    fn client_sent_us(&mut self, place: usize, buffer: Buffer) {
        let client = &mut self.clients[place];
        if client.transport.speaks_http2() {
            return self.carry(place, buffer);
        }
        self.counters.all.add(Count::ProcessedBytes, buffer.len() as u64);
        if client.end != Ending::Open {
            self.ring.give_back(buffer);
            if client.end == Ending::Lingers {
                self.receive_from_client(place, true);
            }
            return;
        }
        match &mut client.exchange {
            Some(exchange) if exchange.is_tunnel => {
                let length = buffer.len();
                self.pass_to_target(place, buffer, length);
            }
            Some(exchange) if !exchange.request.has_ended() => {
                let bytes = self.ring.bytes(&buffer);
                match exchange.request.take(bytes) {
                    Ok(taken) => {
                        if let Some(line) = &mut exchange.line {
                            line.received += taken.bytes as u64;
                        }
                        client.inbox.extend_from_slice(&bytes[taken.bytes..]);
                        self.pass_to_target(place, buffer, taken.bytes);
                        if self.clients[place]
                            .exchange
                            .as_ref()
                            .is_some_and(|exchange| exchange.request.has_ended())
                        {
                            self.receive_from_client(place, true);
                        }
                    }
                    Err(_) => {
                        self.ring.give_back(buffer);
                        self.fail(place, 400);
                    }
                }
            }
            _ => {
                client.inbox.extend_from_slice(self.ring.bytes(&buffer));
                self.ring.give_back(buffer);
                if client.exchange.is_none() {
                    self.read_request(place);
                }
            }
        }
    }

    /// Looks whether there is a request to be answered.
    fn read_request(&mut self, place: usize) {
        let client = &mut self.clients[place];
        match http1::end_of_head(&client.inbox, client.seen) {
            Some(end) if end <= HEAD_BYTES_MAX => {
                client.seen = 0;
                self.begin_exchange(place, end);
            }
            None if client.inbox.len() <= HEAD_BYTES_MAX => {
                client.seen = client.inbox.len();
                self.receive_from_client(place, true);
            }
            _ => {
                let line = self.begin_line(&self.clients[place], Err(Flaw::BadHeader));
                self.refuse(place, 400, line);
            }
        }
    }

    /// Answers what is no request.
    pub(super) fn refuse(&mut self, place: usize, status: u16, line: Option<Box<Line>>) {
        let client = &mut self.clients[place];
        client.inbox.clear();
        client.exchange = Some(Exchange { closes: true, line, ..Exchange::default() });
        self.fail(place, status);
    }

    /// Ends an exchange by a status, if its client was told nothing yet, or by the end of the connection.
    pub(super) fn fail(&mut self, place: usize, status: u16) {
        self.leave_target(place);
        let Some(client) = self.clients.get_mut(place) else { return };
        let is_sending = client.transport.is_sending();
        let untold = |exchange: &&mut Exchange| exchange.response.is_none() && !is_sending;
        let Some(exchange) = client.exchange.as_mut().filter(untold) else {
            self.cut_client(place);
            return;
        };
        exchange.closes |= !exchange.request.has_ended();
        exchange.response = Some(Body::Ended);
        if let Some(line) = &mut exchange.line {
            line.status = Some(status);
        }
        let manner = Manner { to_head: exchange.to_head, closes: exchange.closes };
        let mut out = self.ring.spare();
        answer::status(status, manner, &mut out);
        self.count_own(status);
        self.send_to_client(place, Data::Bytes(out));
    }

    pub(super) fn count_own(&self, status: u16) {
        Count::of_elb(status).into_iter().flatten().for_each(|count| self.counters.all.one(count));
    }

    pub(super) fn client_has_got_it(&mut self, place: usize) {
        let age_max = Duration::from_secs(self.attributes().client_keep_alive_s.into());
        let client = &mut self.clients[place];
        let Some(exchange) = &client.exchange else { return };
        if exchange.response.is_none_or(|response| !response.has_ended()) {
            self.receive_from_target_of(place);
            return;
        }
        let (closes, is_whole) = (exchange.closes, exchange.request.has_ended());
        self.leave_target(place);
        self.end_exchange(place);
        let client = &mut self.clients[place];
        if client.end != Ending::Open {
            return;
        }
        if closes || !is_whole || self.now.since(client.began) > age_max {
            // It hears the end when it has heard all.
            client.transport.end(&mut self.ring);
            client.end = Ending::Lingers;
            client.inbox = Vec::new();
            self.receive_from_client(place, true);
        } else if client.inbox.is_empty() {
            self.receive_from_client(place, true);
        } else {
            self.read_request(place);
        }
    }

    /// Receives what it sends next, unless that is under way, or there is something of it that waits.
    pub(super) fn receive_from_client(&mut self, place: usize, is_late: bool) {
        let client = &mut self.clients[place];
        let waits = client.exchange.as_ref().is_some_and(|exchange| {
            exchange.held.is_some()
                || (exchange.request.has_ended()
                    && !exchange.is_tunnel
                    && client.inbox.len() >= AHEAD_BYTES_MAX)
        });
        if !waits && client.end != Ending::Cut {
            client.transport.receive(&mut self.ring, is_late);
        }
    }

    /// One at a time.
    pub(super) fn send_to_client(&mut self, place: usize, data: Data) {
        let length = self.ring.data(&data).len() as u64;
        self.counters.all.add(Count::ProcessedBytes, length);
        let client = &mut self.clients[place];
        if let Some(line) = client.exchange.as_mut().and_then(|exchange| exchange.line.as_mut()) {
            line.sent += length;
        }
        client.transport.send(&mut self.ring, data);
    }

    pub(super) fn cut_client(&mut self, place: usize) {
        let Some(client) = self.clients.get_mut(place) else { return };
        if client.end == Ending::Cut {
            return;
        }
        client.end = Ending::Cut;
        if client.transport.has_failed_handshake() {
            self.counters.all.one(Count::ClientTlsErrors);
        }
        client.transport.cut(&mut self.ring);
        self.leave_target(place);
        self.end_exchange(place);
    }

    pub(super) fn sweep_client(&mut self, place: usize, idle_max: Duration) {
        let client = &self.clients[place];
        let still = self.now.since(client.still_since);
        let has_left = |choice: &Choice| choice.lease.member().has_left(self.now);
        match (&client.exchange, client.end) {
            // Its target was taken away, and had its time.
            (Some(exchange), Ending::Open) if exchange.choice.as_ref().is_some_and(has_left) => {
                self.fail(place, 502)
            }
            (_, Ending::Lingers) if still > LINGER_TIME => self.cut_client(place),
            (Some(exchange), Ending::Open) if still > idle_max && exchange.response.is_none() => {
                // Who is waited for tells whose fault it is.
                let status = if exchange.request.has_ended() { 504 } else { 408 };
                self.fail(place, status);
            }
            (_, Ending::Open) if still > idle_max => self.cut_client(place),
            _ => {}
        }
        if self.clients.get(place).is_some_and(Client::is_over) {
            self.clients.remove(place);
        }
    }
}
