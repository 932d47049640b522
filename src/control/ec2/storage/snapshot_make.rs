//! Snapshots that are begun: of a volume, of all of an instance's at one moment, of other snapshots.

use std::collections::BTreeMap;

use aws::{Error, ec2};
use types::{InstanceId, SnapshotId, VolumeId};

use super::encryption::{self, Source};
use super::sharing::{self, Seen};
use super::{description, region, snapshot};
use crate::ec2::errors::{id, incorrect_state, invalid_value, not_found};
use crate::ec2::row::Row;
use crate::ec2::tags;
use crate::records::{
    Instance, Sharing, Snapshot, SnapshotSource, SnapshotState, TagSet, Volume, VolumeState,
};
use crate::state::{Space, Transaction, View};

/// Of one volume at a time, as AWS has it for SSDs.
const PENDING_MAX: usize = 5;

/// Begins snapshots of volumes, all of one moment, in their order; if they await an instance, when its guest has shut down.
///
/// # Errors
/// When one of them is not there, or cannot have another snapshot now.
pub(super) fn begin(
    tx: &mut Transaction<'_>,
    volumes: &[VolumeId],
    awaits: Option<InstanceId>,
    description: &str,
) -> Result<Vec<SnapshotId>, Error> {
    let ids: Vec<SnapshotId> = volumes.iter().map(|_| tx.new_id()).collect();
    let Some(moment) = ids.first().copied() else { return Ok(ids) };
    for (id, volume_id) in ids.iter().zip(volumes) {
        let volume = tx.get::<Volume>(*volume_id).ok_or_else(|| not_found(*volume_id))?;
        if volume.state != VolumeState::Available {
            return Err(incorrect_state(format!("Volume {volume_id} is not 'available' or 'in-use'.")));
        }
        let is_pending = |snapshot: &Snapshot| matches!(snapshot.state, SnapshotState::Pending { .. });
        let pending = tx.tables().snapshots.linked_to(*volume_id).filter(|snapshot| is_pending(snapshot));
        if pending.count() >= PENDING_MAX {
            let message = "Maximum allowed in-progress snapshots for a single volume exceeded.";
            return Err(Error::new("ConcurrentSnapshotLimitExceeded", message));
        }
        let snapshot = Snapshot {
            id: *id,
            source: SnapshotSource::Volume { volume: *volume_id, moment },
            // It may have grown already when the host begins: what is made of it has room for that.
            size_gib: volume.spec.size_gib.max(growing_to(volume)),
            description: description.to_owned(),
            key: volume.key.clone(),
            started: tx.now(),
            awaits,
            sharing: Sharing::default(),
            state: SnapshotState::Pending { percent: 0 },
        };
        tx.put(snapshot);
    }
    Ok(ids)
}

/// The size that a volume is being given, in GiB; 0 if it is not modified now.
fn growing_to(volume: &Volume) -> u64 {
    let modification = volume.modification.as_ref().filter(|last| !last.state.is_over());
    modification.map_or(0, |modification| modification.target.size_gib)
}

fn shown_own(view: View<'_>, id: SnapshotId) -> Result<ec2::Snapshot, Error> {
    let record = view.get::<Snapshot>(id).ok_or_else(|| not_found(id))?;
    Ok(snapshot::shown(&Seen { row: Row { view, record }, caller: view.space.account }))
}

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateSnapshotRequest,
) -> Result<ec2::Snapshot, Error> {
    let volume: VolumeId = id(&input.volume_id)?;
    let text = description(input.description)?;
    let tags = tags::specified(&input.tag_specifications, "snapshot")?;
    let [id] = begin(tx, &[volume], None, &text)?[..] else { return Err(Error::internal()) };
    tags::add(tx, id, tags)?;
    shown_own(tx.view(), id)
}

pub(super) fn create_several(
    tx: &mut Transaction<'_>,
    input: ec2::CreateSnapshotsRequest,
) -> Result<ec2::CreateSnapshotsResult, Error> {
    let text = description(input.description)?;
    let tags = tags::specified(&input.tag_specifications, "snapshot")?;
    let volumes = chosen(tx.view(), &input.instance_specification)?;
    let ids = begin(tx, &volumes, None, &text)?;
    for (id, volume) in ids.iter().zip(&volumes) {
        let mut all = BTreeMap::new();
        if input.copy_tags_from_source.is_some() {
            let its = tx.get::<TagSet>((*volume).into()).map(|set| set.tags.clone());
            all = its.unwrap_or_default();
        }
        all.extend(tags.clone());
        tags::add(tx, *id, all)?;
    }
    let view = tx.view();
    let shown = ids.into_iter().map(|id| shown_own(view, id).map(info));
    Ok(ec2::CreateSnapshotsResult { snapshots: Some(shown.collect::<Result<_, Error>>()?) })
}

/// The volumes of an instance that a request is about.
fn chosen(view: View<'_>, specification: &ec2::InstanceSpecification) -> Result<Vec<VolumeId>, Error> {
    let instance: InstanceId = id(&specification.instance_id)?;
    let instance = view.get::<Instance>(instance).ok_or_else(|| not_found(instance))?;
    let root = &instance.root_device_name;
    let all: Vec<&Volume> = view.tables().volumes.linked_to(instance.id).map(AsRef::as_ref).collect();
    let is_root =
        |volume: &Volume| volume.attachment(instance.id).is_some_and(|attachment| attachment.device == *root);
    let mut excluded: Vec<VolumeId> = Vec::new();
    for text in &specification.exclude_data_volume_ids {
        let id: VolumeId = id(text)?;
        if !all.iter().any(|volume| volume.id == id && !is_root(volume)) {
            let why = format!("It is no data volume of the instance '{}'.", instance.id);
            return Err(invalid_value(id, "ExcludeDataVolumeId", why));
        }
        excluded.push(id);
    }
    let excludes_root = specification.exclude_boot_volume == Some(true);
    let volumes = all.into_iter().filter(|volume| !(excludes_root && is_root(volume)));
    let volumes: Vec<VolumeId> =
        volumes.map(|volume| volume.id).filter(|volume| !excluded.contains(volume)).collect();
    if volumes.is_empty() {
        let message = format!("There is no volume of the instance '{}' to make a snapshot of.", instance.id);
        return Err(Error::new("InvalidParameterValue", message));
    }
    Ok(volumes)
}

fn info(snapshot: ec2::Snapshot) -> ec2::SnapshotInfo {
    ec2::SnapshotInfo {
        description: snapshot.description,
        tags: snapshot.tags,
        encrypted: snapshot.encrypted,
        volume_id: snapshot.volume_id,
        state: snapshot.state,
        volume_size: snapshot.volume_size,
        start_time: snapshot.start_time,
        progress: snapshot.progress,
        owner_id: snapshot.owner_id,
        snapshot_id: snapshot.snapshot_id,
        sse_type: snapshot.sse_type,
        ..Default::default()
    }
}

/// How a snapshot is to be copied.
pub(super) struct Copy<'a> {
    pub source: Seen<'a, Snapshot>,
    pub description: String,
    pub encrypted: Option<bool>,
    pub key: Option<&'a str>,
}

impl Copy<'_> {
    /// What the copy will be.
    ///
    /// # Errors
    /// When the source is not complete, or what is asked for contradicts itself.
    pub fn resolve(&self, view: View<'_>, id: SnapshotId) -> Result<Snapshot, Error> {
        let (source, from) = (self.source.record(), self.source.row.view.space);
        if !matches!(source.state, SnapshotState::Completed { .. }) {
            return Err(incorrect_state(format!("Snapshot {} is not complete.", source.id)));
        }
        let before = match &source.key {
            None => Source::Plain,
            Some(key) => Source::Encrypted { key: (from == view.space).then_some(key.as_str()) },
        };
        Ok(Snapshot {
            id,
            source: SnapshotSource::Snapshot { snapshot: source.id, region: from.region },
            size_gib: source.size_gib,
            description: self.description.clone(),
            key: encryption::chosen(view, self.encrypted, self.key, before)?,
            started: view.now,
            awaits: None,
            sharing: Sharing::default(),
            state: SnapshotState::Pending { percent: 0 },
        })
    }
}

/// A region as the caller sees it.
pub(super) fn other_region<'a>(view: View<'a>, text: &str, parameter: &str) -> Result<View<'a>, Error> {
    let region = region(text, parameter)?;
    Ok(View::new(view.state, Space { region, ..view.space }, view.now))
}

/// The region that is called is the one where the copy will be. What authorizes the copy elsewhere, `PresignedUrl`, is not needed: all
/// regions are here.
pub(super) fn copy(
    tx: &mut Transaction<'_>,
    input: ec2::CopySnapshotRequest,
) -> Result<ec2::CopySnapshotResult, Error> {
    let source: SnapshotId = id(&input.source_snapshot_id)?;
    let own_region = tx.space().region;
    if let Some(text) = &input.destination_region
        && region(text, "destinationRegion")? != own_region
    {
        let why = format!("The region that is called is the destination, and it is {own_region}.");
        return Err(invalid_value(text, "destinationRegion", why));
    }
    let tags = tags::specified(&input.tag_specifications, "snapshot")?;
    let description = description(input.description)?;
    let id = tx.new_id();
    let view = tx.view();
    let from = other_region(view, &input.source_region, "sourceRegion")?;
    let source = sharing::one(from, source).ok_or_else(|| not_found(source))?;
    let copy = Copy { source, description, encrypted: input.encrypted, key: input.kms_key_id.as_deref() };
    let snapshot = copy.resolve(view, id)?;
    tx.put(snapshot);
    tags::add(tx, id, tags)?;
    let tags = tags::shown(&tx.view(), id);
    Ok(ec2::CopySnapshotResult { tags, snapshot_id: Some(id.to_string()) })
}
