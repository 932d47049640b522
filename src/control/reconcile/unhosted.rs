//! What needs no host: records that go on by themselves, as time does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{nat_gateway, peering};
use crate::ledger::{Stopped, WriteError};
use crate::plane::Plane;
use crate::records::Tables;
use crate::state::{Space, Transaction};

/// How often all records are looked at though none has changed: times to forget come by themselves.
const PERIOD: Duration = Duration::from_secs(60);

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
        let (due, _) = plane.ledger.read(|state| {
            let due = state.spaces().filter(|(space, tables)| is_due(tables, *space, now));
            due.map(|(space, _)| space).collect::<Vec<_>>()
        });
        for space in due {
            let write = plane.ledger.write(space, |tx| {
                pass(tx);
                Ok::<_, Infallible>(())
            });
            match write.await {
                Ok(()) => {}
                Err(WriteError::Stopped(stopped)) => return Err(stopped),
                Err(WriteError::Refused(never)) => match never {},
                Err(error @ WriteError::TooLarge { .. }) => unreachable!("a pass takes few steps: {error}"),
            }
        }
        tokio::select! {
            Ok(()) = records.changed() => {}
            _ = period.tick() => {}
        }
    }
}

fn is_due(tables: &Tables, space: Space, now: Timestamp) -> bool {
    nat_gateway::is_due(tables, now) || peering::is_due(tables, space, now)
}

fn pass(tx: &mut Transaction<'_>) {
    nat_gateway::pass(tx);
    peering::pass(tx);
}
