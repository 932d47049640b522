//! What becomes of volumes.
//!
//! ```text
//!   Making ──▶ Ready ──▶ Deleting ──▶ gone
//!      └─────▶ Failed ──────┘
//! ```

use std::sync::Arc;

use anyhow::Context as _;
use control::ports::{DiskChange, DiskSpec, HostError};
use types::{VolumeId, VolumeSpec};

use super::make::Source;
use super::record::{SnapshotRecord, VolumeRecord, VolumeStage};
use super::{MAKING_FAILURES_MAX, PAUSE_MIN, Slot, Turn, Volumes, ask, failed, is_final, lock, wait};
use crate::socket;
use crate::volume::api::TaskState;

impl Volumes {
    /// After a start: what was begun is gone on with, and processes that nobody wants are ended.
    pub(super) fn go_on_with_volumes(&self) {
        let slots: Vec<_> = lock(&self.0.slots).values().cloned().collect();
        for slot in slots {
            let Some(record) = slot.record() else { continue };
            let this = self.clone();
            match record.stage {
                VolumeStage::Making => drop(tokio::spawn(async move { this.make(&slot).await })),
                VolumeStage::Deleting => drop(tokio::spawn(async move { this.remove(&slot).await })),
                VolumeStage::Failed(_) => {}
                VolumeStage::Ready { is_whole } => drop(tokio::spawn(async move {
                    if let Err(error) = this.take_over(&slot).await {
                        tracing::warn!(volume = %slot.id, "{error:#}");
                    }
                    if !is_whole {
                        this.fill(&slot).await;
                    }
                })),
            }
        }
    }

    /// Takes over the process that serves the volume, if one does.
    async fn take_over(&self, slot: &Arc<Slot>) -> anyhow::Result<()> {
        let mut turn = slot.turn.lock().await;
        if turn.server.is_some() {
            return Ok(());
        }
        let Some(server) = slot.place.find().await? else {
            // One that was killed left its socket.
            socket::remove_abandoned(&slot.place.socket);
            return Ok(());
        };
        self.adopt(slot, &mut turn, server);
        self.end_idle(slot, &mut turn).await;
        Ok(())
    }

    pub(super) async fn create(&self, spec: DiskSpec) -> Result<(), HostError> {
        let slot = self.slot(spec.id);
        let _turn = slot.turn.lock().await;
        if slot.record().is_some() {
            return Ok(());
        }
        let key = super::snapshots::key_name(spec.key.as_deref())?;
        if let Some(snapshot) = spec.snapshot {
            self.source(snapshot)?;
        }
        let (stage, is_changing) = (VolumeStage::Making, false);
        let record = VolumeRecord { spec: spec.spec, snapshot: spec.snapshot, key, is_changing, stage };
        self.put(&slot, record).await.map_err(|error| failed(&error))?;
        let (this, slot) = (self.clone(), Arc::clone(&slot));
        tokio::spawn(async move { this.make(&slot).await });
        Ok(())
    }

    /// Makes the volume that the record wants.
    async fn make(&self, slot: &Arc<Slot>) {
        let (mut pause, mut failures) = (PAUSE_MIN, 0);
        loop {
            let turn = slot.turn.lock().await;
            let Some(record @ VolumeRecord { stage: VolumeStage::Making, .. }) = slot.record() else {
                return;
            };
            let made = match self.make_now(slot, &record).await {
                Ok(is_whole) => Ok(VolumeStage::Ready { is_whole }),
                Err(error) if failures >= MAKING_FAILURES_MAX || is_final(&error) => {
                    Ok(VolumeStage::Failed(format!("{error:#}")))
                }
                Err(error) => Err(error),
            };
            let noted = match made {
                Ok(stage) => {
                    let is_whole = !matches!(stage, VolumeStage::Ready { is_whole: false });
                    self.put(slot, VolumeRecord { stage, ..record }).await.map(|()| is_whole)
                }
                Err(error) => Err(error),
            };
            drop(turn);
            match noted {
                Ok(true) => return,
                Ok(false) => return self.fill(slot).await,
                Err(error) => tracing::warn!(volume = %slot.id, "cannot make the volume: {error:#}"),
            }
            failures += 1;
            pause = wait(pause).await;
        }
    }

    /// Says whether it has all that it is to have.
    async fn make_now(&self, slot: &Slot, record: &VolumeRecord) -> anyhow::Result<bool> {
        let source = record.snapshot.map(|snapshot| self.source(snapshot)).transpose()?;
        let (folder, size_bytes, key) =
            (slot.place.folder.clone(), record.spec.size_gib << 30, record.key.clone());
        let is_whole = source.as_ref().is_none_or(|source| source.key.is_none() && key.is_some());
        let make = move |shelf: &super::Shelf| {
            shelf.kept.make(&folder, Some(size_bytes), source.as_ref(), key.as_ref())
        };
        self.blocking(make).await.map(|()| is_whole)
    }

    /// Fetches in the background what the volume lacks, until it has all.
    async fn fill(&self, slot: &Arc<Slot>) {
        let mut pause = PAUSE_MIN;
        while slot.is_ready() {
            let outcome = match self.0.fills.acquire().await {
                Ok(_permit) => self.fill_now(slot).await,
                Err(_) => return,
            };
            match outcome {
                Ok(()) => return,
                Err(error) if slot.is_ready() => tracing::warn!(volume = %slot.id, "{error:#}"),
                Err(_) => {}
            }
            pause = wait(pause).await;
        }
    }

    async fn fill_now(&self, slot: &Arc<Slot>) -> anyhow::Result<()> {
        self.hold(slot).await?;
        let filled = async {
            if ask::status(&slot.place).await?.origin.is_some() {
                let task = ask::fill(&slot.place, self.0.kept.objects.to_string()).await?;
                if task.state != TaskState::Done {
                    anyhow::bail!("the volume was not filled: {}", task.error.unwrap_or_default());
                }
            }
            anyhow::Ok(())
        };
        let filled = filled.await;
        self.let_go(slot).await;
        filled?;
        let _turn = slot.turn.lock().await;
        match slot.record() {
            Some(record) if slot.is_ready() => {
                let stage = VolumeStage::Ready { is_whole: true };
                self.put(slot, VolumeRecord { stage, ..record }).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn modify(&self, id: VolumeId, spec: VolumeSpec) -> Result<(), HostError> {
        let slot = self.slot(id);
        let modified = async {
            self.change(&slot, |record| record.is_changing = true).await?;
            self.hold(&slot).await?;
            let asked = ask::modify(&slot.place, spec, self.0.limits_volumes).await;
            self.let_go(&slot).await;
            match asked {
                Ok(()) => {
                    let become_it = |record: &mut VolumeRecord| {
                        (record.spec, record.is_changing) = (spec, false);
                    };
                    self.change(&slot, become_it).await
                }
                Err(error) if is_final(&error) => {
                    self.change(&slot, |record| record.is_changing = false).await?;
                    Err(error)
                }
                Err(error) => Err(error),
            }
        };
        modified.await.map_err(|error| failed(&error))
    }

    pub(super) async fn delete(&self, id: VolumeId) -> Result<(), HostError> {
        let slot = self.slot(id);
        let _turn = slot.turn.lock().await;
        let Some(record) = slot.record() else { return Ok(()) };
        if record.stage == VolumeStage::Deleting {
            return Ok(());
        }
        if lock(&self.0.known).values().any(|known| known.record.volume() == Some(id)) {
            return Err(HostError::Unavailable(format!("a snapshot of {id} is not complete")));
        }
        let record = VolumeRecord { stage: VolumeStage::Deleting, ..record };
        self.put(&slot, record).await.map_err(|error| failed(&error))?;
        lock(&slot.wanted).clear();
        let (this, slot) = (self.clone(), Arc::clone(&slot));
        tokio::spawn(async move { this.remove(&slot).await });
        Ok(())
    }

    /// Removes a volume whose record says that it is to go.
    async fn remove(&self, slot: &Arc<Slot>) {
        let mut pause = PAUSE_MIN;
        loop {
            let mut turn = slot.turn.lock().await;
            match self.remove_now(slot, &mut turn).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(volume = %slot.id, "cannot remove the volume: {error:#}"),
            }
            drop(turn);
            pause = wait(pause).await;
        }
        lock(&self.0.slots).remove(&slot.id);
        self.tell(DiskChange::Volume(slot.id));
    }

    async fn remove_now(&self, slot: &Arc<Slot>, turn: &mut Turn) -> anyhow::Result<()> {
        if slot.record().is_none() {
            return Ok(());
        }
        let server = match turn.server.take() {
            Some(server) => Some(server),
            None => slot.place.find().await?,
        };
        if let Some(server) = server {
            server.end().await;
        }
        socket::remove_abandoned(&slot.place.socket);
        let (id, place) = (slot.id, slot.place.clone());
        self.blocking(move |shelf| {
            shelf.kept.remove(&place.folder)?;
            // Nobody needs to know any more what its process said.
            let _ = std::fs::remove_file(&place.log);
            shelf.volumes.remove(id)
        })
        .await?;
        *lock(&slot.record) = None;
        Ok(())
    }

    /// What a volume or a copy can be made of.
    pub(super) fn source(&self, snapshot: types::SnapshotId) -> Result<Source, HostError> {
        match lock(&self.0.known).get(&snapshot).map(|known| &known.record) {
            Some(SnapshotRecord::Complete { name, key }) => Ok(Source { name: *name, key: key.clone() }),
            Some(SnapshotRecord::Failed(message)) => {
                Err(HostError::Failed(format!("the snapshot {snapshot} was not made: {message}")))
            }
            Some(SnapshotRecord::Deleting { .. }) => {
                Err(HostError::Failed(format!("the snapshot {snapshot} is being deleted")))
            }
            Some(_) => Err(HostError::Unavailable(format!("the snapshot {snapshot} is not complete"))),
            None => Err(HostError::Failed(format!("this host has no data of the snapshot {snapshot}"))),
        }
    }

    /// Writes down what has changed of a volume.
    async fn change(&self, slot: &Slot, change: impl FnOnce(&mut VolumeRecord)) -> anyhow::Result<()> {
        let _turn = slot.turn.lock().await;
        let mut record = slot.record().context("the volume is gone")?;
        change(&mut record);
        self.put(slot, record).await
    }

    /// Writes down what a volume is.
    async fn put(&self, slot: &Slot, record: VolumeRecord) -> anyhow::Result<()> {
        let (id, written) = (slot.id, record.clone());
        self.blocking(move |shelf| shelf.volumes.put(id, &written)).await?;
        *lock(&slot.record) = Some(record);
        self.tell(DiskChange::Volume(id));
        Ok(())
    }
}
