//! Groups as they are shown and found.

use aws::filters::{Filtered, Values};
use aws::{Call, Error, ec2};

use super::permission::{Permission, grouped, words};
use super::{by_name, default_vpc, no_such_name};
use crate::ec2::row::{Row, arn, page, select};
use crate::ec2::tags;
use crate::records::{Direction, Peer, SecurityGroup, SecurityGroupRule};
use crate::state::View;

pub(super) fn groups(
    view: View<'_>,
    call: &Call<ec2::DescribeSecurityGroupsRequest>,
) -> Result<ec2::DescribeSecurityGroupsResult, Error> {
    let mut ids = call.input.group_ids.clone();
    for name in &call.input.group_names {
        let vpc = default_vpc(view)?;
        let group = by_name(view, vpc, name).ok_or_else(|| no_such_name(name, vpc))?;
        ids.push(group.id.to_string());
    }
    let rows = select::<SecurityGroup>(view, &ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeSecurityGroups, _>(call, rows)?;
    let security_groups = Some(rows.iter().map(shown).collect());
    Ok(ec2::DescribeSecurityGroupsResult { next_token, security_groups })
}

fn shown(row: &Row<'_, SecurityGroup>) -> ec2::SecurityGroup {
    let Row { view, record: group } = *row;
    let permissions = |direction| {
        let rules = group.rules.iter().filter(|rule| rule.direction == direction);
        Some(grouped(view, group.vpc, rules.map(Permission::from)))
    };
    ec2::SecurityGroup {
        group_id: Some(group.id.to_string()),
        ip_permissions_egress: permissions(Direction::Egress),
        tags: tags::shown(&view, group.id),
        vpc_id: Some(group.vpc.to_string()),
        security_group_arn: Some(arn(view.space, "security-group", group.id)),
        owner_id: Some(view.space.account.to_string()),
        group_name: Some(group.name.clone()),
        description: Some(group.description.clone()),
        ip_permissions: permissions(Direction::Ingress),
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSecurityGroups.html>.
impl Filtered for Row<'_, SecurityGroup> {
    const NAMES: &'static [&'static str] = &[
        "description",
        "egress.ip-permission.cidr",
        "egress.ip-permission.from-port",
        "egress.ip-permission.group-id",
        "egress.ip-permission.group-name",
        "egress.ip-permission.ipv6-cidr",
        "egress.ip-permission.prefix-list-id",
        "egress.ip-permission.protocol",
        "egress.ip-permission.to-port",
        "egress.ip-permission.user-id",
        "group-id",
        "group-name",
        "ip-permission.cidr",
        "ip-permission.from-port",
        "ip-permission.group-id",
        "ip-permission.group-name",
        "ip-permission.ipv6-cidr",
        "ip-permission.prefix-list-id",
        "ip-permission.protocol",
        "ip-permission.to-port",
        "ip-permission.user-id",
        "owner-id",
        "vpc-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let group = self.record;
        match name {
            "description" => values.text(&group.description),
            "group-id" => values.shown(group.id),
            "group-name" => values.text(&group.name),
            "owner-id" => values.shown(self.view.space.account),
            "vpc-id" => values.shown(group.vpc),
            _ => {
                let (direction, name) = match name.strip_prefix("egress.") {
                    Some(name) => (Direction::Egress, name),
                    None => (Direction::Ingress, name),
                };
                let rules = group.rules.iter().filter(|rule| rule.direction == direction);
                rules.for_each(|rule| rule_values(self.view, rule, name, values));
            }
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}

fn rule_values(view: View<'_>, rule: &SecurityGroupRule, name: &str, values: &mut Values<'_>) {
    let (protocol, first, last) = words(rule.traffic);
    let peer = match rule.peer {
        Peer::Group(group) => Some(group),
        Peer::Range(_) | Peer::Range6(_) => None,
    };
    match (name, rule.peer) {
        ("ip-permission.cidr", Peer::Range(range)) => values.shown(range),
        ("ip-permission.ipv6-cidr", Peer::Range6(range)) => values.shown(range),
        ("ip-permission.from-port", _) => first.into_iter().for_each(|port| values.shown(port)),
        ("ip-permission.to-port", _) => last.into_iter().for_each(|port| values.shown(port)),
        ("ip-permission.protocol", _) => values.text(&protocol),
        ("ip-permission.group-id", _) => peer.into_iter().for_each(|group| values.shown(group)),
        ("ip-permission.user-id", _) => peer.into_iter().for_each(|_| values.shown(view.space.account)),
        ("ip-permission.group-name", _) => {
            let group = peer.and_then(|group| view.get::<SecurityGroup>(group));
            group.into_iter().for_each(|group| values.text(&group.name));
        }
        // Of another kind of peer, or of prefix lists, which are not here.
        _ => {}
    }
}
