//! Network ACLs, and which subnets they are for: each subnet has one.

use std::sync::Arc;

use aws::filters::{Filtered, Values};
use aws::service::Empty;
use aws::{Call, Error, Table, ec2};
use types::{NetworkAclAssociationId, NetworkAclId, VpcId};

use super::network_acl_entry as entry;
use crate::ec2::errors::{dependency, id, not_found, other_network};
use crate::ec2::once::once;
use crate::ec2::row::{Row, page, select};
use crate::ec2::tags;
use crate::plane::{Plane, Serve as _};
use crate::records::{NetworkAcl, NetworkAclAssociation, Vpc};
use crate::state::{Transaction, View};

/// In one VPC. Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const ACLS_MAX: usize = 200;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CreateNetworkAcl>(create)
        .changes::<ec2::DeleteNetworkAcl>(delete)
        .looks::<ec2::DescribeNetworkAcls>(describe)
        .changes::<ec2::ReplaceNetworkAclAssociation>(replace_association)
}

fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateNetworkAclRequest,
) -> Result<ec2::CreateNetworkAclResult, Error> {
    let client_token = input.client_token.clone();
    let id = once::<ec2::CreateNetworkAcl, NetworkAclId>(tx, input, make)?;
    let network_acl = Some(shown_by_id(tx, id).ok_or_else(|| not_found(id))?);
    Ok(ec2::CreateNetworkAclResult { network_acl, client_token })
}

fn make(tx: &mut Transaction<'_>, input: ec2::CreateNetworkAclRequest) -> Result<NetworkAclId, Error> {
    let vpc: VpcId = id(&input.vpc_id)?;
    let tags = tags::specified(&input.tag_specifications, "network-acl")?;
    tx.get::<Vpc>(vpc).ok_or_else(|| not_found(vpc))?;
    if tx.tables().network_acls.linked_to(vpc).count() >= ACLS_MAX {
        let message = format!("The vpc '{vpc}' has reached its limit of {ACLS_MAX} network ACLs.");
        return Err(Error::new("NetworkAclLimitExceeded", message));
    }
    let id = tx.new_id();
    tx.put(NetworkAcl { id, vpc, is_default: false, entries: Vec::new(), associations: Vec::new() });
    tags::add(tx, id, tags)?;
    Ok(id)
}

fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteNetworkAclRequest) -> Result<Empty, Error> {
    let id: NetworkAclId = id(&input.network_acl_id)?;
    let acl = tx.get::<NetworkAcl>(id).ok_or_else(|| not_found(id))?;
    if acl.is_default {
        let message = format!("cannot delete default network ACL {id}");
        return Err(Error::new("InvalidParameterValue", message));
    }
    if !acl.associations.is_empty() {
        return Err(dependency(format_args!("The networkAcl '{id}'")));
    }
    tx.remove::<NetworkAcl>(id);
    Ok(Empty)
}

/// Gives a subnet another ACL.
fn replace_association(
    tx: &mut Transaction<'_>,
    input: ec2::ReplaceNetworkAclAssociationRequest,
) -> Result<ec2::ReplaceNetworkAclAssociationResult, Error> {
    let association: NetworkAclAssociationId = id(&input.association_id)?;
    let wanted: NetworkAclId = id(&input.network_acl_id)?;
    let current = tx.tables().network_acls.linked_to(association).next();
    let current = current.ok_or_else(|| not_found(association))?;
    let it = current.associations.iter().find(|each| each.id == association);
    let subnet = it.ok_or_else(|| not_found(association))?.subnet;
    let found = tx.get::<NetworkAcl>(wanted).ok_or_else(|| not_found(wanted))?;
    if found.vpc != current.vpc {
        return Err(other_network(format_args!("network ACL {wanted}"), format_args!("network {subnet}")));
    }
    let current = current.id;
    let replaced = NetworkAclAssociation { id: tx.new_id(), subnet };
    let new_association_id = Some(replaced.id.to_string());
    tx.update::<NetworkAcl>(current, |acl| acl.associations.retain(|each| each.id != association));
    tx.update::<NetworkAcl>(wanted, |acl| acl.associations.push(replaced));
    Ok(ec2::ReplaceNetworkAclAssociationResult { new_association_id })
}

fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeNetworkAclsRequest>,
) -> Result<ec2::DescribeNetworkAclsResult, Error> {
    let rows = select::<NetworkAcl>(view, &call.input.network_acl_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeNetworkAcls, _>(call, rows)?;
    Ok(ec2::DescribeNetworkAclsResult { network_acls: Some(rows.iter().map(shown).collect()), next_token })
}

fn shown_by_id(tx: &Transaction<'_>, id: NetworkAclId) -> Option<ec2::NetworkAcl> {
    let view = tx.view();
    view.get::<NetworkAcl>(id).map(|record| shown(&Row { view, record }))
}

fn shown(row: &Row<'_, NetworkAcl>) -> ec2::NetworkAcl {
    let Row { view, record: acl } = row;
    let association = |association: &NetworkAclAssociation| ec2::NetworkAclAssociation {
        network_acl_association_id: Some(association.id.to_string()),
        network_acl_id: Some(acl.id.to_string()),
        subnet_id: Some(association.subnet.to_string()),
    };
    ec2::NetworkAcl {
        associations: Some(acl.associations.iter().map(association).collect()),
        entries: Some(entry::shown(acl).collect()),
        is_default: Some(acl.is_default),
        network_acl_id: Some(acl.id.to_string()),
        tags: Some(tags::shown(view, acl.id).unwrap_or_default()),
        vpc_id: Some(acl.vpc.to_string()),
        owner_id: Some(view.space.account.to_string()),
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeNetworkAcls.html>.
impl Filtered for Row<'_, NetworkAcl> {
    const NAMES: &'static [&'static str] = &[
        "association.association-id",
        "association.network-acl-id",
        "association.subnet-id",
        "default",
        "entry.cidr",
        "entry.egress",
        "entry.icmp.code",
        "entry.icmp.type",
        "entry.ipv6-cidr",
        "entry.port-range.from",
        "entry.port-range.to",
        "entry.protocol",
        "entry.rule-action",
        "entry.rule-number",
        "network-acl-id",
        "owner-id",
        "vpc-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let acl = self.record;
        let associations = acl.associations.iter();
        match name {
            "association.association-id" => {
                associations.for_each(|association| values.shown(association.id));
            }
            "association.network-acl-id" => associations.for_each(|_| values.shown(acl.id)),
            "association.subnet-id" => associations.for_each(|association| values.shown(association.subnet)),
            "default" => values.flag(acl.is_default),
            "network-acl-id" => values.shown(acl.id),
            "owner-id" => values.shown(self.view.space.account),
            "vpc-id" => values.shown(acl.vpc),
            other => entry::filter_values(acl, other.trim_start_matches("entry."), values),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
