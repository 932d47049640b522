//! Removing snapshots, and exactly what no other needs.
//!
//! ```text
//!   1  the manifest is put under deleted/           it will be deleted, whatever happens
//!   2  the manifest under snapshots/ is removed     nobody finds it any more
//!   3  what it names and no other snapshot names in the same place is removed: chunks before the leaf that names them,
//!      leaves before their node, nodes before the manifest
//!   4  the manifest under deleted/ is removed
//! ```
//!
//! Stopped anywhere, it goes on when the next snapshot of the lineage is deleted, or by [`Snapshots::collect`]. Sharing goes place by place
//! from parent to child, and a key is never used again, so what is unneeded once stays so, and removing it twice or late does no harm.
//!
//! **What is being made meanwhile** relies on nothing but its parent, and says so by a pin before it looks whether the parent is there.
//! Here the manifest goes first and the pins are looked at after that. So either the parent is found missing there, or the pin is found
//! here; then the snapshot keeps what it names, and is removed when the pin is gone. A volume that has not fetched all of a snapshot pins
//! it likewise.
//!
//! Two processes must not collect the same lineage at once: what a snapshot keeps for another could then be looked at while it changes
//! hands. Within a process [`Snapshots`] sees to it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::SnapshotError;
use super::format::{Entry, Kind, Level, Manifest, Page, Pin, Place, SnapshotName, Uuid, encode, from_hex};
use super::parallel;
use super::reader::{self, Snapshot, SnapshotInfo};
use super::store::{self, ObjectStore};

/// The snapshots in a store.
pub struct Snapshots {
    store: Arc<dyn ObjectStore>,
    /// Who removes.
    turn: Mutex<()>,
}

impl Snapshots {
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, turn: Mutex::new(()) }
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// All complete snapshots, in order of lineage and name.
    ///
    /// # Errors
    /// When the store fails.
    pub fn list(&self) -> Result<Vec<SnapshotName>, SnapshotError> {
        let keys = store::names(&*self.store, "snapshots/")?;
        Ok(keys.iter().filter_map(|key| key.replace('/', "-").parse().ok()).collect())
    }

    /// What is known of a complete snapshot.
    ///
    /// # Errors
    /// As for [`Snapshot::open`].
    pub fn info(&self, name: SnapshotName) -> Result<SnapshotInfo, SnapshotError> {
        Ok(self.open(name)?.info())
    }

    /// Opens a complete snapshot.
    ///
    /// # Errors
    /// As for [`Snapshot::open`].
    pub fn open(&self, name: SnapshotName) -> Result<Snapshot, SnapshotError> {
        Snapshot::open(Arc::clone(&self.store), name)
    }

    /// Deletes a snapshot. What a pin still needs of it goes later: see [`collect`](Self::collect).
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Damaged`] when it cannot be told what some snapshot names, or when the store fails; then
    /// the rest is done by the next call for the lineage.
    pub fn delete(&self, name: SnapshotName) -> Result<(), SnapshotError> {
        match reader::manifest(&*self.store, &name.manifest_key(), name)? {
            Some(manifest) => {
                self.store.put(&name.deleted_key(), &encode(Kind::Manifest, &manifest.encode()))?;
            }
            None if reader::exists(&*self.store, &name.deleted_key())? => {}
            None => return Err(SnapshotError::NotFound { name }),
        }
        self.collect(name).map(drop)
    }

    /// Ends all deletions that were begun in the lineage of `name`, as far as pins let it; says how many objects were removed.
    ///
    /// # Errors
    /// As for [`delete`](Self::delete).
    pub fn collect(&self, name: SnapshotName) -> Result<u64, SnapshotError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let lineage = name.lineage;
        let begun = self.ids(&SnapshotName::deleted(lineage))?;
        if begun.is_empty() {
            return Ok(0);
        }
        for id in &begun {
            self.store.delete(&name.with_id(*id).manifest_key())?;
        }
        // What moves on meanwhile moves from each of these lists to the next.
        let pinned = self.pinned(name)?;
        let mut needers = self.ids(&SnapshotName::manifests(lineage))?;
        needers.extend(self.ids(&SnapshotName::deleted(lineage))?);
        let (kept, doomed): (BTreeSet<Uuid>, BTreeSet<Uuid>) =
            begun.iter().partition(|id| pinned.contains(*id));
        needers.retain(|id| !doomed.contains(id));
        needers.extend(kept);
        let open = |id: Uuid| Snapshot::open_pinned(Arc::clone(&self.store), name.with_id(id));
        let needers: Vec<Snapshot> = needers.into_iter().map(open).collect::<Result<_, _>>()?;
        let mut removed = 0;
        for id in doomed {
            let snapshot = Snapshot::open_deleted(Arc::clone(&self.store), name.with_id(id))?;
            removed += Removal { snapshot: &snapshot, needers: &needers }.run()?;
            self.store.delete(&snapshot.name().deleted_key())?;
        }
        Ok(removed)
    }

    /// Removes all that a snapshot which may not be complete has in the store. Nobody may be making it any more.
    ///
    /// # Errors
    /// When the store fails; then it can be called again.
    pub fn cancel(&self, name: SnapshotName) -> Result<(), SnapshotError> {
        if reader::exists(&*self.store, &name.manifest_key())? {
            self.store.delete(&name.pin_key())?;
            return self.delete(name);
        }
        let prefix = name.data();
        let objects = store::names(&*self.store, &prefix)?;
        parallel(&objects, |object| self.store.delete(&format!("{prefix}{object}")))?;
        self.store.delete(&name.pin_key())?;
        self.collect(name).map(drop)
    }

    fn ids(&self, prefix: &str) -> Result<BTreeSet<Uuid>, SnapshotError> {
        let names = store::names(&*self.store, prefix)?;
        Ok(names.iter().filter_map(|name| from_hex(name).map(Uuid)).collect())
    }

    /// The snapshots that somebody relies on, and those that may not be complete yet.
    fn pinned(&self, name: SnapshotName) -> Result<BTreeSet<Uuid>, SnapshotError> {
        let mut pinned = BTreeSet::new();
        for holder in self.ids(&SnapshotName::pins(name.lineage))? {
            let key = name.with_id(holder).pin_key();
            let plain = match reader::fetch(&*self.store, &key, Kind::Pin, None) {
                Ok(plain) => plain,
                // Removed a moment ago: its holder has a manifest by now, or relies on nothing.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let pin = Pin::decode(&plain).map_err(|damage| SnapshotError::damaged(&key, damage))?;
            pinned.extend([pin.snapshot, pin.holder.id]);
        }
        Ok(pinned)
    }
}

/// What one snapshot names, less what others do.
struct Removal<'a> {
    snapshot: &'a Snapshot,
    needers: &'a [Snapshot],
}

impl Removal<'_> {
    fn run(&self) -> Result<u64, SnapshotError> {
        let mut removed = 0;
        let Manifest { nodes, .. } = self.snapshot.manifest();
        for node in nodes {
            removed += self.remove_page(Level::Node, u64::from(node.place), node)?;
        }
        Ok(removed)
    }

    fn is_needed(&self, place: Place, entry: &Entry) -> Result<bool, SnapshotError> {
        for needer in self.needers {
            if needer.entry(place)?.is_some_and(|other| other.name == entry.name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes a page and all that it alone leads to. Who needs a page needs what it leads to.
    fn remove_page(&self, level: Level, index: u64, entry: &Entry) -> Result<u64, SnapshotError> {
        let place = Place::Page(level, index);
        if self.is_needed(place, entry)? {
            return Ok(0);
        }
        let page = match self.snapshot.page(level, index) {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(0),
            // It went after all that it led to.
            Err(error) if error.is_not_found() => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut removed = match level {
            Level::Node => page.entries.iter().try_fold(0, |removed, leaf| {
                self.remove_page(Level::Leaf, page.number(leaf), leaf).map(|more| removed + more)
            })?,
            Level::Leaf => self.remove_chunks(&page)?,
        };
        self.remove(place, entry)?;
        removed += 1;
        Ok(removed)
    }

    fn remove_chunks(&self, page: &Page) -> Result<u64, SnapshotError> {
        let mut unneeded = Vec::new();
        for entry in &page.entries {
            let place = Place::Chunk(page.number(entry));
            if !self.is_needed(place, entry)? {
                unneeded.push((place, entry));
            }
        }
        parallel(&unneeded, |(place, entry)| self.remove(*place, entry))?;
        Ok(unneeded.len() as u64)
    }

    fn remove(&self, place: Place, entry: &Entry) -> Result<(), SnapshotError> {
        let key = self.snapshot.name().object_key(place, &entry.name);
        Ok(self.snapshot.store().delete(&key)?)
    }
}
