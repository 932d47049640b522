//! Name resolution for a VPC: its own names are answered here, all others by the host's resolvers. For the host: some names, and no others.
//!
//! [`Zone::answer`] decides, a function of a query's bytes. [`Server`] carries packets: a query for
//! somebody else's name is passed on as it came, over the protocol that it came by, to the servers in
//! the host's `/etc/resolv.conf`, which is read anew for each so that a host may change networks.
//!
//! Deliberately not done: caching (the host's resolver does), and validation of DNSSEC, whose records
//! are passed on. Sources: RFC 1035, RFC 2308 (absent names), RFC 6891 (EDNS), RFC 7766 (TCP).

mod forward;
mod server;
#[cfg(test)]
mod tests;
mod zone;

pub use server::{Names, Server};
pub use zone::{NameError, Verdict, Zone};
