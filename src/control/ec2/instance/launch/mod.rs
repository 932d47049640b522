//! `RunInstances`: everything that an instance needs is made with it, in one transaction, or nothing is.

mod disks;
mod interfaces;
mod options;
mod template;

use aws::{Error, ec2};
use types::{ImageId, InstanceId, ReservationId, Zone};

use super::capacity;
use super::describe::reservation;
use super::placement;
use crate::ec2::errors::{id, invalid_value, missing};
use crate::ec2::once::once;
use crate::ec2::row::Row;
use crate::ec2::storage;
use crate::ec2::tags;
use crate::records::{Health, Instance, InstanceState};
use crate::state::Transaction;
use disks::Disks;
use interfaces::Interfaces;
use options::Options;

/// Of one request. AWS's own limit is the account's quota of processors.
const COUNT_MAX: i32 = 1000;

pub(in crate::ec2) fn run(
    tx: &mut Transaction<'_>,
    input: ec2::RunInstancesRequest,
) -> Result<ec2::Reservation, Error> {
    let id = once::<ec2::RunInstances, _>(tx, input, make)?;
    let view = tx.view();
    let instances = view.tables().instances.linked_to(id);
    let rows = instances.map(|record| Row { view, record: record.as_ref() }).collect();
    Ok(reservation(view, id, rows))
}

/// Launches the one instance that a request wants.
///
/// # Errors
/// As the operation's.
pub(crate) fn launch_one(
    tx: &mut Transaction<'_>,
    input: ec2::RunInstancesRequest,
) -> Result<InstanceId, Error> {
    let reservation = make(tx, input)?;
    let launched = tx.tables().instances.linked_to(reservation).next().map(|instance| instance.id);
    launched.ok_or_else(Error::internal)
}

fn make(tx: &mut Transaction<'_>, input: ec2::RunInstancesRequest) -> Result<ReservationId, Error> {
    let client_token = input.client_token.clone();
    let (input, template) = template::resolved(tx.view(), input)?;
    let (min, max) = counts(&input)?;
    let image: ImageId = id(input.image_id.as_deref().ok_or_else(|| missing("ImageId"))?)?;
    let (owner, image) = storage::launchable(tx.view(), image)?;
    let options = Options::of(tx.view(), &input, image)?;
    let disks = Disks::of(tx.view(), &input, owner, image)?;
    let (image, root_device_name) = (image.id, image.root_device_name.clone());
    let interfaces = Interfaces::of(tx, &input, options.kind, max)?;
    let count = capacity::granted(tx.view(), options.kind, interfaces.zone, min, max)?;
    let [instance_tags, volume_tags, interface_tags] = ["instance", "volume", "network-interface"]
        .map(|kind| tags::all_specified(&input.tag_specifications, kind));
    let (mut instance_tags, volume_tags, interface_tags) = (instance_tags?, volume_tags?, interface_tags?);
    instance_tags.extend(template.into_iter().flat_map(template::tags));
    check_tagged(&input.tag_specifications)?;
    let reservation: ReservationId = tx.new_id();
    for launch_index in 0..count {
        let id: InstanceId = tx.new_id();
        let zone: Zone = interfaces.zone;
        let launched = tx.now();
        let partition = placement::assigned(tx.view(), options.placement_group, options.partition);
        tx.put(Instance {
            id,
            reservation,
            launch_index,
            image,
            instance_type: options.kind.name.to_owned(),
            zone,
            key_name: options.key.as_ref().map(|key| key.name.clone()),
            public_key: options.key.as_ref().map(|key| key.public_key.clone()),
            user_data: options.user_data.clone(),
            root_device_name: root_device_name.clone(),
            metadata_options: options.metadata_options,
            shutdown_behavior: options.shutdown_behavior,
            is_protected_from_termination: input.disable_api_termination == Some(true),
            is_protected_from_stop: input.disable_api_stop == Some(true),
            has_unlimited_credits: options.has_unlimited_credits,
            is_monitored: input.monitoring.as_ref().is_some_and(|monitoring| monitoring.enabled),
            is_ebs_optimized: input.ebs_optimized == Some(true),
            client_token: client_token.clone(),
            placement_group: options.placement_group,
            partition,
            state: InstanceState::Pending,
            has_run: false,
            launched,
            reboots_wanted: 0,
            reboots_done: 0,
            health: Health::default(),
            outage: None,
            rest: None,
        });
        tags::add(tx, id, instance_tags.clone())?;
        for volume in disks.make(tx, zone, id)? {
            tags::add(tx, volume, volume_tags.clone())?;
        }
        for interface in interfaces.make(tx, id)? {
            tags::add(tx, interface, interface_tags.clone())?;
        }
    }
    Ok(reservation)
}

/// How many, at least and at most.
fn counts(input: &ec2::RunInstancesRequest) -> Result<(u32, u32), Error> {
    let (min, max) = (input.min_count, input.max_count);
    if min < 1 {
        return Err(invalid_value(min, "minCount", "It must be at least 1."));
    }
    if max < min {
        let why = "maxCount must not be less than minCount.";
        return Err(Error::new(
            "InvalidParameterCombination",
            format!("minCount {min} and maxCount {max}: {why}"),
        ));
    }
    if max > COUNT_MAX {
        let message = format!(
            "You have requested more instances ({max}) than a request of nimbo's can have: {COUNT_MAX}."
        );
        return Err(Error::new("InstanceLimitExceeded", message));
    }
    let number = |count: i32| u32::try_from(count).map_err(|_| Error::internal());
    Ok((number(min)?, number(max)?))
}

fn check_tagged(specifications: &[ec2::TagSpecification]) -> Result<(), Error> {
    const KINDS: [&str; 3] = ["instance", "volume", "network-interface"];
    let kind =
        |specification: &ec2::TagSpecification| specification.resource_type.clone().unwrap_or_default();
    match specifications.iter().map(kind).find(|kind| !KINDS.contains(&kind.as_str())) {
        Some(kind) => Err(Error::new(
            "InvalidParameterValue",
            format!("'{kind}' is not a valid taggable resource type for this operation."),
        )),
        None => Ok(()),
    }
}
