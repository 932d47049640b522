//! An instance of a group: launched as the group's template says, in one of its places.

use std::collections::BTreeMap;

use aws::{Error, ec2 as wire, kept};
use serde_json::{Value, json};
use types::{InstanceId, Uuid};

use super::errors::invalid;
use crate::ec2;
use crate::records::{Place, ScalingGroup, TagSet, TemplateChoice, TemplateVersion, VersionId};
use crate::state::{Transaction, View};

/// By which an instance is known to be in a group.
const NAME_TAG: &str = "aws:autoscaling:groupName";

/// What says that nothing is wrong but that there is no room right now.
const NO_ROOM: [&str; 3] =
    ["InsufficientFreeAddressesInSubnet", "InsufficientInstanceCapacity", "InsufficientAddressCapacity"];

/// Launches one. `token` is told as what the client called its request.
///
/// # Errors
/// EC2's.
pub(super) fn launch(
    tx: &mut Transaction<'_>,
    group: &ScalingGroup,
    place: Place,
    token: Uuid,
) -> Result<(InstanceId, VersionId), Error> {
    let (version, data) = ec2::template_data(tx.view(), &specification(group.template))?;
    let request = request(version, &data, place, token).to_string();
    let request: wire::RunInstancesRequest = kept::from_json(request.as_bytes()).map_err(|why| {
        Error::new("InvalidLaunchTemplateData", format!("The launch template cannot be launched: {why}"))
    })?;
    let id = ec2::launch_one(tx, request)?;
    join(tx, group, id)?;
    Ok((id, version))
}

/// What the template does not say, or what is to be said instead: the subnet is the group's to choose.
fn request(version: VersionId, data: &Value, place: Place, token: Uuid) -> Value {
    let mut request = json!({
        "LaunchTemplate": {
            "LaunchTemplateId": version.template.to_string(),
            "Version": version.number.to_string(),
        },
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": token.to_string(),
    });
    match data["NetworkInterfaces"].as_array().filter(|interfaces| !interfaces.is_empty()) {
        None => request["SubnetId"] = json!(place.subnet.to_string()),
        Some(interfaces) => {
            let mut interfaces = interfaces.clone();
            let new = interfaces.iter_mut().filter(|interface| interface["NetworkInterfaceId"].is_null());
            new.for_each(|interface| interface["SubnetId"] = json!(place.subnet.to_string()));
            request["NetworkInterfaces"] = Value::Array(interfaces);
        }
    }
    request
}

/// Which version a request names.
pub(super) fn specification(choice: TemplateChoice) -> wire::LaunchTemplateSpecification {
    wire::LaunchTemplateSpecification {
        launch_template_id: Some(choice.template.to_string()),
        launch_template_name: None,
        version: Some(version_text(choice.version)),
    }
}

pub(super) fn version_text(version: TemplateVersion) -> String {
    match version {
        TemplateVersion::Latest => "$Latest".to_owned(),
        TemplateVersion::Default => "$Default".to_owned(),
        TemplateVersion::Number(number) => number.to_string(),
    }
}

/// The template that a request names, which there is.
///
/// # Errors
/// When there is none, or no such version.
pub(super) fn choice(
    view: View<'_>,
    wanted: &aws::autoscaling::LaunchTemplateSpecification,
) -> Result<TemplateChoice, Error> {
    let refused = |error: Error| invalid(error.message);
    let named = ec2::template_named(
        view,
        wanted.launch_template_id.as_deref(),
        wanted.launch_template_name.as_deref(),
    );
    let template = named.map_err(refused)?.id;
    let version = match wanted.version.as_deref() {
        None | Some("$Default") => TemplateVersion::Default,
        Some("$Latest") => TemplateVersion::Latest,
        Some(text) => TemplateVersion::Number(text.parse().map_err(|_| {
            invalid("Invalid launch template version: either '$Default', '$Latest', or a numeric version are allowed.")
        })?),
    };
    let choice = TemplateChoice { template, version };
    ec2::template_data(view, &specification(choice)).map_err(refused)?;
    Ok(choice)
}

/// Whether the group's template can be launched in all its places, room or none.
///
/// # Errors
/// Why it cannot.
pub(super) fn check(tx: &mut Transaction<'_>, group: &ScalingGroup) -> Result<(), Error> {
    for place in &group.places {
        let token = tx.new_id();
        // Whatever comes of it, it never was.
        let tried = tx.attempt(|tx| Err::<(), _>(launch(tx, group, *place, token).err()));
        if let Err(Some(error)) = tried
            && !NO_ROOM.contains(&&*error.code)
        {
            let message = format!("You must use a valid fully-formed launch template. {}", error.message);
            return Err(invalid(message));
        }
    }
    Ok(())
}

/// Gives an instance the tags by which it is in a group, and those that the group gives to all.
///
/// # Errors
/// When it would have too many.
pub(super) fn join(
    tx: &mut Transaction<'_>,
    group: &ScalingGroup,
    instance: InstanceId,
) -> Result<(), Error> {
    let propagated = group.tags.iter().filter(|(_, tag)| tag.is_propagated);
    let mut tags: BTreeMap<String, String> =
        propagated.map(|(key, tag)| (key.clone(), tag.value.clone())).collect();
    tags.insert(NAME_TAG.to_owned(), group.name.clone());
    ec2::add_tags(tx, instance, tags)
}

/// Takes the tag off by which an instance is in a group.
pub(super) fn leave(tx: &mut Transaction<'_>, instance: InstanceId) {
    let Some(set) = tx.get::<TagSet>(instance.into()) else { return };
    let mut tags = set.tags.clone();
    tags.remove(NAME_TAG);
    if tags.is_empty() {
        tx.remove::<TagSet>(instance.into());
    } else {
        tx.put(TagSet { resource: instance.into(), tags });
    }
}
