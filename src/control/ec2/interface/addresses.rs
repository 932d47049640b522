//! Secondary private addresses.

use std::net::Ipv4Addr;

use aws::service::Empty;
use aws::{Error, ec2};
use types::{AllocationId, NetworkInterfaceId};

use super::make::{add_addresses, addresses_max, check_address, check_range, owner, too_many_addresses};
use super::{address, check_owner, elastic};
use crate::ec2::errors::{id, invalid_value, missing, not_found};
use crate::records::{Address, NetworkInterface, PrivateAddress, Subnet};
use crate::state::Transaction;

pub(super) fn assign(
    tx: &mut Transaction<'_>,
    input: ec2::AssignPrivateIpAddressesRequest,
) -> Result<ec2::AssignPrivateIpAddressesResult, Error> {
    let id: NetworkInterfaceId = id(&input.network_interface_id)?;
    let interface = tx.get::<NetworkInterface>(id).ok_or_else(|| not_found(id))?;
    check_owner(interface)?;
    let named = addresses(&input.private_ip_addresses)?;
    let count = input.secondary_private_ip_address_count;
    let count = match (named.as_slice(), count) {
        ([], None | Some(0)) => return Err(missing("privateIpAddresses or secondaryPrivateIpAddressCount")),
        ([], Some(count)) => usize::try_from(count)
            .map_err(|_| invalid_value(count, "secondaryPrivateIpAddressCount", "It must be positive."))?,
        (_, None | Some(0)) => 0,
        _ => {
            let message = "Addresses and a number of addresses cannot be used together.";
            return Err(Error::new("InvalidParameterCombination", message));
        }
    };
    let max = addresses_max(tx.view(), interface);
    let new = named.iter().filter(|named| !interface.addresses.iter().any(|has| has.ip == **named)).count();
    if interface.addresses.len().saturating_add(new).saturating_add(count) > max {
        return Err(too_many_addresses(max));
    }
    let may_take = input.allow_reassignment == Some(true);
    for address in &named {
        assign_one(tx, id, *address, may_take)?;
    }
    let added = add_addresses(tx, id, count)?;
    let assigned = named
        .iter()
        .chain(&added)
        .map(|address| ec2::AssignedPrivateIpAddress { private_ip_address: Some(address.to_string()) });
    Ok(ec2::AssignPrivateIpAddressesResult {
        network_interface_id: Some(id.to_string()),
        assigned_private_ip_addresses: Some(assigned.collect()),
        ..Default::default()
    })
}

fn addresses(texts: &[String]) -> Result<Vec<Ipv4Addr>, Error> {
    texts.iter().map(|text| address(text, "privateIpAddresses")).collect()
}

/// Gives an interface an address, which may be another's secondary one if it may be taken from there.
fn assign_one(
    tx: &mut Transaction<'_>,
    id: NetworkInterfaceId,
    address: Ipv4Addr,
    may_take: bool,
) -> Result<(), Error> {
    let view = tx.view();
    let subnet =
        view.get::<NetworkInterface>(id).map(|interface| interface.subnet).ok_or_else(|| not_found(id))?;
    let subnet = view.get::<Subnet>(subnet).ok_or_else(|| not_found(subnet))?;
    check_range(subnet, address)?;
    match owner(view, subnet.id, address) {
        Some(other) if other.id == id && may_take => return Ok(()),
        Some(other) if other.id != id && may_take => {
            check_owner(other)?;
            if other.addresses.first().is_some_and(|primary| primary.ip == address) {
                let why = "It is the primary address of another interface and cannot be reassigned.";
                return Err(invalid_value(address, "privateIpAddresses", why));
            }
            let other = other.id;
            take(tx, other, address, Some(id));
        }
        _ => check_address(view, subnet, address)?,
    }
    tx.update::<NetworkInterface>(id, |interface| {
        interface.addresses.push(PrivateAddress { ip: address, public_ip: None });
    });
    Ok(())
}

/// Takes a secondary address away. An Elastic one that leads there follows it, or leads nowhere.
fn take(
    tx: &mut Transaction<'_>,
    from: NetworkInterfaceId,
    address: Ipv4Addr,
    to: Option<NetworkInterfaceId>,
) {
    let leads_there: Option<AllocationId> = elastic(tx.view(), from, address).map(|(elastic, _)| elastic.id);
    if let Some(elastic) = leads_there {
        tx.update::<Address>(elastic, |elastic| match (to, &mut elastic.association) {
            (Some(to), Some(association)) => association.interface = to,
            _ => elastic.association = None,
        });
    }
    tx.update::<NetworkInterface>(from, |interface| interface.addresses.retain(|has| has.ip != address));
}

pub(super) fn unassign(
    tx: &mut Transaction<'_>,
    input: ec2::UnassignPrivateIpAddressesRequest,
) -> Result<Empty, Error> {
    let id: NetworkInterfaceId = id(&input.network_interface_id)?;
    let interface = tx.get::<NetworkInterface>(id).ok_or_else(|| not_found(id))?;
    check_owner(interface)?;
    let named = addresses(&input.private_ip_addresses)?;
    if named.is_empty() {
        return Err(missing("privateIpAddresses"));
    }
    for address in &named {
        match interface.addresses.iter().position(|has| has.ip == *address) {
            Some(0) => {
                let why = "The primary address of an interface cannot be unassigned.";
                return Err(invalid_value(address, "privateIpAddresses", why));
            }
            Some(_) => {}
            None => {
                let message =
                    format!("Some of the specified addresses are not assigned to interface {id}: {address}");
                return Err(Error::new("InvalidParameterValue", message));
            }
        }
    }
    for address in named {
        take(tx, id, address, None);
    }
    Ok(Empty)
}
