//! Making a snapshot: chunks first, then the pages that name them, then the manifest.
//!
//! ```text
//!   begin    the pin is put; then the parent must be there      from now on nothing that the parent names is removed
//!   put      a chunk that is not what the parent has there
//!   finish   pages, then the manifest                           the snapshot is complete
//!   release  the pin is removed
//! ```
//!
//! It may stop at any point, and begin anew under the same name: what is there already is not put again. What an attempt put that the
//! finished snapshot does not name is removed before the manifest is put.
//!
//! Whoever puts chunks in order may settle those of whole leaves now and then, so that a first snapshot of a large volume takes memory for
//! its leaves and not for its chunks. An attempt that goes on holds some 100 bytes for each object that the ones before have put.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::error::SnapshotError;
use super::format::{
    CHUNK_LEN, Entry, Hash, Kind, Level, Manifest, ObjectName, PAGE_ENTRIES, Page, Pin, Place, SnapshotName,
    Uuid, encode, from_hex, hash_of,
};
use super::parallel;
use super::reader::{Snapshot, exists};
use super::store::ObjectStore;
use crate::crypt::{Cipher, KeyError, KeyName, KeyStore, WrappedKey};
use crate::layered::format::BLOCK_BYTES;
use crate::sys;

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

impl Progress {
    /// From 0 to 100.
    pub fn percent(self) -> u64 {
        (self.done * 100).checked_div(self.total).unwrap_or(100)
    }
}

/// What snapshot is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) name: SnapshotName,
    /// The snapshot that it shares with; all zeroes for none.
    pub(crate) parent: Uuid,
    pub(crate) blocks: u64,
    pub(crate) created_s: u64,
    /// Of what is encrypted: the same data key as the parent has.
    pub(crate) key: Option<WrappedKey>,
}

/// What stands in a place of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Child {
    name: ObjectName,
    stored: u32,
}

type Changes = BTreeMap<u64, Option<Child>>;

/// A snapshot that is being made, by several threads.
pub struct SnapshotWriter {
    store: Arc<dyn ObjectStore>,
    plan: Plan,
    parent: Option<Snapshot>,
    cipher: Option<Cipher>,
    changes: Mutex<Changes>,
    /// What this snapshot has in the store and does not name, as far as is known yet.
    unnamed: Mutex<HashSet<(Place, Hash)>>,
    settled: Mutex<Settled>,
}

/// The part of a snapshot whose leaves are in the store.
struct Settled {
    /// The chunks before this one.
    end: u64,
    leaves: Changes,
    /// Chunks that are not all zeroes, in all of the snapshot as far as it is known.
    chunks: u64,
    /// Of objects that are the snapshot's own.
    own_bytes: u64,
}

const POISONED: &str = "no thread panics while it holds this lock";

/// Sixteen bytes that nobody else has.
pub(crate) fn unique() -> Result<Uuid, SnapshotError> {
    let mut bytes = [0; 16];
    sys::random(&mut bytes).map_err(|source| SnapshotError::NoName { source })?;
    Ok(Uuid(bytes))
}

impl SnapshotName {
    /// A name that nobody has, for another snapshot of the same lineage.
    ///
    /// # Errors
    /// [`SnapshotError::NoName`]
    pub fn another(self) -> Result<Self, SnapshotError> {
        Ok(self.with_id(unique()?))
    }
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl SnapshotWriter {
    /// Begins a snapshot of a volume of `size_bytes`, to be written chunk by chunk: what is not written is as in `parent`, or zeroes
    /// without one. The lineage is that of the parent, or new. It is encrypted if the parent is, and then must be [unlocked](Self::unlock).
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`] when there is no such parent, a bad size, or when the store fails.
    pub fn begin(
        store: Arc<dyn ObjectStore>,
        parent: Option<SnapshotName>,
        size_bytes: u64,
    ) -> Result<Self, SnapshotError> {
        let blocks = crate::layered::checked_blocks(size_bytes)?;
        let lineage = parent.map_or_else(unique, |parent| Ok(parent.lineage))?;
        let key = match parent {
            None => None,
            Some(parent) => Snapshot::open(Arc::clone(&store), parent)?.manifest().key.clone(),
        };
        let parent = parent.map_or(Uuid::NONE, |parent| parent.id);
        let name = SnapshotName { lineage, id: unique()? };
        let plan = Plan { name, parent, blocks, created_s: now_s(), key };
        Self::new(store, plan)
    }

    /// Begins a snapshot, or goes on with it; nothing if it was completed already, whether it is there still or not. What is complete must
    /// not be made again: what it shares may be shared by others by now, and what it shared with may be gone.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`] when the parent is gone, or when the store fails.
    pub(crate) fn resume(store: Arc<dyn ObjectStore>, plan: Plan) -> Result<Option<Self>, SnapshotError> {
        let Plan { name, parent, .. } = plan;
        pin(&*store, name, parent)?;
        if exists(&*store, &name.manifest_key())? || exists(&*store, &name.deleted_key())? {
            return Ok(None);
        }
        // Only now: who deletes it removes the manifest first, and looks for pins then.
        let parent = match parent {
            Uuid::NONE => None,
            parent => Some(Snapshot::open(Arc::clone(&store), name.with_id(parent))?),
        };
        if let Some(parent) = parent.as_ref().filter(|parent| parent.manifest().blocks > plan.blocks) {
            let snapshot_bytes = parent.size_bytes();
            return Err(SnapshotError::TooSmall { snapshot_bytes, volume_bytes: plan.blocks * BLOCK_BYTES });
        }
        let mut unnamed = HashSet::new();
        let prefix = name.data();
        store.list(&prefix, &mut |key| unnamed.extend(key.strip_prefix(&prefix).and_then(object_of)))?;
        let chunks = parent.as_ref().map_or(0, |parent| parent.manifest().chunks);
        let settled = Settled { end: 0, leaves: Changes::new(), chunks, own_bytes: 0 };
        let (unnamed, settled) = (Mutex::new(unnamed), Mutex::new(settled));
        Ok(Some(Self { store, plan, parent, cipher: None, changes: Mutex::default(), unnamed, settled }))
    }

    /// Begins a snapshot with a name that nobody has. Of one that cannot be begun nothing stays.
    pub(super) fn new(store: Arc<dyn ObjectStore>, plan: Plan) -> Result<Self, SnapshotError> {
        let name = plan.name;
        let begun = Self::resume(Arc::clone(&store), plan);
        if begun.is_err() {
            // The first error is the one to tell.
            let _ = release(&*store, name);
        }
        Ok(begun?.expect("the name is new"))
    }

    pub fn name(&self) -> SnapshotName {
        self.plan.name
    }

    /// The key that it is to be encrypted by.
    pub fn key(&self) -> Option<&KeyName> {
        self.plan.key.as_ref().map(|key| &key.name)
    }

    pub(crate) fn parent(&self) -> Option<&Snapshot> {
        self.parent.as_ref()
    }

    /// Lets [`put_chunk`](Self::put_chunk) encrypt, if the snapshot is to be encrypted.
    ///
    /// # Errors
    /// What the key store says.
    pub fn unlock(&mut self, keys: &dyn KeyStore) -> Result<(), SnapshotError> {
        if let Some(wrapped) = &self.plan.key {
            let key = wrapped.unwrap(keys, &self.plan.name.lineage.0)?;
            self.cipher = Some(Cipher::new(&key).map_err(|source| KeyError::NoMemory { source })?);
        }
        Ok(())
    }

    /// Puts a chunk of [`CHUNK_BYTES`](super::CHUNK_BYTES); what is beyond the end of the volume must be zeroes.
    ///
    /// # Errors
    /// [`SnapshotError::OutOfRange`], [`SnapshotError::NeedsKey`], or when the store fails.
    ///
    /// # Panics
    /// If it has another length, or was settled.
    pub fn put_chunk(&self, index: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        match (&self.cipher, &self.plan.key) {
            (None, None) => self.put_stored_chunk(index, bytes),
            (None, Some(key)) => Err(SnapshotError::NeedsKey { name: self.plan.name, key: key.name.clone() }),
            (Some(cipher), _) => {
                let mut bytes = bytes.to_vec();
                cipher.encrypt_data(index * super::CHUNK_BYTES, &mut bytes);
                self.put_stored_chunk(index, &bytes)
            }
        }
    }

    /// Puts a chunk as layers have it: encrypted already, if the snapshot is to be.
    pub(crate) fn put_stored_chunk(&self, index: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        assert_eq!(bytes.len(), CHUNK_LEN, "a chunk has its length");
        if index >= self.plan.blocks.div_ceil(super::format::CHUNK_BLOCKS) {
            let size_bytes = self.plan.blocks * BLOCK_BYTES;
            return Err(SnapshotError::OutOfRange { index, size_bytes });
        }
        assert!(index >= self.settled().end, "what was settled does not change");
        let change = match is_zero(bytes) {
            true => None,
            false => Some(self.put(Place::Chunk(index), Kind::Chunk, bytes)?),
        };
        let before = self.changes().insert(index, change).flatten();
        if let Some(child) = before.filter(|before| Some(*before) != change && self.is_own(before)) {
            self.unnamed().insert((Place::Chunk(index), child.name.hash));
        }
        Ok(())
    }

    fn is_own(&self, child: &Child) -> bool {
        child.name.origin == self.plan.name.id
    }

    /// Puts the leaves of all chunks before `end`, which is rounded down to whole ones: nothing more of these will be put. The memory that
    /// they took is free then.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) fn settle(&self, end: u64) -> Result<(), SnapshotError> {
        let end = end / PAGE_ENTRIES * PAGE_ENTRIES;
        let changes = {
            let mut changes = self.changes();
            let later = changes.split_off(&end);
            std::mem::replace(&mut *changes, later)
        };
        let mut settled = self.settled();
        settled.end = settled.end.max(end);
        settled.own_bytes += self.own_bytes(&changes);
        let (leaves, difference) = self.rewrite(Level::Leaf, changes)?;
        settled.chunks = settled.chunks.saturating_add_signed(difference);
        settled.own_bytes += self.own_bytes(&leaves);
        settled.leaves.extend(leaves);
        Ok(())
    }

    /// Puts an object, unless the parent has the same there or it is there already.
    fn put(&self, place: Place, kind: Kind, plain: &[u8]) -> Result<Child, SnapshotError> {
        let hash = hash_of(plain);
        if let Some(entry) = self.parent_entry(place)?.filter(|entry| entry.name.hash == hash) {
            return Ok(Child { name: entry.name, stored: entry.stored });
        }
        let name = ObjectName { origin: self.plan.name.id, hash };
        let object = encode(kind, plain);
        let stored = u32::try_from(object.len()).expect("at most a chunk and its head");
        let is_there = self.unnamed().remove(&(place, hash));
        if !is_there {
            self.store.put(&self.plan.name.object_key(place, &name), &object)?;
        }
        Ok(Child { name, stored })
    }

    fn parent_entry(&self, place: Place) -> Result<Option<Entry>, SnapshotError> {
        self.parent.as_ref().map_or(Ok(None), |parent| parent.entry(place))
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().expect(POISONED)
    }

    fn unnamed(&self) -> MutexGuard<'_, HashSet<(Place, Hash)>> {
        self.unnamed.lock().expect(POISONED)
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().expect(POISONED)
    }

    /// Puts what names the chunks; then the snapshot is complete, and nothing changes it.
    ///
    /// # Errors
    /// When the store fails; then it may be complete or not.
    pub fn finish(self) -> Result<SnapshotName, SnapshotError> {
        self.complete()?;
        self.release()?;
        Ok(self.plan.name)
    }

    /// As [`finish`](Self::finish), but the pin stays.
    pub(crate) fn complete(&self) -> Result<(), SnapshotError> {
        self.settle(u64::MAX)?;
        let (leaves, chunks, leaves_bytes) = {
            let mut settled = self.settled();
            (std::mem::take(&mut settled.leaves), settled.chunks, settled.own_bytes)
        };
        let (nodes, _) = self.rewrite(Level::Node, leaves)?;
        let own_bytes = leaves_bytes + self.own_bytes(&nodes);
        let old = self.parent.as_ref().map_or(&[][..], |parent| &parent.manifest().nodes);
        let Plan { name, parent, blocks, created_s, key } = self.plan.clone();
        let nodes = merged(old, nodes);
        let manifest = Manifest { name, parent, blocks, created_s, chunks, own_bytes, nodes, key };
        self.remove_unnamed()?;
        self.store.put(&name.manifest_key(), &encode(Kind::Manifest, &manifest.encode()))?;
        Ok(())
    }

    /// The bytes of those children that are this snapshot's own.
    fn own_bytes(&self, changes: &Changes) -> u64 {
        let own = changes.values().flatten().filter(|child| self.is_own(child));
        own.map(|child| u64::from(child.stored)).sum()
    }

    /// Puts the pages of a level in which something changed, and says what they are now, and how many more entries they have.
    fn rewrite(&self, level: Level, changes: Changes) -> Result<(Changes, i64), SnapshotError> {
        let mut pages: BTreeMap<u64, Changes> = BTreeMap::new();
        for (index, change) in changes {
            pages.entry(index / PAGE_ENTRIES).or_default().insert(index % PAGE_ENTRIES, change);
        }
        let pages: Vec<(u64, Changes)> = pages.into_iter().collect();
        let (rewritten, difference) = (Mutex::new(Changes::new()), AtomicI64::new(0));
        parallel(&pages, |(index, changes)| {
            let old = self.parent.as_ref().map_or(Ok(None), |parent| parent.page(level, *index))?;
            let old = old.as_ref().map_or(&[][..], |page| &page.entries);
            let page = Page { level, index: *index, entries: merged(old, changes.clone()) };
            let len = |entries: &[Entry]| i64::try_from(entries.len()).expect("at most PAGE_ENTRIES");
            difference.fetch_add(len(&page.entries) - len(old), Ordering::Relaxed);
            let child = match page.entries.is_empty() {
                true => None,
                false => Some(self.put(Place::Page(level, *index), Kind::Page, &page.encode())?),
            };
            rewritten.lock().expect(POISONED).insert(*index, child);
            Ok::<_, SnapshotError>(())
        })?;
        Ok((rewritten.into_inner().expect(POISONED), difference.into_inner()))
    }

    /// Removes what was put and is not named: of an attempt that had another parent, of a chunk that was put twice.
    fn remove_unnamed(&self) -> Result<(), SnapshotError> {
        let unnamed: Vec<_> = self.unnamed().iter().copied().collect();
        parallel(&unnamed, |(place, hash)| {
            let name = ObjectName { origin: self.plan.name.id, hash: *hash };
            self.store.delete(&self.plan.name.object_key(*place, &name))
        })?;
        Ok(())
    }

    fn release(&self) -> Result<(), SnapshotError> {
        release(&*self.store, self.plan.name)
    }
}

/// Removes the pin of a holder, which relies on nothing any more.
pub(crate) fn release(store: &dyn ObjectStore, holder: SnapshotName) -> Result<(), SnapshotError> {
    Ok(store.delete(&holder.pin_key())?)
}

/// Puts a pin: from now on nothing of the snapshot is removed, if it is complete yet.
pub(crate) fn pin(
    store: &dyn ObjectStore,
    holder: SnapshotName,
    snapshot: Uuid,
) -> Result<(), SnapshotError> {
    let pin = Pin { holder, snapshot };
    Ok(store.put(&holder.pin_key(), &encode(Kind::Pin, &pin.encode()))?)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The entries of a page after changes.
fn merged(old: &[Entry], changes: Changes) -> Vec<Entry> {
    let mut entries: BTreeMap<u64, Entry> =
        old.iter().map(|entry| (u64::from(entry.place), *entry)).collect();
    for (place, change) in changes {
        match change {
            None => entries.remove(&place),
            Some(Child { name, stored }) => {
                let entry = Entry { place: u32::try_from(place).expect("below PAGE_ENTRIES"), stored, name };
                entries.insert(place, entry)
            }
        };
    }
    entries.into_values().collect()
}

/// What an object is, by the end of its key; nothing if it is none of ours.
fn object_of(name: &str) -> Option<(Place, Hash)> {
    let (place, hash) = name.split_once('-')?;
    let index = place.get(1..)?.parse().ok()?;
    let place = match place.as_bytes()[0] {
        b'c' => Place::Chunk(index),
        b'l' => Place::Page(Level::Leaf, index),
        b'n' => Place::Page(Level::Node, index),
        _ => return None,
    };
    Some((place, from_hex(hash)?))
}
