//! The control socket: HTTP/1.1 and JSON over a Unix socket, served by the event loop. `docs/control-api.md` is its manual.
//!
//! | file | subject |
//! | --- | --- |
//! | [`api`] | what is said, as types |
//! | [`operations`] | what can be done to a machine, and how a failure reads in HTTP |
//! | `routes` | from a request to an operation |
//! | `request`, `response` | HTTP, without a socket |
//! | `connection`, `server` | sockets, deadlines, without blocking |
//! | `events` | the numbered log of what happened |
//! | [`client`] | the other side, blocking |
//!
//! The process that serves it is jailed and opens nothing by path: a disk or a tap arrives as an open descriptor with the
//! request that plugs it in (`SCM_RIGHTS`). Descriptors that no request claims are closed.
//!
//! It has no notion of users: whoever may connect to the socket may do all of it. The socket's folder decides that.

pub mod api;
pub mod client;
mod connection;
mod events;
pub mod operations;
mod process;
mod request;
mod response;
mod routes;
mod server;
#[cfg(test)]
mod tests;

pub use connection::TimeOuts;
pub use events::{EVENTS_KEPT, EventLog};
pub use process::ProcessMemoryFile;
pub use server::{ControlServer, ServerLimits};
