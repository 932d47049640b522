//! Lifecycle hooks: somebody is waited for when an instance is launched, or before it is terminated.
//!
//! Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html>. Hooks of a transition are all called at once. Nobody is notified here:
//! who waits asks for lifecycle states, or the instance itself completes its action, as from its user-data.

use aws::service::Empty;
use aws::{Call, Error, autoscaling as api};
use types::Uuid;

use super::decide::after;
use super::errors::{constraint, instance_id, invalid};
use super::group::shown_number;
use super::observe::{members, named};
use crate::records::{
    HookResult, HookWait, LifecycleHook, MemberId, MemberState, ScalingGroup, ScalingMember, Transition,
};
use crate::state::{Transaction, View};

const HOOKS_MAX: usize = 50;
/// What is waited for if nobody says otherwise.
const HEARTBEAT_S: u32 = 3600;
const HEARTBEATS_S: std::ops::RangeInclusive<i32> = 30..=7200;

/// A hook of a group that is made.
///
/// # Errors
/// When there cannot be such a hook.
pub(super) fn specified(input: &api::LifecycleHookSpecification) -> Result<LifecycleHook, Error> {
    Ok(LifecycleHook {
        name: input.lifecycle_hook_name.clone(),
        transition: transition(&input.lifecycle_transition)?,
        metadata: input.notification_metadata.clone(),
        heartbeat_s: input.heartbeat_timeout.map_or(Ok(HEARTBEAT_S), heartbeat_s)?,
        default_result: input.default_result.as_deref().map_or(Ok(HookResult::Abandon), result)?,
    })
}

fn transition(text: &str) -> Result<Transition, Error> {
    Transition::of(text).ok_or_else(|| {
        let [launching, terminating] =
            [Transition::Launching, Transition::Terminating].map(Transition::as_str);
        invalid(format!("Invalid Lifecycle Transition {text}: it is {launching} or {terminating}"))
    })
}

fn result(text: &str) -> Result<HookResult, Error> {
    HookResult::of(text)
        .ok_or_else(|| invalid(format!("Invalid Lifecycle Action Result {text}: it is CONTINUE or ABANDON")))
}

fn heartbeat_s(seconds: i32) -> Result<u32, Error> {
    let allowed = u32::try_from(seconds).ok().filter(|_| HEARTBEATS_S.contains(&seconds));
    let (min, max) = (HEARTBEATS_S.start(), HEARTBEATS_S.end());
    allowed.ok_or_else(|| {
        constraint(seconds, "heartbeatTimeout", format!("Member must have value between {min} and {max}"))
    })
}

/// Puts a hook in the place of the one with its name, if there is one.
///
/// # Errors
/// When there would be too many.
pub(super) fn add(group: &mut ScalingGroup, hook: LifecycleHook) -> Result<(), Error> {
    match group.hooks.iter().position(|other| other.name == hook.name) {
        Some(place) => group.hooks[place] = hook,
        None if group.hooks.len() == HOOKS_MAX => {
            let message = format!("A group can have at most {HOOKS_MAX} lifecycle hooks.");
            return Err(Error::new("LimitExceeded", message));
        }
        None => group.hooks.push(hook),
    }
    Ok(())
}

/// Of a hook that there is, what is not said stays as it is.
pub(super) fn put(
    tx: &mut Transaction<'_>,
    input: api::PutLifecycleHookType,
) -> Result<api::PutLifecycleHookAnswer, Error> {
    let mut group = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    let before = group.hooks.iter().find(|hook| hook.name == input.lifecycle_hook_name);
    let transition = match (&input.lifecycle_transition, before) {
        (Some(text), _) => transition(text)?,
        (None, Some(before)) => before.transition,
        (None, None) => return Err(constraint("null", "lifecycleTransition", "Member must not be null")),
    };
    let heartbeat_s = input.heartbeat_timeout.map(heartbeat_s).transpose()?;
    let default_result = input.default_result.as_deref().map(result).transpose()?;
    let hook = LifecycleHook {
        transition,
        metadata: input.notification_metadata.or_else(|| before.and_then(|before| before.metadata.clone())),
        heartbeat_s: heartbeat_s.or(before.map(|before| before.heartbeat_s)).unwrap_or(HEARTBEAT_S),
        default_result: default_result
            .or(before.map(|before| before.default_result))
            .unwrap_or(HookResult::Abandon),
        name: input.lifecycle_hook_name,
    };
    add(&mut group, hook)?;
    tx.put(group);
    Ok(api::PutLifecycleHookAnswer {})
}

/// Who waits for it waits no more: those on their way in are abandoned, those on their way out go on.
pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: api::DeleteLifecycleHookType,
) -> Result<api::DeleteLifecycleHookAnswer, Error> {
    let mut group = named(tx.view(), &input.auto_scaling_group_name)?.clone();
    let name = &input.lifecycle_hook_name;
    let before = group.hooks.len();
    group.hooks.retain(|hook| hook.name != *name);
    if group.hooks.len() == before {
        return Err(invalid(format!(
            "No Lifecycle Hook found with name {name} in AutoScalingGroup {}",
            group.name
        )));
    }
    let ended = waits(tx.view(), &group, name, |_, _| true);
    for (id, token) in ended {
        tx.update::<ScalingMember>(id, |member| {
            let result = match member.state {
                MemberState::PendingWait { .. } => HookResult::Abandon,
                _ => HookResult::Continue,
            };
            if let Some(action) = member.state.action_mut() {
                action.end(token, result);
            }
        });
    }
    tx.put(group);
    Ok(api::DeleteLifecycleHookAnswer {})
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<api::DescribeLifecycleHooksType>,
) -> Result<api::DescribeLifecycleHooksAnswer, Error> {
    let input = &call.input;
    let group = named(view, &input.auto_scaling_group_name)?;
    let names = &input.lifecycle_hook_names;
    let wanted = group.hooks.iter().filter(|hook| names.is_empty() || names.contains(&hook.name));
    let shown = wanted.map(|hook| api::LifecycleHook {
        lifecycle_hook_name: Some(hook.name.clone()),
        auto_scaling_group_name: Some(group.name.clone()),
        lifecycle_transition: Some(hook.transition.as_str().to_owned()),
        notification_metadata: hook.metadata.clone(),
        heartbeat_timeout: Some(shown_number(hook.heartbeat_s)),
        global_timeout: i32::try_from(hook.wait_max().as_secs()).ok(),
        default_result: Some(hook.default_result.as_str().to_owned()),
        ..Default::default()
    });
    Ok(api::DescribeLifecycleHooksAnswer { lifecycle_hooks: Some(shown.collect()) })
}

pub(super) fn types(_: View<'_>, _: &Call<Empty>) -> Result<api::DescribeLifecycleHookTypesAnswer, Error> {
    let words = Transition::ALL.iter().map(|transition| transition.as_str().to_owned());
    Ok(api::DescribeLifecycleHookTypesAnswer { lifecycle_hook_types: Some(words.collect()) })
}

pub(super) fn complete(
    tx: &mut Transaction<'_>,
    input: api::CompleteLifecycleActionType,
) -> Result<api::CompleteLifecycleActionAnswer, Error> {
    let result = result(&input.lifecycle_action_result)?;
    let named_by = NamedBy { token: input.lifecycle_action_token, instance: input.instance_id };
    let (id, token) = wait(tx.view(), &input.auto_scaling_group_name, &input.lifecycle_hook_name, &named_by)?;
    tx.update::<ScalingMember>(id, |member| {
        if let Some(action) = member.state.action_mut() {
            action.end(token, result);
        }
    });
    Ok(api::CompleteLifecycleActionAnswer {})
}

pub(super) fn heartbeat(
    tx: &mut Transaction<'_>,
    input: api::RecordLifecycleActionHeartbeatType,
) -> Result<api::RecordLifecycleActionHeartbeatAnswer, Error> {
    let named_by = NamedBy { token: input.lifecycle_action_token, instance: input.instance_id };
    let (id, token) = wait(tx.view(), &input.auto_scaling_group_name, &input.lifecycle_hook_name, &named_by)?;
    let now = tx.now();
    tx.update::<ScalingMember>(id, |member| {
        let waits = member.state.action_mut().into_iter().flat_map(|action| &mut action.waits);
        waits.filter(|wait| wait.token == token).for_each(|wait| wait.until = after(now, wait.heartbeat_s));
    });
    Ok(api::RecordLifecycleActionHeartbeatAnswer {})
}

/// How a request says which wait it means.
struct NamedBy {
    token: Option<String>,
    instance: Option<String>,
}

/// The wait that a request means.
fn wait(view: View<'_>, group: &str, hook: &str, named_by: &NamedBy) -> Result<(MemberId, Uuid), Error> {
    let group = named(view, group)?;
    let (found, what) = match (&named_by.token, &named_by.instance) {
        (Some(text), _) => {
            let token: Option<Uuid> = text.parse().ok();
            (waits(view, group, hook, |_, wait| Some(wait.token) == token), format!("token {text}"))
        }
        (None, Some(text)) => {
            let instance = instance_id(text)?;
            (waits(view, group, hook, |id, _| id.instance == instance), format!("instance ID {text}"))
        }
        (None, None) => {
            return Err(invalid("Either a lifecycle action token or an instance ID must be specified."));
        }
    };
    found.first().copied().ok_or_else(|| invalid(format!("No active Lifecycle Action found with {what}")))
}

/// Waits of members for a hook, that are as wanted.
fn waits(
    view: View<'_>,
    group: &ScalingGroup,
    hook: &str,
    is_wanted: impl Fn(MemberId, &HookWait) -> bool,
) -> Vec<(MemberId, Uuid)> {
    let mut found = Vec::new();
    for member in members(view, group.id) {
        let waits = member.state.action().into_iter().flat_map(|action| &action.waits);
        let wanted = waits.filter(|wait| wait.hook == hook && is_wanted(member.id, wait));
        found.extend(wanted.map(|wait| (member.id, wait.token)));
    }
    found
}
