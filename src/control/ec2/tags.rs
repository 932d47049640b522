//! Tags of any resource.
//!
//! Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions>.

use std::collections::BTreeMap;

use aws::Error;
use aws::ec2::{Tag, TagSpecification};
use types::ResourceId;

use super::errors::invalid_value;
use crate::records::TagSet;
use crate::state::{Transaction, View};

const TAGS_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;
/// Keys that begin so are AWS's own, in any case.
const RESERVED: &str = "aws:";

/// What a request to create something says of its tags; `kind` is its type as EC2 calls it: `vpc`.
///
/// # Errors
/// When it speaks of resources of a kind that the request does not create, or of tags that there cannot be.
pub(super) fn specified(
    specifications: &[TagSpecification],
    kind: &str,
) -> Result<BTreeMap<String, String>, Error> {
    for specification in specifications {
        if specification.resource_type.as_deref() != Some(kind) {
            let named = specification.resource_type.as_deref().unwrap_or("null");
            return Err(Error::new(
                "InvalidParameterValue",
                format!("'{named}' is not a valid taggable resource type for this operation."),
            ));
        }
    }
    all_specified(specifications, kind)
}

/// As [`specified`], of an operation that creates several kinds.
///
/// # Errors
/// When there cannot be such tags.
pub(super) fn all_specified(
    specifications: &[TagSpecification],
    kind: &str,
) -> Result<BTreeMap<String, String>, Error> {
    let its =
        specifications.iter().filter(|specification| specification.resource_type.as_deref() == Some(kind));
    let mut tags = BTreeMap::new();
    for tag in its.flat_map(|specification| specification.tags.iter()) {
        let (key, value) = checked(tag)?;
        if tags.insert(key, value).is_some() {
            let key = tag.key.as_deref().unwrap_or_default();
            return Err(Error::new("InvalidParameterValue", format!("Duplicate tag key '{key}' specified.")));
        }
    }
    limited(tags)
}

/// Whether only AWS itself puts such a tag on something, or takes it off.
pub(super) fn is_reserved(key: &str) -> bool {
    key.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
}

/// A tag's key and value.
pub(super) fn checked(tag: &Tag) -> Result<(String, String), Error> {
    let key = tag.key.clone().unwrap_or_default();
    let value = tag.value.clone().unwrap_or_default();
    let length = key.chars().count();
    if length == 0 || length > KEY_CHARS_MAX {
        return Err(invalid_value(key, "key", format!("Tag keys have 1 to {KEY_CHARS_MAX} characters.")));
    }
    if value.chars().count() > VALUE_CHARS_MAX {
        return Err(invalid_value(
            value,
            "value",
            format!("Tag values have at most {VALUE_CHARS_MAX} characters."),
        ));
    }
    if is_reserved(&key) {
        return Err(Error::new(
            "InvalidParameterValue",
            format!("Tag keys starting with '{RESERVED}' are reserved for internal use"),
        ));
    }
    Ok((key, value))
}

fn limited(tags: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    if tags.keys().filter(|key| !is_reserved(key)).count() > TAGS_MAX {
        return Err(Error::new("TagLimitExceeded", format!("A resource can have at most {TAGS_MAX} tags.")));
    }
    Ok(tags)
}

/// Adds tags to a resource, in the place of those with the same keys.
///
/// # Errors
/// When it would have too many.
pub(crate) fn add(
    tx: &mut Transaction<'_>,
    resource: impl Into<ResourceId>,
    tags: BTreeMap<String, String>,
) -> Result<(), Error> {
    if tags.is_empty() {
        return Ok(());
    }
    let resource = resource.into();
    let mut all = tx.get::<TagSet>(resource).map(|set| set.tags.clone()).unwrap_or_default();
    all.extend(tags);
    let tags = limited(all)?;
    tx.put(TagSet { resource, tags });
    Ok(())
}

/// A resource's tags as clients see them: nothing if there are none.
pub(super) fn shown(view: &View<'_>, resource: impl Into<ResourceId>) -> Option<Vec<Tag>> {
    let set = view.get::<TagSet>(resource.into())?;
    let tag = |(key, value): (&String, &String)| Tag { key: Some(key.clone()), value: Some(value.clone()) };
    Some(set.tags.iter().map(tag).collect())
}
