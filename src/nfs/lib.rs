//! A file system for many machines: an NFSv4.1 server (RFC 8881) of a folder of this host, and a client to try it with.
//!
//! ```text
//! server   one thread for each connection: reads a record, has it answered, sends the answer
//!   rpc      what a call is, and from whom (RFC 5531)
//!   ops      a compound: its operations one after the other, decoded where they lie (xdr, proto)
//!     session  who the clients are, what they have been told already
//!     state    which files they have open, and which parts of them locked
//!     fs       the folder: handles, attributes, names
//! ```
//!
//! Invariants: a file is touched as the caller, by a thread that has taken his identity, so that the kernel judges what he may. What leads
//! out of the folder is never opened: names are single, symbolic links are never followed, and handles are signed. What was told to be
//! stable is on the disk.
//!
//! Locks are taken in this order: the table of clients, what a client holds, the locks of a file, the table of nodes.
//!
//! It has no delegations, no layouts, no access control lists, no share reservations and no mandatory locks, as EFS has none: what asks for
//! them is answered with the error that EFS answers. Nothing is ever called back, so a back channel is accepted and never used.

#![deny(unsafe_code)]

pub mod client;
#[cfg(test)]
mod conformance;
pub mod fs;
mod ops;
pub mod proto;
mod rpc;
pub mod server;
pub mod service;
mod session;
mod state;
#[allow(unsafe_code)]
mod sys;
pub mod xdr;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mutex guards. Nothing that is guarded here is left halfway by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
