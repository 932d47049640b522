//! What becomes of snapshots.
//!
//! ```text
//!   Sealing ──▶ Keeping ──▶ Complete ──▶ Deleting ──▶ gone
//!                            ▲
//!   Copying ─────────────────┘        each also: ──▶ Failed, ──▶ Deleting
//! ```
//!
//! A copy by the same key is the same snapshot by another id: it costs nothing. What a name stands for in the store goes with the last that has it.

use std::path::PathBuf;
use std::sync::Arc;

use ::volume::crypt::KeyName;
use ::volume::snapshot::{Progress, SnapshotError, SnapshotName};
use anyhow::{Context as _, bail};
use control::ports::{DiskChange, HostError, SnapshotCopySpec, SnapshotSpec};
use tokio::task::JoinSet;
use types::{SnapshotId, VolumeId};

use super::make::Source;
use super::record::SnapshotRecord;
use super::server::Place;
use super::{
    KEEPING_FAILURES_MAX, Known, Never, PAUSE_MIN, Shelf, Slot, Volumes, ask, failed, is_final, lock, wait,
};
use crate::volume::Store;
use crate::volume::api::TaskState;

/// How long writes are held at most while several volumes are sealed: after it the attempt has failed.
const PAUSE_MS_MAX: u64 = 5000;

/// The name of a key by its ARN.
pub(super) fn key_name(arn: Option<&str>) -> Result<Option<KeyName>, HostError> {
    arn.map(str::parse)
        .transpose()
        .map_err(|error: ::volume::crypt::KeyError| HostError::Failed(error.to_string()))
}

/// A snapshot that is about to be begun.
struct Begun {
    id: SnapshotId,
    slot: Arc<Slot>,
    name: SnapshotName,
}

impl Volumes {
    /// After a start: what was begun is gone on with, and what was not sealed as a whole is undone.
    pub(super) fn go_on_with_snapshots(&self) {
        let mut moments: std::collections::BTreeMap<SnapshotId, Vec<SnapshotId>> = Default::default();
        let known = lock(&self.0.known).clone();
        for (id, Known { record, .. }) in known {
            match record {
                SnapshotRecord::Sealing { moment, .. } => moments.entry(moment).or_default().push(id),
                SnapshotRecord::Keeping { .. } => self.spawn_keep(id),
                SnapshotRecord::Copying { .. } => self.spawn_copy(id),
                SnapshotRecord::Deleting { .. } => self.spawn_removal(id),
                SnapshotRecord::Complete { .. } | SnapshotRecord::Failed(_) => {}
            }
        }
        moments.into_values().for_each(|ids| self.spawn_moment(ids, None));
    }

    fn spawn_moment(&self, ids: Vec<SnapshotId>, is_sealed: Option<bool>) {
        let this = self.clone();
        tokio::spawn(async move { this.go_on_with_moment(&ids, is_sealed).await });
    }

    fn spawn_keep(&self, id: SnapshotId) {
        let this = self.clone();
        tokio::spawn(async move { this.keep(id).await });
    }

    fn spawn_copy(&self, id: SnapshotId) {
        let this = self.clone();
        tokio::spawn(async move { this.copy(id).await });
    }

    fn spawn_removal(&self, id: SnapshotId) {
        let this = self.clone();
        tokio::spawn(async move { this.remove_snapshot(id).await });
    }

    pub(super) async fn begin_snapshots(&self, specs: Vec<SnapshotSpec>) -> Result<(), HostError> {
        let _sealing = self.0.sealing.lock().await;
        let is_undone = |id| matches!(self.snapshot_record(id), Some(SnapshotRecord::Deleting { .. }));
        if let Some(spec) = specs.iter().find(|spec| is_undone(spec.id)) {
            // When nothing is left of them, all are begun anew, at one moment.
            return Err(HostError::Unavailable(format!("what there is of {} is being removed", spec.id)));
        }
        let specs: Vec<_> =
            specs.into_iter().filter(|spec| self.snapshot_record(spec.id).is_none()).collect();
        let Some(moment) = specs.first().map(|spec| spec.id) else { return Ok(()) };
        for SnapshotSpec { volume, .. } in &specs {
            self.slot(*volume).spec().map_err(|error| failed(&error))?;
        }
        let mut held = Vec::new();
        let outcome = self.begin(&specs, moment, &mut held).await;
        for slot in held {
            self.let_go(&slot).await;
        }
        outcome.map_err(|error| failed(&error))
    }

    async fn begin(
        &self,
        specs: &[SnapshotSpec],
        moment: SnapshotId,
        held: &mut Vec<Arc<Slot>>,
    ) -> anyhow::Result<()> {
        let mut begun = Vec::new();
        for SnapshotSpec { id, volume } in specs {
            let slot = self.slot(*volume);
            self.hold(&slot).await?;
            held.push(Arc::clone(&slot));
            let name = ask::status(&slot.place).await?.next_snapshot;
            let name = name.context("the process that serves the volume is of another version")?;
            begun.push(Begun { id: *id, slot, name });
        }
        let mut sealed = Ok(());
        for Begun { id, slot, name } in &begun {
            let record = SnapshotRecord::Sealing { volume: slot.id, name: *name, moment };
            sealed = sealed.and(self.enter(*id, None, Some(record)).await.map(drop));
        }
        if sealed.is_ok() {
            sealed = self.seal(&begun).await;
        }
        let ids: Vec<_> = begun.iter().map(|begun| begun.id).collect();
        let settled = match &sealed {
            Ok(()) => self.keep_all(&ids).await,
            Err(_) => self.undo(&ids).await,
        };
        if let Err(error) = settled {
            // It is known what is to become of them, and that is gone on with.
            tracing::warn!("the moment of {moment}: {error:#}");
            self.spawn_moment(ids, Some(sealed.is_ok()));
        }
        sealed
    }

    /// Seals volumes, all at one moment.
    async fn seal(&self, begun: &[Begun]) -> anyhow::Result<()> {
        let objects = self.0.kept.objects.to_string();
        let seal = |place: Place, name| {
            let objects = objects.clone();
            async move { ask::begin_snapshot(&place, objects, name).await }
        };
        if begun.len() == 1 {
            return at_once(begun, seal).await;
        }
        let pause = |place: Place, _| async move { ask::pause(&place, PAUSE_MS_MAX).await };
        let resume = |place: Place, _| async move {
            match ask::resume(&place).await? {
                true => Ok(()),
                false => bail!("writes could not be held for as long as it took to seal all volumes"),
            }
        };
        let mut sealed = at_once(begun, pause).await;
        if sealed.is_ok() {
            sealed = at_once(begun, seal).await;
        }
        let resumed = at_once(begun, resume).await;
        sealed.and(resumed)
    }

    /// All of a moment are sealed.
    async fn keep_all(&self, ids: &[SnapshotId]) -> anyhow::Result<()> {
        for id in ids {
            if let Some(from @ SnapshotRecord::Sealing { volume, name, .. }) = self.snapshot_record(*id) {
                self.enter(*id, Some(&from), Some(SnapshotRecord::Keeping { volume, name })).await?;
            }
            self.spawn_keep(*id);
        }
        Ok(())
    }

    /// Not all of a moment are sealed: none is.
    async fn undo(&self, ids: &[SnapshotId]) -> anyhow::Result<()> {
        let mut undone = Ok(());
        for id in ids {
            undone = undone.and(self.delete_known(*id).await);
        }
        undone
    }

    /// Whether a moment was sealed as a whole is seen by its volumes, unless it is known.
    async fn go_on_with_moment(&self, ids: &[SnapshotId], is_sealed: Option<bool>) {
        let mut pause = PAUSE_MIN;
        loop {
            let mut is_whole = Ok(is_sealed.unwrap_or(true));
            for id in ids {
                is_whole = match is_whole {
                    Ok(true) if is_sealed.is_none() => self.is_sealed(*id).await,
                    other => other,
                };
            }
            let outcome = match is_whole {
                Ok(true) => self.keep_all(ids).await,
                Ok(false) => self.undo(ids).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => return,
                Err(error) => tracing::warn!("cannot go on with snapshots: {error:#}"),
            }
            pause = wait(pause).await;
        }
    }

    async fn is_sealed(&self, id: SnapshotId) -> anyhow::Result<bool> {
        let Some(SnapshotRecord::Sealing { volume, name, .. }) = self.snapshot_record(id) else {
            // It is beyond that already, or given up.
            return Ok(!matches!(self.snapshot_record(id), Some(SnapshotRecord::Deleting { .. }) | None));
        };
        let slot = self.slot(volume);
        if !slot.is_ready() {
            return Ok(false);
        }
        self.hold(&slot).await?;
        let status = ask::status(&slot.place).await;
        self.let_go(&slot).await;
        if status?.has_pending(name) {
            return Ok(true);
        }
        self.blocking(move |shelf| is_complete(&shelf.kept.store()?, name)).await
    }

    /// Brings a snapshot that is sealed to its end.
    async fn keep(&self, id: SnapshotId) {
        let (mut pause, mut failures) = (PAUSE_MIN, 0);
        while let Some(from @ SnapshotRecord::Keeping { volume, name }) = self.snapshot_record(id) {
            let slot = self.slot(volume);
            let next = match self.keep_now(id, &slot, name).await {
                Ok(()) => {
                    let key = slot.record().and_then(|record| record.key);
                    self.enter(id, Some(&from), Some(SnapshotRecord::Complete { name, key })).await
                }
                Err(error) if failures >= KEEPING_FAILURES_MAX || is_final(&error) => {
                    self.give_up(id, &slot, &from, format!("{error:#}")).await
                }
                Err(error) => Err(error),
            };
            match next {
                Ok(_) => return,
                Err(error) => tracing::warn!(snapshot = %id, "cannot keep the snapshot: {error:#}"),
            }
            failures += 1;
            pause = wait(pause).await;
        }
    }

    async fn keep_now(&self, id: SnapshotId, slot: &Arc<Slot>, name: SnapshotName) -> anyhow::Result<()> {
        self.hold(slot).await?;
        let keep = async {
            // Whoever was about it may have died when it was complete, and before that was told. It must not be begun again.
            if !ask::status(&slot.place).await?.has_pending(name) {
                return match self.blocking(move |shelf| is_complete(&shelf.kept.store()?, name)).await? {
                    true => Ok(()),
                    false => Err(Never(format!("the volume {} has nothing of it", slot.id)).into()),
                };
            }
            ask::begin_snapshot(&slot.place, self.0.kept.objects.to_string(), name).await?;
            let this = self.clone();
            let tell = Box::new(move |percent| this.reach(id, percent));
            let task = ask::follow_snapshot(&slot.place, name, tell).await?;
            match task.state {
                TaskState::Done => Ok(()),
                _ => bail!("the snapshot was not made: {}", task.error.unwrap_or_default()),
            }
        };
        let kept = keep.await;
        self.let_go(slot).await;
        kept
    }

    async fn give_up(
        &self,
        id: SnapshotId,
        slot: &Arc<Slot>,
        from: &SnapshotRecord,
        message: String,
    ) -> anyhow::Result<bool> {
        if let Some(name) = from.name().filter(|_| slot.is_ready()) {
            self.hold(slot).await?;
            let cancelled = ask::cancel_snapshot(&slot.place, self.0.kept.objects.to_string(), name).await;
            self.let_go(slot).await;
            cancelled?;
        }
        self.enter(id, Some(from), Some(SnapshotRecord::Failed(message))).await
    }

    pub(super) async fn copy_snapshot(&self, spec: SnapshotCopySpec) -> Result<(), HostError> {
        if self.snapshot_record(spec.id).is_some() {
            return Ok(());
        }
        let (key, source) = (key_name(spec.key.as_deref())?, self.source(spec.source)?);
        let record = match source {
            source if source.key == key => SnapshotRecord::Complete { name: source.name, key },
            Source { key: Some(_), .. } if key.is_none() => {
                return Err(HostError::Failed("what is encrypted is not copied as plain".to_owned()));
            }
            _ => SnapshotRecord::Copying { source: spec.source, key, name: None },
        };
        self.enter(spec.id, None, Some(record)).await.map_err(|error| failed(&error))?;
        self.spawn_copy(spec.id);
        Ok(())
    }

    /// Makes a copy by another key.
    async fn copy(&self, id: SnapshotId) {
        let Some(known) = lock(&self.0.known).get(&id).cloned() else { return };
        let _copying = known.copying.lock().await;
        let (mut pause, mut failures) = (PAUSE_MIN, 0);
        while let Some(SnapshotRecord::Copying { source, .. }) = self.snapshot_record(id) {
            let outcome = match self.source(source) {
                Ok(source) => {
                    let this = self.clone();
                    self.blocking(move |shelf| this.copy_now(shelf, id, &source)).await
                }
                Err(error) => Err(error.into()),
            };
            let Some(from @ SnapshotRecord::Copying { .. }) = self.snapshot_record(id) else { return };
            let next = match (outcome, &from) {
                (Ok(name), SnapshotRecord::Copying { key, .. }) => {
                    let complete = SnapshotRecord::Complete { name, key: key.clone() };
                    self.enter(id, Some(&from), Some(complete)).await
                }
                (Err(error), _) if failures >= KEEPING_FAILURES_MAX || is_final(&error) => {
                    self.enter(id, Some(&from), Some(SnapshotRecord::Failed(format!("{error:#}")))).await
                }
                (Err(error), _) => Err(error),
                (Ok(_), _) => return,
            };
            match next {
                Ok(_) => return,
                Err(error) => tracing::warn!(snapshot = %id, "cannot copy: {error:#}"),
            }
            failures += 1;
            pause = wait(pause).await;
        }
    }

    /// Copies by a volume that nobody else sees.
    fn copy_now(&self, shelf: &Shelf, id: SnapshotId, source: &Source) -> anyhow::Result<SnapshotName> {
        let Some(SnapshotRecord::Copying { source: of, key, name }) = self.snapshot_record(id) else {
            bail!("the copy is not wanted any more")
        };
        let (folder, store) = (shelf.copy_folder(id), shelf.kept.store()?);
        if let Some(name) = name
            && is_complete(&store, name)?
        {
            shelf.kept.remove(&folder)?;
            return Ok(name);
        }
        // With the volume goes what it had begun to put into the store.
        shelf.kept.make(&folder, None, Some(source), key.as_ref())?;
        let volume = shelf.kept.open(&folder)?;
        let chosen = volume.snapshot_name()?;
        let before = SnapshotRecord::Copying { source: of, key: key.clone(), name };
        let now = SnapshotRecord::Copying { source: of, key, name: Some(chosen) };
        if !self.enter_blocking(id, Some(&before), Some(now))? {
            bail!("the copy is not wanted any more");
        }
        volume.begin_snapshot_as(chosen)?;
        volume.upload_snapshot(chosen, &store.objects, &|progress: Progress| {
            self.reach(id, u8::try_from(progress.percent()).unwrap_or(100));
            matches!(self.snapshot_record(id), Some(SnapshotRecord::Copying { .. }))
        })?;
        drop(volume);
        shelf.kept.remove(&folder)?;
        Ok(chosen)
    }

    pub(super) async fn delete_snapshot(&self, id: SnapshotId) -> Result<(), HostError> {
        self.delete_known(id).await.map_err(|error| failed(&error))
    }

    async fn delete_known(&self, id: SnapshotId) -> anyhow::Result<()> {
        loop {
            let Some(record) = self.snapshot_record(id) else { return Ok(()) };
            if matches!(record, SnapshotRecord::Deleting { .. }) {
                return Ok(());
            }
            let deleting = SnapshotRecord::Deleting { volume: record.volume(), name: record.name() };
            if self.enter(id, Some(&record), Some(deleting)).await? {
                self.spawn_removal(id);
                return Ok(());
            }
        }
    }

    /// Removes a snapshot whose record says that it is to go.
    async fn remove_snapshot(&self, id: SnapshotId) {
        let Some(known) = lock(&self.0.known).get(&id).cloned() else { return };
        // A copy that is being made ends when it sees the record.
        let _copying = known.copying.lock().await;
        let mut pause = PAUSE_MIN;
        while let Some(from @ SnapshotRecord::Deleting { volume, name }) = self.snapshot_record(id) {
            let removed = match self.remove_snapshot_now(id, volume, name).await {
                Ok(()) => self.enter(id, Some(&from), None).await.map(drop),
                Err(error) => Err(error),
            };
            match removed {
                Ok(()) => return,
                Err(error) => tracing::warn!(snapshot = %id, "cannot remove the snapshot: {error:#}"),
            }
            pause = wait(pause).await;
        }
    }

    async fn remove_snapshot_now(
        &self,
        id: SnapshotId,
        volume: Option<VolumeId>,
        name: Option<SnapshotName>,
    ) -> anyhow::Result<()> {
        if let Some(slot) = volume.map(|volume| self.slot(volume)).filter(|slot| slot.is_ready()) {
            self.hold(&slot).await?;
            let cancel = async {
                if let Some(name) = name
                    && ask::status(&slot.place).await?.has_pending(name)
                {
                    ask::cancel_snapshot(&slot.place, self.0.kept.objects.to_string(), name).await?;
                }
                anyhow::Ok(())
            };
            let cancelled = cancel.await;
            self.let_go(&slot).await;
            cancelled?;
        }
        let is_shared = |known: &Known| matches!(&known.record, SnapshotRecord::Complete { name: other, .. } if Some(*other) == name);
        let is_needed = lock(&self.0.known).values().any(is_shared);
        self.blocking(move |shelf| {
            shelf.kept.remove(&shelf.copy_folder(id))?;
            let Some(name) = name.filter(|_| !is_needed) else { return Ok(()) };
            match shelf.kept.store()?.exclusive()?.snapshots.delete(name) {
                Ok(()) | Err(SnapshotError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    pub(super) fn snapshot_record(&self, id: SnapshotId) -> Option<SnapshotRecord> {
        lock(&self.0.known).get(&id).map(|known| known.record.clone())
    }

    fn reach(&self, id: SnapshotId, percent: u8) {
        let is_news = lock(&self.0.known)
            .get_mut(&id)
            .is_some_and(|known| std::mem::replace(&mut known.percent, percent) != percent);
        if is_news {
            self.tell(DiskChange::Snapshot(id));
        }
    }

    /// Writes down what a snapshot has become, if it is `from` still; says whether it was.
    async fn enter(
        &self,
        id: SnapshotId,
        from: Option<&SnapshotRecord>,
        to: Option<SnapshotRecord>,
    ) -> anyhow::Result<bool> {
        let (this, from) = (self.clone(), from.cloned());
        self.blocking(move |_| this.enter_blocking(id, from.as_ref(), to)).await
    }

    fn enter_blocking(
        &self,
        id: SnapshotId,
        from: Option<&SnapshotRecord>,
        to: Option<SnapshotRecord>,
    ) -> anyhow::Result<bool> {
        let _recording = self.0.recording.blocking_lock();
        if self.snapshot_record(id).as_ref() != from {
            return Ok(false);
        }
        match to {
            Some(record) => {
                self.0.snapshots.put(id, &record)?;
                let mut known = lock(&self.0.known);
                let new = || Known { record: record.clone(), percent: 0, copying: Arc::default() };
                known.entry(id).or_insert_with(new).record = record.clone();
            }
            None => {
                self.0.snapshots.remove(id)?;
                lock(&self.0.known).remove(&id);
            }
        }
        self.tell(DiskChange::Snapshot(id));
        Ok(true)
    }
}

/// Asks all the processes at the same time; tells the first error when all have answered.
async fn at_once<F>(begun: &[Begun], ask: impl Fn(Place, SnapshotName) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut asked: JoinSet<_> = begun.iter().map(|begun| ask(begun.slot.place.clone(), begun.name)).collect();
    let mut outcome = Ok(());
    while let Some(answer) = asked.join_next().await {
        outcome = outcome.and(answer.context("a task that seals a volume failed").flatten());
    }
    outcome
}

impl Shelf {
    fn copy_folder(&self, id: SnapshotId) -> PathBuf {
        self.state.join("copies").join(id.to_string())
    }
}

fn is_complete(store: &Store, name: SnapshotName) -> anyhow::Result<bool> {
    match store.snapshots().open(name) {
        Ok(_) => Ok(true),
        Err(SnapshotError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
