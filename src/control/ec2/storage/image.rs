//! Images that are there.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2};
use types::{AccountId, ImageId};

use super::sharing::{self, Seen};
use super::{mapping, shown_time};
use crate::ec2::errors::{ids, not_found};
use crate::ec2::row::read_filters;
use crate::ec2::tags;
use crate::records::{BootMode, Image, ImageOrigin, ImageState};
use crate::state::View;

const ARCHITECTURE: ec2::ArchitectureValues = ec2::ArchitectureValues::X8664;

/// An image that the caller may launch instances of, complete or not.
///
/// # Errors
/// When there is none with that id.
pub(super) fn seen(view: View<'_>, id: ImageId) -> Result<Seen<'_, Image>, Error> {
    sharing::one(view, id).ok_or_else(|| not_found(id))
}

/// An image that instances can be launched of now, and whose it is.
///
/// # Errors
/// When there is none with that id, or it is not available.
pub(in crate::ec2) fn launchable(view: View<'_>, id: ImageId) -> Result<(AccountId, &Image), Error> {
    let image = seen(view, id)?;
    if image.record().state != ImageState::Available {
        let message = format!("The image id '[{id}]' is not available.");
        return Err(Error::new("InvalidAMIID.Unavailable", message));
    }
    Ok((image.owner(), image.record()))
}

/// One that the caller owns.
///
/// # Errors
/// When there is none, or it is another account's.
pub(super) fn own(view: View<'_>, id: ImageId) -> Result<&Image, Error> {
    let seen = seen(view, id)?;
    if !seen.is_own() {
        return Err(Error::new("AuthFailure", format!("Not authorized for image:{id}")));
    }
    Ok(seen.record())
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeImagesRequest>,
) -> Result<ec2::DescribeImagesResult, Error> {
    let input = &call.input;
    let filters = read_filters::<Seen<'_, Image>>(&input.filters)?;
    let is_alias = |owner: &str| owner.starts_with(|c: char| c.is_ascii_alphabetic()) && owner != "self";
    let (aliases, owners): (Vec<_>, Vec<_>) = input.owners.iter().cloned().partition(|owner| is_alias(owner));
    let owners = sharing::accounts(view, &owners, "owner")?;
    let public = input.executable_users.iter().any(|user| user == "all");
    let users: Vec<_> = input.executable_users.iter().filter(|user| *user != "all").cloned().collect();
    let users = sharing::accounts(view, &users, "executableBy")?;
    let mut all = if input.image_ids.is_empty() {
        sharing::all(view)
    } else {
        let mut wanted: Vec<ImageId> = ids(&input.image_ids)?;
        wanted.sort_unstable();
        wanted.dedup();
        wanted.into_iter().map(|id| seen(view, id)).collect::<Result<Vec<_>, Error>>()?
    };
    all.retain(|seen| {
        let is_owners = input.owners.is_empty()
            || owners.contains(&seen.owner())
            || owner_alias(seen.record()).is_some_and(|alias| aliases.iter().any(|wanted| wanted == alias));
        let sharing = &seen.record().sharing;
        let is_users = input.executable_users.is_empty()
            || public && sharing.is_public
            || users.iter().any(|user| sharing.accounts.contains(user));
        is_owners && is_users && filters.admit(seen)
    });
    let page = Page::of::<ec2::DescribeImages>(call)?;
    let (all, next_token) = page.take(all, |seen| seen.record().id.to_string());
    Ok(ec2::DescribeImagesResult { next_token, images: Some(all.iter().map(shown).collect()) })
}

fn owner_alias(image: &Image) -> Option<&str> {
    match &image.origin {
        ImageOrigin::Seed { owner_alias } => owner_alias.as_deref(),
        _ => None,
    }
}

fn state(image: &Image) -> ec2::ImageState {
    match image.state {
        ImageState::Pending => ec2::ImageState::Pending,
        ImageState::Available => ec2::ImageState::Available,
        ImageState::Failed { .. } => ec2::ImageState::Failed,
    }
}

fn state_reason(image: &Image) -> Option<ec2::StateReason> {
    let ImageState::Failed { message } = &image.state else { return None };
    Some(ec2::StateReason { code: Some("Server.InternalError".to_owned()), message: Some(message.clone()) })
}

/// As all of AWS's images say. It means a kind of interface that there is not here.
pub(super) const SRIOV_NET_SUPPORT: &str = "simple";

pub(super) fn boot_mode(mode: BootMode) -> ec2::BootModeValues {
    match mode {
        BootMode::LegacyBios => ec2::BootModeValues::LegacyBios,
        BootMode::Uefi => ec2::BootModeValues::Uefi,
        BootMode::UefiPreferred => ec2::BootModeValues::UefiPreferred,
    }
}

fn location(seen: &Seen<'_, Image>) -> String {
    let alias = owner_alias(seen.record()).map(str::to_owned);
    format!("{}/{}", alias.unwrap_or_else(|| seen.owner().to_string()), seen.record().name)
}

fn shown(seen: &Seen<'_, Image>) -> ec2::Image {
    let image = seen.record();
    let (source_instance, source_image, source_region) = match image.origin {
        ImageOrigin::Instance(instance) => (Some(instance), None, None),
        ImageOrigin::Copy { image, region } => (None, Some(image), Some(region)),
        ImageOrigin::Registered | ImageOrigin::Seed { .. } => (None, None, None),
    };
    ec2::Image {
        platform_details: Some("Linux/UNIX".to_owned()),
        usage_operation: Some("RunInstances".to_owned()),
        block_device_mappings: Some(image.mappings.iter().map(mapping::shown).collect()),
        description: (!image.description.is_empty()).then(|| image.description.clone()),
        ena_support: Some(true),
        hypervisor: Some(ec2::HypervisorType::Xen),
        image_owner_alias: owner_alias(image).map(str::to_owned),
        name: Some(image.name.clone()),
        root_device_name: Some(image.root_device_name.clone()),
        root_device_type: Some(ec2::DeviceType::Ebs),
        sriov_net_support: Some(SRIOV_NET_SUPPORT.to_owned()),
        state_reason: state_reason(image),
        tags: seen.is_own().then(|| tags::shown(&seen.row.view, image.id)).flatten(),
        virtualization_type: Some(ec2::VirtualizationType::Hvm),
        boot_mode: image.boot_mode.map(boot_mode),
        imds_support: image.requires_metadata_token.then_some(ec2::ImdsSupportValues::V20),
        source_instance_id: source_instance.map(|id| id.to_string()),
        deregistration_protection: Some("disabled".to_owned()),
        source_image_id: source_image.map(|id| id.to_string()),
        source_image_region: source_region.map(|region| region.name().to_owned()),
        image_id: Some(image.id.to_string()),
        image_location: Some(location(seen)),
        state: Some(state(image)),
        owner_id: Some(seen.owner().to_string()),
        creation_date: Some(shown_time(image.created)),
        public: Some(image.sharing.is_public),
        product_codes: Some(Vec::new()),
        architecture: Some(ARCHITECTURE),
        image_type: Some(ec2::ImageTypeValues::Machine),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeImages.html>.
impl Filtered for Seen<'_, Image> {
    const NAMES: &'static [&'static str] = &[
        "architecture",
        "block-device-mapping.delete-on-termination",
        "block-device-mapping.device-name",
        "block-device-mapping.encrypted",
        "block-device-mapping.snapshot-id",
        "block-device-mapping.volume-size",
        "block-device-mapping.volume-type",
        "boot-mode",
        "creation-date",
        "description",
        "ena-support",
        "hypervisor",
        "image-id",
        "image-type",
        "imds-support",
        "is-public",
        "kernel-id",
        "manifest-location",
        "name",
        "owner-alias",
        "owner-id",
        "platform",
        "product-code",
        "product-code.type",
        "ramdisk-id",
        "root-device-name",
        "root-device-type",
        "source-image-id",
        "source-image-region",
        "source-instance-id",
        "sriov-net-support",
        "state",
        "state-reason-code",
        "state-reason-message",
        "virtualization-type",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let image = self.record();
        match name {
            "architecture" => values.text(ARCHITECTURE.as_str()),
            "boot-mode" => image.boot_mode.iter().for_each(|mode| values.text(boot_mode(*mode).as_str())),
            "creation-date" => values.text(&shown_time(image.created)),
            "description" => values.text(&image.description),
            "ena-support" => values.flag(true),
            "hypervisor" => values.text("xen"),
            "image-id" => values.shown(image.id),
            "image-type" => values.text("machine"),
            "imds-support" if image.requires_metadata_token => values.text("v2.0"),
            "is-public" => values.flag(image.sharing.is_public),
            "manifest-location" => values.text(&location(self)),
            "name" => values.text(&image.name),
            "owner-alias" => owner_alias(image).iter().for_each(|alias| values.text(alias)),
            "owner-id" => values.shown(self.owner()),
            "root-device-name" => values.text(&image.root_device_name),
            "root-device-type" => values.text("ebs"),
            "source-image-id" | "source-image-region" | "source-instance-id" => origin(image, name, values),
            "sriov-net-support" => values.text("simple"),
            "state" => values.text(state(image).as_str()),
            "state-reason-code" => {
                state_reason(image).and_then(|reason| reason.code).iter().for_each(|code| values.text(code));
            }
            "state-reason-message" => {
                let message = state_reason(image).and_then(|reason| reason.message);
                message.iter().for_each(|message| values.text(message));
            }
            "virtualization-type" => values.text("hvm"),
            // Of what no image here has: kernels, product codes, Windows.
            _ => image.mappings.iter().for_each(|mapping| mapped(mapping, name, values)),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        Some(sharing::own_tags(self))
    }
}

fn origin(image: &Image, name: &str, values: &mut Values<'_>) {
    match (name, &image.origin) {
        ("source-instance-id", ImageOrigin::Instance(id)) => values.shown(id),
        ("source-image-id", ImageOrigin::Copy { image, .. }) => values.shown(image),
        ("source-image-region", ImageOrigin::Copy { region, .. }) => values.shown(region),
        _ => {}
    }
}

fn mapped(mapping: &crate::records::ImageMapping, name: &str, values: &mut Values<'_>) {
    match name {
        "block-device-mapping.delete-on-termination" => values.flag(mapping.delete_on_termination),
        "block-device-mapping.device-name" => values.text(&mapping.device),
        "block-device-mapping.encrypted" => values.flag(mapping.is_encrypted),
        "block-device-mapping.snapshot-id" => {
            mapping.snapshot.iter().for_each(|snapshot| values.shown(snapshot));
        }
        "block-device-mapping.volume-size" => values.shown(mapping.size_gib),
        "block-device-mapping.volume-type" => values.text(mapping.kind.as_str()),
        _ => {}
    }
}
