//! What takes an instance: volumes that it has, snapshots of all of them, images of it.

use std::collections::BTreeMap;

use aws::{Error, ec2};
use jiff::Timestamp;
use types::{ImageId, InstanceId, RandomId, VolumeId, VolumeKind, VolumeSpec};

use super::{attachment, image_make, modification, snapshot_make, volume};
use crate::ec2::tags;
use crate::records::{
    AttachmentState, Cause, Image, ImageState, Instance, InstanceState, Rest, Snapshot, SnapshotSource,
    TagSet, Volume, VolumeState,
};
use crate::state::{State, Transaction};
use crate::testing::{Seeded, space};

const ROOT: &str = "/dev/xvda";

/// Does something to a region where nothing is yet.
fn with(act: impl FnOnce(&mut Transaction<'_>)) {
    let (mut state, mut entropy) = (State::default(), Seeded::new(1));
    let mut tx = Transaction::begin(&mut state, space(), Timestamp::UNIX_EPOCH, &mut entropy);
    act(&mut tx);
}

fn instance(tx: &mut Transaction<'_>, number: u8, state: InstanceState) -> InstanceId {
    let id = InstanceId::from_random([number; 16]);
    let launched = tx.now();
    let mut instance = crate::testing::instance(id, state, launched);
    instance.metadata_options.requires_token = true;
    tx.put(instance);
    id
}

fn stopped() -> InstanceState {
    InstanceState::Stopped { cause: Cause::User, since: Timestamp::UNIX_EPOCH }
}

/// One that is there already.
fn disk(tx: &mut Transaction<'_>, kind: VolumeKind, zone: usize) -> VolumeId {
    let iops = matches!(kind, VolumeKind::Io1 | VolumeKind::Io2).then_some(100);
    let spec = VolumeSpec { kind, size_gib: 8, iops, throughput_mib_s: None };
    let new = volume::NewVolume { spec, snapshot: None, key: None, is_multi_attach: iops.is_some() };
    let id = volume::make(tx, space().region.zones()[zone], new);
    tx.update::<Volume>(id, |volume| volume.state = VolumeState::Available);
    id
}

fn attach(
    tx: &mut Transaction<'_>,
    volume: VolumeId,
    instance: InstanceId,
    device: &str,
) -> Result<ec2::VolumeAttachment, Error> {
    let input = ec2::AttachVolumeRequest {
        device: device.to_owned(),
        instance_id: instance.to_string(),
        volume_id: volume.to_string(),
        dry_run: None,
    };
    let answer = attachment::attach_volume(tx, input)?;
    tx.update::<Volume>(volume, |volume| {
        volume.attachments.iter_mut().for_each(|it| it.state = AttachmentState::Attached);
    });
    Ok(answer)
}

fn detach(
    tx: &mut Transaction<'_>,
    volume: VolumeId,
    instance: Option<InstanceId>,
    force: bool,
) -> Result<ec2::VolumeAttachment, Error> {
    let input = ec2::DetachVolumeRequest {
        volume_id: volume.to_string(),
        instance_id: instance.map(|id| id.to_string()),
        force: Some(force),
        ..Default::default()
    };
    attachment::detach_volume(tx, input)
}

fn delete(tx: &mut Transaction<'_>, volume: VolumeId) -> Result<aws::service::Empty, Error> {
    volume::delete(tx, ec2::DeleteVolumeRequest { volume_id: volume.to_string(), dry_run: None })
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().code.into_owned()
}

#[test]
fn an_instance_has_a_volume_until_it_lets_go_of_it() {
    with(|tx| {
        let (running, data) = (instance(tx, 7, InstanceState::Running), disk(tx, VolumeKind::Gp3, 0));
        let answer = attach(tx, data, running, "/dev/sdf").unwrap();
        assert_eq!(answer.state, Some(ec2::VolumeAttachmentState::Attaching));
        assert_eq!(volume::state(tx.get(data).unwrap()), ec2::VolumeState::InUse);
        assert_eq!(code(delete(tx, data)), "VolumeInUse");
        assert_eq!(code(attach(tx, data, running, "/dev/sdg")), "VolumeInUse");
        let other = instance(tx, 8, InstanceState::Running);
        assert_eq!(code(attach(tx, data, other, "/dev/sdf")), "VolumeInUse");
        assert_eq!(code(detach(tx, data, Some(other), false)), "InvalidAttachment.NotFound");
        let answer = detach(tx, data, None, false).unwrap();
        assert_eq!(answer.state, Some(ec2::VolumeAttachmentState::Detaching));
        assert_eq!(code(detach(tx, data, None, false)), "IncorrectState");
        assert!(detach(tx, data, None, true).is_ok());
        let forced = AttachmentState::Detaching { is_forced: true };
        assert_eq!(tx.get::<Volume>(data).unwrap().attachments[0].state, forced);
    });
}

#[test]
fn what_cannot_be_attached_is_told() {
    with(|tx| {
        let (running, data) = (instance(tx, 7, InstanceState::Running), disk(tx, VolumeKind::Gp3, 0));
        attach(tx, data, running, "/dev/sdf").unwrap();
        let free = disk(tx, VolumeKind::Gp3, 0);
        let taken = attach(tx, free, running, "/dev/sdf").unwrap_err();
        assert!(
            taken.code == "InvalidParameterValue" && taken.message.contains("/dev/sdf is already in use")
        );
        assert_eq!(code(attach(tx, free, running, "/dev/nvme1n1")), "InvalidParameterValue");
        let elsewhere = disk(tx, VolumeKind::Gp3, 1);
        assert_eq!(code(attach(tx, elsewhere, running, "/dev/sdg")), "InvalidVolume.ZoneMismatch");
        let pending = instance(tx, 8, InstanceState::Pending);
        assert_eq!(code(attach(tx, free, pending, "/dev/sdg")), "IncorrectState");
        tx.update::<Volume>(free, |volume| volume.state = VolumeState::Creating);
        assert_eq!(code(attach(tx, free, running, "/dev/sdg")), "IncorrectState");
        tx.update::<Volume>(free, |volume| volume.state = VolumeState::Available);
        let off = instance(tx, 9, stopped());
        assert!(attach(tx, free, off, "/dev/sdg").is_ok());
    });
}

#[test]
fn an_instance_has_no_more_volumes_than_it_has_room_for() {
    with(|tx| {
        let running = instance(tx, 7, InstanceState::Running);
        for letter in 'a'..='z' {
            let data = disk(tx, VolumeKind::Gp3, 0);
            attach(tx, data, running, &format!("/dev/xvdb{letter}")).unwrap();
        }
        let (last, more) = (disk(tx, VolumeKind::Gp3, 0), disk(tx, VolumeKind::Gp3, 0));
        attach(tx, last, running, "/dev/sdb").unwrap();
        assert_eq!(code(attach(tx, more, running, "/dev/sdc")), "AttachmentLimitExceeded");
    });
}

#[test]
fn sixteen_instances_share_a_volume() {
    with(|tx| {
        let shared = disk(tx, VolumeKind::Io2, 0);
        let instances: Vec<_> = (10..27).map(|number| instance(tx, number, InstanceState::Running)).collect();
        for instance in &instances[..16] {
            attach(tx, shared, *instance, "/dev/sdf").unwrap();
        }
        assert_eq!(code(attach(tx, shared, instances[16], "/dev/sdf")), "AttachmentLimitExceeded");
        assert_eq!(code(detach(tx, shared, None, false)), "InvalidParameterCombination");
        assert!(detach(tx, shared, Some(instances[3]), false).is_ok());
        let input = ec2::ModifyVolumeRequest {
            volume_id: shared.to_string(),
            multi_attach_enabled: Some(false),
            ..Default::default()
        };
        assert_eq!(code(modification::modify(tx, input)), "IncorrectState");
    });
}

#[test]
fn a_root_volume_stays_with_what_runs_of_it() {
    with(|tx| {
        let (running, root) = (instance(tx, 7, InstanceState::Running), disk(tx, VolumeKind::Gp3, 0));
        attach(tx, root, running, ROOT).unwrap();
        assert_eq!(code(detach(tx, root, None, false)), "OperationNotPermitted");
        tx.update::<Instance>(running, |instance| instance.state = stopped());
        assert!(detach(tx, root, None, false).is_ok());
    });
}

#[test]
fn volumes_go_with_their_instance_or_are_free_again() {
    with(|tx| {
        let ends = instance(tx, 7, InstanceState::Running);
        let (root, data) = (disk(tx, VolumeKind::Gp3, 0), disk(tx, VolumeKind::Gp3, 0));
        attachment::attach(tx, root, ends, ROOT, true).unwrap();
        attachment::attach(tx, data, ends, "/dev/sdf", false).unwrap();
        attachment::release(tx, root, ends);
        attachment::release(tx, data, ends);
        let state = |id| tx.get::<Volume>(id).map(|volume| (volume.state.clone(), volume.attachments.len()));
        assert_eq!(state(root), Some((VolumeState::Deleting, 0)));
        assert_eq!(state(data), Some((VolumeState::Available, 0)));
    });
}

/// An instance with a root volume and another one, which has a tag.
fn with_two(act: impl FnOnce(&mut Transaction<'_>, InstanceId, VolumeId, VolumeId)) {
    with(|tx| {
        let running = instance(tx, 7, InstanceState::Running);
        let (root, data) = (disk(tx, VolumeKind::Gp3, 0), disk(tx, VolumeKind::Io1, 0));
        attach(tx, root, running, ROOT).unwrap();
        attach(tx, data, running, "/dev/sdf").unwrap();
        tags::add(tx, data, BTreeMap::from([("role".to_owned(), "data".to_owned())])).unwrap();
        act(tx, running, root, data);
    });
}

fn several(
    tx: &mut Transaction<'_>,
    specification: ec2::InstanceSpecification,
) -> Result<Vec<String>, Error> {
    let input = ec2::CreateSnapshotsRequest {
        instance_specification: specification,
        copy_tags_from_source: Some(ec2::CopyTagsFromSource::Volume),
        ..Default::default()
    };
    let snapshots = snapshot_make::create_several(tx, input)?.snapshots.unwrap_or_default();
    Ok(snapshots.into_iter().filter_map(|snapshot| snapshot.volume_id).collect())
}

#[test]
fn snapshots_of_an_instance_are_of_one_moment() {
    with_two(|tx, instance, root, data| {
        let all = || ec2::InstanceSpecification { instance_id: instance.to_string(), ..Default::default() };
        let mut volumes = several(tx, all()).unwrap();
        volumes.sort();
        let mut expected = [root.to_string(), data.to_string()];
        expected.sort();
        assert_eq!(volumes, expected);
        let snapshots: Vec<_> = tx.tables().snapshots.iter().collect();
        let moments = snapshots.iter().map(|snapshot| match snapshot.source {
            SnapshotSource::Volume { moment, .. } => moment,
            _ => panic!("{snapshot:?}"),
        });
        let moments: Vec<_> = moments.collect();
        assert_eq!(moments[0], moments[1]);
        let tagged = snapshots.iter().filter(|it| tx.get::<TagSet>(it.id.into()).is_some()).count();
        assert_eq!(tagged, 1, "the tags are those of the volumes");
        let no_root = ec2::InstanceSpecification { exclude_boot_volume: Some(true), ..all() };
        assert_eq!(several(tx, no_root).unwrap(), [data.to_string()]);
        let excluding = |id: VolumeId| ec2::InstanceSpecification {
            exclude_data_volume_ids: vec![id.to_string()],
            ..all()
        };
        assert_eq!(several(tx, excluding(data)).unwrap(), [root.to_string()]);
        assert_eq!(code(several(tx, excluding(root))), "InvalidParameterValue");
        let none = ec2::InstanceSpecification { exclude_boot_volume: Some(true), ..excluding(data) };
        assert_eq!(code(several(tx, none)), "InvalidParameterValue");
    });
}

#[test]
fn a_volume_has_few_snapshots_in_the_making() {
    with_two(|tx, _, root, _| {
        let make = |tx: &mut Transaction<'_>| {
            snapshot_make::create(
                tx,
                ec2::CreateSnapshotRequest { volume_id: root.to_string(), ..Default::default() },
            )
        };
        (0..5).for_each(|_| drop(make(tx).unwrap()));
        assert_eq!(code(make(tx)), "ConcurrentSnapshotLimitExceeded");
    });
}

fn mapping(device: &str, ebs: Option<ec2::EbsBlockDevice>) -> ec2::BlockDeviceMapping {
    let no_device = ebs.is_none().then(String::new);
    ec2::BlockDeviceMapping { device_name: Some(device.to_owned()), ebs, no_device, virtual_name: None }
}

fn image(
    tx: &mut Transaction<'_>,
    instance: InstanceId,
    name: &str,
    mappings: Vec<ec2::BlockDeviceMapping>,
    no_reboot: bool,
) -> Result<Image, Error> {
    let input = ec2::CreateImageRequest {
        instance_id: instance.to_string(),
        name: name.to_owned(),
        block_device_mappings: mappings,
        no_reboot: Some(no_reboot),
        ..Default::default()
    };
    let id: ImageId = image_make::create(tx, input)?.image_id.unwrap().parse().unwrap();
    Ok(tx.get::<Image>(id).unwrap().clone())
}

#[test]
fn an_image_has_all_volumes_of_its_instance() {
    with_two(|tx, instance, root, data| {
        let made = image(tx, instance, "both", Vec::new(), true).unwrap();
        assert_eq!((made.state, made.requires_metadata_token), (ImageState::Pending, true));
        let mut devices: Vec<_> =
            made.mappings.iter().map(|it| (it.device.as_str(), it.kind, it.iops)).collect();
        devices.sort_unstable_by_key(|(device, ..)| *device);
        let expected = [("/dev/sdf", VolumeKind::Io1, Some(100)), (ROOT, VolumeKind::Gp3, None)];
        assert_eq!(devices, expected);
        for (volume, device) in [(root, ROOT), (data, "/dev/sdf")] {
            let its = made.mappings.iter().find(|it| it.device == device).and_then(|it| it.snapshot).unwrap();
            let source = &tx.get::<Snapshot>(its).unwrap().source;
            assert!(
                matches!(source, SnapshotSource::Volume { volume: of, .. } if *of == volume),
                "{source:?}"
            );
        }
        assert_eq!(tx.get::<Instance>(instance).unwrap().rest, None);
        assert_eq!(code(image(tx, instance, "both", Vec::new(), true)), "InvalidAMIName.Duplicate");
        image(tx, instance, "quiet", Vec::new(), false).unwrap();
        assert_eq!(tx.get::<Instance>(instance).unwrap().rest, Some(Rest::Wanted));
    });
}

#[test]
fn an_image_leaves_out_and_adds_what_the_request_says() {
    with_two(|tx, instance, _, _| {
        let larger = ec2::EbsBlockDevice { volume_size: Some(20), ..Default::default() };
        let empty = ec2::EbsBlockDevice { volume_size: Some(1), ..Default::default() };
        let mappings =
            vec![mapping("/dev/sdf", None), mapping(ROOT, Some(larger)), mapping("/dev/sdg", Some(empty))];
        let made = image(tx, instance, "changed", mappings, true).unwrap();
        let found: Vec<_> =
            made.mappings.iter().map(|it| (it.device.as_str(), it.size_gib, it.snapshot.is_some())).collect();
        assert_eq!(found, [(ROOT, 20, true), ("/dev/sdg", 1, false)]);
        assert_eq!(tx.tables().snapshots.iter().len(), 1);
        let code = code(image(tx, instance, "rootless", vec![mapping(ROOT, None)], true));
        assert_eq!(code, "InvalidBlockDeviceMapping");
        let smaller = ec2::EbsBlockDevice { volume_size: Some(2), ..Default::default() };
        let made = image(tx, instance, "smaller", vec![mapping(ROOT, Some(smaller))], true);
        assert_eq!(made.unwrap_err().code, "InvalidBlockDeviceMapping");
    });
}

#[test]
fn an_image_is_of_what_runs_or_is_stopped() {
    with(|tx| {
        let pending = instance(tx, 7, InstanceState::Pending);
        assert_eq!(code(image(tx, pending, "pending", Vec::new(), true)), "IncorrectState");
        let bare = instance(tx, 8, stopped());
        assert_eq!(code(image(tx, bare, "bare", Vec::new(), true)), "InvalidBlockDeviceMapping");
    });
}
