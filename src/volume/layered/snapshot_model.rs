//! Any history of a volume, its snapshots and volumes made from them, against a model. At each step of the storage it is looked at what a
//! crash would leave; the store stops at any call.
//!
//! What happens to writes that are not flushed is [`model`](super::model)'s: here everything is flushed before something else is done.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;

use super::check::check;
use super::encrypted_tests::{create_encrypted, stores};
use super::engine::Engine;
use super::error::VolumeError;
use super::folder::{self, Origin};
use super::format::{BLOCKS_MAX, Manifest, Uuid};
use super::layer::Geometry;
use super::queue::Queue;
use super::storage::Way;
use super::storage::fake::{FakeStorage, Numbers, with_hook};
use crate::backend::{BlockQueue, BlockRequest, Extent};
use crate::crypt::OpenKeys;
use crate::extents;
use crate::snapshot::store::memory::{Fault, MemoryStore};
use crate::snapshot::{
    CHUNK_BYTES, ObjectStore, Progress, Snapshot, SnapshotError, SnapshotName, Snapshots, pin,
};
use crate::testing::Memory;

const SECTOR: u64 = 512;
/// Two chunks and a part of one.
const BLOCKS: u64 = 2 * 128 + 5;
const GEOMETRY: Geometry = Geometry { segment_blocks: BLOCKS_MAX, log_pages: 4 };

/// What each sector is full of.
type Content = Vec<u8>;

#[derive(Debug, Clone)]
enum Step {
    Write {
        first: u64,
        count: u64,
        byte: u8,
    },
    Zero {
        first: u64,
        count: u64,
    },
    Read {
        first: u64,
        count: u64,
    },
    Begin,
    Upload {
        which: usize,
        stop: Option<(u64, bool)>,
    },
    Cancel {
        which: usize,
    },
    Delete {
        which: usize,
        stop: Option<u64>,
    },
    /// The volume is left, and one made from a snapshot is used from now on.
    Restore {
        which: usize,
        more: u64,
    },
    Fill {
        chunks: u64,
    },
    Compact,
    Grow,
    /// It is cut off before its operation of this number.
    GrowAndCrash {
        operation: usize,
    },
    Reopen,
    Crash,
}

struct World {
    storage: FakeStorage,
    store: MemoryStore,
    engine: Option<Arc<Engine<FakeStorage>>>,
    queue: Option<Rc<RefCell<Queue<FakeStorage>>>>,
    content: Content,
    /// The oldest first.
    pending: Vec<(SnapshotName, Content)>,
    complete: BTreeMap<SnapshotName, Content>,
    deleted: BTreeSet<SnapshotName>,
    numbers: Rc<RefCell<Numbers>>,
    next_id: u8,
}

fn sectors(blocks: u64) -> usize {
    usize::try_from(blocks * 8).unwrap()
}

fn read(engine: &Engine<FakeStorage>) -> Content {
    let mut bytes = vec![0; usize::try_from(engine.size_bytes()).unwrap()];
    engine.read_at(0, &mut bytes).unwrap();
    bytes.chunks(512).map(sector).collect()
}

fn sector(bytes: &[u8]) -> u8 {
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a sector is torn");
    bytes[0]
}

fn shared(store: &MemoryStore) -> Arc<dyn ObjectStore> {
    Arc::new(store.clone())
}

impl World {
    fn new(seed: u64, is_encrypted: bool) -> Self {
        let storage = FakeStorage::new();
        if is_encrypted {
            create_encrypted(&storage, BLOCKS * 4096, GEOMETRY);
        } else {
            folder::create(&storage, BLOCKS * 4096, GEOMETRY).unwrap();
        }
        let mut world = Self {
            storage,
            store: MemoryStore::new(),
            engine: None,
            queue: None,
            content: vec![0; sectors(BLOCKS)],
            pending: Vec::new(),
            complete: BTreeMap::new(),
            deleted: BTreeSet::new(),
            numbers: Rc::new(RefCell::new(Numbers::new(seed))),
            next_id: 1,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        (self.queue, self.engine) = (None, None);
        let engine = Engine::open_with(self.storage.clone(), stores(shared(&self.store))).unwrap();
        let engine = Arc::new(engine);
        self.queue = Some(Rc::new(RefCell::new(Queue::new(Arc::clone(&engine), 8).unwrap())));
        self.engine = Some(engine);
    }

    fn engine(&self) -> Arc<Engine<FakeStorage>> {
        Arc::clone(self.engine.as_ref().unwrap())
    }

    fn unique(&mut self) -> Uuid {
        self.next_id += 1;
        Uuid([self.next_id; 16])
    }

    fn run(&mut self, request: BlockRequest<'_>) {
        let engine = self.engine();
        let queue = Rc::clone(self.queue.as_ref().unwrap());
        queue.borrow_mut().push(0, request).unwrap();
        let ended = Rc::new(RefCell::new(None));
        loop {
            if engine.state().wants_round() {
                engine.round();
            }
            if let Some(chunk) = engine.base().and_then(|base| base.next_wanted()) {
                // Who reads it may have it before it is written.
                let (queue, ended) = (Rc::clone(&queue), Rc::clone(&ended));
                let hook = move |_: &FakeStorage, _: &'static str| {
                    let completion = queue.borrow_mut().next_completion();
                    completion.map(|completion| ended.replace(Some(completion)));
                };
                with_hook(Rc::new(hook), || engine.fetch(chunk)).unwrap();
            }
            let completion = ended.take().or_else(|| queue.borrow_mut().next_completion());
            if let Some(completion) = completion {
                return completion.result.unwrap();
            }
        }
    }

    /// Does some work, and looks before each of its operations at what a crash would leave.
    fn crashing<T>(&self, work: impl FnOnce(&Engine<FakeStorage>) -> T) -> T {
        let (store, content, numbers) = (self.store.clone(), self.content.clone(), Rc::clone(&self.numbers));
        let hook = move |storage: &FakeStorage, _: &'static str| {
            let left = storage.crash(&mut numbers.borrow_mut());
            let found = check(&left, false).unwrap();
            assert!(found.is_sound(), "{found:?}");
            let engine = Engine::open_with(left, stores(shared(&store.copy()))).unwrap();
            let found = read(&engine);
            assert!(found.len() >= content.len() && found[..content.len()] == content, "after a crash");
        };
        with_hook(Rc::new(hook), || work(&self.engine()))
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write { first, count, byte } => {
                let memory = Memory::from_bytes(&vec![byte; usize::try_from(count * SECTOR).unwrap()]);
                self.run(BlockRequest::Write { offset: first * SECTOR, buffers: &[memory.all()] });
                self.run(BlockRequest::Flush);
                self.set(first, count, byte);
            }
            Step::Zero { first, count } => {
                let (offset, len) = (first * SECTOR, count * SECTOR);
                self.run(BlockRequest::WriteZeroes { offset, len, may_unmap: true });
                self.run(BlockRequest::Flush);
                self.set(first, count, 0);
            }
            Step::Read { first, count } => {
                let memory = Memory::new(usize::try_from(count * SECTOR).unwrap());
                self.run(BlockRequest::Read { offset: first * SECTOR, buffers: &[memory.all()] });
                let found: Content = memory.to_vec().chunks(512).map(sector).collect();
                let first = usize::try_from(first).unwrap();
                assert_eq!(found, self.content[first..first + found.len()]);
            }
            Step::Begin => {
                let id = self.unique();
                let begun = self.crashing(|engine| engine.begin_snapshot(id, u64::from(id.0[0])));
                match begun {
                    Ok(name) => self.pending.push((name, self.content.clone())),
                    Err(VolumeError::TooManySnapshots { .. }) => {
                        assert_eq!(self.pending.len(), Manifest::PENDING_MAX);
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            Step::Upload { which, stop } => self.upload(which, stop),
            Step::Cancel { which } => {
                if let Some(name) = self.nth_pending(which) {
                    let snapshots = Snapshots::new(shared(&self.store));
                    self.crashing(|engine| engine.cancel_snapshot(name, &snapshots)).unwrap();
                    self.pending.retain(|(other, _)| *other != name);
                    // It can have been complete.
                    self.complete.remove(&name);
                }
            }
            Step::Delete { which, stop } => self.delete(which, stop),
            Step::Restore { which, more } => self.restore(which, more),
            Step::Fill { chunks } => {
                let filled =
                    self.crashing(|engine| engine.fill(&|progress: Progress| progress.done < chunks));
                assert!(filled.unwrap() || chunks < 4);
            }
            Step::Compact => self.crashing(compact),
            Step::Grow => {
                let size = self.engine().size_bytes() + 4096;
                self.crashing(|engine| engine.grow(size)).unwrap();
                self.content.extend([0; 8]);
            }
            Step::GrowAndCrash { operation } => self.grow_and_crash(operation),
            Step::Reopen => self.open(),
            Step::Crash => {
                (self.queue, self.engine) = (None, None);
                self.storage = self.storage.crash(&mut self.numbers.borrow_mut());
                self.open();
            }
        }
        let pending: Vec<_> = self.pending.iter().map(|(name, _)| *name).collect();
        assert_eq!(self.engine().pending_snapshots(), pending);
    }

    fn grow_and_crash(&mut self, operation: usize) {
        let size = self.engine().size_bytes() + 4096;
        let left = Rc::new(RefCell::new((0, None)));
        let (seen, numbers) = (Rc::clone(&left), Rc::clone(&self.numbers));
        let hook = move |storage: &FakeStorage, _: &'static str| {
            let (count, left) = &mut *seen.borrow_mut();
            if *count <= operation {
                *left = Some(storage.crash(&mut numbers.borrow_mut()));
            }
            *count += 1;
        };
        with_hook(Rc::new(hook), || self.engine().grow(size)).unwrap();
        (self.queue, self.engine) = (None, None);
        self.storage = left.borrow_mut().1.take().expect("growth has operations");
        self.open();
        self.content.resize(usize::try_from(self.engine().size_bytes() / SECTOR).unwrap(), 0);
    }

    fn set(&mut self, first: u64, count: u64, byte: u8) {
        let first = usize::try_from(first).unwrap();
        self.content[first..first + usize::try_from(count).unwrap()].fill(byte);
    }

    fn stop(&self, stop: Option<(u64, bool)>) {
        self.store.heal();
        if let Some((call, is_done)) = stop {
            if is_done {
                self.store.fault_at(call..call + 1, Fault::LostAnswer);
            }
            self.store.fault_at(call..u64::MAX, Fault::Refused);
        }
    }

    fn nth_pending(&self, which: usize) -> Option<SnapshotName> {
        self.pending.get(which % self.pending.len().max(1)).map(|(name, _)| *name)
    }

    fn upload(&mut self, which: usize, stop: Option<(u64, bool)>) {
        let Some(name) = self.nth_pending(which) else { return };
        self.stop(stop);
        let objects = shared(&self.store);
        let result = self.crashing(|engine| engine.upload_snapshot(name, &objects, &|_| true));
        self.store.heal();
        let left = self.engine().pending_snapshots();
        if stop.is_none() {
            result.unwrap();
            assert!(!left.contains(&name));
        }
        for (name, content) in &self.pending {
            if Snapshot::open(Arc::clone(&objects), *name).is_ok() {
                self.complete.insert(*name, content.clone());
            }
            assert!(
                left.contains(name) || self.complete.contains_key(name) || self.deleted.contains(name),
                "{name} is neither complete nor deleted"
            );
        }
        self.pending.retain(|(name, _)| left.contains(name));
    }

    fn nth(&self, which: usize) -> Option<SnapshotName> {
        self.complete.keys().nth(which % self.complete.len().max(1)).copied()
    }

    fn delete(&mut self, which: usize, stop: Option<u64>) {
        let Some(name) = self.nth(which) else { return };
        self.stop(stop.map(|call| (call, false)));
        let result = Snapshots::new(shared(&self.store)).delete(name);
        self.store.heal();
        assert!(stop.is_some() || result.is_ok(), "{result:?}");
        self.complete.remove(&name);
        self.deleted.insert(name);
        // One that was stopped early has left it as it was, or nearly.
        match Snapshots::new(shared(&self.store)).delete(name) {
            Ok(()) | Err(SnapshotError::NotFound { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    fn restore(&mut self, which: usize, more: u64) {
        while !self.pending.is_empty() {
            self.step(&Step::Cancel { which: 0 });
        }
        let Some(snapshot) = self.nth(which) else { return };
        let content = self.complete[&snapshot].clone();
        let blocks = content.len() as u64 / 8;
        let key = Snapshot::open(shared(&self.store), snapshot).unwrap().manifest().key.clone();
        let origin = Origin { volume: self.unique(), snapshot, blocks, key };
        pin(&self.store, SnapshotName { id: origin.volume, ..snapshot }, snapshot.id).unwrap();
        self.storage = FakeStorage::new();
        folder::create_from(&self.storage, (blocks + more) * 4096, GEOMETRY, Some(&origin)).unwrap();
        self.content = content;
        self.content.resize(sectors(blocks + more), 0);
        self.open();
    }

    fn check(&self) {
        // First, for reading fetches what is not there.
        let (engine, end) = (self.engine(), self.content.len() as u64 * SECTOR);
        for at in (0..end).step_by(4096) {
            let Extent { content, len } = engine.extent(at, end - at).unwrap();
            assert!(len > 0 && at + len <= end);
            let sectors =
                usize::try_from(at / SECTOR).unwrap()..usize::try_from((at + len) / SECTOR).unwrap();
            let is_zero = self.content[sectors].iter().all(|byte| *byte == 0);
            assert!(content == extents::Content::Data || is_zero, "{content:?} at {at}");
        }
        assert!(read(&self.engine()) == self.content, "what the volume is");
        for (name, content) in &self.complete {
            let mut snapshot = Snapshot::open(shared(&self.store), *name).unwrap();
            snapshot.unlock(&OpenKeys).unwrap();
            assert_eq!(snapshot.size_bytes(), content.len() as u64 * SECTOR);
            for (index, expected) in content.chunks(1024).enumerate() {
                let bytes = snapshot.chunk(index as u64).unwrap();
                let bytes = bytes.unwrap_or_else(|| vec![0; usize::try_from(CHUNK_BYTES).unwrap()]);
                let found: Content = bytes.chunks(512).map(sector).collect();
                assert!(found[..expected.len()] == *expected, "chunk {index} of {name}");
                assert!(found[expected.len()..].iter().all(|byte| *byte == 0), "beyond the end");
            }
        }
    }
}

/// As the volume does.
fn compact(engine: &Engine<FakeStorage>) {
    let mut lower = 0;
    loop {
        let layers: Vec<_> = engine.stack().iter().map(|layer| layer.id).collect();
        if layers.len() < lower + 3 {
            return;
        }
        match engine.merge(layers[lower], layers[lower + 1], &|| false) {
            Ok(_) => {}
            Err(VolumeError::NeededApart { .. }) => lower += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn any_range() -> impl Strategy<Value = (u64, u64)> {
    // Around the ends of chunks, in whole blocks or not.
    let first = (0u64..3, 0u64..40).prop_map(|(chunk, sector)| chunk * 1024 + sector);
    (first, prop_oneof![Just(8u64), 1u64..30], any::<bool>()).prop_map(|(first, count, aligned)| {
        let first = if aligned { first / 8 * 8 } else { first };
        (first, if aligned { count.next_multiple_of(8) } else { count }.min(BLOCKS * 8 - first))
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let stop = prop::option::of((1u64..16, any::<bool>()));
    prop_oneof![
        8 => (any_range(), 1u8..9).prop_map(|((first, count), byte)| Step::Write { first, count, byte }),
        2 => any_range().prop_map(|(first, count)| Step::Zero { first, count }),
        2 => any_range().prop_map(|(first, count)| Step::Read { first, count }),
        4 => Just(Step::Begin),
        6 => (0usize..4, stop).prop_map(|(which, stop)| Step::Upload { which, stop }),
        1 => (0usize..4).prop_map(|which| Step::Cancel { which }),
        2 => (0usize..5, prop::option::of(1u64..20)).prop_map(|(which, stop)| Step::Delete { which, stop }),
        2 => (0usize..5, 0u64..2).prop_map(|(which, more)| Step::Restore { which, more }),
        2 => (1u64..5).prop_map(|chunks| Step::Fill { chunks }),
        2 => Just(Step::Compact),
        1 => Just(Step::Grow),
        2 => (0usize..12).prop_map(|operation| Step::GrowAndCrash { operation }),
        1 => Just(Step::Reopen),
        2 => Just(Step::Crash),
    ]
}

fn histories() -> u32 {
    std::env::var("NIMBO_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_snapshots_agrees_with_lists_of_bytes(
        seed in any::<u64>(),
        is_encrypted in any::<bool>(),
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        let mut world = World::new(seed, is_encrypted);
        for step in &steps {
            world.step(step);
        }
        world.upload(world.pending.len().saturating_sub(1), None);
        world.check();
        // What was just fetched may not be on the disk yet: it alone is read from the page cache, until all is there.
        let engine = world.engine();
        let cached = || -> Vec<_> {
            let layers = engine.stack();
            layers.iter().map(|layer| layer.id).filter(|id| engine.way_to(*id) == Way::Cached).collect()
        };
        let fetched: Vec<_> = engine.base().map(|base| base.layer().id).into_iter().collect();
        prop_assert_eq!(cached(), fetched);
        let filled = world.engine().fill(&|_| true).unwrap();
        prop_assert!(filled && !world.engine().has_base());
        prop_assert_eq!(cached(), []);
        drop(engine);
        world.open();
        world.check();
    }
}
