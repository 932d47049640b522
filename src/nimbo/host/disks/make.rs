//! Making volumes, empty and of snapshots. All of this waits for disks.
//!
//! | the snapshot | the volume | what is done |
//! | --- | --- | --- |
//! | plain | plain | it can be used at once, and fetches what it lacks |
//! | by a key | by the same key | likewise: they have the same data key |
//! | by a key | by another one | likewise; the data key is wrapped by the other key |
//! | plain | by a key | everything is copied, and encrypted, before it can be used |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::volume::crypt::{DataKey, KeyError, KeyFile, KeyName, KeyStore};
use ::volume::import::copy_encrypted;
use ::volume::snapshot::{SnapshotDisk, SnapshotName};
use ::volume::{Stores, Volume};
use anyhow::{Context as _, bail};

use crate::volume::{Location, Store};

/// What the name of a region's own key ends with, which is made when it is first needed.
const OWN_KEY: &str = ":alias/aws/ebs";

/// Where snapshots and keys are.
pub(super) struct Kept {
    pub(super) objects: Location,
    pub(super) keys: KeyFile,
    path: PathBuf,
    /// Held by who adds a key.
    adding: Mutex<()>,
}

/// A snapshot in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) name: SnapshotName,
    pub(super) key: Option<KeyName>,
}

impl Kept {
    pub(super) fn new(objects: Location, keys: &Path) -> Self {
        Self { objects, keys: KeyFile::new(keys), path: keys.to_owned(), adding: Mutex::new(()) }
    }

    pub(super) fn store(&self) -> anyhow::Result<Store> {
        self.objects.create()
    }

    fn stores(&self, store: &Store) -> Stores {
        Stores { objects: Some(Arc::clone(&store.objects)), keys: Some(Arc::new(self.keys.clone())) }
    }

    /// Opens a volume that nobody serves.
    pub(super) fn open(&self, folder: &Path) -> anyhow::Result<Volume> {
        Ok(Volume::open_with(folder, self.stores(&self.store()?))?)
    }

    /// Makes a volume in a folder, where there may be some of one that could not be made. When it fails there is nothing.
    pub(super) fn make(
        &self,
        folder: &Path,
        size_bytes: Option<u64>,
        source: Option<&Source>,
        key: Option<&KeyName>,
    ) -> anyhow::Result<()> {
        self.remove(folder)?;
        let made = key.map_or(Ok(()), |key| self.ensure_key(key)).and_then(|()| match source {
            None => self.make_empty(folder, size_bytes.context("it needs a size")?, key),
            Some(source) => self.make_from(folder, size_bytes, source, key),
        });
        if made.is_err()
            && let Err(error) = self.remove(folder)
        {
            tracing::warn!(folder = %folder.display(), "what there is of a volume cannot be removed: {error:#}");
        }
        made
    }

    fn make_empty(&self, folder: &Path, size_bytes: u64, key: Option<&KeyName>) -> anyhow::Result<()> {
        match key {
            None => Volume::create(folder, size_bytes)?,
            Some(key) => Volume::create_encrypted(folder, size_bytes, &self.keys, key)?,
        }
        Ok(())
    }

    fn make_from(
        &self,
        folder: &Path,
        size_bytes: Option<u64>,
        source: &Source,
        key: Option<&KeyName>,
    ) -> anyhow::Result<()> {
        let store = self.store()?;
        match (&source.key, key) {
            (Some(_), None) => bail!("what is encrypted does not become a volume that is not"),
            (None, Some(key)) => {
                let snapshot = store.snapshots().open(source.name)?;
                let size_bytes = size_bytes.unwrap_or(snapshot.size_bytes());
                let disk = SnapshotDisk::new(snapshot);
                let keys: Arc<dyn KeyStore> = Arc::new(self.keys.clone());
                let name = source.name.to_string();
                copy_encrypted(
                    (&disk, Path::new(&name)),
                    (folder, size_bytes),
                    (&keys, key),
                    &|_| {},
                    &|| false,
                )?;
            }
            (from, to) => {
                Volume::create_from(folder, &store.objects, source.name, size_bytes)?;
                if let (Some(from), Some(to)) = (from, to)
                    && from != to
                {
                    Volume::change_key(folder, &self.keys, to)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what there is of a volume that nobody has open, also of one that is half made.
    pub(super) fn remove(&self, folder: &Path) -> anyhow::Result<()> {
        if folder.is_dir() {
            Volume::remove(folder, &self.store()?.exclusive()?.snapshots)?;
        }
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
        let partial = format!("{name}.partial-");
        for entry in folder.parent().into_iter().flat_map(fs::read_dir).flatten() {
            let path = entry.context("cannot look for what is left of a volume")?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&partial))
            {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Sees to it that there is the key, if it is one that nobody has to make.
    pub(super) fn ensure_key(&self, key: &KeyName) -> anyhow::Result<()> {
        if !key.as_str().ends_with(OWN_KEY) {
            // Of a key that is not there nothing is made, and it is told how there can be one.
            let tried = DataKey::random().and_then(|probe| self.keys.wrap(key, &[], &probe));
            return tried.map(drop).with_context(|| {
                format!(
                    "the key {key} cannot be used; if there is none: nimbo volume key new {key} --keys {}",
                    self.path.display()
                )
            });
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        match self.keys.add(key) {
            Ok(()) | Err(KeyError::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Removes what is left of a key file that was being replaced when its process was killed: nothing of it was used.
pub(super) fn remove_half_made(keys: &Path) -> anyhow::Result<()> {
    let mut new = keys.as_os_str().to_owned();
    new.push(".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", Path::new(&new).display()))
        }
        _ => Ok(()),
    }
}
