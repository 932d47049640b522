//! The client side of DHCP (RFC 2131): what goes over the wire, and when.

pub mod client;
pub mod frame;
pub mod message;
