//! Rules by their own ids: shown, changed and described.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2};
use types::{SecurityGroupId, SecurityGroupRuleId};

use super::edit::{check_count, duplicate, no_such_permission};
use super::named;
use super::permission::{
    Permission, beyond, described, no_prefix_list, range4, range6, read, referenced, traffic, way, words,
};
use crate::ec2::errors::{id, ids, missing, not_found};
use crate::ec2::row::{arn, read_filters};
use crate::ec2::tags;
use crate::records::{Direction, Peer, SecurityGroup, SecurityGroupRule, TagSet, Traffic};
use crate::state::{Transaction, View};

/// A rule, and the group whose it is.
struct RuleRow<'a> {
    view: View<'a>,
    group: SecurityGroupId,
    rule: &'a SecurityGroupRule,
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeSecurityGroupRulesRequest>,
) -> Result<ec2::DescribeSecurityGroupRulesResult, Error> {
    let filters = read_filters::<RuleRow<'_>>(&call.input.filters)?;
    let groups = &view.tables().security_groups;
    let wanted: Vec<SecurityGroupRuleId> = ids(&call.input.security_group_rule_ids)?;
    let mut rows: Vec<RuleRow<'_>> = if wanted.is_empty() {
        let all = groups.iter().flat_map(|group| group.rules.iter().map(move |rule| (group, rule)));
        all.map(|(group, rule)| RuleRow { view, group: group.id, rule }).collect()
    } else {
        let row = |id: SecurityGroupRuleId| {
            let group = groups.linked_to(id).next().ok_or_else(|| not_found(id))?;
            let rule = group.rules.iter().find(|rule| rule.id == id).ok_or_else(|| not_found(id))?;
            Ok(RuleRow { view, group: group.id, rule })
        };
        wanted.into_iter().map(row).collect::<Result<_, Error>>()?
    };
    rows.retain(|row| filters.admit(row));
    rows.sort_by_key(|row| row.rule.id);
    rows.dedup_by_key(|row| row.rule.id);
    let page = Page::of::<ec2::DescribeSecurityGroupRules>(call)?;
    let (rows, next_token) = page.take(rows, |row| row.rule.id.to_string());
    let shown = rows.iter().map(|row| shown(view, row.group, row.rule)).collect();
    Ok(ec2::DescribeSecurityGroupRulesResult { security_group_rules: Some(shown), next_token })
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSecurityGroupRules.html>.
impl Filtered for RuleRow<'_> {
    const NAMES: &'static [&'static str] = &["group-id", "security-group-rule-id"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        match name {
            "group-id" => values.shown(self.group),
            "security-group-rule-id" => values.shown(self.rule.id),
            _ => unreachable!("{name} is no filter of security group rules"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        let set = self.view.get::<TagSet>(self.rule.id.into());
        Some(
            set.into_iter()
                .flat_map(|set| set.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()))),
        )
    }
}

/// As [`words`], where -1 says that all are meant.
pub(super) fn words_in_full(traffic: Traffic) -> (String, i32, i32) {
    let (protocol, first, last) = words(traffic);
    (protocol, first.unwrap_or(-1), last.unwrap_or(-1))
}

pub(super) fn shown(
    view: View<'_>,
    group: SecurityGroupId,
    rule: &SecurityGroupRule,
) -> ec2::SecurityGroupRule {
    let (protocol, from_port, to_port) = words_in_full(rule.traffic);
    let mut shown = ec2::SecurityGroupRule {
        security_group_rule_id: Some(rule.id.to_string()),
        group_id: Some(group.to_string()),
        group_owner_id: Some(view.space.account.to_string()),
        is_egress: Some(rule.direction == Direction::Egress),
        ip_protocol: Some(protocol),
        from_port: Some(from_port),
        to_port: Some(to_port),
        description: rule.description.clone(),
        tags: Some(tags::shown(&view, rule.id).unwrap_or_default()),
        security_group_rule_arn: Some(arn(view.space, "security-group-rule", rule.id)),
        ..Default::default()
    };
    match rule.peer {
        Peer::Range(range) => shown.cidr_ipv4 = Some(range.to_string()),
        Peer::Range6(range) => shown.cidr_ipv6 = Some(range.to_string()),
        Peer::Group(peer) => shown.referenced_group_info = Some(shown_peer(view, group, peer)),
    }
    shown
}

fn shown_peer(view: View<'_>, group: SecurityGroupId, peer: SecurityGroupId) -> ec2::ReferencedSecurityGroup {
    let vpc = view.get::<SecurityGroup>(group).map(|group| group.vpc);
    let (owner, other) = match vpc {
        Some(vpc) => beyond(view, vpc, peer),
        None => (view.space.account, None),
    };
    let (peering, status) = vpc.zip(other).and_then(|(vpc, peer)| way(view, vpc, peer.vpc)).unzip();
    ec2::ReferencedSecurityGroup {
        group_id: Some(peer.to_string()),
        user_id: Some(owner.to_string()),
        vpc_id: other.map(|peer| peer.vpc.to_string()),
        vpc_peering_connection_id: peering,
        peering_status: status,
    }
}

pub(super) fn modify(
    tx: &mut Transaction<'_>,
    input: ec2::ModifySecurityGroupRulesRequest,
) -> Result<ec2::ModifySecurityGroupRulesResult, Error> {
    let mut group = named(tx.view(), Some(&input.group_id), None)?.clone();
    if input.security_group_rules.is_empty() {
        return Err(missing("SecurityGroupRules"));
    }
    for update in input.security_group_rules {
        let wanted: SecurityGroupRuleId = id(&update.security_group_rule_id)?;
        let request = update.security_group_rule.ok_or_else(|| missing("SecurityGroupRule"))?;
        let permission = requested(tx.view(), &group, &request)?;
        let direction = group.rules.iter().find(|rule| rule.id == wanted).map(|rule| rule.direction);
        let mut others = group.rules.iter().filter(|rule| rule.id != wanted);
        if others.any(|rule| Some(rule.direction) == direction && permission.is_of(rule)) {
            return Err(duplicate(&permission));
        }
        let rule = group.rules.iter_mut().find(|rule| rule.id == wanted).ok_or_else(|| not_found(wanted))?;
        let Permission { traffic, peer, description } = permission;
        *rule = SecurityGroupRule { id: wanted, direction: rule.direction, traffic, peer, description };
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let rules = group.rules.iter().filter(|rule| rule.direction == direction);
        check_count(rules.map(|rule| rule.peer))?;
    }
    tx.put(group);
    Ok(ec2::ModifySecurityGroupRulesResult { r#return: Some(true) })
}

/// What a rule of `group` is to be.
fn requested(
    view: View<'_>,
    group: &SecurityGroup,
    request: &ec2::SecurityGroupRuleRequest,
) -> Result<Permission, Error> {
    let traffic = traffic(request.ip_protocol.as_deref(), request.from_port, request.to_port)?;
    if let Some(list) = &request.prefix_list_id {
        return Err(no_prefix_list(list));
    }
    let peer = match (&request.cidr_ipv4, &request.cidr_ipv6, &request.referenced_group_id) {
        (Some(range), None, None) => range4(range)?,
        (None, Some(range), None) => range6(range)?,
        (None, None, Some(peer)) => referenced(view, group.vpc, peer)?,
        (None, None, None) => return Err(missing("CidrIpv4, CidrIpv6, PrefixListId or ReferencedGroupId")),
        _ => {
            let message =
                "Only one of CidrIpv4, CidrIpv6, PrefixListId and ReferencedGroupId can be specified.";
            return Err(Error::new("InvalidParameterCombination", message));
        }
    };
    Ok(Permission { traffic, peer, description: described(request.description.as_deref())? })
}

pub(super) fn describe_ingress(
    tx: &mut Transaction<'_>,
    input: ec2::UpdateSecurityGroupRuleDescriptionsIngressRequest,
) -> Result<ec2::UpdateSecurityGroupRuleDescriptionsIngressResult, Error> {
    let group = named(tx.view(), input.group_id.as_deref(), input.group_name.as_deref())?.clone();
    let said = (input.ip_permissions.as_slice(), input.security_group_rule_descriptions.as_slice());
    describe_rules(tx, group, Direction::Ingress, said)?;
    Ok(ec2::UpdateSecurityGroupRuleDescriptionsIngressResult { r#return: Some(true) })
}

pub(super) fn describe_egress(
    tx: &mut Transaction<'_>,
    input: ec2::UpdateSecurityGroupRuleDescriptionsEgressRequest,
) -> Result<ec2::UpdateSecurityGroupRuleDescriptionsEgressResult, Error> {
    let group = named(tx.view(), input.group_id.as_deref(), input.group_name.as_deref())?.clone();
    let said = (input.ip_permissions.as_slice(), input.security_group_rule_descriptions.as_slice());
    describe_rules(tx, group, Direction::Egress, said)?;
    Ok(ec2::UpdateSecurityGroupRuleDescriptionsEgressResult { r#return: Some(true) })
}

/// Descriptions beside the permissions of rules, or beside their ids. What is described by nothing loses its description.
type Said<'a> = (&'a [ec2::IpPermission], &'a [ec2::SecurityGroupRuleDescription]);

fn describe_rules(
    tx: &mut Transaction<'_>,
    mut group: SecurityGroup,
    direction: Direction,
    said: Said<'_>,
) -> Result<(), Error> {
    match said {
        ([], []) => return Err(missing("IpPermissions or SecurityGroupRuleDescriptions")),
        (permissions, []) => {
            for permission in read(tx.view(), group.vpc, permissions, &group.rules)? {
                let mut ours = group.rules.iter_mut().filter(|rule| rule.direction == direction);
                let rule = ours.find(|rule| permission.is_of(rule)).ok_or_else(no_such_permission)?;
                rule.description = permission.description;
            }
        }
        ([], descriptions) => {
            for said in descriptions {
                let text = said.security_group_rule_id.as_deref();
                let wanted: SecurityGroupRuleId = id(text.ok_or_else(|| missing("SecurityGroupRuleId"))?)?;
                let mut ours = group.rules.iter_mut().filter(|rule| rule.direction == direction);
                let rule = ours.find(|rule| rule.id == wanted).ok_or_else(|| not_found(wanted))?;
                rule.description = described(said.description.as_deref())?;
            }
        }
        _ => {
            let message =
                "The parameters 'ipPermissions' and 'securityGroupRuleDescriptions' cannot be used together.";
            return Err(Error::new("InvalidParameterCombination", message));
        }
    }
    tx.put(group);
    Ok(())
}
