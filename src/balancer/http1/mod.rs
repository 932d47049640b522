//! HTTP/1.1 (RFC 9112) as a load balancer reads it: where a message begins and ends, and what must be looked at on the way. Nothing here has a socket.
//!
//! ```text
//! bytes ──end_of_head──▶ head ──Request::parse / Response::parse──▶ Framing ──Body::take──▶ how many bytes are the message's
//!                          └──────────rewrite──▶ the head that is forwarded
//! ```
//!
//! Heads and bodies are forwarded as they came, but for fields that are a connection's and not a message's: names keep their case and fields their order. So
//! what two servers could understand differently is refused, or named ([`Flaw`]), here.
//!
//! Invariant: a message that was accepted ends where any server that follows RFC 9112 says it does.

mod body;
mod head;
mod request;
mod response;
mod rewrite;

pub use body::{Body, BodyError, Part, Taken};
pub use head::{Field, HEAD_BYTES_MAX, Known, end_of_head};
pub(crate) use head::{is_token, length, read_fields};
pub use request::{Connection, Flaw, Request, Severity};
pub use response::{BadResponse, Response};
pub use rewrite::{Client, request as rewrite_request, response as rewrite_response, trace};

/// Where a message's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    Length(u64),
    Chunked,
    /// With the connection; of responses only.
    UntilClose,
}

#[cfg(test)]
mod tests;
