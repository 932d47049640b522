//! What is made true of volumes, snapshots and images.
//!
//! One pass looks at every record with work left and does what can be done now, a step at a time: an effect on the host, begun when
//! its record is durable, or a change of the record by what the host says. It never waits for the host to get on with something, and tries
//! nothing twice; the next pass does. Only one pass may run at a time. A pass that ends anywhere, killed or not, leaves what the next one can go on from:
//! all effects can be repeated, and a record goes only when the host has nothing of it.

mod pass;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

pub use pass::pass;
pub use plan::{Around, Change, DEADLINE, Effect, Plan, SNAPSHOT_DEADLINE, SnapshotStep, Step};
pub use plan::{image, snapshot, volume};

use crate::ledger::Stopped;
use crate::plane::Plane;
use crate::ports::Disks;

/// What a host did not do at once is asked of it again.
const PERIOD: Duration = Duration::from_secs(5);

/// Makes passes whenever something has changed, until the ledger takes no more changes.
///
/// # Errors
/// Always, in the end: why it takes none.
pub async fn run(plane: Arc<Plane>, disks: Arc<dyn Disks>) -> Result<(), Stopped> {
    let on_host = Arc::new(Notify::new());
    let nudge = Arc::clone(&on_host);
    disks.on_disk_change(Arc::new(move || nudge.notify_one()));
    let mut changes = plane.ledger.changes();
    loop {
        changes.mark_unchanged();
        let wake = pass(&plane, disks.as_ref()).await?;
        let pause = wake.map_or(Duration::MAX, |wake| until(wake, plane.ledger.now()));
        tokio::select! {
            _ = changes.changed() => {}
            () = on_host.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn until(wake: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(wake.duration_since(now)).unwrap_or_default().min(PERIOD)
}
