//! A store in a folder of the host: an object is a file, its key is its path.
//!
//! ```text
//!   put      .incoming/N ──written, synced──▶ renamed to its key ──▶ the folder is synced
//!   delete   the file is removed ──▶ folders that are empty now, too ──▶ the folder that is left is synced
//! ```
//!
//! A folder is made when an object needs it, and what made it durable is remembered, so that most puts sync one file and one folder.
//! Several processes may use a store: one that finds a folder missing that another has just removed makes it again.
//!
//! Who writes a file in `.incoming` holds a lock on it. One that nobody holds is left from a process that was killed, and is removed when
//! the store is opened next. No key has a dot in it, so nothing else is called so.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use volume::snapshot::{ObjectStore, StoreError, StoreErrorKind};

const INCOMING: &str = ".incoming";
const LOCK: &str = ".lock";
/// How often a put begins anew because others remove folders under its feet.
const TRIES: usize = 100;

/// Numbers for the files that this process writes to.
static NEXT_INCOMING: AtomicU64 = AtomicU64::new(0);

/// The store.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// The folders that are known to be there to stay.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folder {
    /// Opens the store in a folder, which is made if there is none.
    ///
    /// # Errors
    /// What the host says.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path.join(INCOMING))?;
        let root = path.canonicalize()?;
        File::open(&root)?.sync_all()?;
        remove_abandoned(&root.join(INCOMING))?;
        let durable = Mutex::new(HashSet::from([root.clone()]));
        Ok(Self { root, durable })
    }

    /// Waits until no other process has the lock of the store in a folder, and holds it as long as the file is open. Who removes
    /// snapshots needs it.
    ///
    /// # Errors
    /// What the host says.
    pub fn lock(path: &Path) -> io::Result<File> {
        let file = File::options().write(true).create(true).truncate(false).open(path.join(LOCK))?;
        file.lock()?;
        Ok(file)
    }

    fn path(&self, operation: &'static str, key: &str) -> Result<PathBuf, StoreError> {
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        if key.trim_end_matches('/').split('/').all(is_part) {
            return Ok(self.root.join(key));
        }
        Err(StoreError::new(operation, key, StoreErrorKind::Refused, "that is no key"))
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a folder below the root, with those that it lies in, to stay.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if self.durable().contains(folder) {
            return Ok(());
        }
        let parent = folder.parent().expect("it is below the root");
        self.make_folder(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => sync(parent)?,
        }
        self.durable().insert(folder.to_owned());
        Ok(())
    }

    /// Forgets what was known of a folder and those that it lies in.
    fn forget(&self, folder: &Path) {
        self.durable().retain(|known| *known == self.root || !folder.starts_with(known));
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (incoming, mut file) = self.create()?;
        let written =
            file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| self.move_to(&incoming, path));
        if written.is_err() {
            let _ = fs::remove_file(&incoming);
        }
        written
    }

    /// Makes a file to write to, and locks it.
    fn create(&self) -> io::Result<(PathBuf, File)> {
        loop {
            let number = NEXT_INCOMING.fetch_add(1, Ordering::Relaxed);
            let path = self.root.join(INCOMING).join(format!("{}-{number}", process::id()));
            match File::create_new(&path) {
                // Of a process elsewhere that has the same number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
                Ok(file) => {
                    file.lock()?;
                    // Before it was locked somebody may have taken it for abandoned.
                    if file.metadata()?.nlink() > 0 {
                        return Ok((path, file));
                    }
                }
            }
        }
    }

    fn move_to(&self, incoming: &Path, path: &Path) -> io::Result<()> {
        let folder = path.parent().expect("it is below the root");
        for _ in 1..TRIES {
            let moved = self
                .make_folder(folder)
                .and_then(|()| fs::rename(incoming, path))
                .and_then(|()| sync(folder));
            match moved {
                Err(error) if error.kind() == ErrorKind::NotFound => self.forget(folder),
                moved => return moved,
            }
        }
        Err(io::Error::other("its folder is removed again and again"))
    }

    /// Removes a file, and the folders that are empty without it.
    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut folder = path.parent().expect("it is below the root");
        while folder != self.root {
            self.forget(folder);
            match fs::remove_dir(folder) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => break,
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => folder = folder.parent().expect("it is below the root"),
            }
        }
        match sync(folder) {
            // Another one has removed it meanwhile: that one makes it durable.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    fn walk(&self, folder: &Path, each: &mut dyn FnMut(&str)) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.walk(&entry.path(), each)?;
            } else if let Some(key) = entry.path().strip_prefix(&self.root).ok().and_then(Path::to_str) {
                each(key);
            }
        }
        Ok(())
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes what processes that are no more have begun to write.
fn remove_abandoned(incoming: &Path) -> io::Result<()> {
    for entry in fs::read_dir(incoming)? {
        let path = entry?.path();
        // It may have got its place meanwhile.
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn store_error(operation: &'static str, key: &str) -> impl FnOnce(io::Error) -> StoreError {
    move |error| {
        let kind = match error.kind() {
            ErrorKind::NotFound => StoreErrorKind::NotFound,
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory => StoreErrorKind::Refused,
            _ => StoreErrorKind::Unavailable,
        };
        StoreError::new(operation, key, kind, error)
    }
}

impl ObjectStore for Folder {
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path("put", key)?;
        self.write(&path, bytes).map_err(store_error("put", key)).map_err(|error| match error.kind {
            // Somebody removes the store itself: not what "not found" is to say.
            StoreErrorKind::NotFound => StoreError { kind: StoreErrorKind::Refused, ..error },
            _ => error,
        })
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path("get", key)?;
        fs::read(path).map_err(store_error("get", key))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(&str)) -> Result<(), StoreError> {
        let path = self.path("list", prefix)?;
        self.walk(&path, each).map_err(store_error("list", prefix))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path("delete", key)?;
        self.remove(&path).map_err(store_error("delete", key))
    }
}

#[cfg(test)]
mod tests {
    use volume::snapshot::store::conformance::check;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_folder_is_a_store_and_empty_again_when_all_is_deleted() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("deep/er");
        check(&Folder::open(&path).unwrap());
        assert_eq!(names(&path), [INCOMING]);
        assert!(names(&path.join(INCOMING)).is_empty());
        assert!(Folder::open(Path::new("/proc/nothing/here")).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused_and_leads_nowhere() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Folder::open(&folder.path().join("store")).unwrap();
        for key in ["", "/", "../x", "a//b", "/a", ".incoming/x", "a/./b", "A"] {
            assert_eq!(store.put(key, b"x").unwrap_err().kind, StoreErrorKind::Refused, "{key}");
            assert_eq!(store.get(key).unwrap_err().kind, StoreErrorKind::Refused, "{key}");
        }
        assert_eq!(names(folder.path()), ["store"]);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_being_written_is_not() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        drop(Folder::open(folder.path()).unwrap());
        let incoming = folder.path().join(INCOMING);
        fs::write(incoming.join("1-1"), b"half").unwrap();
        let other = File::create(incoming.join("1-2")).unwrap();
        other.lock().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        assert_eq!(names(&incoming), ["1-2"]);
        store.put("a/b", b"x").unwrap();
        drop(other);
        Folder::open(folder.path()).unwrap();
        assert!(names(&incoming).is_empty());
    }

    /// Objects come and go in one folder, which is removed whenever it is empty.
    #[test]
    fn a_folder_that_is_removed_meanwhile_is_made_again() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let path = folder.path();
                scope.spawn(move || {
                    // As another process would.
                    let store = Folder::open(path).unwrap();
                    for round in 0..200 {
                        let key = format!("one/two/{thread}");
                        store.put(&key, &[thread, round]).unwrap();
                        assert_eq!(store.get(&key).unwrap(), [thread, round]);
                        store.delete(&key).unwrap();
                    }
                });
            }
        });
        assert_eq!(names(folder.path()), [INCOMING]);
    }
}
