//! Which private address an Elastic one leads to.

use std::net::Ipv4Addr;

use aws::service::Empty;
use aws::{Error, ec2};
use types::{AddressAssociationId, AllocationId, InstanceId, NetworkInterfaceId, VpcId};

use super::named;
use crate::ec2::errors::{id, invalid_value, missing, not_found};
use crate::ec2::interface::{check_owner, elastic, publish, unpublish};
use crate::records::{Address, AddressAssociation, Instance, InstanceState, NetworkInterface};
use crate::state::{Transaction, View};

pub(super) fn associate(
    tx: &mut Transaction<'_>,
    input: ec2::AssociateAddressRequest,
) -> Result<ec2::AssociateAddressResult, Error> {
    let view = tx.view();
    let address = named(view, input.allocation_id.as_deref(), input.public_ip.as_deref())?;
    let interface = match (&input.network_interface_id, &input.instance_id) {
        (Some(interface), None) => by_id(view, interface)?,
        (None, Some(instance)) => of_instance(view, id(instance)?)?,
        (Some(_), Some(_)) => {
            let message =
                "You may specify an instance ID or a network interface ID, but not both in the same call";
            return Err(Error::new("InvalidParameterCombination", message));
        }
        (None, None) => return Err(missing("InstanceId or NetworkInterfaceId")),
    };
    let private = private(interface, input.private_ip_address.as_deref())?;
    check_gateway(view, interface.vpc)?;
    let may_move = input.allow_reassociation != Some(false);
    if let Some(before) = &address.association {
        if before.interface == interface.id && before.private_ip == private {
            return Ok(ec2::AssociateAddressResult { association_id: Some(before.id.to_string()) });
        }
        // What a NAT gateway sends from stays its.
        let is_gateways = view.tables().nat_gateways.linked_to(address.id).next().is_some();
        if !may_move || is_gateways {
            return Err(already_associated(address.id, before.id));
        }
    }
    let displaced = elastic(view, interface.id, private);
    if let Some((other, association)) = displaced
        && !may_move
    {
        return Err(already_associated(other.id, association));
    }
    let displaced = displaced.map(|(other, _)| other.id);
    let (address, interface) = (address.id, interface.id);
    if let Some(displaced) = displaced {
        tx.update::<Address>(displaced, |displaced| displaced.association = None);
    }
    leave(tx, address)?;
    let association = AddressAssociation { id: tx.new_id(), interface, private_ip: private };
    let association_id = Some(association.id.to_string());
    tx.update::<Address>(address, |address| address.association = Some(association));
    // The address that came with the instance is given back when an Elastic one takes its place.
    let is_primary = tx.get::<NetworkInterface>(interface).and_then(|interface| interface.addresses.first());
    if is_primary.is_some_and(|primary| primary.ip == private) {
        unpublish(tx, interface);
    }
    Ok(ec2::AssociateAddressResult { association_id })
}

fn already_associated(address: AllocationId, association: AddressAssociationId) -> Error {
    let message = format!("resource {address} is already associated with associate-id {association}");
    Error::new("Resource.AlreadyAssociated", message)
}

fn by_id<'a>(view: View<'a>, text: &str) -> Result<&'a NetworkInterface, Error> {
    let interface: NetworkInterfaceId = id(text)?;
    let found = view.get::<NetworkInterface>(interface).ok_or_else(|| not_found(interface))?;
    check_owner(found)?;
    Ok(found)
}

/// The interface of an instance that has one only.
fn of_instance(view: View<'_>, id: InstanceId) -> Result<&NetworkInterface, Error> {
    let instance = view.get::<Instance>(id).ok_or_else(|| not_found(id))?;
    let state = match instance.state {
        InstanceState::Running | InstanceState::Stopping { .. } | InstanceState::Stopped { .. } => None,
        InstanceState::Pending => Some("pending"),
        InstanceState::ShuttingDown { .. } => Some("shutting-down"),
        InstanceState::Terminated { .. } => Some("terminated"),
    };
    if let Some(state) = state {
        let message = format!("The {state} instance '{id}' is not in a valid state for this operation.");
        return Err(Error::new("InvalidInstanceID", message));
    }
    let mut interfaces = view.tables().network_interfaces.linked_to(id);
    match (interfaces.next(), interfaces.next()) {
        (Some(interface), None) => Ok(interface),
        _ => {
            let message = format!(
                "There are multiple interfaces attached to instance '{id}'. Please specify an interface ID for the operation instead."
            );
            Err(Error::new("InvalidInstanceID", message))
        }
    }
}

/// The private address that the request names, or the primary one.
fn private(interface: &NetworkInterface, named: Option<&str>) -> Result<Ipv4Addr, Error> {
    let mut its = interface.addresses.iter().map(|address| address.ip);
    match named {
        Some(text) => {
            let wanted: Ipv4Addr = text
                .parse()
                .map_err(|_| invalid_value(text, "privateIpAddress", "This is not an IPv4 address."))?;
            its.find(|address| *address == wanted).ok_or_else(|| {
                let why = format!("It is not assigned to interface '{}'.", interface.id);
                invalid_value(text, "privateIpAddress", why)
            })
        }
        None => its.next().ok_or_else(Error::internal),
    }
}

/// A public address leads to nothing where there is no way to the Internet.
fn check_gateway(view: View<'_>, vpc: VpcId) -> Result<(), Error> {
    if view.tables().internet_gateways.linked_to(vpc).next().is_some() {
        return Ok(());
    }
    let message = format!("Network {vpc} is not attached to any internet gateway");
    Err(Error::new("Gateway.NotAttached", message))
}

pub(super) fn disassociate(
    tx: &mut Transaction<'_>,
    input: ec2::DisassociateAddressRequest,
) -> Result<Empty, Error> {
    let view = tx.view();
    let address = match (&input.association_id, &input.public_ip) {
        (Some(association), None) => {
            let association: AddressAssociationId = id(association)?;
            let found = view.tables().addresses.linked_to(association).next();
            found.ok_or_else(|| not_found(association))?
        }
        (None, Some(public)) => named(view, None, Some(public))?,
        (Some(_), Some(_)) => {
            let message = "You may specify public IP or association id, but not both in the same call";
            return Err(Error::new("InvalidParameterCombination", message));
        }
        (None, None) => return Err(missing("AssociationId")),
    };
    if view.tables().nat_gateways.linked_to(address.id).next().is_some() {
        let message = format!("The address '{}' is a NAT gateway's.", address.public_ip);
        return Err(Error::new("OperationNotPermitted", message));
    }
    let address = address.id;
    leave(tx, address)?;
    Ok(Empty)
}

/// Has an Elastic address lead nowhere; who is to have a public address and had this one gets another.
fn leave(tx: &mut Transaction<'_>, address: AllocationId) -> Result<(), Error> {
    let association = tx.get::<Address>(address).and_then(|address| address.association.as_ref());
    let Some(interface) = association.map(|association| association.interface) else { return Ok(()) };
    tx.update::<Address>(address, |address| address.association = None);
    publish(tx, interface)
}
