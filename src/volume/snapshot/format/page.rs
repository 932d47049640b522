//! The table of chunks, in pages: of a *leaf* the entries are chunks, of a *node* they are leaves.
//!
//! ```text
//!   manifest ─▶ node N: 512 GiB ─▶ leaf L: 512 MiB ─▶ chunk C: 512 KiB          N = C / 2^20, L = C / 2^10
//! ```
//!
//! What is not there is all zeroes. Pages are objects like chunks: a snapshot that changes few chunks has few pages of its own.

use crate::layered::format::{Fields, put};

use super::{BLOCKS_MAX, CHUNK_BLOCKS, Damage, ObjectName, Uuid};

/// How many entries a page can have.
pub(crate) const PAGE_ENTRIES: u64 = 1024;
const ENTRIES_AT: usize = 16;
pub(super) const ENTRY_LEN: usize = 56;

/// A child of a page, or of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its place among the page's, below [`PAGE_ENTRIES`].
    pub(crate) place: u32,
    /// How many bytes it takes in the store.
    pub(crate) stored: u32,
    pub(crate) name: ObjectName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    Leaf,
    Node,
}

/// A page that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) level: Level,
    /// Which one of its level.
    pub(crate) index: u64,
    /// At least one, in order of their places.
    pub(crate) entries: Vec<Entry>,
}

pub(super) fn put_entries(bytes: &mut Vec<u8>, entries: &[Entry]) {
    for entry in entries {
        let at = bytes.len();
        bytes.resize(at + ENTRY_LEN, 0);
        put(bytes, at, entry.place.to_le_bytes());
        put(bytes, at + 4, entry.stored.to_le_bytes());
        put(bytes, at + 8, entry.name.origin.0);
        put(bytes, at + 24, entry.name.hash);
    }
}

pub(super) fn take_entries(bytes: &[u8], from: usize, count: u32, places: u64) -> Result<Vec<Entry>, Damage> {
    let len = u64::from(count) * ENTRY_LEN as u64;
    if u64::from(count) > places || bytes.len() as u64 != from as u64 + len {
        return Err(Damage::at(from, "the number of entries is wrong"));
    }
    let fields = Fields(bytes);
    let mut next = 0;
    let entries = (from..bytes.len()).step_by(ENTRY_LEN).map(|at| {
        let place = fields.u32(at);
        if u64::from(place) < next || u64::from(place) >= places {
            return Err(Damage::at(at, "the entries are out of order"));
        }
        next = u64::from(place) + 1;
        let name = ObjectName { origin: Uuid(fields.array(at + 8)), hash: fields.array(at + 24) };
        Ok(Entry { place, stored: fields.u32(at + 4), name })
    });
    entries.collect()
}

impl Page {
    /// How many pages of a level the largest volume has.
    fn count_max(level: Level) -> u64 {
        let leaves = BLOCKS_MAX / CHUNK_BLOCKS / PAGE_ENTRIES;
        match level {
            Level::Leaf => leaves,
            Level::Node => leaves / PAGE_ENTRIES,
        }
    }

    /// The plain bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; ENTRIES_AT];
        let count = u32::try_from(self.entries.len()).expect("at most PAGE_ENTRIES");
        let level: u32 = match self.level {
            Level::Leaf => 0,
            Level::Node => 1,
        };
        put(&mut bytes, 0, self.index.to_le_bytes());
        put(&mut bytes, 8, level.to_le_bytes());
        put(&mut bytes, 12, count.to_le_bytes());
        put_entries(&mut bytes, &self.entries);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.len() < ENTRIES_AT {
            return Err(Damage::at(bytes.len(), "the page ends too early"));
        }
        let fields = Fields(bytes);
        let level = match fields.u32(8) {
            0 => Level::Leaf,
            1 => Level::Node,
            _ => return Err(Damage::at(8, "the page is of a level that there is not")),
        };
        let index = fields.u64(0);
        if index >= Self::count_max(level) {
            return Err(Damage::at(0, "the page is of a place that there is not"));
        }
        let entries = take_entries(bytes, ENTRIES_AT, fields.u32(12), PAGE_ENTRIES)?;
        if entries.is_empty() {
            return Err(Damage::at(12, "the page is empty"));
        }
        Ok(Self { level, index, entries })
    }

    pub(crate) fn find(&self, place: u64) -> Option<&Entry> {
        let index = self.entries.binary_search_by_key(&place, |entry| u64::from(entry.place)).ok()?;
        self.entries.get(index)
    }

    /// The number of an entry among all of its level: of a chunk or of a leaf.
    pub(crate) fn number(&self, entry: &Entry) -> u64 {
        self.index * PAGE_ENTRIES + u64::from(entry.place)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_entries(places: u32) -> impl Strategy<Value = Vec<Entry>> {
        prop::collection::btree_map(0..places, any::<(u32, [u8; 16], [u8; 32])>(), 1..40).prop_map(
            |entries| {
                let entry = |(place, (stored, origin, hash))| {
                    let name = ObjectName { origin: Uuid(origin), hash };
                    Entry { place, stored, name }
                };
                entries.into_iter().map(entry).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(entries in any_entries(1024), index in 0u64..128, is_leaf in any::<bool>()) {
            let level = if is_leaf { Level::Leaf } else { Level::Node };
            let page = Page { level, index, entries };
            let bytes = page.encode();
            prop_assert_eq!(Page::decode(&bytes), Ok(page.clone()));
            prop_assert!(Page::decode(&bytes[..bytes.len() - 1]).is_err());
            for entry in &page.entries {
                prop_assert_eq!(page.find(u64::from(entry.place)), Some(entry));
            }
        }
    }
}
