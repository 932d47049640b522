//! What is between clients and targets, for one thread: requests come, go where the [`Routes`] lead, and their answers come back.
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
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use nix::sys::eventfd::EventFd;
use nix::sys::socket::{Shutdown, shutdown};
use slab::Slab;
use types::{Clock as _, Instant, SystemClock};

use crate::config::Attributes;
use crate::engine::{Completion, Data, Outcome, Ring, Socket};
use crate::http1::{Request, Response};
use crate::routes::{Plan, Routes};
use crate::targets::Random;
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

/// What a worker is told.
pub enum Order {
    /// Requests that come from now on go by this plan. Its listeners are those of the one before.
    Follow(Arc<Plan>),
    End,
}

/// Everything of one thread.
pub struct Worker {
    ring: Ring,
    routes: Routes,
    orders: Receiver<Order>,
    listeners: Vec<TcpListener>,
    clients: Slab<Client>,
    upstreams: Slab<Upstream>,
    /// Connections to targets that nobody uses.
    idle: HashMap<SocketAddr, Vec<usize>>,
    /// The time, as of the last return from the kernel.
    now: Instant,
    wall: SystemTime,
    request: Request,
    response: Response,
    /// Memory of what was sent.
    spare: Vec<Vec<u8>>,
    random: Random,
    is_ending: bool,
}

/// Memory of this size and more is not kept.
const SPARE_BYTES_MAX: usize = 32 << 10;
const SPARE_MAX: usize = 256;

impl Worker {
    /// Serves what comes to `listeners`, which are the plan's, on the calling thread.
    ///
    /// # Errors
    /// When the kernel has no ring for it.
    pub fn new(
        listeners: Vec<TcpListener>,
        plan: Arc<Plan>,
        orders: Receiver<Order>,
        mut random: Random,
    ) -> io::Result<Self> {
        let mut ring = Ring::new()?;
        for (listener, place) in listeners.iter().zip(0..) {
            ring.accept(listener, LISTENERS + place);
        }
        Ok(Self {
            ring,
            routes: Routes::new(plan, &mut random),
            orders,
            listeners,
            clients: Slab::new(),
            upstreams: Slab::new(),
            idle: HashMap::new(),
            now: SystemClock.now(),
            wall: SystemTime::now(),
            request: Request::default(),
            response: Response::default(),
            spare: Vec::new(),
            random,
            is_ending: false,
        })
    }

    /// Works until it is told to end. Orders are looked at when somebody has written to `event`, an eventfd(2).
    ///
    /// # Errors
    /// When the ring fails.
    pub fn run(&mut self, event: &EventFd) -> io::Result<()> {
        self.ring.watch(event.as_fd(), WAKE);
        let mut completions = Vec::new();
        let mut swept = self.now;
        while !self.is_ending {
            self.ring.wait(SWEEP_PERIOD, &mut completions)?;
            (self.now, self.wall) = (SystemClock.now(), SystemTime::now());
            for completion in completions.drain(..) {
                match completion.outcome {
                    Outcome::Woken => {
                        event.read()?;
                        self.ring.watch(event.as_fd(), WAKE);
                        self.heed();
                    }
                    _ => self.complete(completion),
                }
            }
            if self.now.since(swept) >= SWEEP_PERIOD {
                swept = self.now;
                self.sweep();
            }
        }
        Ok(())
    }

    fn heed(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Follow(plan) => self.routes = Routes::new(plan, &mut self.random),
                Order::End => self.is_ending = true,
            }
        }
    }

    fn attributes(&self) -> &Attributes {
        &self.routes.plan().config.attributes
    }

    fn complete(&mut self, Completion { token, outcome }: Completion) {
        match outcome {
            Outcome::Woken => {}
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
        let idle_max = Duration::from_secs(self.attributes().idle_timeout_s.into());
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

    /// Memory that was sent is for others again.
    fn let_go(&mut self, data: Data) {
        match data {
            Data::Bytes(memory) => self.keep_spare(memory),
            Data::Received(buffer, _) => self.ring.give_back(buffer),
        }
    }

    fn keep_spare(&mut self, mut memory: Vec<u8>) {
        if memory.capacity() < SPARE_BYTES_MAX && self.spare.len() < SPARE_MAX {
            memory.clear();
            self.spare.push(memory);
        }
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
