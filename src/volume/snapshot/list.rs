//! Which chunks a snapshot has, and which differ between two of one lineage.

use super::error::SnapshotError;
use super::format::{BLOCKS_MAX, CHUNK_BLOCKS, Level, PAGE_ENTRIES, Place};
use super::reader::Snapshot;

impl Snapshot {
    /// The chunks that are not all zeroes, from `first` on, at most `most` of them.
    ///
    /// # Errors
    /// As for [`chunk`](Self::chunk).
    pub fn chunks(&self, first: u64, most: usize) -> Result<Vec<u64>, SnapshotError> {
        Ok(self.entries(first, most)?.into_iter().map(|(index, _)| index).collect())
    }

    /// The chunks that are others than in `older`, from `first` on, at most `most` of them: those of zeroes in one and not in the other
    /// too. Parts of the table that the two share are not looked at.
    ///
    /// # Errors
    /// [`SnapshotError::OtherLineage`], or as for [`chunk`](Self::chunk).
    pub fn changed(&self, older: &Snapshot, first: u64, most: usize) -> Result<Vec<u64>, SnapshotError> {
        if self.name().lineage != older.name().lineage {
            return Err(SnapshotError::OtherLineage { older: older.name(), newer: self.name() });
        }
        let mut found = Vec::new();
        let mut next = first;
        let end = BLOCKS_MAX / CHUNK_BLOCKS;
        while next < end && found.len() < most {
            let leaf = next / PAGE_ENTRIES;
            if self.has_same(older, Place::Page(Level::Node, leaf / PAGE_ENTRIES))? {
                next = (leaf / PAGE_ENTRIES + 1) * PAGE_ENTRIES * PAGE_ENTRIES;
            } else if self.has_same(older, Place::Page(Level::Leaf, leaf))? {
                next = (leaf + 1) * PAGE_ENTRIES;
            } else {
                if !self.has_same(older, Place::Chunk(next))? {
                    found.push(next);
                }
                next += 1;
            }
        }
        Ok(found)
    }

    /// Whether both have the same bytes in a place: they may be two objects.
    fn has_same(&self, other: &Snapshot, place: Place) -> Result<bool, SnapshotError> {
        let hash =
            |snapshot: &Snapshot| Ok::<_, SnapshotError>(snapshot.entry(place)?.map(|entry| entry.name.hash));
        Ok(hash(self)? == hash(other)?)
    }
}
