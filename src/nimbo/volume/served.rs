//! A volume that this process has open, for whoever wants more of it than its disk: snapshots, another size, other limits.
//!
//! ```text
//!   nimbo volume snapshot|modify|fill|info ──▶ FOLDER/control ──▶ server ──▶ ServedVolume ──▶ Volume, Limited, Guests
//! ```
//!
//! Whoever may enter the volume's folder may use its control socket. What takes long is a task in the background: one for each snapshot, and one that fills.

pub(crate) mod api;
mod client;
mod server;
mod snapshots;
mod task;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ::volume::snapshot::SnapshotName;
use ::volume::{BlockBackend, BlockRequest, Limited, ReadOnly, Volume, Waiting};
use anyhow::{Context as _, bail};
use types::ByteSize;

use self::api::{FillSpec, LimitsSpec, PauseSpec, SizeSpec, SnapshotSpec, VolumeStatus};
pub(super) use self::client::Reached;
pub(crate) use self::client::snapshot_status;
use self::server::Server;
use self::snapshots::SnapshotTasks;
use self::task::TaskSlot;
use super::store::{Access, Location, Store};
use super::{restore, snapshot};
use crate::vhost_user::Guests;

/// The control socket's name in the volume's folder.
pub(crate) const CONTROL: &str = "control";
/// Guests complain about a disk that stands still for minutes.
const PAUSE_MS_MAX: u64 = 10_000;
const POISONED: &str = "no thread panics while it holds this lock";

/// How a volume is served.
pub(crate) struct ServeOptions {
    /// What clients and guests know it by.
    pub(crate) name: String,
    pub(crate) read_only: bool,
    pub(crate) limits: Option<LimitsSpec>,
    pub(crate) when_full: WhenFull,
}

/// What becomes of a write for which the file system has no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WhenFull {
    /// It fails, as on a broken disk
    #[default]
    Fail,
    /// It waits until there is room
    Wait,
}

/// An open volume with a control socket.
pub(crate) struct ServedVolume {
    shared: Arc<Shared>,
    control: Option<Server>,
}

/// Lock order: `snapshots`, `fill`, `limits`.
struct Shared {
    folder: PathBuf,
    volume: Arc<Volume>,
    waiting: Option<Arc<Waiting>>,
    limited: Arc<Limited>,
    guests: Arc<Guests>,
    limits: Mutex<Option<LimitsSpec>>,
    snapshots: Mutex<SnapshotTasks>,
    /// The volume is about to be sealed, which would wait for layers that are being merged.
    is_sealing: AtomicBool,
    fill: Mutex<TaskSlot>,
}

impl ServedVolume {
    /// Opens the volume in a folder, and its control socket.
    ///
    /// # Errors
    /// When it is in use or cannot be opened, or there is no volume with such limits.
    pub(crate) fn open(access: &Access, folder: &Path, options: ServeOptions) -> anyhow::Result<Self> {
        let volume = Arc::new(access.open_volume(folder)?);
        let limits = check(options.limits, volume.size_bytes())?;
        let waiting = match options.when_full {
            WhenFull::Fail => None,
            WhenFull::Wait => Some(Arc::new(Waiting::new(volume.clone()).context("cannot wait for room")?)),
        };
        let disk: Arc<dyn BlockBackend> = match &waiting {
            Some(waiting) => waiting.clone(),
            None => volume.clone(),
        };
        let limited = Arc::new(Limited::new(disk, limits).context("cannot limit the volume")?);
        let disk: Arc<dyn BlockBackend> = match options.read_only {
            true => Arc::new(ReadOnly(limited.clone())),
            false => limited.clone(),
        };
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            volume,
            waiting,
            limited,
            guests: Arc::new(Guests::new(options.name, disk)),
            limits: Mutex::new(options.limits),
            snapshots: Mutex::default(),
            is_sealing: AtomicBool::new(false),
            fill: Mutex::default(),
        });
        let control = Some(Server::start(&folder.join(CONTROL), Arc::clone(&shared))?);
        Ok(Self { shared, control })
    }

    /// The microVMs that use it.
    pub(crate) fn guests(&self) -> &Arc<Guests> {
        &self.shared.guests
    }

    /// Ends what is done in the background, takes the disk away from guests, and flushes.
    ///
    /// # Errors
    /// When the flush fails.
    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        self.control = None;
        self.shared.snapshots().stop();
        self.shared.fill().stop();
        self.shared.guests.end();
        let flushed = flush(&self.shared.volume);
        flushed.with_context(|| format!("cannot flush the volume {}", self.shared.folder.display()))
    }
}

/// The limits of a volume of this size.
///
/// # Errors
/// When AWS has no such volume.
pub(super) fn check(
    limits: Option<LimitsSpec>,
    size_bytes: u64,
) -> anyhow::Result<Option<types::volume::Limits>> {
    limits.map(|limits| limits.check(size_bytes)).transpose().context("there is no such volume")
}

impl Shared {
    fn snapshots(&self) -> MutexGuard<'_, SnapshotTasks> {
        self.snapshots.lock().expect(POISONED)
    }

    fn fill(&self) -> MutexGuard<'_, TaskSlot> {
        self.fill.lock().expect(POISONED)
    }

    fn limits(&self) -> MutexGuard<'_, Option<LimitsSpec>> {
        self.limits.lock().expect(POISONED)
    }

    fn status(&self) -> anyhow::Result<VolumeStatus> {
        let status = VolumeStatus::of(&self.volume, &self.folder)?;
        let waiting_for_room = self.waiting.as_ref().map_or(0, |waiting| waiting.waiting());
        let (guests, next_snapshot) = (self.guests.count(), Some(self.volume.snapshot_name()?));
        Ok(VolumeStatus { limits: *self.limits(), waiting_for_room, guests, next_snapshot, ..status })
    }

    /// Makes it larger; guests see that at once.
    fn resize(&self, spec: SizeSpec) -> anyhow::Result<()> {
        let limits = self.limits();
        let checked = check(*limits, spec.size_bytes.bytes())?;
        self.volume.grow(spec.size_bytes.bytes())?;
        self.limited.set_limits(checked);
        self.guests.refresh_size();
        Ok(())
    }

    fn limit(&self, spec: Option<LimitsSpec>) -> anyhow::Result<()> {
        let mut limits = self.limits();
        self.limited.set_limits(check(spec, self.volume.size_bytes())?);
        *limits = spec;
        Ok(())
    }

    /// Holds writes of guests and clients for a while.
    fn pause(&self, spec: PauseSpec) -> anyhow::Result<()> {
        if !(1..=PAUSE_MS_MAX).contains(&spec.at_most_ms) {
            bail!("a pause is of 1 to {PAUSE_MS_MAX} ms, and not of {}", spec.at_most_ms);
        }
        self.limited.pause(Duration::from_millis(spec.at_most_ms));
        Ok(())
    }

    /// Begins a snapshot, or goes on with one that was begun; says which.
    fn make_snapshot(self: &Arc<Self>, spec: &SnapshotSpec) -> anyhow::Result<SnapshotName> {
        let mut tasks = self.snapshots();
        match spec.name {
            Some(name) if tasks.is_running(name) => return Ok(name),
            Some(_) => {}
            None => tasks.ensure_idle()?,
        }
        let store = Location::from(&*spec.objects).create()?;
        self.is_sealing.store(true, Ordering::Relaxed);
        let begun = match spec.name {
            Some(name) => self.volume.begin_snapshot_as(name).map(|()| name),
            None => self.volume.begin_snapshot(),
        };
        self.is_sealing.store(false, Ordering::Relaxed);
        let name = begun?;
        self.bring_to_end(&mut tasks, name, store)?;
        Ok(name)
    }

    fn bring_to_end(
        self: &Arc<Self>,
        tasks: &mut SnapshotTasks,
        name: SnapshotName,
        store: Store,
    ) -> anyhow::Result<()> {
        let shared = Arc::clone(self);
        tasks.begin(name, move |task| {
            task.conclude(snapshot::finish(&shared.volume, &store, name, &|progress| task.reach(progress)));
            let stop = || task.is_stopped() || shared.is_sealing.load(Ordering::Relaxed);
            if let Err(error) = snapshot::compact(&shared.volume, &stop) {
                eprintln!("nimbo: {}: {error:#}", shared.folder.display());
            }
        })
    }

    /// Gives up the snapshot that was named, or the oldest that has not ended. The others go on.
    fn cancel_snapshot(self: &Arc<Self>, spec: &SnapshotSpec) -> anyhow::Result<()> {
        let mut tasks = self.snapshots();
        let running = tasks.stop();
        let location = Location::from(&*spec.objects);
        let cancelled = snapshot::cancel(&self.volume, &location, spec.name);
        let pending = self.volume.pending_snapshots();
        for name in running.into_iter().filter(|name| pending.contains(name)) {
            self.bring_to_end(&mut tasks, name, location.create()?)?;
        }
        cancelled
    }

    fn begin_fill(self: &Arc<Self>, spec: FillSpec) -> anyhow::Result<()> {
        let mut slot = self.fill();
        slot.ensure_idle("the volume is being filled")?;
        let Some(origin) = self.volume.origin() else { bail!("the volume has all that it holds") };
        let store = Location::from(&*spec.objects).open()?;
        let shared = Arc::clone(self);
        let limit = spec.bytes_per_second.map(ByteSize::bytes);
        slot.begin("volume-fill", origin, move |task| {
            task.conclude(restore::fetch(&shared.volume, &store, limit, &|progress| task.reach(progress)));
        })
    }
}

fn flush(volume: &Volume) -> io::Result<()> {
    let mut queue = volume.open_queue(1)?;
    queue.push(0, BlockRequest::Flush).map_err(io::Error::other)?;
    queue.wait()?;
    queue.next_completion().map_or(Ok(()), |completion| completion.result)
}

impl VolumeStatus {
    pub(super) fn of(volume: &Volume, folder: &Path) -> anyhow::Result<Self> {
        let disk_bytes =
            disk_bytes(folder).with_context(|| format!("cannot look into {}", folder.display()))?;
        let pending = volume.pending_snapshots();
        Ok(Self {
            size_bytes: ByteSize::from_bytes(volume.size_bytes()),
            key: volume.key().map(|key| key.to_string()),
            layers: volume.layers().len(),
            disk_bytes: ByteSize::from_bytes(disk_bytes),
            map_bytes: ByteSize::from_bytes(volume.map_bytes() as u64),
            origin: volume.origin(),
            pending_snapshot: pending.first().copied(),
            queued_snapshots: pending.get(1..).unwrap_or_default().to_vec(),
            limits: None,
            waiting_for_room: 0,
            guests: 0,
            next_snapshot: None,
        })
    }
}

fn disk_bytes(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.try_fold(0, |sum, file| match file?.metadata() {
        // stat(2) counts in units of 512 bytes, whatever the file system's are.
        Ok(metadata) => Ok(sum + metadata.blocks() * 512),
        // Layers that are merged go meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(sum),
        Err(error) => Err(error),
    })
}
