//! A volume that was made from a snapshot and has not all of it yet.
//!
//! ```text
//!   a block that no layer has ─▶ its chunk is wanted ─▶ fetched, checked ─▶ written to the lowest layer ─▶ the map has its blocks
//!                                     ▲                     │                                                │
//!                     the filler, chunk by chunk     readers have it                            a checkpoint, now and then
//! ```
//!
//! Who reads does not wait until a chunk is written: it is given what arrived, as long as the map says that no layer has it.
//!
//! As long as there is a base, a block that the map calls absent is one of the snapshot that was never fetched; what was fetched and is
//! zeroes the map calls zero. The lowest layer holds what was fetched and nothing else: chunks as a whole, in its map as soon as a
//! checkpoint has them. A crash before that costs fetching them again, and nothing is wrong meanwhile, because what was written since
//! stands in layers above. A volume has few blocks that it must fetch to write them: those that are written in part.
//!
//! When all is there, the lowest layer is one like any other, and the base is forgotten. Until then a pin keeps the snapshot's chunks in the
//! store, even if the snapshot is deleted.
//!
//! Locks are taken in this order: what is fetched (`local`), the state, a group of the map.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::books::Books;
use super::engine::Engine;
use super::error::{VolumeError, io_error};
use super::format::{BLOCK_BYTES, BlockState, MapPage, PAGE_LEN};
use super::layer::Layer;
use super::map::{LayerId, Location};
use super::merge::page_of;
use super::state::{Waiting, Waker};
use super::storage::{Storage, StorageFile, Way};
use crate::backend::{Content, Extent};
use crate::snapshot::format::CHUNK_BLOCKS;
use crate::snapshot::{Progress, Snapshot, SnapshotError, SnapshotName, release};

/// After so many chunks what was fetched is made durable: 64 MiB.
const SAVE_CHUNKS: u32 = 128;
/// How many threads help the one that gets what queues want.
const HELPERS_MAX: usize = 3;
/// How many chunks the filler asks the table for at a time.
const FILL_STEP: usize = 64;
const POISONED: &str = "no thread panics while it holds this lock";

pub(crate) struct FetchedFrom<F> {
    source: Snapshot,
    layer: Arc<Layer<F>>,
    /// The snapshot's size.
    blocks: u64,
    is_filled: AtomicBool,
    local: Mutex<Local>,
    wanted: Mutex<Wanted>,
    news: Condvar,
}

/// What was fetched.
struct Local {
    books: Books,
    /// Map pages of the lowest layer that are newer than those on stable storage.
    pages: BTreeMap<u64, MapPage>,
    /// For each map page its chunks that are there, as bits.
    chunks: BTreeMap<u64, u128>,
    unsaved: u32,
}

/// The bytes of a chunk as layers have them; nothing if they are all zeroes.
pub(crate) type ChunkBytes = Option<Arc<Vec<u8>>>;

/// What became of a chunk that a queue wants.
#[derive(Debug)]
pub(crate) enum Want {
    /// It was not there yet; the waker is called when there is news.
    Waits,
    /// It is being written to the lowest layer.
    Arrived(ChunkBytes),
    Failed,
}

/// What is to be fetched.
#[derive(Default)]
struct Wanted {
    queue: VecDeque<u64>,
    queued: HashSet<u64>,
    under_way: HashSet<u64>,
    /// Of those that are under way, what was fetched and is not in the map yet.
    arrived: HashMap<u64, ChunkBytes>,
    /// The chunks that could not be fetched, and when: one more with each failure.
    failures: HashMap<u64, u64>,
    clock: u64,
    waiting: Waiting,
    is_stopped: bool,
}

impl Wanted {
    fn next(&mut self) -> Option<u64> {
        let chunk = self.queue.pop_front()?;
        self.queued.remove(&chunk);
        Some(chunk)
    }
}

/// The map page of a chunk, and its bit.
fn place(chunk: u64) -> (u64, u128) {
    let in_page = MapPage::BLOCKS / CHUNK_BLOCKS;
    (chunk / in_page, 1 << (chunk % in_page))
}

/// The chunks of a map page of the lowest layer.
pub(crate) fn chunks_in(page: &MapPage) -> u128 {
    let start = page.index * MapPage::BLOCKS;
    page.runs().fold(0, |bits, (first, count, _)| {
        let chunks = (first - start) / CHUNK_BLOCKS..(first + count - start).div_ceil(CHUNK_BLOCKS);
        chunks.fold(bits, |bits, chunk| bits | 1 << chunk)
    })
}

impl<F: StorageFile> FetchedFrom<F> {
    pub(crate) fn new(
        source: Snapshot,
        layer: Arc<Layer<F>>,
        blocks: u64,
        books: Books,
        chunks: BTreeMap<u64, u128>,
    ) -> Self {
        let local = Local { books, pages: BTreeMap::new(), chunks, unsaved: 0 };
        Self {
            source,
            layer,
            blocks,
            is_filled: AtomicBool::new(false),
            local: Mutex::new(local),
            wanted: Mutex::default(),
            news: Condvar::new(),
        }
    }

    pub(crate) fn source(&self) -> &Snapshot {
        &self.source
    }

    pub(crate) fn layer(&self) -> &Arc<Layer<F>> {
        &self.layer
    }

    /// Whether a block is one of the snapshot.
    pub(crate) fn has(&self, block: u64) -> bool {
        block < self.blocks
    }

    pub(crate) fn is_filled(&self) -> bool {
        self.is_filled.load(Ordering::Acquire)
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().expect(POISONED)
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().expect(POISONED)
    }

    fn is_fetched(&self, chunk: u64) -> bool {
        let (page, bit) = place(chunk);
        self.local().chunks.get(&page).is_some_and(|bits| bits & bit != 0)
    }

    /// What the lowest layer says of a block.
    pub(crate) fn state(&self, block: u64) -> Result<BlockState, VolumeError> {
        let local = self.local();
        let index = block / MapPage::BLOCKS;
        let page = match local.pages.get(&index) {
            Some(page) => page.clone(),
            None => page_of(&self.layer, &local.books, index)?,
        };
        Ok(page.state(block % MapPage::BLOCKS))
    }

    /// When it is: to be given to [`want`](Self::want) later.
    pub(crate) fn clock(&self) -> u64 {
        self.wanted().clock
    }

    /// Asks for a chunk, and has `waker` called when something was fetched. It has failed if it did so after `since`.
    pub(crate) fn want(&self, chunk: u64, since: u64, waker: &Arc<Waker>) -> Want {
        let mut wanted = self.wanted();
        if wanted.failures.get(&chunk).is_some_and(|failed| *failed > since) || wanted.is_stopped {
            return Want::Failed;
        }
        wanted.waiting.add(waker);
        if let Some(bytes) = wanted.arrived.get(&chunk) {
            return Want::Arrived(bytes.clone());
        }
        if !wanted.under_way.contains(&chunk) && wanted.queued.insert(chunk) {
            wanted.queue.push_back(chunk);
            self.news.notify_all();
        }
        Want::Waits
    }

    /// Gives a chunk to who waits to read it.
    fn show(&self, chunk: u64, bytes: ChunkBytes) {
        let mut wanted = self.wanted();
        wanted.arrived.insert(chunk, bytes);
        wanted.waiting.call();
    }

    /// A chunk that is wanted, if one is.
    #[cfg(test)]
    pub(crate) fn next_wanted(&self) -> Option<u64> {
        self.wanted().next()
    }

    /// Waits until a chunk is wanted, or nothing is to be fetched any more; says whether others are wanted, too.
    fn wait_for_wanted(&self) -> Option<(u64, bool)> {
        let mut wanted = self.wanted();
        while !wanted.is_stopped {
            if let Some(chunk) = wanted.next() {
                return Some((chunk, !wanted.queue.is_empty()));
            }
            wanted = self.news.wait(wanted).expect(POISONED);
        }
        None
    }

    /// Nothing is fetched for queues any more.
    pub(crate) fn stop(&self) {
        let mut wanted = self.wanted();
        wanted.is_stopped = true;
        wanted.waiting.call();
        self.news.notify_all();
    }

    /// Writes a chunk to the lowest layer and notes what its blocks are.
    fn keep(&self, local: &mut Local, chunk: u64, bytes: Option<&[u8]>) -> Result<(), VolumeError> {
        let (index, bit) = place(chunk);
        if !local.pages.contains_key(&index) {
            let (offset, len) = (Layer::<F>::map_offset(index, 0), 2 * BLOCK_BYTES);
            let taken = self.layer.main().allocate(offset, len);
            taken.map_err(io_error("take space in", &self.layer.name(0)))?;
            let page = page_of(&self.layer, &local.books, index)?;
            local.pages.insert(index, page);
        }
        let first = chunk * CHUNK_BLOCKS;
        let count = CHUNK_BLOCKS.min(self.blocks - first);
        let is_data = |block: u64| {
            let at = usize::try_from((block - first) * BLOCK_BYTES).expect("within a chunk");
            bytes.is_some_and(|bytes| bytes[at..at + PAGE_LEN].iter().any(|byte| *byte != 0))
        };
        let mut next = first;
        while let (Some(bytes), true) = (bytes, next < first + count) {
            let same = (next..first + count).take_while(|block| is_data(*block) == is_data(next));
            let end = next + same.count() as u64;
            if is_data(next) {
                let at = |block: u64| usize::try_from((block - first) * BLOCK_BYTES).expect("within a chunk");
                self.layer.write_blocks(next, &bytes[at(next)..at(end)])?;
            }
            next = end;
        }
        let page = local.pages.get_mut(&index).expect("it was put there above");
        for block in first..first + count {
            let state = if is_data(block) { BlockState::Data } else { BlockState::Zero };
            page.set(block - index * MapPage::BLOCKS, state);
        }
        *local.chunks.entry(index).or_default() |= bit;
        local.unsaved += 1;
        Ok(())
    }

    /// Makes durable what was fetched.
    fn save(&self, local: &mut Local) -> Result<(), VolumeError> {
        if local.pages.is_empty() {
            return Ok(());
        }
        self.layer.sync_segments(u64::MAX)?;
        let pages = std::mem::take(&mut local.pages);
        local.unsaved = 0;
        // What a checkpoint that did not come to its end left behind must be written again too.
        let left: Vec<u64> =
            local.books.dirty.iter().filter(|index| !pages.contains_key(index)).copied().collect();
        let mut old = BTreeMap::new();
        for index in left {
            old.insert(index, page_of(&self.layer, &local.books, index)?);
        }
        local.books.dirty.extend(pages.keys());
        let page = |index, generation| {
            let page =
                pages.get(&index).or_else(|| old.get(&index)).expect("each page that is dirty is known");
            let mut page = page.clone();
            page.generation = generation;
            page
        };
        local.books.checkpoint(&self.layer, page, |_| {})
    }
}

impl<S: Storage> Engine<S> {
    /// The snapshot that some blocks may have to be fetched from.
    pub(crate) fn base(&self) -> Option<&FetchedFrom<S::File>> {
        self.base.as_ref().filter(|base| !base.is_filled())
    }

    pub(crate) fn has_base(&self) -> bool {
        self.base().is_some()
    }

    /// How queues go to a layer.
    pub(crate) fn way_to(&self, layer: LayerId) -> Way {
        let is_fetched = self.base().is_some_and(|base| base.layer.id == layer);
        if is_fetched { Way::Cached } else { Way::Direct }
    }

    /// What stands at `offset` of the volume, and for how many of the next `len` bytes that is so.
    ///
    /// # Errors
    /// When the table of the snapshot cannot be read.
    pub(crate) fn extent(&self, offset: u64, len: u64) -> Result<Extent, SnapshotError> {
        let (block, within) = (offset / BLOCK_BYTES, offset % BLOCK_BYTES);
        let (location, run) = self.map.run(block, (within + len).div_ceil(BLOCK_BYTES));
        let (content, run) = match (location, self.base()) {
            (Location::Layer(_), _) => (Content::Data, run),
            (Location::Zero, _) => (Content::Zeroes, run),
            (Location::Absent, Some(base)) if base.has(block) => {
                let first = block / CHUNK_BLOCKS;
                let end = (block + run).min(base.blocks).div_ceil(CHUNK_BLOCKS);
                let (is_there, chunks) = base.source.run(first, end)?;
                let run = run.min(((first + chunks) * CHUNK_BLOCKS).min(base.blocks) - block);
                (if is_there { Content::Data } else { Content::Hole }, run)
            }
            (Location::Absent, _) => (Content::Hole, run),
        };
        Ok(Extent { content, len: len.min(run * BLOCK_BYTES - within) })
    }

    /// Whether a block that the map calls absent must be fetched.
    pub(crate) fn lacks(&self, block: u64) -> bool {
        self.base().is_some_and(|base| base.has(block))
    }

    /// Fetches a chunk, unless it is there; who else fetches the same one is waited for.
    ///
    /// # Errors
    /// When the snapshot cannot be read, or the lowest layer not be written.
    pub(crate) fn fetch(&self, chunk: u64) -> Result<(), SnapshotError> {
        let Some(base) = self.base() else { return Ok(()) };
        {
            let mut wanted = base.wanted();
            while wanted.under_way.contains(&chunk) {
                wanted = base.news.wait(wanted).expect(POISONED);
            }
            wanted.under_way.insert(chunk);
        }
        let result = if base.is_fetched(chunk) { Ok(()) } else { self.fetch_from(base, chunk) };
        let mut wanted = base.wanted();
        wanted.under_way.remove(&chunk);
        wanted.arrived.remove(&chunk);
        match &result {
            Ok(()) => drop(wanted.failures.remove(&chunk)),
            Err(_) => {
                wanted.clock += 1;
                let now = wanted.clock;
                wanted.failures.insert(chunk, now);
            }
        }
        wanted.waiting.call();
        base.news.notify_all();
        result
    }

    fn fetch_from(&self, base: &FetchedFrom<S::File>, chunk: u64) -> Result<(), SnapshotError> {
        let bytes = base.source.stored_chunk(chunk)?.map(Arc::new);
        base.show(chunk, bytes.clone());
        let mut local = base.local();
        base.keep(&mut local, chunk, bytes.as_ref().map(|bytes| &bytes[..]))?;
        let (index, _) = place(chunk);
        let page = &local.pages[&index];
        let first = chunk * CHUNK_BLOCKS;
        let end = (first + CHUNK_BLOCKS).min(base.blocks);
        // Under the lock of the state: what a write makes of a block meanwhile is not undone.
        self.update(|_| {
            for block in first..end {
                if self.map.get(block) == Location::Absent {
                    let location = match page.state(block - index * MapPage::BLOCKS) {
                        BlockState::Data => Location::Layer(base.layer.id),
                        _ => Location::Zero,
                    };
                    self.map.set(block, 1, location);
                }
            }
        });
        if local.unsaved >= SAVE_CHUNKS {
            self.or_stop(base.save(&mut local))?;
        }
        Ok(())
    }

    /// Fetches what queues want, until [`FetchedFrom::stop`], on as many threads as there is work for.
    pub(crate) fn serve_fetches(&self) {
        std::thread::scope(|scope| {
            let mut helpers = 0;
            self.fetch_wanted(&mut |has_more| {
                if has_more && helpers < HELPERS_MAX {
                    // Without it there is less at a time.
                    let helper = std::thread::Builder::new().name("volume-fetch".to_owned());
                    let helping = helper.spawn_scoped(scope, || self.fetch_wanted(&mut |_| {}));
                    helpers += usize::from(helping.is_ok());
                }
            });
        });
    }

    /// `each` is told of each chunk that is about to be fetched, whether more are wanted.
    fn fetch_wanted(&self, each: &mut dyn FnMut(bool)) {
        while let Some((chunk, has_more)) = self.base().and_then(FetchedFrom::wait_for_wanted) {
            each(has_more);
            // Who waits for it finds the failure, and cannot be told why.
            if let Err(error) = self.fetch(chunk) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a chunk of a volume cannot be fetched"
                );
            }
        }
    }

    /// Fetches all that is not there yet, and forgets the snapshot. `pace` is told of each chunk and of progress, may wait, and says
    /// whether to go on; if not, what is there stays, and another call goes on. Says whether all is there.
    ///
    /// # Errors
    /// As for [`fetch`](Self::fetch), or when the storage fails.
    pub(crate) fn fill(&self, pace: &(dyn Fn(Progress) -> bool + Sync)) -> Result<bool, SnapshotError> {
        if let Some(base) = self.base() {
            let total = base.source.info().chunks;
            let (mut first, mut done) = (0, 0);
            loop {
                let chunks = base.source.chunks(first, FILL_STEP)?;
                for chunk in &chunks {
                    if !pace(Progress { done, total }) {
                        return Ok(false);
                    }
                    self.fetch(*chunk)?;
                    done += 1;
                }
                match chunks.last() {
                    Some(last) => first = last + 1,
                    None => break,
                }
            }
            self.or_stop(base.save(&mut base.local()))?;
            // First the map in memory and the state, which may call absent zeroes sooner than the manifest does.
            self.change_manifest(|manifest| {
                manifest.base = manifest.base.map(|base| super::format::Base { blocks: 0, ..base });
            })?;
            self.state().filled();
            base.is_filled.store(true, Ordering::Release);
            base.stop();
            pace(Progress { done: total, total });
        }
        self.forget_base()
    }

    /// Removes the pin of a snapshot that nothing is to be fetched from any more.
    fn forget_base(&self) -> Result<bool, SnapshotError> {
        let Some(store) = &self.objects else { return Ok(true) };
        let (is_pinned, holder) = {
            let turn = self.turn();
            let holder = SnapshotName { lineage: turn.manifest.lineage, id: turn.manifest.volume };
            (turn.manifest.base.is_some(), holder)
        };
        if is_pinned {
            release(&**store, holder)?;
            self.change_manifest(|manifest| manifest.base = None)?;
        }
        Ok(true)
    }

    /// Makes durable what was fetched, as far as the storage lets it: it can be fetched again.
    pub(crate) fn save_fetched(&self) {
        if let Some(base) = self.base() {
            let _ = self.or_stop(base.save(&mut base.local()));
        }
    }
}
