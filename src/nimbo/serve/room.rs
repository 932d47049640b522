//! How much instances can have, as the command line says.

use control::capacity::{Capacity, Factor, Overcommit};
use types::ByteSize;

#[derive(Debug, clap::Args)]
pub(super) struct Room {
    /// How many processors the simulated host has; without end if this is not given
    #[arg(long, value_name = "N", requires = "simulate")]
    host_cpus: Option<u64>,
    /// How much memory the simulated host has; without end if this is not given
    #[arg(long, value_name = "SIZE", requires = "simulate")]
    host_memory: Option<ByteSize>,
    /// How many times its processors a host gives to instances
    #[arg(long, value_name = "FACTOR", default_value_t = Overcommit::default().cpus)]
    overcommit_cpus: Factor,
    /// How many times its memory a host gives to instances
    #[arg(long, value_name = "FACTOR", default_value_t = Overcommit::default().memory)]
    overcommit_memory: Factor,
}

impl Room {
    /// Of the simulated host.
    pub(super) fn capacity(&self) -> Capacity {
        let endless = Capacity::default();
        Capacity {
            vcpus: self.host_cpus.unwrap_or(endless.vcpus),
            memory: self.host_memory.unwrap_or(endless.memory),
        }
    }

    pub(super) fn overcommit(&self) -> Overcommit {
        Overcommit { cpus: self.overcommit_cpus, memory: self.overcommit_memory }
    }
}
