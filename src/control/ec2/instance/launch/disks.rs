//! The disks that instances begin with: those of the image, as the request would have them, and further ones.

use std::collections::BTreeMap;

use aws::{Error, ec2};
use types::{AccountId, InstanceId, VolumeId, Zone};

use crate::ec2::errors::invalid_value;
use crate::ec2::storage::{self, Asked, NewVolume, Wanted};
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
        let all = storage::read_mappings(&input.block_device_mappings)?;
        let mut disks = BTreeMap::new();
        for mapping in &image.mappings {
            let asked = all.iter().find(|asked| asked.device == mapping.device);
            if asked.is_some_and(|asked| asked.is_none) {
                if mapping.device == image.root_device_name {
                    let why = "An instance needs its root device.";
                    return Err(invalid_value(&mapping.device, "BlockDeviceMapping", why));
                }
                continue;
            }
            disks.insert(mapping.device.clone(), of_image(view, owner, mapping, asked)?);
        }
        for asked in all.iter().filter(|asked| !asked.is_none) {
            if !disks.contains_key(asked.device) {
                disks.insert(asked.device.to_owned(), of_request(view, asked)?);
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
    asked: Option<&Asked<'_>>,
) -> Result<(NewVolume, bool), Error> {
    let nothing = Asked::default();
    let asked = asked.unwrap_or(&nothing);
    if let Some(other) = asked.snapshot.filter(|other| Some(*other) != mapping.snapshot) {
        let message =
            format!("The snapshot of the device {} is the image's: {other} is another.", mapping.device);
        return Err(Error::new("InvalidBlockDeviceMapping", message));
    }
    let snapshot = mapping.snapshot.map(|id| storage::of_account(view, owner, id)).transpose()?;
    let (size_gib, kind, iops, throughput_mib_s) = asked.over(Some(mapping));
    let wanted = Wanted {
        size_gib,
        kind,
        iops,
        throughput_mib_s,
        encrypted: asked.encrypted.or(mapping.is_encrypted.then_some(true)),
        key: asked.key,
        snapshot: snapshot.map(|snapshot| (owner, snapshot)),
    };
    Ok((wanted.resolve(view)?, asked.delete_on_termination.unwrap_or(mapping.delete_on_termination)))
}

fn of_request(view: View<'_>, asked: &Asked<'_>) -> Result<(NewVolume, bool), Error> {
    let (size_gib, kind, iops, throughput_mib_s) = asked.over(None);
    let wanted = Wanted {
        size_gib,
        kind,
        iops,
        throughput_mib_s,
        encrypted: asked.encrypted,
        key: asked.key,
        snapshot: asked.snapshot.map(|id| storage::usable_snapshot(view, id)).transpose()?,
    };
    Ok((wanted.resolve(view)?, asked.delete_on_termination.unwrap_or(true)))
}
