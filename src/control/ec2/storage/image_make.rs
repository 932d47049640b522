//! Images that are made: of an instance, of snapshots, of other images; and their end.

use aws::{Error, ec2};
use types::{ImageId, InstanceId, SnapshotId};

use super::image::{SRIOV_NET_SUPPORT, own, seen};
use super::sharing;
use super::snapshot_make::{self, Copy, other_region};
use super::{description, mapping, snapshot};
use crate::ec2::errors::{id, incorrect_state, invalid_value, missing, not_found, unsupported};
use crate::ec2::once::once;
use crate::ec2::tags;
use crate::records::{
    BootMode, Image, ImageMapping, ImageOrigin, ImageState, Instance, InstanceState, Rest, Sharing, Snapshot,
    SnapshotState, TagSet, Volume,
};
use crate::state::{Transaction, View};

/// A name that an image of the account can have.
///
/// # Errors
/// When it is none, or another image has it.
fn checked_name(view: View<'_>, name: &str) -> Result<(), Error> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || " ()[]./-'@_".contains(c);
    if !(3..=128).contains(&name.len()) || !name.chars().all(is_allowed) {
        let message = "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, \
                       '(', ')', '[', ']', '.', '-', '/', ''', '@', '_' and spaces";
        return Err(Error::new("InvalidAMIName.Malformed", message));
    }
    if let Some(other) = view.tables().images.iter().find(|image| image.name == name) {
        let message = format!("AMI name {name} is already in use by AMI {}", other.id);
        return Err(Error::new("InvalidAMIName.Duplicate", message));
    }
    Ok(())
}

/// Tags of an image and of its snapshots.
type TagsOf = (std::collections::BTreeMap<String, String>, std::collections::BTreeMap<String, String>);

fn tags_of(specifications: &[ec2::TagSpecification]) -> Result<TagsOf, Error> {
    let mut other = specifications.iter().map(|it| it.resource_type.as_deref().unwrap_or("null"));
    if let Some(other) = other.find(|kind| !matches!(*kind, "image" | "snapshot")) {
        let message = format!("'{other}' is not a valid taggable resource type for this operation.");
        return Err(Error::new("InvalidParameterValue", message));
    }
    let of = |kind| tags::all_specified(specifications, kind);
    Ok((of("image")?, of("snapshot")?))
}

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateImageRequest,
) -> Result<ec2::CreateImageResult, Error> {
    let instance_id: InstanceId = id(&input.instance_id)?;
    checked_name(tx.view(), &input.name)?;
    let text = description(input.description)?;
    let (image_tags, snapshot_tags) = tags_of(&input.tag_specifications)?;
    let instance = tx.get::<Instance>(instance_id).ok_or_else(|| not_found(instance_id))?;
    let is_running = instance.state == InstanceState::Running;
    if !is_running && !matches!(instance.state, InstanceState::Stopped { .. }) {
        return Err(incorrect_state(format!("Instance '{instance_id}' is not 'running' or 'stopped'.")));
    }
    let (root, requires_token) =
        (instance.root_device_name.clone(), instance.metadata_options.requires_token);
    let (volumes, base) = disks(tx.view(), instance_id);
    let mut mappings = mapping::image(tx.view(), base, &input.block_device_mappings)?;
    if !mappings.iter().any(|mapping| mapping.device == root) {
        let message = format!("The root device '{root}' of the instance cannot be left out.");
        return Err(Error::new("InvalidBlockDeviceMapping", message));
    }
    let image: ImageId = tx.new_id();
    let kept = volumes.into_iter().filter(|(device, _)| mappings.iter().any(|it| it.device == *device));
    let (devices, volumes): (Vec<_>, Vec<_>) = kept.unzip();
    // What the guest has not written to its disks would not be in them.
    let awaits = (is_running && input.no_reboot != Some(true)).then_some(instance_id);
    let note = format!("Created by CreateImage({instance_id}) for {image}");
    let snapshots = snapshot_make::begin(tx, &volumes, awaits, &note)?;
    for (device, snapshot) in devices.iter().zip(&snapshots) {
        mappings.iter_mut().filter(|it| it.device == *device).for_each(|it| it.snapshot = Some(*snapshot));
        tags::add(tx, *snapshot, snapshot_tags.clone())?;
    }
    if awaits.is_some() {
        tx.update::<Instance>(instance_id, |instance| {
            instance.rest.get_or_insert(Rest::Wanted);
        });
    }
    tx.put(Image {
        id: image,
        name: input.name,
        description: text,
        origin: ImageOrigin::Instance(instance_id),
        root_device_name: root,
        mappings,
        boot_mode: None,
        requires_metadata_token: requires_token,
        created: tx.now(),
        sharing: Sharing::default(),
        state: ImageState::Pending,
    });
    tags::add(tx, image, image_tags)?;
    Ok(ec2::CreateImageResult { image_id: Some(image.to_string()) })
}

/// The volumes of an instance by their devices, and the mappings that an image of it has.
fn disks(view: View<'_>, instance: InstanceId) -> (Vec<(String, types::VolumeId)>, Vec<ImageMapping>) {
    let its = view.tables().volumes.linked_to(instance);
    let its = its.filter_map(|volume| Some((volume.as_ref(), volume.attachment(instance)?)));
    let both = its.map(|(volume, attachment): (&Volume, _)| {
        let mapping = ImageMapping {
            device: attachment.device.clone(),
            snapshot: None,
            size_gib: volume.spec.size_gib,
            kind: volume.spec.kind,
            iops: volume.spec.iops,
            throughput_mib_s: volume.spec.throughput_mib_s,
            is_encrypted: volume.key.is_some(),
            delete_on_termination: attachment.delete_on_termination,
        };
        ((attachment.device.clone(), volume.id), mapping)
    });
    both.unzip()
}

pub(super) fn register(
    tx: &mut Transaction<'_>,
    input: ec2::RegisterImageRequest,
) -> Result<ec2::RegisterImageResult, Error> {
    checked_name(tx.view(), &input.name)?;
    let text = description(input.description)?;
    let (image_tags, snapshot_tags) = tags_of(&input.tag_specifications)?;
    if !snapshot_tags.is_empty() {
        return Err(Error::new(
            "InvalidParameterValue",
            "'snapshot' is not a valid taggable resource type for this operation.",
        ));
    }
    if input.architecture.is_some_and(|architecture| architecture != ec2::ArchitectureValues::X8664) {
        return Err(unsupported("nimbo runs images of the architecture 'x86_64' only."));
    }
    if input.virtualization_type.as_deref().is_some_and(|kind| kind != "hvm") {
        return Err(unsupported("nimbo runs images of the virtualization type 'hvm' only."));
    }
    if input.ena_support == Some(false) {
        return Err(unsupported("Images without EnaSupport would have no network: leave it out."));
    }
    if let Some(text) = input.sriov_net_support.filter(|text| !text.is_empty() && text != SRIOV_NET_SUPPORT) {
        return Err(invalid_value(text, "sriovNetSupport", "It is 'simple'."));
    }
    let root = input.root_device_name.ok_or_else(|| missing("RootDeviceName"))?;
    let mappings = mapping::image(tx.view(), Vec::new(), &input.block_device_mappings)?;
    let has_root = mappings.iter().any(|mapping| mapping.device == root && mapping.snapshot.is_some());
    if !has_root {
        let message = format!("The root device '{root}' needs a mapping with a snapshot.");
        return Err(Error::new("InvalidBlockDeviceMapping", message));
    }
    let image = tx.new_id();
    tx.put(Image {
        id: image,
        name: input.name,
        description: text,
        origin: ImageOrigin::Registered,
        root_device_name: root,
        state: state_of(tx.view(), &mappings),
        mappings,
        boot_mode: input.boot_mode.map(|mode| match mode {
            ec2::BootModeValues::LegacyBios => BootMode::LegacyBios,
            ec2::BootModeValues::Uefi => BootMode::Uefi,
            ec2::BootModeValues::UefiPreferred => BootMode::UefiPreferred,
        }),
        requires_metadata_token: input.imds_support.is_some(),
        created: tx.now(),
        sharing: Sharing::default(),
    });
    tags::add(tx, image, image_tags)?;
    Ok(ec2::RegisterImageResult { image_id: Some(image.to_string()) })
}

/// Available at once, if nothing of it has yet to be made.
fn state_of(view: View<'_>, mappings: &[ImageMapping]) -> ImageState {
    let mut snapshots = mappings.iter().filter_map(|mapping| view.get::<Snapshot>(mapping.snapshot?));
    if snapshots.all(|snapshot| matches!(snapshot.state, SnapshotState::Completed { .. })) {
        ImageState::Available
    } else {
        ImageState::Pending
    }
}

pub(super) fn copy(
    tx: &mut Transaction<'_>,
    input: ec2::CopyImageRequest,
) -> Result<ec2::CopyImageResult, Error> {
    let image = once::<ec2::CopyImage, ImageId>(tx, input, copy_one)?;
    Ok(ec2::CopyImageResult { image_id: Some(image.to_string()) })
}

fn copy_one(tx: &mut Transaction<'_>, input: ec2::CopyImageRequest) -> Result<ImageId, Error> {
    checked_name(tx.view(), &input.name)?;
    let (mut image_tags, snapshot_tags) = tags_of(&input.tag_specifications)?;
    let image_id = tx.new_id();
    let ids: Vec<SnapshotId> = {
        let source = source(tx.view(), &input)?;
        let count = source.record().mappings.len();
        (0..count).map(|_| tx.new_id()).collect()
    };
    let view = tx.view();
    let source = source(view, &input)?;
    if input.copy_image_tags == Some(true) && source.is_own() {
        let its = source.row.view.get::<TagSet>(source.record().id.into());
        let mut all = its.map(|set| set.tags.clone()).unwrap_or_default();
        all.extend(image_tags);
        image_tags = all;
    }
    let (image, snapshots) = copied(view, &source, &input, (image_id, &ids))?;
    for snapshot in snapshots {
        let id = snapshot.id;
        tx.put(snapshot);
        tags::add(tx, id, snapshot_tags.clone())?;
    }
    tx.put(image);
    tags::add(tx, image_id, image_tags)?;
    Ok(image_id)
}

fn source<'a>(view: View<'a>, input: &ec2::CopyImageRequest) -> Result<sharing::Seen<'a, Image>, Error> {
    let image: ImageId = id(&input.source_image_id)?;
    let source = seen(other_region(view, &input.source_region, "sourceRegion")?, image)?;
    if source.record().state != ImageState::Available {
        return Err(Error::new(
            "InvalidAMIID.Unavailable",
            format!("The image id '[{image}]' is not available."),
        ));
    }
    Ok(source)
}

/// An image with the id, and snapshots with the ids, as those of the source.
fn copied(
    view: View<'_>,
    source: &sharing::Seen<'_, Image>,
    input: &ec2::CopyImageRequest,
    (id, ids): (ImageId, &[SnapshotId]),
) -> Result<(Image, Vec<Snapshot>), Error> {
    let old = source.record();
    let mut snapshots = Vec::new();
    let mut mappings = old.mappings.clone();
    for (mapping, new) in mappings.iter_mut().zip(ids) {
        let Some(snapshot_id) = mapping.snapshot else { continue };
        // Who may launch an image may use its snapshots.
        let record = source.row.view.get::<Snapshot>(snapshot_id).ok_or_else(|| not_found(snapshot_id))?;
        let row = crate::ec2::row::Row { view: source.row.view, record };
        let copy = Copy {
            source: sharing::Seen { row, caller: source.caller },
            description: format!(
                "Copied for DestinationAmi {id} from SourceAmi {} for SourceSnapshot {snapshot_id}.",
                old.id
            ),
            encrypted: input.encrypted,
            key: input.kms_key_id.as_deref(),
        };
        let snapshot = copy.resolve(view, *new)?;
        mapping.snapshot = Some(*new);
        mapping.is_encrypted = snapshot.key.is_some();
        snapshots.push(snapshot);
    }
    let image = Image {
        id,
        name: input.name.clone(),
        description: description(input.description.clone())?,
        origin: ImageOrigin::Copy { image: old.id, region: source.row.view.space.region },
        root_device_name: old.root_device_name.clone(),
        mappings,
        boot_mode: old.boot_mode,
        requires_metadata_token: old.requires_metadata_token,
        created: view.now,
        sharing: Sharing::default(),
        state: ImageState::Pending,
    };
    Ok((image, snapshots))
}

/// Instances of it go on, and cannot be told from others.
pub(super) fn deregister(
    tx: &mut Transaction<'_>,
    input: ec2::DeregisterImageRequest,
) -> Result<ec2::DeregisterImageResult, Error> {
    let id: ImageId = id(&input.image_id)?;
    let image = own(tx.view(), id)?;
    let mut snapshots: Vec<SnapshotId> =
        image.mappings.iter().filter_map(|mapping| mapping.snapshot).collect();
    snapshots.sort_unstable();
    snapshots.dedup();
    tx.remove::<Image>(id);
    let mut results = Vec::new();
    if input.delete_associated_snapshots == Some(true) {
        for snapshot_id in snapshots {
            let is_used = tx.tables().images.linked_to(snapshot_id).next().is_some();
            let code = if is_used {
                ec2::SnapshotReturnCodes::Skipped
            } else {
                snapshot::remove(tx, snapshot_id);
                ec2::SnapshotReturnCodes::Success
            };
            results.push(ec2::DeleteSnapshotReturnCode {
                snapshot_id: Some(snapshot_id.to_string()),
                return_code: Some(code),
            });
        }
    }
    Ok(ec2::DeregisterImageResult { r#return: Some(true), delete_snapshot_results: Some(results) })
}
