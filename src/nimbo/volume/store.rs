//! Where snapshots are: the option that says so, and what is behind it.

use std::fmt;
use std::fs::File;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

use ::volume::snapshot::{ObjectStore, Snapshot, SnapshotName, SnapshotWriter, Snapshots};
use ::volume::{Stores, Volume, VolumeError};
use anyhow::{Context as _, anyhow, bail};
use objects::Folder;
use vmm::jail::FilesSpec;

use super::key::Keys;

/// Where snapshots are unless somebody says otherwise.
const DEFAULT: &str = "/var/lib/nimbo/objects";

// For commands that know one store.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    /// Where the snapshots are: a folder, or s3://BUCKET/PREFIX with AWS_... in the environment
    #[arg(long, value_name = "LOCATION", default_value = DEFAULT)]
    objects: Location,
}

/// A folder, or `s3://BUCKET` with or without `/PREFIX`.
#[derive(Debug, Clone)]
pub(crate) struct Location(String);

impl From<&str> for Location {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Location {
    /// The folder that it is, if it is one.
    fn folder(&self) -> Option<&Path> {
        (!self.0.starts_with("s3://")).then(|| Path::new(&self.0))
    }

    /// As another process understands it.
    ///
    /// # Errors
    /// When it is a folder whose path is not text, or the current one cannot be told.
    pub(crate) fn absolute(&self) -> anyhow::Result<String> {
        let Some(folder) = self.folder() else { return Ok(self.0.trim_end_matches('/').to_owned()) };
        let absolute = path::absolute(folder).context("cannot find the current folder")?;
        // With a slash at its end it is the same.
        let absolute: PathBuf = absolute.components().collect();
        absolute.into_os_string().into_string().map_err(|path| anyhow!("{} is not text", path.display()))
    }

    /// Opens the store, and makes it if it is a folder that is not there yet.
    pub(crate) fn create(&self) -> anyhow::Result<Store> {
        Ok(Store { objects: objects::open(&self.0)?.into(), folder: self.folder().map(Path::to_owned) })
    }

    /// Opens a store that is there.
    pub(super) fn open(&self) -> anyhow::Result<Store> {
        if self.folder().is_some_and(|folder| !folder.is_dir()) {
            bail!("there is no object store {self}; name the folder, or the bucket, that has the snapshots");
        }
        self.create()
    }
}

impl StoreArgs {
    pub(super) fn create(&self) -> anyhow::Result<Store> {
        self.objects.create()
    }

    pub(super) fn open(&self) -> anyhow::Result<Store> {
        self.objects.open()
    }

    pub(super) fn location(&self) -> &Location {
        &self.objects
    }
}

// For commands that open volumes: what these may need.
#[derive(Debug, clap::Args)]
pub(crate) struct Access {
    #[command(flatten)]
    pub(super) store: StoreArgs,
    #[command(flatten)]
    keys: Keys,
}

impl Access {
    /// Opens a volume, and the store only if the volume lacks something that it has.
    pub(crate) fn open_volume(&self, folder: &Path) -> anyhow::Result<Volume> {
        super::find(folder)?;
        let opened = match Volume::open_with(folder, self.keys.stores()) {
            Err(VolumeError::NeedsStore { .. }) => return self.open_volume_with(&self.store.open()?, folder),
            opened => opened,
        };
        opened.with_context(|| format!("cannot open the volume {}", folder.display()))
    }

    /// Opens a volume that may lack something.
    pub(super) fn open_volume_with(&self, store: &Store, folder: &Path) -> anyhow::Result<Volume> {
        let stores = Stores { objects: Some(Arc::clone(&store.objects)), ..self.keys.stores() };
        Volume::open_with(folder, stores)
            .with_context(|| format!("cannot open the volume {}", folder.display()))
    }

    /// What opening volumes takes of the host.
    ///
    /// # Errors
    /// When the folder of the objects cannot be made.
    pub(super) fn files(&self) -> anyhow::Result<FilesSpec> {
        let mut spec = FilesSpec::default();
        if let Ok(keys) = self.keys.path()
            && let Some(folder) = keys.parent()
        {
            // The file is replaced as a whole.
            spec.readable.push(folder.to_owned());
        }
        match self.store.objects.folder() {
            Some(folder) => {
                // What is not there now would not be there later.
                self.store.create()?;
                spec.writable.push(folder.to_owned());
            }
            None => {
                spec.has_network = true;
                spec.readable.extend(objects::files_of_bucket());
            }
        }
        Ok(spec)
    }

    /// Lets a snapshot be written that is to be encrypted.
    pub(super) fn unlock_writer(&self, writer: &mut SnapshotWriter) -> anyhow::Result<()> {
        if writer.key().is_some() {
            writer.unlock(&self.keys.open()?)?;
        }
        Ok(())
    }

    /// Opens a snapshot, to be read.
    pub(super) fn open_snapshot(&self, name: SnapshotName) -> anyhow::Result<Snapshot> {
        let mut snapshot = self.store.open()?.snapshots().open(name)?;
        if snapshot.key().is_some() {
            snapshot.unlock(&self.keys.open()?)?;
        }
        Ok(snapshot)
    }
}

/// An object store. What fails for a while is tried again.
pub(crate) struct Store {
    pub(crate) objects: Arc<dyn ObjectStore>,
    folder: Option<PathBuf>,
}

/// The snapshots of a store, for who removes some.
pub(crate) struct Exclusive {
    pub(crate) snapshots: Snapshots,
    _lock: Option<File>,
}

impl Store {
    pub(crate) fn snapshots(&self) -> Snapshots {
        Snapshots::new(Arc::clone(&self.objects))
    }

    /// One process at a time removes: who comes meanwhile waits. Of a bucket only its owner can say who does.
    pub(crate) fn exclusive(&self) -> anyhow::Result<Exclusive> {
        let lock = self.folder.as_deref().map(Folder::lock).transpose();
        let lock = lock.context("cannot lock the object store")?;
        Ok(Exclusive { snapshots: self.snapshots(), _lock: lock })
    }
}
