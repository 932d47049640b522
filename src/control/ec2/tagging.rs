//! Tags put on what there is, taken off, and listed.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::service::Empty;
use aws::{Call, Error, Table, ec2};
use types::ResourceId;

use super::errors::{missing, no_resource};
use super::row::read_filters;
use super::tags::{self, checked};
use crate::plane::{Plane, Serve as _};
use crate::records::TagSet;
use crate::state::{Transaction, View};

/// In one request. Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateTags.html>.
const RESOURCES_MAX: usize = 1000;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CreateTags>(create)
        .changes::<ec2::DeleteTags>(delete)
        .looks::<ec2::DescribeTags>(describe)
}

fn create(tx: &mut Transaction<'_>, input: ec2::CreateTagsRequest) -> Result<Empty, Error> {
    let resources = resources(tx.view(), &input.resources)?;
    if input.tags.is_empty() {
        return Err(missing("Tags"));
    }
    let mut wanted = BTreeMap::new();
    for tag in &input.tags {
        let (key, value) = checked(tag)?;
        if let Some(_before) = wanted.insert(key.clone(), value) {
            return Err(Error::new("InvalidParameterValue", format!("Duplicate tag key '{key}' specified.")));
        }
    }
    for resource in resources {
        tags::add(tx, resource, wanted.clone())?;
    }
    Ok(Empty)
}

/// Tags are taken off by key, or by key and value; all that the account has put there if none is named. What is not there is no error.
fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteTagsRequest) -> Result<Empty, Error> {
    let resources = resources(tx.view(), &input.resources)?;
    for tag in &input.tags {
        checked(tag)?;
    }
    let is_named = |key: &String, value: &String| {
        input.tags.is_empty() && !tags::is_reserved(key)
            || input.tags.iter().any(|tag| {
                tag.key.as_ref() == Some(key) && tag.value.as_ref().is_none_or(|wanted| wanted == value)
            })
    };
    for resource in resources {
        let Some(set) = tx.get::<TagSet>(resource) else { continue };
        let mut tags = set.tags.clone();
        tags.retain(|key, value| !is_named(key, value));
        if tags.is_empty() {
            tx.remove::<TagSet>(resource);
        } else {
            tx.put(TagSet { resource, tags });
        }
    }
    Ok(Empty)
}

/// What a request is about: each of it is there.
fn resources(view: View<'_>, texts: &[String]) -> Result<Vec<ResourceId>, Error> {
    if texts.is_empty() {
        return Err(missing("ResourceId"));
    }
    if texts.len() > RESOURCES_MAX {
        let message = format!("A request can tag at most {RESOURCES_MAX} resources.");
        return Err(Error::new("InvalidParameterValue", message));
    }
    let resource = |text: &String| {
        let invalid = || Error::new("InvalidID", format!("The ID '{text}' is not valid"));
        let resource: ResourceId = text.parse().map_err(|_| invalid())?;
        kind(resource).ok_or_else(invalid)?;
        if is_there(view, resource) { Ok(resource) } else { Err(no_resource(resource)) }
    };
    texts.iter().map(resource).collect()
}

fn is_there(view: View<'_>, resource: ResourceId) -> bool {
    match resource {
        // A rule is a part of its group.
        ResourceId::SecurityGroupRule(rule) => view.tables().security_groups.linked_to(rule).next().is_some(),
        _ => view.tables().hold(resource),
    }
}

/// What EC2 calls a resource of this kind; none if it cannot have tags.
///
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-resources>.
fn kind(resource: ResourceId) -> Option<&'static str> {
    Some(match resource {
        ResourceId::Allocation(_) => "elastic-ip",
        ResourceId::DhcpOptions(_) => "dhcp-options",
        ResourceId::Image(_) => "image",
        ResourceId::Instance(_) => "instance",
        ResourceId::InternetGateway(_) => "internet-gateway",
        ResourceId::KeyPair(_) => "key-pair",
        ResourceId::LaunchTemplate(_) => "launch-template",
        ResourceId::NatGateway(_) => "natgateway",
        ResourceId::NetworkAcl(_) => "network-acl",
        ResourceId::NetworkInterface(_) => "network-interface",
        ResourceId::PlacementGroup(_) => "placement-group",
        ResourceId::RouteTable(_) => "route-table",
        ResourceId::SecurityGroup(_) => "security-group",
        ResourceId::SecurityGroupRule(_) => "security-group-rule",
        ResourceId::Snapshot(_) => "snapshot",
        ResourceId::Subnet(_) => "subnet",
        ResourceId::Volume(_) => "volume",
        ResourceId::Vpc(_) => "vpc",
        ResourceId::VpcPeeringConnection(_) => "vpc-peering-connection",
        ResourceId::AddressAssociation(_)
        | ResourceId::Attachment(_)
        | ResourceId::Listener(_)
        | ResourceId::ListenerRule(_)
        | ResourceId::LoadBalancer(_)
        | ResourceId::NetworkAclAssociation(_)
        | ResourceId::Reservation(_)
        | ResourceId::RouteTableAssociation(_)
        | ResourceId::TargetGroup(_)
        | ResourceId::VpcCidrAssociation(_) => return None,
    })
}

/// One tag of a resource.
struct TagRow<'a> {
    resource: ResourceId,
    key: &'a str,
    value: &'a str,
}

fn describe(view: View<'_>, call: &Call<ec2::DescribeTagsRequest>) -> Result<ec2::DescribeTagsResult, Error> {
    let filters = read_filters::<TagRow<'_>>(&call.input.filters)?;
    let sets = view.tables().tags.iter().filter(|set| kind(set.resource).is_some());
    let all = sets
        .flat_map(|set| set.tags.iter().map(|(key, value)| TagRow { resource: set.resource, key, value }));
    let mut rows: Vec<(String, TagRow<'_>)> = all
        .filter(|row| filters.admit(row))
        .map(|row| (format!("{} {}", row.resource, row.key), row))
        .collect();
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    let (rows, next_token) = Page::of::<ec2::DescribeTags>(call)?.take(rows, |(place, _)| place.clone());
    let shown = |(_, row): &(String, TagRow<'_>)| ec2::TagDescription {
        key: Some(row.key.to_owned()),
        resource_id: Some(row.resource.to_string()),
        resource_type: kind(row.resource).map(str::to_owned),
        value: Some(row.value.to_owned()),
    };
    Ok(ec2::DescribeTagsResult { next_token, tags: Some(rows.iter().map(shown).collect()) })
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeTags.html>.
impl Filtered for TagRow<'_> {
    const NAMES: &'static [&'static str] = &["key", "resource-id", "resource-type", "value"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        match name {
            "key" => values.text(self.key),
            "resource-id" => values.shown(self.resource),
            "resource-type" => kind(self.resource).into_iter().for_each(|kind| values.text(kind)),
            "value" => values.text(self.value),
            _ => unreachable!("{name} is no filter of tags"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        Some(std::iter::once((self.key, self.value)))
    }
}
