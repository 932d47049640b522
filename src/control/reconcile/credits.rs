//! CPU credits of instances that run: counted by what their processors work, and those that have none left held to their baseline.
//!
//! The count is here; a record of it is written every hour of work, and when an instance stops. Where nobody measures, nothing is counted, and where nobody
//! can hold processors back, they are only counted.

mod account;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::MissedTickBehavior;
use types::InstanceId;

use crate::catalog::InstanceType;
use crate::credits::Terms;
use crate::ledger::Stopped;
use crate::plane::Plane;
use crate::ports::{CpuLimit, Machines};
use crate::records::{CpuCredits, Instance, InstanceState};
use crate::state::{Space, Transaction};
use account::Account;

/// How often it is looked how much processors have worked: who has nothing left goes on for so long at most.
const PERIOD: Duration = Duration::from_secs(10);
/// How often at most a count is written down.
const KEPT: Duration = Duration::from_secs(3600);
/// In one transaction.
const WRITES_MAX: usize = 1000;

/// Works until the store takes no more.
///
/// # Errors
/// [`Stopped`].
pub async fn run(plane: Arc<Plane>, machines: Arc<dyn Machines>) -> Result<(), Stopped> {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut accounts = HashMap::new();
    loop {
        period.tick().await;
        pass(&plane, machines.as_ref(), &mut accounts).await?;
    }
}

/// A burstable instance that runs, and what was written down of it.
struct Running {
    space: Space,
    instance: Arc<Instance>,
    terms: Terms,
    kept: Option<Arc<CpuCredits>>,
}

async fn pass(
    plane: &Plane,
    machines: &dyn Machines,
    accounts: &mut HashMap<InstanceId, Account>,
) -> Result<(), Stopped> {
    let now = plane.ledger.now();
    let mut writes: Vec<(Space, CpuCredits)> = Vec::new();
    let mut before = std::mem::take(accounts);
    for running in running(plane) {
        let id = running.instance.id;
        let Some(cpu_time) = machines.cpu_time(id) else { continue };
        let known = before.remove(&id);
        let mut account = Account::of(&running, known);
        account.advance(&running.terms, now, cpu_time);
        hold(machines, id, &running.terms, &mut account).await;
        if account.is_worth_keeping(now) {
            writes.push((running.space, account.keep(id, now)));
        }
        accounts.insert(id, account);
    }
    // What is left runs no more.
    writes.extend(before.into_iter().map(|(id, mut account)| {
        let at = account.at;
        (account.space, account.keep(id, at))
    }));
    keep(plane, writes).await
}

fn running(plane: &Plane) -> Vec<Running> {
    let look = |state: &crate::state::State| {
        let mut all = Vec::new();
        for (space, tables) in state.spaces() {
            for instance in tables.instances.iter() {
                // Without a microVM nothing is earned, and the next one is not held.
                if !instance.is_up() {
                    continue;
                }
                let kind = InstanceType::find(&instance.instance_type);
                let terms = kind.and_then(|kind| Terms::of(kind, instance.has_unlimited_credits));
                let Some(terms) = terms else { continue };
                let kept = tables.cpu_credits.get(instance.id).cloned();
                all.push(Running { space, instance: Arc::clone(instance), terms, kept });
            }
        }
        all
    };
    plane.ledger.read(look).0
}

/// Holds an instance to its baseline, or lets it go.
async fn hold(machines: &dyn Machines, id: InstanceId, terms: &Terms, account: &mut Account) {
    let is_to_be_held = account.balance.is_to_be_held(terms, account.is_held == Some(true));
    if account.is_held == Some(is_to_be_held) {
        return;
    }
    let limit = is_to_be_held.then(|| CpuLimit { per_mille: terms.baseline_per_mille() });
    match machines.limit_cpu(id, limit).await {
        Ok(()) => account.is_held = Some(is_to_be_held),
        Err(error) if account.is_complained_of => tracing::debug!(%id, "{error}"),
        Err(error) => {
            account.is_complained_of = true;
            tracing::warn!(%id, "its CPU credits are counted only: {error}");
        }
    }
}

async fn keep(plane: &Plane, writes: Vec<(Space, CpuCredits)>) -> Result<(), Stopped> {
    let mut by_space: HashMap<Space, Vec<CpuCredits>> = HashMap::new();
    for (space, credits) in writes {
        by_space.entry(space).or_default().push(credits);
    }
    for (space, all) in by_space {
        for some in all.chunks(WRITES_MAX) {
            super::write(plane, space, |tx| put(tx, some)).await?;
        }
    }
    Ok(())
}

/// Of instances that are not about to go.
fn put(tx: &mut Transaction<'_>, all: &[CpuCredits]) {
    for credits in all {
        let stays = tx.get::<Instance>(credits.id).is_some_and(|instance| {
            !matches!(instance.state, InstanceState::ShuttingDown { .. } | InstanceState::Terminated { .. })
        });
        if stays {
            tx.put(credits.clone());
        }
    }
}

/// From one moment to a later one; nothing, if the clock went back.
fn between(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or_default()
}
