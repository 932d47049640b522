//! Rules that name groups which they do not reach any more: the group is gone, or the peering connection to its VPC is.
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/peering/vpc-peering-security-groups.html#vpc-peering-stale-groups>.

use aws::page::Page;
use aws::{Call, Error, ec2};
use types::VpcId;

use super::permission::{Permission, grouped, is_stale};
use crate::ec2::errors::{id, not_found};
use crate::records::{Direction, Peer, SecurityGroup, SecurityGroupRule, Vpc};
use crate::state::View;

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeStaleSecurityGroupsRequest>,
) -> Result<ec2::DescribeStaleSecurityGroupsResult, Error> {
    let vpc: VpcId = id(&call.input.vpc_id)?;
    view.get::<Vpc>(vpc).ok_or_else(|| not_found(vpc))?;
    let groups = view.tables().security_groups.linked_to(vpc).map(AsRef::as_ref);
    let stale: Vec<_> =
        groups.filter(|group| group.rules.iter().any(|rule| names_nobody(view, group, rule))).collect();
    let page = Page::of::<ec2::DescribeStaleSecurityGroups>(call)?;
    let (stale, next_token) = page.take(stale, |group| group.id.to_string());
    let shown = stale.into_iter().map(|group| shown(view, group)).collect();
    Ok(ec2::DescribeStaleSecurityGroupsResult { next_token, stale_security_group_set: Some(shown) })
}

fn names_nobody(view: View<'_>, group: &SecurityGroup, rule: &SecurityGroupRule) -> bool {
    match rule.peer {
        Peer::Group(peer) => is_stale(view, group.vpc, peer),
        Peer::Range(_) | Peer::Range6(_) => false,
    }
}

fn shown(view: View<'_>, group: &SecurityGroup) -> ec2::StaleSecurityGroup {
    let permissions = |direction| {
        let rules = group.rules.iter().filter(|rule| rule.direction == direction);
        let stale = rules.filter(|rule| names_nobody(view, group, rule)).map(Permission::from);
        Some(grouped(view, group.vpc, stale).into_iter().map(stale_permission).collect())
    };
    ec2::StaleSecurityGroup {
        description: Some(group.description.clone()),
        group_id: Some(group.id.to_string()),
        group_name: Some(group.name.clone()),
        stale_ip_permissions: permissions(Direction::Ingress),
        stale_ip_permissions_egress: permissions(Direction::Egress),
        vpc_id: Some(group.vpc.to_string()),
    }
}

/// Only rules that name groups are ever stale.
fn stale_permission(permission: ec2::IpPermission) -> ec2::StaleIpPermission {
    ec2::StaleIpPermission {
        from_port: permission.from_port,
        ip_protocol: permission.ip_protocol,
        ip_ranges: Some(Vec::new()),
        prefix_list_ids: Some(Vec::new()),
        to_port: permission.to_port,
        user_id_group_pairs: permission.user_id_group_pairs,
    }
}
