//! Load balancers: on the host they are as their records say, and how their targets are is written down as the host finds it.
//!
//! ```text
//! Provisioning ── the host has it be so ──▶ Active
//!       └── it cannot, or not before DEADLINE ──▶ Failed: what there is of it goes
//! ```
//!
//! A target that is not asked has nothing that was found: when it is asked again it is unproven.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{InstanceId, LoadBalancerId, TargetGroupId};

use super::agenda::Agenda;
use super::{CHANGES_MAX, sleep_until};
use crate::elbv2::{Outlook, outlook, users};
use crate::ledger::{AsOf, Stopped, Written};
use crate::plane::Plane;
use crate::ports::{Balancers, HostError, TargetPlace};
use crate::records::{
    Former, Instance, InterfaceOwner, LoadBalancer, LoadBalancerState, NetworkInterface, RegisteredTarget,
    Tables, TargetHealth, TargetKey, TargetState,
};
use crate::state::{Space, State, Transaction, View};

/// How long a host may take to bring one about.
pub const DEADLINE: SignedDuration = SignedDuration::from_mins(10);
/// When what failed is tried again.
pub const RETRY: Duration = Duration::from_secs(1);

type Subject = (Space, LoadBalancerId);

/// What is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Enter(LoadBalancerState),
    Find(TargetKey, TargetHealth),
}

/// What is known of a load balancer that is to be there.
struct Look {
    outlook: Outlook,
    state: LoadBalancerState,
    created: Timestamp,
    /// How its targets are, as far as that was written down.
    known: BTreeMap<TargetKey, TargetHealth>,
}

/// What is to be written down when the host has said what came of it, and how targets are.
fn plan(
    look: &Look,
    outcome: &Result<(), HostError>,
    found: Option<&BTreeMap<TargetPlace, TargetHealth>>,
    now: Timestamp,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if look.state == LoadBalancerState::Provisioning {
        let deadline = look.created.saturating_add(DEADLINE).unwrap_or(Timestamp::MAX);
        match outcome {
            Ok(()) => steps.push(Step::Enter(LoadBalancerState::Active)),
            Err(HostError::Failed(why)) => {
                steps.push(Step::Enter(LoadBalancerState::Failed { why: why.clone() }));
            }
            Err(error) if now >= deadline => {
                steps.push(Step::Enter(LoadBalancerState::Failed { why: error.to_string() }));
            }
            Err(_) => {}
        }
    }
    let asked = look.outlook.targets.iter().filter_map(|(place, key)| Some((*key, found?.get(place)?)));
    let unused = look.outlook.unused.iter().map(|key| (*key, &TargetHealth::NEW));
    let news = asked.chain(unused).filter(|(key, health)| look.known.get(key) != Some(*health));
    steps.extend(news.map(|(key, health)| Step::Find(key, health.clone())));
    steps
}

fn write_down(tx: &mut Transaction<'_>, id: LoadBalancerId, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Enter(state) => {
                tx.update::<LoadBalancer>(id, |balancer| {
                    if balancer.state == LoadBalancerState::Provisioning {
                        balancer.state = state;
                    }
                });
            }
            Step::Find(key, health) => {
                tx.update::<RegisteredTarget>(key, |target| {
                    if let TargetState::Registered(known) = &mut target.state {
                        *known = health;
                    }
                });
            }
        }
    }
}

/// Works until the store takes no more.
///
/// # Errors
/// [`Stopped`].
pub async fn run(plane: Arc<Plane>, balancers: Arc<dyn Balancers>) -> Result<(), Stopped> {
    let changed = Arc::new(Changed::default());
    let told = Arc::downgrade(&changed);
    balancers.on_balancer_change(Arc::new(move |id| {
        if let Some(changed) = told.upgrade() {
            changed.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            changed.nudge.notify_one();
        }
    }));
    let mut feed = plane.ledger.follow();
    let mut agenda = Agenda::new();
    let (mut work, mut changes) = (JoinSet::new(), Vec::new());
    remove_unknown(&plane, balancers.as_ref()).await?;
    let (all, as_of) = plane.ledger.read(all);
    all.into_iter().for_each(|subject| agenda.changed(subject, as_of));
    loop {
        while let Some(subject) = agenda.begin() {
            work.spawn(advance(Arc::clone(&plane), Arc::clone(&balancers), subject));
        }
        let next = agenda.next();
        tokio::select! {
            _ = feed.recv_many(&mut changes, CHANGES_MAX) => {
                let now = plane.ledger.now();
                let _ = plane.ledger.read(|state| note_changes(state, now, &mut agenda, &mut changes));
            }
            () = changed.nudge.notified() => {
                let ids = std::mem::take(&mut *changed.ids.lock().unwrap_or_else(PoisonError::into_inner));
                let _ = plane.ledger.read(|state| {
                    for (space, tables) in state.spaces() {
                        let its = ids.iter().filter(|id| tables.load_balancers.get(**id).is_some());
                        its.for_each(|id| agenda.nudged((space, *id)));
                    }
                });
            }
            Some(Ok(halt)) = work.join_next() => {
                let (subject, seen, until) = halt?;
                agenda.halted(subject, seen, until);
            }
            () = sleep_until(next) => {}
        }
    }
}

/// Of which the host has something new to say.
#[derive(Default)]
struct Changed {
    ids: Mutex<BTreeSet<LoadBalancerId>>,
    nudge: Notify,
}

fn all(state: &State) -> Vec<Subject> {
    let of = |(space, tables): (Space, &Tables)| {
        tables.load_balancers.iter().map(|balancer| (space, balancer.id)).collect::<Vec<_>>()
    };
    state.spaces().flat_map(of).collect()
}

/// Of load balancers without a record something may have been left.
async fn remove_unknown(plane: &Plane, balancers: &dyn Balancers) -> Result<(), Stopped> {
    let (known, as_of) = plane.ledger.read(all);
    plane.ledger.settled(as_of).await?;
    let known: BTreeSet<_> = known.into_iter().map(|(_, id)| id).collect();
    for id in balancers.balancers().into_iter().filter(|id| !known.contains(id)) {
        if let Err(error) = balancers.remove_balancer(id).await {
            tracing::warn!(%id, "{error}");
        }
    }
    Ok(())
}

fn look(view: View<'_>, id: LoadBalancerId) -> Option<Look> {
    let balancer = view.get::<LoadBalancer>(id)?;
    let outlook = outlook(view, id)?;
    let keys = outlook.targets.values().chain(&outlook.unused);
    let known = keys.filter_map(|key| match &view.get::<RegisteredTarget>(*key)?.state {
        TargetState::Registered(health) => Some((*key, health.clone())),
        TargetState::Draining { .. } => None,
    });
    Some(Look { known: known.collect(), outlook, state: balancer.state.clone(), created: balancer.created })
}

async fn advance(
    plane: Arc<Plane>,
    balancers: Arc<dyn Balancers>,
    subject: Subject,
) -> Result<(Subject, AsOf, Option<Instant>), Stopped> {
    let (space, id) = subject;
    let now = plane.ledger.now();
    let (found, seen) = plane.ledger.read(|state| look(View::new(state, space, now), id));
    plane.ledger.settled(seen).await?;
    let outcome = match &found {
        Some(look) => balancers.apply_balancer(look.outlook.spec.clone()).await,
        None => balancers.remove_balancer(id).await,
    };
    if let Some(look) = &found {
        let health = balancers.target_health(id);
        let steps = plan(look, &outcome, health.as_ref(), plane.ledger.now());
        if !steps.is_empty() {
            super::write(&plane, space, |tx| write_down(tx, id, steps)).await?;
        }
    }
    let until = outcome.err().map(|error| {
        tracing::warn!(%id, "{error}");
        Instant::now() + RETRY
    });
    Ok((subject, seen, until))
}

fn note_changes(state: &State, now: Timestamp, agenda: &mut Agenda<Subject>, changes: &mut Vec<Written>) {
    for Written { as_of, former } in changes.drain(..) {
        for (space, former) in former.iter() {
            let view = View::new(state, *space, now);
            touched(view, former, &mut |id| agenda.changed((*space, id), as_of));
        }
    }
}

/// The load balancers that a change is about.
fn touched(view: View<'_>, former: &Former, touch: &mut dyn FnMut(LoadBalancerId)) {
    let tables = view.tables();
    match former {
        Former::LoadBalancer(id, _) => touch(*id),
        Former::Listener(id, before) => {
            let rows = before.iter().chain(tables.listeners.get(*id));
            rows.for_each(|listener| touch(listener.load_balancer));
        }
        Former::ListenerRule(id, before) => {
            let rows = before.iter().chain(tables.listener_rules.get(*id));
            rows.for_each(|rule| touch(rule.load_balancer));
        }
        Former::TargetGroup(id, _) => of_group(view, *id, touch),
        Former::RegisteredTarget(id, before) => {
            let is_in = |target: &RegisteredTarget| matches!(target.state, TargetState::Registered(_));
            let before = before.as_deref().is_some_and(is_in);
            // What was found of it is what this writes itself.
            if before != tables.registered_targets.get(*id).is_some_and(|target| is_in(target)) {
                of_group(view, id.group, touch);
            }
        }
        Former::Instance(id, before) => {
            let standing = |row: &Instance| (row.state.clone(), row.is_up());
            let now = tables.instances.get(*id).map(AsRef::as_ref);
            if before.as_deref().map(standing) != now.map(standing) {
                of_instance(view, *id, touch);
            }
        }
        Former::NetworkInterface(id, before) => {
            for interface in before.iter().chain(tables.network_interfaces.get(*id)) {
                of_interface(view, interface, touch);
            }
        }
        _ => {}
    }
}

fn of_group(view: View<'_>, group: TargetGroupId, touch: &mut dyn FnMut(LoadBalancerId)) {
    users(view, group).into_iter().for_each(touch);
}

fn of_instance(view: View<'_>, id: InstanceId, touch: &mut dyn FnMut(LoadBalancerId)) {
    view.tables().registered_targets.linked_to(id).for_each(|target| of_group(view, target.id.group, touch));
}

fn of_interface(view: View<'_>, interface: &NetworkInterface, touch: &mut dyn FnMut(LoadBalancerId)) {
    if let InterfaceOwner::LoadBalancer(id) = interface.owner {
        touch(id);
    }
    if let Some(attachment) = &interface.attachment {
        of_instance(view, attachment.instance, touch);
    }
}
