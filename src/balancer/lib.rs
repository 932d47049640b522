//! Load balancers: what stands between clients and the targets that serve them.
//!
//! ```text
//!            ┌─ worker: one thread per core, each with listeners, connections and a pool of its own ─┐
//! client ──▶ │ listener ─▶ request ─▶ rules ─▶ action ─▶ target group ─▶ target ─▶ pooled connection │ ──▶ target
//!            └───────────────────────────────────────────────────────────▲────────────────────────────┘
//!                                                                 health │ checks
//! ```
//!
//! Protocols are state machines that are given bytes and time and say what is to be done; only a worker's engine makes system calls. So
//! they are tested, and fuzzed, without sockets and clocks.
//!
//! The terms are those of Elastic Load Balancing (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/>).
#![deny(unsafe_code)]

mod access_log;
mod checks;
pub mod config;
pub mod counters;
mod engine;
pub mod health;
pub mod http1;
pub mod http2;
mod proxy;
pub mod routes;
pub mod rules;
pub mod server;
pub mod status;
pub mod targets;
pub mod tls;
mod transport;
