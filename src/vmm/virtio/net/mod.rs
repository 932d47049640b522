//! The network interface: virtio-net (virtio 1.2, 5.1) on a tap.
//!
//! A pair of queues has a worker thread and a queue of the tap of its own; it moves frames between the tap and the
//! guest's own pages with one system call each and copies nothing. Host and guest hand each other whole TCP segments
//! of up to 64 KiB and leave checksums undone (the tap's `IFF_VNET_HDR` is virtio's own header).
//!
//! ```text
//!   queue 2i    receive   tap ──readv──▶ as many chains as the frame needs ─▶ interrupt
//!   queue 2i+1  transmit  chain ──writev──▶ tap
//!   last queue  control   how many pairs, which offloads: served by the first pair's worker
//! ```
//!
//! A driver that does not negotiate `MQ` has one pair and finds the control queue right behind it, at 2 (5.1.2);
//! whose worker that index is serves it then.
//!
//! What the driver's header says is the kernel's to check, for the kernel copies it before it looks: a bad one fails
//! that frame's `writev` and is counted. What stops a guest from lying about who it is stands on the tap's other
//! side.
//!
//! The driver is asked for kicks on a receive queue only while frames lack buffers, since else it would tell of
//! every buffer it adds. A frame for which buffers are missing waits half received, see [`receive`]; nothing is read
//! from the tap meanwhile, so frames queue up there and the kernel drops what is too much.
//!
//! What passes can be captured, and made to pass as over a worse link, while the guest uses it: see [`experiments`].
//!
//! Not offered: filters by address or VLAN (the tap delivers what the fabric lets through), RSS, UDP segmentation
//! (kernels before 6.2 do not have it).

mod capture;
mod device;
mod experiments;
mod handler;
mod impairment;
mod receive;
mod request;
mod tap;
#[cfg(test)]
mod tests;

pub use capture::{CaptureError, CaptureStatus, Direction, Record};
pub use device::{Net, NetSpec};
pub use impairment::{Impairment, ImpairmentError, Impairments};
#[cfg(test)]
pub(crate) use tap::write_pieces;
pub use tap::{Tap, TapError};

/// Feature bits (virtio 1.2, 5.1.3).
pub mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const MQ: u64 = 1 << 22;
}

const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;

/// `struct virtio_net_hdr_v1`, before each frame in both directions.
const HEADER_BYTES: usize = 12;

/// An Ethernet header with a VLAN tag.
const LINK_HEADER_BYTES: usize = 18;

/// The longest frame with its header: 64 KiB of segments.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + LINK_HEADER_BYTES + (1 << 16);

/// A chain's pieces: a whole queue of descriptors, and a cut more where RAM's regions meet.
const PIECES_MAX: usize = QUEUE_SIZE as usize + 4;
