//! Making a snapshot of a volume: a seal, and then what changed goes to the store while writers go on.
//!
//! ```text
//!   manifest: pending ──▶ chunks, tables ──▶ complete in the store ──▶ manifest: last ──▶ the pin is removed ──▶ pending no more
//!   with the seal          again and again, until it is done
//! ```
//!
//! Further ones can be begun meanwhile: each is sealed at once, and waits. They go to the store one after the other, in the order of their layers, so
//! that each needs what changed since the one before.
//!
//! Which chunks changed say the maps of the layers above the one that the last snapshot covers, up to the one that was sealed for this one.
//! What they hold, which is ciphertext if the volume is encrypted and goes to the store as such, say the layers up to that one: the map in memory where it names one of those, their maps on stable storage where a later
//! write hides them.
//!
//! If the last snapshot was deleted meanwhile, nobody knows what changed since another: then every chunk is read, and compared by its hash
//! with the newest snapshot of the lineage.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::base::FetchedFrom;
use super::books::Books;
use super::engine::{Engine, Stack};
use super::error::VolumeError;
use super::format::{BLOCK_BYTES, BlockState, Covered, Manifest, MapPage, PAGE_LEN, Uuid};
use super::layer::Layer;
use super::map::{LayerId, Location};
use super::merge::page_of;
use super::recovery::read_map;
use super::storage::Storage;
use crate::snapshot::format::{CHUNK_BLOCKS, CHUNK_LEN};
use crate::snapshot::{
    ObjectStore, Plan, Progress, Snapshot, SnapshotError, SnapshotName, SnapshotWriter, Snapshots, parallel,
    release,
};

/// Told of progress; says whether to go on.
pub(crate) type OnProgress<'a> = &'a (dyn Fn(Progress) -> bool + Sync);

impl<S: Storage> Engine<S> {
    fn name_of(&self, snapshot: Uuid) -> SnapshotName {
        SnapshotName { lineage: self.turn().manifest.lineage, id: snapshot }
    }

    /// The snapshots that were begun and have not come to their end, the oldest first.
    pub(crate) fn pending_snapshots(&self) -> Vec<SnapshotName> {
        let turn = self.turn();
        let name = |pending: &Covered| SnapshotName { lineage: turn.manifest.lineage, id: pending.snapshot };
        turn.manifest.pending.iter().map(name).collect()
    }

    /// The snapshot that the volume relies on: the one that it was made from, until it has all of it.
    pub(crate) fn origin(&self) -> Option<SnapshotName> {
        let base = self.turn().manifest.base;
        base.map(|base| self.name_of(base.snapshot))
    }

    /// Seals what is in the volume now for a snapshot of this id, unless it was begun already.
    ///
    /// # Errors
    /// [`VolumeError::TooManySnapshots`], or as for [`seal`](Self::seal).
    pub(crate) fn begin_snapshot(&self, id: Uuid, created_s: u64) -> Result<SnapshotName, VolumeError> {
        let structure = self.structure();
        let pending = self.pending_snapshots();
        if pending.len() >= Manifest::PENDING_MAX && pending.iter().all(|pending| pending.id != id) {
            return Err(VolumeError::TooManySnapshots { count: pending.len() });
        }
        if pending.iter().all(|pending| pending.id != id) {
            self.seal_for(&structure, |manifest, layer| {
                manifest.pending.push(Covered { snapshot: id, layer: layer.0, created_s });
            })?;
        }
        Ok(self.name_of(id))
    }

    /// Brings a snapshot that was begun to its end, and those before it. Of one that is not pending there is nothing to do.
    ///
    /// # Errors
    /// [`SnapshotError::Stopped`] when `progress` said so, or when the store or the storage fails; called again it goes on.
    pub(crate) fn upload_snapshot(
        &self,
        name: SnapshotName,
        store: &Arc<dyn ObjectStore>,
        progress: OnProgress<'_>,
    ) -> Result<(), SnapshotError> {
        let _uploading = self.uploading();
        // While others come first, nobody knows how much of this one is to be done.
        let before = |_| progress(Progress { done: 0, total: 0 });
        while self.pending_snapshots().contains(&name) {
            if !before(Progress { done: 0, total: 0 }) {
                return Err(SnapshotError::Stopped);
            }
            let is_next = self.pending_snapshots().first() == Some(&name);
            self.upload_next(store, if is_next { progress } else { &before })?;
        }
        Ok(())
    }

    /// Brings the oldest one to its end.
    fn upload_next(
        &self,
        store: &Arc<dyn ObjectStore>,
        progress: OnProgress<'_>,
    ) -> Result<(), SnapshotError> {
        let (pending, last) = {
            let turn = self.turn();
            (turn.manifest.pending.first().copied(), turn.manifest.last)
        };
        let Some(pending) = pending else { return Ok(()) };
        let name = self.name_of(pending.snapshot);
        if last.is_none_or(|last| last.snapshot != pending.snapshot) {
            let mut upload =
                Upload { engine: self, view: View::new(self, LayerId(pending.layer)), pending, last };
            upload.run(store, progress)?;
            self.change_manifest(|manifest| manifest.last = Some(pending))?;
        }
        // The pin goes when this volume knows that the snapshot is complete: without it that could be deleted before.
        release(&**store, name)?;
        Ok(self.forget_pending(name)?)
    }

    /// Gives up a snapshot that was begun, and removes what there is of it.
    ///
    /// # Errors
    /// When the store or the storage fails; called again it goes on.
    pub(crate) fn cancel_snapshot(
        &self,
        name: SnapshotName,
        snapshots: &Snapshots,
    ) -> Result<(), SnapshotError> {
        let _uploading = self.uploading();
        if self.pending_snapshots().contains(&name) {
            snapshots.cancel(name)?;
            self.forget_pending(name)?;
        }
        Ok(())
    }

    fn forget_pending(&self, name: SnapshotName) -> Result<(), VolumeError> {
        self.change_manifest(|manifest| manifest.pending.retain(|pending| pending.snapshot != name.id))
    }
}

/// Some of a volume's chunks: a bit for each, 16 MiB for the largest volume.
struct ChunkSet {
    words: Vec<u64>,
    count: u64,
}

impl ChunkSet {
    /// How many words' chunks are uploaded before their part of the table is: 64 leaves, or 32 GiB of the volume.
    const STEP_WORDS: usize = 1024;

    /// None of so many.
    fn new(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).expect("at most 2^21");
        Self { words: vec![0; words], count }
    }

    /// Adds a range, as far as there are such chunks.
    fn extend(&mut self, range: Range<u64>) {
        for index in range.start..range.end.min(self.count) {
            self.words[usize::try_from(index / 64).expect("at most 2^21")] |= 1 << (index % 64);
        }
    }

    fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Those of the next step, `start` being the end of the one before, and its end; nothing after the last one.
    fn step(&self, start: u64) -> Option<(Vec<u64>, u64)> {
        let first = usize::try_from(start / 64).ok().filter(|first| *first < self.words.len())?;
        let end = self.words.len().min(first + Self::STEP_WORDS);
        let bits = |word: usize| {
            (0..64).filter(move |bit| self.words[word] >> bit & 1 == 1).map(move |bit| word as u64 * 64 + bit)
        };
        Some(((first..end).flat_map(bits).collect(), end as u64 * 64))
    }
}

struct Upload<'a, S: Storage> {
    engine: &'a Engine<S>,
    view: View<'a, S>,
    pending: Covered,
    last: Option<Covered>,
}

impl<S: Storage> Upload<'_, S> {
    fn run(&mut self, store: &Arc<dyn ObjectStore>, progress: OnProgress<'_>) -> Result<(), SnapshotError> {
        let Some((writer, since)) = self.begin(store)? else { return Ok(()) };
        let chunks = self.chunks(&writer, since)?;
        let (done, total) = (AtomicU64::new(0), chunks.count());
        if !progress(Progress { done: 0, total }) {
            return Err(SnapshotError::Stopped);
        }
        let mut start = 0;
        while let Some((step, end)) = chunks.step(start) {
            parallel(&step, |index| {
                writer.put_stored_chunk(*index, &self.view.chunk(*index)?)?;
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if progress(Progress { done, total }) { Ok(()) } else { Err(SnapshotError::Stopped) }
            })?;
            writer.settle(end)?;
            start = end;
        }
        writer.complete()
    }

    /// Begins, or goes on; nothing if it is complete. With it the layer since which chunks may differ from the parent's, if that is known.
    fn begin(
        &self,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<Option<(SnapshotWriter, Option<u32>)>, SnapshotError> {
        let name = self.engine.name_of(self.pending.snapshot);
        let key = self.engine.turn().manifest.key.clone();
        let plan = |parent| Plan {
            name,
            parent,
            blocks: self.view.blocks(),
            created_s: self.pending.created_s,
            key: key.clone(),
        };
        let resume = |parent: Uuid| SnapshotWriter::resume(Arc::clone(store), plan(parent));
        let since = |writer: Option<SnapshotWriter>, since| Ok(writer.map(|writer| (writer, since)));
        let Some(last) = self.last else { return since(resume(Uuid::NONE)?, Some(0)) };
        match resume(last.snapshot) {
            Err(SnapshotError::NotFound { .. }) => {}
            result => return since(result?, Some(last.layer)),
        }
        let snapshots = Snapshots::new(Arc::clone(store));
        let mut others = Vec::new();
        for other in snapshots.list()?.into_iter().filter(|other| other.lineage == name.lineage) {
            // One that was deleted since is none to choose.
            if let Some(info) = snapshots.find(other)?
                && info.size_bytes <= plan(Uuid::NONE).blocks * BLOCK_BYTES
            {
                others.push((info.created_s, other.id));
            }
        }
        others.sort_unstable();
        for (_, other) in others.into_iter().rev() {
            match resume(other) {
                Err(SnapshotError::NotFound { .. }) => {}
                result => return since(result?, None),
            }
        }
        since(resume(Uuid::NONE)?, None)
    }

    /// The chunks that may differ from the parent's.
    fn chunks(&self, writer: &SnapshotWriter, since: Option<u32>) -> Result<ChunkSet, SnapshotError> {
        let mut chunks = ChunkSet::new(self.view.blocks().div_ceil(CHUNK_BLOCKS));
        let is_new = |layer: &&Arc<Layer<S::File>>| layer.id.0 > since.unwrap_or(0);
        for layer in self.view.layers.iter().filter(is_new) {
            read_map(layer, layer.read_header()?, |page| {
                for (first, count, _) in page.runs() {
                    chunks.extend(first / CHUNK_BLOCKS..(first + count).div_ceil(CHUNK_BLOCKS));
                }
            })?;
        }
        if since.is_none() {
            let sources = [writer.parent(), self.engine.base().map(|base| base.source())];
            for snapshot in sources.into_iter().flatten() {
                snapshot.for_each_chunk(|index| chunks.extend(index..index + 1))?;
            }
        }
        Ok(chunks)
    }
}

/// The volume as it was when a layer was sealed.
struct View<'a, S: Storage> {
    engine: &'a Engine<S>,
    top: LayerId,
    /// That layer and those below it, from the top down.
    layers: Stack<S::File>,
    /// Their metadata, read when first needed.
    books: Vec<OnceLock<Books>>,
}

impl<'a, S: Storage> View<'a, S> {
    fn new(engine: &'a Engine<S>, top: LayerId) -> Self {
        let stack = engine.stack();
        let layers: Stack<_> = stack.iter().rev().filter(|layer| layer.id <= top).cloned().collect();
        let books = layers.iter().map(|_| OnceLock::new()).collect();
        Self { engine, top, layers, books }
    }

    fn blocks(&self) -> u64 {
        self.layers.first().map_or(0, |layer| layer.blocks)
    }

    fn chunk(&self, index: u64) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = vec![0; CHUNK_LEN];
        let first = index * CHUNK_BLOCKS;
        let end = (first + CHUNK_BLOCKS).min(self.blocks());
        let mut next = first;
        while next < end {
            let (location, count) = self.engine.map.run(next, end - next);
            let at = |block: u64| usize::try_from((block - first) * BLOCK_BYTES).expect("within a chunk");
            match location {
                Location::Layer(id) if id <= self.top => {
                    let layer = self.layers.iter().find(|layer| layer.id == id);
                    let layer = layer.expect("the layers of a snapshot are not merged while it is made");
                    layer.read_blocks(next, &mut bytes[at(next)..at(next + count)])?;
                }
                Location::Absent if self.engine.lacks(next) => {
                    self.engine.fetch(index)?;
                    continue;
                }
                Location::Absent => {}
                // A later write hides what was there, or these are its zeroes.
                Location::Layer(_) | Location::Zero => {
                    for block in next..next + count {
                        self.block(block, &mut bytes[at(block)..at(block) + PAGE_LEN])?;
                    }
                }
            }
            next += count;
        }
        Ok(bytes)
    }

    /// Reads a block by the maps of the layers.
    fn block(&self, block: u64, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        // One answer for all that follows: it may be filled meanwhile.
        let base = self.engine.base();
        for index in 0..self.layers.len() {
            match self.state(base, index, block)? {
                BlockState::Data => return Ok(self.layers[index].read_blocks(block, bytes)?),
                BlockState::Zero => return Ok(()),
                BlockState::Absent => {}
            }
        }
        let Some(base) = base.filter(|base| base.has(block)) else { return Ok(()) };
        // Hidden for the volume, and never fetched.
        self.engine.fetch(block / CHUNK_BLOCKS)?;
        if base.state(block)? == BlockState::Data {
            base.layer().read_blocks(block, bytes)?;
        }
        Ok(())
    }

    fn state(
        &self,
        base: Option<&FetchedFrom<S::File>>,
        index: usize,
        block: u64,
    ) -> Result<BlockState, VolumeError> {
        let layer = &self.layers[index];
        if let Some(base) = base.filter(|base| base.layer().id == layer.id) {
            return base.state(block);
        }
        let books = match self.books[index].get() {
            Some(books) => books,
            None => {
                let books = read_map(layer, layer.read_header()?, |_| {})?;
                self.books[index].get_or_init(|| books)
            }
        };
        let page = block / MapPage::BLOCKS;
        if !books.pages.contains_key(&page) {
            return Ok(BlockState::Absent);
        }
        Ok(page_of(layer, books, page)?.state(block % MapPage::BLOCKS))
    }
}

impl Snapshots {
    /// What is known of a snapshot, or nothing if there is none.
    fn find(&self, name: SnapshotName) -> Result<Option<crate::snapshot::SnapshotInfo>, SnapshotError> {
        match Snapshot::open(Arc::clone(self.store()), name) {
            Ok(snapshot) => Ok(Some(snapshot.info())),
            Err(SnapshotError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
