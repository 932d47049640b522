//! What instances were told that would become of them, when its time has come.
//!
//! | announced | happens |
//! | --- | --- |
//! | an interruption | the instance is stopped or terminated, as if a Spot Instance were interrupted; nobody asks its protections |
//! | `instance-stop`, `instance-retirement` | it is stopped |
//! | `instance-reboot`, `system-reboot` | it is rebooted |
//! | `system-maintenance` | nothing: it passes unnoticed |

use jiff::Timestamp;
use types::InstanceId;

use super::unhosted::STEPS_MAX;
use crate::ec2::instance::lifecycle;
use crate::records::{
    Cause, EventCode, EventState, Instance, InstanceNotices, InstanceState, InterruptionAction, Tables,
};
use crate::state::Transaction;

/// Whether something happens now.
pub fn is_due(tables: &Tables, now: Timestamp) -> bool {
    due(tables, now).next().is_some()
}

/// When the next thing happens, after `now`.
pub fn next(tables: &Tables, now: Timestamp) -> Option<Timestamp> {
    let times = tables.instance_notices.unsettled().filter_map(|notices| notices.next());
    times.filter(|time| *time > now).min()
}

/// Has happen what is due in one space.
pub fn pass(tx: &mut Transaction<'_>) {
    let due: Vec<_> = due(tx.tables(), tx.now()).take(STEPS_MAX).collect();
    due.into_iter().for_each(|id| happen(tx, id));
}

fn due(tables: &Tables, now: Timestamp) -> impl Iterator<Item = InstanceId> {
    let unsettled = tables.instance_notices.unsettled();
    unsettled.filter(move |notices| notices.next().is_some_and(|at| at <= now)).map(|notices| notices.id)
}

fn happen(tx: &mut Transaction<'_>, id: InstanceId) {
    let now = tx.now();
    let Some(mut notices) = tx.get::<InstanceNotices>(id).cloned() else { return };
    let interruption = notices.interruption.take_if(|interruption| interruption.at <= now);
    let mut codes = Vec::new();
    for event in &mut notices.events {
        if event.state == EventState::Active && event.not_before <= now {
            event.state = EventState::Completed;
            codes.push(event.code);
        }
    }
    tx.put(notices);
    if tx.get::<Instance>(id).is_none_or(|instance| instance.state != InstanceState::Running) {
        return;
    }
    let is_stopped =
        codes.iter().any(|code| matches!(code, EventCode::InstanceStop | EventCode::InstanceRetirement));
    let is_rebooted =
        codes.iter().any(|code| matches!(code, EventCode::InstanceReboot | EventCode::SystemReboot));
    if let Some(interruption) = interruption {
        lifecycle::enter(tx, id, interrupted(interruption.action, now));
    } else if is_stopped {
        let cause = failure("Server.ScheduledStop", "Stopped due to scheduled retirement");
        lifecycle::enter(tx, id, InstanceState::Stopping { cause, is_forced: false, since: now });
    } else if is_rebooted {
        tx.update::<Instance>(id, |instance| instance.reboots_wanted += 1);
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html>.
fn interrupted(action: InterruptionAction, since: Timestamp) -> InstanceState {
    match action {
        InterruptionAction::Terminate => {
            let cause = failure("Server.SpotInstanceTermination", "Spot instance termination");
            InstanceState::ShuttingDown { cause, since }
        }
        InterruptionAction::Stop | InterruptionAction::Hibernate => {
            let cause = failure("Server.SpotInstanceShutdown", "Spot instance shutdown");
            InstanceState::Stopping { cause, is_forced: false, since }
        }
    }
}

fn failure(code: &str, message: &str) -> Cause {
    Cause::Failure { code: code.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests;
