//! Volumes, snapshots of them, and images.

mod attachment;
mod encryption;
mod image;
mod image_access;
mod image_make;
mod mapping;
mod modification;
mod seed;
mod sharing;
mod snapshot;
mod snapshot_make;
mod status;
#[cfg(test)]
mod tests;
mod volume;

use std::sync::Arc;

use aws::{Error, Table, ec2};
use jiff::Timestamp;
use types::{Region, Zone};

use super::errors::{combination, invalid_value};
use crate::plane::{Plane, Serve as _};
use crate::state::{Space, View};

pub(super) use attachment::{attach, release};
pub(super) use image::launchable;
pub(super) use mapping::{Asked, read as read_mappings};
pub use seed::{SeedImage, default_seed, seed_images};
pub(super) use snapshot::{of_account, usable as usable_snapshot};
pub(super) use volume::{NewVolume, Wanted, make};

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    images(snapshots(volumes(table)))
}

fn volumes(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::AttachVolume>(attachment::attach_volume)
        .changes::<ec2::CreateVolume>(volume::create)
        .changes::<ec2::DeleteVolume>(volume::delete)
        .looks::<ec2::DescribeVolumeAttribute>(status::describe_attribute)
        .looks::<ec2::DescribeVolumeStatus>(status::describe)
        .looks::<ec2::DescribeVolumes>(volume::describe)
        .looks::<ec2::DescribeVolumesModifications>(modification::describe)
        .changes::<ec2::DetachVolume>(attachment::detach_volume)
        .changes::<ec2::DisableEbsEncryptionByDefault>(encryption::disable)
        .changes::<ec2::EnableEbsEncryptionByDefault>(encryption::enable)
        .looks::<ec2::GetEbsDefaultKmsKeyId>(encryption::get_key)
        .looks::<ec2::GetEbsEncryptionByDefault>(encryption::get)
        .changes::<ec2::ModifyEbsDefaultKmsKeyId>(encryption::modify_key)
        .changes::<ec2::ModifyVolume>(modification::modify)
        .changes::<ec2::ModifyVolumeAttribute>(status::modify_attribute)
        .changes::<ec2::ResetEbsDefaultKmsKeyId>(encryption::reset_key)
}

fn snapshots(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CopySnapshot>(snapshot_make::copy)
        .changes::<ec2::CreateSnapshot>(snapshot_make::create)
        .changes::<ec2::CreateSnapshots>(snapshot_make::create_several)
        .changes::<ec2::DeleteSnapshot>(snapshot::delete)
        .looks::<ec2::DescribeSnapshotAttribute>(snapshot::describe_attribute)
        .looks::<ec2::DescribeSnapshots>(snapshot::describe)
        .changes::<ec2::ModifySnapshotAttribute>(snapshot::modify_attribute)
        .changes::<ec2::ResetSnapshotAttribute>(snapshot::reset_attribute)
}

fn images(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CopyImage>(image_make::copy)
        .changes::<ec2::CreateImage>(image_make::create)
        .changes::<ec2::DeregisterImage>(image_make::deregister)
        .looks::<ec2::DescribeImageAttribute>(image_access::describe_attribute)
        .looks::<ec2::DescribeImages>(image::describe)
        .changes::<ec2::ModifyImageAttribute>(image_access::modify_attribute)
        .changes::<ec2::RegisterImage>(image_make::register)
        .changes::<ec2::ResetImageAttribute>(image_access::reset_attribute)
}

/// The zone of the region that a request names.
///
/// # Errors
/// When it names none, two, or one that is not there.
fn zone(view: View<'_>, name: Option<&str>, id: Option<&str>) -> Result<Zone, Error> {
    let mut zones = view.space.region.zones().into_iter();
    let (found, text) = match (name, id) {
        (Some(_), Some(_)) => {
            return Err(combination("AvailabilityZone and AvailabilityZoneId cannot be used together."));
        }
        (Some(name), None) => (zones.find(|zone| zone.to_string() == name), name),
        (None, Some(id)) => (zones.find(|zone| zone.id() == id), id),
        (None, None) => {
            let message = "The request must contain the parameter AvailabilityZone or AvailabilityZoneId";
            return Err(Error::new("MissingParameter", message));
        }
    };
    found.ok_or_else(|| Error::new("InvalidZone.NotFound", format!("The zone '{text}' does not exist.")))
}

/// A region by its name in the parameter of a request.
///
/// # Errors
/// When there is none of that name.
fn region(text: &str, parameter: &str) -> Result<Region, Error> {
    text.parse().map_err(|_| invalid_value(text, parameter, "There is no such region."))
}

/// A number that a request has, where nothing below zero makes sense.
///
/// # Errors
/// When it is.
fn number<N: TryFrom<i32>>(value: Option<i32>, parameter: &str) -> Result<Option<N>, Error> {
    value
        .map(|value| {
            N::try_from(value).map_err(|_| invalid_value(value, parameter, "It must be a number from 0 on."))
        })
        .transpose()
}

/// As clients see it: their numbers are smaller than ours.
fn shown_number(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

/// `text`, or why it cannot be what describes something.
fn description(text: Option<String>) -> Result<String, Error> {
    const CHARS_MAX: usize = 255;
    let text = text.unwrap_or_default();
    if text.chars().count() > CHARS_MAX {
        let why = format!("It has more than {CHARS_MAX} characters.");
        return Err(invalid_value(text, "description", why));
    }
    Ok(text)
}

/// A time as clients see it, and filter by it.
fn shown_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn arn(space: Space, kind: &str, id: impl std::fmt::Display) -> String {
    format!("arn:aws:ec2:{}:{}:{kind}/{id}", space.region, space.account)
}
