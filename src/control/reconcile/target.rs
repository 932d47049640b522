//! Targets that are forgotten: those that were drained, and those whose instances are terminated.

use jiff::Timestamp;

use super::unhosted::STEPS_MAX;
use crate::records::{InstanceState, RegisteredTarget, Tables, TargetId, TargetKey, TargetState};
use crate::state::Transaction;

/// Whether there is one.
pub fn is_due(tables: &Tables, now: Timestamp) -> bool {
    due(tables, now).next().is_some()
}

/// Forgets those of one space.
pub fn pass(tx: &mut Transaction<'_>) {
    let due: Vec<_> = due(tx.tables(), tx.now()).take(STEPS_MAX).collect();
    due.into_iter().for_each(|id| tx.remove::<RegisteredTarget>(id));
}

fn due(tables: &Tables, now: Timestamp) -> impl Iterator<Item = TargetKey> {
    let is_over = move |target: &RegisteredTarget| match (&target.state, target.id.target) {
        (TargetState::Draining { until }, _) if *until <= now => true,
        (_, TargetId::Instance(id)) => tables
            .instances
            .get(id)
            .is_none_or(|instance| matches!(instance.state, InstanceState::Terminated { .. })),
        (_, TargetId::Ip(_)) => false,
    };
    tables.registered_targets.iter().filter(move |target| is_over(target)).map(|target| target.id)
}
