//! The worker of a disk that another process serves: gives the queues to the backend, takes them back, and answers in its place when it
//! is gone.
//!
//! ```text
//!            ┌────quiesce──▶ Still ──resume──┐
//!            │                               ▼
//!  start ──▶ Served ──the backend ends──▶ Waiting ──time is over, or nothing to wait for──▶ Failing ──reset──▶
//!            ▲                               │
//!            └────another serves the disk────┘
//! ```
//!
//! What is in flight when a backend ends is known by the region that it kept, and so is which of the driver's requests it had not taken
//! yet. Without one, that is known only if the driver had all of its requests back; otherwise those of them that are in flight never end.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::connection::{places, table};
use super::frontend::{QUEUE_SIZE, RemoteDisk};
use super::gone::{self, FailingRing};
use crate::memory::Memory;
use crate::poll::{Interest, Token, event_fd, timer_fd};
use crate::virtio::worker::WorkerContext;
use crate::virtio::{Activation, ActiveQueue, DeviceError, DeviceSignals, QueueHandler, feature};

const BACKEND: Token = 0;
const CHANNEL: Token = 1;
const RING_ERROR: Token = 2;
const VECTORS: Token = 3;
const NEWS: Token = 4;
const TIMER: Token = 5;
/// Kicks of queues whose requests fail.
const KICK: Token = 16;

/// What the transport offers to every driver.
const TRANSPORT: u64 = feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC;

pub(super) struct Handler {
    remote: Arc<RemoteDisk>,
    /// What is offered to the driver.
    features: u64,
    patience: Duration,
    /// The backend writes to it when a ring is broken.
    ring_error: EventFd,
    /// The transport writes to it when the driver has chosen another vector.
    vectors: EventFd,
    timer: TimerFd,
    given: Option<Given>,
}

/// What the driver has given.
struct Given {
    memory: Memory,
    features: u64,
    signals: Arc<DeviceSignals>,
    rings: Vec<GivenRing>,
    stage: Stage,
    /// When the time for another backend is over, since the last one ended.
    until: Option<Instant>,
}

struct GivenRing {
    active: ActiveQueue,
    /// The request that the backend takes next, where it does not know that itself.
    base: u16,
    /// By which the driver is told now.
    vector: u16,
}

enum Stage {
    Served,
    /// Nobody serves the rings, and nothing is in flight.
    Still,
    Waiting,
    Failing(Vec<FailingRing>),
}

impl Given {
    /// The rings, to fail what is asked in them.
    fn take_failing(&mut self, remote: &RemoteDisk) -> Result<Vec<FailingRing>, DeviceError> {
        let rings = std::mem::take(&mut self.rings).into_iter();
        rings
            .map(|ring| {
                ring.active.interrupt.tell_choices(None);
                FailingRing::new(ring.active, ring.base, self.features, &self.memory, remote)
            })
            .collect()
    }
}

impl Handler {
    pub(super) fn new(remote: Arc<RemoteDisk>, features: u64, patience: Duration) -> io::Result<Self> {
        Ok(Handler {
            remote,
            features,
            patience,
            ring_error: EventFd::new(EFD_NONBLOCK)?,
            vectors: EventFd::new(EFD_NONBLOCK)?,
            timer: TimerFd::new()?,
            given: None,
        })
    }

    /// Gives the rings to whoever serves the disk. False when nobody does.
    fn give(&mut self) -> io::Result<bool> {
        let Some(given) = &mut self.given else { return Ok(true) };
        let mut connection = self.remote.connection();
        let Some(backend) = connection.as_mut() else { return Ok(false) };
        backend.set_guest(given.features, table(self.remote.memories().all())?)?;
        let mut kept = self.remote.kept();
        if kept.is_none() {
            let queues = given.rings.iter().map(|ring| ring.active.index + 1).max().unwrap_or(1);
            *kept = backend.new_region(queues, QUEUE_SIZE)?;
        }
        if let Some(kept) = &*kept {
            backend.set_region(kept)?;
        }
        // What it said while nobody listened is in the configuration now; and a driver that read it before is told.
        backend.hear()?;
        let config = backend.config()?;
        if *self.remote.config() != config {
            *self.remote.config() = config;
            given.signals.config_changed();
        }
        // From here on it may serve some.
        given.stage = Stage::Served;
        for ring in &mut given.rings {
            ring.vector = ring.active.interrupt.vector();
            backend.give(&given.memory, &ring.active, ring.base, &self.ring_error)?;
        }
        given.until = None;
        Ok(true)
    }

    /// Has the disk served by whoever is there, or its requests wait, or fail.
    fn begin(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        self.remote.adopt();
        match self.give() {
            Ok(true) => {
                self.watch_backend(context).map_err(host("watch the disk's backend"))?;
                self.tell_connected(true);
                // It may have ended since.
                self.look_after(context)
            }
            Ok(false) => self.gone(context),
            Err(error) => self.broken("give the queues to the disk's backend", error, context),
        }
    }

    fn take_back(&mut self) -> io::Result<()> {
        let Some(given) = self.given.as_mut().filter(|given| matches!(given.stage, Stage::Served)) else {
            return Ok(());
        };
        let mut connection = self.remote.connection();
        let Some(backend) = connection.as_mut() else { return Err(io::ErrorKind::NotConnected.into()) };
        for ring in &mut given.rings {
            ring.base = backend.stop(ring.active.index)?;
        }
        given.stage = Stage::Still;
        Ok(())
    }

    /// The conversation failed. When the backend has ended there is another way on; when it has not, it may still write to the memory.
    fn broken(
        &mut self,
        operation: &'static str,
        source: io::Error,
        context: &WorkerContext,
    ) -> Result<(), DeviceError> {
        let is_over = self.remote.connection().as_ref().is_none_or(|backend| backend.hang_up());
        if !is_over {
            return Err(DeviceError::Host { operation, source });
        }
        if source.kind() != io::ErrorKind::UnexpectedEof {
            eprintln!("{}: cannot {operation}: {source}", name());
        }
        self.gone(context)
    }

    /// Whether the backend is still there.
    fn look_after(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        match self.remote.connection().as_ref() {
            Some(backend) if !backend.has_ended() => return Ok(()),
            _ => {}
        }
        self.gone(context)
    }

    /// The backend has ended: nobody touches the rings.
    fn gone(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        self.drop_connection(context);
        let Some(given) = &mut self.given else { return Ok(()) };
        let was_served = match given.stage {
            Stage::Served => true,
            Stage::Still | Stage::Waiting => false,
            Stage::Failing(_) => return Ok(()),
        };
        let left = gone::left_by(&given.memory, given.rings.iter().map(|ring| &ring.active), &self.remote);
        if was_served {
            for ring in &mut given.rings {
                ring.base = left.base(&given.memory, &ring.active);
            }
        }
        given.stage = Stage::Waiting;
        let until = *given.until.get_or_insert_with(|| Instant::now() + self.patience);
        let time = until.saturating_duration_since(Instant::now());
        match left.hindrance().filter(|_| was_served || left.is_known()) {
            Some(hindrance) => {
                eprintln!("{}: whoever serves the disk has ended: {hindrance}", name());
                self.fail(context)
            }
            None if time.is_zero() => {
                eprintln!("{}: whoever serves the disk has ended", name());
                self.fail(context)
            }
            None if self.remote.has_successor() => self.begin(context),
            None => {
                let seconds = time.as_secs();
                eprintln!(
                    "{}: whoever serves the disk has ended; requests wait {seconds} s for another",
                    name()
                );
                self.tell_connected(false);
                self.wait()
            }
        }
    }

    /// Has the timer tell when the time is over.
    fn wait(&mut self) -> Result<(), DeviceError> {
        let Some(until) = self.given.as_ref().and_then(|given| given.until) else { return Ok(()) };
        // A timer of nothing is none.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.timer.reset(left, None).map_err(|error| host("set a timer")(error.into()))
    }

    fn is_time_over(&self) -> bool {
        let until = self.given.as_ref().and_then(|given| given.until);
        until.is_none_or(|until| until <= Instant::now())
    }

    /// Ends every request with an error, those in flight and all that follow.
    fn fail(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        let Some(given) = &mut self.given else { return Ok(()) };
        eprintln!("{}: all requests fail until the driver resets the disk", name());
        let failing = given.take_failing(&self.remote)?;
        for (ring, index) in failing.iter().zip(0..) {
            context
                .watch(event_fd(ring.kick()), KICK + index, Interest::ReadEdge)
                .map_err(host("watch a queue's kick"))?;
        }
        given.stage = Stage::Failing(failing);
        given.signals.needs_reset();
        let Stage::Failing(rings) = &mut given.stage else { return Ok(()) };
        rings.iter_mut().try_for_each(FailingRing::serve)
    }

    /// What the backend says by itself.
    fn hear(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        let heard = self.refresh_config();
        match heard {
            Ok(()) => Ok(()),
            Err(error) => self.broken("hear the disk's backend", error, context),
        }
    }

    fn refresh_config(&mut self) -> io::Result<()> {
        let mut connection = self.remote.connection();
        let Some(backend) = connection.as_mut() else { return Ok(()) };
        if backend.hear()? {
            let config = backend.config()?;
            *self.remote.config() = config;
            if let Some(given) = &self.given {
                given.signals.config_changed();
            }
        }
        Ok(())
    }

    /// Has the backend tell the driver by the vectors that stand now.
    fn follow_vectors(&mut self) -> io::Result<()> {
        let _ = self.vectors.read();
        let Some(given) = self.given.as_mut().filter(|given| matches!(given.stage, Stage::Served)) else {
            return Ok(());
        };
        let mut connection = self.remote.connection();
        let Some(backend) = connection.as_mut() else { return Ok(()) };
        for ring in &mut given.rings {
            let vector = ring.active.interrupt.vector();
            if vector != ring.vector {
                ring.vector = vector;
                backend.call(&ring.active)?;
            }
        }
        Ok(())
    }

    fn tell_connected(&self, is_connected: bool) {
        if let Some(given) = &self.given {
            given.signals.set_connected(is_connected);
        }
    }

    fn watch_backend(&self, context: &WorkerContext) -> io::Result<()> {
        let connection = self.remote.connection();
        let Some(backend) = connection.as_ref() else { return Ok(()) };
        unwatch(context, backend.stream());
        context.watch(backend.stream(), BACKEND, Interest::ReadEdge)?;
        match backend.channel() {
            Some(channel) => {
                unwatch(context, channel);
                context.watch(channel, CHANNEL, Interest::ReadEdge)
            }
            None => Ok(()),
        }
    }

    fn unwatch_backend(&self, context: &WorkerContext) {
        if let Some(backend) = self.remote.connection().as_ref() {
            unwatch(context, backend.stream());
            if let Some(channel) = backend.channel() {
                unwatch(context, channel);
            }
        }
    }

    fn drop_connection(&self, context: &WorkerContext) {
        self.unwatch_backend(context);
        *self.remote.connection() = None;
    }
}

/// It is not watched when nothing was started.
fn unwatch(context: &WorkerContext, fd: impl AsFd) {
    let _ = context.unwatch(fd);
}

fn host(operation: &'static str) -> impl Fn(io::Error) -> DeviceError {
    move |source| DeviceError::Host { operation, source }
}

/// Of the thread, and so of the disk.
fn name() -> String {
    std::thread::current().name().unwrap_or("disk").to_owned()
}

impl QueueHandler for Handler {
    fn takes_kicks(&self) -> bool {
        false
    }

    fn start(&mut self, activation: Activation, context: &WorkerContext) -> Result<(), DeviceError> {
        let Activation { queues, features, memory, signals } = activation;
        table([&memory]).map_err(host("give the memory to the disk's backend"))?;
        self.remote.memories().guest = Some(memory.clone());
        let mut rings = Vec::with_capacity(queues.len());
        for active in queues {
            places(&memory, &active).map_err(host("find a queue in the guest's memory"))?;
            let changed = self.vectors.try_clone().map_err(host("keep an eventfd"))?;
            active.interrupt.tell_choices(Some(changed));
            rings.push(GivenRing { vector: active.interrupt.vector(), active, base: 0 });
        }
        *self.remote.kept() = None;
        let features = features & (self.features | TRANSPORT);
        self.given = Some(Given { memory, features, signals, rings, stage: Stage::Still, until: None });
        let _ = self.ring_error.read();
        let watched = [
            (event_fd(&self.ring_error), RING_ERROR),
            (event_fd(&self.vectors), VECTORS),
            (event_fd(self.remote.news()), NEWS),
            (timer_fd(&self.timer), TIMER),
        ];
        for (fd, token) in watched {
            context.watch(fd, token, Interest::ReadEdge).map_err(host("watch the disk's backend"))?;
        }
        self.begin(context)
    }

    fn kicked(&mut self, _index: u16, _context: &WorkerContext) -> Result<(), DeviceError> {
        Ok(())
    }

    fn ready(&mut self, token: Token, context: &WorkerContext) -> Result<(), DeviceError> {
        let is_time_over = self.is_time_over();
        let Some(given) = &mut self.given else { return Ok(()) };
        match (token, &mut given.stage) {
            (BACKEND, Stage::Served) => self.look_after(context),
            (CHANNEL, Stage::Served) => self.hear(context),
            (RING_ERROR, Stage::Served) => {
                Err(host("go on")(io::Error::other("the disk's backend found a ring broken")))
            }
            (VECTORS, Stage::Served) => match self.follow_vectors() {
                Ok(()) => Ok(()),
                Err(error) => self.broken("tell the disk's backend of another vector", error, context),
            },
            (NEWS, Stage::Waiting) => self.begin(context),
            (NEWS, Stage::Served) => self.look_after(context),
            (TIMER, Stage::Waiting) if is_time_over => self.fail(context),
            (TIMER, Stage::Waiting) => self.wait(),
            (KICK.., Stage::Failing(rings)) => {
                let index = usize::try_from(token - KICK).unwrap_or(usize::MAX);
                rings.get_mut(index).map_or(Ok(()), FailingRing::serve)
            }
            _ => Ok(()),
        }
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        match self.take_back() {
            Ok(()) => Ok(()),
            // It is looked after when the machine goes on.
            Err(_) if self.remote.connection().as_ref().is_none_or(|backend| backend.hang_up()) => Ok(()),
            Err(source) => Err(host("take the queues from the disk's backend")(source)),
        }
    }

    fn resume(&mut self, context: &WorkerContext) -> Result<(), DeviceError> {
        let Some(given) = &mut self.given else { return Ok(()) };
        match &mut given.stage {
            Stage::Still => self.begin(context),
            Stage::Served => self.gone(context),
            Stage::Waiting if self.remote.has_successor() => self.begin(context),
            Stage::Waiting => self.wait(),
            Stage::Failing(rings) => rings.iter_mut().try_for_each(FailingRing::serve),
        }
    }

    fn stop(&mut self, context: &WorkerContext) {
        if let Err(error) = self.take_back() {
            // One that cannot be understood is told by the end of its connection.
            let is_over = self.remote.connection().as_ref().is_none_or(|backend| backend.hang_up());
            if is_over && let Some(given) = &mut self.given {
                let left =
                    gone::left_by(&given.memory, given.rings.iter().map(|ring| &ring.active), &self.remote);
                given.rings.iter_mut().for_each(|ring| ring.base = left.base(&given.memory, &ring.active));
                given.stage = Stage::Waiting;
            }
            eprintln!("{}: cannot take the queues from the disk's backend: {error}", name());
            self.drop_connection(context);
        }
        self.unwatch_backend(context);
        if let Some(mut given) = self.given.take() {
            given.signals.set_connected(true);
            match &given.stage {
                // A driver that is about to lose the device, and does not know yet, gets its requests back.
                Stage::Waiting => drop(given.take_failing(&self.remote).map(|mut rings| {
                    rings.iter_mut().for_each(|ring| drop(ring.serve()));
                })),
                Stage::Failing(rings) => {
                    rings.iter().for_each(|ring| unwatch(context, event_fd(ring.kick())))
                }
                Stage::Served | Stage::Still => {}
            }
            given.rings.iter().for_each(|ring| ring.active.interrupt.tell_choices(None));
        }
        *self.remote.kept() = None;
        for fd in [&self.ring_error, &self.vectors, self.remote.news()] {
            unwatch(context, event_fd(fd));
        }
        unwatch(context, timer_fd(&self.timer));
    }
}
