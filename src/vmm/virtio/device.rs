//! What a device is to the transport and to its worker threads.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::net::Net;
use super::{ActiveQueue, DeviceSignals, QueueError, QueuePosition};
use crate::memory::Memory;
use crate::poll::Token;
use crate::virtio::worker::WorkerContext;

/// The device types that we have, with the ids of virtio 1.2, section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u16)]
pub enum DeviceKind {
    Net = 1,
    Block = 2,
    Rng = 4,
    Balloon = 5,
    Vsock = 19,
}

impl DeviceKind {
    /// The virtio device id; its PCI device id is 0x1040 more.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// The kind of that id, if we have it.
    pub fn of(id: u16) -> Option<Self> {
        use DeviceKind::{Balloon, Block, Net, Rng, Vsock};
        [Net, Block, Rng, Balloon, Vsock].into_iter().find(|kind| kind.id() == id)
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Net => "net",
            DeviceKind::Block => "block",
            DeviceKind::Rng => "rng",
            DeviceKind::Balloon => "balloon",
            DeviceKind::Vsock => "vsock",
        })
    }
}

/// The half of a device that the transport asks. Called from vCPU threads, so nothing here may block.
pub trait VirtioDevice: Send + Sync {
    fn kind(&self) -> DeviceKind;

    /// Feature bits of this device type; the transport adds its own (`VERSION_1`, `EVENT_IDX`, `INDIRECT_DESC`).
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two; the length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// The device's configuration space, as it is now.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Reads the configuration space. Bytes beyond its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
        let count = rest.len().min(data.len());
        data.fill(0);
        data[..count].copy_from_slice(&rest[..count]);
    }

    /// Writes the device's configuration space. What cannot be written is ignored, as the specification wants.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    /// Called when the machine starts, and again when it was reset: the device keeps the last to announce changes of its
    /// configuration.
    fn attach(&self, _signals: Arc<DeviceSignals>) {}

    /// Has somebody else serve the device, at the other end of `stream`, now that whoever did has ended.
    ///
    /// # Errors
    /// [`ReconnectError`]
    fn reconnect(&self, _stream: UnixStream) -> Result<(), ReconnectError> {
        Err(ReconnectError::Served)
    }

    /// The device as a network interface, if it is one.
    fn as_net(&self) -> Option<&Net> {
        None
    }

    /// Bytes, operations, errors and latency so far, for the control socket.
    fn counters(&self) -> serde_json::Value;
}

/// The half of a device that serves queues, on a thread of its own.
///
/// ```text
/// idle ──start──▶ running ──quiesce──▶ paused ──resume──▶ running
///   ▲                │                    │
///   └───────stop─────┴────────────────────┘
/// ```
pub trait QueueHandler: Send {
    /// The driver is ready: takes the queues of this worker, ordered by index.
    ///
    /// # Errors
    /// [`DeviceError`] marks the device as needing a reset; so it is for all that follow.
    fn start(&mut self, activation: Activation, context: &WorkerContext) -> Result<(), DeviceError>;

    /// Whether the worker is to watch its queues' kicks. A handler that gives its queues to another process leaves them to that.
    fn takes_kicks(&self) -> bool {
        true
    }

    /// The driver kicked queue `index`. Spurious calls happen.
    ///
    /// # Errors
    /// See [`QueueHandler::start`].
    fn kicked(&mut self, index: u16, context: &WorkerContext) -> Result<(), DeviceError>;

    /// A descriptor that the handler watches by [`WorkerContext::watch`] is ready.
    ///
    /// # Errors
    /// See [`QueueHandler::start`].
    fn ready(&mut self, _token: Token, _context: &WorkerContext) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Waits for what is in flight. After it returns nothing touches guest memory until [`QueueHandler::resume`].
    /// The worker delivers no kick and no readiness meanwhile.
    ///
    /// # Errors
    /// See [`QueueHandler::start`].
    fn quiesce(&mut self) -> Result<(), DeviceError>;

    /// Where it stands in each of its queues, between [`QueueHandler::quiesce`] and [`QueueHandler::resume`], and nothing else of it would
    /// be missed: started there, another handler goes on as it would have. None when that is not so.
    fn positions(&mut self) -> Option<Vec<(u16, QueuePosition)>> {
        None
    }

    /// Goes on after [`QueueHandler::quiesce`]: looks at its queues once, since kicks may have been missed.
    ///
    /// # Errors
    /// See [`QueueHandler::start`].
    fn resume(&mut self, context: &WorkerContext) -> Result<(), DeviceError>;

    /// Lets go of queues and memory, with nothing in flight afterwards, and unwatches what it watches; a
    /// [`QueueHandler::start`] may follow. Also called after an error, and when nothing was started.
    fn stop(&mut self, context: &WorkerContext);
}

/// What a handler gets when the driver is ready.
pub struct Activation {
    /// The queues that this worker serves and that the driver enabled, ordered by index.
    pub queues: Vec<ActiveQueue>,
    /// The feature bits that driver and device agreed on.
    pub features: u64,
    pub memory: Memory,
    pub signals: Arc<DeviceSignals>,
}

/// A device, with what its workers are.
pub struct DeviceParts {
    pub device: Arc<dyn VirtioDevice>,
    pub workers: Vec<WorkerPart>,
}

/// One worker of a device: which queues it serves and what serves them.
pub struct WorkerPart {
    /// The thread's name, at most 15 bytes are shown by the kernel: `blk0-q1`.
    pub name: String,
    /// Indexes of the queues that are this worker's.
    pub queues: Vec<u16>,
    pub handler: Box<dyn QueueHandler>,
}

/// Nobody else can serve a device.
#[derive(Debug, thiserror::Error)]
pub enum ReconnectError {
    #[error("it is served")]
    Served,
    #[error("whoever is to serve it cannot")]
    Unsuitable { source: Box<dyn std::error::Error + Send + Sync> },
}

/// The driver broke the device's protocol, or the device broke: only a reset helps.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("queue {index}")]
    Queue { index: u16, source: QueueError },
    #[error("queue {index}: a descriptor chain is not of the device's form: {reason}")]
    BadChain { index: u16, reason: &'static str },
    #[error("{operation}")]
    Host { operation: &'static str, source: std::io::Error },
}
