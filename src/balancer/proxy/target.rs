//! Connections to targets, those in use and those in the pool.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use types::Instant;

use super::exchange::Exchange;
use super::{CONNECT_TIME, Owner, Worker};
use crate::config::{Protocol, ProtocolVersion};
use crate::counters::{Count, microseconds};
use crate::engine::{Buffer, Data, Outcome};
use crate::http1::{self, Body, HEAD_BYTES_MAX};
use crate::targets::Choice;
use crate::transport::Transport;

/// Connections to one target that are kept for later.
const IDLE_MAX: usize = 4096;
/// `103 Early Hints` and the like before an answer.
const INTERIM_MAX: u8 = 16;

/// Where a target is, and how it is asked: what connections have in common that one can be used for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Way {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) version: ProtocolVersion,
}

impl Way {
    /// To the target that was chosen.
    pub(super) fn of(choice: &Choice) -> Self {
        let target = &choice.lease.member().target;
        let address = SocketAddr::new(target.ip, target.port);
        Self { address, protocol: choice.protocol, version: choice.version }
    }
}

/// A connection to a target.
pub(super) struct Upstream {
    transport: Transport,
    way: Way,
    /// Whose request it has.
    client: Option<usize>,
    /// The begin of an answer whose head is not whole, and how much of it was looked at.
    inbox: Vec<u8>,
    seen: usize,
    state: State,
    /// It has answered before.
    is_used: bool,
    /// Can be used again as soon as its answer has ended.
    stays: bool,
    interim: u8,
    still_since: Instant,
}

enum State {
    /// With what it is to be sent first.
    Connecting(Option<Vec<u8>>),
    Connected,
    Cut,
}

impl Upstream {
    pub(super) fn is_stream(&self) -> bool {
        self.transport.is_stream()
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Cut) && self.transport.is_quiet()
    }
}

impl Worker {
    /// Sends a client's request to a target, on a connection that waits or a new one.
    pub(super) fn ask(&mut self, client: usize, way: Way, request: Vec<u8>) {
        let waiting = self.idle.get_mut(&way).and_then(Vec::pop);
        let place = match waiting {
            Some(place) => place,
            None => match self.connect(way, client) {
                Ok(place) => place,
                Err(_) => {
                    self.fail(client, 502);
                    return;
                }
            },
        };
        let upstream = &mut self.upstreams[place];
        (upstream.client, upstream.still_since, upstream.stays, upstream.interim) =
            (Some(client), self.now, false, 0);
        if let Some(exchange) = &mut self.clients[client].exchange {
            exchange.target = Some(place);
        }
        match &mut self.upstreams[place].state {
            State::Connecting(first) => *first = Some(request),
            _ => self.send_to_target(place, Data::Bytes(request)),
        }
        self.receive_from_target(place);
    }

    fn connect(&mut self, way: Way, client: usize) -> io::Result<usize> {
        let (transport, is_used) = if way.version == ProtocolVersion::Http1 {
            let mut transport = self.transport_to(way, Owner::Target.token(self.upstreams.vacant_key()))?;
            transport.connect(&mut self.ring, way.address);
            (transport, false)
        } else {
            let to_head = self.clients[client].exchange.as_ref().is_some_and(|exchange| exchange.to_head);
            self.stream_to(way, to_head)?
        };
        Ok(self.upstreams.insert(Upstream {
            transport,
            way,
            client: Some(client),
            inbox: Vec::new(),
            seen: 0,
            state: State::Connecting(None),
            is_used,
            stays: false,
            interim: 0,
            still_since: self.now,
        }))
    }

    /// A connection, which is not yet connected.
    pub(super) fn transport_to(&self, way: Way, token: u64) -> io::Result<Transport> {
        let family = if way.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        if let Some(source) = self.routes.plan().config.source {
            // The port is found when it is known to where: many connections may have the same.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
        }
        if way.protocol == Protocol::Http {
            return Ok(Transport::plain(socket, token));
        }
        let config = &self.to_targets[usize::from(way.version != ProtocolVersion::Http1)];
        let session = ClientConnection::new(Arc::clone(config), ServerName::from(way.address.ip()));
        Ok(Transport::connecting(socket, session.map_err(io::Error::other)?, token))
    }

    pub(super) fn target_completed(&mut self, place: usize, outcome: Outcome) {
        let Some(upstream) = self.upstreams.get_mut(place) else { return };
        upstream.still_since = self.now;
        match upstream.transport.completed(&mut self.ring, outcome) {
            Some(Outcome::Connected(connected)) => {
                match (connected, std::mem::replace(&mut upstream.state, State::Connected)) {
                    (_, State::Cut) => upstream.state = State::Cut,
                    (Ok(()), State::Connecting(first)) => {
                        if let Some(request) = first {
                            self.send_to_target(place, Data::Bytes(request));
                        }
                        self.receive_from_target(place);
                    }
                    (Ok(()), State::Connected) => {}
                    (Err(_), state) => {
                        self.count_unreachable(place);
                        match state {
                            State::Connecting(Some(request)) => self.ask_another(place, request),
                            _ => self.lose_target(place),
                        }
                    }
                }
            }
            Some(Outcome::Sent(sent, data)) => {
                self.ring.let_go(data);
                // One that takes no more may have answered: its end tells.
                if sent.is_ok() {
                    self.target_has_got_it(place);
                }
            }
            Some(Outcome::Received(received)) => match received {
                Ok(Some(buffer)) if buffer.len() > 0 => self.target_sent_us(place, buffer),
                Ok(None) if !matches!(upstream.state, State::Cut) => self.receive_from_target(place),
                _ => self.lose_target(place),
            },
            _ => {}
        }
        if self.upstreams.get(place).is_some_and(Upstream::is_over) {
            self.upstreams.remove(place);
        }
    }

    /// Sends to another target what this one, which cannot be reached, has got nothing of.
    fn ask_another(&mut self, place: usize, request: Vec<u8>) {
        let client = self.upstreams[place].client;
        let exchange = client.and_then(|client| self.clients.get_mut(client)?.exchange.as_mut());
        let Some((client, exchange)) = client.zip(exchange) else { return self.cut_target(place) };
        let way = exchange
            .choice
            .as_mut()
            .and_then(|choice| self.routes.go_to_another(choice, self.now).then(|| Way::of(choice)));
        let Some(way) = way else { return self.lose_target(place) };
        exchange.target = None;
        if let Some(line) = &mut exchange.line {
            line.target = Some(way.address);
        }
        self.upstreams[place].client = None;
        self.cut_target(place);
        self.ask(client, way, request);
    }

    /// The exchange that it is in.
    fn exchange(&mut self, place: usize) -> Option<(usize, &mut Exchange)> {
        let client = self.upstreams.get(place)?.client?;
        Some((client, self.clients.get_mut(client)?.exchange.as_mut()?))
    }

    /// Sends a piece of a request's body, or has it wait for its turn.
    pub(super) fn pass_to_target(&mut self, client: usize, buffer: Buffer, length: usize) {
        let Some(exchange) = self.clients[client].exchange.as_mut() else {
            return self.ring.give_back(buffer);
        };
        let Some(place) = exchange.target.filter(|_| length > 0) else { return self.ring.give_back(buffer) };
        let upstream = &self.upstreams[place];
        if upstream.transport.is_sending() || matches!(upstream.state, State::Connecting(_)) {
            debug_assert!(exchange.held.is_none());
            exchange.held = Some(self.ring.keep(buffer, 0..length));
            return;
        }
        let data = self.ring.keep(buffer, 0..length);
        self.send_to_target(place, data);
    }

    fn target_has_got_it(&mut self, place: usize) {
        let Some((client, exchange)) = self.exchange(place) else { return };
        if let Some(data) = exchange.held.take() {
            self.send_to_target(place, data);
            return;
        }
        if exchange.is_tunnel || !exchange.request.has_ended() {
            self.receive_from_client(client, false);
        }
        self.rest(place);
    }

    fn target_sent_us(&mut self, place: usize, buffer: Buffer) {
        let upstream = &mut self.upstreams[place];
        let exchange =
            upstream.client.and_then(|client| Some((client, self.clients[client].exchange.as_mut()?)));
        let Some((client, exchange)) = exchange else {
            // Nobody has asked.
            self.ring.give_back(buffer);
            self.cut_target(place);
            return;
        };
        let bytes = self.ring.bytes(&buffer);
        let Some(body) = &mut exchange.response else {
            upstream.inbox.extend_from_slice(bytes);
            self.ring.give_back(buffer);
            self.read_response(place);
            return;
        };
        match body.take(bytes) {
            Ok(taken) if taken.bytes > 0 => {
                upstream.stays &= taken.bytes == buffer.len();
                let data = self.ring.keep(buffer, 0..taken.bytes);
                self.send_to_client(client, data);
                if taken.is_end {
                    self.rest(place);
                }
            }
            _ => {
                self.ring.give_back(buffer);
                self.fail(client, 502);
            }
        }
    }

    /// Looks whether there is the head of an answer.
    fn read_response(&mut self, place: usize) {
        let upstream = &mut self.upstreams[place];
        let Some(end) = http1::end_of_head(&upstream.inbox, upstream.seen) else {
            upstream.seen = upstream.inbox.len();
            let is_endless = upstream.inbox.len() > HEAD_BYTES_MAX;
            match upstream.client {
                Some(client) if is_endless => self.fail(client, 502),
                _ => self.receive_from_target(place),
            }
            return;
        };
        upstream.seen = 0;
        let Some(client) = upstream.client else { return };
        let Some(exchange) = self.clients[client].exchange.as_mut() else { return };
        let (head, rest) = upstream.inbox.split_at(end);
        let is_tunnel = |status| status == 101 && exchange.wants_tunnel;
        let parsed = self.response.parse(head, exchange.to_head);
        if parsed.is_err() || (self.response.status == 101 && !is_tunnel(101)) {
            self.fail(client, 502);
            return;
        }
        if self.response.is_interim() {
            upstream.interim += 1;
            if upstream.interim > INTERIM_MAX {
                self.fail(client, 502);
                return;
            }
            // What an old client does not know it is not told.
            let told = (!exchange.is_old).then(|| head.to_vec());
            upstream.inbox.drain(..end);
            match told {
                Some(told) => self.send_to_client(client, Data::Bytes(told)),
                None => self.read_response(place),
            }
            return;
        }
        let mut body = Body::new(self.response.framing);
        let Ok(taken) = body.take(rest) else {
            self.fail(client, 502);
            return;
        };
        let time = microseconds(self.now.since(exchange.asked));
        for counters in exchange.group.iter().map(AsRef::as_ref).chain([&self.counters.all]) {
            if let Some(count) = Count::of_target(self.response.status) {
                counters.one(count);
            }
            counters.add(Count::TargetResponseTime, time);
            counters.one(Count::TargetResponses);
        }
        if let Some(line) = &mut exchange.line {
            (line.status, line.target_status) = (Some(self.response.status), Some(self.response.status));
            line.target_time = Some(self.now.since(exchange.asked));
        }
        exchange.is_tunnel = is_tunnel(self.response.status);
        exchange.closes |= matches!(body, Body::UntilClose);
        exchange.again = None;
        upstream.is_used = true;
        upstream.stays = self.response.stays && !exchange.is_tunnel && taken.bytes == rest.len();
        let mut out = self.ring.spare();
        let cookies = exchange.cookies(head, &self.response, self.wall);
        http1::rewrite_response(head, &self.response, exchange.is_old, exchange.closes, &cookies, &mut out);
        if exchange.is_tunnel {
            out.extend_from_slice(rest);
            body = Body::UntilClose;
        } else {
            out.extend_from_slice(&rest[..taken.bytes]);
        }
        exchange.response = Some(body);
        let has_ended = body.has_ended();
        upstream.inbox.clear();
        self.send_to_client(client, Data::Bytes(out));
        if has_ended {
            self.rest(place);
        }
    }

    /// More of the answer is read when the client has taken what there was.
    pub(super) fn receive_from_target_of(&mut self, client: usize) {
        let Some(place) = self.clients[client].exchange.as_ref().and_then(|exchange| exchange.target) else {
            return;
        };
        if self.upstreams[place].inbox.is_empty() {
            self.receive_from_target(place);
        } else {
            self.read_response(place);
        }
    }

    fn count_unreachable(&self, place: usize) {
        let upstream = &self.upstreams[place];
        let exchange = upstream.client.and_then(|client| self.clients.get(client)?.exchange.as_ref());
        let group = exchange.and_then(|exchange| exchange.group.as_deref());
        let count = if upstream.transport.has_failed_handshake() {
            Count::TargetTlsErrors
        } else {
            Count::TargetConnectionErrors
        };
        group.into_iter().chain([&self.counters.all]).for_each(|counters| counters.one(count));
    }

    /// The target's end of the connection.
    fn lose_target(&mut self, place: usize) {
        let upstream = &self.upstreams[place];
        let (way, is_used, has_begun) = (upstream.way, upstream.is_used, !upstream.inbox.is_empty());
        let Some((client, exchange)) = self.exchange(place) else { return self.cut_target(place) };
        if let Some(body) = &mut exchange.response {
            // A body that ends so is whole, or its client learns that it is not, by the same means.
            body.close();
            exchange.closes = true;
            self.cut_target(place);
            if !self.clients[client].transport.is_sending() {
                self.client_has_got_it(client);
            }
            return;
        }
        match exchange.again.take() {
            // It was about to close when it was asked: another has not.
            Some(request) if is_used && !has_begun => {
                exchange.target = None;
                self.upstreams[place].client = None;
                self.cut_target(place);
                self.ask(client, way, request);
            }
            _ => self.fail(client, 502),
        }
    }

    /// An exchange is over for the target: it goes to the pool if all was sent, and received.
    fn rest(&mut self, place: usize) {
        let Some((_, exchange)) = self.exchange(place) else { return };
        if !exchange.request.has_ended() || !exchange.response.is_some_and(|body| body.has_ended()) {
            return;
        }
        exchange.target = None;
        self.release(place);
    }

    /// The exchange of a client is over, one way or the other.
    pub(super) fn leave_target(&mut self, client: usize) {
        let Some(exchange) = self.clients.get_mut(client).and_then(|client| client.exchange.as_mut()) else {
            return;
        };
        let (held, target) = (exchange.held.take(), exchange.target.take());
        if let Some(data) = held {
            self.ring.let_go(data);
        }
        let Some(place) = target else { return };
        self.upstreams[place].stays = false;
        self.release(place);
    }

    fn release(&mut self, place: usize) {
        let upstream = &mut self.upstreams[place];
        upstream.client = None;
        let is_there = self.routes.plan().has_target(upstream.way.address);
        let is_kept = upstream.stays && !upstream.transport.is_sending() && !upstream.transport.is_stream();
        let idle = self.idle.entry(upstream.way).or_default();
        if is_kept && is_there && idle.len() < IDLE_MAX && matches!(upstream.state, State::Connected) {
            idle.push(place);
            self.receive_from_target(place);
        } else {
            self.cut_target(place);
        }
    }

    fn receive_from_target(&mut self, place: usize) {
        let upstream = &mut self.upstreams[place];
        if matches!(upstream.state, State::Connected) {
            upstream.transport.receive(&mut self.ring, true);
        }
    }

    /// One at a time.
    fn send_to_target(&mut self, place: usize, data: Data) {
        self.upstreams[place].transport.send(&mut self.ring, data);
    }

    fn cut_target(&mut self, place: usize) {
        let Some(upstream) = self.upstreams.get_mut(place) else { return };
        if let Some(client) = upstream.client.take()
            && let Some(exchange) = self.clients.get_mut(client).and_then(|client| client.exchange.as_mut())
        {
            exchange.target = None;
        }
        upstream.state = State::Cut;
        upstream.transport.cut(&mut self.ring);
        if let Some(idle) = self.idle.get_mut(&upstream.way) {
            idle.retain(|other| *other != place);
        }
    }

    /// Connections to targets that are there no more wait for nobody.
    pub(super) fn leave_gone_targets(&mut self) {
        let plan = self.routes.plan();
        let gone = self.idle.extract_if(|way, _| !plan.has_target(way.address));
        let waiting: Vec<usize> = gone.flat_map(|(_, places)| places).collect();
        waiting.into_iter().for_each(|place| self.cut_target(place));
    }

    pub(super) fn sweep_target(&mut self, place: usize, idle_max: Duration) {
        let upstream = &self.upstreams[place];
        let still = self.now.since(upstream.still_since);
        match (&upstream.state, upstream.client) {
            (State::Connecting(_), Some(client)) if still > CONNECT_TIME => self.fail(client, 504),
            (State::Connected, None) if still > idle_max => self.cut_target(place),
            _ => {}
        }
        if self.upstreams.get(place).is_some_and(Upstream::is_over) {
            self.upstreams.remove(place);
        }
    }
}
