//! Volumes and snapshots of this host.
//!
//! ```text
//!   STATE/volumes/vol-…/        the volume; vol-….json: what is to become of it
//!   STATE/snapshots/snap-….json what a snapshot is called in the store, or is to become
//!   STATE/copies/snap-…/        a volume that a copy is made by
//!   STATE/objects               the object store of all snapshots
//!   STATE/keys/volumes          the keys of encrypted volumes
//!   RUN/volumes/vol-….sock      where microVMs find the volume while it is served; .log: what its process says
//! ```
//!
//! A volume is used by the process that serves it ([`server`]), and by nobody else: guests, snapshots and what is fetched in the background all are
//! there. It runs as long as somebody wants the volume, whether this process does or not, and is taken over by the next one.
//!
//! **Intent first.** Whatever is begun is written down before ([`record`]), under a name that is chosen before, so that it can be told afterwards what there is of it.
//! `Volumes::open` goes on with all of that, or undoes it.
//!
//! **Locks.** A volume's turn is taken by who does something about it, and before the lock of snapshots' records. What is seen from outside is behind locks that
//! nobody waits with.
//!
//! **One at a time.** A volume is sealed for one snapshot at a time: who asks for another meanwhile is told to ask again. While several are sealed for
//! snapshots of one moment, the writes of all of them are held, so that together they are as after a power cut.

mod ask;
mod make;
mod port;
mod record;
mod server;
mod snapshots;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use control::ports::{BoxFuture, DiskChange, HostError, OnDiskChange};
use tokio::sync::Semaphore;
use types::{SnapshotId, VolumeId};

pub(crate) use port::{HostDisks, Plugs};
#[cfg(test)]
pub(in crate::host) use server::listener;

use crate::volume::Location;
use make::Kept;
use record::{Records, SnapshotRecord, VolumeRecord, VolumeStage};
use server::{Place, Server};

/// How long after something failed it is tried again; twice as long each time, up to the latter.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a guest may take to let go of a volume when its machine has ended.
const PARTING: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
/// So many volumes are filled in the background at a time.
const FILLS: usize = 4;

/// The volumes and snapshots of this host.
#[derive(Clone)]
pub(crate) struct Volumes(Arc<Shelf>);

struct Shelf {
    /// nimbo itself.
    program: PathBuf,
    /// Volumes are no faster than those of their type.
    limits_volumes: bool,
    state: PathBuf,
    run: PathBuf,
    kept: Kept,
    volumes: Records,
    snapshots: Records,
    slots: Mutex<BTreeMap<VolumeId, Arc<Slot>>>,
    known: Mutex<BTreeMap<SnapshotId, Known>>,
    /// Held by who changes snapshots' records.
    recording: tokio::sync::Mutex<()>,
    /// Held by who begins snapshots.
    sealing: tokio::sync::Mutex<()>,
    fills: Semaphore,
    on_change: Mutex<Option<OnDiskChange>>,
}

/// A volume.
struct Slot {
    id: VolumeId,
    place: Place,
    /// As it is on disk.
    record: Mutex<Option<VolumeRecord>>,
    turn: tokio::sync::Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    server: Option<Server>,
    /// MicroVMs want it.
    is_wanted: bool,
    /// What goes on with it beside.
    uses: usize,
}

/// A snapshot, as it is on disk.
#[derive(Clone)]
struct Known {
    record: SnapshotRecord,
    percent: u8,
    /// Held by who copies it.
    copying: Arc<tokio::sync::Mutex<()>>,
}

impl Slot {
    fn record(&self) -> Option<VolumeRecord> {
        lock(&self.record).clone()
    }

    fn is_ready(&self) -> bool {
        lock(&self.record).as_ref().is_some_and(|record| matches!(record.stage, VolumeStage::Ready { .. }))
    }
}

/// No thread panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: &anyhow::Error) -> HostError {
    HostError::Failed(format!("{error:#}"))
}

impl Volumes {
    /// The volumes and snapshots in `state`; the sockets will be in `run`. `program` is nimbo; `limits_volumes` says whether a volume is to be no faster than its type. What was begun and not ended is gone on with by tasks of
    /// the current runtime.
    ///
    /// # Errors
    /// When the folders cannot be made, or a record cannot be read.
    pub(in crate::host) fn open_with(
        program: &Path,
        state: &Path,
        run: &Path,
        limits_volumes: bool,
    ) -> anyhow::Result<Self> {
        let absolute = |path| std::path::absolute(path).context("cannot find the current folder");
        let (state, run) = (absolute(state)?, absolute(run)?);
        for folder in [state.join("copies"), state.join("keys"), run.join("volumes")] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let objects = state.join("objects");
        let objects = objects.to_str().with_context(|| format!("{} is not text", objects.display()))?;
        let keys = state.join("keys/volumes");
        make::remove_half_made(&keys)?;
        let this = Self(Arc::new(Shelf {
            program: program.to_owned(),
            limits_volumes,
            kept: Kept::new(Location::from(objects), &keys),
            volumes: Records::open(&state.join("volumes"))?,
            snapshots: Records::open(&state.join("snapshots"))?,
            state,
            run,
            slots: Mutex::default(),
            known: Mutex::default(),
            recording: tokio::sync::Mutex::default(),
            sealing: tokio::sync::Mutex::default(),
            fills: Semaphore::new(FILLS),
            on_change: Mutex::default(),
        }));
        for (id, record) in this.0.snapshots.all()? {
            let known = Known { record, percent: 0, copying: Arc::default() };
            lock(&this.0.known).insert(id, known);
        }
        for (id, record) in this.0.volumes.all()? {
            *lock(&this.slot(id).record) = Some(record);
        }
        this.go_on_with_volumes();
        this.go_on_with_snapshots();
        Ok(this)
    }

    /// Sees to it that a process serves the volume to microVMs, until it is [released](Self::release), also when this process is gone.
    /// Gives the path of its socket, for `vhost-user`.
    ///
    /// # Errors
    /// When there is no such volume, or it cannot be served.
    pub(crate) async fn serve(&self, id: VolumeId) -> Result<PathBuf, HostError> {
        let slot = self.slot(id);
        let mut turn = slot.turn.lock().await;
        self.ensure_served(&slot, &mut turn).await.map_err(|error| failed(&error))?;
        turn.is_wanted = true;
        Ok(slot.place.socket.clone())
    }

    /// A microVM that had the volume has it no more: if no other has, the process that serves it ends in order.
    pub(crate) async fn release(&self, id: VolumeId) {
        let slot = self.slot(id);
        let mut turn = slot.turn.lock().await;
        if turn.server.is_none() {
            // It may be one that an earlier process has started.
            turn.server = slot.place.find().await.ok().flatten();
        }
        let parted = async {
            while let Ok(status) = ask::status(&slot.place).await
                && status.guests > 0
            {
                tokio::time::sleep(LOOK).await;
            }
        };
        turn.is_wanted = tokio::time::timeout(PARTING, parted).await.is_err();
        self.end_idle(&mut turn).await;
    }

    /// Has the volume served for something beside microVMs, until it is [let go](Self::let_go).
    async fn hold(&self, slot: &Arc<Slot>) -> anyhow::Result<()> {
        let mut turn = slot.turn.lock().await;
        self.ensure_served(slot, &mut turn).await?;
        turn.uses += 1;
        Ok(())
    }

    async fn let_go(&self, slot: &Arc<Slot>) {
        let mut turn = slot.turn.lock().await;
        turn.uses -= 1;
        self.end_idle(&mut turn).await;
    }

    async fn end_idle(&self, turn: &mut Turn) {
        if !turn.is_wanted
            && turn.uses == 0
            && let Some(server) = turn.server.take()
        {
            server.end().await;
        }
    }

    fn slot(&self, id: VolumeId) -> Arc<Slot> {
        let place = || Place {
            folder: self.0.state.join("volumes").join(id.to_string()),
            socket: self.0.run.join("volumes").join(format!("{id}.sock")),
            log: self.0.run.join("volumes").join(format!("{id}.log")),
        };
        let new = || {
            Arc::new(Slot {
                id,
                place: place(),
                record: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
            })
        };
        Arc::clone(lock(&self.0.slots).entry(id).or_insert_with(new))
    }

    async fn ensure_served(&self, slot: &Arc<Slot>, turn: &mut Turn) -> anyhow::Result<()> {
        if turn.server.as_ref().is_some_and(|server| !server.has_ended()) {
            return Ok(());
        }
        let Some(VolumeRecord { spec, stage: VolumeStage::Ready { .. }, .. }) = slot.record() else {
            bail!("there is no volume {} on this host", slot.id);
        };
        let server = match slot.place.find().await? {
            Some(server) => server,
            None => match slot.place.start(&self.0.program, self.arguments(slot, spec)).await {
                Ok(server) => server,
                // One that was started before, by a process that is gone, may have come first.
                Err(error) => slot.place.find().await?.ok_or(error)?,
            },
        };
        self.adopt(slot, turn, server);
        Ok(())
    }

    fn adopt(&self, slot: &Arc<Slot>, turn: &mut Turn, server: Server) {
        turn.server = Some(server.clone());
        tokio::spawn(self.clone().watch(Arc::clone(slot), server));
    }

    fn arguments(&self, slot: &Slot, spec: types::VolumeSpec) -> Vec<OsString> {
        // As EBS has it, what the guest reads as its serial number is the id without the dash.
        let mut volume = OsString::from(slot.id.to_string().replace('-', ""));
        volume.push("=");
        volume.push(&slot.place.folder);
        let mut arguments: Vec<OsString> = ["volume", "serve"].map(OsString::from).into();
        arguments.extend([volume, "--vhost-user".into(), slot.place.socket.clone().into()]);
        arguments.extend(["--when-full".into(), "wait".into()]);
        arguments.extend(["--objects".into(), self.0.kept.objects.to_string().into()]);
        arguments.extend(["--keys".into(), self.0.state.join("keys/volumes").into()]);
        if !self.0.limits_volumes {
            return arguments;
        }
        arguments.extend(["--enforce-limits", "--type", spec.kind.as_str()].map(OsString::from));
        let numbers = [("--iops", spec.iops), ("--throughput", spec.throughput_mib_s)];
        for (option, number) in numbers.into_iter().filter_map(|(option, number)| Some((option, number?))) {
            arguments.extend([option.into(), number.to_string().into()]);
        }
        arguments
    }

    fn watch(self, slot: Arc<Slot>, server: Server) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.replace(&slot, &server).await })
    }

    /// When a process ends that somebody still wants, another takes its place. What microVMs do then is theirs.
    async fn replace(&self, slot: &Arc<Slot>, server: &Server) {
        server.ended().await;
        let mut pause = PAUSE_MIN;
        loop {
            let mut turn = slot.turn.lock().await;
            let is_its = turn.server.as_ref().is_some_and(|now| now.pid == server.pid);
            if !is_its || !turn.is_wanted && turn.uses == 0 || !slot.is_ready() {
                return;
            }
            tracing::warn!(volume = %slot.id, pid = %server.pid, "the process of a volume ended; another is started");
            match self.ensure_served(slot, &mut turn).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(volume = %slot.id, "{error:#}"),
            }
            drop(turn);
            pause = wait(pause).await;
        }
    }

    /// On a thread where one may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let shelf = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&shelf))
            .await
            .context("a thread that works on volumes failed")?
    }

    pub(in crate::host) fn tell(&self, change: DiskChange) {
        let call = lock(&self.0.on_change).clone();
        if let Some(call) = call {
            call(change);
        }
    }
}

/// Waits; gives the next pause.
async fn wait(pause: Duration) -> Duration {
    tokio::time::sleep(pause).await;
    (pause * 2).min(PAUSE_MAX)
}
