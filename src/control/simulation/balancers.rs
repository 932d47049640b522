//! Load balancers that ask nobody: all targets are found healthy, unless somebody says otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use types::LoadBalancerId;

use super::{Delays, Simulation, delays};
use crate::elbv2::outlook;
use crate::ports::{BalancerSpec, Balancers, BoxFuture, HostError, OnBalancerChange, TargetPlace};
use crate::records::{LoadBalancerState, TargetHealth};
use crate::state::{State, View};

/// What there is.
#[derive(Default)]
pub(super) struct Rack {
    delays: Delays,
    balancers: Mutex<BTreeMap<LoadBalancerId, Balancer>>,
    /// What targets are found to be, where somebody says so.
    said: Mutex<BTreeMap<TargetPlace, TargetHealth>>,
    on_change: Mutex<Vec<OnBalancerChange>>,
}

struct Balancer {
    spec: BalancerSpec,
    /// Since when each target has been found healthy, or will be.
    healthy: BTreeMap<TargetPlace, Instant>,
}

impl Balancer {
    /// Checks the targets that are the spec's; gives back whether there are new ones.
    fn follow(&mut self, spec: BalancerSpec, healthy: Instant) -> bool {
        let places = places(&spec);
        self.healthy.retain(|place, _| places.contains(place));
        let count = self.healthy.len();
        places.into_iter().for_each(|place| {
            self.healthy.entry(place).or_insert(healthy);
        });
        self.spec = spec;
        self.healthy.len() > count
    }
}

fn places(spec: &BalancerSpec) -> Vec<TargetPlace> {
    let groups =
        spec.config.target_groups.iter().filter_map(|(name, group)| Some((name.parse().ok()?, group)));
    let of = |(id, group): (_, &balancer::config::TargetGroup)| {
        let place = |target: &balancer::config::Target| (id, SocketAddr::new(target.ip, target.port));
        group.targets.iter().map(place).collect::<Vec<_>>()
    };
    groups.flat_map(of).collect()
}

impl Rack {
    pub(super) fn with(delays: Delays) -> Self {
        Self { delays, ..Self::default() }
    }

    /// Those that records say are there have been so all the time.
    pub(super) fn adopt(&self, state: &State) {
        for (space, tables) in state.spaces() {
            let active =
                tables.load_balancers.iter().filter(|found| found.state == LoadBalancerState::Active);
            for found in active {
                let view = View::new(state, space, found.created);
                if let Some(outlook) = outlook(view, found.id) {
                    self.put(outlook.spec, Instant::now());
                }
            }
        }
    }

    /// Forgets what there are no records of.
    pub(super) fn forget_unknown(&self, state: &State) {
        let is_known =
            |id: LoadBalancerId| state.spaces().any(|(_, tables)| tables.load_balancers.get(id).is_some());
        self.balancers().retain(|id, _| is_known(*id));
    }

    fn put(&self, spec: BalancerSpec, healthy: Instant) -> bool {
        let new = Balancer { spec: spec.clone(), healthy: BTreeMap::new() };
        self.balancers().entry(spec.id).or_insert(new).follow(spec, healthy)
    }

    fn tell(&self, id: LoadBalancerId) {
        let calls = self.on_change.lock().unwrap_or_else(PoisonError::into_inner).clone();
        calls.iter().for_each(|call| call(id));
    }

    fn balancers(&self) -> MutexGuard<'_, BTreeMap<LoadBalancerId, Balancer>> {
        self.balancers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<TargetPlace, TargetHealth>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Simulation {
    /// Has a target be found so, from now on: for tests and experiments. None: healthy.
    pub fn find_target(&self, place: TargetPlace, health: Option<TargetHealth>) {
        match health {
            Some(health) => self.rack.said().insert(place, health),
            None => self.rack.said().remove(&place),
        };
        let ids: Vec<_> = self.rack.balancers().keys().copied().collect();
        ids.into_iter().for_each(|id| self.rack.tell(id));
    }

    /// What a load balancer was told last to be.
    pub fn balancer(&self, id: LoadBalancerId) -> Option<BalancerSpec> {
        self.rack.balancers().get(&id).map(|balancer| balancer.spec.clone())
    }
}

impl Balancers for Simulation {
    fn balancers(&self) -> Vec<LoadBalancerId> {
        self.rack.balancers().keys().copied().collect()
    }

    fn target_health(&self, id: LoadBalancerId) -> Option<BTreeMap<TargetPlace, TargetHealth>> {
        let (balancers, said) = (self.rack.balancers(), self.rack.said());
        let now = Instant::now();
        let health = |(place, healthy): (&TargetPlace, &Instant)| {
            let usual = if *healthy <= now {
                TargetHealth::Healthy
            } else {
                TargetHealth::Initial { is_registering: false }
            };
            (*place, said.get(place).cloned().unwrap_or(usual))
        };
        balancers.get(&id).map(|balancer| balancer.healthy.iter().map(health).collect())
    }

    fn apply_balancer(&self, spec: BalancerSpec) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async move {
            let (id, delays) = (spec.id, self.rack.delays);
            if self.balancer(id).is_none() {
                delays::pass(delays.provision).await;
            }
            if self.rack.put(spec, Instant::now() + delays.check) && !delays.check.is_zero() {
                let calls = self.rack.on_change.lock().unwrap_or_else(PoisonError::into_inner).clone();
                delays::after(delays.check, move || calls.iter().for_each(|call| call(id)));
            }
            Ok(())
        })
    }

    fn remove_balancer(&self, id: LoadBalancerId) -> BoxFuture<'_, Result<(), HostError>> {
        self.rack.balancers().remove(&id);
        Box::pin(async { Ok(()) })
    }

    fn on_balancer_change(&self, call: OnBalancerChange) {
        self.rack.on_change.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}
