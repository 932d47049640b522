//! The guest's side: a disk that another process serves.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use volume::SECTOR_BYTES;

use super::connection::{CONFIG_BYTES, Connection, Kept, Offer};
use super::handler::Handler;
use crate::memory::Memory;
use crate::virtio::block::feature as block;
use crate::virtio::{DeviceKind, DeviceParts, ReconnectError, VirtioDevice, WorkerPart};

pub(super) const QUEUE_SIZE: u16 = 256;
const CAPACITY: std::ops::Range<usize> = 0..8;
const BLOCK_BYTES: std::ops::Range<usize> = 20..24;
const QUEUE_COUNT_AT: usize = 34;
/// What drivers of disks know and these devices can have.
const DISK: u64 = block::SEG_MAX
    | block::RO
    | block::BLK_SIZE
    | block::FLUSH
    | block::TOPOLOGY
    | block::MQ
    | block::DISCARD
    | block::WRITE_ZEROES;

/// Why a backend cannot serve a disk.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    #[error("cannot {operation}")]
    Io { operation: &'static str, source: io::Error },
    #[error("whoever serves the disk lacks {what}, which is needed")]
    Lacks { what: &'static str },
    #[error("whoever serves the disk tells {bytes} bytes of configuration; a disk's has {CONFIG_BYTES}")]
    Config { bytes: usize },
    #[error("whoever serves the disk now has another {what} than the driver was told: {now}, not {before}")]
    Differs { what: &'static str, now: u64, before: u64 },
}

/// A disk at the other end of a connection. The process that serves it may be replaced by another.
pub struct RemoteDisk {
    offer: Offer,
    /// How many the device has.
    queues: AtomicU16,
    connection: Mutex<Option<Connection>>,
    /// To who is to serve the disk instead.
    successor: Mutex<Option<Connection>>,
    /// The configuration space as the backend told it last.
    config: Mutex<Vec<u8>>,
    memories: Mutex<Memories>,
    /// What is in flight, while a driver uses the disk.
    kept: Mutex<Option<Kept>>,
    /// Written to when there is a successor.
    news: EventFd,
}

/// Where queues lie, or have lain. A backend is told of both at each time: some look at queues that are stopped whenever the table changes,
/// and end if one is nowhere in it.
#[derive(Default)]
pub(super) struct Memories {
    pub(super) guest: Option<Memory>,
    pub(super) boot: Option<Memory>,
}

impl Memories {
    pub(super) fn all(&self) -> impl Iterator<Item = &Memory> {
        self.guest.iter().chain(&self.boot)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RemoteDisk {
    /// Agrees with the backend upon what both can; a guest's memory follows when its driver is there.
    ///
    /// # Errors
    /// [`FrontendError`]
    pub fn connect(stream: UnixStream) -> Result<Arc<Self>, FrontendError> {
        let (connection, offer) = Connection::negotiate(stream)?;
        let news = EventFd::new(EFD_NONBLOCK);
        let news = news.map_err(|source| FrontendError::Io { operation: "make an eventfd", source })?;
        Ok(Arc::new(RemoteDisk {
            config: Mutex::new(offer.config.clone()),
            offer,
            queues: AtomicU16::new(1),
            connection: Mutex::new(Some(connection)),
            successor: Mutex::new(None),
            memories: Mutex::default(),
            kept: Mutex::new(None),
            news,
        }))
    }

    /// A device for a guest. Its requests wait for `patience` for another backend when theirs ends.
    ///
    /// # Errors
    /// When the host has no descriptor to give.
    pub fn parts(self: &Arc<Self>, spec: VhostUserBlockSpec) -> io::Result<DeviceParts> {
        let VhostUserBlockSpec { name, queues, patience } = spec;
        let queues = self.offer.queues.min(queues).max(1);
        self.queues.store(queues, Ordering::Release);
        let features = self.offer.features & DISK & if queues > 1 { u64::MAX } else { !block::MQ };
        let handler = Handler::new(Arc::clone(self), features, patience)?;
        let worker = WorkerPart {
            name: format!("{name}-vhost"),
            queues: (0..queues).collect(),
            handler: Box::new(handler),
        };
        let queue_sizes = vec![QUEUE_SIZE; usize::from(queues)];
        let device = Arc::new(VhostUserBlock { queue_sizes, features, remote: Arc::clone(self) });
        Ok(DeviceParts { device, workers: vec![worker] })
    }

    /// The connection; none when its other end is gone.
    pub(super) fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        lock(&self.connection)
    }

    pub(super) fn memories(&self) -> MutexGuard<'_, Memories> {
        lock(&self.memories)
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        lock(&self.kept)
    }

    pub(super) fn config(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.config)
    }

    pub(super) fn news(&self) -> &EventFd {
        &self.news
    }

    pub(super) fn size_bytes(&self) -> u64 {
        let sectors = self.config().get(CAPACITY).and_then(|bytes| bytes.try_into().ok());
        sectors.map_or(0, u64::from_le_bytes).saturating_mul(SECTOR_BYTES)
    }

    /// What reads are multiples of.
    pub(super) fn block_bytes(&self) -> u64 {
        let told = self.config().get(BLOCK_BYTES).and_then(|bytes| bytes.try_into().ok());
        let told = told.map_or(0, u32::from_le_bytes);
        let is_told = self.offer.features & block::BLK_SIZE != 0;
        let is_size = told.is_power_of_two() && (512..=65536).contains(&told);
        if is_told && is_size { u64::from(told) } else { SECTOR_BYTES }
    }

    pub(super) fn has_successor(&self) -> bool {
        lock(&self.successor).is_some()
    }

    /// Has the successor serve the disk from now on, if there is one.
    pub(super) fn adopt(&self) {
        if let Some(successor) = lock(&self.successor).take() {
            *self.connection() = Some(successor);
        }
    }

    /// Has another backend serve the disk, when the one before has ended. What waits is carried out by it.
    fn reconnect(&self, stream: UnixStream) -> Result<(), ReconnectError> {
        let is_there = |connection: &Option<Connection>| {
            connection.as_ref().is_some_and(|connection| !connection.has_ended())
        };
        if is_there(&self.connection()) || is_there(&lock(&self.successor)) {
            return Err(ReconnectError::Served);
        }
        let unsuitable = |source| ReconnectError::Unsuitable { source: Box::new(source) };
        let (connection, offer) = Connection::negotiate(stream).map_err(unsuitable)?;
        self.compare(&connection, &offer).map_err(unsuitable)?;
        *lock(&self.successor) = Some(connection);
        // The counter can only be at its end when the worker has been woken already.
        let _ = self.news.write(1);
        Ok(())
    }

    /// Whether a driver that knows the disk as it was can go on with it.
    fn compare(&self, connection: &Connection, offer: &Offer) -> Result<(), FrontendError> {
        let size = |config: &[u8]| config.get(CAPACITY)?.try_into().ok().map(u64::from_le_bytes);
        let (now, before) = (size(&offer.config).unwrap_or(0), size(&self.config()).unwrap_or(0));
        if now != before {
            return Err(FrontendError::Differs { what: "size in sectors", now, before });
        }
        let [now, before] =
            [offer.features, self.offer.features].map(|features| features & DISK & !block::MQ);
        if now != before {
            return Err(FrontendError::Differs { what: "set of features", now, before });
        }
        let (now, before) = (offer.queues, self.queues.load(Ordering::Acquire));
        if now < before {
            return Err(FrontendError::Differs {
                what: "number of queues",
                now: now.into(),
                before: before.into(),
            });
        }
        if self.kept().is_some() && !connection.tracks {
            return Err(FrontendError::Lacks { what: "tracking of what is in flight" });
        }
        Ok(())
    }
}

/// What a device is to be whose disk another process serves.
pub struct VhostUserBlockSpec {
    /// Names the thread: `data` gives `data-vhost`.
    pub name: String,
    /// How many queues at most.
    pub queues: u16,
    /// How long requests wait for another backend when theirs has ended.
    pub patience: Duration,
}

/// A disk that another process serves, as its transport sees it.
pub struct VhostUserBlock {
    queue_sizes: Vec<u16>,
    features: u64,
    remote: Arc<RemoteDisk>,
}

impl VirtioDevice for VhostUserBlock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> Vec<u8> {
        let mut config = self.remote.config().clone();
        let queues = u16::try_from(self.queue_sizes.len()).unwrap_or(u16::MAX);
        if let Some(place) = config.get_mut(QUEUE_COUNT_AT..QUEUE_COUNT_AT + 2) {
            place.copy_from_slice(&queues.to_le_bytes());
        }
        config
    }

    fn reconnect(&self, stream: UnixStream) -> Result<(), ReconnectError> {
        self.remote.reconnect(stream)
    }

    /// Who serves the disk counts.
    fn counters(&self) -> Value {
        json!({})
    }
}
