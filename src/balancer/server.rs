//! A load balancer that runs: its workers, and what they are told.
//!
//! Each worker has sockets of its own at the addresses of all listeners, and the kernel shares connections out among them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use types::{Clock as _, SystemClock};

use crate::access_log::Log;
use tokio::sync::watch;

use crate::checks::Checks;
use crate::config::{ConfigError, LoadBalancer};
use crate::counters::{Totals, WorkerCounters};
use crate::health::State;
use crate::proxy::{Order, Worker};
use crate::routes::{Keys, Plan};
use crate::status::Status;
use crate::targets::Random;

/// Connections that wait to be accepted, for each worker.
const BACKLOG: i32 = 4096;

/// Why a load balancer does not run, or not as it is to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the configuration")]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("there are no random numbers for keys")]
    Keys(#[from] rustls::Error),
    #[error("the access log {} cannot be written", file.display())]
    AccessLog { file: PathBuf, source: io::Error },
    #[error("targets cannot be checked")]
    Checks { source: io::Error },
    #[error("no worker can be had: io_uring of Linux 6.1 or later is needed")]
    Worker { source: io::Error },
}

/// A load balancer. It ends when it is dropped, and what is under way on its connections with it.
pub struct Server {
    plan: Arc<Plan>,
    keys: Keys,
    zone: Option<String>,
    checks: Checks,
    workers: Vec<Running>,
}

struct Running {
    counters: Arc<WorkerCounters>,
    orders: Sender<Order>,
    event: Arc<EventFd>,
    thread: JoinHandle<io::Result<()>>,
}

impl Running {
    fn tell(&self, order: Order) {
        // One that has failed hears nothing; whoever waits for it learns why.
        if self.orders.send(order).is_ok() {
            let _ = self.event.write(1);
        }
    }
}

impl Server {
    /// Begins to serve, on so many threads. `secret` is what stickiness cookies are made with.
    ///
    /// # Errors
    /// [`ServerError`]; then nothing is served.
    pub fn start(
        config: LoadBalancer,
        workers: usize,
        zone: Option<String>,
        secret: [u8; 32],
    ) -> Result<Self, ServerError> {
        let keys = Keys::new(secret)?;
        let mut plan = Plan::new(config, zone.as_deref(), &keys, None)?;
        plan.log = log(&plan, None)?;
        let plan = Arc::new(plan);
        let checks = Checks::begin(Arc::clone(&plan)).map_err(|source| ServerError::Checks { source })?;
        let seed = secret.iter().fold(0_u64, |seed, byte| seed.rotate_left(7) ^ u64::from(*byte));
        let mut random = Random::new(seed);
        let mut server = Self { plan: Arc::clone(&plan), keys, zone, checks, workers: Vec::new() };
        // All listen before any is served, so that what cannot be had is told before anybody was answered.
        let listeners = (0..workers.max(1)).map(|_| listen_at(addresses(&plan)));
        for listeners in listeners.collect::<Result<Vec<_>, _>>()? {
            server.workers.push(begin(listeners, Arc::clone(&plan), random.fork())?);
        }
        Ok(server)
    }

    /// Requests that come from now on are served so; those under way end as they began.
    ///
    /// # Errors
    /// [`ServerError`]; then all is as it was.
    pub fn replace(&mut self, config: LoadBalancer) -> Result<(), ServerError> {
        let mut plan = Plan::new(config, self.zone.as_deref(), &self.keys, Some(&self.plan))?;
        let old: Vec<_> = addresses(&self.plan).collect();
        let new = || addresses(&plan).filter(|address| !old.contains(address));
        // All that is new can be had before any of it is used.
        let opened = self.workers.iter().map(|_| listen_at(new())).collect::<Result<Vec<_>, _>>()?;
        plan.log = log(&plan, self.plan.log.as_ref())?;
        let plan = Arc::new(plan);
        plan.succeed(&self.plan, SystemClock.now());
        self.checks.follow(Arc::clone(&plan));
        for (worker, opened) in self.workers.iter().zip(opened) {
            worker.tell(Order::Follow { plan: Arc::clone(&plan), opened });
        }
        self.plan = plan;
        Ok(())
    }

    /// The health of a target of a group.
    pub fn health(&self, group: &str, target: SocketAddr) -> State {
        self.checks.state(group, target)
    }

    /// Has something new whenever the health of a target has changed.
    pub fn health_changes(&self) -> watch::Receiver<()> {
        self.checks.changes()
    }

    /// How all of it stands.
    pub fn status(&self) -> Status {
        Status::new(&self.plan, &self.totals(), |group, target| self.checks.state(group, target))
    }

    /// What was counted since the start.
    pub fn totals(&self) -> Totals {
        Totals::of(self.workers.iter().map(|worker| worker.counters.as_ref()))
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// A worker has ended by itself, which none should.
    pub fn has_failed(&self) -> bool {
        self.workers.iter().any(|worker| worker.thread.is_finished())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.workers.iter().for_each(|worker| worker.tell(Order::End));
        for worker in self.workers.drain(..) {
            // A worker's panic was printed.
            let _ = worker.thread.join();
        }
    }
}

fn begin(
    listeners: Vec<(SocketAddr, TcpListener)>,
    plan: Arc<Plan>,
    random: Random,
) -> Result<Running, ServerError> {
    let failed = |source| ServerError::Worker { source };
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let event = Arc::new(event.map_err(|error| failed(error.into()))?);
    let (orders, inbox) = channel();
    let (tell, told) = channel();
    let its = Arc::clone(&event);
    let counters = Arc::new(WorkerCounters::default());
    let counted = Arc::clone(&counters);
    // A ring belongs to the thread that made it.
    let work = move || match Worker::new(listeners, plan, inbox, random, counted) {
        Ok(mut worker) => {
            let _ = tell.send(Ok(()));
            worker.run(&its)
        }
        Err(error) => {
            let _ = tell.send(Err(error));
            Ok(())
        }
    };
    let thread = thread::Builder::new().name("worker".to_owned()).spawn(work).map_err(failed)?;
    match told.recv() {
        Ok(Ok(())) => Ok(Running { counters, orders, event, thread }),
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => Err(failed(io::Error::other("it ended at once"))),
    }
}

/// Where a plan's requests are written down: the file has that name now, whoever moved another one away.
fn log(plan: &Plan, before: Option<&Log>) -> Result<Option<Log>, ServerError> {
    let Some(config) = &plan.config.access_log else { return Ok(None) };
    let log = match before {
        Some(log) => log.reopen(&config.file).map(|()| log.clone()),
        None => Log::open(&config.file),
    };
    log.map(Some).map_err(|source| ServerError::AccessLog { file: config.file.clone(), source })
}

fn addresses(plan: &Plan) -> impl Iterator<Item = SocketAddr> + use<'_> {
    plan.config.listeners.iter().map(|listener| listener.address)
}

fn listen_at(
    addresses: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<(SocketAddr, TcpListener)>, ServerError> {
    addresses.map(|address| Ok((address, listen_on(address)?))).collect()
}

fn listen_on(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let open = || -> nix::Result<OwnedFd> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let descriptor = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&descriptor, sockopt::ReuseAddr, &true)?;
        setsockopt(&descriptor, sockopt::ReusePort, &true)?;
        if address.is_ipv6() {
            setsockopt(&descriptor, sockopt::Ipv6V6Only, &true)?;
        }
        bind(std::os::fd::AsRawFd::as_raw_fd(&descriptor), &SockaddrStorage::from(address))?;
        listen(&descriptor, Backlog::new(BACKLOG)?)?;
        Ok(descriptor)
    };
    open().map(TcpListener::from).map_err(|error| ServerError::Listen { address, source: error.into() })
}
