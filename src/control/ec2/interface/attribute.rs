//! What of an interface can be changed.

use aws::service::Empty;
use aws::{Call, Error, ec2};
use types::{AttachmentId, NetworkInterfaceId, SecurityGroupId};

use super::make::check_groups;
use super::show::{shown_attachment, shown_groups};
use super::{check_owner, publish, unpublish};
use crate::ec2::errors::{id, ids, missing, not_found};
use crate::records::{Attachment, NetworkInterface};
use crate::state::{Transaction, View};

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeNetworkInterfaceAttributeRequest>,
) -> Result<ec2::DescribeNetworkInterfaceAttributeResult, Error> {
    let id: NetworkInterfaceId = id(&call.input.network_interface_id)?;
    let interface = view.get::<NetworkInterface>(id).ok_or_else(|| not_found(id))?;
    let mut answer = ec2::DescribeNetworkInterfaceAttributeResult {
        network_interface_id: Some(id.to_string()),
        ..Default::default()
    };
    match call.input.attribute.ok_or_else(|| missing("attribute"))? {
        ec2::NetworkInterfaceAttribute::Description => {
            answer.description = Some(ec2::AttributeValue { value: Some(interface.description.clone()) });
        }
        ec2::NetworkInterfaceAttribute::GroupSet => {
            answer.groups = Some(shown_groups(view, &interface.groups));
        }
        ec2::NetworkInterfaceAttribute::SourceDestCheck => {
            let value = Some(interface.checks_source_and_destination);
            answer.source_dest_check = Some(ec2::AttributeBooleanValue { value });
        }
        ec2::NetworkInterfaceAttribute::Attachment => {
            let attachment = interface.attachment.as_ref();
            answer.attachment = attachment.map(|attachment| shown_attachment(view, attachment));
        }
        ec2::NetworkInterfaceAttribute::AssociatePublicIpAddress => {
            answer.associate_public_ip_address = Some(interface.wants_public_address);
        }
    }
    Ok(answer)
}

pub(super) fn modify(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyNetworkInterfaceAttributeRequest,
) -> Result<Empty, Error> {
    let id: NetworkInterfaceId = id(&input.network_interface_id)?;
    let interface = tx.get::<NetworkInterface>(id).ok_or_else(|| not_found(id))?;
    check_owner(interface)?;
    check_one(&input)?;
    if let Some(description) = input.description {
        let description = description.value.unwrap_or_default();
        tx.update::<NetworkInterface>(id, |interface| interface.description = description);
    } else if let Some(checks) = input.source_dest_check {
        let checks = checks.value.ok_or_else(|| missing("SourceDestCheck.Value"))?;
        tx.update::<NetworkInterface>(id, |interface| interface.checks_source_and_destination = checks);
    } else if let Some(changes) = input.attachment {
        let attachment = changed_attachment(interface, &changes)?;
        tx.update::<NetworkInterface>(id, |interface| interface.attachment = Some(attachment));
    } else if let Some(wants) = input.associate_public_ip_address {
        tx.update::<NetworkInterface>(id, |interface| interface.wants_public_address = wants);
        if wants {
            publish(tx, id)?;
        } else {
            unpublish(tx, id);
        }
    } else {
        let wanted: Vec<SecurityGroupId> = ids(&input.groups)?;
        let elsewhere =
            |group| format!("Security group {group} and interface {id} belong to different networks.");
        let groups = check_groups(tx.view(), interface.vpc, wanted, elsewhere)?;
        tx.update::<NetworkInterface>(id, |interface| interface.groups = groups);
    }
    Ok(Empty)
}

/// A request changes one attribute.
fn check_one(input: &ec2::ModifyNetworkInterfaceAttributeRequest) -> Result<(), Error> {
    let given = [
        ("description", input.description.is_some()),
        ("sourceDestCheck", input.source_dest_check.is_some()),
        ("attachment", input.attachment.is_some()),
        ("associatePublicIpAddress", input.associate_public_ip_address.is_some()),
        ("groupSet", !input.groups.is_empty()),
    ];
    let given: Vec<&str> =
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect();
    match given.as_slice() {
        [] => Err(Error::new("InvalidParameterCombination", "No attributes specified.")),
        [_] => Ok(()),
        several => {
            let message = format!("Fields for multiple attribute types specified: {}", several.join(", "));
            Err(Error::new("InvalidParameterCombination", message))
        }
    }
}

fn changed_attachment(
    interface: &NetworkInterface,
    changes: &ec2::NetworkInterfaceAttachmentChanges,
) -> Result<Attachment, Error> {
    let text = changes.attachment_id.as_deref().ok_or_else(|| missing("Attachment.AttachmentId"))?;
    let wanted: AttachmentId = id(text)?;
    let its = interface.attachment.as_ref().filter(|attachment| attachment.id == wanted);
    let its = its.ok_or_else(|| not_found(wanted))?;
    let delete_on_termination =
        changes.delete_on_termination.ok_or_else(|| missing("Attachment.DeleteOnTermination"))?;
    Ok(Attachment { delete_on_termination, ..its.clone() })
}

/// The one attribute that can be reset: an interface takes what is to or from it only.
pub(super) fn reset(
    tx: &mut Transaction<'_>,
    input: ec2::ResetNetworkInterfaceAttributeRequest,
) -> Result<Empty, Error> {
    let id: NetworkInterfaceId = id(&input.network_interface_id)?;
    let interface = tx.get::<NetworkInterface>(id).ok_or_else(|| not_found(id))?;
    check_owner(interface)?;
    // Its value says nothing: that it is there does.
    input.source_dest_check.ok_or_else(|| missing("SourceDestCheck"))?;
    tx.update::<NetworkInterface>(id, |interface| interface.checks_source_and_destination = true);
    Ok(Empty)
}
