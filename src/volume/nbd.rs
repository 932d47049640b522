//! A server of the NBD protocol: disks for standard tools, on Unix sockets and TCP.
//!
//! ```text
//!   listener ─▶ server ──a thread for each──▶ negotiation ─▶ session ─▶ BlockQueue
//!                                             handshake.rs   session.rs
//! ```
//!
//! A [`Server`] has any number of [`Export`]s, each a [`BlockBackend`] and a name. The handshake is fixed newstyle with `NBD_OPT_GO`, `INFO`,
//! `LIST`, `EXPORT_NAME`, `ABORT`, `STRUCTURED_REPLY`, `LIST_META_CONTEXT` and `SET_META_CONTEXT`. A client can read, write (also with FUA),
//! flush, trim and write zeroes, ask which parts hold anything (`base:allocation`), keep [`DEPTH`] requests in flight, and use several
//! connections, whose flushes cover each other's writes.
//!
//! Whatever a client sends is answered with an error of the protocol or by closing its connection. A connection takes memory for what was
//! sent or is read, never for what a client says that it will send, and at most 40 MiB; a client that does not read its replies stops
//! being read from, and keeps nobody else waiting.
//!
//! **What is not here.** TLS and any other protection: whoever can connect can read and write. Other contexts of metadata, holes in the
//! replies to reads, resizing, extended headers. Requests that are not whole sectors are refused, as the announced block size says.
//!
//! Source: `doc/proto.md` of the NetworkBlockDevice project.

#[cfg(any(test, feature = "testing"))]
pub mod client;
mod handshake;
mod pool;
mod protocol;
mod server;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::backend::BlockBackend;

pub use server::{Listener, Server};

/// How many requests of one connection are in flight at a time; further ones wait in the socket.
pub const DEPTH: u16 = 128;

/// The most that one read or write transfers, in bytes.
pub const TRANSFER_BYTES_MAX: u32 = 32 << 20;

/// A disk and the name by which clients ask for it.
#[derive(Clone)]
pub struct Export {
    /// At most 4096 bytes. The only export of a server can also be asked for by the empty name.
    pub name: String,
    /// For clients that may not write: in a [`ReadOnly`](crate::ReadOnly).
    pub disk: Arc<dyn BlockBackend>,
}

/// Serves one client to its end, on this thread.
///
/// Returns when the client disconnected, which is no error, or when it sent what it must not.
#[cfg(any(test, feature = "testing"))]
pub fn serve_client(socket: impl Into<std::os::fd::OwnedFd>, exports: &[Export]) {
    // A client's error is its own.
    let _ = server::serve_client(&socket.into(), exports);
}
