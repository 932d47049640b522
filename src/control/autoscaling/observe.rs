//! What records say of a group, as decisions see it.

use aws::Error;
use types::{InstanceId, Uuid};

use super::decide::{Seen, Situation};
use super::errors::{invalid, no_group, not_in_group};
use crate::records::{FailedZone, MemberId, ScalingGroup, ScalingMember};
use crate::state::{Key, View};

/// All that a decision about a group depends on; none, if there is no such group.
pub(crate) fn situation(view: View<'_>, id: Uuid) -> Option<Situation<'_>> {
    let group = view.get::<ScalingGroup>(id)?;
    let seen = |member| seen(view, member);
    let zones = view.space.region.zones().into_iter();
    Some(Situation {
        group,
        members: members(view, id).map(seen).collect(),
        failed_zones: zones.filter(|zone| FailedZone::find(view.state, *zone).is_some()).collect(),
        now: view.now,
    })
}

/// As [`situation`], of the group with this name.
pub(super) fn named_situation<'a>(view: View<'a>, name: &str) -> Option<Situation<'a>> {
    by_name(view, name).and_then(|group| situation(view, group.id))
}

pub(super) fn seen<'a>(view: View<'a>, member: &'a ScalingMember) -> Seen<'a> {
    Seen { member, instance: view.get(member.id.instance) }
}

/// In the order of their instances' ids.
pub(super) fn members(view: View<'_>, group: Uuid) -> impl Iterator<Item = &ScalingMember> {
    view.tables().scaling_members.range(MemberId::of(group)).map(AsRef::as_ref)
}

pub(super) fn by_name<'a>(view: View<'a>, name: &str) -> Option<&'a ScalingGroup> {
    view.tables().scaling_groups.keyed(&Key::Name(name.to_owned())).map(AsRef::as_ref)
}

/// The group that a request is about: by its name, or its ARN.
///
/// # Errors
/// When there is none, or it is about to go.
pub(super) fn named<'a>(view: View<'a>, text: &str) -> Result<&'a ScalingGroup, Error> {
    let name = match text.strip_prefix("arn:") {
        Some(arn) => arn.split_once("autoScalingGroupName/").map_or(text, |(_, name)| name),
        None => text,
    };
    let group = by_name(view, name).ok_or_else(|| no_group(name))?;
    if group.is_deleting {
        return Err(invalid(format!("AutoScalingGroup '{name}' is pending delete")));
    }
    Ok(group)
}

/// The group that an instance is in.
pub(super) fn member_of(view: View<'_>, instance: InstanceId) -> Option<&ScalingMember> {
    view.tables().scaling_members.keyed(&Key::Instance(instance)).map(AsRef::as_ref)
}

/// The members of a group that a request names.
///
/// # Errors
/// When one is no id, or not in the group.
pub(super) fn named_members<'a>(
    view: View<'a>,
    group: &ScalingGroup,
    texts: &[String],
) -> Result<Vec<&'a ScalingMember>, Error> {
    let mut members: Vec<&ScalingMember> = Vec::with_capacity(texts.len());
    for text in texts {
        let instance = super::errors::instance_id(text)?;
        let id = MemberId { group: group.id, instance };
        let member = view.get::<ScalingMember>(id).ok_or_else(|| not_in_group(instance, &group.name))?;
        if !members.iter().any(|other| other.id == id) {
            members.push(member);
        }
    }
    Ok(members)
}
