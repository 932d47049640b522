//! Captured frames: what is in them, which are wanted, and the file that keeps them.
//!
//! [`Packet`] is a frame as far as it is understood, [`Filter`] says of one whether it is wanted, and [`Writer`] keeps frames in a file for
//! tcpdump and Wireshark. A guest makes the frames, so nothing in them is trusted; none of this does I/O but the writer, into what it is given.

mod filter;
mod packet;
mod pcapng;

pub use filter::{Filter, FilterError};
pub use packet::{Arp, Network, Packet, Transport};
pub use pcapng::{Interface, Writer};

/// Which way a frame goes, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}
