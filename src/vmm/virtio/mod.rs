//! virtio 1.2 devices, and what they share.
//!
//! A device is two halves. [`VirtioDevice`] is what the transport asks: its type, features, queue sizes and
//! configuration space; it may be called from any vCPU's thread. Its [`QueueHandler`]s do the work, each on a
//! thread of its own ([`worker::WorkerThread`]) that owns the queues given to it: no lock stands between a guest's
//! kick and its completion.
//!
//! ```text
//!  vCPU ──MMIO──▶ transport ──Start(queues)──▶ worker thread: QueueHandler
//!    └──ioeventfd────────────────kick──────────▶    │
//!  irqfd ◀─────────────── Interrupt::trigger ───────┘
//! ```
//!
//! What a guest writes is never trusted: a request is parsed from guest memory into a typed value first and then
//! executed. A broken ring or chain is a [`DeviceError`]: the worker lets go of the queues and the device tells
//! the guest that it needs a reset (virtio 1.2, 2.1.2). A sound request that cannot be served is answered with the
//! device's own error status.
//!
//! [`Ring`] is a queue in service, [`Buffers`] the memory of one chain. Each device is a folder: `device` is what the
//! transport asks, `request` what a driver says, parsed, and `handler` what is done about it.

pub mod balloon;
pub mod block;
mod buffers;
mod counters;
mod device;
#[cfg(test)]
pub(crate) mod driver;
pub(crate) mod in_flight;
mod interrupt;
pub mod net;
pub(crate) mod pci;
mod queue;
mod ring;
pub mod rng;
pub mod vhost_user;
pub mod vsock;
pub mod worker;

pub use buffers::Buffers;
pub use counters::{Counter, OperationCounters, nanoseconds_since};
pub use device::{
    Activation, DeviceError, DeviceKind, DeviceParts, QueueHandler, ReconnectError, VirtioDevice, WorkerPart,
};
pub use in_flight::{InFlightQueue, RegionError};
pub use interrupt::{AttachedSignals, DeviceSignals, Interrupt, InterruptVectors, NO_VECTOR};
pub use queue::{ActiveQueue, QueueError, QueuePosition};
pub use ring::Ring;

/// Feature bits that belong to no device (virtio 1.2, section 6).
pub mod feature {
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
}
