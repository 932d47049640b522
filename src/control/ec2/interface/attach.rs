//! Interfaces given to instances and taken from them: [their reconciler](crate::reconcile::interface) brings them there, and away.

use aws::service::Empty;
use aws::{Error, ec2};
use types::{AttachmentId, InstanceId, NetworkInterfaceId};

use super::{check_owner, make};
use crate::catalog::InstanceType;
use crate::ec2::errors::{id, incorrect_state, invalid_value, not_found};
use crate::records::{AttachmentState, Instance, InstanceState, NetworkInterface, Subnet};
use crate::state::{Transaction, View};

pub(super) fn attach(
    tx: &mut Transaction<'_>,
    input: ec2::AttachNetworkInterfaceRequest,
) -> Result<ec2::AttachNetworkInterfaceResult, Error> {
    let interface: NetworkInterfaceId = id(&input.network_interface_id)?;
    let instance: InstanceId = id(&input.instance_id)?;
    let device_index = u8::try_from(input.device_index)
        .map_err(|_| invalid_value(input.device_index, "deviceIndex", "It must be 0 to 255."))?;
    if let Some(card) = input.network_card_index.filter(|card| *card != 0) {
        return Err(invalid_value(
            card,
            "networkCardIndex",
            "Instances have one network card, with the index 0.",
        ));
    }
    check(tx.view(), interface, instance, device_index)?;
    let attachment = make::attach(tx, interface, instance, device_index, false)?;
    Ok(ec2::AttachNetworkInterfaceResult {
        attachment_id: Some(attachment.to_string()),
        network_card_index: Some(0),
    })
}

fn check(view: View<'_>, id: NetworkInterfaceId, instance_id: InstanceId, index: u8) -> Result<(), Error> {
    let interface = view.get::<NetworkInterface>(id).ok_or_else(|| not_found(id))?;
    let instance = view.get::<Instance>(instance_id).ok_or_else(|| not_found(instance_id))?;
    check_owner(interface)?;
    if interface.attachment.is_some() {
        let message = format!("Interface '{id}' is in use.");
        return Err(Error::new("InvalidNetworkInterface.InUse", message));
    }
    if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped { .. }) {
        let message = format!("Instance '{instance_id}' is not 'running' or 'stopped'.");
        return Err(Error::new("IncorrectInstanceState", message));
    }
    let zone = view.get::<Subnet>(interface.subnet).map(|subnet| subnet.zone);
    if zone != Some(instance.zone) {
        let message = format!(
            "You may not attach a network interface to an instance if they are not in the same availability zone: '{id}', '{instance_id}'."
        );
        return Err(Error::new("InvalidParameterCombination", message));
    }
    let others: Vec<_> = view.tables().network_interfaces.linked_to(instance_id).collect();
    if others.iter().any(|other| other.vpc != interface.vpc) {
        return Err(Error::new(
            "UnsupportedOperation",
            "nimbo has the interfaces of an instance in one VPC.",
        ));
    }
    let index_of = |other: &NetworkInterface| other.attachment.as_ref().map(|other| other.device_index);
    if others.iter().any(|other| index_of(other) == Some(index)) {
        let message =
            format!("Instance '{instance_id}' already has an interface attached at device index '{index}'.");
        return Err(Error::new("InvalidParameterValue", message));
    }
    let limit = InstanceType::find(&instance.instance_type).map(|known| usize::from(known.interfaces_max));
    if limit.is_some_and(|limit| others.len() >= limit) {
        let message =
            format!("Interface count {} exceeds the limit for {}", others.len() + 1, instance.instance_type);
        return Err(Error::new("AttachmentLimitExceeded", message));
    }
    Ok(())
}

pub(super) fn detach(
    tx: &mut Transaction<'_>,
    input: ec2::DetachNetworkInterfaceRequest,
) -> Result<Empty, Error> {
    let attachment_id: AttachmentId = id(&input.attachment_id)?;
    let is_forced = input.force == Some(true);
    let interface = tx.tables().network_interfaces.linked_to(attachment_id).next();
    let interface = interface.ok_or_else(|| not_found(attachment_id))?;
    let attachment = interface.attachment.as_ref().ok_or_else(|| not_found(attachment_id))?;
    if attachment.device_index == 0 {
        let message = "The network interface at device index 0 and networkCard index 0 cannot be detached.";
        return Err(Error::new("OperationNotPermitted", message));
    }
    if matches!(attachment.state, AttachmentState::Detaching { .. }) && !is_forced {
        let message = format!("Attachment '{attachment_id}' is in the 'detaching' state.");
        return Err(incorrect_state(message));
    }
    let state = AttachmentState::Detaching { is_forced };
    tx.update::<NetworkInterface>(interface.id, |interface| interface.set_attachment_state(state));
    Ok(Empty)
}
