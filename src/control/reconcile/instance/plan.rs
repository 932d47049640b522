//! What is to be done about an instance: a pure function of its record and of what its host says.

use jiff::{SignedDuration, Timestamp};

use crate::ports::{End, Machine};
use crate::records::{Cause, Instance, InstanceState, Outage, Rest, ShutdownBehavior};

/// How long a guest may take to power off when it is asked to.
pub const GRACE: SignedDuration = SignedDuration::from_secs(120);

/// When its power button is pressed again: a guest that is still booting hears it not.
pub const PRESS_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// How long a host is asked to start an instance, while something comes between that may be over soon.
pub const START_PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// How long one can ask for an instance that is terminated.
pub const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

/// The volumes that an instance is to be started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volumes {
    Ready,
    /// Some are still being made.
    Making,
    /// One cannot be made: what a person should know.
    Failed(String),
}

/// What an instance's plan depends on beside it and its microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    pub volumes: Volumes,
    /// Snapshots of its volumes that begin when its guest has shut down.
    pub is_awaited: bool,
    /// When its power button was last pressed.
    pub asked: Option<Timestamp>,
}

/// The next step. After it there may be another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// On the host: begin a microVM for it.
    Start,
    PressPowerButton,
    /// On the host; then the record says that it was done.
    Reset,
    Kill,
    /// On the host: remove what is left of its microVM.
    Forget,
    /// In the record.
    Enter(InstanceState),
    /// In the record: the outage is past.
    Recover,
    /// In the record: how far its rest has come, if nothing else waits for it by then.
    Rest(Option<Rest>),
    /// In the record: the rest is past.
    Wake,
    /// The record is removed.
    Drop,
    /// Nothing, until something changes or it is this time.
    Wait(Option<Timestamp>),
}

/// The next step for an instance whose microVM is so.
pub fn plan(instance: &Instance, machine: Option<&Machine>, around: &Around, now: Timestamp) -> Step {
    let is_cut_off = instance.outage.is_some_and(|outage| !outage.is_over);
    if is_cut_off && machine == Some(&Machine::Running) {
        return Step::Kill;
    }
    let rest = instance.rest.filter(|_| instance.state == InstanceState::Running);
    if let Some(step) = rest.and_then(|rest| at_rest(rest, machine, around, is_cut_off, now)) {
        return step;
    }
    if let Some(step) = instance.outage.and_then(|outage| in_outage(instance, outage, machine)) {
        return step;
    }
    match (&instance.state, machine) {
        (InstanceState::Pending, None) => match &around.volumes {
            Volumes::Ready if !around.is_awaited => Step::Start,
            // Each of them has a deadline of its own.
            Volumes::Ready | Volumes::Making => Step::Wait(None),
            Volumes::Failed(message) => Step::Enter(not_started(instance, failure(message.clone()), now)),
        },
        (InstanceState::Pending, Some(Machine::Running)) => Step::Enter(InstanceState::Running),
        // Of an earlier start, or of one that failed at once: that it ran is told first.
        (InstanceState::Pending, Some(Machine::Ended(End::PoweredOff))) => {
            Step::Enter(InstanceState::Running)
        }
        (InstanceState::Pending, Some(Machine::Ended(end))) => {
            Step::Enter(not_started(instance, cause(end), now))
        }
        (InstanceState::Running, Some(Machine::Running)) if instance.rest.is_some() => {
            Step::Rest(around.is_awaited.then_some(Rest::ShuttingDown { since: now }))
        }
        (InstanceState::Running, Some(Machine::Running))
            if instance.reboots_done != instance.reboots_wanted =>
        {
            Step::Reset
        }
        (InstanceState::Running, Some(Machine::Running)) => Step::Wait(None),
        (InstanceState::Running, Some(Machine::Ended(end))) => {
            Step::Enter(after_end(instance, cause(end), now))
        }
        (InstanceState::Running, None) => Step::Enter(after_end(instance, vanished(), now)),
        (InstanceState::Stopping { is_forced: true, .. }, Some(Machine::Running)) => Step::Kill,
        (
            InstanceState::Stopping { since, .. } | InstanceState::ShuttingDown { since, .. },
            Some(Machine::Running),
        ) => power_off(*since, around.asked, now),
        (_, Some(Machine::Ended(_))) => Step::Forget,
        (InstanceState::Stopping { cause, .. }, None) => {
            Step::Enter(InstanceState::Stopped { cause: cause.clone(), since: now })
        }
        (InstanceState::ShuttingDown { cause, .. }, None) => {
            Step::Enter(InstanceState::Terminated { cause: cause.clone(), since: now })
        }
        (InstanceState::Terminated { since, .. }, None) => {
            let end = since.saturating_add(REMEMBERED).unwrap_or(Timestamp::MAX);
            if now >= end { Step::Drop } else { Step::Wait(Some(end)) }
        }
        (InstanceState::Stopped { .. }, None) => Step::Wait(None),
        // Nobody should have started it.
        (InstanceState::Stopped { .. } | InstanceState::Terminated { .. }, Some(Machine::Running)) => {
            Step::Kill
        }
    }
}

/// A guest that is to power off since then.
fn power_off(since: Timestamp, asked: Option<Timestamp>, now: Timestamp) -> Step {
    let deadline = since.saturating_add(GRACE).unwrap_or(Timestamp::MAX);
    let again = asked.map(|asked| asked.saturating_add(PRESS_AGAIN).unwrap_or(Timestamp::MAX));
    match again {
        _ if now >= deadline => Step::Kill,
        Some(again) if now < again => Step::Wait(Some(deadline.min(again))),
        Some(_) | None => Step::PressPowerButton,
    }
}

/// What a rest has first, once it is under way. Who is cut off by an outage is started after that.
fn at_rest(
    rest: Rest,
    machine: Option<&Machine>,
    around: &Around,
    is_cut_off: bool,
    now: Timestamp,
) -> Option<Step> {
    let step = match (rest, machine) {
        (Rest::Wanted, _) => return None,
        // It has booted, and what became of it then is told next.
        (Rest::Over, Some(_)) => Step::Wake,
        (Rest::Over, None) if is_cut_off => Step::Wait(None),
        (Rest::Over, None) => Step::Start,
        (Rest::ShuttingDown { since }, Some(Machine::Running)) => power_off(since, around.asked, now),
        // Nobody should have started it.
        (Rest::Begun, Some(Machine::Running)) => Step::Kill,
        (_, Some(Machine::Ended(_))) => Step::Forget,
        (Rest::ShuttingDown { .. }, None) => Step::Rest(Some(Rest::Begun)),
        (Rest::Begun, None) if around.is_awaited => Step::Wait(None),
        (Rest::Begun, None) => Step::Rest(Some(Rest::Over)),
    };
    Some(step)
}

/// What an outage has first: nothing runs while it lasts, and what was running does so again after it.
fn in_outage(instance: &Instance, outage: Outage, machine: Option<&Machine>) -> Option<Step> {
    match (&instance.state, machine) {
        (InstanceState::Running, Some(Machine::Running)) => Some(Step::Recover),
        (InstanceState::Running, Some(Machine::Ended(_))) => Some(Step::Forget),
        (InstanceState::Running, None) if outage.is_over => Some(Step::Start),
        (InstanceState::Running, None) => Some(Step::Wait(None)),
        _ => None,
    }
}

/// Whether there is time left to try to start an instance again.
pub fn may_start(instance: &Instance, now: Timestamp) -> bool {
    now.duration_since(instance.launched) < START_PATIENCE
}

/// What becomes of one that cannot be started. One that never ran goes: nobody would look for it, and it holds nothing. Another is stopped
/// again, with all that its volumes hold.
pub fn not_started(instance: &Instance, cause: Cause, now: Timestamp) -> InstanceState {
    if instance.has_run {
        InstanceState::Stopping { cause, is_forced: false, since: now }
    } else {
        InstanceState::ShuttingDown { cause, since: now }
    }
}

fn after_end(instance: &Instance, cause: Cause, now: Timestamp) -> InstanceState {
    match (&cause, instance.shutdown_behavior) {
        (Cause::Guest, ShutdownBehavior::Terminate) => InstanceState::ShuttingDown { cause, since: now },
        // What failed is stopped, so that its disks can be looked at.
        _ => InstanceState::Stopping { cause, is_forced: false, since: now },
    }
}

fn cause(end: &End) -> Cause {
    match end {
        End::PoweredOff => Cause::Guest,
        End::Killed => failure("the microVM was killed".to_owned()),
        End::Failed(message) => failure(message.clone()),
    }
}

fn vanished() -> Cause {
    failure("the host that ran it does not know it any more".to_owned())
}

fn failure(message: String) -> Cause {
    Cause::Failure { code: "Server.InternalError".to_owned(), message }
}
