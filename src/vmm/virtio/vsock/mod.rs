//! Sockets between guest and host without a network: virtio-vsock (virtio 1.2, 5.10), streams only.
//!
//! The jail opens nothing by path, so both directions begin at sockets that are given at the start:
//!
//! ```text
//!   host to guest: connect to the listener's Unix socket, write "CONNECT PORT\n";
//!                  "OK PORT\n" comes back with the host's port, then the bytes of the guest's service;
//!                  or the connection is closed, if the guest refuses
//!   guest to host: whoever holds the other end of the services socket (SOCK_SEQPACKET) receives a message
//!                  "CONNECT PORT\n" with one end of a fresh stream (SCM_RIGHTS), on which it answers
//!                  "OK\n" with a stream to the service (SCM_RIGHTS), and is no more in the way then;
//!                  to close it without an answer is to refuse;
//!                  if nobody holds it, or does not keep up, the guest is refused
//! ```
//!
//! A packet is a header and, for data, a payload, however a driver cuts it:
//!
//! ```text
//!   0          8          16        20        24      28     30    32      36          40
//!   src_cid    dst_cid    src_port  dst_port  length  type   op    flags   buf_alloc   fwd_cnt
//! ```
//!
//! Each side may send as many bytes as the other said that it has room for (`buf_alloc`) beyond what that one has
//! passed on (`fwd_cnt`). A guest that sends more, or packets that fit no connection, gets a reset of that
//! connection; a chain that is no packet is a broken driver. Connections, the bytes kept for a host that does not
//! read, and the resets kept for a guest that does not read are all bounded.
//!
//! Data from the host is read straight into the guest's pages, data from the guest written straight from them.

mod connection;
mod device;
mod handler;
mod request;
mod stream;
#[cfg(test)]
mod tests;

pub use device::{Vsock, VsockError, VsockSpec};

/// Feature bits (virtio 1.2, 5.10.3).
pub mod feature {
    pub const STREAM: u64 = 1 << 0;
}

/// The host's address; a guest's is 3 or more.
const HOST_CID: u64 = 2;
const GUEST_CID_MIN: u64 = 3;

const QUEUE_SIZE: u16 = 128;
const PIECES_MAX: usize = QUEUE_SIZE as usize + 4;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 256;

/// Bytes that are kept of one connection for a host that does not read: what the guest is told it may send.
const BACKLOG_BYTES: u32 = 64 * 1024;

/// Resets that wait for a guest that offers no buffers. Beyond it the guest is not heard either.
const REPLIES_MAX: usize = 64;
