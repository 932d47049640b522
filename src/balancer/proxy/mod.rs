//! What is between clients and targets, for one thread: requests come, go where the [`Routes`] lead, and their answers come back.
//!
//! ```text
//!             head             body, piece by piece
//! client ──▶ inbox ──▶ exchange ────────────────────▶ target
//!    ▲                    │                             │
//!    └────────────────────┴──── head, body ◀── inbox ◀──┘ then it waits in the pool, if it can be used again
//! ```
//!
//! Both are [`Transport`](crate::transport::Transport)s: sockets, TLS, or streams of HTTP/2, each of which carries one request. All speak HTTP/1.1 here.
//!
//! - One piece of a body is under way in each direction: who is slow to take it is sent no more, and nothing more is read for him.
//! - Something is always being received from a client and from a target, if there is nothing of his that waits: so the end of either is noticed at once, and what
//!   waits for the next request is what waited for the end of this one.
//! - A connection's place is its own until nothing is under way on its socket.
//!
//! It deliberately does not: decide where a request goes, or keep a body.

mod answer;
#[cfg(test)]
mod change_tests;
mod client;
mod exchange;
#[cfg(test)]
mod http2_tests;
mod link;
mod record;
mod target;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use nix::sys::eventfd::EventFd;
use nix::sys::socket::{Shutdown, shutdown};
use rustls::ClientConfig;
use slab::Slab;
use types::{Clock as _, Instant, SystemClock};

use crate::config::Attributes;
use crate::counters::{Counters, WorkerCounters};
use crate::engine::{Completion, Outcome, Ring};
use crate::http1::{Request, Response};
use crate::routes::{Plan, Routes};
use crate::targets::Random;
use client::Client;
use link::Carrier;
use target::{Upstream, Way};

/// How often it is looked who has been idle for too long.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// How long a target may take to accept a connection (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html>).
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a client that is told of its mistake may take to hear it.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Of the event that says that there are orders.
const WAKE: u64 = u64::MAX;

/// Whose completion it is: with a place, that is its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Client,
    Target,
    /// A connection of many of these.
    Link,
    Listener,
}

impl Owner {
    fn token(self, place: usize) -> u64 {
        (place as u64) << 2 | self as u64
    }

    fn of(token: u64) -> (Self, usize) {
        let owner = match token & 3 {
            0 => Self::Client,
            1 => Self::Target,
            2 => Self::Link,
            _ => Self::Listener,
        };
        // Places fit: they came from a slab.
        (owner, usize::try_from(token >> 2).unwrap_or(usize::MAX))
    }
}

/// What a worker is told.
pub(crate) enum Order {
    /// Requests that come from now on go by this plan, which has these new listeners.
    Follow {
        plan: Arc<Plan>,
        opened: Vec<(SocketAddr, TcpListener)>,
    },
    End,
}

/// A socket to which clients come.
struct Listening {
    address: SocketAddr,
    socket: TcpListener,
    entrance: Rc<Entrance>,
}

impl Listening {
    fn is_there(&self) -> bool {
        self.entrance.listener.get().is_some()
    }
}

/// What clients know of where they came in.
struct Entrance {
    port: u16,
    /// Which of the plan's listeners it is; none: it is there no more.
    listener: Cell<Option<usize>>,
}

/// Everything of one thread.
pub(crate) struct Worker {
    ring: Ring,
    routes: Routes,
    orders: Receiver<Order>,
    listeners: Slab<Listening>,
    clients: Slab<Client>,
    upstreams: Slab<Upstream>,
    /// Connections of HTTP/2, at both ends, and those to targets by their ways.
    links: Slab<Carrier>,
    ways: HashMap<Way, Vec<usize>>,
    /// Connections to targets that nobody uses.
    idle: HashMap<Way, Vec<usize>>,
    /// What sessions with targets are made from, in HTTP/1.1 and in HTTP/2.
    to_targets: [Arc<ClientConfig>; 2],
    /// The time, as of the last return from the kernel.
    now: Instant,
    wall: SystemTime,
    request: Request,
    response: Response,
    random: Random,
    counters: Arc<WorkerCounters>,
    /// Of the plan's target groups, in their order.
    group_counters: Vec<Arc<Counters>>,
    /// Of the access log, to be handed over.
    lines: Vec<u8>,
    is_ending: bool,
}

impl Worker {
    /// Serves what comes to `listeners`, which are the plan's, on the calling thread.
    ///
    /// # Errors
    /// When the kernel has no ring for it.
    pub(crate) fn new(
        listeners: Vec<(SocketAddr, TcpListener)>,
        plan: Arc<Plan>,
        orders: Receiver<Order>,
        mut random: Random,
        counters: Arc<WorkerCounters>,
    ) -> io::Result<Self> {
        let to_targets = |has_http2| crate::tls::of_targets(has_http2).map_err(io::Error::other);
        let mut worker = Self {
            ring: Ring::new()?,
            routes: Routes::new(Arc::clone(&plan), &mut random),
            orders,
            listeners: Slab::new(),
            clients: Slab::new(),
            upstreams: Slab::new(),
            links: Slab::new(),
            ways: HashMap::new(),
            idle: HashMap::new(),
            to_targets: [to_targets(false)?, to_targets(true)?],
            now: SystemClock.now(),
            wall: SystemTime::now(),
            request: Request::default(),
            response: Response::default(),
            random,
            counters,
            group_counters: Vec::new(),
            lines: Vec::new(),
            is_ending: false,
        };
        worker.follow(plan, listeners);
        Ok(worker)
    }

    /// Works until it is told to end. Orders are looked at when somebody has written to `event`, an eventfd(2).
    ///
    /// # Errors
    /// When the ring fails.
    pub(crate) fn run(&mut self, event: &EventFd) -> io::Result<()> {
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
        self.hand_lines_over();
        Ok(())
    }

    fn heed(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Follow { plan, opened } => {
                    self.hand_lines_over();
                    self.routes = Routes::new(Arc::clone(&plan), &mut self.random);
                    self.follow(plan, opened);
                }
                Order::End => self.is_ending = true,
            }
        }
    }

    /// Begins to listen at what is new, and listens no more at what has gone.
    fn follow(&mut self, plan: Arc<Plan>, opened: Vec<(SocketAddr, TcpListener)>) {
        self.group_counters = plan.groups().keys().map(|name| self.counters.group(name)).collect();
        let listener =
            |address| plan.config.listeners.iter().position(|listener| listener.address == address);
        // One that has gone stays so: if it comes again, that is another one.
        for (_, listening) in self.listeners.iter().filter(|(_, listening)| listening.is_there()) {
            let now = listener(listening.address);
            listening.entrance.listener.set(now);
            if now.is_none() {
                // Its accept ends.
                let _ = shutdown(listening.socket.as_raw_fd(), Shutdown::Both);
            }
        }
        for (address, socket) in opened {
            let entrance = Rc::new(Entrance { port: address.port(), listener: Cell::new(listener(address)) });
            let place = self.listeners.insert(Listening { address, socket, entrance });
            self.ring.accept(&self.listeners[place].socket, Owner::Listener.token(place));
        }
        self.leave_gone_listeners();
        self.leave_gone_targets();
    }

    fn attributes(&self) -> &Attributes {
        &self.routes.plan().config.attributes
    }

    fn complete(&mut self, Completion { token, outcome }: Completion) {
        let (owner, place) = Owner::of(token);
        match owner {
            Owner::Client => self.client_completed(place, outcome),
            Owner::Target => self.target_completed(place, outcome),
            Owner::Link => self.link_completed(place, outcome),
            Owner::Listener => self.accepted(place, outcome),
        }
    }

    fn accepted(&mut self, place: usize, outcome: Outcome) {
        let (Some(listening), Outcome::Accepted(accepted)) = (self.listeners.get(place), outcome) else {
            return;
        };
        match accepted {
            Ok(socket) => {
                let entrance = Rc::clone(&listening.entrance);
                self.begin_client(&entrance, socket);
            }
            // It accepts no more: too few descriptors are left, say. Those that wait are not lost.
            Err(_) if listening.is_there() => {
                self.ring.accept(&listening.socket, Owner::Listener.token(place));
            }
            Err(_) => drop(self.listeners.remove(place)),
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
        for place in places(&self.links) {
            self.sweep_link(place, idle_max);
        }
        self.hand_lines_over();
        let direct = self.clients.iter().filter(|(_, client)| !client.transport.is_stream()).count();
        let asked = self.upstreams.iter().filter(|(_, upstream)| !upstream.is_stream()).count();
        self.counters.set_connections(direct + asked + self.links.len());
    }
}

fn places<T>(slab: &Slab<T>) -> Vec<usize> {
    slab.iter().map(|(place, _)| place).collect()
}
