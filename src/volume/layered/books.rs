//! The metadata of a layer on stable storage: which map page is in which slot, and where its log ends.
//!
//! ```text
//!   append ─▶ append ─▶ … the log is half full ─▶ checkpoint: the map pages that records changed go to their older slots, sync,
//!                                                 header of the next generation, sync: the log is empty
//! ```
//!
//! A header of generation G makes those map pages count that are of the largest generation up to G, and carries a digest of exactly
//! these: so a checkpoint that did not come to its end changes nothing, and a page that was lost is missed.

use std::collections::{BTreeMap, BTreeSet};

use super::error::VolumeError;
use super::format::{BLOCKS_MAX, ENTRIES_MAX, Entry, Header, MapPage, Record, RecordKind};
use super::layer::Layer;
use super::storage::StorageFile;

/// Where the version of a map page stands that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) slot: u64,
    pub(crate) digest: u64,
}

/// The metadata of one layer.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) header: Header,
    pub(crate) pages: BTreeMap<u64, Slot>,
    /// Map pages that the log says more of than they do.
    pub(crate) dirty: BTreeSet<u64>,
    /// The number of the next record.
    pub(crate) next_sequence: u64,
}

impl Books {
    /// Of a layer that holds nothing.
    pub(crate) fn new(header: Header) -> Self {
        Self { next_sequence: header.log_start, header, pages: BTreeMap::new(), dirty: BTreeSet::new() }
    }

    /// How many more records the log takes.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.header.log_pages) - (self.next_sequence - self.header.log_start)
    }

    /// Whether it is time for a checkpoint.
    pub(crate) fn is_half_full(&self) -> bool {
        self.room() <= u64::from(self.header.log_pages / 2)
    }

    /// Writes records; the caller syncs. With no entries it is one record, that confirms those before it.
    pub(crate) fn append<F: StorageFile>(
        &mut self,
        layer: &Layer<F>,
        kind: RecordKind,
        entries: &[Entry],
    ) -> Result<(), VolumeError> {
        let group = self.next_sequence;
        let mut parts = entries.chunks(ENTRIES_MAX);
        let mut part = parts.next().unwrap_or_default();
        loop {
            assert!(self.room() > 0, "whoever appends makes room first");
            let sequence = self.next_sequence;
            let record = Record { layer: layer.uuid, sequence, group, kind, entries: part.to_vec() };
            layer.write_page(layer.log_offset(sequence), &record.encode())?;
            self.next_sequence += 1;
            match parts.next() {
                Some(next) => part = next,
                None => return Ok(()),
            }
        }
    }

    /// Takes note that the map pages of these entries say too little.
    pub(crate) fn note(&mut self, entries: &[Entry]) {
        for entry in entries {
            let last = entry.first + u64::from(entry.count) - 1;
            self.dirty.extend(entry.first / MapPage::BLOCKS..=last.min(BLOCKS_MAX) / MapPage::BLOCKS);
        }
    }

    /// Puts the map on stable storage and empties the log. `page` gives the content of a map page of a generation, as far as it is
    /// durable; `change` may change the header further.
    pub(crate) fn checkpoint<F: StorageFile>(
        &mut self,
        layer: &Layer<F>,
        mut page: impl FnMut(u64, u64) -> MapPage,
        change: impl FnOnce(&mut Header),
    ) -> Result<(), VolumeError> {
        let mut header = self.header;
        header.generation += 1;
        header.log_start = self.next_sequence;
        let dirty = std::mem::take(&mut self.dirty);
        for index in &dirty {
            let old = self.pages.get(index).copied();
            let slot = old.map_or(0, |old| 1 - old.slot);
            let (bytes, digest) = page(*index, header.generation).encode();
            layer.write_page(Layer::<F>::map_offset(*index, slot), &bytes)?;
            header.map_digest ^= digest ^ old.map_or(0, |old| old.digest);
            self.pages.insert(*index, Slot { slot, digest });
        }
        if !dirty.is_empty() {
            layer.sync(0)?;
        }
        header.map_pages = self.pages.len() as u64;
        change(&mut header);
        layer.write_header(&header)?;
        layer.sync(0)?;
        self.header = header;
        Ok(())
    }
}
