//! Reconcilers: what is made true of the world.
//!
//! Each observes records and what a host says, plans the next step as a pure function of both, and executes it; every step can be taken again.
//! What it read is durable before it acts on it, and what it did is written down before the next step. So it does not matter
//! when the process ends: the next one observes, and goes on.

mod agenda;
pub mod balancer;
pub mod credits;
pub mod disk;
pub mod health;
pub mod instance;
pub mod interface;
pub mod nat_gateway;
pub mod network;
pub mod notice;
pub mod peering;
pub mod rest;
pub mod scaling;
pub mod target;
pub mod unhosted;
pub mod zone;

use std::convert::Infallible;
use std::sync::Arc;

use tokio::time::Instant;

use crate::ledger::{Stopped, WriteError};
use crate::plane::Plane;
use crate::ports::{Balancers, Disks, Machines, Networks};
use crate::state::{Space, Transaction};

/// So many changes are looked at together.
const CHANGES_MAX: usize = 1024;

/// Makes true of a host what all records say, until the ledger takes no more changes. A host may have no networks.
///
/// # Errors
/// Always, in the end: why it takes none.
pub async fn run(
    plane: Arc<Plane>,
    machines: Arc<dyn Machines>,
    disks: Arc<dyn Disks>,
    networks: Option<Arc<dyn Networks>>,
    balancers: Arc<dyn Balancers>,
) -> Result<(), Stopped> {
    let instances = instance::InstanceReconciler::new(Arc::clone(&plane), Arc::clone(&machines)).run();
    let with_networks = Arc::clone(&plane);
    let networks = async {
        match networks {
            Some(networks) => network::run(with_networks, networks).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(
        instances,
        networks,
        balancer::run(Arc::clone(&plane), balancers),
        credits::run(Arc::clone(&plane), Arc::clone(&machines)),
        disk::run(Arc::clone(&plane), disks),
        health::run(Arc::clone(&plane), Arc::clone(&machines)),
        interface::run(Arc::clone(&plane), machines),
        scaling::run(Arc::clone(&plane)),
        unhosted::run(plane)
    )?;
    Ok(())
}

/// Changes few records of a space.
async fn write(
    plane: &Plane,
    space: Space,
    change: impl FnOnce(&mut Transaction<'_>),
) -> Result<(), Stopped> {
    let outcome = plane.ledger.write(space, |tx| {
        change(tx);
        Ok::<_, Infallible>(())
    });
    match outcome.await {
        Ok(()) => Ok(()),
        Err(WriteError::Stopped(stopped)) => Err(stopped),
        Err(WriteError::Refused(never)) => match never {},
        Err(error @ WriteError::TooLarge { .. }) => unreachable!("a step changes few records: {error}"),
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
