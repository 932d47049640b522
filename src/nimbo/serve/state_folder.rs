//! Where a server keeps what must outlive it.
//!
//! ```text
//! STATE/                0700
//!   simulated           0600   there, if what the records say is there is nowhere
//!   store.redb          0600   the records; who has it open has a lock on it, and so has the folder
//!   credentials         0600   access keys
//!   server.json         0600   where the server is, while it runs
//!   tls/                0700   the authority that --tls-self-signed made
//! ```
//!
//! Every file appears under its name when it is whole and durable, and so does the folder itself.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use control::records::SCHEMA;
use control::store::{Redb, Store};

use crate::client::{PLACE_FILE, Place};

/// The file with the records.
pub(crate) const STORE: &str = "store.redb";
/// Where it is if nobody says otherwise.
pub(crate) const DEFAULT: &str = "/var/lib/nimbo";

/// A state folder that this process alone writes.
#[derive(Debug)]
pub(super) struct StateFolder {
    path: PathBuf,
    store: Arc<Redb>,
}

impl StateFolder {
    /// Opens the folder, which is made if there is none.
    ///
    /// # Errors
    /// When another process has it, which is named; when it is not of a simulation, or is of one, as `is_simulated` says; or when it cannot
    /// be used.
    pub(super) fn open(path: &Path, is_simulated: bool) -> anyhow::Result<Self> {
        make_folder(path).with_context(|| format!("cannot make the state folder {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
        let cannot = || format!("cannot use the state folder {}", path.display());
        let store = path.join(STORE);
        mark(&path, store.exists(), is_simulated).with_context(cannot)?;
        let store = Redb::open(&store, &SCHEMA).with_context(cannot)?;
        Ok(Self { path, store: Arc::new(store) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Says in the folder where the server is, until what is returned is dropped.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn announce(&self, place: &Place) -> anyhow::Result<Announcement> {
        let path = self.path.join(PLACE_FILE);
        let text = serde_json::to_vec(place).context("cannot write JSON")?;
        write_file(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Announcement(path))
    }

    /// Removes what a server that was killed has said of where it is.
    ///
    /// # Errors
    /// When that cannot be removed.
    pub(super) fn forget_place(&self) -> anyhow::Result<()> {
        let path = self.path.join(PLACE_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}

/// Notes whether a folder that is new is of a simulation, and checks one that is not.
fn mark(folder: &Path, has_records: bool, is_simulated: bool) -> anyhow::Result<()> {
    let path = folder.join("simulated");
    match (has_records, path.exists(), is_simulated) {
        (true, true, false) => {
            bail!("what it says is there was simulated: name another folder, or --simulate")
        }
        (true, false, true) => bail!("what it says is there is not simulated: name another folder"),
        (false, false, true) => write_file(&path, b"")?,
        (false, true, false) => fs::remove_file(&path)?,
        (true, ..) | (false, ..) => {}
    }
    Ok(())
}

/// The file that says where the server is.
pub(super) struct Announcement(PathBuf);

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "where the server was stays written");
        }
    }
}

/// Makes a folder that its owner alone may enter, and those it lies in, durably. One that is there stays as it is.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => File::open(parent)?.sync_all(),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_folder(parent)?;
            make_folder(path)
        }
        Err(error) => Err(error),
    }
}

/// Puts a file that its owner alone may read in the place of the one of that name, whole and durable.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // What is left of another attempt may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_made_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        make_folder(&path).unwrap();
        make_folder(&path).unwrap();
        let file = path.join("file");
        fs::write(path.join("file.new"), "left behind").unwrap();
        for content in ["one", "two"] {
            write_file(&file, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
        }
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.path().join("a")), mode(&path), mode(&file)), (0o700, 0o700, 0o600));
        assert!(make_folder(&file).is_err());
    }

    /// Opens a folder that nobody has; other tests start processes, which have what is open here until they have begun.
    fn open(path: &Path, is_simulated: bool) -> StateFolder {
        let started = Instant::now();
        loop {
            match StateFolder::open(path, is_simulated) {
                Err(error) if format!("{error:#}").contains("in use") && started.elapsed() < PATIENCE => {
                    std::thread::yield_now();
                }
                opened => return opened.unwrap(),
            }
        }
    }

    #[test]
    fn a_second_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = open(&path, true);
        let error = format!("{:#}", StateFolder::open(&path, true).unwrap_err());
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(first);
        open(&path, true);
    }

    #[test]
    fn what_was_simulated_is_not_taken_for_real_and_the_other_way_round() {
        let folder = tempfile::tempdir().unwrap();
        for is_simulated in [true, false] {
            let path = folder.path().join(is_simulated.to_string());
            drop(open(&path, is_simulated));
            drop(open(&path, is_simulated));
            let error = format!("{:#}", StateFolder::open(&path, !is_simulated).unwrap_err());
            assert!(error.contains("name another folder"), "{error}");
        }
        // As after a crash before there were any records.
        let path = folder.path().join("new");
        make_folder(&path).unwrap();
        mark(&path, false, true).unwrap();
        drop(open(&path, false));
        open(&path, false);
    }
}
