//! What a volume may need that is not in its folder: the store that has its snapshots, and the one that has its key.

use std::io;
use std::sync::Arc;

use super::error::VolumeError;
use super::folder::{read_manifest, replace_manifest};
use super::format::Manifest;
use super::storage::{Storage, StorageFile};
use crate::backend::SECTOR_BYTES;
use crate::crypt::{Cipher, KeyError, KeyName, KeyStore, WrappedKey};
use crate::snapshot::{ObjectStore, SnapshotError, SnapshotName, Snapshots, release};

/// What is outside of a volume's folder.
#[derive(Clone, Default)]
pub struct Stores {
    /// Where its snapshots are.
    pub objects: Option<Arc<dyn ObjectStore>>,
    /// Who has the key of an encrypted one.
    pub keys: Option<Arc<dyn KeyStore>>,
}

impl From<Option<Arc<dyn ObjectStore>>> for Stores {
    fn from(objects: Option<Arc<dyn ObjectStore>>) -> Self {
        Self { objects, keys: None }
    }
}

impl Stores {
    /// The cipher of a volume, if it is encrypted.
    pub(super) fn unlock(&self, manifest: &Manifest) -> Result<Option<Cipher>, VolumeError> {
        let Some(wrapped) = &manifest.key else { return Ok(None) };
        let needs_key = || VolumeError::NeedsKey { key: wrapped.name.clone() };
        let keys = self.keys.as_ref().ok_or_else(needs_key)?;
        let key = wrapped.unwrap(&**keys, &manifest.lineage.0)?;
        Ok(Some(Cipher::new(&key).map_err(|source| KeyError::NoMemory { source })?))
    }
}

/// Has a volume's data key wrapped by another key from now on; the data key and the data are the same.
///
/// # Errors
/// [`VolumeError::NotEncrypted`], [`VolumeError::Key`], or when the storage fails; then the volume is as it was.
pub(super) fn change_key<S: Storage>(
    storage: &S,
    keys: &dyn KeyStore,
    name: &KeyName,
) -> Result<(), VolumeError> {
    let mut manifest = read_manifest(storage)?;
    let lineage = manifest.lineage.0;
    let wrapped = manifest.key.as_ref().ok_or(VolumeError::NotEncrypted)?;
    let key = wrapped.unwrap(keys, &lineage)?;
    manifest.key = Some(WrappedKey::new(keys, name, &lineage, &key)?);
    replace_manifest(storage, &manifest)
}

/// Gives up what a store keeps for a volume that is to be removed.
///
/// # Errors
/// When the store fails; called again it goes on.
pub(super) fn forget(manifest: &Manifest, snapshots: &Snapshots) -> Result<(), SnapshotError> {
    let name = |id| SnapshotName { lineage: manifest.lineage, id };
    for pending in &manifest.pending {
        let name = name(pending.snapshot);
        match snapshots.open(name) {
            // Complete, and that was not written down any more.
            Ok(_) => release(&**snapshots.store(), name)?,
            Err(SnapshotError::NotFound { .. }) => snapshots.cancel(name)?,
            Err(error) => return Err(error),
        }
    }
    if let Some(base) = manifest.base {
        release(&**snapshots.store(), name(manifest.volume))?;
        // It may have been deleted, and kept for this volume.
        snapshots.collect(name(base.snapshot))?;
    }
    Ok(())
}

/// Reads what stands at `place` of a file and at `offset` of the volume, in sectors or parts of them.
pub(super) fn read_decrypted<F: StorageFile>(
    cipher: &Cipher,
    file: &F,
    place: u64,
    offset: u64,
    bytes: &mut [u8],
) -> io::Result<()> {
    let before = offset % SECTOR_BYTES;
    let start = usize::try_from(before).expect("less than a sector");
    let sector = usize::try_from(SECTOR_BYTES).expect("a small number");
    let mut sectors = vec![0; (start + bytes.len()).next_multiple_of(sector)];
    file.read_at(place - before, &mut sectors)?;
    cipher.decrypt(offset - before, &mut sectors);
    bytes.copy_from_slice(&sectors[start..start + bytes.len()]);
    Ok(())
}
