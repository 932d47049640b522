//! The interfaces that instances begin with.

use std::net::Ipv4Addr;

use aws::{Error, ec2};
use types::{InstanceId, NetworkInterfaceId, SecurityGroupId, SubnetId, VpcId, Zone};

use crate::catalog::InstanceType;
use crate::ec2::errors::{id, ids, invalid_value, not_found};
use crate::ec2::group;
use crate::ec2::interface::{self, NewInterface};
use crate::records::{FailedZone, NetworkInterface, SecurityGroup, Subnet};
use crate::state::{Transaction, View};

/// All in one zone, by their places in the instance.
pub(super) struct Interfaces {
    pub zone: Zone,
    interfaces: Vec<Wanted>,
}

struct Wanted {
    device_index: u8,
    delete_on_termination: bool,
    what: What,
}

enum What {
    New(NewInterface),
    Existing(NetworkInterfaceId),
}

impl Interfaces {
    /// # Errors
    /// What cannot be.
    pub(super) fn of(
        tx: &Transaction<'_>,
        input: &ec2::RunInstancesRequest,
        kind: &InstanceType,
        count: u32,
    ) -> Result<Self, Error> {
        let view = tx.view();
        let interfaces = if input.network_interfaces.is_empty() {
            vec![from_request(view, input, count)?]
        } else {
            check_not_both(input)?;
            let specified = input.network_interfaces.iter();
            specified
                .map(|specification| from_specification(view, specification, count))
                .collect::<Result<_, _>>()?
        };
        check_places(&interfaces, kind)?;
        let mut zone = None;
        for wanted in &interfaces {
            let its = subnet_of(view, wanted)?.zone;
            if zone.is_some_and(|zone| zone != its) {
                let message = "The interfaces of an instance must be in one availability zone.";
                return Err(Error::new("InvalidParameterCombination", message));
            }
            zone = Some(its);
        }
        let zone = zone.ok_or_else(Error::internal)?;
        if let Some(name) = named_zone(input)
            && name != zone.to_string()
        {
            let message = format!("The subnet is in {zone}, and the instance is to be in {name}.");
            return Err(Error::new("InvalidParameterCombination", message));
        }
        Ok(Self { zone, interfaces })
    }

    /// Makes them for an instance; gives back those that are new.
    ///
    /// # Errors
    /// When an address is not free.
    pub(super) fn make(
        &self,
        tx: &mut Transaction<'_>,
        instance: InstanceId,
    ) -> Result<Vec<NetworkInterfaceId>, Error> {
        let mut made = Vec::new();
        for wanted in &self.interfaces {
            let id = match &wanted.what {
                What::New(new) => {
                    let id = interface::make(tx, new.clone())?;
                    made.push(id);
                    id
                }
                What::Existing(id) => *id,
            };
            interface::attach(tx, id, instance, wanted.device_index, wanted.delete_on_termination)?;
        }
        Ok(made)
    }
}

fn check_not_both(input: &ec2::RunInstancesRequest) -> Result<(), Error> {
    let has_one = |what: bool, name: &str| {
        let message = format!(
            "Network interfaces and an instance-level {name} may not be specified on the same request"
        );
        if what { Err(Error::new("InvalidParameterCombination", message)) } else { Ok(()) }
    };
    has_one(input.subnet_id.is_some(), "subnet ID")?;
    has_one(!input.security_group_ids.is_empty() || !input.security_groups.is_empty(), "security groups")?;
    has_one(input.private_ip_address.is_some(), "private address")
}

fn check_places(interfaces: &[Wanted], kind: &InstanceType) -> Result<(), Error> {
    let mut places: Vec<u8> = interfaces.iter().map(|wanted| wanted.device_index).collect();
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[0] == pair[1]) {
        let message = "Each network interface requires a unique device index.";
        return Err(Error::new("InvalidParameterValue", message));
    }
    if places.first() != Some(&0) {
        return Err(Error::new(
            "InvalidParameterValue",
            "An instance needs an interface with the device index 0.",
        ));
    }
    if interfaces.len() > usize::from(kind.interfaces_max) {
        let message = format!(
            "Interface count {} exceeds the limit for {}: {}",
            interfaces.len(),
            kind.name,
            kind.interfaces_max
        );
        return Err(Error::new("AttachmentLimitExceeded", message));
    }
    Ok(())
}

fn subnet_of<'a>(view: View<'a>, wanted: &Wanted) -> Result<&'a Subnet, Error> {
    let id = match &wanted.what {
        What::New(new) => new.subnet,
        What::Existing(id) => view.get::<NetworkInterface>(*id).ok_or_else(|| not_found(*id))?.subnet,
    };
    view.get(id).ok_or_else(|| not_found(id))
}

/// An empty name is none.
fn named_zone(input: &ec2::RunInstancesRequest) -> Option<&str> {
    input.placement.as_ref()?.availability_zone.as_deref().filter(|name| !name.is_empty())
}

/// The one interface of an instance whose request says nothing of interfaces.
fn from_request(view: View<'_>, input: &ec2::RunInstancesRequest, count: u32) -> Result<Wanted, Error> {
    let subnet = subnet(view, input.subnet_id.as_deref(), named_zone(input))?;
    let mut groups: Vec<SecurityGroupId> = ids(&input.security_group_ids)?;
    for name in &input.security_groups {
        groups.push(group_by_name(view, subnet.vpc, name)?.id);
    }
    let primary = input.private_ip_address.as_deref().map(address).transpose()?;
    check_alone(primary.is_some(), count)?;
    let new = NewInterface {
        primary,
        groups,
        wants_public_address: subnet.maps_public_addresses,
        ..NewInterface::of(subnet.id)
    };
    Ok(Wanted { device_index: 0, delete_on_termination: true, what: What::New(new) })
}

fn from_specification(
    view: View<'_>,
    specification: &ec2::InstanceNetworkInterfaceSpecification,
    count: u32,
) -> Result<Wanted, Error> {
    let index = specification.device_index.unwrap_or(0);
    let device_index =
        u8::try_from(index).map_err(|_| invalid_value(index, "deviceIndex", "It is a small number."))?;
    if specification.network_card_index.unwrap_or(0) != 0 {
        return Err(Error::new(
            "UnsupportedOperation",
            "The instance types of nimbo have one network card: 0.",
        ));
    }
    if let Some(text) = &specification.network_interface_id {
        let existing: NetworkInterfaceId = id(text)?;
        check_alone(true, count)?;
        let found = view.get::<NetworkInterface>(existing).ok_or_else(|| not_found(existing))?;
        if found.attachment.is_some() {
            let message = format!("Interface: [{existing}] in use.");
            return Err(Error::new("InvalidNetworkInterface.InUse", message));
        }
        // It was there before, and stays unless somebody says otherwise.
        let delete_on_termination = specification.delete_on_termination.unwrap_or(false);
        return Ok(Wanted { device_index, delete_on_termination, what: What::Existing(existing) });
    }
    let subnet = subnet(view, specification.subnet_id.as_deref(), None)?;
    let (primary, secondary) = addresses(specification)?;
    check_alone(primary.is_some() || !secondary.is_empty(), count)?;
    let secondary_count = specification.secondary_private_ip_address_count.unwrap_or(0);
    let new = NewInterface {
        primary,
        secondary,
        secondary_count: usize::try_from(secondary_count).map_err(|_| {
            invalid_value(secondary_count, "secondaryPrivateIpAddressCount", "It is not negative.")
        })?,
        groups: ids(&specification.groups)?,
        description: specification.description.clone().unwrap_or_default(),
        wants_public_address: specification
            .associate_public_ip_address
            .unwrap_or(subnet.maps_public_addresses),
        ..NewInterface::of(subnet.id)
    };
    let delete_on_termination = specification.delete_on_termination.unwrap_or(true);
    Ok(Wanted { device_index, delete_on_termination, what: What::New(new) })
}

/// What only one instance can have.
fn check_alone(is_particular: bool, count: u32) -> Result<(), Error> {
    if is_particular && count > 1 {
        let message = "Network interfaces and private addresses can be specified for one instance only.";
        return Err(Error::new("InvalidParameterCombination", message));
    }
    Ok(())
}

fn addresses(
    specification: &ec2::InstanceNetworkInterfaceSpecification,
) -> Result<(Option<Ipv4Addr>, Vec<Ipv4Addr>), Error> {
    let mut primary = specification.private_ip_address.as_deref().map(address).transpose()?;
    let mut secondary = Vec::new();
    for each in &specification.private_ip_addresses {
        let its = address(each.private_ip_address.as_deref().unwrap_or_default())?;
        if each.primary != Some(true) {
            secondary.push(its);
        } else if primary.replace(its).is_some_and(|other| other != its) {
            let message = "An interface has one primary private address.";
            return Err(Error::new("InvalidParameterCombination", message));
        }
    }
    Ok((primary, secondary))
}

fn address(text: &str) -> Result<Ipv4Addr, Error> {
    text.parse().map_err(|_| invalid_value(text, "privateIpAddress", "It is no IPv4 address."))
}

/// The subnet that is named, or the default VPC's of a zone.
fn subnet<'a>(view: View<'a>, named: Option<&str>, zone: Option<&str>) -> Result<&'a Subnet, Error> {
    if let Some(text) = named {
        let id: SubnetId = id(text)?;
        return view.get(id).ok_or_else(|| not_found(id));
    }
    let is_wanted = |subnet: &&std::sync::Arc<Subnet>| {
        subnet.is_default_for_zone && zone.is_none_or(|zone| subnet.zone.to_string() == zone)
    };
    let defaults = view.tables().subnets.iter().filter(is_wanted);
    // Where nobody names a zone, it is one where something can run.
    let place =
        |subnet: &&std::sync::Arc<Subnet>| (FailedZone::find(view.state, subnet.zone).is_some(), subnet.zone);
    defaults.min_by_key(place).map(AsRef::as_ref).ok_or_else(|| match zone {
        Some(zone) => Error::new(
            "MissingInput",
            format!("No subnets found for the default VPC in {zone}. Please specify a subnet."),
        ),
        None => Error::new("MissingInput", "No subnets found for the default VPC. Please specify a subnet."),
    })
}

fn group_by_name<'a>(view: View<'a>, vpc: VpcId, name: &str) -> Result<&'a SecurityGroup, Error> {
    group::by_name(view, vpc, name).ok_or_else(|| {
        let message = format!("The security group '{name}' does not exist in the default VPC");
        Error::new("InvalidGroup.NotFound", message)
    })
}
