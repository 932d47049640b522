//! Devices whose queues another process serves: the vhost-user protocol (QEMU's `docs/interop/vhost-user.rst`).
//!
//! ```text
//!   guest ──kick: ioeventfd──────────────▶ backend's worker ──▶ volume
//!     ▲                                         │
//!     └──irqfd◀──────────────────call───────────┘
//!   nimbo vmm: Frontend ◀── Unix socket: features, memory, rings ──▶ Backend: nimbo volume serve
//! ```
//!
//! No request passes the frontend: the guest's memory is a file that both processes map, and kicks and interrupts are eventfds that KVM
//! writes and reads itself. So a disk costs what it costs in the microVM's own process, and that one, which a guest may break out into,
//! has neither the disk's files nor its keys.
//!
//! The frontend wants `REPLY_ACK` and `CONFIG`, and uses `MQ`, `BACKEND_REQ` and `INFLIGHT_SHMFD` if they are there; it confirms each
//! message, which is a matter of microseconds once in a guest's life. The backend is a block device's, one connection one guest; several
//! connections share what they serve. It takes only memory that is sealed against being cut short (fcntl(2), `F_SEAL_SHRINK`): a frontend
//! must not be able to end a backend, which other guests may use, by taking away what it has mapped.
//!
//! A backend may end, and another take over: what is in flight is kept in memory that both sides have ([`in_flight`](super::in_flight)).
//! Until then requests wait; when nobody comes in time, or when nobody could go on as if nothing were, the frontend ends them all with an
//! error, those in flight too, so that whoever waits for them in the guest learns it.
//!
//! The end of a connection means that its backend touches the rings no more. So it closes the connection last, and who starts one
//! in the place of another waits for that.
//!
//! Not here: migration (the log of dirty pages), postcopy, packed rings.

mod backend;
mod boot;
mod connection;
mod frontend;
mod gone;
mod handler;
mod message;
#[cfg(test)]
mod tests;

pub use backend::{Backend, BackendError};
pub use boot::{BootReader, BootSession};
pub use frontend::{FrontendError, RemoteDisk, VhostUserBlock, VhostUserBlockSpec};
#[cfg(any(test, feature = "testing"))]
pub use message::fuzz_request;

/// The virtio feature bit that stands for what follows.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Bits of the protocol's own features.
mod protocol {
    pub(super) const MQ: u64 = 1 << 0;
    pub(super) const REPLY_ACK: u64 = 1 << 3;
    pub(super) const BACKEND_REQ: u64 = 1 << 5;
    pub(super) const CONFIG: u64 = 1 << 9;
    pub(super) const IN_FLIGHT: u64 = 1 << 12;
}
