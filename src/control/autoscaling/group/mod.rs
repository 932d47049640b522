//! Groups themselves.

mod describe;
mod settings;

use std::collections::{BTreeMap, BTreeSet};

use aws::service::Empty;
use aws::{Error, autoscaling as api};
use types::Uuid;

pub(super) use describe::{arn, describe, health_word, lifecycle_word, shown_number, template_shown};

use super::errors::{constraint, invalid};
use super::observe::{by_name, members, named};
use super::{act, hook, launch, tag};
use crate::records::{CapacityChange, DeletionProtection, ScalingGroup, TemplateChoice, TerminationPolicy};
use crate::state::Transaction;
use settings::Settings;

/// Between two changes that honour it, if nobody says otherwise.
const COOLDOWN_S: u32 = 300;

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: api::CreateAutoScalingGroupType,
) -> Result<Empty, Error> {
    let name = input.auto_scaling_group_name.clone();
    if by_name(tx.view(), &name).is_some() {
        let message = format!(
            "AutoScalingGroup by this name already exists - A group with the name {name} already exists"
        );
        return Err(Error::new("AlreadyExists", message));
    }
    check_name(&name)?;
    let Some(template) = &input.launch_template else {
        return Err(invalid(
            "Valid requests must contain either LaunchTemplate, LaunchConfigurationName, InstanceId or MixedInstancesPolicy parameter.",
        ));
    };
    let template = launch::choice(tx.view(), template)?;
    let mut group = new(tx.new_id(), name, template, tx.now());
    group.tags = tag::all_new(&group.name, &input.tags)?;
    for specification in &input.lifecycle_hook_specification_list {
        let new = hook::specified(specification)?;
        hook::add(&mut group, new)?;
    }
    let wanted = input.desired_capacity.unwrap_or(input.min_size);
    Settings::from(input).apply(tx.view(), &mut group)?;
    check_size(&group)?;
    if group.places.is_empty() {
        return Err(invalid("At least one Availability Zone or VPC Subnet is required."));
    }
    launch::check(tx, &group)?;
    let why = format!(
        "a user request created an AutoScalingGroup changing the desired capacity from 0 to {wanted}"
    );
    group.change = Some(CapacityChange { at: tx.now(), why });
    tx.put(group);
    Ok(Empty)
}

/// One of which nothing was said.
fn new(id: Uuid, name: String, template: TemplateChoice, created: jiff::Timestamp) -> ScalingGroup {
    ScalingGroup {
        id,
        name,
        created,
        template,
        min: 0,
        max: 0,
        desired: 0,
        cooldown_s: COOLDOWN_S,
        places: Vec::new(),
        has_named_subnets: false,
        grace_s: 0,
        termination_policies: vec![TerminationPolicy::Default],
        protects_new: false,
        deletion_protection: DeletionProtection::None,
        hooks: Vec::new(),
        tags: BTreeMap::new(),
        lifetime_max_s: None,
        warmup_s: None,
        context: None,
        balances_only: false,
        suspended: BTreeSet::new(),
        schedule: Vec::new(),
        change: None,
        replaced: 0,
        is_deleting: false,
        failures: Vec::new(),
        activities: 0,
        scaled: None,
    }
}

/// Source: <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CreateAutoScalingGroup.html>.
fn check_name(name: &str) -> Result<(), Error> {
    if name.contains([':', '/']) || name.chars().any(char::is_control) {
        let rule = "Member must have neither colons nor slashes nor control characters";
        return Err(constraint(name, "autoScalingGroupName", rule));
    }
    Ok(())
}

fn check_size(group: &ScalingGroup) -> Result<(), Error> {
    let ScalingGroup { min, max, desired, .. } = group;
    if max < min {
        return Err(invalid(format!("Max bound, {max}, must be greater than or equal to min bound, {min}")));
    }
    if !(min..=max).contains(&desired) {
        return Err(invalid(format!(
            "Desired capacity:{desired} must be between the specified min size:{min} and max size:{max}"
        )));
    }
    Ok(())
}

pub(super) fn update(
    tx: &mut Transaction<'_>,
    input: api::UpdateAutoScalingGroupType,
) -> Result<Empty, Error> {
    let before = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    let mut group = before.clone();
    if let Some(template) = &input.launch_template {
        group.template = launch::choice(tx.view(), template)?;
    }
    let has_wanted = input.desired_capacity.is_some();
    Settings::from(input).apply(tx.view(), &mut group)?;
    // Who changes the bounds alone has the size follow.
    if !has_wanted && group.min <= group.max {
        group.desired = group.desired.clamp(group.min, group.max);
    }
    check_size(&group)?;
    if group.template != before.template || group.places != before.places {
        launch::check(tx, &group)?;
        // What failed need fail no more.
        group.failures.clear();
    }
    if group.desired != before.desired {
        let ScalingGroup { min, max, desired, .. } = group;
        let why = format!(
            "a user request update of AutoScalingGroup constraints to min: {min}, max: {max}, desired: {desired} changing the desired capacity from {} to {desired}",
            before.desired
        );
        group.change = Some(CapacityChange { at: tx.now(), why });
    }
    tx.put(group);
    Ok(Empty)
}

pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: api::DeleteAutoScalingGroupType,
) -> Result<Empty, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    let is_forced = input.force_delete == Some(true);
    let is_protected = match group.deletion_protection {
        DeletionProtection::None => false,
        DeletionProtection::PreventForceDeletion => is_forced,
        DeletionProtection::PreventAllDeletion => true,
    };
    if is_protected {
        return Err(invalid(format!(
            "AutoScalingGroup '{}' cannot be deleted so, because its deletion protection is {}",
            group.name,
            group.deletion_protection.as_str()
        )));
    }
    if members(tx.view(), group.id).next().is_none() {
        act::remove_group(tx, group.id);
        return Ok(Empty);
    }
    if !is_forced {
        return Err(Error::new(
            "ResourceInUse",
            "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance request(s) still in the group.",
        ));
    }
    let why = format!(
        "a user request force-deleted AutoScalingGroup changing the desired capacity from {} to 0",
        group.desired
    );
    let change = Some(CapacityChange { at: tx.now(), why });
    tx.put(ScalingGroup { is_deleting: true, min: 0, max: 0, desired: 0, change, ..group });
    Ok(Empty)
}
