//! The file: who has it, how it comes to be, and the copy that is kept of it.
//!
//! A new store is made under another name and gets its own when it is complete, so no crash leaves a file that is no store. Whoever has the
//! file open holds a lock on it (flock) from before its name is there.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};
use redb::{Builder, Database, StorageBackend};

use super::{Holder, OpenError, Schema};

const MODE: u32 = 0o600;
/// How long it may take a process that was only just made to execute its program, and how often it is looked.
const LOCK_TIME: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// What redb keeps of the file in memory: the records are there already, so this is for the inner pages of its trees.
const CACHE_BYTES: usize = 16 << 20;

/// A store's file that no other process uses, until this is dropped: after the database in it is closed.
#[derive(Debug)]
pub(super) struct LockedFile {
    path: PathBuf,
    file: File,
}

/// The file as redb uses it. It holds the lock on, but not by redb's means, which let go of it when a database is closed.
#[derive(Debug)]
struct Backend(File);

impl LockedFile {
    /// Opens the file, or makes a store and then opens it.
    pub(super) fn open(path: &Path, schema: &Schema) -> Result<Self, OpenError> {
        let failed = |source| OpenError::File { path: path.to_owned(), source };
        loop {
            match OpenOptions::new().read(true).write(true).open(path) {
                Ok(file) => {
                    let locked = Self::lock(path, file)?;
                    locked.restrict().map_err(failed)?;
                    return Ok(locked);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
            let new = beside(path, "new");
            let file = create(&new).map_err(failed)?;
            let mut locked = Self::lock(&new, file)?;
            // Another process may have made it before we had the lock; then that is what we locked.
            if !fs::exists(path).map_err(failed)? {
                locked.file.set_len(0).map_err(failed)?;
                schema.load(path, &locked.database()?)?;
                fs::rename(&new, path).and_then(|()| sync_folder(path)).map_err(failed)?;
                locked.path = path.to_owned();
                return Ok(locked);
            }
        }
    }

    /// A process that was killed while it started another leaves the lock to that one, until it executes its program: so who has a lock and cannot be
    /// named is waited for.
    fn lock(path: &Path, file: File) -> Result<Self, OpenError> {
        let deadline = Instant::now() + LOCK_TIME;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { path: path.to_owned(), file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => {
                    return Err(OpenError::File { path: path.to_owned(), source });
                }
            }
            let holder = holder(&file);
            if holder.0.is_some() || Instant::now() >= deadline {
                return Err(OpenError::InUse { path: path.to_owned(), holder });
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    /// As a process has it that is being started by another thread.
    #[cfg(test)]
    pub(super) fn inherited(&self) -> File {
        self.file.try_clone().unwrap()
    }

    /// Takes back what others may do with the file.
    fn restrict(&self) -> io::Result<()> {
        if self.file.metadata()?.permissions().mode() & 0o077 != 0 {
            self.file.set_permissions(Permissions::from_mode(MODE))?;
        }
        Ok(())
    }

    /// Opens the database in it; if the last process was killed, redb checks all of it first.
    pub(super) fn database(&self) -> Result<Database, OpenError> {
        let file = self.file.try_clone();
        let file = file.map_err(|source| OpenError::File { path: self.path.clone(), source })?;
        Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(Backend(file))
            .map_err(|error| OpenError::Database { path: self.path.clone(), source: Box::new(error.into()) })
    }

    /// Keeps a copy of a file whose database is closed, named by its schema version: `store.redb.v1`.
    pub(super) fn copy(&self, version: u64) -> Result<(), OpenError> {
        let copy = beside(&self.path, &format!("v{version}"));
        let new = beside(&copy, "new");
        let copied = create(&new).and_then(|mut file| {
            file.set_len(0)?;
            io::copy(&mut File::open(&self.path)?, &mut file)?;
            file.sync_all()?;
            fs::rename(&new, &copy)?;
            sync_folder(&copy)
        });
        copied.map_err(|source| OpenError::Copy { copy, source })
    }
}

impl Drop for LockedFile {
    /// Closing the file would not do: a process that another thread is starting just now has it open too, until it executes its program.
    fn drop(&mut self) {
        // If it cannot be unlocked, it is when the last has closed it.
        let _ = self.file.unlock();
    }
}

/// The path with an extension more.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Who holds the lock, as the kernel lists it (proc_locks(5)).
fn holder(file: &File) -> Holder {
    let Ok((metadata, locks)) = file.metadata().and_then(|it| Ok((it, fs::read_to_string("/proc/locks")?)))
    else {
        return Holder(None);
    };
    let device = metadata.st_dev();
    let inode = format!("{:02x}:{:02x}:{}", major(device), minor(device), metadata.st_ino());
    let process = locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, "WRITE", process, at, ..] if at == inode => process.parse().ok(),
        _ => None,
    });
    Holder(process.filter(|process| is_alive(*process)))
}

/// Whether a process has not ended. One that has may still be named: what it was starting has its lock.
fn is_alive(process: u32) -> bool {
    // After the program's name, which may have anything in it, stands the state (proc_pid_stat(5)).
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !['Z', 'X', 'x'].contains(&state))
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
