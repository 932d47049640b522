//! One client's connection: bytes in, requests, answers, bytes out; nothing blocks.
//!
//! ```text
//!            request begins            complete            answered
//!   Idle ───────────────────▶ Receiving ───────▶ Sending ──────────▶ Idle
//!                                 │                 ▲ │ refused, all sent
//!                                 ▼ long poll       │ ▼
//!                              Waiting ─────────────┘ Draining ──▶ closed
//! ```
//!
//! A request is looked at only when the answer to the one before has been taken by the socket, so that a client that
//! pipelines and does not read holds one answer's memory at the most. Each stage has a deadline.
//!
//! A refusal closes the connection. What the client still sends is then read and thrown away for a moment: closing a
//! Unix socket with bytes unread makes the client's next write fail before it sees the answer.

use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::request::{Progress, Request, RequestReader};
use super::response::{Refusal, Response};
use crate::console::watch::{Watch, interest};
use crate::descriptors;
use crate::poll::{Poller, Token};

/// How long each stage of a connection may last.
#[derive(Debug, Clone, Copy)]
pub struct TimeOuts {
    /// Without a request.
    pub idle: Duration,
    /// From a request's first byte to its last.
    pub receiving: Duration,
    /// Without the client taking a byte of the answer.
    pub sending: Duration,
    /// After a refusal.
    pub draining: Duration,
}

impl Default for TimeOuts {
    fn default() -> Self {
        TimeOuts {
            idle: Duration::from_secs(300),
            receiving: Duration::from_secs(10),
            sending: Duration::from_secs(10),
            draining: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Receiving,
    Sending,
    /// For an event after this one.
    Waiting {
        after: u64,
    },
    Draining,
}

/// How an answer to a request is framed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framing {
    keep_alive: bool,
    head_only: bool,
}

/// The connection is over.
#[derive(Debug)]
pub(super) struct Closed;

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    reader: RequestReader,
    output: Vec<u8>,
    stage: Stage,
    deadline: Instant,
    framing: Framing,
    /// The client sends no more.
    ended: bool,
    /// Nothing is served after what is being sent.
    closing: bool,
    watch: Watch,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, now: Instant, limits: &TimeOuts) -> Self {
        Connection {
            stream,
            reader: RequestReader::default(),
            output: Vec::new(),
            stage: Stage::Idle,
            deadline: now + limits.idle,
            framing: Framing { keep_alive: true, head_only: false },
            ended: false,
            closing: false,
            watch: Watch::default(),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The event after which this client waits for one.
    pub(super) fn awaits_event_after(&self) -> Option<u64> {
        match self.stage {
            Stage::Waiting { after } => Some(after),
            _ => None,
        }
    }

    /// Takes what came, once.
    pub(super) fn receive(&mut self) -> Result<(), Closed> {
        if !self.wants_bytes() {
            return Ok(());
        }
        let mut chunk = [0; 16 * 1024];
        let received = match descriptors::receive(&self.stream, &mut chunk) {
            Ok(received) => received,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(_) => return Err(Closed),
        };
        if received.length == 0 {
            self.ended = true;
            // Whoever hangs up while waiting does not wait.
            return match self.stage {
                Stage::Waiting { .. } | Stage::Draining => Err(Closed),
                _ => Ok(()),
            };
        }
        if self.stage == Stage::Draining {
            return Ok(());
        }
        if received.truncated {
            self.refuse(&Refusal::TooManyDescriptors);
            return Ok(());
        }
        self.reader.feed(&chunk[..received.length], received.descriptors);
        Ok(())
    }

    /// Gets on as far as it goes: sends what is to be sent, and returns the next request to answer, if there is one.
    pub(super) fn advance(&mut self, now: Instant, limits: &TimeOuts) -> Result<Option<Request>, Closed> {
        loop {
            self.send(now, limits)?;
            if !self.output.is_empty() {
                return Ok(None);
            }
            if matches!(self.stage, Stage::Waiting { .. } | Stage::Draining) {
                return Ok(None);
            }
            if self.closing {
                return self.drain(now, limits).map(|()| None);
            }
            match self.reader.next() {
                Ok(Progress::Complete(request)) => {
                    self.stage = Stage::Idle;
                    let keep_alive = request.keep_alive && !self.ended_after_this();
                    self.framing = Framing { keep_alive, head_only: request.method == "HEAD" };
                    return Ok(Some(request));
                }
                Ok(Progress::ExpectsContinue) => {
                    self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                Ok(Progress::Incomplete) if self.ended => return Err(Closed),
                Ok(Progress::Incomplete) => {
                    if self.reader.is_within_request() {
                        self.enter(Stage::Receiving, now + limits.receiving);
                    } else {
                        self.enter(Stage::Idle, now + limits.idle);
                    }
                    return Ok(None);
                }
                Err(refusal) => self.refuse(&refusal),
            }
        }
    }

    /// The client has hung up and nothing of it waits.
    fn ended_after_this(&self) -> bool {
        self.ended && !self.reader.is_within_request()
    }

    /// Queues the answer to the request that [`Connection::advance`] returned last.
    pub(super) fn respond(&mut self, response: Response) {
        self.output = response.into_bytes(self.framing.keep_alive, self.framing.head_only);
        self.closing = !self.framing.keep_alive;
        self.stage = Stage::Idle;
    }

    /// Puts the answer off until there is an event after `after`, or `deadline`.
    pub(super) fn await_event(&mut self, after: u64, deadline: Instant) {
        self.stage = Stage::Waiting { after };
        self.deadline = deadline;
    }

    /// What to do at the deadline; true when the client waits for an event and is to be answered.
    pub(super) fn expire(&mut self) -> Result<bool, Closed> {
        match self.stage {
            Stage::Waiting { .. } => Ok(true),
            Stage::Receiving => {
                self.refuse(&Refusal::TimeOut);
                Ok(false)
            }
            Stage::Idle | Stage::Sending | Stage::Draining => Err(Closed),
        }
    }

    /// The stream, and what came of another protocol, when the connection changes to that.
    pub(super) fn into_stream(mut self, poller: &Poller) -> io::Result<(UnixStream, Vec<u8>)> {
        self.watch.set(poller, &self.stream, 0, None)?;
        Ok((self.stream, self.reader.into_rest()))
    }

    /// Waits for what this connection needs next.
    pub(super) fn rewatch(&mut self, poller: &Poller, token: Token) -> io::Result<()> {
        let wanted = interest(self.wants_bytes(), !self.output.is_empty());
        self.watch.set(poller, &self.stream, token, wanted)
    }

    pub(super) fn unwatch(&mut self, poller: &Poller) -> io::Result<()> {
        self.watch.set(poller, &self.stream, 0, None)
    }

    fn wants_bytes(&self) -> bool {
        self.output.is_empty() && !self.ended && (self.stage == Stage::Draining || self.reader.has_room())
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.output = Response::from(refusal).into_bytes(false, false);
        self.closing = true;
        self.stage = Stage::Idle;
    }

    fn drain(&mut self, now: Instant, limits: &TimeOuts) -> Result<(), Closed> {
        if self.ended || self.stream.shutdown(Shutdown::Write).is_err() {
            return Err(Closed);
        }
        self.reader = RequestReader::default();
        self.enter(Stage::Draining, now + limits.draining);
        Ok(())
    }

    /// A stage that goes on keeps its deadline.
    fn enter(&mut self, stage: Stage, deadline: Instant) {
        if self.stage != stage || stage == Stage::Idle {
            self.stage = stage;
            self.deadline = deadline;
        }
    }

    fn send(&mut self, now: Instant, limits: &TimeOuts) -> Result<(), Closed> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(Closed),
                Ok(sent) => {
                    self.output.drain(..sent);
                    self.stage = Stage::Idle;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.enter(Stage::Sending, now + limits.sending);
                    return Ok(());
                }
                Err(_) => return Err(Closed),
            }
        }
        Ok(())
    }
}
