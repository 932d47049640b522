//! One VPC on this host: its fabric and its gateway, and who answers in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use control::ports::{InterfaceSpec, MachineSpec, VpcSpec};
use control::records::InstanceNotices;
use metadata::{InstanceMetadata, Service, TokenKey};
use network::dhcp::Lease;
use network::dns::Names;
use network::policy::{Gateway, device_name};
use network::{Fabric, InternetGateway, Namespace, NatGateway, Tap, dhcp, dns};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use types::{InstanceId, InternetGatewayId, NatGatewayId, NetworkInterfaceId, SystemClock, VpcId};

use super::guest;
use super::policy::{nat_gateways, policy, translation};
use crate::microvm;

/// Where the host's resolvers are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A VPC. Dropping it ends what answers in it, and leaves the rest in place.
pub(super) struct VpcNetwork {
    id: VpcId,
    /// Of the files that keep namespaces.
    folder: PathBuf,
    /// From where its public addresses are reached, beside this host.
    lan: Option<String>,
    /// Drives what answers.
    runtime: Handle,
    work: Mutex<Work>,
    force: watch::Sender<Force>,
}

/// What of a VPC is in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Force {
    /// Those whose packets pass as they should, and whose guests are answered.
    pub(super) interfaces: BTreeSet<NetworkInterfaceId>,
    /// Why there are no others.
    pub(super) error: Option<String>,
}

#[derive(Default)]
struct Work {
    // What answers goes before what it answers on.
    resolver: Option<Resolver>,
    guests: BTreeMap<InstanceId, Guest>,
    gateway: Option<(InternetGatewayId, InternetGateway)>,
    nats: BTreeMap<NatGatewayId, NatGateway>,
    fabric: Option<Fabric>,
    spec: Option<VpcSpec>,
    is_removed: bool,
}

/// Whether something was done, or what it was to be done with was removed meanwhile: then there is another, or is none.
pub(super) enum Standing<T = ()> {
    There(T),
    Removed,
}

/// A gateway that has a namespace of its own.
#[derive(Debug, Clone, Copy)]
enum GatewayId {
    Internet(InternetGatewayId),
    Nat(NatGatewayId),
}

impl GatewayId {
    fn of(name: &str) -> Option<Self> {
        name.parse().map(Self::Internet).ok().or_else(|| name.parse().map(Self::Nat).ok())
    }
}

struct Resolver {
    names: Names,
    _task: JoinSet<()>,
}

/// An instance whose interfaces have devices here.
pub(super) struct Guest {
    spec: MachineSpec,
    notices: Option<Arc<InstanceNotices>>,
    /// None: it is to have none, or nothing of it is served yet.
    pub(super) metadata: Option<Arc<Service>>,
    ports: BTreeMap<NetworkInterfaceId, Port>,
}

/// Who answers on an interface.
struct Port {
    lease: watch::Sender<Lease>,
    _tasks: JoinSet<()>,
}

impl VpcNetwork {
    pub(super) fn new(id: VpcId, folder: &Path, lan: Option<String>, runtime: Handle) -> Self {
        let (force, _) = watch::channel(Force::default());
        Self { id, folder: folder.to_owned(), lan, runtime, work: Mutex::default(), force }
    }

    pub(super) fn id(&self) -> VpcId {
        self.id
    }

    pub(super) fn force(&self) -> watch::Receiver<Force> {
        self.force.subscribe()
    }

    /// Has it be so.
    ///
    /// # Errors
    /// When the host cannot have it. It can be asked again.
    pub(super) fn apply(&self, spec: &VpcSpec) -> anyhow::Result<Standing> {
        let mut work = self.work();
        if work.is_removed {
            return Ok(Standing::Removed);
        }
        work.spec = Some(spec.clone());
        self.settle(&mut work).map(|()| Standing::There(()))
    }

    /// Has it be what it was asked to be, as far as that is possible now: a peer has come.
    ///
    /// # Errors
    /// When the host cannot have it.
    pub(super) fn look_again(&self) -> anyhow::Result<()> {
        self.settle(&mut self.work())
    }

    /// Has it be again what it was, whatever somebody else has made of it.
    ///
    /// # Errors
    /// When the host cannot have it.
    pub(super) fn repair(&self) -> anyhow::Result<()> {
        let mut work = self.work();
        let Work { fabric, gateway, nats, .. } = &mut *work;
        let Some(fabric) = fabric else { return Ok(()) };
        // The devices of gateways, before what leads there.
        if let Some((id, gateway)) = gateway {
            let device = Gateway::Internet(*id).device_name();
            let repaired = gateway.repair(&self.pin_of(id), fabric.namespace(), &device);
            repaired.with_context(|| format!("cannot repair the internet gateway of {}", self.id))?;
        }
        for (id, nat) in nats {
            let repaired = nat.repair(&self.pin_of(id), fabric.namespace());
            repaired.with_context(|| format!("cannot repair {id}"))?;
        }
        let report = fabric.repair().with_context(|| format!("cannot repair the network of {}", self.id))?;
        if report.changed > 0 {
            tracing::warn!(id = %self.id, changed = report.changed, "its network was changed by somebody else, and is as it was");
        }
        Ok(())
    }

    /// Makes the devices of an instance's interfaces, and gives the queues of each.
    ///
    /// # Errors
    /// When the host cannot have them; then there is nothing of them.
    pub(super) fn plug(&self, spec: &MachineSpec) -> anyhow::Result<Standing<Vec<Vec<OwnedFd>>>> {
        let mut work = self.work();
        if work.is_removed {
            return Ok(Standing::Removed);
        }
        let fabric = self.fabric(&mut work)?;
        let queues = spec.interfaces.iter().map(|interface| make_tap(fabric, interface.id, spec.vcpus));
        let queues = queues.collect::<anyhow::Result<_>>()?;
        self.add(&mut work, spec);
        Ok(Standing::There(queues))
    }

    /// Makes the device of one more interface of an instance, and gives its queues.
    ///
    /// # Errors
    /// When the host cannot have it, or the instance has no devices here; then there is nothing of it.
    pub(super) fn plug_one(&self, id: InstanceId, interface: &InterfaceSpec) -> anyhow::Result<Vec<OwnedFd>> {
        let mut work = self.work();
        let Work { fabric: Some(fabric), guests, .. } = &mut *work else {
            bail!("{} has no network", self.id);
        };
        let guest = guests.get_mut(&id).with_context(|| format!("{id} is not in {}", self.id))?;
        let queues = make_tap(fabric, interface.id, guest.spec.vcpus)?;
        guest.spec.put_interface(interface.clone());
        // It answered on a device of that name which is gone.
        guest.ports.remove(&interface.id);
        guest.tell();
        // Who waits for it is told what stands in its way.
        let _ = self.settle(&mut work);
        Ok(queues)
    }

    /// An instance has these interfaces and no others any more: on others nobody answers.
    pub(super) fn keep(&self, id: InstanceId, has: &BTreeSet<NetworkInterfaceId>) {
        if let Some(guest) = self.work().guests.get_mut(&id) {
            guest.spec.interfaces.retain(|interface| has.contains(&interface.id));
            guest.ports.retain(|interface, _| has.contains(interface));
            guest.tell();
        }
    }

    /// Takes up an instance whose interfaces have devices.
    pub(super) fn take_up(&self, spec: &MachineSpec) -> Standing {
        let mut work = self.work();
        if work.is_removed {
            return Standing::Removed;
        }
        self.add(&mut work, spec);
        Standing::There(())
    }

    fn add(&self, work: &mut Work, spec: &MachineSpec) {
        work.guests.insert(spec.id, Guest::new(spec));
        // Who waits for it is told what stands in its way.
        let _ = self.settle(work);
    }

    /// Nobody answers an instance any more.
    /// How many packets were dropped, by reason; none, if it has no rules.
    ///
    /// # Errors
    /// When the host does not tell.
    pub(super) fn dropped(&self) -> anyhow::Result<Option<BTreeMap<&'static str, u64>>> {
        let work = self.work();
        let Some(fabric) = &work.fabric else { return Ok(None) };
        let counted = fabric.dropped().with_context(|| format!("cannot count what {} drops", self.id))?;
        Ok(Some(counted.into_iter().map(|(reason, packets)| (reason.name(), packets)).collect()))
    }

    pub(super) fn unplug(&self, id: InstanceId) {
        self.work().guests.remove(&id);
    }

    /// Removes all that there is of it, unless an instance is in it. Says whether it did; then it is not used any more.
    ///
    /// # Errors
    /// When the kernel does not let go of it.
    pub(super) fn remove(&self) -> anyhow::Result<bool> {
        let mut work = self.work();
        if !work.guests.is_empty() {
            return Ok(false);
        }
        *work = Work::default();
        self.remove_gateways(|_| false)?;
        Fabric::remove(&self.pin())?;
        work.is_removed = true;
        Ok(true)
    }

    /// Makes what there is what was asked for, and tells who waits for it.
    fn settle(&self, work: &mut Work) -> anyhow::Result<()> {
        let Some(spec) = work.spec.clone() else { return Ok(()) };
        let outcome = self.enforce(work, &spec);
        self.force.send_replace(match &outcome {
            Ok(interfaces) => Force { interfaces: interfaces.clone(), error: None },
            Err(error) => Force { interfaces: BTreeSet::new(), error: Some(format!("{error:#}")) },
        });
        outcome.map(drop)
    }

    fn enforce(&self, work: &mut Work, spec: &VpcSpec) -> anyhow::Result<BTreeSet<NetworkInterfaceId>> {
        self.fabric(work)?;
        let Work { fabric: Some(fabric), gateway, nats, resolver, guests, .. } = work else {
            unreachable!("it was made above");
        };
        // The way out is there before anything is led there, and goes after that.
        if let Some(id) = spec.internet_gateway
            && gateway.as_ref().is_none_or(|(had, _)| *had != id)
        {
            let device = Gateway::Internet(id).device_name();
            let host = Namespace::current()?;
            let (pin, lan) = (self.pin_of(&id), self.lan.as_deref());
            let made = InternetGateway::open(&pin, &host, fabric.namespace(), &device, lan);
            *gateway = Some((id, made.context("cannot make its internet gateway")?));
        }
        gateway.take_if(|(had, _)| Some(*had) != spec.internet_gateway);
        self.join(fabric, spec)?;
        let wanted = nat_gateways(spec);
        for (id, wanted) in &wanted {
            if nats.get(id).is_none_or(|had| had.spec() != wanted) {
                let made = NatGateway::open(&self.pin_of(id), fabric.namespace(), wanted.clone());
                nats.insert(*id, made.with_context(|| format!("cannot make {id}"))?);
            }
        }
        let report = fabric.apply(&policy(spec)).context("cannot enforce what passes in it")?;
        if let Some((_, gateway)) = gateway {
            gateway.apply(&translation(spec)).context("cannot translate its public addresses")?;
        }
        nats.retain(|id, _| wanted.contains_key(id));
        self.remove_gateways(|id| match id {
            GatewayId::Internet(id) => spec.internet_gateway == Some(id),
            GatewayId::Nat(id) => wanted.contains_key(&id),
        })?;
        self.resolve(fabric, resolver, spec)?;
        let missing: BTreeSet<_> = report.missing.into_iter().collect();
        let is_there = |interface: &NetworkInterfaceId| !missing.contains(interface);
        let interfaces = spec.interfaces.iter().map(|port| port.interface.id).filter(is_there).collect();
        for guest in guests.values_mut() {
            guest.serve(fabric, spec, &interfaces, &self.runtime)?;
        }
        Ok(interfaces)
    }

    /// Has it be linked to its peers, those of them that are there: who comes later does so himself.
    fn join(&self, fabric: &Fabric, spec: &VpcSpec) -> anyhow::Result<()> {
        network::part(fabric.namespace(), spec.peerings.keys().copied())?;
        for (id, peer) in &spec.peerings {
            let Some(other) = Namespace::pinned(&self.folder.join(peer.to_string()))? else { continue };
            // Both do the same, whichever comes first.
            let (one, other) =
                if self.id < *peer { (fabric.namespace(), &other) } else { (&other, fabric.namespace()) };
            network::peer(*id, one, other).with_context(|| format!("cannot make {id}"))?;
        }
        Ok(())
    }

    /// Removes those of its gateways, an earlier process's too, that are not wanted.
    fn remove_gateways(&self, is_wanted: impl Fn(GatewayId) -> bool) -> anyhow::Result<()> {
        for (id, pin) in self.gateways()?.into_iter().filter(|(id, _)| !is_wanted(*id)) {
            let removed = match id {
                GatewayId::Internet(_) => InternetGateway::remove(&pin, &Namespace::current()?),
                GatewayId::Nat(_) => Namespace::unpin(&pin),
            };
            removed.with_context(|| format!("cannot remove a gateway of {}", self.id))?;
        }
        Ok(())
    }

    fn resolve(
        &self,
        fabric: &Fabric,
        resolver: &mut Option<Resolver>,
        spec: &VpcSpec,
    ) -> anyhow::Result<()> {
        if !spec.has_resolver {
            *resolver = None;
            return Ok(());
        }
        let zone = guest::names(spec)?;
        if let Some(resolver) = resolver {
            resolver.names.replace(zone);
            return Ok(());
        }
        let names = Names::new(zone);
        let addresses = guest::resolvers(spec);
        let server = dns::Server::bind(fabric.namespace(), &addresses, names.clone(), RESOLV_CONF.into());
        let mut task = JoinSet::new();
        task.spawn_on(server.context("cannot resolve names in it")?.serve(), &self.runtime);
        *resolver = Some(Resolver { names, _task: task });
        Ok(())
    }

    fn fabric<'a>(&self, work: &'a mut Work) -> anyhow::Result<&'a mut Fabric> {
        if work.fabric.is_none() {
            let fabric = Fabric::open(&self.pin());
            work.fabric = Some(fabric.with_context(|| format!("cannot make the network of {}", self.id))?);
        }
        match &mut work.fabric {
            Some(fabric) => Ok(fabric),
            None => unreachable!("it was made above"),
        }
    }

    fn pin(&self) -> PathBuf {
        self.folder.join(self.id.to_string())
    }

    /// Of a gateway.
    fn pin_of(&self, id: &impl Display) -> PathBuf {
        self.folder.join(format!("{}.{id}", self.id))
    }

    /// Its gateways that are kept by files.
    fn gateways(&self) -> anyhow::Result<Vec<(GatewayId, PathBuf)>> {
        let about = || format!("cannot read the folder {}", self.folder.display());
        let prefix = format!("{}.", self.id);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).with_context(about)? {
            let entry = entry.with_context(about)?;
            let id = entry.file_name().to_str().and_then(|name| GatewayId::of(name.strip_prefix(&prefix)?));
            found.extend(id.map(|id| (id, entry.path())));
        }
        Ok(found)
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_tap(fabric: &mut Fabric, id: NetworkInterfaceId, vcpus: u8) -> anyhow::Result<Vec<OwnedFd>> {
    let tap = Tap::create(fabric.namespace(), &device_name(id), microvm::queue_pairs(vcpus));
    let tap = tap.with_context(|| format!("cannot make the device of {id}"))?;
    fabric.renew(id);
    Ok(tap.into_queues())
}

impl Guest {
    pub(super) fn new(spec: &MachineSpec) -> Self {
        Self { spec: spec.clone(), notices: None, metadata: None, ports: BTreeMap::new() }
    }

    fn known(&self) -> InstanceMetadata {
        guest::known(&self.spec, self.notices.as_deref())
    }

    /// What it can ask about itself is what is known now.
    fn tell(&self) {
        if let Some(metadata) = &self.metadata {
            metadata.update(self.known());
        }
    }

    /// Answers on those of its interfaces that are there, with what is known now.
    pub(super) fn serve(
        &mut self,
        fabric: &Fabric,
        vpc: &VpcSpec,
        there: &BTreeSet<NetworkInterfaceId>,
        runtime: &Handle,
    ) -> anyhow::Result<()> {
        self.ports.retain(|id, _| there.contains(id));
        let its = |id| vpc.interfaces.iter().map(|port| &port.interface).find(|found| found.id == id);
        let now: Vec<_> =
            self.spec.interfaces.iter().map(|known| its(known.id).unwrap_or(known).clone()).collect();
        let notices = vpc.notices.get(&self.spec.id).cloned();
        let has_changed = self.spec.interfaces != now || self.notices != notices;
        (self.spec.interfaces, self.notices) = (now, notices);
        if has_changed {
            self.tell();
        }
        if self.metadata.is_none() && self.spec.guest.metadata_options.is_enabled {
            let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
            let key = TokenKey::generate(&mut random).context("cannot draw a key")?;
            self.metadata = Some(Arc::new(Service::new(self.known(), key, Arc::new(SystemClock))));
        }
        for interface in self.spec.interfaces.iter().filter(|interface| there.contains(&interface.id)) {
            let Some(lease) = guest::lease(vpc, interface) else { continue };
            if let Some(port) = self.ports.get(&interface.id) {
                port.lease.send_if_modified(|told| std::mem::replace(told, lease.clone()) != lease);
                continue;
            }
            let port = answer(fabric, interface, lease, self.metadata.as_ref(), runtime)
                .with_context(|| format!("cannot answer on {}", interface.id))?;
            self.ports.insert(interface.id, port);
        }
        Ok(())
    }
}

fn answer(
    fabric: &Fabric,
    interface: &InterfaceSpec,
    lease: Lease,
    metadata: Option<&Arc<Service>>,
    runtime: &Handle,
) -> anyhow::Result<Port> {
    let device = device_name(interface.id);
    let (told, lease) = watch::channel(lease);
    let mut tasks = JoinSet::new();
    tasks.spawn_on(dhcp::Server::bind(fabric.namespace(), &device, lease)?.serve(), runtime);
    if let Some(service) = metadata {
        let listener = network::metadata_listener(fabric.namespace(), &device)?;
        let service = Arc::clone(service);
        let serve = async move {
            if let Err(error) = metadata::serve(listener, service).await {
                tracing::error!(error = &error as &dyn std::error::Error, "a guest gets no metadata");
            }
        };
        tasks.spawn_on(serve, runtime);
    }
    Ok(Port { lease: told, _tasks: tasks })
}
