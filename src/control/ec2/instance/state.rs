//! Start, stop, reboot, terminate.

use aws::service::Empty;
use aws::{Error, ec2};
use types::InstanceId;

use super::{all_named, capacity, lifecycle, show, wrong_state};
use crate::records::{Cause, Instance, InstanceState};
use crate::state::Transaction;

pub(super) fn start(
    tx: &mut Transaction<'_>,
    input: ec2::StartInstancesRequest,
) -> Result<ec2::StartInstancesResult, Error> {
    let changes = change_all(tx, &input.instance_ids, |tx, instance| match instance.state {
        InstanceState::Stopped { .. } => {
            capacity::check_start(tx.view(), instance)?;
            Ok(Some(InstanceState::Pending))
        }
        InstanceState::Pending | InstanceState::Running => Ok(None),
        _ => Err(wrong_state(tx.get(instance.id).unwrap_or(instance), "started")),
    })?;
    let now = tx.now();
    for (id, before) in &changes {
        if matches!(before, InstanceState::Stopped { .. }) {
            tx.update::<Instance>(*id, |instance| instance.launched = now);
            lifecycle::publish_interfaces(tx, *id)?;
        }
    }
    Ok(ec2::StartInstancesResult { starting_instances: Some(shown(tx, changes)) })
}

pub(super) fn stop(
    tx: &mut Transaction<'_>,
    input: ec2::StopInstancesRequest,
) -> Result<ec2::StopInstancesResult, Error> {
    let is_forced = input.force == Some(true) || input.skip_os_shutdown == Some(true);
    let since = tx.now();
    let changes = change_all(tx, &input.instance_ids, |_, instance| match &instance.state {
        InstanceState::Pending | InstanceState::Running if instance.is_protected_from_stop => {
            Err(protected(instance, "stopped", "disableApiStop"))
        }
        InstanceState::Pending | InstanceState::Running => {
            Ok(Some(InstanceState::Stopping { cause: Cause::User, is_forced, since }))
        }
        // Whoever loses patience may force what was asked for before.
        InstanceState::Stopping { cause, is_forced: false, since } if is_forced => {
            Ok(Some(InstanceState::Stopping { cause: cause.clone(), is_forced, since: *since }))
        }
        InstanceState::Stopping { .. } | InstanceState::Stopped { .. } => Ok(None),
        InstanceState::ShuttingDown { .. } | InstanceState::Terminated { .. } => {
            Err(wrong_state(instance, "stopped"))
        }
    })?;
    Ok(ec2::StopInstancesResult { stopping_instances: Some(shown(tx, changes)) })
}

pub(super) fn terminate(
    tx: &mut Transaction<'_>,
    input: ec2::TerminateInstancesRequest,
) -> Result<ec2::TerminateInstancesResult, Error> {
    let since = tx.now();
    let changes = change_all(tx, &input.instance_ids, |_, instance| match instance.state {
        InstanceState::ShuttingDown { .. } | InstanceState::Terminated { .. } => Ok(None),
        _ if instance.is_protected_from_termination => {
            Err(protected(instance, "terminated", "disableApiTermination"))
        }
        _ => Ok(Some(InstanceState::ShuttingDown { cause: Cause::User, since })),
    })?;
    Ok(ec2::TerminateInstancesResult { terminating_instances: Some(shown(tx, changes)) })
}

pub(super) fn reboot(tx: &mut Transaction<'_>, input: ec2::RebootInstancesRequest) -> Result<Empty, Error> {
    for id in all_named(tx, &input.instance_ids)? {
        if let Some(instance) = tx.get::<Instance>(id)
            && instance.state != InstanceState::Running
        {
            return Err(wrong_state(instance, "rebooted"));
        }
        tx.update::<Instance>(id, |instance| instance.reboots_wanted += 1);
    }
    Ok(Empty)
}

/// An instance, and its state before.
type Changed = (InstanceId, InstanceState);

/// Puts each instance into the state that `next` says, if it says one.
fn change_all(
    tx: &mut Transaction<'_>,
    texts: &[String],
    next: impl Fn(&Transaction<'_>, &Instance) -> Result<Option<InstanceState>, Error>,
) -> Result<Vec<Changed>, Error> {
    let mut changed = Vec::new();
    for id in all_named(tx, texts)? {
        let Some(instance) = tx.get::<Instance>(id) else { continue };
        let before = instance.state.clone();
        if let Some(next) = next(tx, instance)? {
            tx.update::<Instance>(id, |instance| instance.state = next);
        }
        changed.push((id, before));
    }
    Ok(changed)
}

fn shown(tx: &Transaction<'_>, changes: Vec<Changed>) -> Vec<ec2::InstanceStateChange> {
    let change = |(id, before): Changed| {
        let after = tx.get::<Instance>(id).map(|instance| show::state(&instance.state));
        ec2::InstanceStateChange {
            instance_id: Some(id.to_string()),
            current_state: after,
            previous_state: Some(show::state(&before)),
        }
    };
    changes.into_iter().map(change).collect()
}

fn protected(instance: &Instance, what: &str, attribute: &str) -> Error {
    let message = format!(
        "The instance '{}' may not be {what}. Modify its '{attribute}' instance attribute and try again.",
        instance.id
    );
    Error::new("OperationNotPermitted", message)
}
