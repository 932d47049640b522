//! VPCs themselves.

use aws::filters::{Filtered, Values};
use aws::{Call, Error, ec2};
use types::{VpcCidrAssociationId, VpcId};

use super::{make, overlap, usable_range};
use crate::ec2::errors::{dependency, id, missing, not_found};
use crate::ec2::row::{Row, page, select};
use crate::ec2::{group, tags};
use crate::records::{NetworkAcl, PeeringState, RouteTable, SecurityGroup, Vpc, VpcRange};
use crate::state::{Record as _, Transaction, View};

/// Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const RANGES_MAX: usize = 5;

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateVpcRequest,
) -> Result<ec2::CreateVpcResult, Error> {
    let cidr = usable_range(&input.cidr_block.ok_or_else(|| missing("cidrBlock"))?, "cidrBlock")?;
    if input.instance_tenancy.is_some_and(|tenancy| tenancy != ec2::Tenancy::Default) {
        return Err(Error::new(
            "UnsupportedOperation",
            "nimbo has no dedicated hosts: the tenancy is 'default'.",
        ));
    }
    let tags = tags::specified(&input.tag_specifications, "vpc")?;
    let id = make::vpc(tx, cidr, false);
    tags::add(tx, id, tags)?;
    Ok(ec2::CreateVpcResult { vpc: shown_by_id(tx, id) })
}

pub(super) fn create_default(
    tx: &mut Transaction<'_>,
    _: ec2::CreateDefaultVpcRequest,
) -> Result<ec2::CreateDefaultVpcResult, Error> {
    if tx.tables().vpcs.iter().any(|vpc| vpc.is_default) {
        let message = "A Default VPC already exists for this account in this region.";
        return Err(Error::new("DefaultVpcAlreadyExists", message));
    }
    let id = make::default_vpc(tx);
    Ok(ec2::CreateDefaultVpcResult { vpc: shown_by_id(tx, id) })
}

/// A VPC goes with what came with it, and not before what was put into it.
pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: ec2::DeleteVpcRequest,
) -> Result<aws::service::Empty, Error> {
    let id: VpcId = id(&input.vpc_id)?;
    tx.get::<Vpc>(id).ok_or_else(|| not_found(id))?;
    let tables = tx.tables();
    let main = |table: &RouteTable| table.is_main() && table.associations.len() == 1;
    let is_used = tables.subnets.linked_to(id).next().is_some()
        || tables.network_interfaces.linked_to(id).next().is_some()
        || tables.internet_gateways.linked_to(id).next().is_some()
        || tables.nat_gateways.linked_to(id).next().is_some()
        || tables.peering_connections.linked_to(id).any(|peering| peering.state == PeeringState::Active)
        || tables.route_tables.linked_to(id).any(|table| !main(table))
        || tables.network_acls.linked_to(id).any(|acl| !acl.is_default)
        || tables.security_groups.linked_to(id).any(|group| group.name != SecurityGroup::DEFAULT_NAME);
    if is_used {
        return Err(dependency(format_args!("The vpc '{id}'")));
    }
    let tables: Vec<_> = tables.route_tables.linked_to(id).map(|table| table.id).collect();
    let acls: Vec<_> = tx.tables().network_acls.linked_to(id).map(|acl| acl.id).collect();
    let groups: Vec<_> = tx.tables().security_groups.linked_to(id).map(|group| group.id).collect();
    tables.into_iter().for_each(|table| tx.remove::<RouteTable>(table));
    acls.into_iter().for_each(|acl| tx.remove::<NetworkAcl>(acl));
    groups.into_iter().for_each(|id| group::remove(tx, id));
    tx.remove::<Vpc>(id);
    Ok(aws::service::Empty)
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeVpcsRequest>,
) -> Result<ec2::DescribeVpcsResult, Error> {
    let rows = select::<Vpc>(view, &call.input.vpc_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeVpcs, _>(call, rows)?;
    Ok(ec2::DescribeVpcsResult { next_token, vpcs: Some(rows.iter().map(shown).collect()) })
}

pub(super) fn modify_attribute(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyVpcAttributeRequest,
) -> Result<aws::service::Empty, Error> {
    let id: VpcId = id(&input.vpc_id)?;
    let support = input.enable_dns_support.and_then(|attribute| attribute.value);
    let hostnames = input.enable_dns_hostnames.and_then(|attribute| attribute.value);
    match (support, hostnames) {
        (None, None) => return Err(missing("enableDnsSupport or enableDnsHostnames")),
        (Some(_), Some(_)) => {
            let message =
                "The parameters enableDnsSupport and enableDnsHostnames cannot be specified together";
            return Err(Error::new("InvalidParameterCombination", message));
        }
        _ => {}
    }
    let change = |vpc: &mut Vpc| {
        vpc.dns_support = support.unwrap_or(vpc.dns_support);
        vpc.dns_hostnames = hostnames.unwrap_or(vpc.dns_hostnames);
    };
    if tx.update::<Vpc>(id, change) { Ok(aws::service::Empty) } else { Err(not_found(id)) }
}

pub(super) fn describe_attribute(
    view: View<'_>,
    call: &Call<ec2::DescribeVpcAttributeRequest>,
) -> Result<ec2::DescribeVpcAttributeResult, Error> {
    let id: VpcId = id(&call.input.vpc_id)?;
    let vpc = view.get::<Vpc>(id).ok_or_else(|| not_found(id))?;
    let answer = ec2::DescribeVpcAttributeResult { vpc_id: Some(id.to_string()), ..Default::default() };
    let value = |value| Some(ec2::AttributeBooleanValue { value: Some(value) });
    Ok(match call.input.attribute {
        ec2::VpcAttributeName::EnableDnsSupport => {
            ec2::DescribeVpcAttributeResult { enable_dns_support: value(vpc.dns_support), ..answer }
        }
        ec2::VpcAttributeName::EnableDnsHostnames => {
            ec2::DescribeVpcAttributeResult { enable_dns_hostnames: value(vpc.dns_hostnames), ..answer }
        }
        ec2::VpcAttributeName::EnableNetworkAddressUsageMetrics => {
            // Nobody can have switched them on.
            ec2::DescribeVpcAttributeResult { enable_network_address_usage_metrics: value(false), ..answer }
        }
    })
}

pub(super) fn associate_range(
    tx: &mut Transaction<'_>,
    input: ec2::AssociateVpcCidrBlockRequest,
) -> Result<ec2::AssociateVpcCidrBlockResult, Error> {
    let id: VpcId = id(&input.vpc_id)?;
    let cidr = usable_range(&input.cidr_block.ok_or_else(|| missing("cidrBlock"))?, "cidrBlock")?;
    let vpc = tx.get::<Vpc>(id).ok_or_else(|| not_found(id))?;
    if vpc.ranges.len() >= RANGES_MAX {
        let message =
            format!("This network '{id}' has met its maximum number of allowed CIDRs: {RANGES_MAX}");
        return Err(Error::new("CidrLimitExceeded", message));
    }
    if vpc.ranges.iter().any(|range| overlap(&range.cidr, &cidr)) {
        let message = format!("The CIDR '{cidr}' conflicts with another range of the VPC.");
        return Err(Error::new("InvalidVpc.Conflict", message));
    }
    let range = VpcRange { id: tx.new_id(), cidr };
    let association = shown_range(&range, ec2::VpcCidrBlockStateCode::Associated);
    tx.update::<Vpc>(id, |vpc| vpc.ranges.push(range));
    Ok(ec2::AssociateVpcCidrBlockResult {
        cidr_block_association: Some(association),
        vpc_id: Some(id.to_string()),
        ..Default::default()
    })
}

pub(super) fn disassociate_range(
    tx: &mut Transaction<'_>,
    input: ec2::DisassociateVpcCidrBlockRequest,
) -> Result<ec2::DisassociateVpcCidrBlockResult, Error> {
    let association: VpcCidrAssociationId = id(&input.association_id)?;
    let has_it = |vpc: &Vpc| vpc.ranges.iter().position(|range| range.id == association);
    let found = tx.tables().vpcs.iter().find_map(|vpc| has_it(vpc).map(|place| (vpc.id, place)));
    let (id, place) = found.ok_or_else(|| not_found(association))?;
    if place == 0 {
        let message = format!(
            "The vpc CIDR block with association ID {association} may not be disassociated. It is the primary IPv4 CIDR block of the VPC"
        );
        return Err(Error::new("OperationNotPermitted", message));
    }
    let mut removed = None;
    tx.update::<Vpc>(id, |vpc| removed = Some(vpc.ranges.remove(place)));
    let range = removed.ok_or_else(|| not_found(association))?;
    if tx.tables().subnets.linked_to(id).any(|subnet| range.cidr.contains(&subnet.cidr)) {
        let message = format!("The vpc CIDR block with association ID {association} is used by a subnet.");
        return Err(Error::new("InvalidCidrBlock.InUse", message));
    }
    Ok(ec2::DisassociateVpcCidrBlockResult {
        cidr_block_association: Some(shown_range(&range, ec2::VpcCidrBlockStateCode::Disassociating)),
        vpc_id: Some(id.to_string()),
        ..Default::default()
    })
}

fn shown_by_id(tx: &Transaction<'_>, id: VpcId) -> Option<ec2::Vpc> {
    let view = tx.view();
    view.get::<Vpc>(id).map(|record| shown(&Row { view, record }))
}

fn shown(row: &Row<'_, Vpc>) -> ec2::Vpc {
    let Row { view, record: vpc } = row;
    let associated = |range| shown_range(range, ec2::VpcCidrBlockStateCode::Associated);
    ec2::Vpc {
        owner_id: Some(view.space.account.to_string()),
        instance_tenancy: Some(ec2::Tenancy::Default),
        cidr_block_association_set: Some(vpc.ranges.iter().map(associated).collect()),
        is_default: Some(vpc.is_default),
        tags: tags::shown(view, vpc.id),
        vpc_id: Some(vpc.id.to_string()),
        state: Some(ec2::VpcState::Available),
        cidr_block: vpc.ranges.first().map(|range| range.cidr.to_string()),
        dhcp_options_id: Some(vpc.dhcp_options.map_or_else(|| "default".to_owned(), |id| id.to_string())),
        ..Default::default()
    }
}

fn shown_range(range: &VpcRange, state: ec2::VpcCidrBlockStateCode) -> ec2::VpcCidrBlockAssociation {
    ec2::VpcCidrBlockAssociation {
        association_id: Some(range.id.to_string()),
        cidr_block: Some(range.cidr.to_string()),
        cidr_block_state: Some(ec2::VpcCidrBlockState { state: Some(state), ..Default::default() }),
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVpcs.html>.
impl Filtered for Row<'_, Vpc> {
    const NAMES: &'static [&'static str] = &[
        "cidr",
        // Subnets document both names; of VPCs both are taken, too.
        "cidr-block",
        "cidr-block-association.association-id",
        "cidr-block-association.cidr-block",
        "cidr-block-association.state",
        "dhcp-options-id",
        "is-default",
        "isDefault",
        "owner-id",
        "state",
        "vpc-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let vpc = self.record;
        match name {
            "cidr" | "cidr-block" => {
                vpc.ranges.first().into_iter().for_each(|range| values.shown(range.cidr))
            }
            "cidr-block-association.association-id" => {
                vpc.ranges.iter().for_each(|range| values.shown(range.id))
            }
            "cidr-block-association.cidr-block" => {
                vpc.ranges.iter().for_each(|range| values.shown(range.cidr))
            }
            "cidr-block-association.state" => values.text("associated"),
            "dhcp-options-id" => match vpc.dhcp_options {
                Some(options) => values.shown(options),
                None => values.text("default"),
            },
            "is-default" | "isDefault" => values.flag(vpc.is_default),
            "owner-id" => values.shown(self.view.space.account),
            "state" => values.text("available"),
            "vpc-id" => values.shown(vpc.id()),
            _ => unreachable!("{name} is no filter of VPCs"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
