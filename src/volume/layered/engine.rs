//! A volume that is open: its layers, its map, and what makes its writes durable.
//!
//! Queues ([`queue`](super::queue)) do the reading and writing; all that must be in order is done here, in rounds, one at a time:
//!
//! | what is new | what a round does |
//! | --- | --- |
//! | nothing | sync the files that were written to |
//! | few blocks, their checksums known, in one file | write one checked record, sync |
//! | else | sync the files, write records, sync |
//!
//! One round serves all flushes that were asked for before it began. After a sync that failed nothing is known of what the storage
//! holds, and it does not say so twice: the volume stops, writes and flushes fail, and what is there is what the next opening finds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use super::base::{FetchedFrom, chunks_in};
use super::books::Books;
use super::error::{VolumeError, io_error};
use super::folder::{prepare_manifest, put_manifest, read_manifest, remove_orphans};
use super::format::{BLOCK_BYTES, BlockState, ENTRIES_MAX, LayerEntry, Manifest, MapPage, RecordKind};
use super::layer::Layer;
use super::map::{LayerId, Location, Map};
use super::recovery::{read_map, replay};
use super::state::{State, map_page};
use super::storage::{Storage, StorageFile};
use super::stores::{Stores, read_decrypted};
use super::unsettled::{Unsettled, Work};
use crate::crypt::Cipher;
use crate::snapshot::format::CHUNK_BLOCKS;
use crate::snapshot::{ObjectStore, Snapshot, SnapshotName};

/// When nothing was to be made durable for so long after the opening, there is time to prepare for it.
const IDLE: Duration = Duration::from_millis(100);

/// The layers, the lowest first.
pub(crate) type Stack<F> = Vec<Arc<Layer<F>>>;

/// What only one thread changes at a time: whoever does has the turn.
pub(crate) struct Turn {
    pub(crate) manifest: Manifest,
    /// Of the layers that are not sealed.
    pub(crate) books: BTreeMap<LayerId, Books>,
}

pub(crate) struct Engine<S: Storage> {
    pub(crate) storage: S,
    pub(crate) map: Map,
    /// Of an encrypted volume.
    pub(crate) cipher: Option<Cipher>,
    state: Mutex<State<S::File>>,
    turn: Mutex<Turn>,
    /// Held by who brings snapshots to their end, or gives one up. It is taken before the next.
    uploading: Mutex<()>,
    /// Held while layers come and go.
    structure: Mutex<()>,
    stack: RwLock<Arc<Stack<S::File>>>,
    stack_version: AtomicU64,
    blocks: AtomicU64,
    /// Something happened that the committer, or who seals, may wait for.
    news: Condvar,
    /// Where snapshots are, if that was said.
    pub(crate) objects: Option<Arc<dyn ObjectStore>>,
    /// See [`base`](Engine::base).
    pub(crate) base: Option<FetchedFrom<S::File>>,
}

/// A panic while one is held has left nothing that can be relied on.
const POISONED: &str = "no thread panics while it holds this lock";

impl<S: Storage> Engine<S> {
    /// Opens a volume that lacks nothing.
    #[cfg(test)]
    pub(crate) fn open(storage: S) -> Result<Self, VolumeError> {
        Self::open_with(storage, Stores::default())
    }

    /// Opens a volume, with the stores that have its snapshots and its key: reads the maps and the logs of its layers, and settles what a
    /// crash left open.
    ///
    /// # Errors
    /// [`VolumeError::Damaged`] when anything is not as it was written, or when the storage fails; [`VolumeError::NeedsStore`] and
    /// [`VolumeError::Fetch`] for a volume that lacks something of the one it was made from; [`VolumeError::NeedsKey`] and
    /// [`VolumeError::Key`] for one that is encrypted.
    pub(crate) fn open_with(storage: S, stores: impl Into<Stores>) -> Result<Self, VolumeError> {
        let stores = stores.into();
        let manifest = read_manifest(&storage)?;
        let cipher = stores.unlock(&manifest)?;
        Self::settle(storage, manifest, stores.objects, cipher)
    }

    /// Settles what a crash left open, for which no key is needed.
    ///
    /// # Errors
    /// As for [`open_with`](Self::open_with).
    pub(crate) fn repair(storage: S) -> Result<(), VolumeError> {
        let manifest = read_manifest(&storage)?;
        Self::settle(storage, manifest, None, None).map(drop)
    }

    fn settle(
        storage: S,
        mut manifest: Manifest,
        objects: Option<Arc<dyn ObjectStore>>,
        cipher: Option<Cipher>,
    ) -> Result<Self, VolumeError> {
        let mut lowest = None;
        let source = open_source(&manifest, objects.as_ref())?;
        remove_orphans(&storage, &manifest.layers)?;
        let map = Map::new();
        let mut stack = Vec::new();
        let mut books = None;
        for (index, entry) in manifest.layers.iter().enumerate() {
            let is_top = index + 1 == manifest.layers.len();
            let mut chunks = BTreeMap::new();
            let (layer, layer_books) = open_layer(&storage, *entry, &map, is_top, |page| {
                if index == 0 && source.is_some() {
                    chunks.insert(page.index, chunks_in(page));
                }
            })?;
            if is_top && layer.blocks < manifest.blocks {
                let (file, what) = (layer.name(0), "the top layer is smaller than the volume");
                return Err(VolumeError::Damaged { file, offset: 40, what });
            }
            stack.push(Arc::new(layer));
            if index == 0 && source.is_some() {
                lowest = Some((Arc::clone(&stack[0]), layer_books, chunks));
            } else {
                books = Some(layer_books);
            }
        }
        let source_blocks = manifest.base.map_or(0, |base| base.blocks);
        let base = source.zip(lowest).map(|(source, (layer, books, chunks))| {
            FetchedFrom::new(source, layer, source_blocks, books, chunks)
        });
        let (top, books) = stack.last().cloned().zip(books).expect("a manifest has at least one layer");
        // A growth that was cut off between the two is brought to its end: a snapshot has the size of the layer that is sealed for it.
        manifest.blocks = top.blocks;
        let mut unsettled = Unsettled::new(Arc::clone(&top), books.pages.keys().copied().collect());
        // What an earlier process wrote may be in the page cache alone, and is seen as if it were there to stay.
        unsettled.touch(&(0..top.blocks));
        Ok(Self {
            state: Mutex::new(State::new(unsettled, stack.len() == 1, base.is_some())),
            objects,
            base,
            blocks: AtomicU64::new(manifest.blocks),
            turn: Mutex::new(Turn { manifest, books: BTreeMap::from([(top.id, books)]) }),
            uploading: Mutex::new(()),
            structure: Mutex::new(()),
            stack: RwLock::new(Arc::new(stack)),
            stack_version: AtomicU64::new(0),
            news: Condvar::new(),
            storage,
            map,
            cipher,
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State<S::File>> {
        self.state.lock().expect(POISONED)
    }

    /// Changes the state, and tells whoever waits for what came of it.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State<S::File>) -> T) -> T {
        let (result, is_news) = {
            let mut state = self.state();
            (change(&mut state), state.wants_round() || state.sealing().is_some())
        };
        if is_news {
            self.notify();
        }
        result
    }

    pub(crate) fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().expect(POISONED)
    }

    pub(crate) fn uploading(&self) -> MutexGuard<'_, ()> {
        self.uploading.lock().expect(POISONED)
    }

    pub(crate) fn structure(&self) -> MutexGuard<'_, ()> {
        self.structure.lock().expect(POISONED)
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.blocks.load(Ordering::Acquire) * BLOCK_BYTES
    }

    pub(crate) fn set_blocks(&self, blocks: u64) {
        self.blocks.store(blocks, Ordering::Release);
    }

    pub(crate) fn stack(&self) -> Arc<Stack<S::File>> {
        Arc::clone(&self.stack.read().expect(POISONED))
    }

    /// Changes with each [`set_stack`](Self::set_stack).
    pub(crate) fn stack_version(&self) -> u64 {
        self.stack_version.load(Ordering::Acquire)
    }

    pub(crate) fn set_stack(&self, stack: Stack<S::File>) {
        *self.stack.write().expect(POISONED) = Arc::new(stack);
        self.stack_version.fetch_add(1, Ordering::AcqRel);
    }

    /// Tells the committer, or who seals, that there may be something to do.
    pub(crate) fn notify(&self) {
        self.news.notify_all();
    }

    /// Does rounds as they are wanted, until `stop`.
    pub(crate) fn serve(&self, stop: &dyn Fn() -> bool) {
        let mut is_prepared = false;
        loop {
            let mut is_idle = false;
            {
                let mut state = self.state();
                while !state.wants_round() && !is_idle {
                    if stop() {
                        return;
                    }
                    if is_prepared {
                        state = self.news.wait(state).expect(POISONED);
                    } else {
                        let (after, waited) = self.news.wait_timeout(state, IDLE).expect(POISONED);
                        (state, is_idle) = (after, waited.timed_out());
                    }
                }
            }
            if !std::mem::replace(&mut is_prepared, true) {
                self.prepare_log();
            }
            if !is_idle {
                self.round();
            }
        }
    }

    /// Writes the log of a volume that is new.
    fn prepare_log(&self) {
        let turn = self.turn();
        let top = self.stack().last().cloned().expect("a stack has a top");
        if turn.books.get(&top.id).is_some_and(|books| books.next_sequence == 0) {
            // Its space was taken when it was made. If this fails, records are written all the same, or tell why not.
            let _ = top.prepare_log();
        }
    }

    /// Waits until `done` says so of the state, or the volume stopped.
    pub(crate) fn wait_until(&self, mut done: impl FnMut(&State<S::File>) -> bool) {
        let mut state = self.state();
        while !state.is_stopped() && !done(&state) {
            state = self.news.wait(state).expect(POISONED);
        }
    }

    /// Makes durable all that is new.
    pub(crate) fn round(&self) {
        // Why it stopped, its writes and flushes cannot be told; it is in the log of the process that asked for more.
        let _ = self.try_round(&mut self.turn());
    }

    /// As [`round`](Self::round), for who has the turn.
    ///
    /// # Errors
    /// When the storage failed, now or earlier; the volume is stopped.
    pub(crate) fn try_round(&self, turn: &mut Turn) -> Result<(), VolumeError> {
        let round = {
            let mut state = self.state();
            if state.is_stopped() {
                return Err(VolumeError::Stopped);
            }
            state.begin_round()
        };
        let result = round.works.iter().try_for_each(|work| self.commit(turn, work));
        if result.is_ok() {
            self.state().end_round(&round);
        }
        let result = result.and_then(|()| {
            round.works.iter().map(|work| &work.layer).try_for_each(|layer| {
                let is_full = turn.books[&layer.id].is_half_full();
                if is_full { self.checkpoint(turn, layer, false) } else { Ok(()) }
            })
        });
        self.or_stop(result)
    }

    /// Stops the volume after an error.
    pub(crate) fn or_stop<T>(&self, result: Result<T, VolumeError>) -> Result<T, VolumeError> {
        if result.is_err() {
            self.state().stop();
            self.notify();
        }
        result
    }

    /// Makes one layer's part of a round durable.
    fn commit(&self, turn: &mut Turn, work: &Work<S::File>) -> Result<(), VolumeError> {
        let layer = &work.layer;
        if work.entries.is_empty() && !work.confirms {
            return layer.sync_segments(work.dirty);
        }
        let records = work.entries.len().div_ceil(ENTRIES_MAX).max(1) as u64;
        if turn.books[&layer.id].room() < records {
            self.checkpoint(turn, layer, false)?;
        }
        let books = turn.books.get_mut(&layer.id).expect("an unsealed layer has books");
        // A record that tells no checksums may only be written when the data of its blocks is durable.
        if work.kind == RecordKind::Durable && !work.entries.is_empty() {
            layer.sync_segments(work.dirty)?;
            books.append(layer, work.kind, &work.entries)?;
            layer.sync(0)?;
        } else {
            books.append(layer, work.kind, &work.entries)?;
            layer.sync_segments(work.dirty | 1)?;
        }
        books.note(&work.entries);
        Ok(())
    }

    /// Puts a layer's map on stable storage and empties its log.
    pub(crate) fn checkpoint(
        &self,
        turn: &mut Turn,
        layer: &Arc<Layer<S::File>>,
        sealed: bool,
    ) -> Result<(), VolumeError> {
        let books = turn.books.get_mut(&layer.id).expect("an unsealed layer has books");
        let page = |index, generation| self.state().map_page(&self.map, layer, index, generation);
        books.checkpoint(layer, page, |header| {
            header.sealed |= sealed;
            header.blocks = header.blocks.max(layer.blocks);
        })?;
        self.state().checkpointed(layer.id);
        Ok(())
    }

    /// Replaces the manifest, in one step.
    pub(crate) fn write_manifest(&self, turn: &mut Turn, manifest: Manifest) -> Result<(), VolumeError> {
        prepare_manifest(&self.storage, &manifest)?;
        self.or_stop(put_manifest(&self.storage))?;
        turn.manifest = manifest;
        Ok(())
    }

    /// Changes what the manifest says of snapshots.
    pub(crate) fn change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> Result<(), VolumeError> {
        let mut turn = self.turn();
        let mut manifest = turn.manifest.clone();
        change(&mut manifest);
        self.write_manifest(&mut turn, manifest)
    }

    /// Fills the buffer from `offset`; the range is within the volume.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), VolumeError> {
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let block = at / BLOCK_BYTES;
            let within = at % BLOCK_BYTES;
            let blocks = (within + rest.len() as u64).div_ceil(BLOCK_BYTES);
            let (location, run) = self.map.run(block, blocks);
            let layer = match location {
                Location::Absent if self.lacks(block) => {
                    let fetched = self.fetch(block / CHUNK_BLOCKS);
                    fetched.map_err(|source| VolumeError::Fetch { source: source.into() })?;
                    continue;
                }
                Location::Absent | Location::Zero => None,
                // It can have been merged into another since the map was asked; that says so by now.
                Location::Layer(id) => match self.stack().iter().find(|layer| layer.id == id) {
                    Some(layer) => Some(Arc::clone(layer)),
                    None => continue,
                },
            };
            let run = layer.as_ref().map_or(run, |layer| run.min(layer.place(block).run));
            let len = (run * BLOCK_BYTES - within).min(rest.len() as u64);
            let (part, after) = rest.split_at_mut(usize::try_from(len).expect("at most the buffer"));
            match layer {
                None => part.fill(0),
                Some(layer) => {
                    let place = layer.place(block);
                    let (file, from) = (&**layer.segment(place.segment), place.offset + within);
                    let read = match &self.cipher {
                        None => file.read_at(from, part),
                        Some(cipher) => read_decrypted(cipher, file, from, at, part),
                    };
                    read.map_err(io_error("read", &layer.name(place.segment)))?;
                }
            }
            (at, rest) = (at + len, after);
        }
        Ok(())
    }
}

/// Opens the snapshot that a volume lacks something of.
fn open_source(
    manifest: &Manifest,
    objects: Option<&Arc<dyn ObjectStore>>,
) -> Result<Option<Snapshot>, VolumeError> {
    let Some(base) = manifest.base.filter(|base| base.blocks > 0) else { return Ok(None) };
    let snapshot = SnapshotName { lineage: manifest.lineage, id: base.snapshot };
    let objects = objects.ok_or(VolumeError::NeedsStore { snapshot })?;
    let source = Snapshot::open_pinned(Arc::clone(objects), snapshot);
    source.map(Some).map_err(|source| VolumeError::Fetch { source: source.into() })
}

/// Opens one layer and adds what it holds to the map, which has those below. Its log is emptied if there is anything in it, so that
/// nothing of a time before is looked up in it ever again; a layer that was being sealed is sealed.
fn open_layer<S: Storage>(
    storage: &S,
    entry: LayerEntry,
    map: &Map,
    is_top: bool,
    mut each: impl FnMut(&MapPage),
) -> Result<(Layer<S::File>, Books), VolumeError> {
    let (layer, header) = Layer::open(storage, entry)?;
    let put = |first, count, state| {
        let location = match state {
            BlockState::Data => Location::Layer(layer.id),
            BlockState::Zero => Location::Zero,
            BlockState::Absent => Location::Absent,
        };
        map.set(first, count, location);
    };
    let mut books = read_map(&layer, header, |page| {
        page.runs().for_each(|(first, count, state)| put(first, count, state));
        each(page);
    })?;
    replay(&layer, &mut books, |entry| put(entry.first, u64::from(entry.count), entry.state))?;
    let must_seal = !is_top && !header.sealed;
    if books.next_sequence != header.log_start || !books.dirty.is_empty() || must_seal {
        // What matched its checksum in the log may be in the page cache alone.
        layer.sync_segments(u64::MAX)?;
        let page = |index, generation| map_page(map, &layer, index, generation);
        books.checkpoint(&layer, page, |header| header.sealed |= !is_top)?;
    }
    Ok((layer, books))
}
