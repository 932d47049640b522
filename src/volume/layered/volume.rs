//! A layered volume in a folder of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::check::{self, Report};
use super::engine::Engine;
use super::error::{VolumeError, io_error};
use super::folder::{self, Origin};
use super::format::{BLOCK_BYTES, Uuid};
use super::layer::Geometry;
use super::map::LayerId;
use super::queue::Queue;
use super::storage::host::HostFolder;
use super::stores::{self, Stores};
use crate::backend::{BlockBackend, BlockQueue, BlockRequest, Completion, Extent, QueueFull};
use crate::crypt::{DataKey, KeyName, KeyStore, WrappedKey};
use crate::raw::{Locked, check_range};
use crate::snapshot::{
    CHUNK_BYTES, ObjectStore, Progress, Snapshot, SnapshotError, SnapshotName, Snapshots, now_s, pin,
    release, unique,
};

const LOCK: &str = "lock";
/// Who pins the snapshot that a volume is being made of.
const HOLDER: &str = "holder";
/// How often a fill that is ahead of its limit asks whether to go on.
const PACE: Duration = Duration::from_millis(50);

/// A volume: a folder with a manifest, the files of its layers, and a lock that is held for as long as the volume is open, so that there
/// is one writer. A crash lets it go.
///
/// Flushes and all that happens in the background are the work of one thread, which ends with the volume and the last of its queues.
pub struct Volume(Arc<Open>);

struct Open {
    engine: Arc<Engine<HostFolder>>,
    stop: Arc<AtomicBool>,
    committer: Option<JoinHandle<()>>,
    /// It gets what queues want of a snapshot.
    fetcher: Option<JoinHandle<()>>,
    _lock: Locked,
}

/// A queue that keeps its volume open.
struct VolumeQueue {
    queue: Queue<HostFolder>,
    _open: Arc<Open>,
}

impl Volume {
    /// Makes an empty volume in a folder, which is made too if there is none.
    ///
    /// # Errors
    /// [`VolumeError`]: a bad size, a volume that is there already, or the host's refusal.
    pub fn create(folder: &Path, size_bytes: u64) -> Result<(), VolumeError> {
        folder::checked_blocks(size_bytes)?;
        std::fs::create_dir_all(folder).map_err(io_error("make the folder", "of the volume"))?;
        let _lock = lock_folder(folder)?;
        folder::create(&HostFolder::new(folder), size_bytes, Geometry::default())
    }

    /// As [`create`](Self::create), but encrypted, by a new data key that the key `name` wraps.
    ///
    /// # Errors
    /// As for [`create`](Self::create), or [`VolumeError::Key`]; then nothing was made.
    pub fn create_encrypted(
        folder: &Path,
        size_bytes: u64,
        keys: &dyn KeyStore,
        name: &KeyName,
    ) -> Result<(), VolumeError> {
        folder::checked_blocks(size_bytes)?;
        let key = DataKey::random()?;
        // Before a folder is made: most likely to fail is that there is no such key.
        WrappedKey::new(keys, name, &[], &key)?;
        std::fs::create_dir_all(folder).map_err(io_error("make the folder", "of the volume"))?;
        let _lock = lock_folder(folder)?;
        let wrap = |lineage: Uuid| WrappedKey::new(keys, name, &lineage.0, &key);
        folder::create_encrypted(&HostFolder::new(folder), size_bytes, Geometry::default(), &wrap)
    }

    /// Makes a volume in a folder of what a snapshot in a store holds, of its size or a larger one. It can be opened at once, with the
    /// store; what is read is fetched then. Of an encrypted snapshot it has the data key, and needs the same key to be opened.
    ///
    /// # Errors
    /// As for [`create`](Self::create), or when there is no such snapshot or it does not fit.
    pub fn create_from(
        folder: &Path,
        objects: &Arc<dyn ObjectStore>,
        snapshot: SnapshotName,
        size_bytes: Option<u64>,
    ) -> Result<(), SnapshotError> {
        let found = Snapshot::open(Arc::clone(objects), snapshot)?;
        let snapshot_bytes = found.size_bytes();
        let volume_bytes = size_bytes.unwrap_or(snapshot_bytes);
        if volume_bytes < snapshot_bytes {
            return Err(SnapshotError::TooSmall { snapshot_bytes, volume_bytes });
        }
        folder::checked_blocks(volume_bytes)?;
        let holder = SnapshotName { id: unique()?, ..snapshot };
        let origin = Origin {
            volume: holder.id,
            snapshot,
            blocks: snapshot_bytes / BLOCK_BYTES,
            key: found.manifest().key.clone(),
        };
        std::fs::create_dir_all(folder).map_err(io_error("make the folder", "of the volume"))?;
        let _lock = lock_folder(folder)?;
        let storage = HostFolder::new(folder);
        folder::ensure_vacant(&storage)?;
        release_abandoned(folder, objects)?;
        note_holder(folder, holder)?;
        let make = || {
            pin(&**objects, holder, snapshot.id)?;
            // From now on it may be deleted, and is not removed. It may have been before.
            Snapshot::open(Arc::clone(objects), snapshot)?;
            Ok(folder::create_from(&storage, volume_bytes, Geometry::default(), Some(&origin))?)
        };
        let made = make();
        // The first error is the one to tell; and where all is well the note does no harm if it stays.
        let is_free = made.is_ok() || release(&**objects, holder).is_ok();
        if is_free {
            let _ = std::fs::remove_file(folder.join(HOLDER));
        }
        made
    }

    /// Opens the volume in a folder.
    ///
    /// # Errors
    /// [`VolumeError`]: in use, damaged, or the host's refusal; [`VolumeError::NeedsStore`] when it was made from a snapshot and has not all
    /// of it yet; [`VolumeError::NeedsKey`] when it is encrypted.
    pub fn open(folder: &Path) -> Result<Self, VolumeError> {
        Self::open_with(folder, Stores::default())
    }

    /// Opens the volume in a folder, with the stores that have its snapshots and its key.
    ///
    /// # Errors
    /// As for [`open`](Self::open), [`VolumeError::Fetch`] when it lacks something of a snapshot that cannot be read, and
    /// [`VolumeError::Key`] when its key cannot be used.
    pub fn open_with(folder: &Path, stores: impl Into<Stores>) -> Result<Self, VolumeError> {
        let lock = lock_folder(folder)?;
        let engine = Arc::new(Engine::open_with(HostFolder::new(folder), stores)?);
        let stop = Arc::new(AtomicBool::new(false));
        let committer = {
            let (engine, stop) = (Arc::clone(&engine), Arc::clone(&stop));
            spawn("volume-commit", move || engine.serve(&|| stop.load(Ordering::Acquire)))?
        };
        let mut open = Open { engine, stop, committer: Some(committer), fetcher: None, _lock: lock };
        if open.engine.has_base() {
            let engine = Arc::clone(&open.engine);
            open.fetcher = Some(spawn("volume-fetch", move || engine.serve_fetches())?);
        }
        Ok(Self(Arc::new(open)))
    }

    /// Begins a snapshot: seals what is in the volume now. If some were begun and not ended, it is the oldest of these. Writers go on.
    ///
    /// # Errors
    /// As for [`seal`](Self::seal).
    pub fn begin_snapshot(&self) -> Result<SnapshotName, SnapshotError> {
        match self.pending_snapshots().first() {
            Some(oldest) => Ok(*oldest),
            None => Ok(self.0.engine.begin_snapshot(unique()?, now_s())?),
        }
    }

    /// Begins a snapshot, whatever others were begun, under a name that was chosen before: called again it does nothing, until another one is complete.
    /// Writers go on.
    ///
    /// # Errors
    /// [`VolumeError::TooManySnapshots`], as for [`seal`](Self::seal), or [`SnapshotError::OtherLineage`] when no snapshot of this volume can have the
    /// name.
    pub fn begin_snapshot_as(&self, name: SnapshotName) -> Result<(), SnapshotError> {
        let newer = self.lineage();
        if name.lineage != newer.lineage {
            return Err(SnapshotError::OtherLineage { older: name, newer });
        }
        if self.0.engine.turn().manifest.last.is_none_or(|last| last.snapshot != name.id) {
            self.0.engine.begin_snapshot(name.id, now_s())?;
        }
        Ok(())
    }

    /// A name that nobody has, for a snapshot of this volume.
    ///
    /// # Errors
    /// [`SnapshotError::NoName`]
    pub fn snapshot_name(&self) -> Result<SnapshotName, SnapshotError> {
        self.lineage().another()
    }

    fn lineage(&self) -> SnapshotName {
        SnapshotName { lineage: self.0.engine.turn().manifest.lineage, id: Uuid::NONE }
    }

    /// The snapshots that were begun and have not ended, by this process or one before; the oldest first.
    pub fn pending_snapshots(&self) -> Vec<SnapshotName> {
        self.0.engine.pending_snapshots()
    }

    /// Puts into the store what changed since the last snapshot, and so ends one that was begun, and before it all that were begun earlier: they are complete
    /// when this returns. `progress` is told of it by several threads, and says whether to go on.
    ///
    /// # Errors
    /// [`SnapshotError::Stopped`], or when the store or the host fails; called again it goes on where it was.
    pub fn upload_snapshot(
        &self,
        name: SnapshotName,
        objects: &Arc<dyn ObjectStore>,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<(), SnapshotError> {
        self.0.engine.upload_snapshot(name, objects, progress)
    }

    /// Gives up a snapshot that was begun, and removes from the store what there is of it. It waits for who brings snapshots to their end.
    ///
    /// # Errors
    /// When the store or the host fails; called again it goes on.
    pub fn cancel_snapshot(&self, name: SnapshotName, snapshots: &Snapshots) -> Result<(), SnapshotError> {
        self.0.engine.cancel_snapshot(name, snapshots)
    }

    /// The snapshot that the volume relies on: the one that it was made from, until [`fill`](Self::fill) came to its end.
    pub fn origin(&self) -> Option<SnapshotName> {
        self.0.engine.origin()
    }

    /// Fetches all that the volume lacks of the snapshot that it was made from, at most so many bytes a second, and then needs it no more;
    /// says whether it came to that. `progress` says whether to go on. Readers and writers go on meanwhile, and come first.
    ///
    /// # Errors
    /// When the store or the host fails; called again it goes on.
    pub fn fill(
        &self,
        bytes_per_second: Option<u64>,
        progress: &(dyn Fn(Progress) -> bool + Sync),
    ) -> Result<bool, SnapshotError> {
        let started = Instant::now();
        self.0.engine.fill(&|so_far| {
            let Some(limit) = bytes_per_second else { return progress(so_far) };
            let due = Duration::from_secs(so_far.done * CHUNK_BYTES)
                / u32::try_from(limit.max(1)).unwrap_or(u32::MAX);
            loop {
                if !progress(so_far) {
                    return false;
                }
                match due.checked_sub(started.elapsed()) {
                    None => return true,
                    Some(left) => std::thread::sleep(left.min(PACE)),
                }
            }
        })
    }

    /// Merges the layers that no snapshot needs apart, until `stop` says so.
    ///
    /// # Errors
    /// As for [`merge`](Self::merge).
    pub fn compact(&self, stop: &dyn Fn() -> bool) -> Result<(), VolumeError> {
        let mut lower = 0;
        loop {
            let layers = self.layers();
            let [first, second, ..] = layers[lower.min(layers.len() - 1)..] else { return Ok(()) };
            if layers.len() < lower + 3 {
                return Ok(());
            }
            match self.merge(first, second, stop) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(VolumeError::NeededApart { .. }) => lower += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Seals what is in the volume now: it stays as it is in the layers up to the one that is returned. Writers go on meanwhile.
    ///
    /// # Errors
    /// [`VolumeError::TooManyLayers`], or when the host fails.
    pub fn seal(&self) -> Result<LayerId, VolumeError> {
        self.0.engine.seal()
    }

    /// Merges the sealed layer `upper` into `lower`, the sealed one just below it, unless `stop` says so meanwhile; says whether it
    /// did. Writers go on.
    ///
    /// # Errors
    /// [`VolumeError::NotMergeable`], or when the host fails.
    pub fn merge(
        &self,
        lower: LayerId,
        upper: LayerId,
        stop: &dyn Fn() -> bool,
    ) -> Result<bool, VolumeError> {
        self.0.engine.merge(lower, upper, stop)
    }

    /// Makes the volume larger; what is new reads as zeroes.
    ///
    /// # Errors
    /// [`VolumeError::CannotShrink`], [`VolumeError::BadSize`], or when the host fails.
    pub fn grow(&self, size_bytes: u64) -> Result<(), VolumeError> {
        self.0.engine.grow(size_bytes)
    }

    /// Has the data key of an encrypted volume, which nobody has open, wrapped by the key `name` instead of the one that it was. The data
    /// stays as it is, and snapshots that were made keep their key.
    ///
    /// # Errors
    /// [`VolumeError::InUse`], [`VolumeError::NotEncrypted`], [`VolumeError::Key`], or the host's refusal; then the volume is as it was.
    pub fn change_key(folder: &Path, keys: &dyn KeyStore, name: &KeyName) -> Result<(), VolumeError> {
        let _lock = lock_folder(folder)?;
        stores::change_key(&HostFolder::new(folder), keys, name)
    }

    /// Removes a volume that nobody has open, and what is kept in the object store for it alone. Stopped anywhere, it can be called again; for
    /// a folder that is not there it does nothing. What the store keeps for a volume that is damaged stays there.
    ///
    /// # Errors
    /// [`VolumeError::InUse`], or when the store or the host fails.
    pub fn remove(folder: &Path, snapshots: &Snapshots) -> Result<(), SnapshotError> {
        if !folder.is_dir() {
            return Ok(());
        }
        let _lock = lock_folder(folder)?;
        let storage = HostFolder::new(folder);
        release_abandoned(folder, snapshots.store())?;
        match folder::read_manifest(&storage) {
            Ok(manifest) => stores::forget(&manifest, snapshots)?,
            Err(VolumeError::Damaged { .. }) => {}
            // It was begun to be removed, or never came to be a volume.
            Err(VolumeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        folder::remove_manifest(&storage)?;
        std::fs::remove_dir_all(folder).map_err(io_error("remove the folder", "of the volume"))?;
        Ok(())
    }

    /// Verifies the metadata of a volume that nobody has open, and repairs what a crash may leave, if `repair` says so.
    ///
    /// # Errors
    /// [`VolumeError::InUse`], or when a repair fails; damage is not an error but a finding.
    pub fn check(folder: &Path, repair: bool) -> Result<Report, VolumeError> {
        let _lock = lock_folder(folder)?;
        check::check(&HostFolder::new(folder), repair)
    }

    /// The layers, the lowest first; all but the last are sealed.
    pub fn layers(&self) -> Vec<LayerId> {
        self.0.engine.stack().iter().map(|layer| layer.id).collect()
    }

    /// The key that the data key of an encrypted volume is wrapped by.
    pub fn key(&self) -> Option<KeyName> {
        self.0.engine.turn().manifest.key.as_ref().map(|key| key.name.clone())
    }

    /// How many bytes of memory the map of the volume takes.
    pub fn map_bytes(&self) -> usize {
        self.0.engine.map.bytes()
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, VolumeError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(io_error("start a thread", name))
}

/// Writes down who is about to pin a snapshot.
fn note_holder(folder: &Path, holder: SnapshotName) -> Result<(), VolumeError> {
    let write = || {
        let mut file = File::create(folder.join(HOLDER))?;
        file.write_all(holder.to_string().as_bytes())?;
        file.sync_all()?;
        File::open(folder)?.sync_all()
    };
    write().map_err(io_error("write", HOLDER))
}

/// Removes the pin of a volume whose making ended before there was one. Of one that is there it may be the pin too: not of one that is to stay.
fn release_abandoned(folder: &Path, objects: &Arc<dyn ObjectStore>) -> Result<(), SnapshotError> {
    let text = match std::fs::read_to_string(folder.join(HOLDER)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("read", HOLDER)(error).into()),
    };
    // What was not written to its end was not pinned for.
    if let Ok(holder) = text.parse() {
        release(&**objects, holder)?;
    }
    Ok(())
}

fn lock_folder(folder: &Path) -> Result<Locked, VolumeError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(folder.join(LOCK)).map_err(io_error("open", LOCK))?;
    Locked::new(file).map_err(|source| match source.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => VolumeError::InUse,
        _ => VolumeError::Io { operation: "lock", file: LOCK.to_owned(), source },
    })
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(base) = self.engine.base() {
            base.stop();
        }
        // If one panicked, the requests that it owed have failed already.
        self.fetcher.take().map(JoinHandle::join);
        self.engine.save_fetched();
        // Who does not flush may lose what he wrote by a crash, not because its disk was put away.
        self.engine.round();
        // Under the lock that the committer waits with, so that it does not miss it.
        self.engine.update(|_| self.stop.store(true, Ordering::Release));
        self.engine.notify();
        if let Some(committer) = self.committer.take() {
            // If it panicked, the flushes that it owed have failed already.
            let _ = committer.join();
        }
    }
}

impl BlockBackend for Volume {
    fn size_bytes(&self) -> u64 {
        self.0.engine.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        let queue = Queue::new(Arc::clone(&self.0.engine), depth)?;
        Ok(Box::new(VolumeQueue { queue, _open: Arc::clone(&self.0) }))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(offset, buffer.len(), self.size_bytes())?;
        self.0.engine.read_at(offset, buffer).map_err(io::Error::other)
    }

    fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.0.engine.extent(offset, len).map_err(io::Error::other)
    }
}

impl BlockQueue for VolumeQueue {
    fn completion_event(&self) -> std::os::fd::BorrowedFd<'_> {
        self.queue.completion_event()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        self.queue.push(token, request)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.queue.submit()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.queue.next_completion()
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.queue.wait()
    }
}

#[cfg(test)]
mod tests;
