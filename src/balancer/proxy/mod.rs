//! What is between clients and targets, for one thread: requests come, go to whom a [`Router`] says, and their answers come back.
//!
//! ```text
//!             head             body, piece by piece
//! client ──▶ inbox ──▶ exchange ────────────────────▶ target
//!    ▲                    │                             │
//!    └────────────────────┴──── head, body ◀── inbox ◀──┘ then it waits in the pool, if it can be used again
//! ```
//!
//! - One piece of a body is under way in each direction: who is slow to take it is sent no more, and nothing more is read for him.
//! - Something is always being received from a client and from a target, if there is nothing of his that waits: so the end of either is noticed at once, and what
//!   waits for the next request is what waited for the end of this one.
//! - A connection's place is its own until nothing is under way on its socket.
//!
//! It deliberately does not: decide where a request goes, or keep a body.

mod answer;
mod client;
mod target;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};
use slab::Slab;

use crate::config::{Attributes, FixedResponse};
use crate::engine::{Completion, Outcome, Ring, Socket};
use crate::http1::{Request, Response};
use client::Client;
use target::Upstream;

/// How often it is looked who has been idle for too long.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// How long a target may take to accept a connection (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html>).
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a client that is told of its mistake may take to hear it.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Places that are no connection's.
const LISTENERS: u64 = 1 << 62;
const WAKE: u64 = 1 << 63;

/// A request, as it is looked at to decide about it.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    pub head: &'a [u8],
    pub request: &'a Request,
    pub source: SocketAddr,
    /// Which of the listeners it came to.
    pub listener: usize,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Forward(SocketAddr),
    Answer(FixedResponse),
    /// To this URL, by this status.
    Redirect {
        status: u16,
        location: String,
    },
    /// There is nobody to ask.
    Nobody,
}

/// Who decides what becomes of requests. Each worker has its own.
pub trait Router {
    fn decide(&mut self, request: &RequestView<'_>) -> Decision;

    /// What was forwarded to this target has ended.
    fn ended(&mut self, target: SocketAddr);
}

/// Everything of one thread.
pub struct Worker<R> {
    ring: Ring,
    router: R,
    attributes: Arc<Attributes>,
    listeners: Vec<TcpListener>,
    clients: Slab<Client>,
    upstreams: Slab<Upstream>,
    /// Connections to targets that nobody uses.
    idle: HashMap<SocketAddr, Vec<usize>>,
    /// The time, as of the last return from the kernel.
    now: Instant,
    request: Request,
    response: Response,
    /// Memory of what was sent.
    spare: Vec<Vec<u8>>,
    random: u64,
    is_ending: bool,
}

/// Memory of this size and more is not kept.
const SPARE_BYTES_MAX: usize = 32 << 10;
const SPARE_MAX: usize = 256;

impl<R: Router> Worker<R> {
    /// Serves what comes to `listeners` on the calling thread.
    ///
    /// # Errors
    /// When the kernel has no ring for it.
    pub fn new(
        listeners: Vec<TcpListener>,
        attributes: Arc<Attributes>,
        router: R,
        seed: u64,
    ) -> io::Result<Self> {
        let mut ring = Ring::new()?;
        for (listener, place) in listeners.iter().zip(0..) {
            ring.accept(listener, LISTENERS + place);
        }
        Ok(Self {
            ring,
            router,
            attributes,
            listeners,
            clients: Slab::new(),
            upstreams: Slab::new(),
            idle: HashMap::new(),
            now: Instant::now(),
            request: Request::default(),
            response: Response::default(),
            spare: Vec::new(),
            random: seed | 1,
            is_ending: false,
        })
    }

    /// Works until somebody writes to `end`.
    ///
    /// # Errors
    /// When the ring fails.
    pub fn run(&mut self, end: &OwnedFd) -> io::Result<()> {
        self.ring.watch(end, WAKE);
        let mut completions = Vec::new();
        let mut swept = Instant::now();
        while !self.is_ending {
            self.ring.wait(SWEEP_PERIOD, &mut completions)?;
            self.now = Instant::now();
            for completion in completions.drain(..) {
                self.complete(completion);
            }
            if self.now.duration_since(swept) >= SWEEP_PERIOD {
                swept = self.now;
                self.sweep();
            }
        }
        Ok(())
    }

    fn complete(&mut self, Completion { token, outcome }: Completion) {
        match outcome {
            Outcome::Woken => self.is_ending = true,
            Outcome::Accepted(accepted) => self.accepted(token, accepted),
            outcome => {
                // Places fit: they came from a slab.
                let place = usize::try_from(token >> 1).unwrap_or(usize::MAX);
                if token & 1 == 0 {
                    self.client_completed(place, outcome)
                } else {
                    self.target_completed(place, outcome)
                }
            }
        }
    }

    fn accepted(&mut self, token: u64, accepted: io::Result<OwnedFd>) {
        let place = usize::try_from(token - LISTENERS).unwrap_or_default();
        match accepted {
            Ok(socket) => self.begin_client(place, socket),
            // It accepts no more: too few descriptors are left, say. Those that wait are not lost.
            Err(_) => {
                if let Some(listener) = self.listeners.get(place) {
                    self.ring.accept(listener, token);
                }
            }
        }
    }

    /// Ends what has been idle for too long.
    fn sweep(&mut self) {
        let idle_max = Duration::from_secs(self.attributes.idle_timeout_s.into());
        for place in places(&self.clients) {
            self.sweep_client(place, idle_max);
        }
        for place in places(&self.upstreams) {
            self.sweep_target(place, idle_max);
        }
    }

    /// Memory to write something into that is sent.
    fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(2048))
    }

    fn keep_spare(&mut self, mut memory: Vec<u8>) {
        if memory.capacity() < SPARE_BYTES_MAX && self.spare.len() < SPARE_MAX {
            memory.clear();
            self.spare.push(memory);
        }
    }

    /// Not for secrets (xorshift64*).
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn places<T>(slab: &Slab<T>) -> Vec<usize> {
    slab.iter().map(|(place, _)| place).collect()
}

/// What is under way on a socket completes; nothing comes any more.
fn cut(socket: &Socket) {
    // It may have been cut before.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}
