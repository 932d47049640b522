//! The network of an instance: a namespace that routes, a tap for the guest, and what answers in it.
//!
//! ```text
//!  guest │ the VPC: a namespace with no name                      │ the host's namespace
//!        │                                                        │
//!  virtio│  tap0                lo                      uplink    │ nimbo0              eth0
//!   net ─┼─  /32 route,  ──▶  10.0.0.1 router     ──▶  masquerade ┼─ 169.254.128.0/31 ─▶ masquerade ─▶
//!        │   proxy ARP        10.0.0.2 resolver                   │
//!        │                    169.254.169.253 resolver            │
//!        │                    169.254.169.254 metadata            │
//! ```
//!
//! There is no bridge: every interface has a route of its own, the router answers ARP for all
//! others, and so every packet passes the forward hook, also one between two neighbours.
//!
//! [`Standalone`] puts the parts together for one instance without a cloud. The parts are [`Namespace`], [`Tap`], [`Uplink`], and the
//! services [`dhcp`], [`dns`] and [`publish`].
//!
//! [`capture`] is about frames that passed: what they are, and files of them.
//!
//! A VPC of many interfaces is a [`Fabric`], which enforces a [`policy`]: groups, ACLs and route tables. An [`InternetGateway`] gives it public
//! addresses, a [`NatGateway`] lends its own. Why a packet passes all of them or not, [`path`] tells.
//!
//! Invariants:
//! - The calling process stays in its own namespace. What must happen in another one happens on a
//!   thread that enters it and ends there.
//! - A namespace has no name, unless a file pins it. It lives as long as something holds a descriptor of it or a socket or
//!   tap in it, so the kernel removes it, its interfaces and the host's end of the uplink when the
//!   process dies, however it dies.
//! - What an uplink changes in the host (see [`uplink`]) is undone when it is dropped; what a killed
//!   process left is undone when the next uplink is made.
//!
//! It deliberately does not: carry IPv6, or edit a firewall that is not its own.
#![deny(unsafe_code)]

mod bound;
pub mod capture;
pub mod dhcp;
pub mod dns;
mod error;
pub mod fabric;
mod internet_gateway;
mod namespace;
mod nat_gateway;
mod netlink;
mod nft;
mod pair;
pub mod path;
mod peering;
mod plan;
pub mod policy;
pub mod publish;
mod standalone;
mod surroundings;
#[allow(unsafe_code)]
mod sys;
mod sysctl;
pub mod tap;
pub mod uplink;

pub use bound::metadata_listener;
pub use error::Error;
pub use fabric::Fabric;
pub use internet_gateway::{InternetGateway, STAND_IN, Translation};
pub use ipnet::Ipv4Net;
pub use namespace::{Namespace, Worker};
pub use nat_gateway::{NatGateway, NatGatewaySpec};
pub use pair::NEXT_HOP;
pub use peering::{part, peer};
pub use plan::{METADATA, Plan, RESOLVER};
pub use publish::Publish;
pub use standalone::{Standalone, StandaloneSpec};
pub use surroundings::{Conflict, Surroundings};
pub use tap::Tap;
pub use uplink::{Exposure, HostAccess, Uplink, outward_address};
