//! Whole networks with real packets, in network namespaces that each test makes for itself.
//!
//! Needs root, and the packages iproute2, nftables, udhcpc, isc-dhcp-client and curl.
#![allow(clippy::unwrap_used)]

mod guest;
mod lab;
mod metadata;
mod outside;
mod published;
