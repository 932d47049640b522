//! Security groups and their rules.

mod describe;
mod edit;
mod permission;
mod request;
mod rule;
mod security;
mod stale;

use std::sync::Arc;

use aws::{Error, Table, ec2};
use types::{SecurityGroupId, VpcId};

use super::errors::{id, missing, not_found};
use crate::plane::{Plane, Serve as _};
use crate::records::{SecurityGroup, Vpc};
use crate::state::View;

pub(super) use security::remove;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CreateSecurityGroup>(security::create)
        .changes::<ec2::DeleteSecurityGroup>(security::delete)
        .looks::<ec2::DescribeSecurityGroups>(describe::groups)
        .looks::<ec2::DescribeStaleSecurityGroups>(stale::describe)
        .changes::<ec2::AuthorizeSecurityGroupEgress>(edit::authorize_egress)
        .changes::<ec2::AuthorizeSecurityGroupIngress>(edit::authorize_ingress)
        .changes::<ec2::RevokeSecurityGroupEgress>(edit::revoke_egress)
        .changes::<ec2::RevokeSecurityGroupIngress>(edit::revoke_ingress)
        .looks::<ec2::DescribeSecurityGroupRules>(rule::describe)
        .changes::<ec2::ModifySecurityGroupRules>(rule::modify)
        .changes::<ec2::UpdateSecurityGroupRuleDescriptionsEgress>(rule::describe_egress)
        .changes::<ec2::UpdateSecurityGroupRuleDescriptionsIngress>(rule::describe_ingress)
}

/// The VPC of who names none.
///
/// # Errors
/// When there is none.
fn default_vpc(view: View<'_>) -> Result<VpcId, Error> {
    let default = view.tables().vpcs.iter().find(|vpc| vpc.is_default).map(|vpc| vpc.id);
    default.ok_or_else(|| Error::new("VPCIdNotSpecified", "No default VPC for this user"))
}

/// The group of that name in a VPC.
pub(super) fn by_name<'a>(view: View<'a>, vpc: VpcId, name: &str) -> Option<&'a SecurityGroup> {
    let mut groups = view.tables().security_groups.linked_to(vpc);
    groups.find(|group| group.name == name).map(AsRef::as_ref)
}

/// The group that a request names by its id, or by its name in the default VPC.
///
/// # Errors
/// When it names none, or both, or there is no such group.
fn named<'a>(view: View<'a>, group_id: Option<&str>, name: Option<&str>) -> Result<&'a SecurityGroup, Error> {
    match (group_id, name) {
        (Some(group), None) => {
            let group: SecurityGroupId = id(group)?;
            view.get(group).ok_or_else(|| not_found(group))
        }
        (None, Some(name)) => {
            let vpc = default_vpc(view)?;
            by_name(view, vpc, name).ok_or_else(|| no_such_name(name, vpc))
        }
        (Some(_), Some(_)) => Err(Error::new(
            "InvalidParameterCombination",
            "The parameters groupId and groupName cannot be used together.",
        )),
        (None, None) => Err(missing("GroupId")),
    }
}

fn no_such_name(name: &str, vpc: VpcId) -> Error {
    let message = format!("The security group '{name}' does not exist in default VPC '{vpc}'");
    Error::new("InvalidGroup.NotFound", message)
}

fn is_in_default_vpc(view: View<'_>, group: &SecurityGroup) -> bool {
    view.get::<Vpc>(group.vpc).is_some_and(|vpc| vpc.is_default)
}
