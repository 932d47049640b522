//! Activities: what was done about a group's instances, and why.

use aws::autoscaling::{self as api, ScalingActivityStatusCode as Code};
use aws::{Call, Error};
use types::{InstanceId, Uuid};

use super::errors::{invalid, no_group};
use super::observe::by_name;
use super::page::page;
use crate::records::{ActivityId, ActivityKind, ActivityStatus, Place, ScalingActivity, ScalingGroup};
use crate::state::{Transaction, View};

/// So many of a group are remembered, the newest.
const REMEMBERED: u64 = 1000;
/// A cause has so many characters at most, and a message.
const CAUSE_CHARS_MAX: usize = 1023;
const MESSAGE_CHARS_MAX: usize = 255;

/// What an activity is from its beginning.
pub(super) struct Begun {
    pub kind: ActivityKind,
    pub instance: Option<InstanceId>,
    pub place: Place,
    pub cause: String,
    pub status: ActivityStatus,
}

/// Notes that something is done about a group, and gives back its number. What is over before is remembered as long as there is room.
pub(super) fn begin(tx: &mut Transaction<'_>, group: Uuid, begun: Begun) -> u64 {
    let uuid = tx.new_id();
    begin_as(tx, group, uuid, begun)
}

/// As [`begin`], with an id that was chosen before.
pub(super) fn begin_as(tx: &mut Transaction<'_>, group: Uuid, uuid: Uuid, begun: Begun) -> u64 {
    let Begun { kind, instance, place, cause, status } = begun;
    let mut number = 0;
    tx.update::<ScalingGroup>(group, |group| {
        group.activities += 1;
        number = group.activities;
    });
    let (id, start) = (ActivityId { group, number }, tx.now());
    let cause = cause.chars().take(CAUSE_CHARS_MAX).collect();
    let end = matches!(status, ActivityStatus::Successful).then_some(start);
    tx.put(ScalingActivity { id, uuid, kind, instance, place, cause, start, end, status, message: None });
    let oldest = ActivityId { group, number: number.saturating_sub(REMEMBERED) };
    if tx.get::<ScalingActivity>(oldest).is_some_and(|activity| activity.end.is_some()) {
        tx.remove::<ScalingActivity>(oldest);
    }
    number
}

/// Notes how far it is.
pub(super) fn enter(tx: &mut Transaction<'_>, group: Uuid, number: u64, status: ActivityStatus) {
    tx.update::<ScalingActivity>(ActivityId { group, number }, |activity| activity.status = status);
}

/// Notes how it ended. One that was to be forgotten long ago is forgotten.
pub(super) fn end(
    tx: &mut Transaction<'_>,
    group: Uuid,
    number: u64,
    status: ActivityStatus,
    message: Option<String>,
) {
    let (id, now) = (ActivityId { group, number }, tx.now());
    let newest = tx.get::<ScalingGroup>(group).map_or(0, |group| group.activities);
    if newest.saturating_sub(number) >= REMEMBERED {
        tx.remove::<ScalingActivity>(id);
        return;
    }
    tx.update::<ScalingActivity>(id, |activity| {
        activity.status = status;
        activity.end = Some(now);
        activity.message = message.map(|message| message.chars().take(MESSAGE_CHARS_MAX).collect());
    });
}

/// Those of a group, the oldest first.
pub(super) fn all(view: View<'_>, group: Uuid) -> impl DoubleEndedIterator<Item = &ScalingActivity> {
    view.tables().scaling_activities.range(ActivityId::of(group)).map(AsRef::as_ref)
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<api::DescribeScalingActivitiesType>,
) -> Result<api::ActivitiesType, Error> {
    let input = &call.input;
    let groups: Vec<&ScalingGroup> = match &input.auto_scaling_group_name {
        Some(name) => vec![by_name(view, name).ok_or_else(|| no_group(name))?],
        None => view.tables().scaling_groups.iter().map(AsRef::as_ref).collect(),
    };
    let its = |group: &'_ ScalingGroup| all(view, group.id);
    let mut found: Vec<_> =
        groups.into_iter().flat_map(|group| its(group).map(move |activity| (group, activity))).collect();
    if !input.activity_ids.is_empty() {
        let wanted: Vec<Uuid> = input
            .activity_ids
            .iter()
            .map(|text| text.parse().map_err(|_| invalid(format!("Invalid activity id - '{text}'"))))
            .collect::<Result<_, _>>()?;
        found.retain(|(_, activity)| wanted.contains(&activity.uuid));
    }
    // The newest first; pages are cut by keys that grow.
    let key = |(group, activity): &(&ScalingGroup, &ScalingActivity)| {
        let (age, order) = (i64::MAX - activity.start.as_microsecond(), u64::MAX - activity.id.number);
        format!("{age:020}/{}/{order:020}", group.id)
    };
    found.sort_by_cached_key(key);
    let (found, next_token) = page::<api::DescribeScalingActivities, _, _>(call, found, key)?;
    let activities = found.into_iter().map(|(group, activity)| shown(view, group, activity)).collect();
    Ok(api::ActivitiesType { activities: Some(activities), next_token })
}

pub(super) fn shown(view: View<'_>, group: &ScalingGroup, activity: &ScalingActivity) -> api::Activity {
    api::Activity {
        activity_id: Some(activity.uuid.to_string()),
        auto_scaling_group_name: Some(group.name.clone()),
        auto_scaling_group_arn: Some(super::group::arn(view.space, group)),
        description: Some(description(activity)),
        cause: Some(activity.cause.clone()),
        start_time: Some(activity.start),
        end_time: activity.end,
        status_code: Some(code(activity.status)),
        status_message: activity.message.clone(),
        progress: Some(progress(activity.status)),
        details: Some(details(group, activity.place)),
        ..Default::default()
    }
}

/// As [`shown`], of one that was just noted.
pub(super) fn shown_by_number(tx: &Transaction<'_>, group: Uuid, number: u64) -> Option<api::Activity> {
    let view = tx.view();
    let activity = view.get::<ScalingActivity>(ActivityId { group, number })?;
    Some(shown(view, view.get::<ScalingGroup>(group)?, activity))
}

pub(super) fn description(activity: &ScalingActivity) -> String {
    let what = match activity.kind {
        ActivityKind::Launch => "Launching a new EC2 instance",
        ActivityKind::Terminate => "Terminating EC2 instance",
        ActivityKind::Attach => "Attaching an existing EC2 instance",
        ActivityKind::Detach => "Detaching EC2 instance",
        ActivityKind::EnterStandby => "Moving EC2 instance to Standby",
        ActivityKind::ExitStandby => "Moving EC2 instance out of Standby",
    };
    let who = activity.instance.map_or_else(String::new, |id| format!(": {id}"));
    match &activity.message {
        Some(message) if activity.status == ActivityStatus::Failed => {
            format!("{what}{who}.  Status Reason: {message}")
        }
        _ => format!("{what}{who}"),
    }
}

const fn code(status: ActivityStatus) -> Code {
    match status {
        ActivityStatus::PreInService => Code::PreInService,
        ActivityStatus::MidLifecycleAction => Code::MidLifecycleAction,
        ActivityStatus::InProgress => Code::InProgress,
        ActivityStatus::Successful => Code::Successful,
        ActivityStatus::Failed => Code::Failed,
        ActivityStatus::Cancelled => Code::Cancelled,
    }
}

/// In percent.
const fn progress(status: ActivityStatus) -> i32 {
    match status {
        ActivityStatus::PreInService => 30,
        ActivityStatus::InProgress => 50,
        ActivityStatus::MidLifecycleAction => 60,
        ActivityStatus::Successful | ActivityStatus::Failed | ActivityStatus::Cancelled => 100,
    }
}

/// In JSON.
fn details(group: &ScalingGroup, place: Place) -> String {
    if group.has_named_subnets {
        format!("{{\"Subnet ID\":\"{}\",\"Availability Zone\":\"{}\"}}", place.subnet, place.zone)
    } else {
        format!("{{\"Availability Zone\":\"{}\"}}", place.zone)
    }
}
