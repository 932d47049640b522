//! What tests of the control plane have in common.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use types::{
    AccountId, Clock, ImageId, InstanceId, Instant, MacAddress, NetworkInterfaceId, RandomId as _, Region,
    ReservationId, VolumeId, VolumeKind, VolumeSpec,
};

use crate::capacity::Overcommit;
use crate::ledger::Ledger;
use crate::plane::Plane;
use crate::ports::{BoxFuture, HostError, InterfaceSpec, Machine, MachineSpec, Machines};
use crate::records::{
    Attachment, AttachmentState, Health, Instance, InstanceState, InterfaceOwner, MetadataOptions,
    NetworkInterface, PrivateAddress, ShutdownBehavior, Tables, Volume, VolumeAttachment, VolumeState,
};
use crate::simulation::Simulation;
use crate::state::{Entropy, Space};
use crate::store::Store;

/// Bytes that follow from a seed.
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0 += 1;
        let mut reader = blake3::Hasher::new().update(&self.0.to_le_bytes()).finalize_xof();
        reader.fill(bytes);
    }
}

/// The time of tokio, which a test may stop and move.
#[derive(Debug)]
pub(crate) struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant(self.0.elapsed())
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.0.elapsed()
    }
}

pub(crate) fn space() -> Space {
    let account = AccountId::new(123_456_789_012).unwrap();
    Space { account, region: "us-east-1".parse::<Region>().unwrap() }
}

/// Each has ids of its own.
pub(crate) async fn ledger(store: Arc<dyn Store>, seed: u64) -> Ledger {
    Ledger::open(store, TokioClock::start(), Box::new(Seeded::new(seed << 32))).await.unwrap()
}

pub(crate) async fn plane(store: Arc<dyn Store>, seed: u64) -> Arc<Plane> {
    Plane::new(ledger(store, seed).await, Arc::new(Simulation::default()), Overcommit::default())
}

/// One of a small type, by itself.
pub(crate) fn instance(id: InstanceId, state: InstanceState, launched: Timestamp) -> Instance {
    Instance {
        id,
        reservation: ReservationId::from_random([1; 16]),
        launch_index: 0,
        image: ImageId::from_random([2; 16]),
        instance_type: "t3.micro".to_owned(),
        zone: space().region.zones()[0],
        key_name: None,
        public_key: None,
        user_data: Vec::new(),
        root_device_name: "/dev/xvda".to_owned(),
        metadata_options: MetadataOptions::default(),
        shutdown_behavior: ShutdownBehavior::Stop,
        is_protected_from_termination: false,
        is_protected_from_stop: false,
        has_unlimited_credits: true,
        is_monitored: false,
        is_ebs_optimized: false,
        client_token: None,
        placement_group: None,
        partition: None,
        state,
        has_run: false,
        launched,
        reboots_wanted: 0,
        reboots_done: 0,
        health: Health::default(),
        outage: None,
        rest: None,
    }
}

/// The volume that an instance boots from, ready since `now`.
pub(crate) fn root_volume(id: VolumeId, instance: InstanceId, state: VolumeState, now: Timestamp) -> Volume {
    let attachment = VolumeAttachment {
        instance,
        device: "/dev/xvda".to_owned(),
        since: now,
        delete_on_termination: true,
        state: AttachmentState::Attached,
    };
    Volume {
        id,
        zone: space().region.zones()[0],
        spec: VolumeSpec { kind: VolumeKind::Gp3, size_gib: 8, iops: None, throughput_mib_s: None },
        snapshot: None,
        key: None,
        is_multi_attach: false,
        enables_io_by_itself: false,
        created: now,
        state,
        attachments: vec![attachment],
        modification: None,
    }
}

/// In a subnet of the default VPC, and in its default group.
pub(crate) fn interface(
    tables: &Tables,
    id: NetworkInterfaceId,
    ip: Ipv4Addr,
    attachment: Option<Attachment>,
) -> NetworkInterface {
    let vpc = tables.vpcs.iter().next().unwrap().id;
    NetworkInterface {
        id,
        vpc,
        subnet: tables.subnets.linked_to(vpc).next().unwrap().id,
        mac: MacAddress::new([6, 0, 0, 0, 0, ip.octets()[3]]),
        addresses: vec![PrivateAddress { ip, public_ip: None }],
        groups: vec![tables.security_groups.linked_to(vpc).next().unwrap().id],
        description: String::new(),
        checks_source_and_destination: true,
        attachment,
        owner: InterfaceOwner::User,
        wants_public_address: false,
    }
}

/// A host that can be had to refuse, and on which effects stop after some: as when the process that asks for them ends there.
pub(crate) struct FakeMachines {
    pub(crate) inner: Arc<Simulation>,
    /// What is said instead of doing something.
    pub(crate) answer: Mutex<Option<Result<(), HostError>>>,
    pub(crate) asked: AtomicUsize,
    left: AtomicUsize,
    /// The last effect happens, and nobody hears of it.
    after: bool,
}

impl FakeMachines {
    pub(crate) fn new(inner: Arc<Simulation>) -> Self {
        Self::stopping(inner, usize::MAX, false)
    }

    pub(crate) fn stopping(inner: Arc<Simulation>, effects: usize, after: bool) -> Self {
        Self { inner, answer: Mutex::default(), asked: AtomicUsize::new(0), left: effects.into(), after }
    }

    pub(crate) fn effect<'a>(
        &'a self,
        effect: impl FnOnce() -> BoxFuture<'a, Result<(), HostError>>,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(answer) = self.answer.lock().unwrap().clone() {
            return Box::pin(std::future::ready(answer));
        }
        let is_last =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
        if !is_last {
            return effect();
        }
        if self.after {
            drop(effect());
        }
        Box::pin(std::future::pending())
    }
}

impl Machines for FakeMachines {
    fn observe(&self, id: InstanceId) -> Option<Machine> {
        self.inner.observe(id)
    }

    fn ids(&self) -> Vec<InstanceId> {
        self.inner.ids()
    }

    fn start<'a>(&'a self, spec: MachineSpec) -> BoxFuture<'a, Result<(), HostError>> {
        self.effect(|| self.inner.start(spec))
    }

    fn press_power_button(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(|| self.inner.press_power_button(id))
    }

    fn reset(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(|| self.inner.reset(id))
    }

    fn kill(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(|| self.inner.kill(id))
    }

    fn forget(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(|| self.inner.forget(id))
    }

    fn discard(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(|| self.inner.discard(id))
    }

    fn console(&self, id: InstanceId) -> BoxFuture<'_, Result<Vec<u8>, HostError>> {
        self.inner.console(id)
    }

    fn interfaces(&self, id: InstanceId) -> Option<BTreeSet<NetworkInterfaceId>> {
        self.inner.interfaces(id)
    }

    fn plug_interface<'a>(
        &'a self,
        id: InstanceId,
        spec: &'a InterfaceSpec,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        self.effect(|| self.inner.plug_interface(id, spec))
    }

    fn unplug_interface(
        &self,
        id: InstanceId,
        interface: NetworkInterfaceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(|| self.inner.unplug_interface(id, interface, is_forced))
    }

    fn on_change(&self, call: Arc<dyn Fn(InstanceId) + Send + Sync>) {
        self.inner.on_change(call);
    }
}
