//! Rules added to groups and removed from them.

use aws::{Error, ec2};
use types::{SecurityGroupId, SecurityGroupRuleId};

use super::permission::{Permission, grouped, read};
use super::request::{Request, flat};
use super::{is_in_default_vpc, named, rule};
use crate::ec2::errors::{id, missing, not_found};
use crate::ec2::tags;
use crate::records::{Direction, Peer, SecurityGroup, SecurityGroupRule, TagSet};
use crate::state::Transaction;

/// Of a group in a direction; those of IPv4 and of IPv6 are counted apart, and one that names a group counts as both.
/// Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const RULES_MAX: usize = 60;

pub(super) fn authorize_ingress(
    tx: &mut Transaction<'_>,
    input: ec2::AuthorizeSecurityGroupIngressRequest,
) -> Result<ec2::AuthorizeSecurityGroupIngressResult, Error> {
    let request = Request {
        permissions: flat!(input).join(input.ip_permissions)?,
        group_id: input.group_id,
        group_name: input.group_name,
        tag_specifications: input.tag_specifications,
        rule_ids: Vec::new(),
    };
    let rules = authorize(tx, Direction::Ingress, &request)?;
    Ok(ec2::AuthorizeSecurityGroupIngressResult { r#return: Some(true), security_group_rules: Some(rules) })
}

pub(super) fn authorize_egress(
    tx: &mut Transaction<'_>,
    input: ec2::AuthorizeSecurityGroupEgressRequest,
) -> Result<ec2::AuthorizeSecurityGroupEgressResult, Error> {
    let request = Request {
        permissions: flat!(input).join(input.ip_permissions)?,
        group_id: Some(input.group_id),
        tag_specifications: input.tag_specifications,
        ..Default::default()
    };
    let rules = authorize(tx, Direction::Egress, &request)?;
    Ok(ec2::AuthorizeSecurityGroupEgressResult { r#return: Some(true), security_group_rules: Some(rules) })
}

fn authorize(
    tx: &mut Transaction<'_>,
    direction: Direction,
    request: &Request,
) -> Result<Vec<ec2::SecurityGroupRule>, Error> {
    let group = named(tx.view(), request.group_id.as_deref(), request.group_name.as_deref())?;
    if request.permissions.is_empty() {
        return Err(missing("IpPermissions"));
    }
    let permissions = read(tx.view(), group.vpc, &request.permissions, &[])?;
    let tags = tags::specified(&request.tag_specifications, "security-group-rule")?;
    let ours = || group.rules.iter().filter(|rule| rule.direction == direction);
    if let Some(permission) = permissions.iter().find(|permission| ours().any(|rule| permission.is_of(rule)))
    {
        return Err(duplicate(permission));
    }
    check_count(ours().map(|rule| rule.peer).chain(permissions.iter().map(|permission| permission.peer)))?;
    let group = group.id;
    let mut made = Vec::new();
    for Permission { traffic, peer, description } in permissions {
        let rule = SecurityGroupRule { id: tx.new_id(), direction, traffic, peer, description };
        tags::add(tx, rule.id, tags.clone())?;
        made.push(rule);
    }
    tx.update::<SecurityGroup>(group, |group| group.rules.extend(made.iter().cloned()));
    Ok(made.iter().map(|made| rule::shown(tx.view(), group, made)).collect())
}

pub(super) fn duplicate(permission: &Permission) -> Error {
    let message = format!("the specified rule \"{permission}\" already exists");
    Error::new("InvalidPermission.Duplicate", message)
}

/// Whether a group may have rules with these peers in one direction.
pub(super) fn check_count(peers: impl Iterator<Item = Peer>) -> Result<(), Error> {
    let (mut of_4, mut of_6) = (0, 0);
    for peer in peers {
        of_4 += usize::from(!matches!(peer, Peer::Range6(_)));
        of_6 += usize::from(!matches!(peer, Peer::Range(_)));
    }
    if of_4.max(of_6) > RULES_MAX {
        let message = "The maximum number of rules per security group has been reached.";
        return Err(Error::new("RulesPerSecurityGroupLimitExceeded", message));
    }
    Ok(())
}

pub(super) fn revoke_ingress(
    tx: &mut Transaction<'_>,
    input: ec2::RevokeSecurityGroupIngressRequest,
) -> Result<ec2::RevokeSecurityGroupIngressResult, Error> {
    let request = Request {
        permissions: flat!(input).join(input.ip_permissions)?,
        group_id: input.group_id,
        group_name: input.group_name,
        rule_ids: input.security_group_rule_ids,
        tag_specifications: Vec::new(),
    };
    let (revoked, unknown) = revoke(tx, Direction::Ingress, &request)?;
    Ok(ec2::RevokeSecurityGroupIngressResult {
        r#return: Some(true),
        unknown_ip_permissions: Some(unknown),
        revoked_security_group_rules: Some(revoked),
    })
}

pub(super) fn revoke_egress(
    tx: &mut Transaction<'_>,
    input: ec2::RevokeSecurityGroupEgressRequest,
) -> Result<ec2::RevokeSecurityGroupEgressResult, Error> {
    let request = Request {
        permissions: flat!(input).join(input.ip_permissions)?,
        group_id: Some(input.group_id),
        rule_ids: input.security_group_rule_ids,
        ..Default::default()
    };
    let (revoked, unknown) = revoke(tx, Direction::Egress, &request)?;
    Ok(ec2::RevokeSecurityGroupEgressResult {
        r#return: Some(true),
        unknown_ip_permissions: Some(unknown),
        revoked_security_group_rules: Some(revoked),
    })
}

/// What was revoked, and what there was not.
type Revoked = (Vec<ec2::RevokedSecurityGroupRule>, Vec<ec2::IpPermission>);

fn revoke(tx: &mut Transaction<'_>, direction: Direction, request: &Request) -> Result<Revoked, Error> {
    let view = tx.view();
    let group = named(view, request.group_id.as_deref(), request.group_name.as_deref())?;
    let ours: Vec<_> = group.rules.iter().filter(|rule| rule.direction == direction).collect();
    let mut unknown = Vec::new();
    let rules: Vec<SecurityGroupRule> = match (request.permissions.as_slice(), request.rule_ids.as_slice()) {
        ([], []) => {
            let message = "Either 'ipPermissions' or 'securityGroupRuleIds' should be provided.";
            return Err(Error::new("MissingParameter", message));
        }
        ([], ids) => {
            let mut found = ids.iter().map(|id| by_id(&ours, id)).collect::<Result<Vec<_>, _>>()?;
            found.sort_by_key(|rule| rule.id);
            found.dedup_by_key(|rule| rule.id);
            found
        }
        (permissions, []) => {
            let mut found = Vec::new();
            for permission in read(view, group.vpc, permissions, &group.rules)? {
                match ours.iter().find(|rule| permission.is_of(rule)) {
                    Some(rule) => found.push(SecurityGroupRule::clone(rule)),
                    None => unknown.push(permission),
                }
            }
            found
        }
        _ => {
            let message =
                "The parameters 'ipPermissions' and 'securityGroupRuleIds' cannot be used together.";
            return Err(Error::new("InvalidParameterCombination", message));
        }
    };
    // Of a default VPC's groups, as it ever was, what is not there is only told.
    if !unknown.is_empty() && !is_in_default_vpc(view, group) {
        return Err(no_such_permission());
    }
    let unknown = grouped(view, group.vpc, unknown);
    let group = group.id;
    for rule in &rules {
        tx.remove::<TagSet>(rule.id.into());
    }
    tx.update::<SecurityGroup>(group, |group| {
        group.rules.retain(|rule| !rules.iter().any(|revoked| revoked.id == rule.id));
    });
    Ok((rules.iter().map(|rule| shown_revoked(group, rule)).collect(), unknown))
}

pub(super) fn no_such_permission() -> Error {
    let message = "The specified rule does not exist in this security group.";
    Error::new("InvalidPermission.NotFound", message)
}

/// The rule among `rules` that a client names.
fn by_id(rules: &[&SecurityGroupRule], text: &str) -> Result<SecurityGroupRule, Error> {
    let wanted: SecurityGroupRuleId = id(text)?;
    let found = rules.iter().find(|rule| rule.id == wanted);
    found.map(|rule| SecurityGroupRule::clone(rule)).ok_or_else(|| not_found(wanted))
}

fn shown_revoked(group: SecurityGroupId, revoked: &SecurityGroupRule) -> ec2::RevokedSecurityGroupRule {
    let (protocol, from_port, to_port) = rule::words_in_full(revoked.traffic);
    let mut shown = ec2::RevokedSecurityGroupRule {
        security_group_rule_id: Some(revoked.id.to_string()),
        group_id: Some(group.to_string()),
        is_egress: Some(revoked.direction == Direction::Egress),
        ip_protocol: Some(protocol),
        from_port: Some(from_port),
        to_port: Some(to_port),
        description: revoked.description.clone(),
        ..Default::default()
    };
    match revoked.peer {
        Peer::Range(range) => shown.cidr_ipv4 = Some(range.to_string()),
        Peer::Range6(range) => shown.cidr_ipv6 = Some(range.to_string()),
        Peer::Group(group) => shown.referenced_group_id = Some(group.to_string()),
    }
    shown
}
