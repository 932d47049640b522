//! VPCs with real packets, in network namespaces that each test makes for itself.
//!
//! Needs root, and the packages iproute2, nftables and iputils-ping.
#![allow(clippy::unwrap_used)]

mod agree;
mod frame;
mod internet;
mod lab;
mod policy;
mod repair;
mod routes;
