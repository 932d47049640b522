//! Volumes themselves.

use aws::filters::{Filtered, Values};
use aws::service::Empty;
use aws::{Call, Error, ec2};
use types::volume::{Limits, SpecError};
use types::{AccountId, SnapshotId, VolumeId, VolumeKind, VolumeSpec, Zone};

use super::attachment::can_be_shared;
use super::encryption::{self, Source};
use super::{arn, number, shown_number, shown_time, snapshot, zone};
use crate::ec2::errors::{combination, id, incorrect_state, invalid_value, not_found};
use crate::ec2::once::once;
use crate::ec2::row::{Row, page, select};
use crate::ec2::tags;
use crate::records::{AttachmentState, Snapshot, SnapshotState, Volume, VolumeAttachment, VolumeState};
use crate::state::{Transaction, View};

/// What a volume is where nobody says: as AWS has it.
const DEFAULT_KIND: VolumeKind = VolumeKind::Gp2;

/// What a request says of a volume that is to be made.
#[derive(Debug, Clone, Default)]
pub(in crate::ec2) struct Wanted<'a> {
    pub size_gib: Option<u64>,
    pub kind: Option<VolumeKind>,
    pub iops: Option<u32>,
    pub throughput_mib_s: Option<u32>,
    pub encrypted: Option<bool>,
    pub key: Option<&'a str>,
    /// What it is made from, and whose that is.
    pub snapshot: Option<(AccountId, &'a Snapshot)>,
}

/// What a volume will be that can be made.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::ec2) struct NewVolume {
    pub spec: VolumeSpec,
    pub snapshot: Option<SnapshotId>,
    pub key: Option<String>,
    pub is_multi_attach: bool,
}

impl Wanted<'_> {
    /// What will be made of it.
    ///
    /// # Errors
    /// When there is no such volume.
    pub(in crate::ec2) fn resolve(&self, view: View<'_>) -> Result<NewVolume, Error> {
        let least = self.snapshot.map(|(_, snapshot)| snapshot.size_gib);
        let Some(size_gib) = self.size_gib.or(least) else {
            return Err(Error::new(
                "MissingParameter",
                "The request must contain the parameter size or snapshotId",
            ));
        };
        let spec = VolumeSpec {
            kind: self.kind.unwrap_or(DEFAULT_KIND),
            size_gib,
            iops: self.iops,
            throughput_mib_s: self.throughput_mib_s,
        };
        limits(&spec)?;
        if let Some((_, snapshot)) = self.snapshot {
            if !matches!(snapshot.state, SnapshotState::Completed { .. }) {
                let message = format!("Snapshot {} is not complete.", snapshot.id);
                return Err(incorrect_state(message));
            }
            if size_gib < snapshot.size_gib {
                let why = format!("The snapshot '{}' needs at least {} GiB.", snapshot.id, snapshot.size_gib);
                return Err(invalid_value(size_gib, "size", why));
            }
        }
        let source = match self.snapshot {
            Some((owner, Snapshot { key: Some(key), .. })) => {
                Source::Encrypted { key: (owner == view.space.account).then_some(key.as_str()) }
            }
            _ => Source::Plain,
        };
        let key = encryption::chosen(view, self.encrypted, self.key, source)?;
        let snapshot = self.snapshot.map(|(_, snapshot)| snapshot.id);
        Ok(NewVolume { spec, snapshot, key, is_multi_attach: false })
    }
}

/// What such a volume gives.
///
/// # Errors
/// When there is none.
pub(super) fn limits(spec: &VolumeSpec) -> Result<Limits, Error> {
    spec.check().map_err(|error| {
        let code = match error {
            SpecError::IopsNotChosen { .. } | SpecError::ThroughputNotChosen { .. } => {
                "InvalidParameterCombination"
            }
            SpecError::IopsMissing { .. } => "MissingParameter",
            SpecError::Size { .. }
            | SpecError::Iops { .. }
            | SpecError::IopsRatio { .. }
            | SpecError::Throughput { .. }
            | SpecError::ThroughputRatio { .. } => "InvalidParameterValue",
        };
        Error::new(code, format!("This is not possible: {error}."))
    })
}

/// As the wire has it.
pub(in crate::ec2) fn kind(kind: ec2::VolumeType) -> VolumeKind {
    match kind {
        ec2::VolumeType::Standard => VolumeKind::Standard,
        ec2::VolumeType::Io1 => VolumeKind::Io1,
        ec2::VolumeType::Io2 => VolumeKind::Io2,
        ec2::VolumeType::Gp2 => VolumeKind::Gp2,
        ec2::VolumeType::Sc1 => VolumeKind::Sc1,
        ec2::VolumeType::St1 => VolumeKind::St1,
        ec2::VolumeType::Gp3 => VolumeKind::Gp3,
    }
}

pub(super) fn shown_kind(kind: VolumeKind) -> ec2::VolumeType {
    match kind {
        VolumeKind::Standard => ec2::VolumeType::Standard,
        VolumeKind::Io1 => ec2::VolumeType::Io1,
        VolumeKind::Io2 => ec2::VolumeType::Io2,
        VolumeKind::Gp2 => ec2::VolumeType::Gp2,
        VolumeKind::Sc1 => ec2::VolumeType::Sc1,
        VolumeKind::St1 => ec2::VolumeType::St1,
        VolumeKind::Gp3 => ec2::VolumeType::Gp3,
    }
}

/// The IOPS and the throughput by which clients know a volume: neither of a hard disk, and the latter of gp3 alone.
pub(super) fn shown_speed(spec: &VolumeSpec) -> (Option<i32>, Option<i32>) {
    let Ok(limits) = spec.check() else { return (None, None) };
    let has_iops = spec.kind.is_provisioned() || spec.kind == VolumeKind::Gp2;
    (
        has_iops.then(|| shown_number(limits.iops.base)),
        (spec.kind == VolumeKind::Gp3).then(|| shown_number(limits.bytes.base >> 20)),
    )
}

/// Makes a volume, for an instance or for nobody yet. The record is there at once, the volume when its state says so.
pub(in crate::ec2) fn make(tx: &mut Transaction<'_>, zone: Zone, new: NewVolume) -> VolumeId {
    let id = tx.new_id();
    let NewVolume { spec, snapshot, key, is_multi_attach } = new;
    tx.put(Volume {
        id,
        zone,
        spec,
        snapshot,
        key,
        is_multi_attach,
        enables_io_by_itself: false,
        created: tx.now(),
        state: VolumeState::Creating,
        attachments: Vec::new(),
        modification: None,
    });
    id
}

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateVolumeRequest,
) -> Result<ec2::Volume, Error> {
    let id = once::<ec2::CreateVolume, VolumeId>(tx, input, create_one)?;
    let view = tx.view();
    view.get::<Volume>(id).map(|record| shown(&Row { view, record })).ok_or_else(|| not_found(id))
}

fn create_one(tx: &mut Transaction<'_>, input: ec2::CreateVolumeRequest) -> Result<VolumeId, Error> {
    let view = tx.view();
    let zone = zone(view, input.availability_zone.as_deref(), input.availability_zone_id.as_deref())?;
    let source = input.snapshot_id.as_deref().filter(|text| !text.is_empty());
    let wanted = Wanted {
        size_gib: number(input.size, "size")?,
        kind: input.volume_type.map(kind),
        iops: number(input.iops, "iops")?,
        throughput_mib_s: number(input.throughput, "throughput")?,
        encrypted: input.encrypted,
        key: input.kms_key_id.as_deref(),
        snapshot: source.map(|text| snapshot::usable(view, id(text)?)).transpose()?,
    };
    let mut new = wanted.resolve(view)?;
    if input.multi_attach_enabled == Some(true) {
        if !can_be_shared(new.spec.kind) {
            let message = format!(
                "MultiAttachEnabled is not supported for {} volumes: io1 and io2 have it.",
                new.spec.kind
            );
            return Err(combination(message));
        }
        new.is_multi_attach = true;
    }
    let tags = tags::specified(&input.tag_specifications, "volume")?;
    let id = make(tx, zone, new);
    tags::add(tx, id, tags)?;
    Ok(id)
}

pub(super) fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteVolumeRequest) -> Result<Empty, Error> {
    let id: VolumeId = id(&input.volume_id)?;
    let volume = tx.get::<Volume>(id).ok_or_else(|| not_found(id))?;
    if let Some(attachment) = volume.attachments.first() {
        let message = format!("Volume {id} is currently attached to {}", attachment.instance);
        return Err(Error::new("VolumeInUse", message));
    }
    if volume.state == VolumeState::Deleting {
        return Err(incorrect_state(format!("Volume {id} is being deleted.")));
    }
    tx.update::<Volume>(id, |volume| volume.state = VolumeState::Deleting);
    Ok(Empty)
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeVolumesRequest>,
) -> Result<ec2::DescribeVolumesResult, Error> {
    let rows = select::<Volume>(view, &call.input.volume_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeVolumes, _>(call, rows)?;
    Ok(ec2::DescribeVolumesResult { next_token, volumes: Some(rows.iter().map(shown).collect()) })
}

/// As clients see it.
pub(super) fn state(volume: &Volume) -> ec2::VolumeState {
    match volume.state {
        VolumeState::Creating => ec2::VolumeState::Creating,
        VolumeState::Available if volume.attachments.is_empty() => ec2::VolumeState::Available,
        VolumeState::Available => ec2::VolumeState::InUse,
        VolumeState::Deleting => ec2::VolumeState::Deleting,
        VolumeState::Error { .. } => ec2::VolumeState::Error,
    }
}

fn attachment_state(attachment: &VolumeAttachment) -> ec2::VolumeAttachmentState {
    match attachment.state {
        AttachmentState::Attaching => ec2::VolumeAttachmentState::Attaching,
        AttachmentState::Attached => ec2::VolumeAttachmentState::Attached,
        AttachmentState::Detaching { .. } => ec2::VolumeAttachmentState::Detaching,
    }
}

pub(super) fn shown_attachment(id: VolumeId, attachment: &VolumeAttachment) -> ec2::VolumeAttachment {
    ec2::VolumeAttachment {
        delete_on_termination: Some(attachment.delete_on_termination),
        volume_id: Some(id.to_string()),
        instance_id: Some(attachment.instance.to_string()),
        device: Some(attachment.device.clone()),
        state: Some(attachment_state(attachment)),
        attach_time: Some(attachment.since),
        ..Default::default()
    }
}

fn shown(row: &Row<'_, Volume>) -> ec2::Volume {
    let Row { view, record: volume } = *row;
    let (iops, throughput) = shown_speed(&volume.spec);
    let attachments = volume.attachments.iter().map(|attachment| shown_attachment(volume.id, attachment));
    ec2::Volume {
        availability_zone_id: Some(volume.zone.id()),
        iops,
        tags: tags::shown(&view, volume.id),
        volume_type: Some(shown_kind(volume.spec.kind)),
        multi_attach_enabled: Some(volume.is_multi_attach),
        throughput,
        sse_type: encryption::sse(volume.key.as_ref()),
        volume_id: Some(volume.id.to_string()),
        size: Some(shown_number(volume.spec.size_gib)),
        // A volume that is made from none has an empty one.
        snapshot_id: Some(volume.snapshot.map(|snapshot| snapshot.to_string()).unwrap_or_default()),
        availability_zone: Some(volume.zone.to_string()),
        state: Some(state(volume)),
        create_time: Some(volume.created),
        attachments: Some(attachments.collect()),
        encrypted: Some(volume.key.is_some()),
        kms_key_id: volume.key.clone(),
        volume_arn: Some(arn(view.space, "volume", volume.id)),
        owner_id: Some(view.space.account.to_string()),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVolumes.html>.
impl Filtered for Row<'_, Volume> {
    const NAMES: &'static [&'static str] = &[
        "attachment.attach-time",
        "attachment.delete-on-termination",
        "attachment.device",
        "attachment.instance-id",
        "attachment.status",
        "availability-zone",
        "availability-zone-id",
        "create-time",
        "encrypted",
        "fast-restored",
        "multi-attach-enabled",
        "size",
        "snapshot-id",
        "status",
        "volume-id",
        "volume-type",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let volume = self.record;
        let attachments = volume.attachments.iter();
        match name {
            "attachment.attach-time" => attachments.for_each(|it| values.text(&shown_time(it.since))),
            "attachment.delete-on-termination" => {
                attachments.for_each(|it| values.flag(it.delete_on_termination));
            }
            "attachment.device" => attachments.for_each(|it| values.text(&it.device)),
            "attachment.instance-id" => attachments.for_each(|it| values.shown(it.instance)),
            "attachment.status" => attachments.for_each(|it| values.text(attachment_state(it).as_str())),
            "availability-zone" => values.shown(volume.zone),
            "availability-zone-id" => values.text(&volume.zone.id()),
            "create-time" => values.text(&shown_time(volume.created)),
            "encrypted" => values.flag(volume.key.is_some()),
            "fast-restored" => values.flag(false),
            "multi-attach-enabled" => values.flag(volume.is_multi_attach),
            "size" => values.shown(volume.spec.size_gib),
            "snapshot-id" => volume.snapshot.iter().for_each(|snapshot| values.shown(snapshot)),
            "status" => values.text(state(volume).as_str()),
            "volume-id" => values.shown(volume.id),
            "volume-type" => values.text(volume.spec.kind.as_str()),
            _ => unreachable!("{name} is no filter of volumes"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
