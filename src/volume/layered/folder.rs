//! The files of a volume in its folder: made, named by the manifest, or left over.

use super::error::{VolumeError, io_error};
use super::format::{BLOCK_BYTES, BLOCKS_MAX, Base, Covered, Header, LayerEntry, Manifest, Uuid};
use super::layer::{Geometry, Layer, Role};
use super::map::LayerId;
use super::storage::{Storage, StorageFile};
use crate::crypt::{KeyError, WrappedKey};
use crate::snapshot::SnapshotName;

const MANIFEST: &str = "volume";
const NEW_MANIFEST: &str = "volume.new";
/// The name of the folder in messages.
const FOLDER: &str = "(its folder)";

/// What a new volume is made from.
pub(crate) struct Origin {
    pub(crate) volume: Uuid,
    pub(crate) snapshot: SnapshotName,
    pub(crate) blocks: u64,
    /// As the snapshot has it.
    pub(crate) key: Option<WrappedKey>,
}

/// Makes a volume of one empty layer.
///
/// # Errors
/// [`VolumeError::BadSize`], [`VolumeError::Exists`], or when the storage fails.
pub(crate) fn create<S: Storage>(
    storage: &S,
    size_bytes: u64,
    geometry: Geometry,
) -> Result<(), VolumeError> {
    create_from(storage, size_bytes, geometry, None)
}

/// Makes a volume of one empty layer, encrypted; `wrap` gives it a data key, which is of the lineage that it is told.
///
/// # Errors
/// As for [`create`], or what `wrap` says.
pub(crate) fn create_encrypted<S: Storage>(
    storage: &S,
    size_bytes: u64,
    geometry: Geometry,
    wrap: &dyn Fn(Uuid) -> Result<WrappedKey, KeyError>,
) -> Result<(), VolumeError> {
    make(storage, size_bytes, geometry, None, Some(wrap))
}

/// Makes a volume of what a snapshot holds, or of nothing.
///
/// # Errors
/// As for [`create`].
pub(crate) fn create_from<S: Storage>(
    storage: &S,
    size_bytes: u64,
    geometry: Geometry,
    origin: Option<&Origin>,
) -> Result<(), VolumeError> {
    make(storage, size_bytes, geometry, origin, None)
}

fn make<S: Storage>(
    storage: &S,
    size_bytes: u64,
    geometry: Geometry,
    origin: Option<&Origin>,
    wrap: Option<&dyn Fn(Uuid) -> Result<WrappedKey, KeyError>>,
) -> Result<(), VolumeError> {
    let blocks = checked_blocks(size_bytes)?;
    ensure_vacant(storage)?;
    remove_orphans(storage, &[])?;
    let volume = Uuid(storage.unique().map_err(io_error("choose a name for", MANIFEST))?);
    let mut manifest = Manifest {
        volume,
        blocks,
        lineage: volume,
        last: None,
        pending: Vec::new(),
        base: None,
        next_layer: 1,
        layers: Vec::new(),
        key: wrap.map(|wrap| wrap(volume)).transpose()?,
    };
    let mut layers = Vec::new();
    if let Some(origin) = origin {
        (manifest.volume, manifest.lineage) = (origin.volume, origin.snapshot.lineage);
        manifest.base = Some(Base { snapshot: origin.snapshot.id, blocks: origin.blocks });
        manifest.key.clone_from(&origin.key);
        manifest.last = Some(Covered { snapshot: origin.snapshot.id, layer: 1, created_s: 0 });
        // Nothing but checkpoints is ever written to its log.
        let geometry = Geometry { log_pages: Header::LOG_PAGES_MIN, ..geometry };
        layers.push(add_layer(storage, &mut manifest, geometry, Role::Lowest)?);
    }
    layers.push(add_layer(storage, &mut manifest, geometry, Role::FirstTop)?);
    let file = write_manifest(storage, &manifest)?;
    // After all was written: a file system with a journal makes it durable by one commit, and not by one for each file.
    layers.iter().map(Layer::main).chain([&file]).for_each(StorageFile::begin_sync);
    layers.iter().try_for_each(|layer| layer.sync(0))?;
    sync_manifest(storage, &file)?;
    put_manifest(storage)
}

/// Makes sure that there is no volume.
pub(crate) fn ensure_vacant<S: Storage>(storage: &S) -> Result<(), VolumeError> {
    match storage.open(MANIFEST) {
        Ok(_) => Err(VolumeError::Exists { file: MANIFEST.to_owned() }),
        Err(_) => Ok(()),
    }
}

/// Makes an empty layer on top of the others, for a manifest that is not written yet.
fn add_layer<S: Storage>(
    storage: &S,
    manifest: &mut Manifest,
    geometry: Geometry,
    role: Role,
) -> Result<Layer<S::File>, VolumeError> {
    let id = LayerId(manifest.next_layer);
    let (layer, _) = Layer::create(storage, id, manifest.blocks, geometry, role)?;
    manifest.layers.push(LayerEntry { id: id.0, uuid: layer.uuid });
    manifest.next_layer += 1;
    Ok(layer)
}

pub(crate) fn checked_blocks(size_bytes: u64) -> Result<u64, VolumeError> {
    let blocks = size_bytes / BLOCK_BYTES;
    if !size_bytes.is_multiple_of(BLOCK_BYTES) || !(1..=BLOCKS_MAX).contains(&blocks) {
        return Err(VolumeError::BadSize { size_bytes });
    }
    Ok(blocks)
}

pub(crate) fn read_manifest<S: Storage>(storage: &S) -> Result<Manifest, VolumeError> {
    let file = storage.open(MANIFEST).map_err(io_error("open", MANIFEST))?;
    let len = file.len().map_err(io_error("find the length of", MANIFEST))?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(Manifest::LEN_MAX + 1)];
    file.read_at(0, &mut bytes).map_err(io_error("read", MANIFEST))?;
    Manifest::decode(&bytes).map_err(|damage| VolumeError::Damaged {
        file: MANIFEST.to_owned(),
        offset: damage.offset,
        what: damage.what,
    })
}

/// Replaces the manifest of a volume that is not open, in one step.
pub(crate) fn replace_manifest<S: Storage>(storage: &S, manifest: &Manifest) -> Result<(), VolumeError> {
    prepare_manifest(storage, manifest)?;
    put_manifest(storage)
}

/// Writes a manifest beside the one that counts. What was named before is durable with it.
pub(crate) fn prepare_manifest<S: Storage>(storage: &S, manifest: &Manifest) -> Result<(), VolumeError> {
    let file = write_manifest(storage, manifest)?;
    sync_manifest(storage, &file)
}

fn write_manifest<S: Storage>(storage: &S, manifest: &Manifest) -> Result<S::File, VolumeError> {
    if names(storage)?.iter().any(|name| name == NEW_MANIFEST) {
        storage.remove(NEW_MANIFEST).map_err(io_error("remove", NEW_MANIFEST))?;
    }
    let file = storage.create(NEW_MANIFEST).map_err(io_error("create", NEW_MANIFEST))?;
    file.write_at(0, &manifest.encode()).map_err(io_error("write", NEW_MANIFEST))?;
    Ok(file)
}

fn sync_manifest<S: Storage>(storage: &S, file: &S::File) -> Result<(), VolumeError> {
    file.sync_data().map_err(io_error("sync", NEW_MANIFEST))?;
    storage.sync_folder().map_err(io_error("sync the folder", FOLDER))
}

/// Makes the manifest that was prepared the one that counts. After an error nobody knows which one does.
pub(crate) fn put_manifest<S: Storage>(storage: &S) -> Result<(), VolumeError> {
    storage.rename(NEW_MANIFEST, MANIFEST).map_err(io_error("rename", NEW_MANIFEST))?;
    storage.sync_folder().map_err(io_error("sync the folder", FOLDER))
}

/// What has no manifest is no volume.
pub(crate) fn remove_manifest<S: Storage>(storage: &S) -> Result<(), VolumeError> {
    if names(storage)?.iter().any(|name| name == MANIFEST) {
        storage.remove(MANIFEST).map_err(io_error("remove", MANIFEST))?;
        storage.sync_folder().map_err(io_error("sync the folder", FOLDER))?;
    }
    Ok(())
}

fn names<S: Storage>(storage: &S) -> Result<Vec<String>, VolumeError> {
    storage.names().map_err(io_error("list the files", FOLDER))
}

/// The files of layers that the manifest does not name: of what was begun and not ended.
pub(crate) fn orphans<S: Storage>(storage: &S, layers: &[LayerEntry]) -> Result<Vec<String>, VolumeError> {
    let is_orphan = |name: &String| {
        let Some(rest) = name.strip_prefix("layer-") else { return false };
        let id = rest.split('.').next().and_then(|id| id.parse::<u32>().ok());
        id.is_some_and(|id| !layers.iter().any(|layer| layer.id == id))
    };
    Ok(names(storage)?.into_iter().filter(is_orphan).collect())
}

pub(crate) fn remove_orphans<S: Storage>(storage: &S, layers: &[LayerEntry]) -> Result<(), VolumeError> {
    orphans(storage, layers)?
        .into_iter()
        .try_for_each(|name| storage.remove(&name).map_err(io_error("remove", &name)))
}
