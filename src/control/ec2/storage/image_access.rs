//! What of an image can be changed: its description, how instances are asked for metadata, and who may launch it.

use aws::service::Empty;
use aws::{Call, Error, ec2};
use types::ImageId;

use super::image::{boot_mode, own};
use super::sharing::{self, Change};
use super::snapshot::check_sharing;
use super::{description, mapping};
use crate::ec2::errors::{combination, id, invalid_value, missing, unsupported};
use crate::records::{Image, Sharing, Snapshot};
use crate::state::{Transaction, View};

const ITEM_CODE: &str = "InvalidAMIAttributeItemValue";

pub(super) fn describe_attribute(
    view: View<'_>,
    call: &Call<ec2::DescribeImageAttributeRequest>,
) -> Result<ec2::ImageAttribute, Error> {
    let id: ImageId = id(&call.input.image_id)?;
    let image = own(view, id)?;
    let answer = ec2::ImageAttribute { image_id: Some(id.to_string()), ..Default::default() };
    let value = |text: Option<&str>| Some(ec2::AttributeValue { value: text.map(str::to_owned) });
    Ok(match call.input.attribute {
        ec2::ImageAttributeName::Description => {
            ec2::ImageAttribute { description: value(Some(&image.description)), ..answer }
        }
        ec2::ImageAttributeName::Kernel => ec2::ImageAttribute { kernel_id: value(None), ..answer },
        ec2::ImageAttributeName::Ramdisk => ec2::ImageAttribute { ramdisk_id: value(None), ..answer },
        ec2::ImageAttributeName::LaunchPermission => {
            ec2::ImageAttribute { launch_permissions: Some(permissions(&image.sharing)), ..answer }
        }
        ec2::ImageAttributeName::ProductCodes => {
            ec2::ImageAttribute { product_codes: Some(Vec::new()), ..answer }
        }
        ec2::ImageAttributeName::BlockDeviceMapping => {
            let mappings = image.mappings.iter().map(mapping::shown).collect();
            ec2::ImageAttribute { block_device_mappings: Some(mappings), ..answer }
        }
        ec2::ImageAttributeName::SriovNetSupport => {
            ec2::ImageAttribute { sriov_net_support: value(Some("simple")), ..answer }
        }
        ec2::ImageAttributeName::BootMode => {
            let mode = image.boot_mode.map(|mode| boot_mode(mode).as_str());
            ec2::ImageAttribute { boot_mode: value(mode), ..answer }
        }
        ec2::ImageAttributeName::TpmSupport => ec2::ImageAttribute { tpm_support: value(None), ..answer },
        ec2::ImageAttributeName::UefiData => ec2::ImageAttribute { uefi_data: value(None), ..answer },
        ec2::ImageAttributeName::LastLaunchedTime => {
            return Err(unsupported("nimbo does not note when an image was last launched."));
        }
        ec2::ImageAttributeName::ImdsSupport => {
            let support = image.requires_metadata_token.then_some("v2.0");
            ec2::ImageAttribute { imds_support: value(support), ..answer }
        }
        ec2::ImageAttributeName::DeregistrationProtection => {
            ec2::ImageAttribute { deregistration_protection: value(Some("disabled")), ..answer }
        }
    })
}

fn permissions(sharing: &Sharing) -> Vec<ec2::LaunchPermission> {
    let all = sharing
        .is_public
        .then(|| ec2::LaunchPermission { group: Some(ec2::PermissionGroup::All), ..Default::default() });
    let accounts = sharing
        .accounts
        .iter()
        .map(|account| ec2::LaunchPermission { user_id: Some(account.to_string()), ..Default::default() });
    all.into_iter().chain(accounts).collect()
}

fn read(permissions: &[ec2::LaunchPermission]) -> Result<Sharing, Error> {
    let users = permissions.iter().filter_map(|permission| permission.user_id.as_deref());
    let groups = permissions.iter().filter_map(|permission| permission.group);
    sharing::read(users, groups.map(ec2::PermissionGroup::as_str), ITEM_CODE)
}

/// Which attribute a request changes, and what it is to be.
enum Wanted {
    Description(String),
    MetadataToken,
    LaunchPermission(Change),
}

pub(super) fn modify_attribute(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyImageAttributeRequest,
) -> Result<Empty, Error> {
    let id: ImageId = id(&input.image_id)?;
    own(tx.view(), id)?;
    match wanted(input)? {
        Wanted::Description(text) => {
            tx.update::<Image>(id, |image| image.description = text);
        }
        Wanted::MetadataToken => {
            tx.update::<Image>(id, |image| image.requires_metadata_token = true);
        }
        Wanted::LaunchPermission(change) => {
            check(tx.view(), own(tx.view(), id)?, &change.add)?;
            tx.update::<Image>(id, |image| change.apply(&mut image.sharing));
        }
    }
    Ok(Empty)
}

/// A request has one attribute, in one of several ways to say it.
fn wanted(input: ec2::ModifyImageAttributeRequest) -> Result<Wanted, Error> {
    if !input.product_codes.is_empty() || input.attribute.as_deref() == Some("productCodes") {
        return Err(unsupported("nimbo has no product codes."));
    }
    let mut all = Vec::new();
    if let Some(text) = input.description {
        all.push(Wanted::Description(description(text.value)?));
    }
    if let Some(support) = input.imds_support {
        all.push(metadata(support.value.as_deref())?);
    }
    if let Some(permission) = input.launch_permission {
        let change = Change { add: read(&permission.add)?, remove: read(&permission.remove)? };
        if change.is_empty() {
            return Err(missing("launchPermission.add or launchPermission.remove"));
        }
        all.push(Wanted::LaunchPermission(change));
    }
    match input.attribute.as_deref() {
        Some("description") if all.is_empty() => {
            all.push(Wanted::Description(description(input.value)?));
        }
        Some("imdsSupport") if all.is_empty() => all.push(metadata(input.value.as_deref())?),
        None | Some("launchPermission" | "description" | "imdsSupport") => {}
        Some(other) => {
            return Err(invalid_value(other, "attribute", "It is no attribute that can be modified."));
        }
    }
    let users = input.user_ids.iter().map(String::as_str);
    let whom = sharing::read(users, input.user_groups.iter().map(String::as_str), ITEM_CODE)?;
    let change = sharing::by_operation(input.operation_type, whom)?;
    if !change.is_empty() {
        all.push(Wanted::LaunchPermission(change));
    }
    let mut all = all.into_iter();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(missing("attribute")),
        (Some(_), Some(_)) => Err(combination("An image's attributes are modified one at a time.")),
    }
}

fn metadata(support: Option<&str>) -> Result<Wanted, Error> {
    match support {
        Some("v2.0") => Ok(Wanted::MetadataToken),
        other => Err(invalid_value(other.unwrap_or("null"), "imdsSupport", "It can become 'v2.0' only.")),
    }
}

/// Who launches an image makes volumes of its snapshots.
fn check(view: View<'_>, image: &Image, added: &Sharing) -> Result<(), Error> {
    let snapshots = image.mappings.iter().filter_map(|mapping| mapping.snapshot);
    snapshots
        .filter_map(|snapshot| view.get::<Snapshot>(snapshot))
        .try_for_each(|snapshot| check_sharing(view, snapshot.key.as_deref(), added))
}

pub(super) fn reset_attribute(
    tx: &mut Transaction<'_>,
    input: ec2::ResetImageAttributeRequest,
) -> Result<Empty, Error> {
    let id: ImageId = id(&input.image_id)?;
    own(tx.view(), id)?;
    match input.attribute {
        ec2::ResetImageAttributeName::LaunchPermission => {
            tx.update::<Image>(id, |image| image.sharing = Sharing::default());
        }
    }
    Ok(Empty)
}
