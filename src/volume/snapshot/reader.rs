//! Reading a snapshot: its table, page by page as it is needed, and its chunks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::SnapshotError;
use super::format::{
    BLOCKS_MAX, CHUNK_BLOCKS, CHUNK_BYTES, Damage, Entry, Kind, Level, Manifest, PAGE_ENTRIES, Page, Place,
    SnapshotName, Uuid, decode,
};
use super::store::{self, ObjectStore};
use crate::crypt::{Cipher, KeyError, KeyName, KeyStore};
use crate::layered::format::BLOCK_BYTES;

/// How often an object is fetched that is not as it was put, before it counts as damaged: it may have been the way here.
const TRIES: usize = 3;
/// How many pages of the table are kept.
const PAGES_MAX: usize = 256;

/// What is known of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub name: SnapshotName,
    /// The one that it was made from, which may be gone.
    pub parent: Option<SnapshotName>,
    /// Of the volume.
    pub size_bytes: u64,
    /// In seconds since 1970.
    pub created_s: u64,
    /// How many of its chunks are not all zeroes.
    pub chunks: u64,
    /// What it added to the store.
    pub own_bytes: u64,
}

type Pages = HashMap<(Level, u64), Arc<Page>>;

/// A snapshot that can be read, by several threads.
pub struct Snapshot {
    store: Arc<dyn ObjectStore>,
    manifest: Manifest,
    pages: Mutex<Pages>,
    /// Of an encrypted one that was unlocked.
    cipher: Option<Cipher>,
}

/// Fetches an object and checks it, again if it is damaged.
pub(crate) fn fetch(
    store: &dyn ObjectStore,
    key: &str,
    kind: Kind,
    entry: Option<&Entry>,
) -> Result<Vec<u8>, SnapshotError> {
    let mut tries = 1;
    loop {
        let damage = match decode(kind, store.get(key)?) {
            Ok((plain, hash)) if entry.is_none_or(|entry| entry.name.hash == hash) => return Ok(plain),
            Ok(_) => Damage::at(32, "the object is not the one that its name says"),
            Err(damage) => damage,
        };
        if tries == TRIES {
            return Err(SnapshotError::damaged(key, damage));
        }
        tries += 1;
    }
}

/// Reads a manifest that lies under a key; nothing if there is none.
pub(crate) fn manifest(
    store: &dyn ObjectStore,
    key: &str,
    name: SnapshotName,
) -> Result<Option<Manifest>, SnapshotError> {
    let plain = match fetch(store, key, Kind::Manifest, None) {
        Ok(plain) => plain,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let manifest = Manifest::decode(&plain).map_err(|damage| SnapshotError::damaged(key, damage))?;
    if manifest.name != name {
        return Err(SnapshotError::damaged(key, Damage::at(0, "the manifest is of another snapshot")));
    }
    Ok(Some(manifest))
}

impl Snapshot {
    /// Opens a complete snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Damaged`], or when the store fails.
    pub fn open(store: Arc<dyn ObjectStore>, name: SnapshotName) -> Result<Self, SnapshotError> {
        let manifest =
            manifest(&*store, &name.manifest_key(), name)?.ok_or(SnapshotError::NotFound { name })?;
        Ok(Self::new(store, manifest))
    }

    /// Opens a snapshot that may be deleted already, but is pinned.
    pub(crate) fn open_pinned(
        store: Arc<dyn ObjectStore>,
        name: SnapshotName,
    ) -> Result<Self, SnapshotError> {
        match Self::open(Arc::clone(&store), name) {
            // It is put there before it is removed here.
            Err(SnapshotError::NotFound { .. }) => Self::open_deleted(store, name),
            result => result,
        }
    }

    pub(crate) fn open_deleted(
        store: Arc<dyn ObjectStore>,
        name: SnapshotName,
    ) -> Result<Self, SnapshotError> {
        let manifest =
            manifest(&*store, &name.deleted_key(), name)?.ok_or(SnapshotError::NotFound { name })?;
        Ok(Self::new(store, manifest))
    }

    fn new(store: Arc<dyn ObjectStore>, manifest: Manifest) -> Self {
        Self { store, manifest, pages: Mutex::default(), cipher: None }
    }

    pub fn info(&self) -> SnapshotInfo {
        let Manifest { name, parent, blocks, created_s, chunks, own_bytes, .. } = self.manifest;
        let parent = (parent != Uuid::NONE).then(|| name.with_id(parent));
        SnapshotInfo { name, parent, size_bytes: blocks * BLOCK_BYTES, created_s, chunks, own_bytes }
    }

    pub fn name(&self) -> SnapshotName {
        self.manifest.name
    }

    /// The size of the volume, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.manifest.blocks * BLOCK_BYTES
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// What the table says of a place.
    pub(crate) fn entry(&self, place: Place) -> Result<Option<Entry>, SnapshotError> {
        let (level, index) = match place {
            Place::Page(Level::Node, index) => {
                let nodes = &self.manifest.nodes;
                return Ok(nodes.iter().find(|entry| u64::from(entry.place) == index).copied());
            }
            Place::Page(Level::Leaf, index) => (Level::Node, index),
            Place::Chunk(index) => (Level::Leaf, index),
        };
        let page = self.page(level, index / PAGE_ENTRIES)?;
        Ok(page.and_then(|page| page.find(index % PAGE_ENTRIES).copied()))
    }

    /// A page of the table; nothing if all that it would be about is zeroes.
    pub(crate) fn page(&self, level: Level, index: u64) -> Result<Option<Arc<Page>>, SnapshotError> {
        if let Some(page) = self.pages().get(&(level, index)) {
            return Ok(Some(Arc::clone(page)));
        }
        let place = Place::Page(level, index);
        let Some(entry) = self.entry(place)? else { return Ok(None) };
        let key = self.name().object_key(place, &entry.name);
        let plain = fetch(&*self.store, &key, Kind::Page, Some(&entry))?;
        let page = Page::decode(&plain).map_err(|damage| SnapshotError::damaged(&key, damage))?;
        if (page.level, page.index) != (level, index) {
            return Err(SnapshotError::damaged(&key, Damage::at(0, "the page belongs to another place")));
        }
        let page = Arc::new(page);
        let mut pages = self.pages();
        if pages.len() >= PAGES_MAX {
            pages.clear();
        }
        pages.insert((level, index), Arc::clone(&page));
        Ok(Some(page))
    }

    /// A panic leaves the pages as good as they were.
    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that an encrypted snapshot is unlocked with.
    pub fn key(&self) -> Option<&KeyName> {
        self.manifest.key.as_ref().map(|key| &key.name)
    }

    /// Makes the chunks of an encrypted snapshot readable; one that is not encrypted is as it was.
    ///
    /// # Errors
    /// What the key store says.
    pub fn unlock(&mut self, keys: &dyn KeyStore) -> Result<(), SnapshotError> {
        if let Some(wrapped) = &self.manifest.key {
            let key = wrapped.unwrap(keys, &self.name().lineage.0)?;
            self.cipher = Some(Cipher::new(&key).map_err(|source| KeyError::NoMemory { source })?);
        }
        Ok(())
    }

    /// The bytes of a chunk, [`CHUNK_BYTES`] of them; nothing if they are all zeroes.
    ///
    /// # Errors
    /// [`SnapshotError::OutOfRange`], [`SnapshotError::NeedsKey`] for an encrypted one that was not [unlocked](Self::unlock),
    /// [`SnapshotError::Damaged`], or when the store fails.
    pub fn chunk(&self, index: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
        if let (None, Some(key)) = (&self.cipher, self.key()) {
            return Err(SnapshotError::NeedsKey { name: self.name(), key: key.clone() });
        }
        let mut chunk = self.stored_chunk(index)?;
        if let (Some(cipher), Some(bytes)) = (&self.cipher, &mut chunk) {
            cipher.decrypt(index * CHUNK_BYTES, bytes);
        }
        Ok(chunk)
    }

    /// The bytes of a chunk as layers have them: encrypted, if the snapshot is.
    pub(crate) fn stored_chunk(&self, index: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
        if index >= self.chunk_count() {
            return Err(SnapshotError::OutOfRange { index, size_bytes: self.size_bytes() });
        }
        let Some(entry) = self.entry(Place::Chunk(index))? else { return Ok(None) };
        let key = self.name().object_key(Place::Chunk(index), &entry.name);
        let plain = fetch(&*self.store, &key, Kind::Chunk, Some(&entry))?;
        if plain.len() as u64 != CHUNK_BYTES {
            return Err(SnapshotError::damaged(&key, Damage::at(24, "the chunk has another length")));
        }
        Ok(Some(plain))
    }

    /// How many chunks the volume has, of zeroes or not.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.manifest.blocks.div_ceil(CHUNK_BLOCKS)
    }

    /// The chunks that are not all zeroes, from `first` on and at most `most`, with what the table says of each.
    pub(crate) fn entries(&self, first: u64, most: usize) -> Result<Vec<(u64, Entry)>, SnapshotError> {
        let mut found = Vec::new();
        let mut leaf = self.next_leaf(first / PAGE_ENTRIES)?;
        while let Some(page) = leaf {
            for entry in &page.entries {
                let index = page.number(entry);
                if index >= first && found.len() < most {
                    found.push((index, *entry));
                }
            }
            if found.len() == most {
                break;
            }
            leaf = self.next_leaf(page.index + 1)?;
        }
        Ok(found)
    }

    /// Whether chunk `first` is anything but zeroes, and for how many chunks before `end`, at least one, that is so.
    pub(crate) fn run(&self, first: u64, end: u64) -> Result<(bool, u64), SnapshotError> {
        let mut next = first;
        while next < end && self.entry(Place::Chunk(next))?.is_some() {
            next += 1;
        }
        if next > first {
            return Ok((true, next - first));
        }
        let found = self.entries(first, 1)?;
        let next = found.first().map_or(end, |(chunk, _)| end.min(*chunk));
        Ok((false, next - first))
    }

    /// The first leaf from a number on.
    fn next_leaf(&self, from: u64) -> Result<Option<Arc<Page>>, SnapshotError> {
        if from >= BLOCKS_MAX / CHUNK_BLOCKS / PAGE_ENTRIES {
            return Ok(None);
        }
        for node in &self.manifest.nodes {
            if u64::from(node.place) < from / PAGE_ENTRIES {
                continue;
            }
            let Some(page) = self.page(Level::Node, u64::from(node.place))? else { continue };
            let next = page.entries.iter().map(|entry| page.number(entry)).find(|leaf| *leaf >= from);
            if let Some(leaf) = next {
                return self.page(Level::Leaf, leaf);
            }
        }
        Ok(None)
    }
}

/// What lies under a key that is a name, if anything does.
pub(crate) fn exists(store: &dyn ObjectStore, key: &str) -> Result<bool, SnapshotError> {
    Ok(store::find(store, key)?.is_some())
}
