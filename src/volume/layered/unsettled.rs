//! What a layer's files hold that its metadata on stable storage does not know yet.
//!
//! ```text
//!   a tracked write ends ─▶ new ──commit begins──▶ committing ──its sync returned──▶ in the log, and so settled
//! ```
//!
//! After a commit by a checked record its blocks are *unconfirmed*: their data must stay as it is, for after a crash it is compared
//! with the checksum. The next record that is durable confirms them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::format::{self, BlockState, ENTRIES_MAX, MapPage, RecordKind};
use super::in_flight::InFlight;
use super::layer::Layer;
use super::storage::StorageFile;

/// A change of one block that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    was: BlockState,
    now: BlockState,
    /// Of its data, if that is known and stands still.
    checksum: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Unsettled<F> {
    pub(crate) layer: Arc<Layer<F>>,
    new: BTreeMap<u64, Change>,
    committing: BTreeMap<u64, Change>,
    unconfirmed: HashSet<u64>,
    /// Those of the commit that is under way.
    unconfirmed_next: HashSet<u64>,
    /// The files that were written since their last sync began, as bits.
    dirty: u64,
    /// The map pages whose space is taken.
    reserved: HashSet<u64>,
}

/// What a commit has to make durable in one layer.
#[derive(Debug)]
pub(crate) struct Work<F> {
    pub(crate) layer: Arc<Layer<F>>,
    pub(crate) dirty: u64,
    pub(crate) kind: RecordKind,
    pub(crate) entries: Vec<format::Entry>,
    pub(crate) confirms: bool,
}

impl<F: StorageFile> Unsettled<F> {
    /// Of a layer whose metadata knows all; `reserved` are the map pages that it has.
    pub(crate) fn new(layer: Arc<Layer<F>>, reserved: HashSet<u64>) -> Self {
        Self {
            layer,
            new: BTreeMap::new(),
            committing: BTreeMap::new(),
            unconfirmed: HashSet::new(),
            unconfirmed_next: HashSet::new(),
            dirty: 0,
            reserved,
        }
    }

    /// How many blocks changed since the last commit began.
    pub(crate) fn len(&self) -> usize {
        self.new.len()
    }

    /// Whether any of these blocks changed since the last commit began.
    pub(crate) fn has_new(&self, blocks: &Range<u64>) -> bool {
        self.new.range(blocks.clone()).next().is_some()
    }

    /// Whether any of these blocks must stay as it is.
    pub(crate) fn has_unconfirmed(&self, blocks: &Range<u64>) -> bool {
        [&self.unconfirmed, &self.unconfirmed_next].into_iter().any(|set| {
            if set.len() as u64 <= blocks.end - blocks.start {
                set.iter().any(|block| blocks.contains(block))
            } else {
                blocks.clone().any(|block| set.contains(&block))
            }
        })
    }

    /// A map page of these blocks for which no space was taken yet.
    pub(crate) fn unreserved(&self, blocks: &Range<u64>) -> Option<u64> {
        let mut pages = blocks.start / MapPage::BLOCKS..=(blocks.end - 1) / MapPage::BLOCKS;
        pages.find(|page| !self.reserved.contains(page))
    }

    pub(crate) fn reserve(&mut self, page: u64) {
        self.reserved.insert(page);
    }

    /// Takes note that the files with these blocks were written to.
    pub(crate) fn touch(&mut self, blocks: &Range<u64>) {
        self.dirty |= self.layer.segments_of(blocks.start, blocks.end);
    }

    /// Takes note that a block of state `current` is of state `now`.
    pub(crate) fn change(&mut self, block: u64, current: BlockState, now: BlockState, checksum: Option<u32>) {
        let committing = &self.committing;
        match self.new.entry(block) {
            Entry::Occupied(entry) if entry.get().was == now => drop(entry.remove()),
            Entry::Occupied(mut entry) => {
                let was = entry.get().was;
                entry.insert(Change { was, now, checksum });
            }
            Entry::Vacant(entry) => {
                let was = committing.get(&block).map_or(current, |change| change.now);
                if was != now {
                    entry.insert(Change { was, now, checksum });
                }
            }
        }
    }

    /// A write of these blocks failed, so nobody knows their data.
    pub(crate) fn forget_checksums(&mut self, blocks: &Range<u64>) {
        self.new.range_mut(blocks.clone()).for_each(|(_, change)| change.checksum = None);
    }

    /// Takes what a commit has to make durable. It may be a checked one if `may_check`.
    pub(crate) fn begin(&mut self, in_flight: &InFlight, may_check: bool, confirm: bool) -> Option<Work<F>> {
        let confirms = confirm && !self.unconfirmed.is_empty();
        if self.new.is_empty() && self.dirty == 0 && !confirms {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        self.committing = std::mem::take(&mut self.new);
        let has_checksum = |(block, change): (&u64, &Change)| {
            change.now != BlockState::Data || change.checksum.is_some() && !in_flight.is_tracked(*block)
        };
        let is_checked = may_check
            && dirty & !1 == 0
            && self.committing.len() <= ENTRIES_MAX
            && self.committing.iter().all(has_checksum);
        let kind = if is_checked { RecordKind::Checked } else { RecordKind::Durable };
        if is_checked {
            let data = self.committing.iter().filter(|(_, change)| change.now == BlockState::Data);
            self.unconfirmed_next = data.map(|(block, _)| *block).collect();
        }
        Some(Work { layer: Arc::clone(&self.layer), dirty, kind, entries: self.entries(kind), confirms })
    }

    fn entries(&self, kind: RecordKind) -> Vec<format::Entry> {
        let mut entries: Vec<format::Entry> = Vec::new();
        for (block, change) in &self.committing {
            let is_alone = kind == RecordKind::Checked && change.now == BlockState::Data;
            let goes_on = |entry: &&mut format::Entry| {
                !is_alone && entry.state == change.now && entry.first + u64::from(entry.count) == *block
            };
            if let Some(entry) = entries.last_mut().filter(goes_on) {
                entry.count += 1;
            } else {
                let checksum = change.checksum.filter(|_| is_alone).unwrap_or(0);
                entries.push(format::Entry { first: *block, count: 1, state: change.now, checksum });
            }
        }
        entries
    }

    /// The commit that had this work is durable.
    pub(crate) fn end(&mut self, wrote_record: bool) {
        self.committing.clear();
        if wrote_record {
            self.unconfirmed = std::mem::take(&mut self.unconfirmed_next);
        }
    }

    /// A checkpoint is durable: nothing is looked up in the log any more.
    pub(crate) fn all_confirmed(&mut self) {
        self.unconfirmed.clear();
    }

    /// Puts the states that are durable into a map page that was filled with the current ones.
    pub(crate) fn correct(&self, page: &mut MapPage) {
        let start = page.index * MapPage::BLOCKS;
        let blocks = start..start + MapPage::BLOCKS;
        // What is committing was something else before what is new was.
        for changes in [&self.new, &self.committing] {
            changes.range(blocks.clone()).for_each(|(block, change)| page.set(block - start, change.was));
        }
    }

    /// Whether a block's state is durable.
    pub(crate) fn is_settled(&self, block: u64) -> bool {
        !self.new.contains_key(&block) && !self.committing.contains_key(&block)
    }
}
