//! One connection: frames that come, what becomes of them, and what must be said of it.

use std::collections::{HashMap, VecDeque};

use types::Instant;

use super::flood::{Budgets, Flood};
use super::frame::{self, Code, PAYLOAD_BYTES_MAX, PREFACE};
use super::hpack::{Decoder, Fields};
use super::incoming;
use super::outgoing::Kind;
use super::stream::{Stream, Taken, WINDOW};

/// Requests of one client at the same time
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-listeners.html#listener-configuration>).
pub(super) const STREAMS_MAX: u32 = 128;
/// What may come of all streams before more is allowed: no connection takes more memory for what nobody has taken yet.
const CONNECTION_WINDOW: u32 = 2 << 20;
/// The window that both ends begin with (RFC 9113, 6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The other end breaks the protocol.
    Broken(Code),
    Flood(Flood),
}

impl From<Flood> for Fault {
    fn from(flood: Flood) -> Self {
        Self::Flood(flood)
    }
}

/// What the other end has said of itself.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) initial_window: i64,
    pub(super) payload_bytes_max: usize,
    pub(super) streams_max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    /// Over TLS, or not.
    Client {
        is_tls: bool,
    },
}

/// A block of fields that is not whole.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) ends: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) frames: u32,
}

/// A connection of HTTP/2. It is given what came, and gives what is to be sent.
#[derive(Debug)]
pub struct Session {
    pub(super) role: Role,
    pub(super) now: Instant,
    /// How much of the preface is still to come.
    pub(super) preface: &'static [u8],
    pub(super) has_settings: bool,
    /// The begin of a frame.
    pub(super) inbox: Vec<u8>,
    pub(super) decoder: Decoder,
    pub(super) fields: Fields,
    pub(super) block: Option<Block>,
    pub(super) streams: HashMap<u32, Stream>,
    /// The last stream that the other end has begun, and the next that this one begins.
    pub(super) last: u32,
    pub(super) next: u32,
    pub(super) peer: Peer,
    pub(super) output: Vec<u8>,
    pub(super) has_written: bool,
    pub(super) send_window: i64,
    pub(super) receive_window: i64,
    /// What was taken, and not yet given back to the other end.
    pub(super) taken: u32,
    pub(super) waiting: VecDeque<u32>,
    pub(super) changed: Vec<u32>,
    pub(super) opened: Vec<u32>,
    pub(super) budgets: Budgets,
    /// No new streams.
    pub(super) is_leaving: bool,
    pub(super) fault: Option<Fault>,
}

impl Session {
    /// With a client.
    pub fn server(now: Instant) -> Self {
        let mut session = Self::new(Role::Server, now);
        session.preface = PREFACE;
        session.begin(&[
            (frame::MAX_CONCURRENT_STREAMS, STREAMS_MAX),
            (frame::INITIAL_WINDOW_SIZE, WINDOW),
            (frame::MAX_HEADER_LIST_SIZE, 64 << 10),
        ]);
        session
    }

    /// With a target.
    pub fn client(is_tls: bool, now: Instant) -> Self {
        let mut session = Self::new(Role::Client { is_tls }, now);
        session.output.extend_from_slice(PREFACE);
        session.begin(&[
            (frame::ENABLE_PUSH, 0),
            (frame::INITIAL_WINDOW_SIZE, WINDOW),
            (frame::MAX_HEADER_LIST_SIZE, 64 << 10),
        ]);
        session
    }

    fn new(role: Role, now: Instant) -> Self {
        Self {
            role,
            now,
            preface: b"",
            has_settings: false,
            inbox: Vec::new(),
            decoder: Decoder::default(),
            fields: Fields::default(),
            block: None,
            streams: HashMap::new(),
            last: 0,
            next: 1,
            peer: Peer {
                initial_window: DEFAULT_WINDOW.into(),
                payload_bytes_max: PAYLOAD_BYTES_MAX,
                // What a server may do before it says more.
                streams_max: STREAMS_MAX,
            },
            output: Vec::new(),
            has_written: false,
            send_window: DEFAULT_WINDOW.into(),
            receive_window: CONNECTION_WINDOW.into(),
            taken: 0,
            waiting: VecDeque::new(),
            changed: Vec::new(),
            opened: Vec::new(),
            budgets: Budgets::new(now),
            is_leaving: false,
            fault: None,
        }
    }

    fn begin(&mut self, settings: &[(u16, u32)]) {
        frame::settings(settings, &mut self.output);
        frame::window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW, &mut self.output);
    }

    /// The stream ends for both ends, and the other learns why.
    pub(super) fn reset(&mut self, id: u32, code: Code) {
        let Some(stream) = self.streams.get(&id).filter(|stream| !stream.is_dead) else { return };
        if stream.has_begun {
            frame::reset(id, code, &mut self.output);
        }
        self.kill(id);
    }

    /// The stream has ended for the other end.
    pub(super) fn kill(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if std::mem::replace(&mut stream.is_dead, true) {
            return;
        }
        stream.stop_sending();
        stream.inbox = Vec::new();
        // Whom nobody was told of nobody has to release.
        let known = self.opened.len();
        self.opened.retain(|opened| *opened != id);
        stream.is_released |= self.opened.len() < known;
        let held = std::mem::take(&mut stream.held);
        self.give_back(held);
        self.changed.push(id);
        self.forget(id);
    }

    /// All streams are cut off: the connection is over.
    pub fn fail_all(&mut self) {
        self.is_leaving = true;
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.into_iter().for_each(|id| self.kill(id));
    }

    /// Lets as much come again as was taken.
    pub(super) fn give_back(&mut self, length: u32) {
        self.taken += length;
        if self.taken >= CONNECTION_WINDOW / 2 {
            frame::window_update(0, self.taken, &mut self.output);
            self.receive_window += i64::from(std::mem::take(&mut self.taken));
        }
    }

    /// What came of the stream since it was last asked for.
    pub fn take(&mut self, id: u32) -> Taken {
        let Some(stream) = self.streams.get_mut(&id) else { return Taken::Failed };
        if stream.is_dead {
            return Taken::Failed;
        }
        if stream.inbox.is_empty() {
            return if stream.has_end() { Taken::End } else { Taken::Nothing };
        }
        let bytes = std::mem::take(&mut stream.inbox);
        let held = std::mem::take(&mut stream.held);
        stream.taken += held;
        // Many pieces are given back at once.
        if stream.taken >= WINDOW / 2 && !stream.has_received {
            stream.receive_window += i64::from(stream.taken);
            frame::window_update(id, std::mem::take(&mut stream.taken), &mut self.output);
        }
        self.give_back(held);
        Taken::Bytes(bytes)
    }

    /// There is something to take, or nothing comes any more.
    pub fn is_readable(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(Stream::is_readable)
    }

    /// All that was written of it is on its way, or will never be.
    pub fn is_drained(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(Stream::is_drained)
    }

    /// It was cut off.
    pub fn is_dead(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(|stream| stream.is_dead)
    }

    /// Begins a stream for a request, to a HEAD if `to_head`.
    pub fn open(&mut self, to_head: bool) -> u32 {
        let id = self.next;
        self.next += 2;
        let is_tls = matches!(self.role, Role::Client { is_tls: true });
        let mut stream = Stream::new(Kind::Request { is_tls }, self.peer.initial_window);
        stream.to_head = to_head;
        self.streams.insert(id, stream);
        id
    }

    /// There may be another stream.
    pub fn has_room(&self) -> bool {
        !self.is_leaving
            && self.streams.len() < self.peer.streams_max.min(STREAMS_MAX) as usize
            && self.next < 1 << 30
    }

    /// Nobody wants to know of the stream any more.
    pub fn release(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.is_released = true;
        // A whole answer is let end by itself.
        let is_ending = stream.has_sent && stream.incoming.is_some_and(incoming::Incoming::is_whole);
        if !(stream.is_over() || self.role != Role::Server && is_ending) {
            self.reset(id, Code::Cancel);
        }
        self.forget(id);
    }

    pub(super) fn forget(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| stream.is_released && stream.is_over()) {
            self.streams.remove(&id);
        }
    }

    /// Tells the client that no new requests will be served. Those under way are.
    pub fn go_away(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            frame::go_away(self.last, Code::NoError, &mut self.output);
        }
    }

    /// Nothing will be said any more, but for what is to be sent now.
    pub fn is_over(&self) -> bool {
        self.is_leaving && self.streams.is_empty() || self.fault.is_some()
    }

    pub fn is_idle_now(&self) -> bool {
        self.streams.is_empty()
    }

    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Puts what is to be sent into `out`, which is empty.
    pub fn output(&mut self, out: &mut Vec<u8>) {
        std::mem::swap(&mut self.output, out);
        self.pump_all();
    }

    /// Requests that have come, which must each be released.
    pub fn opened(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.opened)
    }

    /// Streams of which there may be more to take, or room for more.
    pub fn changed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.changed)
    }
}
