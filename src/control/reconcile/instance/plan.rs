//! What is to be done about an instance: a pure function of its record and of what its host says.

use jiff::{SignedDuration, Timestamp};

use crate::ports::{End, Machine};
use crate::records::{Cause, Instance, InstanceState, ShutdownBehavior};

/// How long a guest may take to power off when it is asked to.
pub const GRACE: SignedDuration = SignedDuration::from_secs(120);

/// How long one can ask for an instance that is terminated.
pub const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

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
    /// The record is removed.
    Drop,
    /// Nothing, until something changes or it is this time.
    Wait(Option<Timestamp>),
}

/// The next step for an instance whose microVM is so; `was_asked` says that its power button was pressed.
pub fn plan(instance: &Instance, machine: Option<&Machine>, was_asked: bool, now: Timestamp) -> Step {
    match (&instance.state, machine) {
        (InstanceState::Pending, None) => Step::Start,
        (InstanceState::Pending, Some(Machine::Running)) => Step::Enter(InstanceState::Running),
        // Of an earlier start, or of one that failed at once: that it ran is told first.
        (InstanceState::Pending, Some(Machine::Ended(End::PoweredOff))) => {
            Step::Enter(InstanceState::Running)
        }
        (InstanceState::Pending, Some(Machine::Ended(end))) => {
            Step::Enter(InstanceState::ShuttingDown { cause: cause(end), since: now })
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
        ) => {
            let deadline = since.saturating_add(GRACE).unwrap_or(Timestamp::MAX);
            if now >= deadline {
                Step::Kill
            } else if was_asked {
                Step::Wait(Some(deadline))
            } else {
                Step::PressPowerButton
            }
        }
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
