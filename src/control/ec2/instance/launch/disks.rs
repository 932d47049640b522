//! The disks that instances begin with: those of the image, as the request would have them, and further ones.

use std::collections::BTreeMap;

use aws::{Error, ec2};
use types::{AccountId, InstanceId, SnapshotId, VolumeId, Zone};

use crate::ec2::errors::{id, invalid_value};
use crate::ec2::storage::{self, NewVolume, Wanted};
use crate::records::{Image, ImageMapping};
use crate::state::{Transaction, View};

/// By device; each with whether it goes with its instance.
pub(super) struct Disks(BTreeMap<String, (NewVolume, bool)>);

impl Disks {
    /// # Errors
    /// What cannot be.
    pub(super) fn of(
        view: View<'_>,
        input: &ec2::RunInstancesRequest,
        owner: AccountId,
        image: &Image,
    ) -> Result<Self, Error> {
        let mut disks = BTreeMap::new();
        for mapping in &image.mappings {
            let changed = input
                .block_device_mappings
                .iter()
                .find(|it| it.device_name.as_deref() == Some(&mapping.device));
            if changed.is_some_and(|changed| changed.no_device.is_some()) {
                if mapping.device == image.root_device_name {
                    return Err(invalid_value(
                        &mapping.device,
                        "BlockDeviceMapping",
                        "An instance needs its root device.",
                    ));
                }
                continue;
            }
            let ebs = changed.and_then(|changed| changed.ebs.as_ref());
            disks.insert(mapping.device.clone(), of_image(view, owner, mapping, ebs)?);
        }
        for mapping in &input.block_device_mappings {
            let device = mapping.device_name.clone().unwrap_or_default();
            if mapping.virtual_name.is_some() {
                let message = "The instance types of nimbo have no ephemeral disks: VirtualName names none.";
                return Err(Error::new("UnsupportedOperation", message));
            }
            if !disks.contains_key(&device) && mapping.no_device.is_none() {
                let ebs = mapping.ebs.as_ref().ok_or_else(|| {
                    invalid_value(&device, "BlockDeviceMapping", "The mapping must say Ebs.")
                })?;
                disks.insert(device, of_request(view, ebs)?);
            }
        }
        Ok(Self(disks))
    }

    /// Makes them for an instance.
    ///
    /// # Errors
    /// When an instance can have no such device.
    pub(super) fn make(
        &self,
        tx: &mut Transaction<'_>,
        zone: Zone,
        instance: InstanceId,
    ) -> Result<Vec<VolumeId>, Error> {
        let mut made = Vec::with_capacity(self.0.len());
        for (device, (new, delete_on_termination)) in &self.0 {
            let id = storage::make(tx, zone, new.clone());
            storage::attach(tx, id, instance, device, *delete_on_termination)?;
            made.push(id);
        }
        Ok(made)
    }
}

/// A disk of the image, with what the request says of its device.
fn of_image(
    view: View<'_>,
    owner: AccountId,
    mapping: &ImageMapping,
    ebs: Option<&ec2::EbsBlockDevice>,
) -> Result<(NewVolume, bool), Error> {
    if let Some(other) = ebs.and_then(|ebs| ebs.snapshot_id.as_deref())
        && Some(other.to_owned()) != mapping.snapshot.map(|id| id.to_string())
    {
        let message =
            format!("The snapshot of the device {} is the image's: {other} is another.", mapping.device);
        return Err(Error::new("InvalidBlockDeviceMapping", message));
    }
    let snapshot = mapping.snapshot.map(|id| storage::of_account(view, owner, id)).transpose()?;
    let kind = ebs.and_then(|ebs| ebs.volume_type).map(storage::kind).unwrap_or(mapping.kind);
    let is_same = kind == mapping.kind;
    let wanted = Wanted {
        size_gib: ebs.and_then(|ebs| ebs.volume_size).map(size).transpose()?.or(Some(mapping.size_gib)),
        kind: Some(kind),
        iops: ebs.and_then(|ebs| ebs.iops).map(count).transpose()?.or(mapping.iops.filter(|_| is_same)),
        throughput_mib_s: ebs
            .and_then(|ebs| ebs.throughput)
            .map(count)
            .transpose()?
            .or(mapping.throughput_mib_s.filter(|_| is_same)),
        encrypted: ebs.and_then(|ebs| ebs.encrypted).or(mapping.is_encrypted.then_some(true)),
        key: ebs.and_then(|ebs| ebs.kms_key_id.as_deref()),
        snapshot: snapshot.map(|snapshot| (owner, snapshot)),
    };
    let goes = ebs.and_then(|ebs| ebs.delete_on_termination).unwrap_or(mapping.delete_on_termination);
    Ok((wanted.resolve(view)?, goes))
}

fn of_request(view: View<'_>, ebs: &ec2::EbsBlockDevice) -> Result<(NewVolume, bool), Error> {
    let snapshot = match &ebs.snapshot_id {
        Some(text) => Some(storage::usable_snapshot(view, id::<SnapshotId>(text)?)?),
        None => None,
    };
    let wanted = Wanted {
        size_gib: ebs.volume_size.map(size).transpose()?,
        kind: ebs.volume_type.map(storage::kind),
        iops: ebs.iops.map(count).transpose()?,
        throughput_mib_s: ebs.throughput.map(count).transpose()?,
        encrypted: ebs.encrypted,
        key: ebs.kms_key_id.as_deref(),
        snapshot,
    };
    Ok((wanted.resolve(view)?, ebs.delete_on_termination.unwrap_or(true)))
}

fn size(gib: i32) -> Result<u64, Error> {
    u64::try_from(gib).map_err(|_| invalid_value(gib, "volumeSize", "It is a number of GiB."))
}

fn count(value: i32) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| invalid_value(value, "iops or throughput", "It is a positive number."))
}
