//! Availability zones that fail and recover, as who runs the region says: AWS has no operation for it.
//!
//! What AWS's users see of a zone that fails: instances there are `running`, unreachable, and their status checks are `impaired`; new ones get
//! `InsufficientInstanceCapacity`; `DescribeAvailabilityZones` says `unavailable`, and why. When the zone is back, they boot
//! again, with their volumes and addresses. It is the same here: [`reconcile`](crate::reconcile) ends and starts the microVMs.

use aws::Error;
use types::Zone;

use crate::plane::Plane;
use crate::records::FailedZone;
use crate::state::Space;

/// What a zone is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneState {
    Available,
    Failed,
}

/// Has a zone fail, or recover. In one that is so already nothing changes.
///
/// # Errors
/// When nothing can be written.
pub async fn set(plane: &Plane, zone: Zone, state: ZoneState) -> Result<(), Error> {
    let space = Space::of_region(zone.region());
    plane.begin(space).await?;
    plane
        .write(space, |tx| {
            match state {
                ZoneState::Available => tx.remove::<FailedZone>(zone),
                ZoneState::Failed if tx.get::<FailedZone>(zone).is_none() => {
                    let since = tx.now();
                    tx.put(FailedZone { id: zone, since });
                }
                ZoneState::Failed => {}
            }
            Ok(())
        })
        .await
}
