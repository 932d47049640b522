//! The guest's side: a disk that another process serves.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::message::{CONFIG_CHANGED, Form, Region, Request, receive, send};
use super::{PROTOCOL_FEATURES, protocol};
use crate::memory::{GuestRam, Memory};
use crate::poll::{Interest, Token, event_fd};
use crate::virtio::block::feature as block;
use crate::virtio::worker::WorkerContext;
use crate::virtio::{
    Activation, ActiveQueue, DeviceError, DeviceKind, DeviceParts, DeviceSignals, QueueHandler, VirtioDevice,
    WorkerPart, feature,
};

/// A backend that says nothing for so long is taken to be broken. It may have much to carry out before a ring stands still.
const PATIENCE: Duration = Duration::from_secs(60);
const QUEUE_SIZE: u16 = 256;
/// virtio 1.2, 5.2.4.
const CONFIG_BYTES: u32 = 60;
const QUEUE_COUNT_AT: usize = 34;
/// What the transport offers to every driver.
const TRANSPORT: u64 = feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC;
/// What drivers of disks know and these devices can have.
const DISK: u64 = block::SEG_MAX
    | block::RO
    | block::BLK_SIZE
    | block::FLUSH
    | block::TOPOLOGY
    | block::MQ
    | block::DISCARD
    | block::WRITE_ZEROES;

const BACKEND: Token = 0;
const CHANNEL: Token = 1;
const RING_ERROR: Token = 2;

/// What a disk is to be that somebody else serves.
pub struct VhostUserBlockSpec {
    /// Names the thread: `data` gives `data-vhost`.
    pub name: String,
    /// To the backend.
    pub stream: UnixStream,
    /// How many queues at most.
    pub queues: u16,
}

/// Why a backend cannot serve a disk.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    #[error("cannot {operation}")]
    Io { operation: &'static str, source: io::Error },
    #[error("whoever serves the disk lacks {what}, which is needed")]
    Lacks { what: &'static str },
    #[error("whoever serves the disk tells {bytes} bytes of configuration; a disk's has {CONFIG_BYTES}")]
    Config { bytes: usize },
}

/// A disk that another process serves.
pub struct VhostUserBlock {
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
}

struct Shared {
    features: u64,
    config: Mutex<Vec<u8>>,
}

impl Shared {
    fn config(&self) -> MutexGuard<'_, Vec<u8>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VhostUserBlock {
    /// Agrees with the backend upon what both can; the guest's memory follows when its driver is there.
    ///
    /// # Errors
    /// [`FrontendError`]
    pub fn connect(spec: VhostUserBlockSpec) -> Result<DeviceParts, FrontendError> {
        let VhostUserBlockSpec { name, stream, queues } = spec;
        let failed = |operation| move |source| FrontendError::Io { operation, source };
        let patience = Some(PATIENCE);
        stream
            .set_read_timeout(patience)
            .and_then(|()| stream.set_write_timeout(patience))
            .map_err(failed("bound the time that the disk's backend may take"))?;
        let mut backend = Connection { stream, confirms: false };
        let ask = failed("ask the disk's backend");
        let offered = backend.number(&Request::GetFeatures).map_err(&ask)?;
        for (bits, what) in [
            (PROTOCOL_FEATURES, "protocol features"),
            (feature::VERSION_1, "virtio 1"),
            (feature::EVENT_IDX, "event indexes"),
            (feature::INDIRECT_DESC, "indirect descriptors"),
        ] {
            if offered & bits == 0 {
                return Err(FrontendError::Lacks { what });
            }
        }
        backend.order(&Request::SetOwner, &[]).map_err(&ask)?;
        let known = protocol::MQ | protocol::REPLY_ACK | protocol::BACKEND_REQ | protocol::CONFIG;
        let agreed = backend.number(&Request::GetProtocolFeatures).map_err(&ask)? & known;
        for (bits, what) in
            [(protocol::REPLY_ACK, "confirmations"), (protocol::CONFIG, "a configuration space")]
        {
            if agreed & bits == 0 {
                return Err(FrontendError::Lacks { what });
            }
        }
        backend.order(&Request::SetProtocolFeatures(agreed), &[]).map_err(&ask)?;
        backend.confirms = true;
        let channel = match agreed & protocol::BACKEND_REQ {
            0 => None,
            _ => {
                let (ours, theirs) = UnixStream::pair().map_err(failed("make a pair of sockets"))?;
                backend.order(&Request::SetBackendChannel, &[theirs.as_fd()]).map_err(&ask)?;
                Some(ours)
            }
        };
        let several = agreed & protocol::MQ != 0 && offered & block::MQ != 0;
        let most = if several { backend.number(&Request::GetQueueCount).map_err(&ask)? } else { 1 };
        let queues = u16::try_from(most).unwrap_or(u16::MAX).min(queues).max(1);
        let config = backend.config(queues).map_err(&ask)?;
        if config.len() != CONFIG_BYTES as usize {
            return Err(FrontendError::Config { bytes: config.len() });
        }
        let features = offered & DISK & if queues > 1 { u64::MAX } else { !block::MQ };
        let shared = Arc::new(Shared { features, config: Mutex::new(config) });
        let ring_error = EventFd::new(EFD_NONBLOCK).map_err(failed("make an eventfd"))?;
        let handler = Handler { backend, channel, ring_error, shared: shared.clone(), queues, given: None };
        let worker = WorkerPart {
            name: format!("{name}-vhost"),
            queues: (0..queues).collect(),
            handler: Box::new(handler),
        };
        let device = Arc::new(VhostUserBlock { queue_sizes: vec![QUEUE_SIZE; usize::from(queues)], shared });
        Ok(DeviceParts { device, workers: vec![worker] })
    }
}

impl VirtioDevice for VhostUserBlock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        self.shared.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> Vec<u8> {
        self.shared.config().clone()
    }

    /// Who serves the disk counts.
    fn counters(&self) -> Value {
        json!({})
    }
}

/// What is said to a backend, and answered.
struct Connection {
    stream: UnixStream,
    confirms: bool,
}

impl Connection {
    /// Has something done, and waits until it is.
    fn order(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (number, body) = request.encode();
        if !self.confirms {
            return send(&self.stream, number, Form::Plain, &body, descriptors);
        }
        send(&self.stream, number, Form::Confirmed, &body, descriptors)?;
        match self.reply(number)?.get(..8) {
            Some([0, 0, 0, 0, 0, 0, 0, 0]) => Ok(()),
            _ => Err(io::Error::other(format!("the backend refuses {request:?}"))),
        }
    }

    /// Asks what is answered by other than a confirmation.
    fn ask(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let (number, body) = request.encode();
        send(&self.stream, number, Form::Plain, &body, &[])?;
        self.reply(number)
    }

    fn number(&mut self, request: &Request) -> io::Result<u64> {
        let reply = self.ask(request)?;
        let bytes = reply.try_into().map_err(|_| io::Error::other("the backend's answer is no number"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stops a ring, and says where it stands.
    fn stop(&mut self, ring: u16) -> io::Result<u16> {
        let state = self.number(&Request::GetRingBase { ring: u32::from(ring) })?.to_le_bytes();
        Ok(u16::from_le_bytes([state[4], state[5]]))
    }

    /// The configuration space as a driver is to see it that has `queues` queues.
    fn config(&mut self, queues: u16) -> io::Result<Vec<u8>> {
        let reply = self.ask(&Request::GetConfig { offset: 0, bytes: CONFIG_BYTES })?;
        let mut config = reply.get(12..).unwrap_or_default().to_vec();
        if let Some(place) = config.get_mut(QUEUE_COUNT_AT..QUEUE_COUNT_AT + 2) {
            place.copy_from_slice(&queues.to_le_bytes());
        }
        Ok(config)
    }

    fn reply(&mut self, number: u32) -> io::Result<Vec<u8>> {
        let reply = receive(&self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if reply.number != number || !reply.is_reply {
            return Err(io::Error::other("the backend answers something else than it was asked"));
        }
        Ok(reply.body)
    }
}

/// Gives the queues to the backend, and takes them back.
struct Handler {
    backend: Connection,
    channel: Option<UnixStream>,
    /// The backend writes to it when a ring is broken.
    ring_error: EventFd,
    shared: Arc<Shared>,
    queues: u16,
    given: Option<Given>,
}

/// What the backend has.
struct Given {
    memory: Memory,
    signals: Arc<DeviceSignals>,
    /// With the place up to which it has carried out what was asked.
    rings: Vec<(ActiveQueue, u16)>,
    is_stopped: bool,
}

impl Handler {
    fn give(&mut self) -> io::Result<()> {
        let Some(given) = &mut self.given else { return Ok(()) };
        for (active, base) in &given.rings {
            give_ring(&mut self.backend, &given.memory, active, *base, &self.ring_error)?;
        }
        given.is_stopped = false;
        Ok(())
    }

    fn take_back(&mut self) -> io::Result<()> {
        let Some(given) = self.given.as_mut().filter(|given| !given.is_stopped) else { return Ok(()) };
        for (active, base) in &mut given.rings {
            *base = self.backend.stop(active.index)?;
        }
        given.is_stopped = true;
        Ok(())
    }

    fn refresh_config(&mut self) -> io::Result<()> {
        let config = self.backend.config(self.queues)?;
        *self.shared.config() = config;
        if let Some(given) = &self.given {
            given.signals.config_changed();
        }
        Ok(())
    }

    /// What the backend says by itself.
    fn hear(&mut self) -> io::Result<()> {
        let Some(channel) = &self.channel else { return Ok(()) };
        let message = receive(channel)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if message.number == CONFIG_CHANGED {
            self.refresh_config()?;
        }
        if message.wants_confirmation
            && let Some(channel) = &self.channel
        {
            let outcome = u64::from(message.number != CONFIG_CHANGED);
            send(channel, message.number, Form::Reply, &outcome.to_le_bytes(), &[])?;
        }
        Ok(())
    }
}

fn give_ring(
    backend: &mut Connection,
    ram: &GuestRam,
    active: &ActiveQueue,
    base: u16,
    error: &EventFd,
) -> io::Result<()> {
    let ring = u32::from(active.index);
    let number = u8::try_from(active.index).map_err(io::Error::other)?;
    let place = |guest: u64| {
        let host = ram.get_host_address(GuestAddress(guest)).map_err(io::Error::other)?;
        Ok::<_, io::Error>(host.addr() as u64)
    };
    let queue = &active.queue;
    backend.order(&Request::SetRingSize { ring, size: u32::from(queue.size()) }, &[])?;
    backend.order(
        &Request::SetRingAddresses {
            ring,
            descriptors: place(queue.desc_table())?,
            used: place(queue.used_ring())?,
            available: place(queue.avail_ring())?,
        },
        &[],
    )?;
    backend.order(&Request::SetRingBase { ring, base: u32::from(base) }, &[])?;
    let call: Vec<_> = active.interrupt.event().map(event_fd).into_iter().collect();
    backend.order(&Request::SetRingCall { ring: number, is_given: !call.is_empty() }, &call)?;
    backend.order(&Request::SetRingError { ring: number, is_given: true }, &[event_fd(error)])?;
    backend.order(&Request::SetRingKick { ring: number, is_given: true }, &[event_fd(&active.kick)])?;
    backend.order(&Request::EnableRing { ring, enabled: true }, &[])
}

/// The table of memory that a backend is to map, with its files.
fn table(ram: &GuestRam) -> io::Result<(Vec<Region>, Vec<BorrowedFd<'_>>)> {
    let mut regions = Vec::new();
    let mut files = Vec::new();
    for region in ram.iter() {
        let file = region.file_offset().ok_or_else(|| {
            io::Error::other(
                "the guest's memory is private; a disk that is served elsewhere needs shared memory",
            )
        })?;
        regions.push(Region {
            guest: region.start_addr().0,
            bytes: region.len(),
            frontend: region.as_ptr().addr() as u64,
            offset: file.start(),
        });
        files.push(file.file().as_fd());
    }
    Ok((regions, files))
}

impl QueueHandler for Handler {
    fn takes_kicks(&self) -> bool {
        false
    }

    fn start(&mut self, activation: Activation, context: &WorkerContext) -> Result<(), DeviceError> {
        let host = |operation| move |source| DeviceError::Host { operation, source };
        let Activation { queues, features, memory, signals } = activation;
        let give = host("give the queues to the disk's backend");
        let (regions, files) = table(&memory).map_err(&give)?;
        let features = features & (self.shared.features | TRANSPORT) | PROTOCOL_FEATURES;
        self.backend.order(&Request::SetFeatures(features), &[]).map_err(&give)?;
        self.backend.order(&Request::SetMemory(regions), &files).map_err(&give)?;
        drop(files);
        let rings = queues.into_iter().map(|queue| (queue, 0)).collect();
        self.given = Some(Given { memory, signals, rings, is_stopped: true });
        // What it said while nobody listened is in the configuration now; and a driver that read it before is told.
        let before = self.shared.config().clone();
        let config = self.backend.config(self.queues).map_err(&give)?;
        if config != before {
            self.refresh_config().map_err(&give)?;
        }
        self.give().map_err(&give)?;
        let watch = host("watch the disk's backend");
        let _ = self.ring_error.read();
        context.watch(&self.backend.stream, BACKEND, Interest::Read).map_err(&watch)?;
        context.watch(event_fd(&self.ring_error), RING_ERROR, Interest::ReadEdge).map_err(&watch)?;
        match &self.channel {
            Some(channel) => context.watch(channel, CHANNEL, Interest::Read).map_err(&watch),
            None => Ok(()),
        }
    }

    fn kicked(&mut self, _index: u16, _context: &WorkerContext) -> Result<(), DeviceError> {
        Ok(())
    }

    fn ready(&mut self, token: Token, _context: &WorkerContext) -> Result<(), DeviceError> {
        let failed = |operation, source| Err(DeviceError::Host { operation, source });
        match token {
            CHANNEL => match self.hear() {
                Ok(()) => Ok(()),
                Err(source) => failed("hear the disk's backend", source),
            },
            RING_ERROR => failed("go on", io::Error::other("the disk's backend found a ring broken")),
            // Nothing is said there unasked.
            _ => failed("go on", io::Error::other("the disk's backend has ended")),
        }
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        self.take_back().map_err(|source| DeviceError::Host {
            operation: "take the queues from the disk's backend",
            source,
        })
    }

    fn resume(&mut self, _context: &WorkerContext) -> Result<(), DeviceError> {
        self.give().map_err(|source| DeviceError::Host {
            operation: "give the queues to the disk's backend",
            source,
        })
    }

    fn stop(&mut self, context: &WorkerContext) {
        // One that has ended has nothing in flight; one that cannot be understood is told by the end of its connection.
        if self.take_back().is_err() {
            let _ = self.backend.stream.shutdown(std::net::Shutdown::Both);
        }
        self.given = None;
        // They are not watched when nothing was started.
        let _ = context.unwatch(&self.backend.stream);
        let _ = context.unwatch(event_fd(&self.ring_error));
        if let Some(channel) = &self.channel {
            let _ = context.unwatch(channel);
        }
    }
}
