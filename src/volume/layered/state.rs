//! Everything about a volume that changes with each write, behind one lock.
//!
//! A write is admitted, done by its queue without any lock, and settled. Admission decides under the lock how it is done:
//!
//! ```text
//!   admit ─┬─ in place: all its blocks stand in the top layer, and that is durable or the business of others
//!          ├─ tracked: some block is given to the top layer, or was since the last commit
//!          ├─ wait: another write has one of its blocks alone; or a block must first be confirmed; or too much is not committed
//!          ├─ reserve: the map needs space first, so that a full disk fails this write and not a later flush
//!          └─ refuse: the volume stopped
//! ```
//!
//! No I/O is done under the lock. Locks are taken in this order: the turn (`engine`), this state, a group of the map.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::EventFd;

use super::format::{BlockState, ENTRIES_MAX, MapPage};
use super::in_flight::{Access, InFlight};
use super::layer::Layer;
use super::map::{LayerId, Location, Map};
use super::storage::StorageFile;
use super::unsettled::{Unsettled, Work};

/// The most blocks of one write whose checksums are made: larger ones are bulk, and bulk is flushed in two steps.
const CHECKED_BLOCKS_MAX: u64 = 16;
/// When so many blocks are not committed, writes wait for a commit; at half of it one begins.
const NEW_BLOCKS_MAX: usize = 1 << 16;

/// Calls the owner of a queue.
#[derive(Debug)]
pub(crate) struct Waker {
    event: Arc<EventFd>,
    called: AtomicBool,
}

impl Waker {
    pub(crate) fn new(event: Arc<EventFd>) -> Self {
        Self { event, called: AtomicBool::new(false) }
    }

    pub(crate) fn call(&self) {
        self.called.store(true, Ordering::Release);
        // It can fail only when the counter is at its end: readable already.
        let _ = self.event.write(1);
    }

    /// Whether it was called since it was last asked.
    pub(crate) fn was_called(&self) -> bool {
        self.called.load(Ordering::Relaxed) && self.called.swap(false, Ordering::Acquire)
    }
}

/// Queues that wait for something.
#[derive(Default)]
pub(crate) struct Waiting(Vec<Arc<Waker>>);

impl Waiting {
    pub(crate) fn add(&mut self, waker: &Arc<Waker>) {
        if !self.0.iter().any(|other| Arc::ptr_eq(other, waker)) {
            self.0.push(Arc::clone(waker));
        }
    }

    pub(crate) fn call(&mut self) {
        self.0.drain(..).for_each(|waker| waker.call());
    }
}

/// The right to write some blocks of a layer, until it is settled.
#[derive(Debug)]
pub(crate) struct Permit<F> {
    pub(crate) layer: Arc<Layer<F>>,
    pub(crate) blocks: Range<u64>,
    index: usize,
}

/// How a write is to be done.
#[derive(Debug)]
pub(crate) enum Admission<F> {
    InPlace(Permit<F>),
    /// Whole blocks, with checksums if so said.
    Tracked {
        permit: Permit<F>,
        checksums: bool,
    },
    Wait,
    Reserve {
        layer: Arc<Layer<F>>,
        page: u64,
    },
    Refuse,
}

/// What became of a tracked write.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    Written { checksums: Option<&'a [u32]> },
    Zeroed,
    Failed,
}

/// A layer that was the top until a moment ago, while what was written to it becomes durable.
struct Sealing<F> {
    unsettled: Unsettled<F>,
    /// What it says of blocks that the new top has hidden since.
    hidden: HashMap<u64, BlockState>,
}

/// What a round of the committer does.
pub(crate) struct Round<F> {
    pub(crate) works: Vec<Work<F>>,
    flushes: u64,
}

pub(crate) struct State<F> {
    top: Unsettled<F>,
    sealing: Option<Sealing<F>>,
    /// Nothing is below the top.
    top_is_bottom: bool,
    /// What no layer has may be in a snapshot.
    has_base: bool,
    in_flight: InFlight,
    flushes_wanted: u64,
    flushes_done: u64,
    commit_wanted: bool,
    confirm_wanted: bool,
    writers: Waiting,
    flushers: Waiting,
    stopped: bool,
}

impl<F: StorageFile> State<F> {
    pub(crate) fn new(top: Unsettled<F>, top_is_bottom: bool, has_base: bool) -> Self {
        Self {
            top,
            sealing: None,
            top_is_bottom,
            has_base,
            in_flight: InFlight::default(),
            flushes_wanted: 0,
            flushes_done: 0,
            commit_wanted: false,
            confirm_wanted: false,
            writers: Waiting::default(),
            flushers: Waiting::default(),
            stopped: false,
        }
    }

    pub(crate) fn admit(
        &mut self,
        map: &Map,
        blocks: Range<u64>,
        waker: &Arc<Waker>,
        writes: bool,
    ) -> Admission<F> {
        if self.stopped {
            return Admission::Refuse;
        }
        let in_top = Location::Layer(self.top.layer.id);
        let mut is_in_place = writes;
        if writes {
            map.for_runs(blocks.start, blocks.end, |_, _, location| is_in_place &= location == in_top);
        }
        is_in_place = is_in_place && !self.top.has_new(&blocks);
        let access = if is_in_place { Access::Shared } else { Access::Alone };
        let is_unconfirmed = self.top.has_unconfirmed(&blocks);
        let is_too_much = !is_in_place && self.top.len() >= self.new_blocks_max();
        if is_unconfirmed || is_too_much || self.in_flight.conflicts(&blocks, access) {
            self.confirm_wanted |= is_unconfirmed;
            self.commit_wanted |= is_too_much;
            self.writers.add(waker);
            return Admission::Wait;
        }
        let layer = Arc::clone(&self.top.layer);
        if !is_in_place && let Some(page) = self.top.unreserved(&blocks) {
            return Admission::Reserve { layer, page };
        }
        let count = blocks.end - blocks.start;
        let checksums = writes && count <= CHECKED_BLOCKS_MAX && self.top.len() < ENTRIES_MAX;
        let permit = Permit { index: self.in_flight.add(&blocks, access, layer.id), layer, blocks };
        if is_in_place { Admission::InPlace(permit) } else { Admission::Tracked { permit, checksums } }
    }

    /// As many records fit into half of the log, whatever the blocks.
    fn new_blocks_max(&self) -> usize {
        let half = usize::try_from(self.top.layer.geometry.log_pages / 2).unwrap_or(usize::MAX);
        NEW_BLOCKS_MAX.min(half.saturating_mul(ENTRIES_MAX / 2))
    }

    /// The space of a map page was taken.
    pub(crate) fn reserved(&mut self, layer: LayerId, page: u64) {
        if self.top.layer.id == layer {
            self.top.reserve(page);
        }
    }

    /// Ends a write in place, whether it failed or not.
    pub(crate) fn settle_in_place(&mut self, permit: &Permit<F>) {
        self.unsettled(permit.layer.id).touch(&permit.blocks);
        self.release(permit);
    }

    /// Ends a tracked write.
    pub(crate) fn settle(&mut self, map: &Map, permit: &Permit<F>, outcome: &Outcome<'_>) {
        let (layer, blocks) = (permit.layer.id, &permit.blocks);
        self.unsettled(layer).touch(blocks);
        match outcome {
            Outcome::Failed => self.unsettled(layer).forget_checksums(blocks),
            Outcome::Written { checksums } => {
                let checksum = |block: u64| {
                    let index = usize::try_from(block - blocks.start).expect("a write of memory");
                    checksums.map(|checksums| checksums[index])
                };
                map.for_runs(blocks.start, blocks.end, |first, count, location| {
                    for block in first..first + count {
                        self.change(layer, block, location, BlockState::Data, checksum(block));
                    }
                });
                map.set(blocks.start, blocks.end - blocks.start, Location::Layer(layer));
            }
            Outcome::Zeroed => self.zeroed(map, layer, blocks),
        }
        if self.top.len() >= self.new_blocks_max() / 2 {
            self.commit_wanted = true;
        }
        self.release(permit);
    }

    fn zeroed(&mut self, map: &Map, layer: LayerId, blocks: &Range<u64>) {
        // With nothing below there is nothing to hide.
        let (state, gone) = match self.top_is_bottom {
            true => (BlockState::Absent, Location::Absent),
            false => (BlockState::Zero, Location::Zero),
        };
        let mut runs = Vec::new();
        map.for_runs(blocks.start, blocks.end, |first, count, location| {
            if matches!(location, Location::Layer(_)) || self.has_base && location == Location::Absent {
                runs.push((first, count, location));
            }
        });
        for (first, count, location) in runs {
            for block in first..first + count {
                self.change(layer, block, location, state, None);
            }
            map.set(first, count, gone);
        }
    }

    /// A block that stands at `location` gets a state in a layer. That layer is the one that new writes go to, or was until a moment
    /// ago; then no write of the new one met this block yet, for this one had it alone.
    fn change(
        &mut self,
        layer: LayerId,
        block: u64,
        location: Location,
        now: BlockState,
        checksum: Option<u32>,
    ) {
        if let Some(sealing) = &mut self.sealing {
            let id = sealing.unsettled.layer.id;
            if layer == id {
                return sealing.unsettled.change(block, state_in(id, location), now, checksum);
            }
            if location != Location::Layer(layer) {
                sealing.hidden.entry(block).or_insert(state_in(id, location));
            }
        }
        self.top.change(block, state_in(layer, location), now, checksum);
    }

    fn unsettled(&mut self, layer: LayerId) -> &mut Unsettled<F> {
        match &mut self.sealing {
            Some(sealing) if sealing.unsettled.layer.id == layer => &mut sealing.unsettled,
            _ => &mut self.top,
        }
    }

    fn release(&mut self, permit: &Permit<F>) {
        self.in_flight.remove(permit.index);
        self.writers.call();
    }

    /// Asks for a flush; it is over when [`flushed`](Self::flushed) says so of the number.
    pub(crate) fn want_flush(&mut self, waker: &Arc<Waker>) -> u64 {
        self.flushes_wanted += 1;
        self.flushers.add(waker);
        if self.stopped {
            self.flushers.call();
        }
        self.flushes_wanted
    }

    /// Whether a flush is over, and well; if not, the waker is called when there is news.
    pub(crate) fn flushed(&mut self, number: u64, waker: &Arc<Waker>) -> Option<bool> {
        if self.flushes_done >= number {
            return Some(true);
        }
        if self.stopped {
            return Some(false);
        }
        self.flushers.add(waker);
        None
    }

    /// Whether the committer has work.
    pub(crate) fn wants_round(&self) -> bool {
        !self.stopped
            && (self.commit_wanted || self.confirm_wanted || self.flushes_wanted > self.flushes_done)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes what is to be made durable: the layer that is being sealed first.
    pub(crate) fn begin_round(&mut self) -> Round<F> {
        self.commit_wanted = false;
        let confirm = std::mem::take(&mut self.confirm_wanted);
        let sealing =
            self.sealing.as_mut().and_then(|sealing| sealing.unsettled.begin(&self.in_flight, false, false));
        // One sync must make all of it durable.
        let top = self.top.begin(&self.in_flight, sealing.is_none(), confirm);
        Round { works: sealing.into_iter().chain(top).collect(), flushes: self.flushes_wanted }
    }

    /// All of a round is durable.
    pub(crate) fn end_round(&mut self, round: &Round<F>) {
        for work in &round.works {
            let wrote_record = work.confirms || !work.entries.is_empty();
            self.unsettled(work.layer.id).end(wrote_record);
        }
        self.flushes_done = self.flushes_done.max(round.flushes);
        self.flushers.call();
        self.writers.call();
    }

    /// The metadata of a layer have all that is in its log.
    pub(crate) fn checkpointed(&mut self, layer: LayerId) {
        self.unsettled(layer).all_confirmed();
        self.writers.call();
    }

    /// The storage failed: nothing is written from now on.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.flushers.call();
        self.writers.call();
    }

    /// A map page of a layer, as far as it is durable.
    pub(crate) fn map_page(&self, map: &Map, layer: &Layer<F>, index: u64, generation: u64) -> MapPage {
        let mut page = map_page(map, layer, index, generation);
        match &self.sealing {
            Some(sealing) if sealing.unsettled.layer.id == layer.id => {
                let start = index * MapPage::BLOCKS;
                let blocks = start..start + MapPage::BLOCKS;
                let hidden = sealing.hidden.iter().filter(|(block, _)| blocks.contains(block));
                hidden.for_each(|(block, state)| page.set(block - start, *state));
                sealing.unsettled.correct(&mut page);
            }
            _ => self.top.correct(&mut page),
        }
        page
    }

    /// Makes an empty layer the top, at once; what is in flight ends in the old one.
    pub(crate) fn switch(&mut self, top: Unsettled<F>) {
        let old = std::mem::replace(&mut self.top, top);
        self.sealing = Some(Sealing { unsettled: old, hidden: HashMap::new() });
        self.top_is_bottom = false;
        self.writers.call();
    }

    /// The layer that is being sealed, and whether anything is in flight to it.
    pub(crate) fn sealing(&self) -> Option<(Arc<Layer<F>>, bool)> {
        let layer = &self.sealing.as_ref()?.unsettled.layer;
        Some((Arc::clone(layer), self.in_flight.any_in(layer.id)))
    }

    /// The layer that was being sealed is.
    pub(crate) fn sealed(&mut self) {
        self.sealing = None;
    }

    /// A snapshot is needed no more: what no layer has is zeroes.
    pub(crate) fn filled(&mut self) {
        self.has_base = false;
    }

    /// The top has room for more.
    pub(crate) fn grown(&mut self, layer: Arc<Layer<F>>) {
        self.top.layer = layer;
    }

    /// Whether the top hides a block for ever, also after a crash.
    pub(crate) fn hides_durably(&self, block: u64) -> bool {
        self.sealing.is_none() && self.top.is_settled(block)
    }
}

/// A map page of a layer that no other one hides.
pub(crate) fn map_page<F: StorageFile>(map: &Map, layer: &Layer<F>, index: u64, generation: u64) -> MapPage {
    let start = index * MapPage::BLOCKS;
    let mut page = MapPage::new(layer.uuid, index, generation);
    map.for_runs(start, start + MapPage::BLOCKS, |first, count, location| {
        let state = state_in(layer.id, location);
        if state != BlockState::Absent {
            (first..first + count).for_each(|block| page.set(block - start, state));
        }
    });
    page
}

/// What a layer says of a block that stands somewhere, if no layer above it says anything. That it is zero may as well be said
/// twice.
fn state_in(layer: LayerId, location: Location) -> BlockState {
    match location {
        Location::Layer(other) if other == layer => BlockState::Data,
        Location::Zero => BlockState::Zero,
        Location::Absent | Location::Layer(_) => BlockState::Absent,
    }
}
