//! Where instances stand to each other: their placement groups, and partitions of these.

use aws::{Error, ec2};
use types::PlacementGroupId;

use super::{named, types as kinds, wrong_state};
use crate::catalog::InstanceType;
use crate::ec2::errors::{combination, invalid_value, unsupported};
use crate::records::{Instance, InstanceState, PlacementGroup, PlacementStrategy};
use crate::state::{Transaction, View};

/// The group that is named by either.
///
/// # Errors
/// When there is none.
pub(super) fn group<'a>(
    view: View<'a>,
    name: Option<&str>,
    id: Option<&str>,
) -> Result<Option<&'a PlacementGroup>, Error> {
    let find = |text: &str, is_it: &dyn Fn(&PlacementGroup) -> bool| {
        let found = view.tables().placement_groups.iter().find(|group| is_it(group));
        found.map(AsRef::as_ref).ok_or_else(|| {
            let message = format!("The Placement Group '{text}' is unknown.");
            Error::new("InvalidPlacementGroup.Unknown", message)
        })
    };
    match (name, id) {
        (None, None) => Ok(None),
        (Some(name), _) => find(name, &|group| group.name == name).map(Some),
        (None, Some(id)) => find(id, &|group| group.id.to_string() == id).map(Some),
    }
}

/// # Errors
/// When instances of this type cannot be in such a group.
pub(super) fn check_type(kind: &InstanceType, group: Option<&PlacementGroup>) -> Result<(), Error> {
    if kind.can_be_in_cluster() || group.is_none_or(|group| group.strategy != PlacementStrategy::Cluster) {
        return Ok(());
    }
    Err(combination(format!(
        "Cluster placement groups are not supported by the '{}' instance type. Specify a supported instance type or change the placement group strategy, and try again.",
        kind.name
    )))
}

/// The partition that an instance gets which joins a group: the one that is wanted, or else one of those with the fewest instances.
pub(super) fn assigned(view: View<'_>, group: Option<PlacementGroupId>, wanted: Option<u8>) -> Option<u8> {
    let group = view.get::<PlacementGroup>(group?)?;
    let PlacementStrategy::Partition { count } = group.strategy else { return None };
    let size = |partition: &u8| {
        let instances = view.tables().instances.linked_to(group.id);
        instances.filter(|instance| instance.partition == Some(*partition)).count()
    };
    wanted.or_else(|| (1..=count).min_by_key(size))
}

/// The partition of a group that is wanted.
///
/// # Errors
/// When the group has no such partition.
pub(super) fn partition(group: Option<&PlacementGroup>, number: Option<i32>) -> Result<Option<u8>, Error> {
    let Some(number) = number else { return Ok(None) };
    let Some(PlacementStrategy::Partition { count }) = group.map(|group| group.strategy) else {
        return Err(combination(
            "A partition number goes with a placement group of the strategy 'partition' only.",
        ));
    };
    let valid = u8::try_from(number).ok().filter(|number| (1..=count).contains(number));
    let why = format!("The placement group has the partitions 1 to {count}.");
    valid.map(Some).ok_or_else(|| invalid_value(number, "partitionNumber", why))
}

pub(super) fn no_tenancy() -> Error {
    unsupported("nimbo has no dedicated hosts: the tenancy is 'default'.")
}

/// What is not said stays as it is; an empty name takes the instance out of its group.
pub(super) fn modify(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyInstancePlacementRequest,
) -> Result<ec2::ModifyInstancePlacementResult, Error> {
    let instance = named(tx, &input.instance_id)?;
    if input.tenancy.is_some_and(|tenancy| tenancy != ec2::HostTenancy::Default) {
        return Err(no_tenancy());
    }
    if !matches!(instance.state, InstanceState::Stopped { .. }) {
        return Err(wrong_state(instance, "moved"));
    }
    let id = instance.id;
    let view = tx.view();
    let named = group(
        view,
        input.group_name.as_deref().filter(|name| !name.is_empty()),
        input.group_id.as_deref().filter(|_| input.group_name.is_none()),
    )?;
    let (before, is_left) = (instance.placement_group, input.group_name.as_deref() == Some(""));
    let group = if is_left { None } else { named.or_else(|| before.and_then(|group| view.get(group))) };
    check_type(kinds::find(&instance.instance_type)?, group)?;
    let stays = group.map(|group| group.id) == before;
    let partition = match input.partition_number {
        None if stays => instance.partition,
        number => {
            let wanted = partition(group, number)?;
            assigned(view, group.map(|group| group.id), wanted)
        }
    };
    let group = group.map(|group| group.id);
    tx.update::<Instance>(id, |instance| {
        instance.placement_group = group;
        instance.partition = partition;
    });
    Ok(ec2::ModifyInstancePlacementResult { r#return: Some(true) })
}
