//! Subnets, and which of their addresses are free.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use aws::filters::{Filtered, Values};
use aws::service::Empty;
use aws::{Call, Error, ec2};
use ipnet::Ipv4Net;
use types::{NetworkAclId, RouteTableId, SubnetId, VpcId, Zone};

use super::{make, overlap, usable_range};
use crate::ec2::errors::{dependency, id, invalid_value, missing, not_found};
use crate::ec2::row::{Row, page, select};
use crate::ec2::tags;
use crate::records::{NetworkAcl, RouteTable, Subnet, Vpc};
use crate::state::{Counted, Transaction, View};

/// Of each subnet, the first four addresses and the last are nobody's.
/// Source: <https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html>.
const RESERVED_AT_START: u32 = 4;
const RESERVED_AT_END: u32 = 1;

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateSubnetRequest,
) -> Result<ec2::CreateSubnetResult, Error> {
    let vpc: VpcId = id(&input.vpc_id)?;
    let cidr = usable_range(&input.cidr_block.ok_or_else(|| missing("CidrBlock"))?, "CidrBlock")?;
    let zone = zone(tx.view(), input.availability_zone.as_deref(), input.availability_zone_id.as_deref())?;
    let tags = tags::specified(&input.tag_specifications, "subnet")?;
    let found = tx.get::<Vpc>(vpc).ok_or_else(|| not_found(vpc))?;
    if !found.ranges.iter().any(|range| range.cidr.contains(&cidr)) {
        return Err(Error::new("InvalidSubnet.Range", format!("The CIDR '{cidr}' is invalid.")));
    }
    if tx.tables().subnets.linked_to(vpc).any(|subnet| overlap(&subnet.cidr, &cidr)) {
        let message = format!("The CIDR '{cidr}' conflicts with another subnet");
        return Err(Error::new("InvalidSubnet.Conflict", message));
    }
    // Where nobody says which, one of them is as good as another.
    let zone = zone.unwrap_or_else(|| first_zone(tx.view()));
    let id = make::subnet(tx, vpc, zone, cidr, false);
    tags::add(tx, id, tags)?;
    Ok(ec2::CreateSubnetResult { subnet: shown_by_id(tx, id) })
}

pub(super) fn create_default(
    tx: &mut Transaction<'_>,
    input: ec2::CreateDefaultSubnetRequest,
) -> Result<ec2::CreateDefaultSubnetResult, Error> {
    let zone = zone(tx.view(), input.availability_zone.as_deref(), input.availability_zone_id.as_deref())?
        .ok_or_else(|| missing("AvailabilityZone"))?;
    let default = tx.tables().vpcs.iter().find(|vpc| vpc.is_default);
    let vpc = default.ok_or_else(|| {
        let message =
            "No default VPC for this user. A default VPC must exist before a default subnet is created.";
        Error::new("DefaultVpcDoesNotExist", message)
    })?;
    let (vpc, range) = (vpc.id, vpc.ranges[0].cidr);
    let others: Vec<_> = tx.tables().subnets.linked_to(vpc).collect();
    if others.iter().any(|subnet| subnet.is_default_for_zone && subnet.zone == zone) {
        let message = format!("A default subnet already exists in {zone}.");
        return Err(Error::new("DefaultSubnetAlreadyExistsInAvailabilityZone", message));
    }
    let is_free = |cidr: &Ipv4Net| !others.iter().any(|subnet| overlap(&subnet.cidr, cidr));
    let cidr = range.subnets(make::DEFAULT_SUBNET_PREFIX).into_iter().flatten().find(is_free);
    let cidr = cidr.ok_or_else(|| {
        Error::new("InsufficientCidrBlocks", "The default VPC has no free range for another default subnet.")
    })?;
    let id = make::subnet(tx, vpc, zone, cidr, true);
    Ok(ec2::CreateDefaultSubnetResult { subnet: shown_by_id(tx, id) })
}

pub(super) fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteSubnetRequest) -> Result<Empty, Error> {
    let id: SubnetId = id(&input.subnet_id)?;
    tx.get::<Subnet>(id).ok_or_else(|| not_found(id))?;
    let tables = tx.tables();
    if tables.network_interfaces.linked_to(id).next().is_some()
        || tables.nat_gateways.linked_to(id).next().is_some()
    {
        return Err(dependency(format_args!("The subnet '{id}'")));
    }
    let acls: Vec<NetworkAclId> = tables.network_acls.linked_to(id).map(|acl| acl.id).collect();
    let routes: Vec<RouteTableId> = tables.route_tables.linked_to(id).map(|table| table.id).collect();
    for acl in acls {
        tx.update::<NetworkAcl>(acl, |acl| acl.associations.retain(|association| association.subnet != id));
    }
    for table in routes {
        tx.update::<RouteTable>(table, |table| {
            table.associations.retain(|association| association.subnet != Some(id));
        });
    }
    tx.remove::<Subnet>(id);
    Ok(Empty)
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeSubnetsRequest>,
) -> Result<ec2::DescribeSubnetsResult, Error> {
    let rows = select::<Subnet>(view, &call.input.subnet_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeSubnets, _>(call, rows)?;
    Ok(ec2::DescribeSubnetsResult { next_token, subnets: Some(rows.iter().map(shown).collect()) })
}

pub(super) fn modify_attribute(
    tx: &mut Transaction<'_>,
    input: ec2::ModifySubnetAttributeRequest,
) -> Result<Empty, Error> {
    let id: SubnetId = id(&input.subnet_id)?;
    tx.get::<Subnet>(id).ok_or_else(|| not_found(id))?;
    if let Some(kind) = input.private_dns_hostname_type_on_launch
        && kind != ec2::HostnameType::IpName
    {
        return Err(Error::new(
            "UnsupportedOperation",
            "nimbo names instances by their addresses: 'ip-name'.",
        ));
    }
    if input.enable_resource_name_dns_a_record_on_launch.and_then(|attribute| attribute.value) == Some(true) {
        return Err(Error::new("UnsupportedOperation", "nimbo names instances by their addresses only."));
    }
    if let Some(maps) = input.map_public_ip_on_launch.and_then(|attribute| attribute.value) {
        tx.update::<Subnet>(id, |subnet| subnet.maps_public_addresses = maps);
    }
    Ok(Empty)
}

/// The zone that a request names, if it names one.
///
/// # Errors
/// When there is no such zone in the region.
fn zone(view: View<'_>, name: Option<&str>, zone_id: Option<&str>) -> Result<Option<Zone>, Error> {
    let mut zones = view.space.region.zones().into_iter();
    match (name, zone_id) {
        (Some(_), Some(_)) => {
            let message = "AvailabilityZone and AvailabilityZoneId cannot be used together.";
            Err(Error::new("InvalidParameterCombination", message))
        }
        (Some(name), None) => zones
            .find(|zone| zone.to_string() == name)
            .map(Some)
            .ok_or_else(|| invalid_value(name, "availabilityZone", "There is no such zone in this region.")),
        (None, Some(zone_id)) => zones.find(|zone| zone.id() == zone_id).map(Some).ok_or_else(|| {
            invalid_value(zone_id, "availabilityZoneId", "There is no such zone in this region.")
        }),
        (None, None) => Ok(None),
    }
}

fn first_zone(view: View<'_>) -> Zone {
    let [first, ..] = view.space.region.zones();
    first
}

/// The first and the last address of a subnet that interfaces can have.
pub(in crate::ec2) fn usable_addresses(cidr: Ipv4Net) -> RangeInclusive<Ipv4Addr> {
    let (first, last) = (u32::from(cidr.network()), u32::from(cidr.broadcast()));
    Ipv4Addr::from(first + RESERVED_AT_START)..=Ipv4Addr::from(last - RESERVED_AT_END)
}

/// How many addresses of a subnet nobody has.
pub(crate) fn free_count(view: View<'_>, subnet: &Subnet) -> u64 {
    let used = view.tables().network_interfaces.counted(Counted::Addresses(subnet.id));
    let all = u32::from(subnet.cidr.broadcast()) - u32::from(subnet.cidr.network()) + 1;
    u64::from(all - RESERVED_AT_START - RESERVED_AT_END).saturating_sub(used)
}

fn shown_by_id(tx: &Transaction<'_>, id: SubnetId) -> Option<ec2::Subnet> {
    let view = tx.view();
    view.get::<Subnet>(id).map(|record| shown(&Row { view, record }))
}

fn arn(view: View<'_>, subnet: &Subnet) -> String {
    format!("arn:aws:ec2:{}:{}:subnet/{}", view.space.region, view.space.account, subnet.id)
}

fn shown(row: &Row<'_, Subnet>) -> ec2::Subnet {
    let Row { view, record: subnet } = *row;
    ec2::Subnet {
        availability_zone_id: Some(subnet.zone.id()),
        map_customer_owned_ip_on_launch: Some(false),
        owner_id: Some(view.space.account.to_string()),
        assign_ipv6_address_on_creation: Some(false),
        ipv6_cidr_block_association_set: Some(Vec::new()),
        tags: tags::shown(&view, subnet.id),
        subnet_arn: Some(arn(view, subnet)),
        enable_dns64: Some(false),
        ipv6_native: Some(false),
        private_dns_name_options_on_launch: Some(ec2::PrivateDnsNameOptionsOnLaunch {
            hostname_type: Some(ec2::HostnameType::IpName),
            enable_resource_name_dns_a_record: Some(false),
            enable_resource_name_dns_aaaa_record: Some(false),
        }),
        subnet_id: Some(subnet.id.to_string()),
        state: Some(ec2::SubnetState::Available),
        vpc_id: Some(subnet.vpc.to_string()),
        cidr_block: Some(subnet.cidr.to_string()),
        available_ip_address_count: Some(i32::try_from(free_count(view, subnet)).unwrap_or(i32::MAX)),
        availability_zone: Some(subnet.zone.to_string()),
        default_for_az: Some(subnet.is_default_for_zone),
        map_public_ip_on_launch: Some(subnet.maps_public_addresses),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSubnets.html>.
impl Filtered for Row<'_, Subnet> {
    const NAMES: &'static [&'static str] = &[
        "availability-zone",
        "availabilityZone",
        "availability-zone-id",
        "available-ip-address-count",
        "cidr-block",
        "cidr",
        "default-for-az",
        "defaultForAz",
        "map-public-ip-on-launch",
        "owner-id",
        "state",
        "subnet-arn",
        "subnet-id",
        "vpc-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let Row { view, record: subnet } = *self;
        match name {
            "availability-zone" | "availabilityZone" => values.shown(subnet.zone),
            "availability-zone-id" => values.text(&subnet.zone.id()),
            "available-ip-address-count" => values.shown(free_count(view, subnet)),
            "cidr-block" | "cidr" => values.shown(subnet.cidr),
            "default-for-az" | "defaultForAz" => values.flag(subnet.is_default_for_zone),
            "map-public-ip-on-launch" => values.flag(subnet.maps_public_addresses),
            "owner-id" => values.shown(view.space.account),
            "state" => values.text("available"),
            "subnet-arn" => values.text(&arn(view, subnet)),
            "subnet-id" => values.shown(subnet.id),
            "vpc-id" => values.shown(subnet.vpc),
            _ => unreachable!("{name} is no filter of subnets"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
