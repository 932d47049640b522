//! The public addresses, as the command line says, and whether they are in the way of this machine's own network.

use anyhow::{Context as _, bail};
use control::public_pool::PublicPool;
use network::{Conflict, Namespace, STAND_IN, Surroundings};

#[derive(Debug, clap::Args)]
pub(super) struct Public {
    /// What new public addresses are taken from. Those that are had stay with who has them
    #[arg(long, value_name = "RANGE", default_value_t)]
    pub(super) public_pool: PublicPool,
    /// The interface from which public addresses are reached too: this machine answers there for those that instances have
    #[arg(long, value_name = "INTERFACE", conflicts_with = "simulate")]
    pub(super) lan_interface: Option<String>,
}

impl Public {
    /// Whether this machine can have them; what may be meant so is warned of.
    ///
    /// # Errors
    /// When an address in the pool is somebody's, or there is no such interface.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let host =
            Surroundings::of(&Namespace::current()?).context("cannot look at this machine's network")?;
        let lan = self.lan_interface.as_deref();
        if let Some(lan) = lan.filter(|lan| !host.interfaces().any(|name| name == *lan)) {
            let there = host.interfaces().collect::<Vec<_>>().join(", ");
            bail!("--lan-interface {lan}: there is no such interface; there are: {there}");
        }
        let range = self.public_pool.range();
        if range.contains(&STAND_IN) {
            bail!("--public-pool {range}: {STAND_IN} stands for others in it; name another range");
        }
        for conflict in host.conflicts(range, lan) {
            match conflict {
                Conflict::Taken { address, device } => bail!(
                    "--public-pool {range}: {address} on {device} is somebody's already; name a range of addresses that nobody has"
                ),
                Conflict::Routed { range: other, device } => eprintln!(
                    "nimbo: --public-pool {range}: this machine reaches {other} by {device}; there it misses what instances get the addresses of"
                ),
            }
        }
        Ok(())
    }
}
