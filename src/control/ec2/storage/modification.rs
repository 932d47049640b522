//! Volumes that become larger, faster, or of another type while they are used.
//!
//! AWS lets a volume be modified again only after some hours. Here it may be as soon as the last modification is over.
//!
//! Source: <https://docs.aws.amazon.com/ebs/latest/userguide/modify-volume-requirements.html>.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2};
use types::{VolumeId, VolumeKind, VolumeSpec};

use super::attachment::can_be_shared;
use super::volume::{kind, limits, shown_kind, shown_speed};
use super::{number, shown_number, shown_time};
use crate::ec2::errors::{
    combination, id, ids, incorrect_state, invalid_value, missing, not_found, unsupported,
};
use crate::ec2::row::read_filters;
use crate::records::{ModificationState, Volume, VolumeModification, VolumeState};
use crate::state::{Transaction, View};

/// What a gp3 volume has at least.
const GP3_IOPS_MIN: u32 = 3000;

pub(super) fn modify(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyVolumeRequest,
) -> Result<ec2::ModifyVolumeResult, Error> {
    let id: VolumeId = id(&input.volume_id)?;
    let volume = tx.get::<Volume>(id).ok_or_else(|| not_found(id))?;
    if volume.state != VolumeState::Available {
        return Err(incorrect_state(format!("Volume {id} is not 'available' or 'in-use'.")));
    }
    if volume.modification.as_ref().is_some_and(|last| !last.state.is_over()) {
        let message = format!("Volume {id} is being modified: wait until that is completed.");
        return Err(Error::new("IncorrectModificationState", message));
    }
    let target = target(volume, &input)?;
    let modification = VolumeModification {
        original: volume.spec,
        original_is_multi_attach: volume.is_multi_attach,
        target_is_multi_attach: target_is_multi_attach(volume, target.kind, input.multi_attach_enabled)?,
        target,
        started: tx.now(),
        state: ModificationState::Modifying,
    };
    let shown = shown(id, &modification);
    tx.update::<Volume>(id, |volume| volume.modification = Some(modification));
    Ok(ec2::ModifyVolumeResult { volume_modification: Some(shown) })
}

/// What the volume is to be: what is not said stays, where the type lets it.
fn target(volume: &Volume, input: &ec2::ModifyVolumeRequest) -> Result<VolumeSpec, Error> {
    let old = volume.spec;
    let (size_gib, iops) = (number(input.size, "size")?, number(input.iops, "iops")?);
    let throughput_mib_s = number(input.throughput, "throughput")?;
    let is_nothing = size_gib.is_none()
        && iops.is_none()
        && throughput_mib_s.is_none()
        && input.volume_type.is_none()
        && input.multi_attach_enabled.is_none();
    if is_nothing {
        return Err(missing("size, volumeType, iops, throughput or multiAttachEnabled"));
    }
    let size_gib = size_gib.unwrap_or(old.size_gib);
    if size_gib < old.size_gib {
        let why = format!("New size cannot be smaller than existing size, {} GiB.", old.size_gib);
        return Err(invalid_value(size_gib, "size", why));
    }
    let kind = input.volume_type.map_or(old.kind, kind);
    if kind == VolumeKind::Standard && old.kind != kind {
        return Err(unsupported("A volume of another type cannot become one of type standard."));
    }
    // Of few IOPS, gp3 has the least that it can have.
    let can_keep = |iops: &u32| kind == old.kind || kind != VolumeKind::Gp3 || *iops >= GP3_IOPS_MIN;
    let has = old.iops.or((old.kind == VolumeKind::Gp3).then_some(GP3_IOPS_MIN));
    let kept_iops = has.filter(can_keep);
    let kept_throughput = if kind == old.kind { old.throughput_mib_s } else { None };
    let target = VolumeSpec {
        kind,
        size_gib,
        iops: if kind.is_provisioned() { iops.or(kept_iops) } else { iops },
        throughput_mib_s: throughput_mib_s.or(kept_throughput),
    };
    limits(&target)?;
    Ok(target)
}

fn target_is_multi_attach(volume: &Volume, kind: VolumeKind, wanted: Option<bool>) -> Result<bool, Error> {
    let is_one = volume.is_multi_attach;
    let will_be = wanted.unwrap_or(is_one);
    if will_be && !can_be_shared(kind) {
        return Err(combination(format!("MultiAttachEnabled is not supported for {kind} volumes.")));
    }
    if wanted.is_some_and(|wanted| wanted != is_one) && kind != VolumeKind::Io2 {
        return Err(combination("MultiAttachEnabled can be changed of io2 volumes only."));
    }
    if will_be != is_one && volume.attachments.len() > usize::from(is_one) {
        let why = if is_one { "to several instances" } else { "to an instance" };
        return Err(incorrect_state(format!("Volume {} is attached {why}.", volume.id)));
    }
    Ok(will_be)
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeVolumesModificationsRequest>,
) -> Result<ec2::DescribeVolumesModificationsResult, Error> {
    let filters = read_filters::<Modified<'_>>(&call.input.filters)?;
    let mut all: Vec<Modified<'_>> = if call.input.volume_ids.is_empty() {
        view.tables().volumes.iter().filter_map(|volume| Modified::of(volume)).collect()
    } else {
        let mut wanted: Vec<VolumeId> = ids(&call.input.volume_ids)?;
        wanted.sort_unstable();
        wanted.dedup();
        let found = wanted.into_iter().map(|id| {
            let volume = view.get::<Volume>(id).ok_or_else(|| not_found(id))?;
            Modified::of(volume).ok_or_else(|| {
                let message = format!("Modification for volume '{id}' does not exist.");
                Error::new("InvalidVolumeModification.NotFound", message)
            })
        });
        found.collect::<Result<_, Error>>()?
    };
    all.retain(|modified| filters.admit(modified));
    let page = Page::of::<ec2::DescribeVolumesModifications>(call)?;
    let (all, next_token) = page.take(all, |modified| modified.volume.to_string());
    let shown = all.iter().map(|modified| shown(modified.volume, modified.modification)).collect();
    Ok(ec2::DescribeVolumesModificationsResult { next_token, volumes_modifications: Some(shown) })
}

/// A volume that was modified.
struct Modified<'a> {
    volume: VolumeId,
    modification: &'a VolumeModification,
}

impl<'a> Modified<'a> {
    fn of(volume: &'a Volume) -> Option<Self> {
        Some(Self { volume: volume.id, modification: volume.modification.as_ref()? })
    }
}

fn shown_state(state: &ModificationState) -> ec2::VolumeModificationState {
    match state {
        ModificationState::Modifying => ec2::VolumeModificationState::Modifying,
        ModificationState::Optimizing { .. } => ec2::VolumeModificationState::Optimizing,
        ModificationState::Completed { .. } => ec2::VolumeModificationState::Completed,
        ModificationState::Failed { .. } => ec2::VolumeModificationState::Failed,
    }
}

fn shown(volume: VolumeId, modification: &VolumeModification) -> ec2::VolumeModification {
    let VolumeModification { original, target, .. } = modification;
    let (original_iops, original_throughput) = shown_speed(original);
    let (target_iops, target_throughput) = shown_speed(target);
    let (progress, end_time, message) = match &modification.state {
        ModificationState::Modifying => (0, None, None),
        ModificationState::Optimizing { percent } => (i64::from(*percent), None, None),
        ModificationState::Completed { ended } => (100, Some(*ended), None),
        ModificationState::Failed { ended, message } => (0, Some(*ended), Some(message.clone())),
    };
    ec2::VolumeModification {
        volume_id: Some(volume.to_string()),
        modification_state: Some(shown_state(&modification.state)),
        status_message: message,
        target_size: Some(shown_number(target.size_gib)),
        target_iops,
        target_volume_type: Some(shown_kind(target.kind)),
        target_throughput,
        target_multi_attach_enabled: Some(modification.target_is_multi_attach),
        original_size: Some(shown_number(original.size_gib)),
        original_iops,
        original_volume_type: Some(shown_kind(original.kind)),
        original_throughput,
        original_multi_attach_enabled: Some(modification.original_is_multi_attach),
        progress: Some(progress),
        start_time: Some(modification.started),
        end_time,
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVolumesModifications.html>.
impl Filtered for Modified<'_> {
    const NAMES: &'static [&'static str] = &[
        "modification-state",
        "original-iops",
        "original-size",
        "original-volume-type",
        "originalMultiAttachEnabled",
        "start-time",
        "target-iops",
        "target-size",
        "target-volume-type",
        "targetMultiAttachEnabled",
        "volume-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let Self { volume, modification } = self;
        let VolumeModification { original, target, .. } = modification;
        match name {
            "modification-state" => values.text(shown_state(&modification.state).as_str()),
            "original-iops" => shown_speed(original).0.iter().for_each(|iops| values.shown(iops)),
            "original-size" => values.shown(original.size_gib),
            "original-volume-type" => values.text(original.kind.as_str()),
            "originalMultiAttachEnabled" => values.flag(modification.original_is_multi_attach),
            "start-time" => values.text(&shown_time(modification.started)),
            "target-iops" => shown_speed(target).0.iter().for_each(|iops| values.shown(iops)),
            "target-size" => values.shown(target.size_gib),
            "target-volume-type" => values.text(target.kind.as_str()),
            "targetMultiAttachEnabled" => values.flag(modification.target_is_multi_attach),
            "volume-id" => values.shown(volume),
            _ => unreachable!("{name} is no filter of modifications"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<(&str, &str)>>
    }
}
