//! The desired size of a group, as its owner changes it.

use aws::service::Empty;
use aws::{Error, autoscaling as api};

use super::act::cooldown_end;
use super::activity;
use super::errors::{invalid, natural};
use super::observe::named;
use crate::records::{CapacityChange, ScalingGroup};
use crate::state::Transaction;

pub(super) fn set(tx: &mut Transaction<'_>, input: api::SetDesiredCapacityType) -> Result<Empty, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    let wanted = natural(input.desired_capacity, "desiredCapacity")?;
    if wanted > group.max {
        return Err(invalid(format!(
            "New SetDesiredCapacity value {wanted} is above max value {} for the AutoScalingGroup.",
            group.max
        )));
    }
    if wanted < group.min {
        return Err(invalid(format!(
            "New SetDesiredCapacity value {wanted} is below min value {} for the AutoScalingGroup.",
            group.min
        )));
    }
    if input.honor_cooldown == Some(true) {
        check_cooldown(tx, &group)?;
    }
    if wanted != group.desired {
        let before = group.desired;
        let why = format!(
            "a user request explicitly set group desired capacity changing the desired capacity from {before} to {wanted}"
        );
        let at = tx.now();
        tx.update::<ScalingGroup>(group.id, |group| {
            group.desired = wanted;
            group.change = Some(CapacityChange { at, why });
        });
    }
    Ok(Empty)
}

/// Nothing goes on, and nothing has for a while.
fn check_cooldown(tx: &Transaction<'_>, group: &ScalingGroup) -> Result<(), Error> {
    let view = tx.view();
    let going_on = activity::all(view, group.id).rev().find(|activity| activity.end.is_none());
    if let Some(activity) = going_on {
        let message = format!("Scaling activity {} is in progress and blocks this action", activity.uuid);
        return Err(Error::new("ScalingActivityInProgress", message));
    }
    match cooldown_end(group, view.now) {
        None => Ok(()),
        Some(end) => {
            let end = super::cause::time(end);
            let message = format!(
                "The cooldown of AutoScalingGroup {} ends at {end} and blocks this action",
                group.name
            );
            Err(Error::new("ScalingActivityInProgress", message))
        }
    }
}

/// Makes the group as much smaller as some leave it.
///
/// # Errors
/// When it would be smaller than it may be: `what` is what they were to do.
pub(super) fn shrink(
    tx: &mut Transaction<'_>,
    group: &ScalingGroup,
    count: u32,
    what: &str,
) -> Result<(), Error> {
    match group.desired.checked_sub(count).filter(|desired| *desired >= group.min) {
        Some(desired) => {
            tx.update::<ScalingGroup>(group.id, |group| group.desired = desired);
            Ok(())
        }
        None => Err(does_not_fit(group, count, what)),
    }
}

/// Makes the group as much larger as some join it.
///
/// # Errors
/// When it would be larger than it may be.
pub(super) fn grow(
    tx: &mut Transaction<'_>,
    group: &ScalingGroup,
    count: u32,
    what: &str,
) -> Result<(), Error> {
    match group.desired.checked_add(count).filter(|desired| *desired <= group.max) {
        Some(desired) => {
            tx.update::<ScalingGroup>(group.id, |group| group.desired = desired);
            Ok(())
        }
        None => Err(does_not_fit(group, count, what)),
    }
}

fn does_not_fit(group: &ScalingGroup, count: u32, what: &str) -> Error {
    let ScalingGroup { name, min, max, desired, .. } = group;
    let noun = if count == 1 { "instance" } else { "instances" };
    invalid(format!(
        "AutoScalingGroup {name} has min-size={min}, max-size={max}, and desired-size={desired}. To {what} {count} {noun}, please update the AutoScalingGroup sizes appropriately."
    ))
}
