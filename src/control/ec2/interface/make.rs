//! Interfaces come and go, with their addresses.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use aws::Error;
use types::{
    AddressAssociationId, AllocationId, AttachmentId, InstanceId, MacAddress, NetworkInterfaceId,
    SecurityGroupId, SubnetId, VpcId,
};

use crate::ec2::address::{any_free, random, take_public};
use crate::ec2::errors::{invalid_value, not_found};
use crate::ec2::group;
use crate::ec2::vpc::usable_addresses;
use crate::records::{
    Address, Attachment, AttachmentState, Instance, InstanceState, InterfaceOwner, NetworkInterface,
    PrivateAddress, SecurityGroup, Subnet,
};
use crate::state::{Key, Transaction, View};

/// Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
pub(in crate::ec2) const GROUPS_MAX: usize = 5;

/// Of an interface that is in no instance: as many as the largest types have.
const ADDRESSES_MAX: usize = 50;

/// What an interface is to be.
#[derive(Debug, Clone)]
pub(crate) struct NewInterface {
    pub subnet: SubnetId,
    /// None: any that is free.
    pub primary: Option<Ipv4Addr>,
    pub secondary: Vec<Ipv4Addr>,
    /// How many more, whichever are free.
    pub secondary_count: usize,
    /// None: the VPC's default one.
    pub groups: Vec<SecurityGroupId>,
    pub description: String,
    pub owner: InterfaceOwner,
    pub wants_public_address: bool,
}

impl NewInterface {
    /// With one address, in the default group.
    pub(crate) fn of(subnet: SubnetId) -> Self {
        Self {
            subnet,
            primary: None,
            secondary: Vec::new(),
            secondary_count: 0,
            groups: Vec::new(),
            description: String::new(),
            owner: InterfaceOwner::User,
            wants_public_address: false,
        }
    }
}

/// Makes an interface that is in no instance yet.
///
/// # Errors
/// When there is no such subnet or group, or an address is not free.
pub(crate) fn make(tx: &mut Transaction<'_>, new: NewInterface) -> Result<NetworkInterfaceId, Error> {
    let subnet = tx.get::<Subnet>(new.subnet).ok_or_else(|| not_found(new.subnet))?.clone();
    let groups = groups(tx.view(), &subnet, new.groups)?;
    let id: NetworkInterfaceId = tx.new_id();
    let mut octets = [0; 6];
    tx.fill(&mut octets);
    let mac = MacAddress::generate(&mut octets.as_slice()).map_err(|_| Error::internal())?;
    let mut interface = NetworkInterface {
        id,
        vpc: subnet.vpc,
        subnet: subnet.id,
        mac,
        addresses: Vec::new(),
        groups,
        description: new.description,
        checks_source_and_destination: true,
        attachment: None,
        owner: new.owner,
        wants_public_address: new.wants_public_address,
    };
    let named: Vec<Ipv4Addr> = new.primary.into_iter().chain(new.secondary).collect();
    let others = new.secondary_count + usize::from(new.primary.is_none());
    if named.len() + others > ADDRESSES_MAX {
        return Err(too_many_addresses(ADDRESSES_MAX));
    }
    if new.primary.is_none() {
        let address = free_address(tx, &subnet, &named)?;
        interface.addresses.push(PrivateAddress { ip: address, public_ip: None });
    }
    for address in named {
        check_address(tx.view(), &subnet, address)?;
        if interface.addresses.iter().any(|other| other.ip == address) {
            return Err(invalid_value(address, "privateIpAddress", "It is named twice."));
        }
        interface.addresses.push(PrivateAddress { ip: address, public_ip: None });
    }
    tx.put(interface);
    add_addresses(tx, id, new.secondary_count)?;
    Ok(id)
}

/// Gives an interface so many more addresses; these are they.
///
/// # Errors
/// When the subnet has not as many.
pub(super) fn add_addresses(
    tx: &mut Transaction<'_>,
    id: NetworkInterfaceId,
    count: usize,
) -> Result<Vec<Ipv4Addr>, Error> {
    let subnet =
        tx.get::<NetworkInterface>(id).map(|interface| interface.subnet).ok_or_else(|| not_found(id))?;
    let subnet = tx.get::<Subnet>(subnet).ok_or_else(|| not_found(subnet))?.clone();
    let mut added = Vec::new();
    for _ in 0..count {
        added.push(free_address(tx, &subnet, &added)?);
    }
    tx.update::<NetworkInterface>(id, |interface| {
        interface.addresses.extend(added.iter().map(|ip| PrivateAddress { ip: *ip, public_ip: None }));
    });
    Ok(added)
}

/// An address that nobody has, and that is none of `promised`.
fn free_address(tx: &mut Transaction<'_>, subnet: &Subnet, promised: &[Ipv4Addr]) -> Result<Ipv4Addr, Error> {
    let start = random(tx);
    let is_free = |address| !promised.contains(&address) && owner(tx.view(), subnet.id, address).is_none();
    any_free(usable_addresses(subnet.cidr), start, is_free).ok_or_else(|| {
        let message = format!(
            "The specified subnet '{}' does not have enough free addresses to satisfy the request.",
            subnet.id
        );
        Error::new("InsufficientFreeAddressesInSubnet", message)
    })
}

/// Whose a private address is.
pub(super) fn owner(view: View<'_>, subnet: SubnetId, address: Ipv4Addr) -> Option<&NetworkInterface> {
    view.tables().network_interfaces.keyed(&Key::PrivateAddress(subnet, address)).map(AsRef::as_ref)
}

/// Whether an interface in the subnet can have an address.
///
/// # Errors
/// When it is another's, or the subnet's own, or not of the subnet.
pub(super) fn check_address(view: View<'_>, subnet: &Subnet, address: Ipv4Addr) -> Result<(), Error> {
    check_range(subnet, address)?;
    if owner(view, subnet.id, address).is_some() {
        let message = format!("The specified address is already in use: {address}");
        return Err(Error::new("InvalidIPAddress.InUse", message));
    }
    Ok(())
}

pub(super) fn check_range(subnet: &Subnet, address: Ipv4Addr) -> Result<(), Error> {
    let usable: RangeInclusive<Ipv4Addr> = usable_addresses(subnet.cidr);
    let why = if !subnet.cidr.contains(&address) {
        "Address does not fall within the subnet's address range"
    } else if !usable.contains(&address) {
        "Address is in subnet's reserved address range"
    } else {
        return Ok(());
    };
    Err(Error::new("InvalidParameterValue", format!("{why}: {address}, {}", subnet.cidr)))
}

/// The most that an interface can have, by the type of its instance.
pub(super) fn addresses_max(view: View<'_>, interface: &NetworkInterface) -> usize {
    let instance =
        interface.attachment.as_ref().and_then(|attachment| view.get::<Instance>(attachment.instance));
    let of_type = instance.and_then(|instance| crate::catalog::InstanceType::find(&instance.instance_type));
    of_type.map_or(ADDRESSES_MAX, |known| known.addresses_per_interface_max.into())
}

pub(super) fn too_many_addresses(max: usize) -> Error {
    let message = format!("Number of private addresses will exceed limit: {max}.");
    Error::new("PrivateIpAddressLimitExceeded", message)
}

/// The groups that an interface in a subnet is to be in.
///
/// # Errors
/// When one is not in the VPC, or there are too many.
fn groups(
    view: View<'_>,
    subnet: &Subnet,
    named: Vec<SecurityGroupId>,
) -> Result<Vec<SecurityGroupId>, Error> {
    if named.is_empty() {
        let default = group::by_name(view, subnet.vpc, SecurityGroup::DEFAULT_NAME);
        return Ok(default.map(|group| group.id).into_iter().collect());
    }
    check_groups(view, subnet.vpc, named, |group| {
        format!("Security group {group} and subnet {} belong to different networks.", subnet.id)
    })
}

/// As many groups as there are different ones.
///
/// # Errors
/// When one is not in the VPC, or there are too many.
pub(super) fn check_groups(
    view: View<'_>,
    vpc: VpcId,
    named: Vec<SecurityGroupId>,
    elsewhere: impl Fn(SecurityGroupId) -> String,
) -> Result<Vec<SecurityGroupId>, Error> {
    let mut groups = Vec::new();
    for id in named {
        let group = view.get::<SecurityGroup>(id).ok_or_else(|| not_found(id))?;
        if group.vpc != vpc {
            return Err(Error::new("InvalidParameter", elsewhere(id)));
        }
        if !groups.contains(&id) {
            groups.push(id);
        }
    }
    if groups.len() > GROUPS_MAX {
        let message = format!(
            "You have exceeded the maximum number of security groups allowed per network interface: {GROUPS_MAX}."
        );
        return Err(Error::new("SecurityGroupsPerInterfaceLimitExceeded", message));
    }
    Ok(groups)
}

/// Gives an interface to an instance: from now on it is the instance's, and a reconciler brings it there. That this can be is the caller's to know.
pub(in crate::ec2) fn attach(
    tx: &mut Transaction<'_>,
    id: NetworkInterfaceId,
    instance: InstanceId,
    device_index: u8,
    delete_on_termination: bool,
) -> Result<AttachmentId, Error> {
    let attachment = Attachment {
        id: tx.new_id(),
        instance,
        device_index,
        attached: tx.now(),
        delete_on_termination,
        state: AttachmentState::Attaching,
    };
    let its_id = attachment.id;
    tx.update::<NetworkInterface>(id, |interface| interface.attachment = Some(attachment));
    publish(tx, id)?;
    Ok(its_id)
}

/// An interface is in no instance any more. The public address that it had there is given back; an Elastic one stays its.
pub(crate) fn release(tx: &mut Transaction<'_>, id: NetworkInterfaceId) {
    unpublish(tx, id);
    tx.update::<NetworkInterface>(id, |interface| interface.attachment = None);
}

/// Removes an interface. Elastic addresses lead to it no longer.
pub(crate) fn remove(tx: &mut Transaction<'_>, id: NetworkInterfaceId) {
    let elastic: Vec<AllocationId> = tx.tables().addresses.linked_to(id).map(|address| address.id).collect();
    for address in elastic {
        tx.update::<Address>(address, |address| address.association = None);
    }
    tx.remove::<NetworkInterface>(id);
}

/// Gives an interface the public address that it is to have, unless an Elastic one leads there or its instance does not run.
///
/// # Errors
/// When there is none left.
pub(in crate::ec2) fn publish(tx: &mut Transaction<'_>, id: NetworkInterfaceId) -> Result<(), Error> {
    let view = tx.view();
    let Some(interface) = view.get::<NetworkInterface>(id) else { return Ok(()) };
    let Some(primary) = interface.addresses.first() else { return Ok(()) };
    let has_one = primary.public_ip.is_some() || elastic(view, id, primary.ip).is_some();
    if has_one || !interface.wants_public_address || !is_in_use(view, interface) {
        return Ok(());
    }
    let public = take_public(tx)?;
    tx.update::<NetworkInterface>(id, |interface| interface.addresses[0].public_ip = Some(public));
    Ok(())
}

/// Gives the public address of an interface back, if it has one: that its instance does not run any more, or an Elastic one leads there.
pub(in crate::ec2) fn unpublish(tx: &mut Transaction<'_>, id: NetworkInterfaceId) {
    let addresses = tx.get::<NetworkInterface>(id).map(|interface| interface.addresses.as_slice());
    if addresses.unwrap_or_default().iter().any(|address| address.public_ip.is_some()) {
        tx.update::<NetworkInterface>(id, |interface| {
            interface.addresses.iter_mut().for_each(|address| address.public_ip = None);
        });
    }
}

fn is_in_use(view: View<'_>, interface: &NetworkInterface) -> bool {
    let attachment = interface.attachment.as_ref();
    let instance = attachment.and_then(|attachment| view.get::<Instance>(attachment.instance));
    instance.is_some_and(|instance| matches!(instance.state, InstanceState::Pending | InstanceState::Running))
}

/// The Elastic address that leads to a private one.
pub(in crate::ec2) fn elastic(
    view: View<'_>,
    id: NetworkInterfaceId,
    private: Ipv4Addr,
) -> Option<(&Address, AddressAssociationId)> {
    view.tables().addresses.linked_to(id).find_map(|address| {
        let association = address.association.as_ref()?;
        let is_it = association.interface == id && association.private_ip == private;
        is_it.then_some((address.as_ref(), association.id))
    })
}
