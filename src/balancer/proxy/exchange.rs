//! A request that a client makes: read, decided, and on its way, or answered here.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use types::Instant;

use super::answer::{self, Manner};
use super::{Way, Worker};
use crate::access_log::Line;
use crate::config::{DesyncMode, ProtocolVersion};
use crate::counters::{Count, Counters};
use crate::engine::Data;
use crate::http1::{self, Body, Connection, Flaw, Severity};
use crate::routes::{Decision, Incoming};
use crate::targets::{self, Choice};

/// A request that was understood, until its answer is told.
#[derive(Default)]
pub(super) struct Exchange {
    /// Who is asked, if anybody is.
    pub(super) target: Option<usize>,
    pub(super) request: Body,
    /// None: nothing of it was told.
    pub(super) response: Option<Body>,
    /// A piece of the request that the target has no room for yet.
    pub(super) held: Option<Data>,
    pub(super) to_head: bool,
    pub(super) is_old: bool,
    /// The connection ends with the answer.
    pub(super) closes: bool,
    /// It is no HTTP any more.
    pub(super) is_tunnel: bool,
    pub(super) wants_tunnel: bool,
    /// As it was forwarded, for another try: none, if what was asked may be done only once.
    pub(super) again: Option<Vec<u8>>,
    /// Counts for its target as long as this lasts.
    pub(super) choice: Option<Choice>,
    /// A call of gRPC.
    pub(super) is_grpc: bool,
    /// What counts for its target group, and since when it is asked.
    pub(super) group: Option<Arc<Counters>>,
    pub(super) asked: Instant,
    /// What is written down of it, if anything is.
    pub(super) line: Option<Box<Line>>,
    /// The client's browser wants to be told which cookies are for other sites, too.
    pub(super) is_cross_site_aware: bool,
}

impl Exchange {
    /// Fields that make the client stay with its target, to be added to this answer.
    pub(super) fn cookies(&self, head: &[u8], response: &http1::Response, wall: SystemTime) -> Vec<u8> {
        let Some(choice) = &self.choice else { return Vec::new() };
        let is_set = choice.application_cookie().is_some_and(|cookie| {
            response.fields.iter().any(|field| {
                let name = &head[field.name.clone()];
                name.eq_ignore_ascii_case(b"set-cookie") && targets::sets(&head[field.value.clone()], cookie)
            })
        });
        let mut fields = Vec::new();
        for value in choice.set_cookies(is_set, self.is_cross_site_aware, wall) {
            fields.extend_from_slice(format!("Set-Cookie: {value}\r\n").as_bytes());
        }
        fields
    }
}

impl Worker {
    /// Does what is to be done with the request whose head is the client's first `end` bytes.
    pub(super) fn begin_exchange(&mut self, place: usize, end: usize) {
        let mode = self.attributes().desync_mitigation_mode;
        let client = &self.clients[place];
        let head = &client.inbox[..end];
        if let Err(flaw) = self.request.parse(head) {
            self.counters.all.one(Count::NonCompliant);
            let line = self.begin_line(client, Err(flaw));
            self.refuse(place, if flaw == Flaw::BadVersion { 505 } else { 400 }, line);
            return;
        }
        let request = &self.request;
        let method = &head[request.method.clone()];
        let is_ambiguous = request.flaw.is_some_and(|flaw| flaw.severity() >= Severity::Ambiguous);
        let is_suspect = is_ambiguous && mode == DesyncMode::Defensive;
        let is_http2 = client.transport.is_stream();
        let mut exchange = Exchange {
            request: Body::new(request.framing),
            to_head: method == b"HEAD",
            is_old: request.is_old,
            closes: request.connection == Connection::Close || is_suspect,
            wants_tunnel: request.connection == Connection::Upgrade,
            is_grpc: is_http2 && is_grpc(head, request),
            line: self.begin_line(client, Ok((head, request))),
            ..Exchange::default()
        };
        if request.flaw.is_some() {
            self.counters.all.one(Count::NonCompliant);
        }
        if request.flaw.is_some() && mode == DesyncMode::Strictest {
            return self.refuse(place, 400, exchange.line);
        }
        if method == b"TRACE" {
            return self.refuse(place, 405, exchange.line);
        }
        // None: whom it was for is gone.
        let Some(listener) = client.entrance.listener.get() else { return self.cut_client(place) };
        let is_post = method == b"POST";
        let incoming = Incoming { head, request, source: client.peer, listener };
        let (decision, priority) = self.routes.decide(&incoming, self.now, self.wall);
        let Ok(taken) = exchange.request.take(&client.inbox[end..]) else {
            return self.refuse(place, 400, exchange.line);
        };
        let whole = end + taken.bytes;
        if let Some(line) = &mut exchange.line {
            line.priority = Some(priority);
            line.received = whole as u64;
        }
        match decision {
            Decision::Forward(choice) => {
                let is_translated = match choice.version {
                    ProtocolVersion::Http1 => !exchange.is_grpc,
                    ProtocolVersion::Http2 => is_http2,
                    ProtocolVersion::Grpc => is_http2 && is_post,
                };
                if is_translated {
                    self.forward(place, end, whole, exchange, choice);
                } else {
                    self.refuse(place, 464, exchange.line);
                }
            }
            decision => self.answer(place, whole, exchange, decision),
        }
    }

    /// Asks the target that was chosen. The head ends at `end`, and what there is of the request at `whole`.
    fn forward(&mut self, place: usize, end: usize, whole: usize, mut exchange: Exchange, choice: Choice) {
        let attributes = *self.attributes();
        let trace = self.trace();
        let mut out = self.ring.spare();
        let client = &mut self.clients[place];
        let head = &client.inbox[..end];
        let secured =
            attributes.x_amzn_tls_version_and_cipher_suite.then(|| client.transport.secured()).flatten();
        let from = http1::Client {
            ip: client.peer.ip(),
            port: client.peer.port(),
            is_tls: client.is_tls,
            listener_port: client.entrance.port,
            tls: secured.map(|secured| (secured.version, secured.cipher)),
        };
        http1::rewrite_request(head, &self.request, &from, &attributes, trace, &mut out);
        exchange.is_cross_site_aware =
            choice.application_cookie().is_some() && is_cross_site_aware(head, &self.request);
        // What may be asked twice: RFC 9110, 9.2.2.
        let is_idempotent =
            matches!(&head[self.request.method.clone()], b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE");
        out.extend_from_slice(&client.inbox[end..whole]);
        client.inbox.drain(..whole);
        exchange.again = (is_idempotent && exchange.request.has_ended()).then(|| out.clone());
        let way = Way::of(&choice);
        exchange.group = self.group_counters.get(choice.picker).cloned();
        for counters in exchange.group.iter().map(AsRef::as_ref).chain([&self.counters.all]) {
            counters.one(Count::Requests);
            if exchange.is_grpc {
                counters.one(Count::GrpcRequests);
            }
        }
        if let Some(line) = &mut exchange.line {
            (line.target, line.action) = (Some(way.address), Some("forward"));
            line.group = self.routes.group_name(choice.picker).cloned();
            line.trace = http1::trace(trace);
        }
        (exchange.asked, exchange.choice) = (self.now, Some(choice));
        client.exchange = Some(exchange);
        self.receive_from_client(place, true);
        self.ask(place, way, out);
    }

    /// Says what a decision says, or that there is nobody to ask.
    fn answer(&mut self, place: usize, whole: usize, mut exchange: Exchange, decision: Decision) {
        // What is still to come of the request nobody wants.
        exchange.closes |= !exchange.request.has_ended();
        exchange.response = Some(Body::Ended);
        let manner = Manner { to_head: exchange.to_head, closes: exchange.closes };
        let mut out = self.ring.spare();
        let (status, action, redirect) = match decision {
            Decision::Answer(response) => {
                self.counters.all.one(Count::FixedResponses);
                answer::fixed(&response, manner, &mut out);
                (response.status, "fixed-response", None)
            }
            Decision::Redirect { status, location } => {
                self.counters.all.one(Count::Redirects);
                self.count_own(status);
                answer::redirect(status, &location, manner, &mut out);
                (status, "redirect", Some(location))
            }
            Decision::Nobody | Decision::Forward(_) => {
                self.count_own(503);
                answer::status(503, manner, &mut out);
                (503, "forward", None)
            }
        };
        if let Some(line) = &mut exchange.line {
            (line.status, line.action, line.redirect) = (Some(status), Some(action), redirect);
        }
        let client = &mut self.clients[place];
        client.inbox.drain(..whole);
        client.exchange = Some(exchange);
        self.send_to_client(place, Data::Bytes(out));
        self.receive_from_client(place, true);
    }

    /// The time, and what nobody else has drawn.
    fn trace(&mut self) -> [u8; 16] {
        let seconds = self.wall.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut trace = [0; 16];
        trace[..4].copy_from_slice(&seconds.to_be_bytes()[4..]);
        trace[4..12].copy_from_slice(&self.random.draw().to_be_bytes());
        trace[12..].copy_from_slice(&self.random.draw().to_be_bytes()[..4]);
        trace
    }
}

fn is_cross_site_aware(head: &[u8], request: &http1::Request) -> bool {
    let mut agents = request.fields.iter().filter(|field| {
        let name = &head[field.name.clone()];
        name.eq_ignore_ascii_case(b"user-agent")
    });
    agents.any(|field| targets::is_cross_site_aware(&head[field.value.clone()]))
}

fn is_grpc(head: &[u8], request: &http1::Request) -> bool {
    request.fields.iter().any(|field| {
        head[field.name.clone()].eq_ignore_ascii_case(b"content-type")
            && head[field.value.clone()].starts_with(b"application/grpc")
    })
}
