//! Which instances have which volumes.
//!
//! Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/volume_limits.html>,
//! <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volumes-multi.html>.

use aws::{Error, ec2};
use types::{InstanceId, VolumeId, VolumeKind};

use super::volume::shown_attachment;
use crate::ec2::errors::{id, incorrect_state, invalid_value, not_found};
use crate::records::{
    AttachmentState, Instance, InstanceState, ModificationState, Volume, VolumeAttachment, VolumeState,
};
use crate::state::{Transaction, View};

/// Instances that a volume with multi-attach may have.
const INSTANCES_MAX: usize = 16;
/// Volumes that an instance may have beside what else its type counts.
const VOLUMES_MAX: usize = 27;

/// Gives a volume to an instance: from now on it is the instance's, and a reconciler brings it there. The instance may be one that is
/// being launched.
///
/// # Errors
/// When the volume cannot be attached to it, or not by that name.
pub(in crate::ec2) fn attach(
    tx: &mut Transaction<'_>,
    id: VolumeId,
    instance: InstanceId,
    device: &str,
    delete_on_termination: bool,
) -> Result<VolumeAttachment, Error> {
    let volume = tx.get::<Volume>(id).ok_or_else(|| not_found(id))?;
    check_volume(volume, instance)?;
    check_device(device)?;
    let its = || tx.tables().volumes.linked_to(instance);
    if let Some(other) = its().find(|other| other.attachment(instance).is_some_and(|it| it.device == device))
    {
        let message = format!(
            "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use by {}",
            other.id
        );
        return Err(Error::new("InvalidParameterValue", message));
    }
    if its().count() >= VOLUMES_MAX {
        let message =
            format!("Instance {instance} has {VOLUMES_MAX} volumes, which is the most there can be.");
        return Err(Error::new("AttachmentLimitExceeded", message));
    }
    let attachment = VolumeAttachment {
        instance,
        device: device.to_owned(),
        since: tx.now(),
        delete_on_termination,
        state: AttachmentState::Attaching,
    };
    tx.update::<Volume>(id, |volume| volume.attachments.push(attachment.clone()));
    Ok(attachment)
}

fn check_volume(volume: &Volume, instance: InstanceId) -> Result<(), Error> {
    let id = volume.id;
    if volume.attachment(instance).is_some() {
        return Err(Error::new("VolumeInUse", format!("{id} is already attached to instance {instance}")));
    }
    match volume.state {
        VolumeState::Deleting | VolumeState::Error { .. } => {
            return Err(incorrect_state(format!("{id} is not 'available'.")));
        }
        VolumeState::Creating | VolumeState::Available => {}
    }
    if !volume.is_multi_attach && !volume.attachments.is_empty() {
        return Err(Error::new("VolumeInUse", format!("{id} is already attached to an instance")));
    }
    if volume.attachments.len() >= INSTANCES_MAX {
        let message =
            format!("{id} is attached to {INSTANCES_MAX} instances, which is the most there can be.");
        return Err(Error::new("AttachmentLimitExceeded", message));
    }
    // Its kind may be about to become one that instances cannot share.
    let becoming = volume.modification.as_ref().filter(|last| last.state == ModificationState::Modifying);
    if let Some(last) = becoming
        && !last.target_is_multi_attach
        && !volume.attachments.is_empty()
    {
        return Err(incorrect_state(format!("{id} is being modified.")));
    }
    Ok(())
}

/// What an instance can call its volumes.
pub(super) fn check_device(device: &str) -> Result<(), Error> {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    let is_device = if let Some(rest) = name.strip_prefix("xvd") {
        (1..=2).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_lowercase()) || is_partition(rest)
    } else {
        name.strip_prefix("sd").is_some_and(is_partition)
    };
    if is_device {
        return Ok(());
    }
    Err(invalid_value(device, "device", format_args!("{device} is not a valid EBS device name.")))
}

/// A letter, and maybe a number from 1 to 15.
fn is_partition(name: &str) -> bool {
    let Some((letter, number)) = name.split_at_checked(1) else { return false };
    letter.bytes().all(|b| b.is_ascii_lowercase())
        && (number.is_empty()
            || !number.starts_with('0')
                && number.parse::<u8>().is_ok_and(|number| (1..=15).contains(&number)))
}

/// What becomes of a volume when an instance is terminated that has it: it is deleted with the instance, or free again.
pub(in crate::ec2) fn release(tx: &mut Transaction<'_>, id: VolumeId, instance: InstanceId) {
    tx.update::<Volume>(id, |volume| {
        let goes = volume.attachment(instance).is_some_and(|attachment| attachment.delete_on_termination);
        volume.attachments.retain(|attachment| attachment.instance != instance);
        // Others that have it keep it.
        if goes && volume.attachments.is_empty() {
            volume.state = VolumeState::Deleting;
        }
    });
}

pub(super) fn attach_volume(
    tx: &mut Transaction<'_>,
    input: ec2::AttachVolumeRequest,
) -> Result<ec2::VolumeAttachment, Error> {
    let volume_id: VolumeId = id(&input.volume_id)?;
    let instance_id: InstanceId = id(&input.instance_id)?;
    let volume = tx.get::<Volume>(volume_id).ok_or_else(|| not_found(volume_id))?;
    let instance = tx.get::<Instance>(instance_id).ok_or_else(|| not_found(instance_id))?;
    if volume.state == VolumeState::Creating {
        return Err(incorrect_state(format!("{volume_id} is not 'available'.")));
    }
    if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped { .. }) {
        return Err(incorrect_state(format!("Instance '{instance_id}' is not 'running'.")));
    }
    if volume.zone != instance.zone {
        let message = format!(
            "The volume '{volume_id}' is not in the same availability zone as instance '{instance_id}'"
        );
        return Err(Error::new("InvalidVolume.ZoneMismatch", message));
    }
    let attachment = attach(tx, volume_id, instance_id, &input.device, false)?;
    Ok(shown_attachment(volume_id, &attachment))
}

/// The attachment that a request to detach a volume is about.
fn attachment<'a>(
    view: View<'a>,
    volume: VolumeId,
    instance: Option<&str>,
    device: Option<&str>,
) -> Result<&'a VolumeAttachment, Error> {
    let volume = view.get::<Volume>(volume).ok_or_else(|| not_found(volume))?;
    let volume_id = volume.id;
    if volume.attachments.is_empty() {
        let message = format!("Volume '{volume_id}' is in the 'available' state.");
        return Err(incorrect_state(message));
    }
    let attachment = match (instance, &volume.attachments[..]) {
        (Some(instance), _) => {
            let instance: InstanceId = id(instance)?;
            volume.attachment(instance).ok_or_else(|| {
                let message = format!("The volume '{volume_id}' is not attached to instance '{instance}'.");
                Error::new("InvalidAttachment.NotFound", message)
            })?
        }
        (None, [only]) => only,
        (None, _) => {
            let message = format!("{volume_id} is attached to several instances: name one by InstanceId.");
            return Err(Error::new("InvalidParameterCombination", message));
        }
    };
    if let Some(device) = device.filter(|device| **device != attachment.device) {
        let message = format!("The volume '{volume_id}' is not attached as '{device}'.");
        return Err(Error::new("InvalidAttachment.NotFound", message));
    }
    Ok(attachment)
}

pub(super) fn detach_volume(
    tx: &mut Transaction<'_>,
    input: ec2::DetachVolumeRequest,
) -> Result<ec2::VolumeAttachment, Error> {
    let volume_id: VolumeId = id(&input.volume_id)?;
    let is_forced = input.force == Some(true);
    let found = attachment(tx.view(), volume_id, input.instance_id.as_deref(), input.device.as_deref())?;
    let mut attachment = found.clone();
    if matches!(attachment.state, AttachmentState::Detaching { .. }) && !is_forced {
        let message = format!("Volume '{volume_id}' is in the 'detaching' state.");
        return Err(incorrect_state(message));
    }
    if let Some(instance) = tx.get::<Instance>(attachment.instance)
        && instance.root_device_name == attachment.device
        && !matches!(instance.state, InstanceState::Stopped { .. } | InstanceState::Terminated { .. })
    {
        let message = format!("Unable to detach root volume '{volume_id}' from instance '{}'", instance.id);
        return Err(Error::new("OperationNotPermitted", message));
    }
    attachment.state = AttachmentState::Detaching { is_forced };
    tx.update::<Volume>(volume_id, |volume| {
        for other in volume.attachments.iter_mut().filter(|other| other.instance == attachment.instance) {
            *other = attachment.clone();
        }
    });
    Ok(shown_attachment(volume_id, &attachment))
}

/// Whether several instances may have a volume of this kind.
pub(super) fn can_be_shared(kind: VolumeKind) -> bool {
    matches!(kind, VolumeKind::Io1 | VolumeKind::Io2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_called_as_aws_calls_them() {
        for good in ["/dev/sda1", "/dev/sdf", "sdh", "/dev/xvda", "/dev/xvdba", "xvdf", "/dev/sdp15"] {
            assert_eq!(check_device(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/dev/",
            "/dev/sd",
            "/dev/sd1",
            "/dev/sda16",
            "/dev/sda0",
            "/dev/nvme1n1",
            "/dev/xvdabc",
            "sdä",
        ] {
            assert_eq!(check_device(bad).unwrap_err().code, "InvalidParameterValue", "{bad}");
        }
    }
}
