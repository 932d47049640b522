//! Tags of groups: not EC2's, and each says whether instances get it too.

use std::collections::BTreeMap;

use aws::filters::{Filtered, Filters, Values};
use aws::service::Empty;
use aws::{Call, Error, autoscaling as api};

use super::errors::{constraint, invalid};
use super::observe::named;
use super::page::page;
use crate::records::{GroupTag, ScalingGroup};
use crate::state::{Transaction, View};

const TAGS_MAX: usize = 50;
const RESERVED: &str = "aws:";
const KIND: &str = "auto-scaling-group";

/// The tags of a group that is made.
///
/// # Errors
/// When there cannot be such tags.
pub(super) fn all_new(group: &str, tags: &[api::Tag]) -> Result<BTreeMap<String, GroupTag>, Error> {
    let mut all = BTreeMap::new();
    for tag in tags {
        check_kind(tag)?;
        if tag.resource_id.as_deref().is_some_and(|named| named != group) {
            return Err(invalid("The tags of a new group name that group, or none."));
        }
        let (key, tag) = read(tag)?;
        if all.insert(key.clone(), tag).is_some() {
            return Err(invalid(format!("Duplicate tag keys found: {key}")));
        }
    }
    limited(all)
}

fn check_kind(tag: &api::Tag) -> Result<(), Error> {
    match tag.resource_type.as_deref() {
        None | Some(KIND) => Ok(()),
        Some(other) => Err(constraint(other, "resourceType", format!("Member must be {KIND}"))),
    }
}

fn read(tag: &api::Tag) -> Result<(String, GroupTag), Error> {
    let key = tag.key.clone();
    if key.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED)) {
        return Err(invalid(format!("Tag keys beginning with {RESERVED} are reserved: {key}")));
    }
    let value = tag.value.clone().unwrap_or_default();
    Ok((key, GroupTag { value, is_propagated: tag.propagate_at_launch == Some(true) }))
}

fn limited(tags: BTreeMap<String, GroupTag>) -> Result<BTreeMap<String, GroupTag>, Error> {
    if tags.len() > TAGS_MAX {
        return Err(Error::new("LimitExceeded", format!("A group can have at most {TAGS_MAX} tags.")));
    }
    Ok(tags)
}

pub(super) fn create(tx: &mut Transaction<'_>, input: api::CreateOrUpdateTagsType) -> Result<Empty, Error> {
    for tag in &input.tags {
        let mut group = named_by(tx.view(), tag)?.clone();
        let (key, value) = read(tag)?;
        group.tags.insert(key, value);
        group.tags = limited(group.tags)?;
        tx.put(group);
    }
    Ok(Empty)
}

pub(super) fn delete(tx: &mut Transaction<'_>, input: api::DeleteTagsType) -> Result<Empty, Error> {
    for tag in &input.tags {
        let mut group = named_by(tx.view(), tag)?.clone();
        // A value that is named is the one that goes.
        let is_meant = |there: &GroupTag| tag.value.as_ref().is_none_or(|value| *value == there.value);
        if group.tags.get(&tag.key).is_some_and(is_meant) {
            group.tags.remove(&tag.key);
            tx.put(group);
        }
    }
    Ok(Empty)
}

fn named_by<'a>(view: View<'a>, tag: &api::Tag) -> Result<&'a ScalingGroup, Error> {
    check_kind(tag)?;
    let name = tag
        .resource_id
        .as_deref()
        .ok_or_else(|| constraint("null", "resourceId", "Member must not be null"))?;
    named(view, name)
}

pub(super) fn shown(group: &str, key: &str, tag: &GroupTag) -> api::TagDescription {
    api::TagDescription {
        resource_id: Some(group.to_owned()),
        resource_type: Some(KIND.to_owned()),
        key: Some(key.to_owned()),
        value: Some(tag.value.clone()),
        propagate_at_launch: Some(tag.is_propagated),
    }
}

/// One tag of a group.
struct Row<'a> {
    group: &'a str,
    key: &'a str,
    tag: &'a GroupTag,
}

pub(super) fn describe(view: View<'_>, call: &Call<api::DescribeTagsType>) -> Result<api::TagsType, Error> {
    let filters = call.input.filters.iter();
    let filters = filters.map(|filter| (filter.name.as_deref(), filter.values.as_slice()));
    let filters = Filters::new::<Row<'_>>(filters).map_err(bad_filter)?;
    let groups = view.tables().scaling_groups.iter();
    let all =
        groups.flat_map(|group| group.tags.iter().map(|(key, tag)| Row { group: &group.name, key, tag }));
    let mut rows: Vec<Row<'_>> = all.filter(|row| filters.admit(row)).collect();
    let key = |row: &Row<'_>| format!("{}\u{0}{}", row.group, row.key);
    rows.sort_by_cached_key(key);
    let (rows, next_token) = page::<api::DescribeTags, _, _>(call, rows, key)?;
    let tags = rows.iter().map(|row| shown(row.group, row.key, row.tag)).collect();
    Ok(api::TagsType { tags: Some(tags), next_token })
}

/// Source: <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeTags.html>.
impl Filtered for Row<'_> {
    const NAMES: &'static [&'static str] = &["auto-scaling-group", "key", "propagate-at-launch", "value"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        match name {
            "auto-scaling-group" => values.text(self.group),
            "key" => values.text(self.key),
            "propagate-at-launch" => values.flag(self.tag.is_propagated),
            _ => values.text(&self.tag.value),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<_>>
    }
}

/// What is wrong with a filter, as this service says it.
pub(super) fn bad_filter(error: Error) -> Error {
    invalid(error.message)
}
