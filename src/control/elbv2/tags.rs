//! Tags of load balancers, listeners, rules and target groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws::{Call, Error, Table, elbv2};
use types::ResourceId;

use super::arn;
use super::errors::{too_many, validation};
use crate::plane::{Plane, Serve as _};
use crate::records::TagSet;
use crate::state::{Transaction, View};

const TAGS_MAX: usize = 50;
/// In one request.
const RESOURCES_MAX: usize = 20;
/// Keys that begin so are AWS's own.
const RESERVED: &str = "aws:";

type Tags = BTreeMap<String, String>;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<elbv2::AddTags>(add_tags)
        .changes::<elbv2::RemoveTags>(remove)
        .looks::<elbv2::DescribeTags>(describe)
}

/// What a request says of tags.
///
/// # Errors
/// When one is there twice, or cannot be.
pub(super) fn read(tags: &[elbv2::Tag]) -> Result<Tags, Error> {
    let mut read = Tags::new();
    for tag in tags {
        let (key, value) = (tag.key.clone().unwrap_or_default(), tag.value.clone().unwrap_or_default());
        if key.is_empty() {
            return Err(validation("A tag must have a key"));
        }
        if key.starts_with(RESERVED) {
            return Err(validation(format!(
                "Tag keys that start with '{RESERVED}' are reserved for internal use"
            )));
        }
        if read.insert(key.clone(), value).is_some() {
            let message = format!("The tag key '{key}' is specified more than once");
            return Err(Error::new("DuplicateTagKeys", message));
        }
    }
    Ok(read)
}

/// Adds tags, in the place of those with the same keys.
///
/// # Errors
/// When there would be too many.
pub(super) fn add(
    tx: &mut Transaction<'_>,
    resource: impl Into<ResourceId>,
    tags: Tags,
) -> Result<(), Error> {
    if tags.is_empty() {
        return Ok(());
    }
    let resource = resource.into();
    let mut all = tx.get::<TagSet>(resource).map(|set| set.tags.clone()).unwrap_or_default();
    all.extend(tags);
    if all.len() > TAGS_MAX {
        return Err(too_many("TooManyTags", "tags of a resource", TAGS_MAX));
    }
    tx.put(TagSet { resource, tags: all });
    Ok(())
}

fn resources(view: View<'_>, arns: &[String]) -> Result<Vec<ResourceId>, Error> {
    if arns.len() > RESOURCES_MAX {
        return Err(validation(format!("Up to {RESOURCES_MAX} resources can be specified")));
    }
    arns.iter().map(|text| arn::any(view, text)).collect()
}

fn add_tags(tx: &mut Transaction<'_>, input: elbv2::AddTagsInput) -> Result<elbv2::AddTagsOutput, Error> {
    let tags = read(&input.tags)?;
    for resource in resources(tx.view(), &input.resource_arns)? {
        add(tx, resource, tags.clone())?;
    }
    Ok(elbv2::AddTagsOutput {})
}

/// What is not there is no error.
fn remove(tx: &mut Transaction<'_>, input: elbv2::RemoveTagsInput) -> Result<elbv2::RemoveTagsOutput, Error> {
    for resource in resources(tx.view(), &input.resource_arns)? {
        let Some(set) = tx.get::<TagSet>(resource) else { continue };
        let mut tags = set.tags.clone();
        tags.retain(|key, _| !input.tag_keys.contains(key));
        if tags.is_empty() {
            tx.remove::<TagSet>(resource);
        } else {
            tx.put(TagSet { resource, tags });
        }
    }
    Ok(elbv2::RemoveTagsOutput {})
}

fn describe(
    view: View<'_>,
    call: &Call<elbv2::DescribeTagsInput>,
) -> Result<elbv2::DescribeTagsOutput, Error> {
    let arns = &call.input.resource_arns;
    let of = |(arn, resource): (&String, ResourceId)| {
        let set = view.get::<TagSet>(resource);
        let tags = set.into_iter().flat_map(|set| &set.tags);
        let tag = |(key, value): (&String, &String)| elbv2::Tag {
            key: Some(key.clone()),
            value: Some(value.clone()),
        };
        elbv2::TagDescription { resource_arn: Some(arn.clone()), tags: Some(tags.map(tag).collect()) }
    };
    let descriptions = arns.iter().zip(resources(view, arns)?).map(of).collect();
    Ok(elbv2::DescribeTagsOutput { tag_descriptions: Some(descriptions) })
}
