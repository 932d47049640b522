//! Volumes and snapshots of this host.
//!
//! ```text
//!   STATE/volumes/vol-…/        the volume; vol-….json: what is to become of it
//!   STATE/snapshots/snap-….json what a snapshot is called in the store, or is to become
//!   STATE/copies/snap-…/        a volume that a copy is made by
//!   STATE/objects               the object store of all snapshots, unless another one was named
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
//! **Moments.** A volume is sealed as soon as a snapshot of it is asked for, also while others are being kept. While several are sealed for snapshots of one
//! moment, the writes of all of them are held, so that together they are as after a power cut.
//!
//! **What fails.** A process that dies, a disk that is full, a store that does not answer: all of that may be over soon, and is tried again, with pauses.
//! What cannot be done however often it is tried ([`Never`], [`volume::is_final`]) is told at once.

mod ask;
mod location;
mod make;
mod port;
mod record;
mod server;
mod snapshots;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use control::ports::{BoxFuture, DiskChange, HostError, OnDiskChange};
use tokio::sync::Semaphore;
use types::{InstanceId, SnapshotId, VolumeId, VolumeSpec};

pub(crate) use port::{HostDisks, Plugs};

use super::process::Process;
use crate::socket;
use crate::volume::{self, Location};
use make::Kept;
use record::{Records, SnapshotRecord, VolumeRecord, VolumeStage};
use server::Place;

/// How long after something failed it is tried again; twice as long each time, up to the latter.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// So often what fails is tried again before a volume is given up: with the pauses, in more than eight minutes.
const MAKING_FAILURES_MAX: u32 = 60;
/// Before a snapshot is, of which all is there but its place in the store: in an hour.
const KEEPING_FAILURES_MAX: u32 = 360;
/// How long a guest may take to let go of a volume when its machine has ended, before it is taken away.
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
    /// The microVMs that have it, or are about to.
    wanted: Mutex<BTreeSet<InstanceId>>,
    turn: tokio::sync::Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    server: Option<Process>,
    /// What goes on with it beside what microVMs do.
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
    /// What the volume is, if it can be used.
    ///
    /// # Errors
    /// [`Never`] when there is none, or will be none.
    fn spec(&self) -> anyhow::Result<VolumeSpec> {
        match self.record() {
            Some(VolumeRecord { spec, stage: VolumeStage::Ready { .. }, .. }) => Ok(spec),
            Some(VolumeRecord { stage: VolumeStage::Making, .. }) => {
                bail!("the volume {} is not made yet", self.id)
            }
            _ => Err(Never(format!("there is no volume {} on this host", self.id)).into()),
        }
    }

    fn record(&self) -> Option<VolumeRecord> {
        lock(&self.record).clone()
    }

    fn is_wanted(&self) -> bool {
        !lock(&self.wanted).is_empty()
    }

    fn is_ready(&self) -> bool {
        lock(&self.record).as_ref().is_some_and(|record| matches!(record.stage, VolumeStage::Ready { .. }))
    }
}

/// What there is in the object store, if there is anything.
fn uses(
    volumes: &BTreeMap<VolumeId, VolumeRecord>,
    snapshots: &BTreeMap<SnapshotId, SnapshotRecord>,
) -> Option<String> {
    let kept = snapshots.values().filter(|record| !matches!(record, SnapshotRecord::Failed(_))).count();
    let is_whole = |record: &&VolumeRecord| matches!(record.stage, VolumeStage::Ready { is_whole: true });
    let lacking = volumes.values().filter(|record| record.snapshot.is_some() && !is_whole(record)).count();
    match (kept, lacking) {
        (0, 0) => None,
        (kept, 0) => Some(format!("{kept} snapshots are")),
        (kept, lacking) => Some(format!("{kept} snapshots, and what {lacking} volumes lack, are")),
    }
}

/// No thread panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What cannot be done, however often it is tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Never(String);

fn is_final(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.is::<Never>() || matches!(cause.downcast_ref(), Some(HostError::Failed(_))))
        || volume::is_final(error)
}

fn failed(error: &anyhow::Error) -> HostError {
    let message = format!("{error:#}");
    if is_final(error) { HostError::Failed(message) } else { HostError::Unavailable(message) }
}

impl Volumes {
    /// The volumes and snapshots in `state`; the sockets will be in `run`. `program` is nimbo; `limits_volumes` says whether a volume is to be no faster than its
    /// type; `objects` is where snapshots are to be, if that was said. Nothing is done before [`Self::go_on`].
    ///
    /// # Errors
    /// When the folders cannot be made, a record cannot be read, or snapshots are elsewhere.
    pub(in crate::host) fn open_with(
        program: &Path,
        state: &Path,
        run: &Path,
        limits_volumes: bool,
        objects: Option<&Location>,
    ) -> anyhow::Result<Self> {
        let absolute = |path| std::path::absolute(path).context("cannot find the current folder");
        let (state, run) = (absolute(state)?, absolute(run)?);
        for folder in [state.join("copies"), state.join("keys"), run.join("volumes")] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let (volumes, snapshots) =
            (Records::open(&state.join("volumes"))?, Records::open(&state.join("snapshots"))?);
        let (all_volumes, all_snapshots) = (volumes.all()?, snapshots.all()?);
        let objects = location::choose(&state, objects, uses(&all_volumes, &all_snapshots))?;
        let keys = state.join("keys/volumes");
        make::remove_half_made(&keys)?;
        let this = Self(Arc::new(Shelf {
            program: program.to_owned(),
            limits_volumes,
            kept: Kept::new(objects, &keys),
            volumes,
            snapshots,
            state,
            run,
            slots: Mutex::default(),
            known: Mutex::default(),
            recording: tokio::sync::Mutex::default(),
            sealing: tokio::sync::Mutex::default(),
            fills: Semaphore::new(FILLS),
            on_change: Mutex::default(),
        }));
        for (id, record) in all_snapshots {
            let known = Known { record, percent: 0, copying: Arc::default() };
            lock(&this.0.known).insert(id, known);
        }
        for (id, record) in all_volumes {
            *lock(&this.slot(id).record) = Some(record);
        }
        Ok(this)
    }

    /// Goes on, by tasks of the current runtime, with what was begun and not ended; and ends processes of volumes that no microVM has
    /// [claimed](Self::claim).
    pub(in crate::host) fn go_on(&self) {
        self.go_on_with_volumes();
        self.go_on_with_snapshots();
    }

    /// Sees to it that a process serves the volume to a microVM, until that has [released](Self::release) it, also when this process is gone.
    /// Gives the path of its socket, for `vhost-user`.
    ///
    /// # Errors
    /// When there is no such volume, or it cannot be served.
    pub(crate) async fn serve(&self, id: VolumeId, instance: InstanceId) -> Result<PathBuf, HostError> {
        let slot = self.slot(id);
        let is_new = lock(&slot.wanted).insert(instance);
        let mut turn = slot.turn.lock().await;
        if let Err(error) = self.ensure_served(&slot, &mut turn).await {
            if is_new {
                lock(&slot.wanted).remove(&instance);
            }
            return Err(failed(&error));
        }
        Ok(slot.place.socket.clone())
    }

    /// A microVM has the volume since before this process.
    pub(crate) fn claim(&self, id: VolumeId, instance: InstanceId) {
        lock(&self.slot(id).wanted).insert(instance);
    }

    /// A microVM has the volume no more, from now on. What is returned sees to it that the process which serves it ends in order, if no other microVM has it.
    pub(crate) fn release(&self, id: VolumeId, instance: InstanceId) -> BoxFuture<'static, ()> {
        let slot = self.slot(id);
        lock(&slot.wanted).remove(&instance);
        let this = self.clone();
        Box::pin(async move { this.end_unwanted(&slot).await })
    }

    async fn end_unwanted(&self, slot: &Arc<Slot>) {
        let mut turn = slot.turn.lock().await;
        if slot.is_wanted() {
            return;
        }
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
        if turn.server.is_some() && tokio::time::timeout(PARTING, parted).await.is_err() {
            tracing::warn!(volume = %slot.id, "what is left of a guest holds a volume, which is taken from it");
        }
        self.end_idle(slot, &mut turn).await;
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
        self.end_idle(slot, &mut turn).await;
    }

    async fn end_idle(&self, slot: &Slot, turn: &mut Turn) {
        if !slot.is_wanted()
            && turn.uses == 0
            && let Some(server) = turn.server.take()
        {
            server.end().await;
            // It is in a jail, where it does not see this one.
            socket::remove_abandoned(&slot.place.socket);
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
                wanted: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
            })
        };
        Arc::clone(lock(&self.0.slots).entry(id).or_insert_with(new))
    }

    async fn ensure_served(&self, slot: &Arc<Slot>, turn: &mut Turn) -> anyhow::Result<()> {
        if turn.server.as_ref().is_some_and(|server| !server.has_ended()) {
            return Ok(());
        }
        let spec = slot.spec()?;
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

    fn adopt(&self, slot: &Arc<Slot>, turn: &mut Turn, server: Process) {
        turn.server = Some(server.clone());
        tokio::spawn(self.clone().watch(Arc::clone(slot), server));
    }

    fn arguments(&self, slot: &Slot, spec: VolumeSpec) -> Vec<OsString> {
        // As EBS has it, what the guest reads as its serial number is the id without the dash.
        let mut volume = OsString::from(slot.id.to_string().replace('-', ""));
        volume.push("=");
        volume.push(&slot.place.folder);
        let mut arguments: Vec<OsString> = ["volume", "serve"].map(OsString::from).into();
        arguments.extend([volume, "--vhost-user".into(), slot.place.socket.clone().into()]);
        arguments.extend(["--jail".into(), "--when-full".into(), "wait".into()]);
        arguments.extend(["--objects".into(), self.0.kept.objects.to_string().into()]);
        arguments.extend(["--keys".into(), self.0.state.join("keys/volumes").into()]);
        if !self.0.limits_volumes || slot.record().is_some_and(|record| record.is_changing) {
            return arguments;
        }
        arguments.extend(["--enforce-limits", "--type", spec.kind.as_str()].map(OsString::from));
        let numbers = [("--iops", spec.iops), ("--throughput", spec.throughput_mib_s)];
        for (option, number) in numbers.into_iter().filter_map(|(option, number)| Some((option, number?))) {
            arguments.extend([option.into(), number.to_string().into()]);
        }
        arguments
    }

    fn watch(self, slot: Arc<Slot>, server: Process) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.replace(&slot, &server).await })
    }

    /// When a process ends that somebody still wants, another takes its place. What microVMs do then is theirs.
    async fn replace(&self, slot: &Arc<Slot>, server: &Process) {
        server.ended().await;
        let mut pause = PAUSE_MIN;
        loop {
            let mut turn = slot.turn.lock().await;
            let is_its = turn.server.as_ref().is_some_and(|now| now.pid == server.pid);
            if !is_its || !slot.is_wanted() && turn.uses == 0 || !slot.is_ready() {
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
