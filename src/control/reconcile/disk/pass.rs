//! One look at all that is not settled.

use std::collections::BTreeSet;

use jiff::Timestamp;
use types::{SnapshotId, VolumeId};

use super::plan::{self, Around, Change, Effect, SnapshotStep, Step};
use crate::ledger::{Stopped, WriteError};
use crate::plane::Plane;
use crate::ports::{DiskSpec, Disks, HostError, SnapshotCopySpec, SnapshotSpec};
use crate::records::{
    DeletedSnapshot, Image, InstanceState, Snapshot, SnapshotSource, SnapshotState, Stored, Volume,
    VolumeState,
};
use crate::state::{Space, State, Transaction};

/// More steps than so many are not made for one record in a pass.
const STEPS_MAX: usize = 64;

/// Does what can be done now; says when there will be more, if anything is left that time brings on.
///
/// # Errors
/// When the ledger takes no more changes.
pub async fn pass(plane: &Plane, disks: &dyn Disks) -> Result<Option<Timestamp>, Stopped> {
    let mut wake = None;
    let mut sooner = |time: Option<Timestamp>| wake = [wake, time].into_iter().flatten().min();
    for (space, id) in unsettled::<Volume>(plane) {
        sooner(volume(plane, disks, space, id).await?);
    }
    for (space, id) in unsettled::<Snapshot>(plane) {
        sooner(snapshot(plane, disks, space, id).await?);
    }
    for (space, id) in unsettled::<Image>(plane) {
        write(plane, space, |tx| image(tx, id)).await?;
    }
    for (space, id) in unsettled::<DeletedSnapshot>(plane) {
        sooner(deleted_snapshot(plane, disks, space, id).await?);
    }
    Ok(wake)
}

fn unsettled<R: Stored>(plane: &Plane) -> Vec<(Space, R::Id)> {
    let all = |state: &State| {
        let spaces = state.spaces();
        let rows = spaces
            .flat_map(|(space, tables)| R::table(tables).unsettled().map(move |record| (space, record.id())));
        rows.collect()
    };
    // Nobody is told of them before they are looked at again.
    let (all, _) = plane.ledger.read(all);
    all
}

/// What `look` sees of one space, when it is durable.
async fn read<T>(plane: &Plane, look: impl FnOnce(&State) -> T) -> Result<T, Stopped> {
    let (seen, as_of) = plane.ledger.read(look);
    plane.ledger.settled(as_of).await?;
    Ok(seen)
}

async fn write(
    plane: &Plane,
    space: Space,
    change: impl FnOnce(&mut Transaction<'_>),
) -> Result<(), Stopped> {
    let all = |tx: &mut Transaction<'_>| {
        change(tx);
        Ok::<(), std::convert::Infallible>(())
    };
    match plane.ledger.write(space, all).await {
        Ok(()) => Ok(()),
        Err(WriteError::Stopped(stopped)) => Err(stopped),
        Err(error) => {
            tracing::error!("{error}");
            Ok(())
        }
    }
}

async fn volume(
    plane: &Plane,
    disks: &dyn Disks,
    space: Space,
    id: VolumeId,
) -> Result<Option<Timestamp>, Stopped> {
    let mut done: Vec<Step> = Vec::new();
    while done.len() < STEPS_MAX {
        let seen = read(plane, |state| {
            let volume = state.space(space)?.volumes.get(id)?;
            Some((Volume::clone(volume), around(state, space, volume)))
        });
        let Some((volume, around)) = seen.await? else { return Ok(None) };
        let plan = plan::volume(&volume, disks.disk(id).as_ref(), &around, plane.ledger.now());
        let next = plan.steps.into_iter().find(|step| !done.contains(step));
        let Some(step) = next else {
            let is_unfinished = !done.is_empty() || plan.wake.is_some();
            return Ok(is_unfinished.then_some(plan.wake.unwrap_or(Timestamp::MAX)));
        };
        done.push(step.clone());
        let change = match step {
            Step::Note(change) => Some(change),
            Step::Do(effect) => failure(effect, carry_out(disks, &volume, effect).await, id),
        };
        match change {
            Some(Change::Gone) => write(plane, space, |tx| tx.remove::<Volume>(id)).await?,
            Some(change) => {
                write(plane, space, |tx| {
                    let now = tx.now();
                    tx.update::<Volume>(id, |volume| change.make(volume, now));
                })
                .await?;
            }
            None => {}
        }
    }
    Ok(Some(Timestamp::MAX))
}

fn around(state: &State, space: Space, volume: &Volume) -> Around {
    let Some(tables) = state.space(space) else { return Around::default() };
    let runs = |id: &types::InstanceId| {
        tables.instances.get(*id).is_some_and(|instance| {
            matches!(instance.state, InstanceState::Running | InstanceState::Stopping { .. })
        })
    };
    let instances = volume.attachments.iter().map(|attachment| attachment.instance);
    let mut snapshots = tables.snapshots.linked_to(volume.id);
    Around {
        running: instances.filter(runs).collect(),
        is_being_kept: snapshots.any(|snapshot| matches!(snapshot.state, SnapshotState::Pending { .. })),
    }
}

async fn carry_out(disks: &dyn Disks, volume: &Volume, effect: Effect) -> Result<(), HostError> {
    let id = volume.id;
    match effect {
        Effect::Create => {
            let (snapshot, key) = (volume.snapshot, volume.key.clone());
            disks.create(DiskSpec { id, zone: volume.zone, spec: volume.spec, snapshot, key }).await
        }
        Effect::Modify => {
            let target = volume.modification.as_ref().map_or(volume.spec, |last| last.target);
            disks.modify(id, target).await
        }
        Effect::Plug(instance) => {
            let device = volume.attachment(instance).map_or("", |attachment| &attachment.device);
            disks.plug(id, instance, device).await
        }
        Effect::Unplug { instance, is_forced } => disks.unplug(id, instance, is_forced).await,
        Effect::Delete => disks.delete(id).await,
    }
}

/// What becomes of the record when the host did not do something.
fn failure(effect: Effect, result: Result<(), HostError>, id: VolumeId) -> Option<Change> {
    let error = result.err()?;
    tracing::warn!("{effect:?} of {id}: {error}");
    match error {
        HostError::NoCapacity(_) => None,
        HostError::Failed(message) => effect.failure(message),
    }
}

async fn snapshot(
    plane: &Plane,
    disks: &dyn Disks,
    space: Space,
    id: SnapshotId,
) -> Result<Option<Timestamp>, Stopped> {
    let mut has_begun = false;
    for _ in 0..STEPS_MAX {
        let seen = read(plane, |state| {
            let tables = state.space(space)?;
            let snapshot = tables.snapshots.get(id)?;
            Some((Snapshot::clone(snapshot), same_moment(state, space, snapshot)))
        });
        let Some((snapshot, moment)) = seen.await? else { return Ok(None) };
        if !matches!(snapshot.state, SnapshotState::Pending { .. }) {
            return Ok(None);
        }
        match plan::snapshot(&snapshot, disks.snapshot(id).as_ref(), plane.ledger.now()) {
            SnapshotStep::Wait(deadline) => return Ok(Some(deadline)),
            SnapshotStep::Begin if has_begun => return Ok(Some(Timestamp::MAX)),
            SnapshotStep::Begin => {
                has_begun = true;
                let Err(error) = begin(disks, space, &snapshot, moment).await else { continue };
                tracing::warn!("{id}: {error}");
                if let HostError::Failed(message) = error {
                    enter(plane, space, id, SnapshotState::Error { message }).await?;
                }
            }
            SnapshotStep::Enter(state) => enter(plane, space, id, state).await?,
        }
    }
    Ok(Some(Timestamp::MAX))
}

async fn enter(plane: &Plane, space: Space, id: SnapshotId, state: SnapshotState) -> Result<(), Stopped> {
    write(plane, space, |tx| {
        tx.update::<Snapshot>(id, |snapshot| snapshot.state = state);
    })
    .await
}

/// The snapshots that are to be of the same moment as this one.
fn same_moment(state: &State, space: Space, snapshot: &Snapshot) -> Vec<SnapshotSpec> {
    let SnapshotSource::Volume { moment: wanted, .. } = snapshot.source else { return Vec::new() };
    let tables = state.space(space);
    let pending = tables.into_iter().flat_map(|tables| tables.snapshots.unsettled());
    let specs = pending.filter_map(|other| match other.source {
        SnapshotSource::Volume { volume, moment } if moment == wanted => {
            Some(SnapshotSpec { id: other.id, volume })
        }
        _ => None,
    });
    specs.collect()
}

async fn begin(
    disks: &dyn Disks,
    space: Space,
    snapshot: &Snapshot,
    moment: Vec<SnapshotSpec>,
) -> Result<(), HostError> {
    match &snapshot.source {
        SnapshotSource::Volume { .. } => disks.begin_snapshots(moment).await,
        SnapshotSource::Snapshot { snapshot: source, region } => {
            let (source, source_region, key) = (*source, *region, snapshot.key.clone());
            let spec = SnapshotCopySpec { id: snapshot.id, source, source_region, region: space.region, key };
            disks.copy_snapshot(spec).await
        }
        SnapshotSource::Seed { name } => {
            Err(HostError::Failed(format!("There are no data of the image {name}.")))
        }
    }
}

fn image(tx: &mut Transaction<'_>, id: types::ImageId) {
    let Some(image) = tx.get::<Image>(id) else { return };
    let snapshots = image.mappings.iter().filter_map(|mapping| mapping.snapshot);
    let states = snapshots.map(|snapshot| tx.get::<Snapshot>(snapshot).map(|snapshot| &snapshot.state));
    if let Some(state) = plan::image(image, states) {
        tx.update::<Image>(id, |image| image.state = state);
    }
}

async fn deleted_snapshot(
    plane: &Plane,
    disks: &dyn Disks,
    space: Space,
    id: SnapshotId,
) -> Result<Option<Timestamp>, Stopped> {
    let needed = read(plane, |state| in_use(state).contains(&id)).await?;
    if needed {
        return Ok(Some(Timestamp::MAX));
    }
    if disks.snapshot(id).is_some()
        && let Err(error) = disks.delete_snapshot(id).await
    {
        tracing::warn!("deletion of {id}: {error}");
    }
    if disks.snapshot(id).is_some() {
        return Ok(Some(Timestamp::MAX));
    }
    write(plane, space, |tx| tx.remove::<DeletedSnapshot>(id)).await?;
    Ok(None)
}

/// Snapshots that volumes and copies are being made of.
fn in_use(state: &State) -> BTreeSet<SnapshotId> {
    let mut ids = BTreeSet::new();
    for (_, tables) in state.spaces() {
        let volumes = tables.volumes.unsettled().filter(|volume| volume.state == VolumeState::Creating);
        ids.extend(volumes.filter_map(|volume| volume.snapshot));
        ids.extend(tables.snapshots.unsettled().filter_map(|copy| match copy.source {
            SnapshotSource::Snapshot { snapshot, .. } => Some(snapshot),
            _ => None,
        }));
    }
    ids
}
