//! What needs no host: records that go on by themselves, as time does.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{nat_gateway, notice, peering, sleep_until, target, zone};
use crate::ledger::Stopped;
use crate::plane::Plane;
use crate::records::Tables;
use crate::state::{Space, State, Transaction};

/// How often all records are looked at though none has changed: times to forget come by themselves. What was announced for a time happens then.
const PERIOD: Duration = Duration::from_secs(60);

/// After a change, for others that come with it: they are looked at together.
const PAUSE: Duration = Duration::from_millis(20);

/// How many steps of a kind are taken in one transaction. After it is the next.
pub(super) const STEPS_MAX: usize = 100;

/// Works until the store takes no more.
///
/// # Errors
/// [`Stopped`].
pub async fn run(plane: Arc<Plane>) -> Result<(), Stopped> {
    let mut records = plane.ledger.changes();
    let mut period = tokio::time::interval(PERIOD);
    loop {
        let now = plane.ledger.now();
        let ((due, next), _) = plane.ledger.read(|state| {
            let due = state.spaces().filter(|(space, tables)| is_due(state, tables, *space, now));
            let next = state.spaces().filter_map(|(_, tables)| notice::next(tables, now)).min();
            (due.map(|(space, _)| space).collect::<Vec<_>>(), next)
        });
        let next = next.map(|next| Instant::now() + next.duration_since(now).unsigned_abs());
        for space in due {
            super::write(&plane, space, pass).await?;
        }
        tokio::select! {
            Ok(()) = records.changed() => tokio::time::sleep(PAUSE).await,
            _ = period.tick() => {}
            () = sleep_until(next) => {}
        }
    }
}

fn is_due(state: &State, tables: &Tables, space: Space, now: Timestamp) -> bool {
    nat_gateway::is_due(tables, now)
        || notice::is_due(tables, now)
        || peering::is_due(tables, space, now)
        || target::is_due(tables, now)
        || zone::is_due(state, tables, space)
}

fn pass(tx: &mut Transaction<'_>) {
    nat_gateway::pass(tx);
    notice::pass(tx);
    peering::pass(tx);
    target::pass(tx);
    zone::pass(tx);
}
