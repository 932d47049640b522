//! A layered volume in a folder of the host.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::check::{self, Report};
use super::engine::{self, Engine};
use super::error::{VolumeError, io_error};
use super::layer::Geometry;
use super::map::LayerId;
use super::queue::Queue;
use super::storage::host::HostFolder;
use crate::backend::{BlockBackend, BlockQueue, BlockRequest, Completion, QueueFull};
use crate::raw::{check_range, lock};

const LOCK: &str = "lock";

/// A volume: a folder with a manifest, the files of its layers, and a lock that is held for as long as the volume is open, so that there
/// is one writer. A crash lets it go.
///
/// Flushes and all that happens in the background are the work of one thread, which ends with the volume and the last of its queues.
pub struct Volume(Arc<Open>);

struct Open {
    engine: Arc<Engine<HostFolder>>,
    stop: Arc<AtomicBool>,
    committer: Option<JoinHandle<()>>,
    _lock: File,
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
        engine::checked_blocks(size_bytes)?;
        std::fs::create_dir_all(folder).map_err(io_error("make the folder", "of the volume"))?;
        let _lock = lock_folder(folder)?;
        engine::create(&HostFolder::new(folder), size_bytes, Geometry::default())
    }

    /// Opens the volume in a folder.
    ///
    /// # Errors
    /// [`VolumeError`]: in use, damaged, or the host's refusal.
    pub fn open(folder: &Path) -> Result<Self, VolumeError> {
        let lock = lock_folder(folder)?;
        let engine = Arc::new(Engine::open(HostFolder::new(folder))?);
        let stop = Arc::new(AtomicBool::new(false));
        let committer = std::thread::Builder::new().name("volume-commit".to_owned()).spawn({
            let (engine, stop) = (Arc::clone(&engine), Arc::clone(&stop));
            move || engine.serve(&|| stop.load(Ordering::Acquire))
        });
        let committer = Some(committer.map_err(io_error("start the thread that commits", "writes"))?);
        Ok(Self(Arc::new(Open { engine, stop, committer, _lock: lock })))
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

    /// How many bytes of memory the map of the volume takes.
    pub fn map_bytes(&self) -> usize {
        self.0.engine.map.bytes()
    }
}

fn lock_folder(folder: &Path) -> Result<File, VolumeError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(folder.join(LOCK)).map_err(io_error("open", LOCK))?;
    lock(&file, false).map_err(|source| match source.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => VolumeError::InUse,
        _ => VolumeError::Io { operation: "lock", file: LOCK.to_owned(), source },
    })?;
    Ok(file)
}

impl Drop for Open {
    fn drop(&mut self) {
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
