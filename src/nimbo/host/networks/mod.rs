//! The networks of this host: of each VPC in which something runs.
//!
//! ```text
//! records ──apply──▶ VpcSpec ─┬─▶ policy ──▶ fabric, gateway        (the kernel's)
//!                             └─▶ leases, names, metadata ──▶ tasks  (this process's)
//! microVM ──plug───▶ devices ─┘
//! ```
//!
//! What the kernel has of a VPC is kept by files in RUN/netns and outlives this process; who answers in it (DHCP, DNS, metadata) does not. The
//! next process [takes up](Networks::take_up) the instances that it finds, and answers them as soon as it is told what their VPC is.
//!
//! An instance is known by the interface that it asks on: a socket is bound to the device of each.

mod guest;
mod policy;
#[cfg(test)]
mod tests;
mod vpc;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use control::ports::{BoxFuture, HostError, InterfaceSpec, MachineSpec, VpcSpec};
use network::Namespace;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use types::{InstanceId, NetworkInterfaceId, VpcId};

pub(crate) use policy::site;
use vpc::{Standing, VpcNetwork};

/// How long one that starts waits for its network: the control plane tells of both at the same time.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often all networks are looked at, whether somebody else has changed them.
const REPAIR_PERIOD: Duration = Duration::from_secs(10);

/// All networks of this host.
pub(crate) struct Networks {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    /// From where public addresses are reached.
    lan: Option<String>,
    runtime: Handle,
    vpcs: Mutex<BTreeMap<VpcId, Arc<VpcNetwork>>>,
}

impl Networks {
    /// Those that are kept in `run`; public addresses are reached from the interface `lan`, if one is named. To be called in a runtime, which drives what
    /// answers in them.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(super) fn open(run: &Path, lan: Option<&str>) -> anyhow::Result<Arc<Self>> {
        let folder = std::path::absolute(run).context("cannot find the current folder")?.join("netns");
        let about = || format!("cannot use the folder {}", folder.display());
        fs::create_dir_all(&folder).with_context(about)?;
        let shared = Arc::new(Shared {
            folder: folder.clone(),
            lan: lan.map(str::to_owned),
            runtime: Handle::current(),
            vpcs: Mutex::default(),
        });
        for entry in fs::read_dir(&folder).with_context(about)? {
            let name = entry.with_context(about)?.file_name();
            let id = name.to_str().and_then(|name| name.split('.').next()?.parse().ok());
            if let Some(id) = id {
                shared.vpc_or_new(id);
            }
        }
        tokio::spawn(repair(Arc::downgrade(&shared)));
        Ok(Arc::new(Self { shared }))
    }

    /// Makes the devices of an instance's interfaces, and gives the queues of each.
    ///
    /// # Errors
    /// When the host cannot have them; then there is nothing of them.
    pub(super) fn plug(&self, spec: &MachineSpec) -> anyhow::Result<Vec<Vec<OwnedFd>>> {
        let id = home(spec)?;
        loop {
            if let Standing::There(queues) = self.shared.vpc_or_new(id).plug(spec)? {
                return Ok(queues);
            }
        }
    }

    /// Makes the device of one more interface of an instance that has devices, and gives its queues.
    ///
    /// # Errors
    /// When the host cannot have it; then there is nothing of it.
    pub(super) fn plug_one(&self, id: InstanceId, interface: &InterfaceSpec) -> anyhow::Result<Vec<OwnedFd>> {
        let vpc = self.shared.vpc(interface.vpc);
        vpc.with_context(|| format!("{id} is not in {}", interface.vpc))?.plug_one(id, interface)
    }

    /// An instance has these interfaces and no others any more.
    pub(super) fn keep(&self, id: InstanceId, has: &BTreeSet<NetworkInterfaceId>) {
        self.shared.all().iter().for_each(|vpc| vpc.keep(id, has));
    }

    /// Takes up an instance that runs.
    ///
    /// # Errors
    /// When it is in no VPC.
    pub(super) fn take_up(&self, spec: &MachineSpec) -> anyhow::Result<()> {
        let id = home(spec)?;
        while let Standing::Removed = self.shared.vpc_or_new(id).take_up(spec) {}
        Ok(())
    }

    /// Returns when what passes interfaces of an instance is what their VPC says, and it is answered there.
    ///
    /// # Errors
    /// When that takes too long, with what stands in its way.
    pub(super) async fn in_force(
        &self,
        id: InstanceId,
        interfaces: &[InterfaceSpec],
    ) -> Result<(), HostError> {
        let Some(first) = interfaces.first() else { return Ok(()) };
        let interfaces: Vec<_> = interfaces.iter().map(|interface| interface.id).collect();
        self.all_in_force(&id, first.vpc, &interfaces).await
    }

    /// As [`Self::in_force`], of whoever has interfaces in a VPC.
    ///
    /// # Errors
    /// When that takes too long, with what stands in its way.
    pub(super) async fn all_in_force(
        &self,
        whose: &impl Display,
        vpc: VpcId,
        interfaces: &[NetworkInterfaceId],
    ) -> Result<(), HostError> {
        let unavailable = |why: &str| HostError::Unavailable(format!("the network of {whose} {why}"));
        let mut force = self.shared.vpc_or_new(vpc).force();
        let has_all = |force: &vpc::Force| interfaces.iter().all(|id| force.interfaces.contains(id));
        let found = timeout(PATIENCE, force.wait_for(has_all)).await.map(|found| found.map(drop));
        match found {
            Ok(Ok(())) => Ok(()),
            // Its sender is gone.
            Ok(Err(_)) => Err(unavailable("was removed")),
            Err(_) => {
                let why = force.borrow().error.clone();
                Err(unavailable(&why.map_or("is not told what it is to be".to_owned(), |why| {
                    format!("is not in force: {why}")
                })))
            }
        }
    }

    /// Where a VPC's packets are routed, if it is there.
    ///
    /// # Errors
    /// When the file that keeps it cannot be read.
    pub(super) fn namespace(&self, id: VpcId) -> anyhow::Result<Option<Namespace>> {
        Ok(Namespace::pinned(&self.shared.folder.join(id.to_string()))?)
    }

    /// Nobody answers an instance any more.
    pub(super) fn unplug(&self, id: InstanceId) {
        self.shared.all().iter().for_each(|vpc| vpc.unplug(id));
    }
}

impl Shared {
    fn vpc(&self, id: VpcId) -> Option<Arc<VpcNetwork>> {
        self.vpcs().get(&id).cloned()
    }

    fn vpc_or_new(&self, id: VpcId) -> Arc<VpcNetwork> {
        let new = || Arc::new(VpcNetwork::new(id, &self.folder, self.lan.clone(), self.runtime.clone()));
        Arc::clone(self.vpcs().entry(id).or_insert_with(new))
    }

    fn all(&self) -> Vec<Arc<VpcNetwork>> {
        self.vpcs().values().cloned().collect()
    }

    fn vpcs(&self) -> MutexGuard<'_, BTreeMap<VpcId, Arc<VpcNetwork>>> {
        self.vpcs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, id: VpcId) -> anyhow::Result<()> {
        let mut vpcs = self.vpcs();
        let Some(vpc) = vpcs.get(&id) else { return Ok(()) };
        if vpc.remove().with_context(|| format!("cannot remove the network of {id}"))? {
            vpcs.remove(&id);
        }
        Ok(())
    }
}

impl control::ports::Networks for Networks {
    fn vpcs(&self) -> Vec<VpcId> {
        self.shared.all().iter().map(|vpc| vpc.id()).collect()
    }

    fn apply(&self, spec: VpcSpec) -> BoxFuture<'_, Result<(), HostError>> {
        let shared = Arc::clone(&self.shared);
        aside(move || {
            while let Standing::Removed = shared.vpc_or_new(spec.id).apply(&spec)? {}
            for peer in spec.peerings.values().filter_map(|id| shared.vpc(*id)) {
                peer.look_again()?;
            }
            Ok(())
        })
    }

    fn remove(&self, id: VpcId) -> BoxFuture<'_, Result<(), HostError>> {
        let shared = Arc::clone(&self.shared);
        aside(move || shared.remove(id))
    }

    fn dropped(&self, id: VpcId) -> BoxFuture<'_, Result<Option<BTreeMap<&'static str, u64>>, HostError>> {
        let vpc = self.shared.vpc(id);
        aside(move || vpc.map_or(Ok(None), |vpc| vpc.dropped()))
    }
}

/// Does on a thread what may block.
fn aside<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> BoxFuture<'static, Result<T, HostError>> {
    Box::pin(async move {
        let done = spawn_blocking(work).await;
        done.unwrap_or_else(|panic| Err(panic.into())).map_err(unavailable)
    })
}

fn unavailable(error: anyhow::Error) -> HostError {
    HostError::Unavailable(format!("{error:#}"))
}

/// The VPC that an instance is in.
fn home(spec: &MachineSpec) -> anyhow::Result<VpcId> {
    let first = spec.interfaces.first().with_context(|| format!("{} has no network interface", spec.id))?;
    let is_there = spec.interfaces.iter().all(|interface| interface.vpc == first.vpc);
    ensure!(
        is_there,
        "this host gives an instance interfaces in one VPC, and {} has them in several",
        spec.id
    );
    Ok(first.vpc)
}

async fn repair(shared: Weak<Shared>) {
    let mut period = tokio::time::interval(REPAIR_PERIOD);
    loop {
        period.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        for vpc in shared.all() {
            let outcome = spawn_blocking(move || vpc.repair()).await;
            if let Ok(Err(error)) = outcome {
                tracing::warn!("{error:#}");
            }
        }
    }
}
