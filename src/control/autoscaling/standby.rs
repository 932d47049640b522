//! Members that stand by: in the group, and out of service.

use aws::{Error, autoscaling as api};

use super::activity::{self, Begun};
use super::errors::wrong_state;
use super::observe::{named, named_members};
use super::{capacity, cause};
use crate::records::{ActivityKind, ActivityStatus, MemberState, ScalingMember};
use crate::state::Transaction;

pub(super) fn enter(
    tx: &mut Transaction<'_>,
    input: api::EnterStandbyQuery,
) -> Result<api::EnterStandbyAnswer, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    let members = cloned(named_members(tx.view(), &group, &input.instance_ids)?);
    let is_out = |member: &&ScalingMember| !matches!(member.state, MemberState::InService { .. });
    if let Some(member) = members.iter().find(is_out) {
        return Err(wrong_state(member.id.instance, "InService"));
    }
    let is_smaller = input.should_decrement_desired_capacity;
    if is_smaller {
        capacity::shrink(tx, &group, count(&members), "place into standby")?;
    }
    let mut activities = Vec::new();
    for (at, member) in (0..).zip(members) {
        let size = is_smaller.then(|| (group.desired - at, group.desired - at - 1));
        let cause = cause::of_request(member.id.instance, "moved to standby", size, tx.now());
        activities.push(done(tx, &member, ActivityKind::EnterStandby, cause));
        tx.put(ScalingMember { state: MemberState::Standby, ..member });
    }
    Ok(api::EnterStandbyAnswer { activities: Some(activities.into_iter().flatten().collect()) })
}

pub(super) fn exit(
    tx: &mut Transaction<'_>,
    input: api::ExitStandbyQuery,
) -> Result<api::ExitStandbyAnswer, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    let members = cloned(named_members(tx.view(), &group, &input.instance_ids)?);
    if let Some(member) = members.iter().find(|member| member.state != MemberState::Standby) {
        return Err(wrong_state(member.id.instance, "Standby"));
    }
    capacity::grow(tx, &group, count(&members), "move out of standby")?;
    let mut activities = Vec::new();
    for (at, member) in (0..).zip(members) {
        let size = Some((group.desired + at, group.desired + at + 1));
        let instance = member.id.instance;
        let begun = Begun {
            kind: ActivityKind::ExitStandby,
            instance: Some(instance),
            place: member.place,
            cause: cause::of_request(instance, "moved out of standby", size, tx.now()),
            status: ActivityStatus::PreInService,
        };
        let activity = activity::begin(tx, group.id, begun);
        tx.put(ScalingMember { state: MemberState::Pending { activity, is_new: false }, ..member });
        activities.extend(activity::shown_by_number(tx, group.id, activity));
    }
    Ok(api::ExitStandbyAnswer { activities: Some(activities) })
}

fn cloned(members: Vec<&ScalingMember>) -> Vec<ScalingMember> {
    members.into_iter().cloned().collect()
}

fn count(members: &[ScalingMember]) -> u32 {
    u32::try_from(members.len()).unwrap_or(u32::MAX)
}

/// Tells of what is done with this.
pub(super) fn done(
    tx: &mut Transaction<'_>,
    member: &ScalingMember,
    kind: ActivityKind,
    cause: String,
) -> Option<api::Activity> {
    let (instance, status) = (Some(member.id.instance), ActivityStatus::Successful);
    let begun = Begun { kind, instance, place: member.place, cause, status };
    let activity = activity::begin(tx, member.id.group, begun);
    activity::shown_by_number(tx, member.id.group, activity)
}
