//! A stream: a message in each direction, and what of them waits.
//!
//! ```text
//!        ┌─ HEADERS ─▶ Open ──END_STREAM──▶ Ended       (what comes)
//! begin ─┤                └── RST_STREAM, either way ─▶ dead, for both directions
//!        └─ Outgoing: head, body ──▶ tail ──▶ has_sent  (what is sent)
//! ```

use super::incoming::Incoming;
use super::outgoing::{Kind, Outgoing};

/// What may come of a stream before more is allowed (RFC 9113, 5.2).
pub(super) const WINDOW: u32 = 128 << 10;

/// What its owner gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing yet.
    Nothing,
    Bytes(Vec<u8>),
    /// Nothing more comes: the answer has ended, or the request has, and its answer, too.
    End,
    /// It was cut off, or begins never.
    Failed,
}

/// What follows the data.
#[derive(Debug)]
pub(super) enum Tail {
    End,
    Trailers(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Stream {
    /// What comes is one.
    is_request: bool,
    /// What the owner has not taken, and how many bytes of data are in it, which the other end has not been given back.
    pub(super) inbox: Vec<u8>,
    pub(super) held: u32,
    /// What the owner has taken, and the other end has not been given back.
    pub(super) taken: u32,
    pub(super) incoming: Option<Incoming>,
    /// The other end has said all.
    pub(super) has_received: bool,
    pub(super) receive_window: i64,
    pub(super) outgoing: Outgoing,
    /// Data that the other end has no room for, from `sent` on, and what follows them.
    pub(super) pending: Vec<u8>,
    pub(super) sent: usize,
    pub(super) tail: Option<Tail>,
    /// The other end knows of it.
    pub(super) has_begun: bool,
    pub(super) has_sent: bool,
    pub(super) send_window: i64,
    /// It was reset, by either end.
    pub(super) is_dead: bool,
    pub(super) is_waiting: bool,
    /// Nobody wants to know of it any more.
    pub(super) is_released: bool,
    pub(super) to_head: bool,
}

impl Stream {
    pub(super) fn new(kind: Kind, send_window: i64) -> Self {
        Self {
            is_request: matches!(kind, Kind::Response { .. }),
            inbox: Vec::new(),
            held: 0,
            taken: 0,
            incoming: None,
            has_received: false,
            receive_window: WINDOW.into(),
            outgoing: Outgoing::new(kind),
            pending: Vec::new(),
            sent: 0,
            tail: None,
            has_begun: matches!(kind, Kind::Response { .. }),
            has_sent: false,
            send_window,
            is_dead: false,
            is_waiting: false,
            is_released: false,
            to_head: false,
        }
    }

    /// Nothing more comes or goes.
    pub(super) fn is_over(&self) -> bool {
        self.is_dead || (self.has_received && self.has_sent)
    }

    /// What waits is thrown away, and what its owner still gives it, too.
    pub(super) fn stop_sending(&mut self) {
        (self.pending, self.sent, self.tail, self.has_sent) = (Vec::new(), 0, None, true);
    }

    /// All that its owner gave it is on its way.
    pub(super) fn is_drained(&self) -> bool {
        self.is_dead || (self.sent == self.pending.len() && self.tail.is_none())
    }

    /// A request's stream has its end when it is answered: who has said all still listens.
    pub(super) fn has_end(&self) -> bool {
        self.has_received && (self.has_sent || !self.is_request)
    }

    pub(super) fn is_readable(&self) -> bool {
        self.is_dead || self.has_end() || !self.inbox.is_empty()
    }
}
