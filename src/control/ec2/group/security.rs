//! Security groups themselves.
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/userguide/security-groups.html>.

use aws::{Error, ec2};
use types::{SecurityGroupId, SecurityGroupRuleId, VpcId};

use super::{by_name, default_vpc, named};
use crate::ec2::errors::{id, invalid_value, missing, not_found};
use crate::ec2::row::arn;
use crate::ec2::{tags, vpc};
use crate::records::{SecurityGroup, TagSet, Vpc};
use crate::state::Transaction;

/// Of an account in a region. Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const GROUPS_MAX: usize = 2500;

pub(super) const CHARS_MAX: usize = 255;

/// What names and descriptions consist of, besides letters and digits.
const MARKS: &str = "._-:/()#,@[]+=&;{}!$* ";

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateSecurityGroupRequest,
) -> Result<ec2::CreateSecurityGroupResult, Error> {
    check_name(&input.group_name)?;
    if input.description.is_empty() {
        return Err(missing("GroupDescription"));
    }
    if !is_plain(&input.description) {
        let why = format!("Descriptions have at most {CHARS_MAX} characters: a-z, A-Z, 0-9 and {MARKS}");
        return Err(invalid_value(&input.description, "GroupDescription", why));
    }
    let vpc: VpcId = match &input.vpc_id {
        Some(vpc) => id(vpc)?,
        None => default_vpc(tx.view())?,
    };
    let tags = tags::specified(&input.tag_specifications, "security-group")?;
    tx.get::<Vpc>(vpc).ok_or_else(|| not_found(vpc))?;
    if by_name(tx.view(), vpc, &input.group_name).is_some() {
        let message = format!("The security group '{}' already exists for VPC '{vpc}'", input.group_name);
        return Err(Error::new("InvalidGroup.Duplicate", message));
    }
    if tx.tables().security_groups.iter().len() >= GROUPS_MAX {
        let message = "The maximum number of security groups has been reached.";
        return Err(Error::new("SecurityGroupLimitExceeded", message));
    }
    let group: SecurityGroupId = tx.new_id();
    let rules = vec![vpc::allow_all_out(tx)];
    tx.put(SecurityGroup { id: group, vpc, name: input.group_name, description: input.description, rules });
    tags::add(tx, group, tags)?;
    Ok(ec2::CreateSecurityGroupResult {
        group_id: Some(group.to_string()),
        tags: tags::shown(&tx.view(), group),
        security_group_arn: Some(arn(tx.space(), "security-group", group)),
    })
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(missing("GroupName"));
    }
    if name.eq_ignore_ascii_case(SecurityGroup::DEFAULT_NAME) {
        let message = format!("Cannot use reserved security group name: {name}");
        return Err(Error::new("InvalidParameterValue", message));
    }
    if name.starts_with(SecurityGroupId::PREFIX) {
        return Err(invalid_value(name, "GroupName", "Group names may not be in the format sg-*."));
    }
    if !is_plain(name) || name.trim() != name {
        let why = format!("Names have at most {CHARS_MAX} characters: a-z, A-Z, 0-9 and {MARKS}");
        return Err(invalid_value(name, "GroupName", why));
    }
    Ok(())
}

/// Whether it is such a text as groups and rules are described by.
pub(super) fn is_plain(text: &str) -> bool {
    text.len() <= CHARS_MAX && text.chars().all(|char| char.is_ascii_alphanumeric() || MARKS.contains(char))
}

pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: ec2::DeleteSecurityGroupRequest,
) -> Result<ec2::DeleteSecurityGroupResult, Error> {
    let group = named(tx.view(), input.group_id.as_deref(), input.group_name.as_deref())?;
    let id = group.id;
    if group.name == SecurityGroup::DEFAULT_NAME {
        let message =
            format!("the specified group: \"{id}\" name: \"{}\" cannot be deleted by a user", group.name);
        return Err(Error::new("CannotDelete", message));
    }
    let tables = tx.tables();
    // A rule of a peer's group is in nobody's way: it becomes stale.
    let is_named = tables.security_groups.linked_to(id).any(|other| other.vpc == group.vpc);
    if is_named || tables.network_interfaces.linked_to(id).next().is_some() {
        let message = format!("resource {id} has a dependent object");
        return Err(Error::new("DependencyViolation", message));
    }
    remove(tx, id);
    Ok(ec2::DeleteSecurityGroupResult { r#return: Some(true), group_id: Some(id.to_string()) })
}

/// Removes a group, with its rules' tags.
pub(in crate::ec2) fn remove(tx: &mut Transaction<'_>, id: SecurityGroupId) {
    let rules = tx.get::<SecurityGroup>(id).map(|group| group.rules.iter().map(|rule| rule.id).collect());
    let rules: Vec<SecurityGroupRuleId> = rules.unwrap_or_default();
    rules.into_iter().for_each(|rule| tx.remove::<TagSet>(rule.into()));
    tx.remove::<SecurityGroup>(id);
}
