//! Scheduled actions: a group's sizes change at a time, or again and again.
//!
//! Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-scheduled-scaling.html>. One whose time has come while nobody served happens
//! as soon as somebody does, once. One that is over is no more.

mod recurrence;

use aws::service::Empty;
use aws::{Call, Error, autoscaling as api};
use jiff::Timestamp;
use types::Uuid;

use super::errors::{invalid, natural, no_group};
use super::group::shown_number;
use super::observe::{by_name, named};
use super::page::page;
use crate::records::{CapacityChange, Recurrence, ScalingGroup, ScheduledAction};
use crate::state::{Space, Transaction, View};

const ACTIONS_MAX: usize = 125;
/// In one request.
const BATCH_MAX: usize = 50;

/// What is wanted of an action.
struct Wanted {
    name: String,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    recurrence: Option<String>,
    zone: Option<String>,
    min: Option<i32>,
    max: Option<i32>,
    desired: Option<i32>,
}

pub(super) fn put(
    tx: &mut Transaction<'_>,
    input: api::PutScheduledUpdateGroupActionType,
) -> Result<Empty, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.id;
    let wanted = Wanted {
        name: input.scheduled_action_name,
        // Its former name.
        start: input.start_time.or(input.time),
        end: input.end_time,
        recurrence: input.recurrence,
        zone: input.time_zone,
        min: input.min_size,
        max: input.max_size,
        desired: input.desired_capacity,
    };
    put_one(tx, group, wanted)?;
    Ok(Empty)
}

pub(super) fn put_all(
    tx: &mut Transaction<'_>,
    input: api::BatchPutScheduledUpdateGroupActionType,
) -> Result<api::BatchPutScheduledUpdateGroupActionAnswer, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.id;
    check_batch(input.scheduled_update_group_actions.len())?;
    let mut failed = Vec::new();
    for action in input.scheduled_update_group_actions {
        let name = action.scheduled_action_name.clone();
        let wanted = Wanted {
            name: action.scheduled_action_name,
            start: action.start_time,
            end: action.end_time,
            recurrence: action.recurrence,
            zone: action.time_zone,
            min: action.min_size,
            max: action.max_size,
            desired: action.desired_capacity,
        };
        failed.extend(tx.attempt(|tx| put_one(tx, group, wanted)).err().map(|error| refusal(name, error)));
    }
    Ok(api::BatchPutScheduledUpdateGroupActionAnswer { failed_scheduled_update_group_actions: Some(failed) })
}

fn check_batch(count: usize) -> Result<(), Error> {
    match count {
        0..=BATCH_MAX => Ok(()),
        _ => Err(invalid(format!("The number of scheduled actions in one request is at most {BATCH_MAX}."))),
    }
}

fn refusal(name: String, error: Error) -> api::FailedScheduledUpdateGroupActionRequest {
    api::FailedScheduledUpdateGroupActionRequest {
        scheduled_action_name: Some(name),
        error_code: Some(error.code.into_owned()),
        error_message: Some(error.message),
    }
}

/// Puts an action in the place of the one with its name, if there is one.
fn put_one(tx: &mut Transaction<'_>, group: Uuid, wanted: Wanted) -> Result<(), Error> {
    let id = tx.new_id();
    let action = read(id, wanted, tx.now())?;
    let mut group = tx.get::<ScalingGroup>(group).cloned().ok_or_else(Error::internal)?;
    group.schedule.retain(|other| other.name != action.name);
    if group.schedule.len() >= ACTIONS_MAX {
        let message = format!("A group can have at most {ACTIONS_MAX} scheduled actions.");
        return Err(Error::new("LimitExceeded", message));
    }
    group.schedule.push(action);
    tx.put(group);
    Ok(())
}

fn read(id: Uuid, wanted: Wanted, now: Timestamp) -> Result<ScheduledAction, Error> {
    let size = |value: Option<i32>, member| value.map(|value| natural(value, member)).transpose();
    let min = size(wanted.min, "minSize")?;
    let max = size(wanted.max, "maxSize")?;
    let desired = size(wanted.desired, "desiredCapacity")?;
    if min.is_none() && max.is_none() && desired.is_none() {
        return Err(invalid("At least one of min size, max size and desired capacity must be given"));
    }
    let bounds = min.unwrap_or(0)..=max.unwrap_or(u32::MAX);
    if bounds.is_empty() {
        return Err(invalid("Min value cannot be greater than max value"));
    }
    if desired.is_some_and(|desired| !bounds.contains(&desired)) {
        return Err(invalid("Desired capacity must be between min size and max size"));
    }
    if wanted.start.is_some_and(|start| start < now) {
        return Err(invalid("Given start time is in the past"));
    }
    if wanted.end.is_some_and(|end| end < now) {
        return Err(invalid("Given end time is in the past"));
    }
    if wanted.start.zip(wanted.end).is_some_and(|(start, end)| start > end) {
        return Err(invalid("Given start time is after the end time"));
    }
    if wanted.recurrence.is_none() && wanted.zone.is_some() {
        return Err(invalid("A time zone is given, and no recurrence that it is for"));
    }
    let recurrence = wanted.recurrence.map(|text| Recurrence { text, zone: wanted.zone });
    let next = match (&recurrence, wanted.start) {
        (Some(recurrence), start) => recurrence::next(recurrence, start.unwrap_or(now), start.is_some())?,
        (None, Some(start)) => Some(start),
        (None, None) => return Err(invalid("Either a start time or a recurrence must be given")),
    };
    let next = next.filter(|next| wanted.end.is_none_or(|end| *next <= end));
    let next = next.ok_or_else(|| invalid("The scheduled action would never happen"))?;
    let (name, start, end) = (wanted.name, wanted.start, wanted.end);
    Ok(ScheduledAction { id, name, start, end, recurrence, min, max, desired, next })
}

/// It happens, unless it is `skipped`, and is to happen next, if ever.
pub(super) fn happen(tx: &mut Transaction<'_>, group: Uuid, id: Uuid, is_skipped: bool) {
    let now = tx.now();
    tx.update::<ScalingGroup>(group, |group| {
        let Some(place) = group.schedule.iter().position(|action| action.id == id) else { return };
        let action = group.schedule.remove(place);
        if !is_skipped {
            resize(group, &action, now);
        }
        // What could be read once can be read again.
        let recurrence = action.recurrence.as_ref();
        let next = recurrence.and_then(|it| recurrence::next(it, now, false).ok().flatten());
        if let Some(next) = next.filter(|next| action.end.is_none_or(|end| *next <= end)) {
            group.schedule.push(ScheduledAction { next, ..action });
        }
    });
}

/// What is desired keeps within the bounds; they keep their order.
fn resize(group: &mut ScalingGroup, action: &ScheduledAction, now: Timestamp) {
    let before = group.desired;
    group.min = action.min.unwrap_or(group.min);
    group.max = action.max.unwrap_or(group.max);
    if action.max.is_some() {
        group.min = group.min.min(group.max);
    }
    group.max = group.max.max(group.min);
    group.desired = action.desired.unwrap_or(before).clamp(group.min, group.max);
    if group.desired != before {
        let ScalingGroup { min, max, desired, .. } = group;
        let why = format!(
            "a scheduled action update of AutoScalingGroup constraints to min: {min}, max: {max}, desired: {desired} changing the desired capacity from {before} to {desired}"
        );
        group.change = Some(CapacityChange { at: now, why });
    }
}

pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: api::DeleteScheduledActionType,
) -> Result<Empty, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.id;
    delete_one(tx, group, &input.scheduled_action_name)?;
    Ok(Empty)
}

pub(super) fn delete_all(
    tx: &mut Transaction<'_>,
    input: api::BatchDeleteScheduledActionType,
) -> Result<api::BatchDeleteScheduledActionAnswer, Error> {
    let group = named(tx.view(), &input.auto_scaling_group_name)?.id;
    check_batch(input.scheduled_action_names.len())?;
    let mut failed = Vec::new();
    for name in input.scheduled_action_names {
        failed.extend(delete_one(tx, group, &name).err().map(|error| refusal(name, error)));
    }
    Ok(api::BatchDeleteScheduledActionAnswer { failed_scheduled_actions: Some(failed) })
}

fn delete_one(tx: &mut Transaction<'_>, group: Uuid, name: &str) -> Result<(), Error> {
    let is_there = |group: &ScalingGroup| group.schedule.iter().any(|action| action.name == name);
    if !tx.get::<ScalingGroup>(group).is_some_and(is_there) {
        return Err(invalid(format!("Scheduled action name not found: {name}")));
    }
    tx.update::<ScalingGroup>(group, |group| group.schedule.retain(|action| action.name != name));
    Ok(())
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<api::DescribeScheduledActionsType>,
) -> Result<api::ScheduledActionsType, Error> {
    let input = &call.input;
    let groups: Vec<&ScalingGroup> = match &input.auto_scaling_group_name {
        Some(name) => vec![by_name(view, name).ok_or_else(|| no_group(name))?],
        None => view.tables().scaling_groups.iter().map(AsRef::as_ref).collect(),
    };
    let names = &input.scheduled_action_names;
    let is_wanted = |action: &ScheduledAction| {
        (names.is_empty() || names.contains(&action.name))
            && input.start_time.is_none_or(|start| action.next >= start)
            && input.end_time.is_none_or(|end| action.next <= end)
    };
    let groups = groups.into_iter();
    let all = groups.flat_map(|group| group.schedule.iter().map(move |action| (group, action)));
    let mut found: Vec<_> = all.filter(|(_, action)| is_wanted(action)).collect();
    let key =
        |(group, action): &(&ScalingGroup, &ScheduledAction)| format!("{}\u{0}{}", group.name, action.name);
    found.sort_by_cached_key(key);
    let (found, next_token) = page::<api::DescribeScheduledActions, _, _>(call, found, key)?;
    let shown = found.iter().map(|(group, action)| shown(view.space, &group.name, action)).collect();
    Ok(api::ScheduledActionsType { scheduled_update_group_actions: Some(shown), next_token })
}

fn shown(space: Space, group: &str, action: &ScheduledAction) -> api::ScheduledUpdateGroupAction {
    let Space { account, region } = space;
    let arn = format!(
        "arn:aws:autoscaling:{region}:{account}:scheduledUpdateGroupAction:{}:autoScalingGroupName/{group}:scheduledActionName/{}",
        action.id, action.name
    );
    api::ScheduledUpdateGroupAction {
        auto_scaling_group_name: Some(group.to_owned()),
        scheduled_action_name: Some(action.name.clone()),
        scheduled_action_arn: Some(arn),
        // When it happens next, under both of its names.
        time: Some(action.next),
        start_time: Some(action.next),
        end_time: action.end,
        recurrence: action.recurrence.as_ref().map(|recurrence| recurrence.text.clone()),
        time_zone: action.recurrence.as_ref().and_then(|recurrence| recurrence.zone.clone()),
        min_size: action.min.map(shown_number),
        max_size: action.max.map(shown_number),
        desired_capacity: action.desired.map(shown_number),
    }
}
