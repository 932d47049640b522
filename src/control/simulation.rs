//! A host that is not there: microVMs that only say that they run, and volumes without a byte.
//!
//! With it the control plane is what people test against who want no virtual machines: everything is decided as ever, and what
//! would be done takes no time, or as long as told.

mod disks;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use types::InstanceId;

use crate::ports::{BoxFuture, End, HostError, Machine, MachineSpec, Machines};

type Call = Arc<dyn Fn(InstanceId) + Send + Sync>;

/// The simulated host.
#[derive(Default)]
pub struct Simulation {
    machines: Mutex<BTreeMap<InstanceId, Machine>>,
    disks: disks::Shelf,
    on_change: Mutex<Option<Call>>,
}

impl Simulation {
    /// What happens to a guest from within, or to its host: for tests and experiments.
    pub fn end(&self, id: InstanceId, end: End) {
        if let Some(machine) = self.machines().get_mut(&id) {
            *machine = Machine::Ended(end);
        }
        self.disks.unplug_all(id);
        self.tell(id);
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, id: InstanceId) {
        let call = self.on_change.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(call) = call {
            call(id);
        }
    }
}

impl Machines for Simulation {
    fn observe(&self, id: InstanceId) -> Option<Machine> {
        self.machines().get(&id).cloned()
    }

    fn ids(&self) -> Vec<InstanceId> {
        self.machines().keys().copied().collect()
    }

    fn start<'a>(&'a self, spec: MachineSpec) -> BoxFuture<'a, Result<(), HostError>> {
        self.machines().insert(spec.id, Machine::Running);
        Box::pin(async { Ok(()) })
    }

    fn press_power_button(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.end(id, End::PoweredOff);
        Box::pin(async { Ok(()) })
    }

    fn reset(&self, _: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async { Ok(()) })
    }

    fn kill(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.end(id, End::Killed);
        Box::pin(async { Ok(()) })
    }

    fn forget(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.machines().remove(&id);
        Box::pin(async { Ok(()) })
    }

    fn console(&self, _: InstanceId) -> BoxFuture<'_, Result<Vec<u8>, HostError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn on_change(&self, call: Call) {
        *self.on_change.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }
}
