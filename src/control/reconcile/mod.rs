//! Reconcilers: what is made true of the world.
//!
//! Each observes records and what a host says, plans the next step as a pure function of both, and executes it; every step can be taken again.
//! What it read is durable before it acts on it, and what it did is written down before the next step. So it does not matter
//! when the process ends: the next one observes, and goes on.

pub mod disk;
pub mod instance;
pub mod nat_gateway;
pub mod peering;
pub mod unhosted;

use std::sync::Arc;

use crate::ledger::Stopped;
use crate::plane::Plane;
use crate::ports::{Disks, Machines};

/// Makes true of a host what all records say, until the ledger takes no more changes.
///
/// # Errors
/// Always, in the end: why it takes none.
pub async fn run(
    plane: Arc<Plane>,
    machines: Arc<dyn Machines>,
    disks: Arc<dyn Disks>,
) -> Result<(), Stopped> {
    let instances = instance::InstanceReconciler::new(Arc::clone(&plane), machines).run();
    tokio::try_join!(instances, disk::run(Arc::clone(&plane), disks), unhosted::run(plane))?;
    Ok(())
}
