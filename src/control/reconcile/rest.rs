//! Guests that are down while snapshots of their volumes begin, for images: what the reconcilers of instances and of volumes tell each other by records.
//!
//! ```text
//! instance:   no rest ──▶ Wanted ──▶ ShuttingDown ──▶ Begun ──────────▶ Over ──▶ no rest
//!             (running)  (running)   (powers off)    (no microVM)      (starts)  (running)
//!                            ▲                          │    ▲            │
//!                            └── others wait ───────────┼────┼────────────┘
//! snapshot:                 awaits it                   ▼    │
//!                                                    begins ─┘ awaits nobody
//! ```
//!
//! A snapshot that awaits an instance does not begin while its guest may write. That it has begun is written down when the host says that what it is of
//! is fixed, and only then is the guest started again. A guest does not shut down before earlier snapshots of its volumes are complete: a host may
//! begin one of a volume at a time.

use jiff::Timestamp;
use types::{InstanceId, SnapshotId};

use crate::records::{InstanceState, Rest, Snapshot, SnapshotSource, SnapshotState, Tables};

/// What waits for an instance's guest to have shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    Nothing,
    /// Snapshots that cannot begin yet, since others of the same volumes are not complete.
    Later,
    Now,
}

/// What waits for an instance. What can begin now can do so until it has.
pub fn awaited(tables: &Tables, id: InstanceId) -> Awaited {
    let waiting = || tables.snapshots.linked_to(id).filter(|snapshot| snapshot.awaits == Some(id));
    let Some(first) = waiting().map(|snapshot| turn(snapshot)).min() else { return Awaited::Nothing };
    let is_free = waiting().filter(|it| turn(it) == first).all(|snapshot| is_free(tables, snapshot));
    if is_free { Awaited::Now } else { Awaited::Later }
}

/// Instances that are awaited by a snapshot, or by others of its volume, which may have waited for it.
pub fn about<'a>(tables: &'a Tables, snapshot: &'a Snapshot) -> impl Iterator<Item = InstanceId> + 'a {
    let volume = match snapshot.source {
        SnapshotSource::Volume { volume, .. } => Some(volume),
        SnapshotSource::Snapshot { .. } | SnapshotSource::Seed { .. } => None,
    };
    let others = volume.into_iter().flat_map(|volume| tables.snapshots.linked_to(volume));
    snapshot.awaits.into_iter().chain(others.filter_map(|other| other.awaits))
}

/// Whether a snapshot may begin: the guest of whom it awaits does not write, and no earlier one is in its way.
pub fn may_begin(tables: &Tables, snapshot: &Snapshot) -> bool {
    let Some(instance) = snapshot.awaits.and_then(|id| tables.instances.get(id)) else { return true };
    let is_down = match instance.state {
        InstanceState::Running | InstanceState::Stopping { .. } | InstanceState::ShuttingDown { .. } => {
            instance.rest == Some(Rest::Begun)
        }
        // It is not started before.
        InstanceState::Pending | InstanceState::Stopped { .. } | InstanceState::Terminated { .. } => true,
    };
    is_down && is_free(tables, snapshot)
}

/// Whether no earlier snapshot of its volume is being made.
fn is_free(tables: &Tables, snapshot: &Snapshot) -> bool {
    let SnapshotSource::Volume { volume, .. } = snapshot.source else { return true };
    let is_before = |other: &Snapshot| {
        matches!(other.state, SnapshotState::Pending { .. }) && turn(other) < turn(snapshot)
    };
    !tables.snapshots.linked_to(volume).any(|other| is_before(other))
}

/// Those of one moment have one turn.
fn turn(snapshot: &Snapshot) -> (Timestamp, SnapshotId) {
    (snapshot.started, snapshot.moment())
}
