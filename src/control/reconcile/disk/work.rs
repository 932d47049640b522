//! Steps for one subject, until it has to wait.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;
use types::{ImageId, SnapshotId, VolumeId};

use super::plan::{self, Around, Change, Effect, SnapshotStep, Step};
use super::{Ask, Halt, Held, RETRY, Reconciler};
use crate::ledger::{AsOf, Stopped};
use crate::ports::{DiskSpec, HostError, SnapshotCopySpec, SnapshotSpec};
use crate::reconcile::rest;
use crate::records::{
    DeletedSnapshot, Image, ImageState, Instance, InstanceState, Snapshot, SnapshotSource, SnapshotState,
    Tables, Volume, VolumeState,
};
use crate::state::{Space, State, Transaction};

/// After so many steps at once another pause is due: whoever changes records as fast as they are read does not keep this one busy.
const STEPS_MAX: usize = 64;

impl Reconciler {
    pub(super) async fn volume(&self, space: Space, id: VolumeId, mut held: Held) -> Result<Halt, Stopped> {
        let mut count = 0;
        loop {
            let look = |state: &State| {
                let tables = state.space(space)?;
                let volume = tables.volumes.get(id)?;
                Some((Arc::clone(volume), around(tables, volume)))
            };
            let (found, seen) = self.read(look).await?;
            let Some((volume, around)) = found else { return Ok(Halt::for_good(seen)) };
            let disk = self.disks.disk(id);
            let plan = plan::volume(&volume, disk.as_ref(), &around, self.plane.ledger.now());
            let is_due = |step: &Step| match step {
                Step::Do(effect) => held.admits(Ask::Of(*effect)),
                Step::Note(_) => true,
            };
            let Some(step) = plan.steps.into_iter().find(is_due).filter(|_| count < STEPS_MAX) else {
                let until = self.until(plan.wake, &held, count == STEPS_MAX);
                return Ok(Halt { seen, until, held });
            };
            count += 1;
            let change = match step {
                Step::Note(change) => Some(change),
                Step::Do(effect) => {
                    held.note(Ask::Of(effect));
                    let error = self.carry_out(space, &volume, effect).await.err();
                    error.and_then(|error| self.failure(&volume, effect, error))
                }
            };
            match change {
                Some(Change::Gone) => self.write(space, |tx| tx.remove::<Volume>(id)).await?,
                Some(change) => {
                    self.write(space, |tx| {
                        let now = tx.now();
                        tx.update::<Volume>(id, |volume| change.make(volume, now));
                    })
                    .await?;
                }
                None => {}
            }
        }
    }

    async fn carry_out(&self, space: Space, volume: &Volume, effect: Effect) -> Result<(), HostError> {
        let (id, disks) = (volume.id, &self.disks);
        tracing::debug!(%id, ?effect, "volume");
        match effect {
            Effect::Create => {
                let (snapshot, key) = (volume.snapshot, volume.key.clone());
                disks.create(DiskSpec { id, zone: volume.zone, spec: volume.spec, snapshot, key }).await
            }
            Effect::Modify => {
                let target = volume.modification.as_ref().map_or(volume.spec, |last| last.target);
                if let Some(snapshot) = self.not_begun(space, id, target.size_gib) {
                    let message =
                        format!("{snapshot} is to be of the volume as large as it was, and not begun");
                    return Err(HostError::Unavailable(message));
                }
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

    /// A snapshot of a volume which says that it is smaller than so many GiB, and which the host has not begun.
    fn not_begun(&self, space: Space, volume: VolumeId, size_gib: u64) -> Option<SnapshotId> {
        let find = |state: &State| {
            let mut snapshots = state.space(space)?.snapshots.linked_to(volume);
            let is_it = |snapshot: &&Arc<Snapshot>| {
                matches!(snapshot.state, SnapshotState::Pending { .. })
                    && snapshot.size_gib < size_gib
                    && self.disks.snapshot(snapshot.id).is_none()
            };
            snapshots.find(is_it).map(|snapshot| snapshot.id)
        };
        self.plane.ledger.read(find).0
    }

    /// What becomes of the record when the host did not do something.
    fn failure(&self, volume: &Volume, effect: Effect, error: HostError) -> Option<Change> {
        tracing::warn!("{effect:?} of {}: {error}", volume.id);
        let message = self.verdict(&error, plan::deadline(volume, effect))?;
        effect.failure(message)
    }

    /// What a record is to tell of an error; nothing, as long as the host is to be asked again.
    fn verdict(&self, error: &HostError, deadline: Option<Timestamp>) -> Option<String> {
        let next = self.plane.ledger.now().saturating_add(RETRY).unwrap_or(Timestamp::MAX);
        match error {
            HostError::NoCapacity(_) => None,
            // Once more would be too late, and this is known now.
            HostError::Unavailable(message) => {
                deadline.is_some_and(|deadline| next >= deadline).then(|| message.clone())
            }
            HostError::Failed(message) => Some(message.clone()),
        }
    }

    /// All that are to be of one moment are begun together.
    pub(super) async fn snapshots(
        &self,
        space: Space,
        moment: SnapshotId,
        mut held: Held,
    ) -> Result<Halt, Stopped> {
        let mut count = 0;
        loop {
            let look = |state: &State| {
                let tables = state.space(space)?;
                let pending = of_moment(tables, moment);
                let may_begin = pending.iter().all(|snapshot| rest::may_begin(tables, snapshot));
                (!pending.is_empty()).then_some((pending, may_begin))
            };
            let (found, seen) = self.read(look).await?;
            let Some((pending, may_begin)) = found else { return Ok(Halt::for_good(seen)) };
            let (mut entered, mut to_begin, mut wake) = (false, Vec::new(), None);
            for snapshot in &pending {
                let progress = self.disks.snapshot(snapshot.id);
                match plan::snapshot(snapshot, progress.as_ref(), may_begin, self.plane.ledger.now()) {
                    SnapshotStep::Enter(state) => {
                        self.enter(space, snapshot.id, state).await?;
                        entered = true;
                    }
                    SnapshotStep::Begin => {
                        to_begin.push(snapshot);
                        wake = earlier(wake, Some(plan::snapshot_deadline(snapshot)));
                    }
                    SnapshotStep::Wait(deadline) => wake = earlier(wake, Some(deadline)),
                }
            }
            count += 1;
            if entered && count < STEPS_MAX {
                continue;
            }
            if to_begin.is_empty() || !held.admits(Ask::BeginSnapshots) || count >= STEPS_MAX {
                let until = self.until(wake, &held, entered);
                return Ok(Halt { seen, until, held });
            }
            held.note(Ask::BeginSnapshots);
            let Err(error) = self.begin_snapshots(space, &pending).await else { continue };
            tracing::warn!("snapshots of the moment of {moment}: {error}");
            for snapshot in to_begin {
                if let Some(message) = self.verdict(&error, Some(plan::beginning_deadline(snapshot))) {
                    self.enter(space, snapshot.id, SnapshotState::Error { message }).await?;
                }
            }
        }
    }

    async fn begin_snapshots(&self, space: Space, pending: &[Arc<Snapshot>]) -> Result<(), HostError> {
        let of_volume = |snapshot: &Arc<Snapshot>| match snapshot.source {
            SnapshotSource::Volume { volume, .. } => Some(SnapshotSpec { id: snapshot.id, volume }),
            _ => None,
        };
        let specs: Vec<_> = pending.iter().filter_map(of_volume).collect();
        if !specs.is_empty() {
            return self.disks.begin_snapshots(specs).await;
        }
        for snapshot in pending {
            match &snapshot.source {
                SnapshotSource::Snapshot { snapshot: source, region } => {
                    let (id, source, source_region, key) =
                        (snapshot.id, *source, *region, snapshot.key.clone());
                    let spec = SnapshotCopySpec { id, source, source_region, region: space.region, key };
                    self.disks.copy_snapshot(spec).await?;
                }
                SnapshotSource::Seed { name } => {
                    return Err(HostError::Failed(format!("There are no data of the image {name}.")));
                }
                SnapshotSource::Volume { .. } => {}
            }
        }
        Ok(())
    }

    async fn enter(&self, space: Space, id: SnapshotId, state: SnapshotState) -> Result<(), Stopped> {
        self.write(space, |tx| {
            tx.update::<Snapshot>(id, |snapshot| (snapshot.state, snapshot.awaits) = (state, None));
        })
        .await
    }

    pub(super) async fn image(&self, space: Space, id: ImageId) -> Result<Halt, Stopped> {
        let next = |tables: &Tables| {
            let image = tables.images.get(id)?;
            next_of_image(tables, image)
        };
        let (found, seen) = self.read(|state| next(state.space(space)?)).await?;
        if found.is_some() {
            self.write(space, |tx| {
                if let Some(next) = next(tx.tables()) {
                    tx.update::<Image>(id, |image| image.state = next);
                }
            })
            .await?;
        }
        Ok(Halt::for_good(seen))
    }

    pub(super) async fn deleted(
        &self,
        space: Space,
        id: SnapshotId,
        mut held: Held,
    ) -> Result<Halt, Stopped> {
        loop {
            let look = |state: &State| {
                state.space(space)?.deleted_snapshots.get(id)?;
                Some(is_in_use(state, id))
            };
            let (found, seen) = self.read(look).await?;
            let Some(is_needed) = found else { return Ok(Halt::for_good(seen)) };
            if self.disks.snapshot(id).is_none() && !is_needed {
                self.write(space, |tx| tx.remove::<DeletedSnapshot>(id)).await?;
                return Ok(Halt::for_good(seen));
            }
            if is_needed || !held.admits(Ask::DeleteSnapshot) {
                let until = self.until(None, &held, false);
                return Ok(Halt { seen, until, held });
            }
            held.note(Ask::DeleteSnapshot);
            if let Err(error) = self.disks.delete_snapshot(id).await {
                tracing::warn!("deletion of {id}: {error}");
            }
        }
    }

    /// When there is more to do, if nothing changes before.
    fn until(&self, wake: Option<Timestamp>, held: &Held, is_rushed: bool) -> Option<Instant> {
        let now = Instant::now();
        let wake = wake.map(|wake| {
            let left = wake.duration_since(self.plane.ledger.now());
            now + std::time::Duration::try_from(left).unwrap_or_default()
        });
        [wake, held.until(), is_rushed.then(|| now + RETRY)].into_iter().flatten().min()
    }

    /// What `look` sees, when it is durable.
    async fn read<T>(&self, look: impl FnOnce(&State) -> T) -> Result<(T, AsOf), Stopped> {
        let (found, as_of) = self.plane.ledger.read(look);
        self.plane.ledger.settled(as_of).await?;
        Ok((found, as_of))
    }

    async fn write(&self, space: Space, change: impl FnOnce(&mut Transaction<'_>)) -> Result<(), Stopped> {
        crate::reconcile::write(&self.plane, space, change).await
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}

fn around(tables: &Tables, volume: &Volume) -> Around {
    let those = |are: fn(&Instance) -> bool| {
        let instances =
            volume.attachments.iter().filter_map(|attachment| tables.instances.get(attachment.instance));
        instances.filter(|instance| are(instance)).map(|instance| instance.id).collect()
    };
    let mut snapshots = tables.snapshots.linked_to(volume.id);
    Around {
        running: those(|it| {
            it.is_up() || matches!(it.state, InstanceState::Stopping { .. }) && it.outage.is_none()
        }),
        starting: those(|it| it.state == InstanceState::Pending || it.is_resting()),
        is_being_kept: snapshots.any(|snapshot| matches!(snapshot.state, SnapshotState::Pending { .. })),
    }
}

/// The snapshots of a moment that have work left, or the copy of that id.
fn of_moment(tables: &Tables, wanted: SnapshotId) -> Vec<Arc<Snapshot>> {
    tables.snapshots.unsettled().filter(|snapshot| snapshot.moment() == wanted).cloned().collect()
}

fn next_of_image(tables: &Tables, image: &Image) -> Option<ImageState> {
    let snapshots = image.mappings.iter().filter_map(|mapping| mapping.snapshot);
    let states = snapshots.map(|snapshot| tables.snapshots.get(snapshot).map(|snapshot| &snapshot.state));
    plan::image(image, states)
}

/// Whether a volume or a copy is being made of a snapshot.
fn is_in_use(state: &State, id: SnapshotId) -> bool {
    state.spaces().any(|(_, tables)| {
        let mut volumes = tables.volumes.unsettled();
        let mut snapshots = tables.snapshots.unsettled();
        volumes.any(|volume| volume.state == VolumeState::Creating && volume.snapshot == Some(id))
            || snapshots.any(
                |copy| matches!(copy.source, SnapshotSource::Snapshot { snapshot, .. } if snapshot == id),
            )
    })
}
