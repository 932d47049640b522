//! This machine as a host of the control plane: what it asks for through `control::ports` is done here.
//!
//! All that is begun here outlives `nimbo serve`, and is found again by the next one.

mod balancers;
mod capacity;
mod cgroup;
pub(crate) mod disks;
pub(crate) mod leftovers;
pub(crate) mod machines;
mod networks;
mod process;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control::capacity::Capacity;
use control::ports::{
    Balancers as _, BoxFuture, CpuLimit, DiskChange, HostError, InterfaceSpec, Machine, MachineSpec,
    Networks as _,
};
use types::{InstanceId, NetworkInterfaceId, VolumeId};

use balancers::{Balancers, HostBalancers};
use disks::{HostDisks, Plugs, Volumes};
use machines::{Machines, Storage};
use networks::Networks;
pub(crate) use networks::site;

use crate::microvm::PROGRAM;
use crate::volume::Location;

/// This host.
pub(crate) struct Host {
    machines: Arc<Machines>,
    disks: Arc<HostDisks>,
    balancers: Arc<HostBalancers>,
}

/// What a host is to be.
#[derive(Clone, Copy)]
pub(crate) struct HostSpec<'a> {
    /// nimbo itself.
    pub(crate) program: &'a Path,
    /// What is kept.
    pub(crate) state: &'a Path,
    /// The sockets of what runs.
    pub(crate) run: &'a Path,
    /// Volumes are to be no faster than their types say.
    pub(crate) limits_volumes: bool,
    /// Where snapshots are to be, if that was said.
    pub(crate) objects: Option<&'a Location>,
    /// The interface from which public addresses are reached, if they are from any.
    pub(crate) lan: Option<&'a str>,
}

impl<'a> HostSpec<'a> {
    /// One of which nothing more is said.
    pub(crate) fn plain(state: &'a Path, run: &'a Path) -> Self {
        let program = Path::new(PROGRAM);
        Self { program, state, run, limits_volumes: false, objects: None, lan: None }
    }
}

impl Host {
    /// What is there of it, and what runs. To be called in a runtime.
    ///
    /// # Errors
    /// When a folder cannot be made or read, or snapshots are elsewhere.
    pub(crate) fn open(spec: HostSpec<'_>) -> anyhow::Result<Arc<Self>> {
        let (host, volumes) = Self::find(spec)?;
        volumes.go_on();
        Ok(host)
    }

    /// As [`Self::open`], but nothing is gone on with, because all is to end.
    ///
    /// # Errors
    /// As those of [`Self::open`].
    pub(crate) fn open_to_end(spec: HostSpec<'_>) -> anyhow::Result<Arc<Self>> {
        Self::find(spec).map(|(host, _)| host)
    }

    fn find(spec: HostSpec<'_>) -> anyhow::Result<(Arc<Self>, Volumes)> {
        let HostSpec { program, state, run, limits_volumes, objects, lan } = spec;
        let volumes = Volumes::open_with(program, state, run, limits_volumes, objects)?;
        let networks = Networks::open(run, lan)?;
        let balancers = Balancers::open(program, run, Arc::clone(&networks))?;
        let machines = Machines::open_with(program, run, Arc::new(volumes.clone()), networks)?;
        let told = volumes.clone();
        // What microVMs have of volumes is told of those.
        machines.on_change(Arc::new(move |_| told.tell(DiskChange::Any)));
        let disks = Arc::new(HostDisks::new(volumes.clone(), machines.clone()));
        let balancers = Arc::new(HostBalancers(balancers));
        Ok((Arc::new(Self { machines, disks, balancers }), volumes))
    }

    /// Its volumes and snapshots.
    pub(crate) fn disks(&self) -> Arc<HostDisks> {
        Arc::clone(&self.disks)
    }

    /// Its load balancers.
    pub(crate) fn balancers(&self) -> Arc<HostBalancers> {
        Arc::clone(&self.balancers)
    }

    /// Ends all microVMs where they stand, and load balancers, and removes their networks.
    ///
    /// # Errors
    /// When something cannot be ended or removed.
    pub(crate) async fn end_all(&self) -> Result<(), HostError> {
        for id in self.machines.ids() {
            self.machines.kill(id).await?;
            self.machines.forget(id).await?;
        }
        for id in self.balancers.balancers() {
            self.balancers.remove_balancer(id).await?;
        }
        let networks = self.networks();
        for id in networks.vpcs() {
            networks.remove(id).await?;
        }
        Ok(())
    }

    /// The networks of its instances.
    pub(crate) fn networks(&self) -> Arc<Networks> {
        self.machines.networks()
    }
}

impl Plugs for Machines {
    fn instances(&self) -> Vec<InstanceId> {
        self.ids()
    }

    fn plugged(&self, instance: InstanceId) -> BTreeSet<VolumeId> {
        Machines::plugged(self, instance)
    }

    fn plug<'a>(
        &'a self,
        instance: InstanceId,
        volume: VolumeId,
        socket: &'a Path,
        device: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(Machines::plug(self, instance, volume, socket, device))
    }

    fn unplug(
        &self,
        instance: InstanceId,
        volume: VolumeId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(Machines::unplug(self, instance, volume, is_forced))
    }
}

impl Storage for Volumes {
    fn serve(&self, id: VolumeId, instance: InstanceId) -> BoxFuture<'_, Result<PathBuf, HostError>> {
        Box::pin(Volumes::serve(self, id, instance))
    }

    fn claim(&self, id: VolumeId, instance: InstanceId) {
        Volumes::claim(self, id, instance);
    }

    fn release(&self, id: VolumeId, instance: InstanceId) -> BoxFuture<'static, ()> {
        Volumes::release(self, id, instance)
    }
}

impl control::ports::Machines for Host {
    fn observe(&self, id: InstanceId) -> Option<Machine> {
        self.machines.observe(id)
    }

    fn ids(&self) -> Vec<InstanceId> {
        self.machines.ids()
    }

    fn start<'a>(&'a self, spec: MachineSpec) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(self.machines.start(spec))
    }

    fn press_power_button(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.machines.press_power_button(id))
    }

    fn reset(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.machines.reset(id))
    }

    fn kill(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.machines.kill(id))
    }

    fn forget(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.machines.forget(id))
    }

    fn discard(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(std::future::ready(self.machines.discard(id)))
    }

    fn console(&self, id: InstanceId) -> BoxFuture<'_, Result<Vec<u8>, HostError>> {
        Box::pin(std::future::ready(self.machines.console(id)))
    }

    fn capacity(&self) -> Capacity {
        capacity::of_this_machine()
    }

    fn cpu_time(&self, id: InstanceId) -> Option<Duration> {
        cgroup::cpu_time(id)
    }

    fn limit_cpu(&self, id: InstanceId, limit: Option<CpuLimit>) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(std::future::ready(cgroup::limit(id, limit).map_err(|error| {
            HostError::Failed(format!("the processors of {id} cannot be held back: {error}"))
        })))
    }

    fn interfaces(&self, id: InstanceId) -> Option<BTreeSet<NetworkInterfaceId>> {
        self.machines.interfaces(id)
    }

    fn plug_interface<'a>(
        &'a self,
        id: InstanceId,
        spec: &'a InterfaceSpec,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(self.machines.plug_interface(id, spec))
    }

    fn unplug_interface(
        &self,
        id: InstanceId,
        interface: NetworkInterfaceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.machines.unplug_interface(id, interface, is_forced))
    }

    fn on_change(&self, call: Arc<dyn Fn(InstanceId) + Send + Sync>) {
        self.machines.on_change(call);
    }
}
