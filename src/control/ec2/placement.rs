//! Placement groups.

use std::sync::Arc;

use aws::filters::{Filtered, Values};
use aws::service::Empty;
use aws::{Call, Error, Table, ec2};
use types::PlacementGroupId;

use super::errors::{invalid_value, missing};
use super::row::{Row, arn, select};
use super::tags;
use crate::plane::{Plane, Serve as _};
use crate::records::{PlacementGroup, PlacementStrategy};
use crate::state::{Transaction, View};

const NAME_CHARS_MAX: usize = 255;

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/placement-strategies.html>.
const PARTITIONS_MAX: u8 = 7;
/// Where the request does not say how many.
const PARTITIONS: u8 = 2;

/// Of an account in a region. Source: <https://docs.aws.amazon.com/general/latest/gr/ec2-service.html>.
const GROUPS_MAX: usize = 500;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CreatePlacementGroup>(create)
        .changes::<ec2::DeletePlacementGroup>(delete)
        .looks::<ec2::DescribePlacementGroups>(describe)
}

fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreatePlacementGroupRequest,
) -> Result<ec2::CreatePlacementGroupResult, Error> {
    let strategy = strategy(&input)?;
    let name = input.group_name.filter(|name| !name.is_empty()).ok_or_else(|| missing("GroupName"))?;
    if !name.is_ascii() || name.len() > NAME_CHARS_MAX {
        let why = format!("Names of placement groups have at most {NAME_CHARS_MAX} ASCII characters.");
        return Err(invalid_value(name, "groupName", why));
    }
    let tags = tags::specified(&input.tag_specifications, "placement-group")?;
    if by_name(tx.view(), &name).is_ok() {
        let message = format!("The Placement Group '{name}' already exists.");
        return Err(Error::new("InvalidPlacementGroup.Duplicate", message));
    }
    if tx.tables().placement_groups.iter().len() >= GROUPS_MAX {
        let message = "The maximum number of placement groups has been reached.";
        return Err(Error::new("PlacementGroupLimitExceeded", message));
    }
    let id: PlacementGroupId = tx.new_id();
    tx.put(PlacementGroup { id, name, strategy });
    tags::add(tx, id, tags)?;
    let view = tx.view();
    let placement_group = view.get(id).map(|record| shown(&Row { view, record }));
    Ok(ec2::CreatePlacementGroupResult { placement_group })
}

fn strategy(input: &ec2::CreatePlacementGroupRequest) -> Result<PlacementStrategy, Error> {
    let strategy = input.strategy.unwrap_or(ec2::PlacementStrategy::Cluster);
    if let Some(count) = input.partition_count.filter(|_| strategy != ec2::PlacementStrategy::Partition) {
        return Err(invalid_value(count, "partitionCount", "Only the strategy 'partition' has partitions."));
    }
    if let Some(level) = input.spread_level {
        if strategy != ec2::PlacementStrategy::Spread {
            return Err(invalid_value(level, "spreadLevel", "Only the strategy 'spread' has a level."));
        }
        if level == ec2::SpreadLevel::Host {
            return Err(invalid_value(level, "spreadLevel", "Outposts alone have the level 'host'."));
        }
    }
    match strategy {
        ec2::PlacementStrategy::Cluster => Ok(PlacementStrategy::Cluster),
        ec2::PlacementStrategy::Spread => Ok(PlacementStrategy::Spread),
        ec2::PlacementStrategy::Partition => {
            let count = input.partition_count.unwrap_or(PARTITIONS.into());
            let valid = u8::try_from(count).ok().filter(|count| (1..=PARTITIONS_MAX).contains(count));
            let count = valid.ok_or_else(|| {
                let why = format!("A group has 1 to {PARTITIONS_MAX} partitions.");
                invalid_value(count, "partitionCount", why)
            })?;
            Ok(PlacementStrategy::Partition { count })
        }
        ec2::PlacementStrategy::PrecisionTime => Err(Error::new(
            "UnsupportedOperation",
            "nimbo serves the strategies 'cluster', 'spread' and 'partition'.",
        )),
    }
}

/// The placement group that instances are launched into by this name.
///
/// # Errors
/// When there is none.
fn by_name<'a>(view: View<'a>, name: &str) -> Result<&'a PlacementGroup, Error> {
    let found = view.tables().placement_groups.iter().find(|group| group.name == name);
    found.map(AsRef::as_ref).ok_or_else(|| {
        Error::new("InvalidPlacementGroup.Unknown", format!("The Placement Group '{name}' is unknown."))
    })
}

fn delete(tx: &mut Transaction<'_>, input: ec2::DeletePlacementGroupRequest) -> Result<Empty, Error> {
    let id = by_name(tx.view(), &input.group_name)?.id;
    if tx.tables().instances.linked_to(id).next().is_some() {
        let message = format!("The placement group '{}' is in use and may not be deleted.", input.group_name);
        return Err(Error::new("InvalidPlacementGroup.InUse", message));
    }
    tx.remove::<PlacementGroup>(id);
    Ok(Empty)
}

fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribePlacementGroupsRequest>,
) -> Result<ec2::DescribePlacementGroupsResult, Error> {
    let mut ids = call.input.group_ids.clone();
    for name in &call.input.group_names {
        ids.push(by_name(view, name)?.id.to_string());
    }
    let rows = select::<PlacementGroup>(view, &ids, &call.input.filters)?;
    let placement_groups = Some(rows.iter().map(shown).collect());
    Ok(ec2::DescribePlacementGroupsResult { placement_groups })
}

fn word(strategy: PlacementStrategy) -> ec2::PlacementStrategy {
    match strategy {
        PlacementStrategy::Cluster => ec2::PlacementStrategy::Cluster,
        PlacementStrategy::Spread => ec2::PlacementStrategy::Spread,
        PlacementStrategy::Partition { .. } => ec2::PlacementStrategy::Partition,
    }
}

fn shown(row: &Row<'_, PlacementGroup>) -> ec2::PlacementGroup {
    let Row { view, record: group } = *row;
    ec2::PlacementGroup {
        group_name: Some(group.name.clone()),
        state: Some(ec2::PlacementGroupState::Available),
        strategy: Some(word(group.strategy)),
        partition_count: match group.strategy {
            PlacementStrategy::Partition { count } => Some(count.into()),
            PlacementStrategy::Cluster | PlacementStrategy::Spread => None,
        },
        group_id: Some(group.id.to_string()),
        tags: Some(tags::shown(&view, group.id).unwrap_or_default()),
        group_arn: Some(arn(view.space, "placement-group", &group.name)),
        spread_level: (group.strategy == PlacementStrategy::Spread).then_some(ec2::SpreadLevel::Rack),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribePlacementGroups.html>.
impl Filtered for Row<'_, PlacementGroup> {
    const NAMES: &'static [&'static str] =
        &["group-arn", "group-id", "group-name", "spread-level", "state", "strategy"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let group = self.record;
        match name {
            "group-arn" => values.text(&arn(self.view.space, "placement-group", &group.name)),
            "group-id" => values.shown(group.id),
            "group-name" => values.text(&group.name),
            "spread-level" if group.strategy == PlacementStrategy::Spread => values.text("rack"),
            "spread-level" => {}
            "state" => values.text("available"),
            "strategy" => values.text(word(group.strategy).as_str()),
            _ => unreachable!("{name} is no filter of placement groups"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
