//! Block device mappings, of images and of launches: which disks instances begin with.

use aws::{Error, ec2};
use types::{SnapshotId, VolumeKind};

use super::attachment::check_device;
use super::volume::{self, Wanted, shown_kind, shown_speed};
use super::{number, shown_number, snapshot};
use crate::ec2::errors::{id, missing, unsupported};
use crate::records::ImageMapping;
use crate::state::View;

/// A mapping of a request, read.
#[derive(Debug, Default)]
pub(in crate::ec2) struct Asked<'a> {
    pub device: &'a str,
    /// There shall be no such disk.
    pub is_none: bool,
    pub snapshot: Option<SnapshotId>,
    pub size_gib: Option<u64>,
    pub kind: Option<VolumeKind>,
    pub iops: Option<u32>,
    pub throughput_mib_s: Option<u32>,
    pub encrypted: Option<bool>,
    pub key: Option<&'a str>,
    pub delete_on_termination: Option<bool>,
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new("InvalidBlockDeviceMapping", why)
}

/// The mappings of a request.
///
/// # Errors
/// When one names no device, one that another names, or what there is not here.
pub(in crate::ec2) fn read(mappings: &[ec2::BlockDeviceMapping]) -> Result<Vec<Asked<'_>>, Error> {
    let mut all: Vec<Asked<'_>> = Vec::new();
    for mapping in mappings {
        let asked = read_one(mapping)?;
        if all.iter().any(|other| other.device == asked.device) {
            return Err(invalid(format!(
                "The device '{}' is used in more than one block-device mapping",
                asked.device
            )));
        }
        all.push(asked);
    }
    Ok(all)
}

fn read_one(mapping: &ec2::BlockDeviceMapping) -> Result<Asked<'_>, Error> {
    let device = mapping.device_name.as_deref().ok_or_else(|| missing("BlockDeviceMapping.DeviceName"))?;
    check_device(device)?;
    if mapping.virtual_name.is_some() {
        return Err(unsupported("nimbo has no instance store volumes: VirtualName cannot be given."));
    }
    if mapping.no_device.is_some() {
        return Ok(Asked { device, is_none: true, ..Default::default() });
    }
    let Some(ebs) = &mapping.ebs else {
        return Err(invalid(format!("The mapping of '{device}' says neither Ebs nor NoDevice.")));
    };
    let is_elsewhere = ebs.outpost_arn.is_some()
        || ebs.availability_zone.is_some()
        || ebs.availability_zone_id.is_some()
        || ebs.volume_initialization_rate.is_some()
        || ebs.ebs_card_index.is_some();
    if is_elsewhere {
        return Err(unsupported(
            "Of Ebs, nimbo does not serve OutpostArn, AvailabilityZone, VolumeInitializationRate and EbsCardIndex.",
        ));
    }
    let source = ebs.snapshot_id.as_deref().filter(|text| !text.is_empty());
    Ok(Asked {
        device,
        is_none: false,
        snapshot: source.map(id).transpose()?,
        size_gib: number(ebs.volume_size, "volumeSize")?,
        kind: ebs.volume_type.map(volume::kind),
        iops: number(ebs.iops, "iops")?,
        throughput_mib_s: number(ebs.throughput, "throughput")?,
        encrypted: ebs.encrypted,
        key: ebs.kms_key_id.as_deref(),
        delete_on_termination: ebs.delete_on_termination,
    })
}

impl Asked<'_> {
    /// With what `base` says where this one says nothing. Another type has its own speed.
    pub(in crate::ec2) fn over(
        &self,
        base: Option<&ImageMapping>,
    ) -> (Option<u64>, Option<VolumeKind>, Option<u32>, Option<u32>) {
        let kind = self.kind.or(base.map(|base| base.kind));
        let same = base.filter(|base| Some(base.kind) == kind);
        (
            self.size_gib.or(base.map(|base| base.size_gib)),
            kind,
            self.iops.or(same.and_then(|base| base.iops)),
            self.throughput_mib_s.or(same.and_then(|base| base.throughput_mib_s)),
        )
    }
}

/// The mappings of a new image: `base` are those of what it is made of, whose disks the request may change or leave out.
///
/// # Errors
/// When a mapping is wrong, or there is no such volume.
pub(super) fn image(
    view: View<'_>,
    mut base: Vec<ImageMapping>,
    mappings: &[ec2::BlockDeviceMapping],
) -> Result<Vec<ImageMapping>, Error> {
    for asked in read(mappings)? {
        let place = base.iter().position(|mapping| mapping.device == asked.device);
        match (place, asked.is_none) {
            (Some(place), true) => drop(base.remove(place)),
            (None, true) => {}
            (Some(place), false) => base[place] = image_mapping(view, Some(&base[place]), &asked)?,
            (None, false) => base.push(image_mapping(view, None, &asked)?),
        }
    }
    Ok(base)
}

fn image_mapping(
    view: View<'_>,
    base: Option<&ImageMapping>,
    asked: &Asked<'_>,
) -> Result<ImageMapping, Error> {
    if base.is_some() && (asked.snapshot.is_some() || asked.encrypted.is_some() || asked.key.is_some()) {
        let message = format!(
            "The device '{}' is a volume's: neither snapshot nor encryption can be chosen.",
            asked.device
        );
        return Err(invalid(message));
    }
    let snapshot = asked.snapshot.map(|id| snapshot::own(view, id)).transpose()?;
    if snapshot.is_some() && (asked.encrypted.is_some() || asked.key.is_some()) {
        let message = format!("The encryption of '{}' is that of its snapshot.", asked.device);
        return Err(invalid(message));
    }
    let (size_gib, kind, iops, throughput_mib_s) = asked.over(base);
    let size_gib = size_gib.or(snapshot.map(|snapshot| snapshot.size_gib));
    let spec = Wanted { size_gib, kind, iops, throughput_mib_s, ..Default::default() }.resolve(view)?.spec;
    let least = snapshot.map(|snapshot| snapshot.size_gib).or(base.map(|base| base.size_gib));
    if let Some(least) = least.filter(|least| spec.size_gib < *least) {
        let message = format!("The device '{}' needs at least {least} GiB.", asked.device);
        return Err(invalid(message));
    }
    Ok(ImageMapping {
        device: asked.device.to_owned(),
        snapshot: snapshot.map(|snapshot| snapshot.id),
        size_gib: spec.size_gib,
        kind: spec.kind,
        iops: spec.iops,
        throughput_mib_s: spec.throughput_mib_s,
        is_encrypted: base.map_or_else(
            || snapshot.map_or(asked.encrypted == Some(true), |snapshot| snapshot.key.is_some()),
            |base| base.is_encrypted,
        ),
        delete_on_termination: asked
            .delete_on_termination
            .unwrap_or_else(|| base.is_none_or(|base| base.delete_on_termination)),
    })
}

pub(super) fn shown(mapping: &ImageMapping) -> ec2::BlockDeviceMapping {
    let spec = types::VolumeSpec {
        kind: mapping.kind,
        size_gib: mapping.size_gib,
        iops: mapping.iops,
        throughput_mib_s: mapping.throughput_mib_s,
    };
    // What the type decides is not a part of a mapping.
    let (iops, throughput) = if mapping.kind.is_provisioned() { shown_speed(&spec) } else { (None, None) };
    ec2::BlockDeviceMapping {
        device_name: Some(mapping.device.clone()),
        ebs: Some(ec2::EbsBlockDevice {
            delete_on_termination: Some(mapping.delete_on_termination),
            iops,
            snapshot_id: mapping.snapshot.map(|snapshot| snapshot.to_string()),
            volume_size: Some(shown_number(mapping.size_gib)),
            volume_type: Some(shown_kind(mapping.kind)),
            throughput,
            encrypted: Some(mapping.is_encrypted),
            ..Default::default()
        }),
        ..Default::default()
    }
}
