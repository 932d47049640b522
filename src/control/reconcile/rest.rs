//! Guests that are down while snapshots of their volumes begin, for images: what the reconcilers of instances and of volumes tell each other by records.
//!
//! ```text
//! instance:   no rest ──▶ Wanted ──▶ ShuttingDown ──▶ Begun ──────────▶ Over ──▶ no rest
//!             (running)  (running)   (powers off)    (no microVM)      (starts)  (running)
//!                            ▲                          │    ▲            │
//!                            └── others have come ──────┼────┼────────────┘
//! snapshot:                 awaits it                   ▼    │
//!                                                    begins ─┘ awaits nobody
//! ```
//!
//! A snapshot that awaits an instance does not begin while its guest may write. That it has begun is written down when the host says that what it is of
//! is fixed, and only then is the guest started again. That earlier snapshots of a volume are not complete is in nobody's way: a host begins as many as
//! a volume may have.

use types::InstanceId;

use crate::records::{InstanceState, Rest, Snapshot, Tables};

/// Whether a snapshot waits for an instance's guest to have shut down.
pub fn is_awaited(tables: &Tables, id: InstanceId) -> bool {
    tables.snapshots.linked_to(id).any(|snapshot| snapshot.awaits == Some(id))
}

/// Whether a snapshot may begin: the guest whom it awaits does not write.
pub fn may_begin(tables: &Tables, snapshot: &Snapshot) -> bool {
    let Some(instance) = snapshot.awaits.and_then(|id| tables.instances.get(id)) else { return true };
    match instance.state {
        InstanceState::Running | InstanceState::Stopping { .. } | InstanceState::ShuttingDown { .. } => {
            instance.rest == Some(Rest::Begun)
        }
        // It is not started before.
        InstanceState::Pending | InstanceState::Stopped { .. } | InstanceState::Terminated { .. } => true,
    }
}
