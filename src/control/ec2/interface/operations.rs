//! Interfaces made, deleted and found.

use std::net::Ipv4Addr;

use aws::service::Empty;
use aws::{Call, Error, ec2};
use types::NetworkInterfaceId;

use super::make::{NewInterface, make, remove};
use super::show::shown;
use super::{address, check_owner};
use crate::ec2::errors::{id, ids, invalid_value, missing, not_found};
use crate::ec2::once::once;
use crate::ec2::row::{Row, page, select};
use crate::ec2::tags;
use crate::records::NetworkInterface;
use crate::state::{Transaction, View};

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateNetworkInterfaceRequest,
) -> Result<ec2::CreateNetworkInterfaceResult, Error> {
    let client_token = input.client_token.clone();
    let id = once::<ec2::CreateNetworkInterface, _>(tx, input, make_wanted)?;
    let view = tx.view();
    let record = view.get(id).ok_or_else(|| not_found(id))?;
    let network_interface = Some(shown(&Row { view, record }));
    Ok(ec2::CreateNetworkInterfaceResult { network_interface, client_token })
}

fn make_wanted(
    tx: &mut Transaction<'_>,
    input: ec2::CreateNetworkInterfaceRequest,
) -> Result<NetworkInterfaceId, Error> {
    let tags = tags::specified(&input.tag_specifications, "network-interface")?;
    let (primary, secondary) = named_addresses(&input)?;
    let count = input.secondary_private_ip_address_count.unwrap_or(0);
    let secondary_count = usize::try_from(count)
        .map_err(|_| invalid_value(count, "secondaryPrivateIpAddressCount", "It must not be negative."))?;
    if secondary_count > 0 && !secondary.is_empty() {
        let message = "Addresses and a number of addresses cannot be used together.";
        return Err(Error::new("InvalidParameterCombination", message));
    }
    let new = NewInterface {
        primary,
        secondary,
        secondary_count,
        groups: ids(&input.groups)?,
        description: input.description.unwrap_or_default(),
        ..NewInterface::of(id(&input.subnet_id)?)
    };
    let id = make(tx, new)?;
    tags::add(tx, id, tags)?;
    Ok(id)
}

/// The primary address, if the request names it, and the others that it names.
fn named_addresses(
    input: &ec2::CreateNetworkInterfaceRequest,
) -> Result<(Option<Ipv4Addr>, Vec<Ipv4Addr>), Error> {
    let one = input.private_ip_address.as_deref();
    let mut primary = one.map(|text| address(text, "privateIpAddress")).transpose()?;
    let mut secondary = Vec::new();
    for named in &input.private_ip_addresses {
        let text = named.private_ip_address.as_deref().ok_or_else(|| missing("PrivateIpAddress"))?;
        let address = address(text, "privateIpAddresses")?;
        match (named.primary, primary) {
            (Some(true), Some(other)) if other != address => {
                return Err(Error::new(
                    "InvalidParameterValue",
                    "Only one primary private IP address can be specified",
                ));
            }
            (Some(true), _) => primary = Some(address),
            // Named both ways, it is one address.
            _ if primary == Some(address) => {}
            _ => secondary.push(address),
        }
    }
    Ok((primary, secondary))
}

pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: ec2::DeleteNetworkInterfaceRequest,
) -> Result<Empty, Error> {
    let id: NetworkInterfaceId = id(&input.network_interface_id)?;
    let interface = tx.get::<NetworkInterface>(id).ok_or_else(|| not_found(id))?;
    check_owner(interface)?;
    if interface.attachment.is_some() {
        let message = format!("Network interface '{id}' is currently in use.");
        return Err(Error::new("InvalidNetworkInterface.InUse", message));
    }
    remove(tx, id);
    Ok(Empty)
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeNetworkInterfacesRequest>,
) -> Result<ec2::DescribeNetworkInterfacesResult, Error> {
    let rows = select::<NetworkInterface>(view, &call.input.network_interface_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeNetworkInterfaces, _>(call, rows)?;
    let network_interfaces = Some(rows.iter().map(shown).collect());
    Ok(ec2::DescribeNetworkInterfacesResult { network_interfaces, next_token })
}
