//! Whole networks with real packets, in network namespaces that each test makes for itself.
//!
//! Needs root, and the packages iproute2, nftables, udhcpc and isc-dhcp-client.
#![allow(clippy::unwrap_used)]

mod guest;
mod lab;
mod outside;
mod published;
