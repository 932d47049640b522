//! Whether there is room for instances.

use aws::Error;
use types::Zone;

use crate::catalog::InstanceType;
use crate::records::{FailedZone, Instance};
use crate::state::View;

const CODE: &str = "InsufficientInstanceCapacity";

/// How many can be launched, of `min` to `max` that are wanted: as many as fit.
///
/// # Errors
/// When not even `min` do.
pub(super) fn granted(
    view: View<'_>,
    kind: &InstanceType,
    zone: Zone,
    min: u32,
    max: u32,
) -> Result<u32, Error> {
    let room = room(view, kind, zone);
    if room < u64::from(min) {
        return Err(insufficient(view, kind, zone, min));
    }
    Ok(u32::try_from(room).map_or(max, |room| room.min(max)))
}

/// Whether an instance that is stopped can be started.
///
/// # Errors
/// When there is no room for it.
pub(super) fn check_start(view: View<'_>, instance: &Instance) -> Result<(), Error> {
    let kind = super::types::find(&instance.instance_type)?;
    if room(view, kind, instance.zone) == 0 {
        return Err(Error::new(CODE, "Insufficient capacity."));
    }
    Ok(())
}

fn room(view: View<'_>, kind: &InstanceType, zone: Zone) -> u64 {
    if FailedZone::find(view.state, zone).is_some() {
        return 0;
    }
    view.state.capacity.room(view.state, kind)
}

/// In AWS's words, with the zones where there is room, if there are any.
fn insufficient(view: View<'_>, kind: &InstanceType, zone: Zone, min: u32) -> Error {
    let mut message = format!(
        "We currently do not have sufficient {} capacity in the Availability Zone you requested ({zone}). Our system will be working on provisioning additional capacity.",
        kind.name
    );
    let others = zone.region().zones().into_iter();
    let others: Vec<String> = others
        .filter(|other| room(view, kind, *other) >= u64::from(min))
        .map(|other| other.to_string())
        .collect();
    if !others.is_empty() {
        message += &format!(
            " You can currently get {} capacity by not specifying an Availability Zone in your request or choosing {}.",
            kind.name,
            others.join(", ")
        );
    }
    Error::new(CODE, message)
}
