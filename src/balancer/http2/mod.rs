//! HTTP/2 (RFC 9113) at both ends: from clients, and to targets that want it. Nothing here has a socket.
//!
//! ```text
//!          frames                                     HTTP/1.1, one message in each direction
//! link ──receive──▶ Session ──▶ Incoming (of a stream) ──▶ take ──▶ proxy
//!      ◀─output───          ◀── Outgoing (of a stream) ◀── write ──
//! ```
//!
//! A stream is to the proxy what a connection of HTTP/1.1 is that carries one request: rules, targets, time-outs and answers are the same, in one place.
//!
//! Invariants: of a stream that nobody reads no more is taken in than its window, and of all of them no more than the connection's; what waits to be sent is one piece
//! of each stream, as its owner gives it; what the other end makes this one say is bounded ([`Flood`]).
//!
//! It deliberately has no priorities, no pushes and no `CONNECT`.

mod flood;
mod frame;
mod hpack;
mod incoming;
mod outgoing;
mod receiving;
mod sending;
mod session;
mod stream;
#[cfg(test)]
mod tests;

pub use flood::Flood;
pub use frame::Code;
pub use hpack::{BadBlock, Decoder, Fields};
pub use session::{Fault, Session};
pub use stream::Taken;
