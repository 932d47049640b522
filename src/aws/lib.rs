//! The AWS wire: requests as clients of AWS send them, to typed inputs of operations; typed outputs and errors, to answers.
//!
//! ```text
//! server ── api ── sigv4                 who sent it
//!            ├──── query, json, cbor     bytes to a tree (node)
//!            ├──── table ── decode       a tree to an input, or what is wrong with it (malformed)
//!            │        └──── handler      somebody else's
//!            └──── answer ─ encode       an output to xml, json, cbor
//! ```
//!
//! The types of a service ([`autoscaling`], [`ec2`], [`elbv2`], [`sts`]) are made of its model by `build/`; `models/README.md` says where that comes from. What all operations have in
//! common is done here, once: required members, ranges and enumerations, dry runs, [`filters`], pages ([`page`]), signatures.
//!
//! Nothing here decides: which operations are served, and what they do, is in the [`table::Table`] that is given. There is no state but keys derived
//! from secrets. Whatever a client sends, nothing here panics, recurses deeper than `node::DEPTH_MAX`, or takes memory out of proportion.
#![forbid(unsafe_code)]

pub mod answer;
pub mod api;
mod cbor;
pub mod decode;
pub mod encode;
pub mod error;
pub mod filters;
mod generated;
mod json;
pub mod kept;
pub mod malformed;
pub mod member;
pub mod node;
pub mod page;
mod percent;
mod query;
pub mod request;
pub mod server;
pub mod service;
pub mod sigv4;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
pub mod words;
mod xml;

pub use error::Error;
pub use table::{Call, Table};

/// Auto Scaling.
pub mod autoscaling {
    include!(concat!(env!("OUT_DIR"), "/autoscaling.rs"));
}

/// Elastic Compute Cloud.
pub mod ec2 {
    include!(concat!(env!("OUT_DIR"), "/ec2.rs"));
}

/// Elastic Load Balancing.
pub mod elbv2 {
    include!(concat!(env!("OUT_DIR"), "/elbv2.rs"));
}

/// Security Token Service.
pub mod sts {
    include!(concat!(env!("OUT_DIR"), "/sts.rs"));
}
