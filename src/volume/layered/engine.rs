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
use super::format::{
    BLOCK_BYTES, BLOCKS_MAX, Base, BlockState, Covered, ENTRIES_MAX, Header, LayerEntry, Manifest, MapPage,
    RecordKind, Uuid,
};
use super::layer::{Geometry, Layer, Role};
use super::map::{LayerId, Location, Map};
use super::recovery::{read_map, replay};
use super::state::{State, map_page};
use super::storage::{Storage, StorageFile};
use super::stores::{Stores, read_decrypted};
use super::unsettled::{Unsettled, Work};
use crate::crypt::{Cipher, KeyError, WrappedKey};
use crate::snapshot::format::CHUNK_BLOCKS;
use crate::snapshot::{ObjectStore, Snapshot, SnapshotName};

const MANIFEST: &str = "volume";
const NEW_MANIFEST: &str = "volume.new";
/// When nothing was to be made durable for so long after the opening, there is time to prepare for it.
const IDLE: Duration = Duration::from_millis(100);
/// The name of the folder in messages.
const FOLDER: &str = "(its folder)";

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

/// What a new volume is made from.
pub(crate) struct Origin {
    pub(crate) volume: Uuid,
    pub(crate) snapshot: SnapshotName,
    pub(crate) blocks: u64,
    /// As the snapshot has it.
    pub(crate) key: Option<WrappedKey>,
}

/// A panic while one is held has left nothing that can be relied on.
const POISONED: &str = "no thread panics while it holds this lock";

/// Makes a volume of one empty layer.
///
/// # Errors
/// [`VolumeError::BadSize`], [`VolumeError::Exists`], or when the storage fails.
pub(crate) fn create<S: Storage>(
    storage: &S,
    size_bytes: u64,
    geometry: Geometry,
) -> Result<(), VolumeError> {
    create_from(storage, size_bytes, geometry, None)
}

/// Makes a volume of one empty layer, encrypted; `wrap` gives it a data key, which is of the lineage that it is told.
///
/// # Errors
/// As for [`create`], or what `wrap` says.
pub(crate) fn create_encrypted<S: Storage>(
    storage: &S,
    size_bytes: u64,
    geometry: Geometry,
    wrap: &dyn Fn(Uuid) -> Result<WrappedKey, KeyError>,
) -> Result<(), VolumeError> {
    make(storage, size_bytes, geometry, None, Some(wrap))
}

/// Makes a volume of what a snapshot holds, or of nothing.
///
/// # Errors
/// As for [`create`].
pub(crate) fn create_from<S: Storage>(
    storage: &S,
    size_bytes: u64,
    geometry: Geometry,
    origin: Option<&Origin>,
) -> Result<(), VolumeError> {
    make(storage, size_bytes, geometry, origin, None)
}

fn make<S: Storage>(
    storage: &S,
    size_bytes: u64,
    geometry: Geometry,
    origin: Option<&Origin>,
    wrap: Option<&dyn Fn(Uuid) -> Result<WrappedKey, KeyError>>,
) -> Result<(), VolumeError> {
    let blocks = checked_blocks(size_bytes)?;
    if storage.open(MANIFEST).is_ok() {
        return Err(VolumeError::Exists { file: MANIFEST.to_owned() });
    }
    remove_orphans(storage, &[])?;
    let volume = Uuid(storage.unique().map_err(io_error("choose a name for", MANIFEST))?);
    let mut manifest = Manifest {
        volume,
        blocks,
        lineage: volume,
        last: None,
        pending: None,
        base: None,
        next_layer: 1,
        layers: Vec::new(),
        key: wrap.map(|wrap| wrap(volume)).transpose()?,
    };
    if let Some(origin) = origin {
        (manifest.volume, manifest.lineage) = (origin.volume, origin.snapshot.lineage);
        manifest.base = Some(Base { snapshot: origin.snapshot.id, blocks: origin.blocks });
        manifest.key.clone_from(&origin.key);
        manifest.last = Some(Covered { snapshot: origin.snapshot.id, layer: 1, created_s: 0 });
        // Nothing but checkpoints is ever written to its log.
        let geometry = Geometry { log_pages: Header::LOG_PAGES_MIN, ..geometry };
        add_layer(storage, &mut manifest, geometry, Role::Lowest)?;
    }
    add_layer(storage, &mut manifest, geometry, Role::FirstTop)?;
    prepare_manifest(storage, &manifest)?;
    put_manifest(storage)
}

/// Makes an empty layer on top of the others, for a manifest that is not written yet.
fn add_layer<S: Storage>(
    storage: &S,
    manifest: &mut Manifest,
    geometry: Geometry,
    role: Role,
) -> Result<(), VolumeError> {
    let id = LayerId(manifest.next_layer);
    let (layer, _) = Layer::create(storage, id, manifest.blocks, geometry, role)?;
    manifest.layers.push(LayerEntry { id: id.0, uuid: layer.uuid });
    manifest.next_layer += 1;
    Ok(())
}

pub(crate) fn checked_blocks(size_bytes: u64) -> Result<u64, VolumeError> {
    let blocks = size_bytes / BLOCK_BYTES;
    if !size_bytes.is_multiple_of(BLOCK_BYTES) || !(1..=BLOCKS_MAX).contains(&blocks) {
        return Err(VolumeError::BadSize { size_bytes });
    }
    Ok(blocks)
}

pub(crate) fn read_manifest<S: Storage>(storage: &S) -> Result<Manifest, VolumeError> {
    let file = storage.open(MANIFEST).map_err(io_error("open", MANIFEST))?;
    let len = file.len().map_err(io_error("find the length of", MANIFEST))?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(Manifest::LEN_MAX + 1)];
    file.read_at(0, &mut bytes).map_err(io_error("read", MANIFEST))?;
    Manifest::decode(&bytes).map_err(|damage| VolumeError::Damaged {
        file: MANIFEST.to_owned(),
        offset: damage.offset,
        what: damage.what,
    })
}

/// Replaces the manifest of a volume that is not open, in one step.
pub(crate) fn replace_manifest<S: Storage>(storage: &S, manifest: &Manifest) -> Result<(), VolumeError> {
    prepare_manifest(storage, manifest)?;
    put_manifest(storage)
}

/// Writes a manifest beside the one that counts. What was named before is durable with it.
fn prepare_manifest<S: Storage>(storage: &S, manifest: &Manifest) -> Result<(), VolumeError> {
    if names(storage)?.iter().any(|name| name == NEW_MANIFEST) {
        storage.remove(NEW_MANIFEST).map_err(io_error("remove", NEW_MANIFEST))?;
    }
    let file = storage.create(NEW_MANIFEST).map_err(io_error("create", NEW_MANIFEST))?;
    file.write_at(0, &manifest.encode()).map_err(io_error("write", NEW_MANIFEST))?;
    file.sync_data().map_err(io_error("sync", NEW_MANIFEST))?;
    storage.sync_folder().map_err(io_error("sync the folder", FOLDER))
}

/// Makes the manifest that was prepared the one that counts. After an error nobody knows which one does.
fn put_manifest<S: Storage>(storage: &S) -> Result<(), VolumeError> {
    storage.rename(NEW_MANIFEST, MANIFEST).map_err(io_error("rename", NEW_MANIFEST))?;
    storage.sync_folder().map_err(io_error("sync the folder", FOLDER))
}

fn names<S: Storage>(storage: &S) -> Result<Vec<String>, VolumeError> {
    storage.names().map_err(io_error("list the files", FOLDER))
}

/// The files of layers that the manifest does not name: of what was begun and not ended.
pub(crate) fn orphans<S: Storage>(storage: &S, layers: &[LayerEntry]) -> Result<Vec<String>, VolumeError> {
    let is_orphan = |name: &String| {
        let Some(rest) = name.strip_prefix("layer-") else { return false };
        let id = rest.split('.').next().and_then(|id| id.parse::<u32>().ok());
        id.is_some_and(|id| !layers.iter().any(|layer| layer.id == id))
    };
    Ok(names(storage)?.into_iter().filter(is_orphan).collect())
}

pub(crate) fn remove_orphans<S: Storage>(storage: &S, layers: &[LayerEntry]) -> Result<(), VolumeError> {
    orphans(storage, layers)?
        .into_iter()
        .try_for_each(|name| storage.remove(&name).map_err(io_error("remove", &name)))
}

impl<S: Storage> Engine<S> {
    /// Opens a volume: reads the maps and the logs of its layers, and settles what a crash left open.
    ///
    /// # Errors
    /// [`VolumeError::Damaged`] when anything is not as it was written, or when the storage fails.
    #[cfg(test)]
    pub(crate) fn open(storage: S) -> Result<Self, VolumeError> {
        Self::open_with(storage, Stores::default())
    }

    /// As [`open`](Self::open), with the stores that have the volume's snapshots and its key.
    ///
    /// # Errors
    /// As for [`open`](Self::open); [`VolumeError::NeedsStore`] and [`VolumeError::Fetch`] for a volume that lacks something of the one it
    /// was made from; [`VolumeError::NeedsKey`] and [`VolumeError::Key`] for one that is encrypted.
    pub(crate) fn open_with(storage: S, stores: impl Into<Stores>) -> Result<Self, VolumeError> {
        let stores = stores.into();
        let manifest = read_manifest(&storage)?;
        let cipher = stores.unlock(&manifest)?;
        Self::settle(storage, manifest, stores.objects, cipher)
    }

    /// Settles what a crash left open, for which no key is needed.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(crate) fn repair(storage: S) -> Result<(), VolumeError> {
        let manifest = read_manifest(&storage)?;
        Self::settle(storage, manifest, None, None).map(drop)
    }

    fn settle(
        storage: S,
        manifest: Manifest,
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
        let mut unsettled = Unsettled::new(Arc::clone(&top), books.pages.keys().copied().collect());
        // What an earlier process wrote may be in the page cache alone, and is seen as if it were there to stay.
        unsettled.touch(&(0..top.blocks));
        Ok(Self {
            state: Mutex::new(State::new(unsettled, stack.len() == 1, base.is_some())),
            objects,
            base,
            blocks: AtomicU64::new(manifest.blocks),
            turn: Mutex::new(Turn { manifest, books: BTreeMap::from([(top.id, books)]) }),
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
