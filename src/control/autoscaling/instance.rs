//! Instances in groups, and into and out of them.

use aws::service::Empty;
use aws::{Call, Error, autoscaling as api};
use types::InstanceId;

use super::activity::{self, Begun};
use super::errors::{constraint, instance_id, invalid, wrong_state};
use super::group::{health_word, lifecycle_word, template_shown};
use super::observe::{member_of, named, named_members, seen};
use super::page::page;
use super::standby::done;
use super::{act, capacity, cause, launch};
use crate::records::{
    ActivityKind, ActivityStatus, Instance, InstanceState, MemberId, MemberState, NetworkInterface, Place,
    ScalingGroup, ScalingMember, Unhealthy,
};
use crate::state::{Transaction, View};

/// In one request.
const INSTANCES_MAX: usize = 20;

pub(super) fn describe(
    view: View<'_>,
    call: &Call<api::DescribeAutoScalingInstancesType>,
) -> Result<api::AutoScalingInstancesType, Error> {
    let texts = &call.input.instance_ids;
    let mut members: Vec<&ScalingMember> = if texts.is_empty() {
        view.tables().scaling_members.iter().map(AsRef::as_ref).collect()
    } else {
        // Of what is in no group nothing is told.
        let ids = texts.iter().map(|text| instance_id(text)).collect::<Result<Vec<_>, _>>()?;
        ids.into_iter().filter_map(|id| member_of(view, id)).collect()
    };
    members.sort_by_key(|member| member.id.instance);
    members.dedup_by_key(|member| member.id.instance);
    let key = |member: &&ScalingMember| member.id.instance.to_string();
    let (members, next_token) = page::<api::DescribeAutoScalingInstances, _, _>(call, members, key)?;
    let shown = members.into_iter().filter_map(|member| shown(view, member)).collect();
    Ok(api::AutoScalingInstancesType { auto_scaling_instances: Some(shown), next_token })
}

fn shown(view: View<'_>, member: &ScalingMember) -> Option<api::AutoScalingInstanceDetails> {
    let group = view.get::<ScalingGroup>(member.id.group)?;
    let seen = seen(view, member);
    Some(api::AutoScalingInstanceDetails {
        instance_id: Some(member.id.instance.to_string()),
        instance_type: seen.instance.map(|instance| instance.instance_type.clone()),
        auto_scaling_group_name: Some(group.name.clone()),
        availability_zone: Some(member.place.zone.to_string()),
        availability_zone_id: Some(member.place.zone.id()),
        lifecycle_state: Some(lifecycle_word(member).to_owned()),
        // In capitals here, and not in groups: it is so with AWS.
        health_status: Some(health_word(view, group, &seen).to_uppercase()),
        launch_template: member.template.map(|version| template_shown(view, version)),
        protected_from_scale_in: Some(member.is_protected),
        image_id: seen.instance.map(|instance| instance.image.to_string()),
        ..Default::default()
    })
}

/// The member that an instance is.
///
/// # Errors
/// When it is in no group.
fn managed<'a>(view: View<'a>, text: &str) -> Result<&'a ScalingMember, Error> {
    let id = instance_id(text)?;
    member_of(view, id).ok_or_else(|| {
        invalid(format!("Instance Id not found - No managed instance found for instance ID: {text}"))
    })
}

pub(super) fn set_health(
    tx: &mut Transaction<'_>,
    input: api::SetInstanceHealthQuery,
) -> Result<Empty, Error> {
    let id = managed(tx.view(), &input.instance_id)?.id;
    let unhealthy = match input.health_status.as_str() {
        "Healthy" => None,
        "Unhealthy" => Some(Unhealthy { respects_grace: input.should_respect_grace_period != Some(false) }),
        other => return Err(constraint(other, "healthStatus", "Member must be Healthy or Unhealthy")),
    };
    tx.update::<ScalingMember>(id, |member| member.unhealthy = unhealthy);
    Ok(Empty)
}

pub(super) fn set_protection(
    tx: &mut Transaction<'_>,
    input: api::SetInstanceProtectionQuery,
) -> Result<api::SetInstanceProtectionAnswer, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?;
    let members = named_members(tx.view(), group, &input.instance_ids)?;
    let can_be =
        |member: &ScalingMember| matches!(member.state, MemberState::InService { .. } | MemberState::Standby);
    if let Some(member) = members.iter().find(|member| !can_be(member)) {
        return Err(wrong_state(member.id.instance, "InService or EnteringStandby or Standby"));
    }
    let ids: Vec<MemberId> = members.into_iter().map(|member| member.id).collect();
    for id in ids {
        tx.update::<ScalingMember>(id, |member| member.is_protected = input.protected_from_scale_in);
    }
    Ok(api::SetInstanceProtectionAnswer {})
}

pub(super) fn terminate(
    tx: &mut Transaction<'_>,
    input: api::TerminateInstanceInAutoScalingGroupType,
) -> Result<api::ActivityType, Error> {
    let text = input
        .instance_id
        .as_deref()
        .ok_or_else(|| constraint("null", "instanceId", "Member must not be null"))?;
    let member = managed(tx.view(), text)?.clone();
    let group = tx.get::<ScalingGroup>(member.id.group).cloned().ok_or_else(Error::internal)?;
    let is_counted = match member.state {
        MemberState::Pending { .. } | MemberState::PendingWait { .. } | MemberState::InService { .. } => true,
        MemberState::Standby => false,
        MemberState::TerminatingWait { .. } | MemberState::Terminating { .. } => {
            return Err(invalid(format!("The instance {text} is being terminated already.")));
        }
    };
    let mut size = None;
    if input.should_decrement_desired_capacity && is_counted {
        if group.desired <= group.min {
            return Err(invalid(format!(
                "Currently, desiredSize equals minSize ({}). Terminating instance without replacement will violate group's min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size.",
                group.min
            )));
        }
        capacity::shrink(tx, &group, 1, "terminate")?;
        size = Some((group.desired, group.desired - 1));
    }
    let cause = cause::of_request(member.id.instance, "taken out of service", size, tx.now());
    let number = act::retire(tx, member.id, cause);
    let activity = number.and_then(|number| activity::shown_by_number(tx, group.id, number));
    Ok(api::ActivityType { activity, ..Default::default() })
}

pub(super) fn detach(
    tx: &mut Transaction<'_>,
    input: api::DetachInstancesQuery,
) -> Result<api::DetachInstancesAnswer, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    check_count(&input.instance_ids)?;
    let members: Vec<ScalingMember> =
        named_members(tx.view(), &group, &input.instance_ids)?.into_iter().cloned().collect();
    let is_in_service = |member: &ScalingMember| matches!(member.state, MemberState::InService { .. });
    let can_go = |member: &&ScalingMember| is_in_service(member) || member.state == MemberState::Standby;
    if let Some(member) = members.iter().find(|member| !can_go(member)) {
        return Err(wrong_state(member.id.instance, "InService or Standby"));
    }
    // Those that stand by are not counted.
    let mut size = group.desired;
    if input.should_decrement_desired_capacity {
        let count = members.iter().filter(|member| is_in_service(member)).count();
        capacity::shrink(tx, &group, u32::try_from(count).unwrap_or(u32::MAX), "detach")?;
    }
    let mut activities = Vec::new();
    for member in members {
        let mut resized = None;
        if input.should_decrement_desired_capacity && is_in_service(&member) {
            resized = Some((size, size - 1));
            size -= 1;
        }
        let cause = cause::of_request(member.id.instance, "detached", resized, tx.now());
        activities.extend(done(tx, &member, ActivityKind::Detach, cause));
        launch::leave(tx, member.id.instance);
        tx.remove::<ScalingMember>(member.id);
    }
    Ok(api::DetachInstancesAnswer { activities: Some(activities) })
}

pub(super) fn attach(tx: &mut Transaction<'_>, input: api::AttachInstancesQuery) -> Result<Empty, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    check_count(&input.instance_ids)?;
    let mut places = Vec::new();
    for text in &input.instance_ids {
        let place = attachable(tx.view(), &group, text)?;
        if !places.contains(&place) {
            places.push(place);
        }
    }
    capacity::grow(tx, &group, u32::try_from(places.len()).unwrap_or(u32::MAX), "attach")?;
    for (at, (instance, place)) in (0..).zip(places) {
        let size = Some((group.desired + at, group.desired + at + 1));
        let begun = Begun {
            kind: ActivityKind::Attach,
            instance: Some(instance),
            place,
            cause: cause::of_request(instance, "attached", size, tx.now()),
            status: ActivityStatus::PreInService,
        };
        let activity = activity::begin(tx, group.id, begun);
        launch::join(tx, &group, instance).map_err(|error| invalid(error.message))?;
        tx.put(ScalingMember {
            id: MemberId { group: group.id, instance },
            place,
            template: None,
            is_protected: group.protects_new,
            is_spare: false,
            unhealthy: None,
            state: MemberState::Pending { activity, is_new: false },
        });
    }
    Ok(Empty)
}

/// An instance that can come into the group, and where it is.
///
/// Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-attach-instances.html>.
fn attachable(view: View<'_>, group: &ScalingGroup, text: &str) -> Result<(InstanceId, Place), Error> {
    let id = instance_id(text)?;
    let instance = view
        .get::<Instance>(id)
        .ok_or_else(|| invalid(format!("Invalid Instance ID(s): [{text}]. The instances do not exist")))?;
    if instance.state != InstanceState::Running {
        return Err(invalid(format!(
            "Instance {id} is not in correct state. Instance(s) must be in 'running' state."
        )));
    }
    if let Some(other) = member_of(view, id).and_then(|member| view.get::<ScalingGroup>(member.id.group)) {
        return Err(invalid(format!("Instance {id} is already part of AutoScalingGroup:{}", other.name)));
    }
    let zone = instance.zone;
    if !group.places.iter().any(|place| place.zone == zone) {
        let message =
            format!("The availability zone {zone} of instance {id} is not one of the AutoScalingGroup's");
        return Err(invalid(message));
    }
    let its = view.tables().network_interfaces.linked_to(id);
    let primary = its.min_by_key(|interface: &&std::sync::Arc<NetworkInterface>| {
        interface.attachment.as_ref().map(|attachment| attachment.device_index)
    });
    let subnet = primary.map(|interface| interface.subnet).ok_or_else(Error::internal)?;
    Ok((id, Place { zone, subnet }))
}

fn check_count(texts: &[String]) -> Result<(), Error> {
    if texts.len() > INSTANCES_MAX {
        return Err(invalid(format!("The number of instances in one request is at most {INSTANCES_MAX}.")));
    }
    Ok(())
}
