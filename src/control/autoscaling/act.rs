//! Does what was decided, all in the transaction in which it was decided.

use aws::Error;
use jiff::{SignedDuration, Timestamp};
use types::{InstanceId, Uuid};

use super::activity::{self, Begun};
use super::decide::{Action, BACK_OFF_MAX, Rule, Step, after, backs_off, decide};
use super::observe::situation;
use super::{cause, launch, schedule};
use crate::ec2::instance::lifecycle;
use crate::records::{
    ActivityKind, ActivityStatus, CapacityChange, Cause, HookWait, Instance, InstanceState, LaunchFailure,
    LifecycleAction, MemberId, MemberState, Place, ScalingActivity, ScalingGroup, ScalingMember, Transition,
    Unhealthy,
};
use crate::state::Transaction;

/// How many steps are taken in one transaction.
const STEPS_MAX: usize = 100;
/// After the first launch that fails in a place.
const BACK_OFF: SignedDuration = SignedDuration::from_secs(5);

/// Does what is to be done about a group now. Says when it is to be asked again though nothing has changed: at once, if there is more to do.
pub(crate) fn pass(tx: &mut Transaction<'_>, group: Uuid) -> Option<Timestamp> {
    let mut left = STEPS_MAX;
    loop {
        let view = tx.view();
        let decision = decide(&situation(view, group)?);
        if decision.steps.is_empty() {
            let is_full = decision.holds.is_empty();
            if is_full && tx.get::<ScalingGroup>(group).is_some_and(|group| group.replaced > 0) {
                tx.update::<ScalingGroup>(group, |group| group.replaced = 0);
            }
            return decision.next;
        }
        if left == 0 {
            return Some(tx.now());
        }
        let change = tx.get::<ScalingGroup>(group).and_then(|group| group.change.clone());
        for step in decision.steps.iter().take(left) {
            tracing::debug!(%group, action = ?step.action, rule = %step.rule, "scaling");
            take(tx, group, step, change.as_ref());
        }
        left = left.saturating_sub(decision.steps.len());
        let is_told = |step: &Step| matches!(step.rule, Rule::Below { .. } | Rule::Above { .. });
        if change.is_some() && decision.steps.iter().any(is_told) {
            tx.update::<ScalingGroup>(group, |group| group.change = None);
        }
    }
}

fn take(tx: &mut Transaction<'_>, group: Uuid, step: &Step, change: Option<&CapacityChange>) {
    let member = |instance| MemberId { group, instance };
    match step.action {
        Action::Launch { place, is_spare } => {
            let change = change.filter(|_| matches!(step.rule, Rule::Below { .. }));
            let cause = cause::of_launch(change, &step.rule, tx.now());
            begin_launch(tx, group, place, is_spare, cause, step.rule == Rule::Replaces);
        }
        Action::Arrive(id) => arrive(tx, member(id)),
        Action::Admit(id) => admit(tx, member(id)),
        Action::TimeOut { instance, token, result } => {
            tx.update::<ScalingMember>(member(instance), |member| {
                if let Some(action) = member.state.action_mut() {
                    action.end(token, result);
                }
            });
        }
        Action::Abandon(id) => abandon(tx, member(id), &step.rule, change),
        Action::Retire(id) => {
            let cause = cause::of_retirement(change, &step.rule, id, tx.now());
            if step.rule.is_unhealthy() {
                tx.update::<ScalingGroup>(group, |group| group.replaced += 1);
                // It is told so until it is gone.
                let unhealthy = Some(Unhealthy { respects_grace: false });
                tx.update::<ScalingMember>(member(id), |member| member.unhealthy = unhealthy);
            }
            retire(tx, member(id), cause);
        }
        Action::End(id) => end(tx, member(id)),
        Action::Remove(id) => remove(tx, member(id)),
        Action::Happen { scheduled, is_skipped } => schedule::happen(tx, group, scheduled, is_skipped),
        Action::RemoveGroup => remove_group(tx, group),
    }
}

/// An instance, its membership and the activity that tells of it; or an activity that tells why there is none.
fn begin_launch(
    tx: &mut Transaction<'_>,
    id: Uuid,
    place: Place,
    is_spare: bool,
    cause: String,
    is_replacement: bool,
) {
    let Some(group) = tx.get::<ScalingGroup>(id).cloned() else { return };
    // One of those that were decided on together has failed there.
    if backs_off(&group, place, tx.now()).is_some() {
        return;
    }
    let uuid = tx.new_id();
    let begun = |instance| Begun {
        kind: ActivityKind::Launch,
        instance,
        place,
        cause,
        status: ActivityStatus::PreInService,
    };
    match tx.attempt(|tx| launch::launch(tx, &group, place, uuid)) {
        Ok((instance, template)) => {
            let activity = activity::begin_as(tx, id, uuid, begun(Some(instance)));
            tx.put(ScalingMember {
                id: MemberId { group: id, instance },
                place,
                template: Some(template),
                is_protected: group.protects_new,
                is_spare,
                unhealthy: None,
                state: MemberState::Pending { activity, is_new: true },
            });
            if is_replacement {
                tx.update::<ScalingGroup>(id, |group| group.replaced = group.replaced.saturating_sub(1));
            }
        }
        Err(error) => {
            let activity = activity::begin_as(tx, id, uuid, begun(None));
            activity::end(tx, id, activity, ActivityStatus::Failed, Some(failed(&error)));
            back_off(tx, id, place);
        }
    }
}

/// As AWS tells it.
fn failed(error: &Error) -> String {
    let message = error.message.trim_end_matches('.');
    format!("{message}. Launching EC2 instance failed.")
}

/// Twice as long as last time.
fn back_off(tx: &mut Transaction<'_>, group: Uuid, place: Place) {
    let now = tx.now();
    tx.update::<ScalingGroup>(group, |group| {
        let count = group.failure_in(place.subnet).map_or(0, |failure| failure.count).saturating_add(1);
        let wait = BACK_OFF.checked_mul(1 << (count - 1).min(16)).unwrap_or(BACK_OFF_MAX).min(BACK_OFF_MAX);
        let until = now.saturating_add(wait).unwrap_or(Timestamp::MAX);
        group.failures.retain(|failure| failure.subnet != place.subnet);
        group.failures.push(LaunchFailure { subnet: place.subnet, count, until });
    });
}

/// Its instance runs: its hooks are called, if it is new and there are any.
fn arrive(tx: &mut Transaction<'_>, id: MemberId) {
    let Some(member) = tx.get::<ScalingMember>(id).cloned() else { return };
    let MemberState::Pending { activity, is_new } = member.state else { return };
    let action = if is_new { call_hooks(tx, id.group, Transition::Launching) } else { None };
    match action {
        Some(action) => {
            activity::enter(tx, id.group, activity, ActivityStatus::MidLifecycleAction);
            tx.put(ScalingMember { state: MemberState::PendingWait { activity, action }, ..member });
        }
        None => serve(tx, member, activity),
    }
}

fn admit(tx: &mut Transaction<'_>, id: MemberId) {
    let Some(member) = tx.get::<ScalingMember>(id).cloned() else { return };
    if let MemberState::PendingWait { activity, .. } = member.state {
        serve(tx, member, activity);
    }
}

fn serve(tx: &mut Transaction<'_>, member: ScalingMember, activity: u64) {
    let (group, subnet, now) = (member.id.group, member.place.subnet, tx.now());
    let state = MemberState::InService { since: now };
    tx.put(ScalingMember { state, is_spare: false, unhealthy: None, ..member });
    activity::end(tx, group, activity, ActivityStatus::Successful, None);
    tx.update::<ScalingGroup>(group, |group| {
        group.scaled = Some(now);
        // Whatever failed there, it works.
        group.failures.retain(|failure| failure.subnet != subnet);
    });
}

/// Calls the hooks of a transition, if there are any.
fn call_hooks(tx: &mut Transaction<'_>, group: Uuid, transition: Transition) -> Option<LifecycleAction> {
    let hooks: Vec<_> = tx.get::<ScalingGroup>(group)?.hooks_of(transition).cloned().collect();
    let now = tx.now();
    let until = |time| now.saturating_add(time).unwrap_or(Timestamp::MAX);
    let mut waits = Vec::with_capacity(hooks.len());
    for hook in hooks {
        let token = tx.new_id();
        waits.push(HookWait {
            token,
            heartbeat_s: hook.heartbeat_s,
            default_result: hook.default_result,
            until: until(hook.heartbeat()),
            until_max: until(hook.wait_max()),
            hook: hook.name,
        });
    }
    (!waits.is_empty()).then_some(LifecycleAction { waits, abandoned: None })
}

/// It never came into service. Of one that ended by itself nothing more is told.
fn abandon(tx: &mut Transaction<'_>, id: MemberId, rule: &Rule, change: Option<&CapacityChange>) {
    let Some(member) = tx.get::<ScalingMember>(id).cloned() else { return };
    let (MemberState::Pending { activity, .. } | MemberState::PendingWait { activity, .. }) = member.state
    else {
        return;
    };
    if let Rule::Abandoned { token } = rule {
        let message = format!(
            "Instance failed to complete user's Lifecycle Action: Lifecycle Action with token {token} was abandoned: Lifecycle Action Completed with ABANDON Result"
        );
        activity::end(tx, id.group, activity, ActivityStatus::Cancelled, Some(message));
        back_off(tx, id.group, member.place);
        let cause = cause::of_retirement(change, rule, id.instance, tx.now());
        depart(tx, member, cause, true);
        return;
    }
    let reason = tx.get::<Instance>(id.instance).and_then(|instance| reason(&instance.state));
    let message = format!(
        "Instance became unhealthy while waiting for instance to be in InService state. Termination Reason: {}",
        reason.unwrap_or_else(|| "the instance is gone".to_owned())
    );
    activity::end(tx, id.group, activity, ActivityStatus::Failed, Some(message));
    // That one which was there before does not come back says nothing of launches.
    if !matches!(member.state, MemberState::Pending { is_new: false, .. }) {
        back_off(tx, id.group, member.place);
    }
    tx.put(ScalingMember { state: MemberState::Terminating { activity: None }, ..member });
    shut_down(tx, id.instance);
}

/// Why an instance does not run, as EC2 tells it.
fn reason(state: &InstanceState) -> Option<String> {
    let (InstanceState::Stopping { cause, .. }
    | InstanceState::Stopped { cause, .. }
    | InstanceState::ShuttingDown { cause, .. }
    | InstanceState::Terminated { cause, .. }) = state
    else {
        return None;
    };
    Some(match cause {
        Cause::User => "Client.UserInitiatedShutdown: User initiated shutdown".to_owned(),
        Cause::Guest => "Client.InstanceInitiatedShutdown: Instance initiated shutdown".to_owned(),
        Cause::Failure { code, message } => format!("{code}: {message}"),
    })
}

/// Has a member leave: its hooks are called, unless there is nothing left of it or its group goes. Gives back the number of the activity.
pub(super) fn retire(tx: &mut Transaction<'_>, id: MemberId, cause: String) -> Option<u64> {
    let member = tx.get::<ScalingMember>(id).cloned()?;
    match member.state {
        MemberState::Pending { activity, .. } | MemberState::PendingWait { activity, .. } => {
            activity::end(tx, id.group, activity, ActivityStatus::Cancelled, None);
            depart(tx, member, cause, true)
        }
        MemberState::InService { .. } | MemberState::Standby => depart(tx, member, cause, false),
        // Nobody waits for its hooks any more.
        MemberState::TerminatingWait { activity, .. } => {
            end(tx, id);
            Some(activity)
        }
        MemberState::Terminating { activity } => activity,
    }
}

/// Begins the activity that ends when the instance is terminated.
fn depart(tx: &mut Transaction<'_>, member: ScalingMember, cause: String, is_early: bool) -> Option<u64> {
    let id = member.id;
    let instance = Some(id.instance);
    let (kind, status) = (ActivityKind::Terminate, ActivityStatus::InProgress);
    let activity =
        activity::begin(tx, id.group, Begun { kind, instance, place: member.place, cause, status });
    let is_up = tx.get::<Instance>(id.instance).is_some_and(|instance| {
        matches!(instance.state, InstanceState::Running | InstanceState::Stopped { .. })
    });
    let is_deleting = tx.get::<ScalingGroup>(id.group).is_none_or(|group| group.is_deleting);
    let action = match is_up && !is_deleting && !is_early {
        true => call_hooks(tx, id.group, Transition::Terminating),
        false => None,
    };
    match action {
        Some(action) => {
            activity::enter(tx, id.group, activity, ActivityStatus::MidLifecycleAction);
            tx.put(ScalingMember { state: MemberState::TerminatingWait { activity, action }, ..member });
        }
        None => {
            tx.put(ScalingMember { state: MemberState::Terminating { activity: Some(activity) }, ..member });
            shut_down(tx, id.instance);
        }
    }
    Some(activity)
}

/// Its hooks are over.
fn end(tx: &mut Transaction<'_>, id: MemberId) {
    let Some(member) = tx.get::<ScalingMember>(id).cloned() else { return };
    if let MemberState::TerminatingWait { activity, .. } = member.state {
        activity::enter(tx, id.group, activity, ActivityStatus::InProgress);
        tx.put(ScalingMember { state: MemberState::Terminating { activity: Some(activity) }, ..member });
    }
    shut_down(tx, id.instance);
}

/// Termination protection keeps nobody's group from it.
fn shut_down(tx: &mut Transaction<'_>, id: InstanceId) {
    let Some(instance) = tx.get::<Instance>(id) else { return };
    if matches!(instance.state, InstanceState::ShuttingDown { .. } | InstanceState::Terminated { .. }) {
        return;
    }
    let since = tx.now();
    lifecycle::enter(tx, id, InstanceState::ShuttingDown { cause: Cause::User, since });
}

fn remove(tx: &mut Transaction<'_>, id: MemberId) {
    let Some(member) = tx.get::<ScalingMember>(id) else { return };
    if let MemberState::Terminating { activity: Some(activity) } = member.state {
        activity::end(tx, id.group, activity, ActivityStatus::Successful, None);
    }
    tx.remove::<ScalingMember>(id);
    let now = tx.now();
    tx.update::<ScalingGroup>(id.group, |group| group.scaled = Some(now));
}

/// With all that tells of it.
pub(super) fn remove_group(tx: &mut Transaction<'_>, group: Uuid) {
    let told: Vec<_> = activity::all(tx.view(), group).map(|activity| activity.id).collect();
    told.into_iter().for_each(|id| tx.remove::<ScalingActivity>(id));
    tx.remove::<ScalingGroup>(group);
}

/// When a change of size that honours the cooldown may come, if not now.
pub(super) fn cooldown_end(group: &ScalingGroup, now: Timestamp) -> Option<Timestamp> {
    let end = group.scaled.map(|scaled| after(scaled, group.cooldown_s));
    end.filter(|end| *end > now)
}
