//! The control plane: what a region's accounts have, what they may ask of it, and what must be done about it.
//!
//! ```text
//!  request ──▶ operation ──▶ transaction on the state ──▶ store (durable) ──▶ answer
//!                                   │
//!                                   └──▶ reconcilers: observe, plan, execute ──▶ ports ──▶ host
//! ```
//!
//! - [`records`]: what is kept, one type for each kind of resource.
//! - [`state`]: all records in memory, and transactions on them.
//! - [`ledger`]: the state's way into the [`store`].
//! - [`ec2`], [`autoscaling`], [`elbv2`]: the operations of services.
//! - [`reconcile`]: what is made true of the world, through [`ports`].
//!
//! An operation is a plain function of a transaction and a request: it reads records, changes some, and answers, or it says why not
//! and nothing has changed. It waits for nothing and touches no host. What is to be done in the world is written down by it,
//! durably, before anybody begins to do it; reconcilers do that, and write down what came of it. So a control plane that is
//! killed at any moment finds in its store what it was about.
//!
//! The host is reached through traits only, so all of it runs in a test, on a paused clock, with no root.
#![forbid(unsafe_code)]

pub mod autoscaling;
pub mod capacity;
pub mod catalog;
pub mod credits;
mod ec2;
mod elbv2;
pub mod ledger;
pub mod notices;
pub mod plane;
pub mod ports;
pub mod power;
pub mod public_names;
pub mod public_pool;
pub mod reconcile;
pub mod records;
pub mod simulation;
pub mod state;
pub mod store;
mod sts;
pub mod survey;
#[cfg(test)]
mod testing;
pub mod zones;

use std::sync::Arc;

use aws::Table;
pub use ec2::{SeedImage, default_seed, seed_images};

use crate::plane::Plane;

/// All operations that are served.
pub fn table() -> Table<Arc<Plane>> {
    sts::serve(elbv2::serve(autoscaling::serve(ec2::serve(Table::new()))))
}
