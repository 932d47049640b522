//! A host that is not there: microVMs that only say that they run, and volumes without a byte.
//!
//! With it the control plane is what people test against who want no virtual machines: everything is decided as ever, and what
//! would be done takes no time, or as long as [`Delays`] say.

mod balancers;
mod delays;
mod disks;
mod plugs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use types::{InstanceId, NetworkInterfaceId};

use crate::capacity::Capacity;
use crate::ports::{
    BoxFuture, CpuLimit, End, HostError, InterfaceSpec, Machine, MachineSpec, Machines, Probe,
};
use crate::records::{AttachmentState, Tables};
use crate::state::State;
pub use delays::Delays;
use plugs::Plugs;

type Call = Arc<dyn Fn(InstanceId) + Send + Sync>;

/// What a guest is to have done, for tests and experiments. Nothing, if nobody says otherwise.
#[derive(Debug, Clone, Default)]
struct Script {
    said: Vec<u8>,
    is_silent: bool,
    cpu_time: Duration,
    cpu_limit: Option<CpuLimit>,
}

/// The simulated host.
#[derive(Default)]
pub struct Simulation {
    delays: Delays,
    machines: Mutex<BTreeMap<InstanceId, Guest>>,
    disks: disks::Shelf,
    rack: balancers::Rack,
    capacity: Capacity,
    scripts: Mutex<BTreeMap<InstanceId, Script>>,
    on_change: Mutex<Vec<Call>>,
}

/// A microVM that was started.
#[derive(Default)]
struct Guest {
    /// When it ends, or has ended, and how.
    end: Option<(Instant, End)>,
    interfaces: Plugs<NetworkInterfaceId>,
}

impl Guest {
    fn with(interfaces: impl Iterator<Item = NetworkInterfaceId>) -> Self {
        let mut guest = Self::default();
        interfaces.for_each(|id| guest.interfaces.plug(id, Duration::ZERO));
        guest
    }

    fn machine(&self) -> Machine {
        match &self.end {
            Some((at, end)) if *at <= Instant::now() => Machine::Ended(end.clone()),
            _ => Machine::Running,
        }
    }
}

impl Simulation {
    /// One that takes its time. It is used in a runtime of tokio's.
    pub fn with(delays: Delays) -> Self {
        Self {
            delays,
            disks: disks::Shelf::with(delays),
            rack: balancers::Rack::with(delays),
            ..Self::default()
        }
    }

    /// One that has only so much. Otherwise there is no end to it.
    #[must_use]
    pub fn limited_to(self, capacity: Capacity) -> Self {
        Self { capacity, ..self }
    }

    /// Has it run and keep what records say is there, as a real host does that went on while nobody asked it.
    pub fn adopt(&self, state: &State) {
        for (_, tables) in state.spaces() {
            let mut machines = self.machines();
            let running = tables.instances.iter().filter(|instance| instance.is_up());
            machines
                .extend(running.map(|instance| (instance.id, Guest::with(interfaces(tables, instance.id)))));
            self.disks.adopt(tables, |id| machines.contains_key(&id));
        }
        self.rack.adopt(state);
    }

    /// Forgets what there are no records of.
    pub fn forget_unknown(&self, state: &State) {
        self.machines().retain(|id, _| state.spaces().any(|(_, tables)| tables.instances.get(*id).is_some()));
        self.disks.forget_unknown(state);
        self.rack.forget_unknown(state);
    }

    /// What happens to a guest from within, or to its host: for tests and experiments.
    pub fn end(&self, id: InstanceId, end: End) {
        self.end_after(Duration::ZERO, id, end);
    }

    fn end_after(&self, delay: Duration, id: InstanceId, end: End) {
        let at = Instant::now() + delay;
        if let Some(guest) = self.machines().get_mut(&id)
            && guest.end.as_ref().is_none_or(|(before, _)| *before > at)
        {
            guest.end = Some((at, end));
        }
        if delay.is_zero() {
            self.disks.unplug_all(id);
        }
        self.tell_after(delay, id);
    }

    /// Has a guest say something on its console.
    pub fn say(&self, id: InstanceId, output: &[u8]) {
        self.change(id, |guest| guest.said.extend(output));
    }

    /// Has a guest answer no more, or again.
    pub fn silence(&self, id: InstanceId, is_silent: bool) {
        self.change(id, |guest| guest.is_silent = is_silent);
    }

    /// Has a guest's processors work for so long.
    pub fn work(&self, id: InstanceId, time: Duration) {
        self.change(id, |guest| guest.cpu_time += time);
    }

    /// What [`Machines::limit_cpu`] said last.
    pub fn cpu_limit(&self, id: InstanceId) -> Option<CpuLimit> {
        self.script(id).cpu_limit
    }

    fn script(&self, id: InstanceId) -> Script {
        self.scripts().get(&id).cloned().unwrap_or_default()
    }

    fn change(&self, id: InstanceId, change: impl FnOnce(&mut Script)) {
        change(self.scripts().entry(id).or_default());
    }

    fn scripts(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Script>> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what a guest has, and tells when what begins now is done.
    fn change_interfaces(
        &self,
        id: InstanceId,
        delay: Duration,
        change: impl FnOnce(&mut Plugs<NetworkInterfaceId>),
    ) {
        if let Some(guest) = self.machines().get_mut(&id) {
            change(&mut guest.interfaces);
        }
        self.tell_after(delay, id);
    }

    fn tell_after(&self, delay: Duration, id: InstanceId) {
        let calls = self.on_change.lock().unwrap_or_else(PoisonError::into_inner).clone();
        delays::after(delay, move || calls.iter().for_each(|call| call(id)));
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Guest>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that an instance has, and not those that are on their way into it.
fn interfaces(tables: &Tables, id: InstanceId) -> impl Iterator<Item = NetworkInterfaceId> {
    let its = tables.network_interfaces.linked_to(id);
    let its = its.filter(|interface| interface.attachment_state() != Some(AttachmentState::Attaching));
    its.map(|interface| interface.id)
}

impl Machines for Simulation {
    fn observe(&self, id: InstanceId) -> Option<Machine> {
        self.machines().get(&id).map(Guest::machine)
    }

    fn ids(&self) -> Vec<InstanceId> {
        self.machines().keys().copied().collect()
    }

    fn start<'a>(&'a self, spec: MachineSpec) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            delays::pass(self.delays.start).await;
            if let Some(guest) = self.scripts().get_mut(&spec.id) {
                (guest.cpu_time, guest.cpu_limit) = (Duration::ZERO, None);
            }
            let interfaces = spec.interfaces.iter().map(|interface| interface.id);
            self.machines().insert(spec.id, Guest::with(interfaces));
            self.disks.plug_all(spec.id, &spec.volumes);
            Ok(())
        })
    }

    fn press_power_button(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.end_after(self.delays.power_off, id, End::PoweredOff);
        Box::pin(async { Ok(()) })
    }

    fn reset(&self, _: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async { Ok(()) })
    }

    fn kill(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.end_after(self.delays.kill, id, End::Killed);
        // As a host does, which returns when it is done: who asked would ask again at once.
        Box::pin(async {
            delays::pass(self.delays.kill).await;
            Ok(())
        })
    }

    fn forget(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.machines().remove(&id);
        self.disks.unplug_all(id);
        Box::pin(async { Ok(()) })
    }

    fn discard(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.scripts().remove(&id);
        Box::pin(async { Ok(()) })
    }

    fn console(&self, id: InstanceId) -> BoxFuture<'_, Result<Vec<u8>, HostError>> {
        let said = self.script(id).said;
        Box::pin(async { Ok(said) })
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn probe(&self, id: InstanceId) -> BoxFuture<'_, Probe> {
        let is_silent = self.script(id).is_silent;
        Box::pin(async move { if is_silent { Probe::Silent } else { Probe::Answers } })
    }

    fn cpu_time(&self, id: InstanceId) -> Option<Duration> {
        Some(self.script(id).cpu_time)
    }

    fn limit_cpu(&self, id: InstanceId, limit: Option<CpuLimit>) -> BoxFuture<'_, Result<(), HostError>> {
        if limit != self.script(id).cpu_limit {
            self.change(id, |guest| guest.cpu_limit = limit);
        }
        Box::pin(async { Ok(()) })
    }

    fn interfaces(&self, id: InstanceId) -> Option<BTreeSet<NetworkInterfaceId>> {
        let machines = self.machines();
        let running = machines.get(&id).filter(|guest| guest.machine() == Machine::Running);
        running.map(|guest| guest.interfaces.plugged())
    }

    fn plug_interface<'a>(
        &'a self,
        id: InstanceId,
        spec: &'a InterfaceSpec,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        let time = self.delays.plug;
        self.change_interfaces(id, time, |interfaces| interfaces.plug(spec.id, time));
        Box::pin(async { Ok(()) })
    }

    fn unplug_interface(
        &self,
        id: InstanceId,
        interface: NetworkInterfaceId,
        _: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        let time = self.delays.unplug;
        self.change_interfaces(id, time, |interfaces| interfaces.unplug(interface, time));
        Box::pin(async { Ok(()) })
    }

    fn on_change(&self, call: Call) {
        self.on_change.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}
