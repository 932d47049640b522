//! The instance metadata service (IMDS), versions 1 and 2: what an instance can ask about itself at
//! 169.254.169.254.
//!
//! ```text
//! InstanceMetadata ──▶ Tree ──▶ Service ──▶ HTTP
//!  typed, what is       pure:    pure: request    hyper, limits,
//!  known of it          paths    in, answer out   the hop limit
//! ```
//!
//! [`InstanceMetadata`] is the only input. [`Tree`] is built from it once and answers a path with a
//! listing or a value; a listing names only what resolves, so a client that walks it (as cloud-init
//! does) never meets an error. [`Service`] adds what the protocol says on top: versions, session tokens,
//! user-data. [`serve`] puts it on a socket.
//!
//! Deliberately not here: categories that nothing stands behind. The instance identity document has no
//! signature, since there is no key that anyone could check it with; `iam` appears with roles.
//!
//! Sources: Amazon EC2 User Guide, "Instance metadata categories", "Use the Instance Metadata Service",
//! "Instance identity documents"; cloud-init's `DataSourceEc2` for what clients rely on.
#![forbid(unsafe_code)]

mod identity;
mod instance;
mod notices;
mod server;
mod service;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod token;
mod tree;

pub use instance::{
    BlockDevice, Event, HttpTokens, InstanceMetadata, Interruption, MetadataOptions, NetworkInterface,
    Notices, Placement, PublicKey,
};
pub use server::{Error, serve};
pub use service::{Answer, Method, Request, Service};
pub use token::{TokenKey, Ttl};
pub use tree::{Found, Tree};
