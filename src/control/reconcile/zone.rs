//! What is to be done about instances in zones that fail and recover: noted with each instance, where its reconciler finds it.
//!
//! ```text
//! no outage ──the zone fails──▶ outage ──it recovers──▶ outage, over ──the microVM runs──▶ no outage
//! ```

use types::{InstanceId, Zone};

use super::unhosted::STEPS_MAX;
use crate::records::{FailedZone, Instance, Outage, Tables};
use crate::state::{Space, State, Transaction};

/// Whether an instance of a space has a next step.
pub fn is_due(state: &State, tables: &Tables, space: Space) -> bool {
    steps(state, tables, space).next().is_some()
}

/// Takes the next step for the instances of a space that have one.
pub fn pass(tx: &mut Transaction<'_>) {
    let view = tx.view();
    let steps: Vec<_> = steps(view.state, view.tables(), view.space).take(STEPS_MAX).collect();
    for (id, outage) in steps {
        tx.update::<Instance>(id, |instance| instance.outage = Some(outage));
    }
}

/// Instances whose outages are to become these.
fn steps<'a>(
    state: &'a State,
    tables: &'a Tables,
    space: Space,
) -> impl Iterator<Item = (InstanceId, Outage)> + use<'a> {
    let failed: Vec<_> = failed(state, space);
    // While no zone is failed, only those are looked at that have work left.
    let (all, unsettled) = if failed.is_empty() {
        (None, Some(tables.instances.unsettled()))
    } else {
        (Some(tables.instances.iter()), None)
    };
    let instances = all.into_iter().flatten().chain(unsettled.into_iter().flatten());
    instances.filter_map(move |instance| {
        let since = failed.iter().find(|zone| zone.id == instance.zone).map(|zone| zone.since);
        next(instance, since).map(|outage| (instance.id, outage))
    })
}

fn failed(state: &State, space: Space) -> Vec<FailedZone> {
    let zones: [Zone; 3] = space.region.zones();
    zones.into_iter().filter_map(|zone| FailedZone::find(state, zone)).cloned().collect()
}

/// What the outage of an instance becomes; its zone failed at `since` and has not recovered.
fn next(instance: &Instance, since: Option<jiff::Timestamp>) -> Option<Outage> {
    match (instance.outage, since) {
        (None, Some(since)) if instance.is_on_host() => Some(Outage { since, is_over: false }),
        (Some(outage), Some(since)) if outage.is_over => Some(Outage { since, is_over: false }),
        (Some(outage), None) if !outage.is_over => Some(Outage { is_over: true, ..outage }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
