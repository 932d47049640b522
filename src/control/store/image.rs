//! The records in memory, and how transactions are judged.
//!
//! An [`Image`] is what readers see. A [`Draft`] is what it will be: transactions are judged against it one after the other, each seeing
//! what those before it did, and readers see none of that until the draft's [`Batch`] is applied.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::{Change, Changes, Compare, Entry, Key, Operation, Outcome, Revision, Txn, Value};

/// The records at a revision.
#[derive(Debug)]
pub(super) struct Image {
    revision: Revision,
    records: BTreeMap<Key, Entry>,
}

/// An image with transactions that nobody sees yet.
pub(super) struct Draft<'a> {
    image: &'a Image,
    batch: Batch,
}

/// What transactions do to an image.
pub(super) struct Batch {
    pub(super) revision: Revision,
    /// What each key has after the last of them.
    pub(super) records: BTreeMap<Key, Option<Entry>>,
    /// What the image had of those keys.
    pub(super) replaced: Vec<Entry>,
    /// What each of them changed, in order.
    pub(super) changes: Vec<Arc<Changes>>,
}

impl Image {
    pub(super) fn new(revision: Revision, records: BTreeMap<Key, Entry>) -> Self {
        Self { revision, records }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.records.get(key)
    }

    /// Those whose keys begin with a prefix, sorted.
    pub(super) fn range<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a Entry> {
        let from_prefix = (Bound::Included(prefix), Bound::Unbounded);
        let records = self.records.range::<[u8], _>(from_prefix).map(|(_, entry)| entry);
        records.take_while(move |entry| entry.key.starts_with(prefix))
    }

    /// Makes the draft true that a batch is of.
    pub(super) fn apply(&mut self, batch: Batch) {
        self.revision = batch.revision;
        for (key, record) in batch.records {
            match record {
                Some(entry) => self.records.insert(key, entry),
                None => self.records.remove(&key),
            };
        }
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(image: &'a Image) -> Self {
        let batch = Batch {
            revision: image.revision,
            records: BTreeMap::new(),
            replaced: Vec::new(),
            changes: Vec::new(),
        };
        Self { image, batch }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        match self.batch.records.get(key) {
            Some(record) => record.as_ref(),
            None => self.image.get(key),
        }
    }

    /// Does what a valid transaction says, if its compares hold.
    pub(super) fn judge(&mut self, txn: Txn) -> Outcome {
        if !txn.compares().iter().all(|compare| self.holds(compare)) {
            return Outcome::Conflict(self.batch.revision);
        }
        Outcome::Committed(self.change(txn.into_operations()))
    }

    /// Does what operations on different keys say, as one revision; returns the revision then.
    pub(super) fn change(&mut self, operations: Vec<Operation>) -> Revision {
        let revision = self.batch.revision.next();
        let mut changes = Vec::with_capacity(operations.len());
        for operation in operations {
            match operation {
                Operation::Put { key, value } => changes.push(Change::Put(self.put(key, value, revision))),
                Operation::Delete { key } if self.get(&key).is_some() => {
                    self.set(key.clone(), None);
                    changes.push(Change::Delete(key));
                }
                Operation::Delete { .. } => {}
            }
        }
        if !changes.is_empty() {
            self.batch.revision = revision;
            self.batch.changes.push(Arc::new(Changes { revision, changes }));
        }
        self.batch.revision
    }

    fn put(&mut self, key: Key, value: Value, revision: Revision) -> Entry {
        let (create_revision, version) = match self.get(&key) {
            Some(old) => (old.create_revision, old.version + 1),
            None => (revision, 1),
        };
        let entry = Entry { key: key.clone(), value, create_revision, mod_revision: revision, version };
        self.set(key, Some(entry.clone()));
        entry
    }

    fn set(&mut self, key: Key, record: Option<Entry>) {
        let image = self.image;
        if self.batch.records.insert(key.clone(), record).is_none() {
            self.batch.replaced.extend(image.get(&key).cloned());
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.get(compare.key());
        match *compare {
            Compare::ModRevision { is, .. } => entry.map_or(Revision::ZERO, |entry| entry.mod_revision) == is,
            Compare::CreateRevision { is, .. } => {
                entry.map_or(Revision::ZERO, |entry| entry.create_revision) == is
            }
        }
    }

    pub(super) fn into_batch(self) -> Batch {
        self.batch
    }
}
