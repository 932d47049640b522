//! On a host that is not there, and stops at any effect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use balancer::config::{Action, FixedResponse, Forward, HealthCheck, Protocol, WeightedTargetGroup};
use types::{ListenerId, NetworkInterfaceId, RandomId, TargetGroupId};

use super::*;
use crate::ports::{BalancerSpec, BoxFuture, OnBalancerChange};
use crate::records::{
    Attachment, AttachmentState, BalancerNode, InstanceState, Listener, Scheme, Stored, TargetGroup,
    TargetId, TargetType,
};
use crate::simulation::{Delays, Simulation};
use crate::state::Transaction;
use crate::store::Memory;
use crate::testing::{FakeMachines, plane, space};

fn id<Id: RandomId>(number: u8) -> Id {
    Id::from_random([number; 16])
}

const NODE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 9);
const TARGET: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 77);

fn balancer() -> LoadBalancerId {
    id(1)
}

fn group() -> TargetGroupId {
    id(1)
}

fn listener() -> ListenerId {
    id(1)
}

fn key() -> TargetKey {
    TargetKey { group: group(), target: TargetId::Instance(id(7)), port: 80 }
}

fn place() -> TargetPlace {
    (group(), SocketAddr::from((TARGET, 80)))
}

fn forward() -> Action {
    let target_groups = vec![WeightedTargetGroup { name: group().to_string(), weight: 1 }];
    Action::Forward(Forward { target_groups, stickiness_s: None })
}

/// A load balancer that forwards to an instance.
fn create(tx: &mut Transaction<'_>) {
    let node = NetworkInterface {
        owner: InterfaceOwner::LoadBalancer(balancer()),
        ..crate::testing::interface(tx.tables(), id(1), NODE, None)
    };
    let attachment = Attachment {
        id: id(1),
        instance: id(7),
        device_index: 0,
        attached: tx.now(),
        delete_on_termination: true,
        state: AttachmentState::Attached,
    };
    let own = crate::testing::interface(tx.tables(), id(2), TARGET, Some(attachment));
    let zone = tx.tables().subnets.get(node.subnet).unwrap().zone;
    let running = crate::testing::instance(id(7), InstanceState::Running, tx.now());
    tx.put(Instance { zone, ..running });
    tx.put(LoadBalancer {
        id: balancer(),
        name: "shop".to_owned(),
        scheme: Scheme::Internal,
        vpc: node.vpc,
        nodes: vec![BalancerNode { subnet: node.subnet, interface: node.id }],
        groups: Vec::new(),
        attributes: BTreeMap::new(),
        created: tx.now(),
        state: LoadBalancerState::Provisioning,
    });
    tx.put(TargetGroup {
        id: group(),
        name: "web".to_owned(),
        vpc: node.vpc,
        target_type: TargetType::Instance,
        protocol: Protocol::Http,
        port: 80,
        health_check: HealthCheck::default(),
        attributes: BTreeMap::new(),
        created: tx.now(),
    });
    tx.put(Listener {
        id: listener(),
        load_balancer: balancer(),
        port: 80,
        protocol: Protocol::Http,
        default_action: forward(),
        default_rule: id(1),
    });
    tx.put(RegisteredTarget { id: key(), state: TargetState::Registered(TargetHealth::NEW) });
    tx.put(node);
    tx.put(own);
}

/// The simulation, whose effects stop after some.
struct Fake {
    inner: Arc<Simulation>,
    gate: FakeMachines,
    applied: AtomicUsize,
}

impl Fake {
    fn stopping(inner: Arc<Simulation>, effects: usize, after: bool) -> Arc<Self> {
        let gate = FakeMachines::stopping(Arc::clone(&inner), effects, after);
        Arc::new(Self { inner, gate, applied: AtomicUsize::new(0) })
    }
}

impl Balancers for Fake {
    fn balancers(&self) -> Vec<LoadBalancerId> {
        self.inner.balancers()
    }

    fn target_health(&self, id: LoadBalancerId) -> Option<BTreeMap<TargetPlace, TargetHealth>> {
        self.inner.target_health(id)
    }

    fn apply_balancer(&self, spec: BalancerSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.gate.effect(|| self.inner.apply_balancer(spec))
    }

    fn remove_balancer(&self, id: LoadBalancerId) -> BoxFuture<'_, Result<(), HostError>> {
        self.gate.effect(|| self.inner.remove_balancer(id))
    }

    fn on_balancer_change(&self, call: OnBalancerChange) {
        self.inner.on_balancer_change(call);
    }
}

async fn write(plane: &Plane, change: impl FnOnce(&mut Transaction<'_>)) {
    super::super::write(plane, space(), change).await.unwrap();
}

async fn update<R: Stored>(plane: &Plane, id: R::Id, change: impl FnOnce(&mut R)) {
    write(plane, |tx| assert!(tx.update(id, change))).await;
}

fn look<R: Stored>(plane: &Plane, id: R::Id) -> Option<R> {
    plane.ledger.read(|state| View::new(state, space(), plane.ledger.now()).get::<R>(id).cloned()).0
}

fn state(plane: &Plane) -> Option<LoadBalancerState> {
    look::<LoadBalancer>(plane, balancer()).map(|balancer| balancer.state)
}

fn health(plane: &Plane) -> Option<TargetHealth> {
    match look::<RegisteredTarget>(plane, key())?.state {
        TargetState::Registered(health) => Some(health),
        TargetState::Draining { .. } => None,
    }
}

async fn until(plane: &Plane, what: &str, is_so: impl Fn() -> bool) {
    let mut changes = plane.ledger.changes();
    let wait = async {
        while !is_so() {
            changes.changed().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(24 * 3600), wait).await;
    assert!(waited.is_ok(), "{what}: {:?}, {:?}", state(plane), health(plane));
}

struct Lab {
    plane: Arc<Plane>,
    host: Arc<Simulation>,
}

impl Lab {
    async fn new(delays: Delays) -> Self {
        let (plane, host) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::with(delays)));
        plane.begin(space()).await.unwrap();
        tokio::spawn(run(Arc::clone(&plane), host.clone()));
        write(&plane, create).await;
        Self { plane, host }
    }

    async fn active() -> Self {
        let lab = Self::new(Delays::default()).await;
        lab.until("active", || state(&lab.plane) == Some(LoadBalancerState::Active)).await;
        lab.until("healthy", || health(&lab.plane) == Some(TargetHealth::Healthy)).await;
        lab
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        until(&self.plane, what, is_so).await;
    }

    /// The targets that are asked.
    fn asked(&self) -> Vec<IpAddr> {
        let spec = self.host.balancer(balancer()).unwrap();
        spec.config.target_groups.values().flat_map(|group| &group.targets).map(|target| target.ip).collect()
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_asked_for_becomes_active_and_its_targets_healthy() {
    let seconds = Duration::from_secs;
    let lab = Lab::new(Delays { provision: seconds(120), check: seconds(15), ..Delays::default() }).await;
    lab.settle().await;
    assert_eq!(state(&lab.plane), Some(LoadBalancerState::Provisioning));
    lab.until("active", || state(&lab.plane) == Some(LoadBalancerState::Active)).await;
    lab.settle().await;
    assert_eq!(health(&lab.plane), Some(TargetHealth::Initial { is_registering: false }));
    lab.until("healthy", || health(&lab.plane) == Some(TargetHealth::Healthy)).await;
    let spec = lab.host.balancer(balancer()).unwrap();
    assert_eq!(spec.interfaces, [id::<NetworkInterfaceId>(1)]);
    assert_eq!(spec.config.source, Some(NODE.into()));
    let addresses: Vec<_> = spec.config.listeners.iter().map(|listener| listener.address).collect();
    assert_eq!(addresses, [SocketAddr::from((NODE, 80))]);
    spec.config.check().unwrap();
    write(&lab.plane, |tx| tx.remove::<LoadBalancer>(balancer())).await;
    lab.settle().await;
    assert!(lab.host.balancer(balancer()).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_told_at_once_and_what_is_found_is_written_down() {
    let lab = Lab::active().await;
    update::<Listener>(&lab.plane, listener(), |listener| listener.port = 8080).await;
    lab.settle().await;
    assert_eq!(lab.host.balancer(balancer()).unwrap().config.listeners[0].address.port(), 8080);
    let sick = TargetHealth::Unhealthy {
        reason: "Target.Timeout".to_owned(),
        description: "Request timed out".to_owned(),
    };
    lab.host.find_target(place(), Some(sick.clone()));
    lab.until("unhealthy", || health(&lab.plane) == Some(sick.clone())).await;
    lab.host.find_target(place(), None);
    lab.until("healthy", || health(&lab.plane) == Some(TargetHealth::Healthy)).await;
    // A group that nobody forwards to.
    let nothing =
        Action::FixedResponse(FixedResponse { status: 503, content_type: None, body: String::new() });
    update::<Listener>(&lab.plane, listener(), |listener| listener.default_action = nothing).await;
    lab.settle().await;
    assert!(lab.host.balancer(balancer()).unwrap().config.target_groups.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_known_to_be_down_is_asked_no_more_and_unproven_when_it_is_back() {
    let lab = Lab::active().await;
    assert_eq!(lab.asked(), [IpAddr::from(TARGET)]);
    let now = lab.plane.ledger.now();
    let stopping =
        InstanceState::Stopping { cause: crate::records::Cause::User, is_forced: false, since: now };
    update::<Instance>(&lab.plane, id(7), |instance| instance.state = stopping).await;
    lab.settle().await;
    assert!(lab.asked().is_empty());
    assert_eq!(health(&lab.plane), Some(TargetHealth::NEW));
    update::<Instance>(&lab.plane, id(7), |instance| instance.state = InstanceState::Running).await;
    lab.settle().await;
    assert_eq!((lab.asked(), health(&lab.plane)), (vec![TARGET.into()], Some(TargetHealth::Healthy)));
    let until = lab.plane.ledger.now();
    update::<RegisteredTarget>(&lab.plane, key(), |target| target.state = TargetState::Draining { until })
        .await;
    lab.settle().await;
    assert!(lab.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_host_found_is_not_told_to_it_again() {
    let (plane, inner) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    plane.begin(space()).await.unwrap();
    let host = Fake::stopping(inner, usize::MAX, false);
    tokio::spawn(run(Arc::clone(&plane), host.clone()));
    write(&plane, create).await;
    until(&plane, "healthy", || health(&plane) == Some(TargetHealth::Healthy)).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let applied = host.applied.load(Ordering::Relaxed);
    assert!(applied <= 3, "it was told {applied} times");
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_had_fails_and_says_why() {
    for (answer, patience) in [
        (HostError::Failed("no such network".to_owned()), Duration::from_secs(1)),
        (HostError::Unavailable("not now".to_owned()), DEADLINE.unsigned_abs() + RETRY * 2),
    ] {
        let (plane, inner) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
        plane.begin(space()).await.unwrap();
        let host = Fake::stopping(inner, usize::MAX, false);
        *host.gate.answer.lock().unwrap() = Some(Err(answer.clone()));
        tokio::spawn(run(Arc::clone(&plane), host));
        write(&plane, create).await;
        let before = Instant::now();
        until(&plane, "failed", || matches!(state(&plane), Some(LoadBalancerState::Failed { .. }))).await;
        assert!(before.elapsed() <= patience, "{:?}", before.elapsed());
        assert_eq!(state(&plane), Some(LoadBalancerState::Failed { why: answer.to_string() }));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_active_stays_so_while_its_host_has_trouble() {
    let (plane, inner) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    plane.begin(space()).await.unwrap();
    let host = Fake::stopping(inner.clone(), usize::MAX, false);
    tokio::spawn(run(Arc::clone(&plane), host.clone()));
    write(&plane, create).await;
    until(&plane, "active", || state(&plane) == Some(LoadBalancerState::Active)).await;
    *host.gate.answer.lock().unwrap() = Some(Err(HostError::Unavailable("not now".to_owned())));
    update::<Listener>(&plane, listener(), |listener| listener.port = 81).await;
    tokio::time::sleep(DEADLINE.unsigned_abs() * 2).await;
    assert_eq!(state(&plane), Some(LoadBalancerState::Active));
    *host.gate.answer.lock().unwrap() = None;
    tokio::time::sleep(RETRY * 2).await;
    assert_eq!(inner.balancer(balancer()).unwrap().config.listeners[0].address.port(), 81);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_one_without_a_record_goes_when_this_begins() {
    let (plane, host) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Simulation::default()));
    plane.begin(space()).await.unwrap();
    let lab = Lab::active().await;
    let spec = lab.host.balancer(balancer()).unwrap();
    host.apply_balancer(spec).await.unwrap();
    tokio::spawn(run(plane, host.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(host.balancers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_ends_at_any_effect_is_gone_on_with_by_the_next() {
    for after in [false, true] {
        for effects in 0..6 {
            let (store, inner) = (Arc::new(Memory::new()), Arc::new(Simulation::default()));
            let mut current = plane(store.clone(), 1).await;
            current.begin(space()).await.unwrap();
            let host = Fake::stopping(inner.clone(), effects, after);
            let mut work = tokio::spawn(run(Arc::clone(&current), host));
            for step in 0..3_u64 {
                write(&current, |tx| match step {
                    0 => create(tx),
                    1 => assert!(tx.update::<Listener>(listener(), |listener| listener.port = 8080)),
                    _ => tx.remove::<LoadBalancer>(balancer()),
                })
                .await;
                let port = || Some(inner.balancer(balancer())?.config.listeners.first()?.address.port());
                let is_done = |plane: &Plane| match step {
                    0 => {
                        state(plane) == Some(LoadBalancerState::Active)
                            && health(plane) == Some(TargetHealth::Healthy)
                    }
                    1 => port() == Some(8080),
                    _ => inner.balancers().is_empty(),
                };
                tokio::time::sleep(Duration::from_secs(5)).await;
                if !is_done(&current) {
                    // It hangs at the last effect: another process takes over.
                    work.abort();
                    current = plane(store.clone(), step + 2).await;
                    work = tokio::spawn(run(Arc::clone(&current), inner.clone()));
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                assert!(is_done(&current), "step {step} after {effects} effects, {after}");
            }
            work.abort();
        }
    }
}
