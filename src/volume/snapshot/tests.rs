//! Histories of snapshots in a store that stops the process at any of its calls, against a model: what is complete reads as it was
//! written, and in the end there is exactly what is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::format::{CHUNK_LEN, Level, Place, Uuid};
use super::store::memory::{Fault, MemoryStore};
use super::writer::{Plan, release};
use super::*;

/// Chunks of several leaves and nodes.
const CHUNKS: [u64; 6] = [0, 1, 1023, 1024, 1 << 20, (1 << 20) + 1025];
const BLOCKS: u64 = ((1 << 20) + 1026) * 128;
const LINEAGE: Uuid = Uuid([7; 16]);

/// What each chunk is full of; what is not there is zeroes.
type Content = BTreeMap<u64, u8>;

#[derive(Debug, Clone)]
enum Step {
    /// A snapshot from one that is there, or from none.
    Make {
        parent: Option<usize>,
        changes: Vec<(usize, u8)>,
    },
    /// One that was stopped is gone on with.
    Resume,
    Cancel,
    Delete {
        which: usize,
    },
}

#[derive(Debug, Clone)]
struct Making {
    plan: Plan,
    content: Content,
}

struct World {
    store: MemoryStore,
    complete: BTreeMap<SnapshotName, Content>,
    /// What those are and were that are complete, or were once.
    written: BTreeMap<SnapshotName, Content>,
    /// Deleted, or about to be.
    deleted: BTreeSet<SnapshotName>,
    making: Option<Making>,
    next_id: u8,
}

fn chunk(byte: u8) -> Vec<u8> {
    vec![byte; CHUNK_LEN]
}

fn name(id: u8) -> SnapshotName {
    SnapshotName { lineage: LINEAGE, id: Uuid([id; 16]) }
}

impl World {
    fn new() -> Self {
        let store = MemoryStore::new();
        Self {
            store,
            complete: BTreeMap::new(),
            written: BTreeMap::new(),
            deleted: BTreeSet::new(),
            making: None,
            next_id: 1,
        }
    }

    fn shared(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.store.clone())
    }

    fn copy(&self) -> Self {
        let (complete, deleted, making) = (self.complete.clone(), self.deleted.clone(), self.making.clone());
        Self {
            store: self.store.copy(),
            complete,
            written: self.written.clone(),
            deleted,
            making,
            next_id: self.next_id,
        }
    }

    fn snapshots(&self) -> Snapshots {
        Snapshots::new(self.shared())
    }

    fn open(&self, name: SnapshotName) -> Snapshot {
        Snapshot::open(self.shared(), name).unwrap()
    }

    fn nth(&self, which: usize) -> Option<SnapshotName> {
        self.complete.keys().nth(which % self.complete.len().max(1)).copied()
    }

    /// Does a step, which may be stopped; says whether it came to its end.
    fn step(&mut self, step: &Step) -> Result<(), SnapshotError> {
        match step {
            Step::Make { parent, changes } => {
                if self.making.is_none() {
                    let parent = parent.and_then(|which| self.nth(which));
                    let mut content =
                        parent.map_or_else(Content::new, |parent| self.complete[&parent].clone());
                    for (index, byte) in changes {
                        content.insert(CHUNKS[index % CHUNKS.len()], *byte);
                    }
                    content.retain(|_, byte| *byte != 0);
                    let (id, parent) = (name(self.next_id), parent.map_or(Uuid::NONE, |parent| parent.id));
                    self.next_id += 1;
                    let plan = Plan { name: id, parent, blocks: BLOCKS, created_s: 5, key: None };
                    self.making = Some(Making { plan, content });
                }
                self.make()
            }
            Step::Resume => self.make(),
            Step::Cancel => {
                let Some(making) = self.making.clone() else { return Ok(()) };
                // It can be complete, and not known to be.
                self.complete.remove(&making.plan.name);
                self.deleted.insert(making.plan.name);
                self.snapshots().cancel(making.plan.name)?;
                self.making = None;
                Ok(())
            }
            Step::Delete { which } => {
                let Some(name) = self.nth(*which) else { return Ok(()) };
                self.deleted.insert(name);
                self.complete.remove(&name);
                self.snapshots().delete(name)
            }
        }
    }

    fn make(&mut self) -> Result<(), SnapshotError> {
        let Some(making) = self.making.clone() else { return Ok(()) };
        let writer = match SnapshotWriter::resume(self.shared(), making.plan.clone()) {
            // The parent was deleted meanwhile.
            Err(SnapshotError::NotFound { .. }) => {
                let plan = Plan { parent: Uuid::NONE, ..making.plan };
                self.making = Some(Making { plan, content: making.content });
                return self.make();
            }
            result => result?,
        };
        if let Some(writer) = writer {
            self.write(&writer, &making)?;
        }
        self.written.insert(making.plan.name, making.content.clone());
        if !self.deleted.contains(&making.plan.name) {
            self.complete.insert(making.plan.name, making.content);
        }
        release(&self.store, making.plan.name)?;
        self.making = None;
        self.snapshots().collect(making.plan.name)?;
        Ok(())
    }

    fn write(&self, writer: &SnapshotWriter, making: &Making) -> Result<(), SnapshotError> {
        let old: Content = match writer.parent() {
            Some(parent) => self.written[&parent.name()].clone(),
            None => Content::new(),
        };
        for index in CHUNKS {
            let now = making.content.get(&index).copied().unwrap_or(0);
            // Some that did not change are put as well, as who cannot tell does.
            if old.get(&index).copied().unwrap_or(0) != now || index % 2 == 1 {
                writer.put_chunk(index, &chunk(now))?;
            }
            // Not after each chunk, so that one step has several leaves.
            if index % 3 == 0 {
                writer.settle(index + 1)?;
            }
        }
        writer.complete()
    }

    /// Whether all that is complete reads as it was written.
    fn check(&self) {
        let listed: BTreeSet<SnapshotName> = self.snapshots().list().unwrap().into_iter().collect();
        for (name, content) in &self.complete {
            assert!(listed.contains(name), "{name} is gone");
            let snapshot = self.open(*name);
            assert_eq!(snapshot.chunks(0, 100).unwrap(), content.keys().copied().collect::<Vec<_>>());
            assert_eq!(snapshot.info().chunks, content.len() as u64);
            for index in CHUNKS {
                let expected = content.get(&index).map(|byte| chunk(*byte));
                assert!(snapshot.chunk(index).unwrap() == expected, "chunk {index} of {name}");
            }
        }
        // One that was being made when the process stopped can have been completed; one that was deleted can be there yet.
        let making = self.making.as_ref().map(|making| making.plan.name);
        for name in listed {
            assert!(
                self.complete.contains_key(&name) || self.deleted.contains(&name) || making == Some(name),
                "{name} is there"
            );
        }
        for (older, old) in &self.complete {
            for (newer, new) in &self.complete {
                let changed = self.open(*newer).changed(&self.open(*older), 0, 100).unwrap();
                let expected = CHUNKS.into_iter().filter(|index| old.get(index) != new.get(index));
                assert_eq!(changed, expected.collect::<Vec<_>>());
            }
        }
    }

    /// Ends all that was stopped, and looks whether exactly what is needed is there.
    fn end(&mut self) {
        self.store.heal();
        self.step(&Step::Resume).unwrap();
        for name in self.deleted.clone() {
            match self.snapshots().delete(name) {
                Ok(()) | Err(SnapshotError::NotFound { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        self.check();
        assert_eq!(self.store.keys().into_iter().collect::<BTreeSet<_>>(), self.needed());
    }

    fn needed(&self) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        for (name, content) in &self.complete {
            let snapshot = self.open(*name);
            needed.insert(name.manifest_key());
            for index in content.keys() {
                let places = [
                    Place::Chunk(*index),
                    Place::Page(Level::Leaf, index >> 10),
                    Place::Page(Level::Node, index >> 20),
                ];
                for place in places {
                    let entry = snapshot.entry(place).unwrap().unwrap();
                    needed.insert(name.object_key(place, &entry.name));
                }
            }
        }
        needed
    }
}

fn is_chunk(key: &str) -> bool {
    // The keys of manifests and pins end with names in hexadecimal, which may begin with a c but hold no dash.
    key.rsplit('/').next().is_some_and(|last| last.starts_with('c') && last.contains('-'))
}

fn make(parent: Option<usize>, changes: &[(usize, u8)]) -> Step {
    Step::Make { parent, changes: changes.to_vec() }
}

/// Does the steps; before each that comes, tries what becomes of it when the process stops at each call.
fn stopped_at_every_call(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        for fault in [Fault::Refused, Fault::LostAnswer] {
            for call in 1.. {
                let mut tried = world.copy();
                let last = if fault == Fault::LostAnswer { call + 1 } else { u64::MAX };
                tried.store.fault_at(call..last, fault);
                tried.store.fault_at(call + 1..u64::MAX, Fault::Refused);
                let is_over = tried.step(step).is_ok();
                tried.store.heal();
                tried.check();
                tried.end();
                if is_over {
                    break;
                }
            }
        }
        world.store.heal();
        world.step(step).unwrap();
        world.check();
    }
    world.end();
}

#[test]
fn snapshots_that_are_stopped_at_any_call_lose_nothing_and_leave_nothing() {
    stopped_at_every_call(&[
        make(None, &[(0, 1), (1, 2), (3, 3), (4, 4)]),
        make(Some(0), &[(1, 5), (2, 6), (4, 0)]),
        make(Some(1), &[(1, 2), (5, 7)]),
        Step::Delete { which: 1 },
        make(Some(0), &[(0, 0), (1, 0), (3, 0), (4, 0)]),
        Step::Delete { which: 0 },
        Step::Delete { which: 0 },
    ]);
}

#[test]
fn a_parent_that_is_deleted_while_a_snapshot_is_made_from_it_goes_when_nothing_needs_it() {
    let mut world = World::new();
    world.step(&make(None, &[(0, 1), (1, 2)])).unwrap();
    // Stopped between its chunks and its manifest.
    world.store.heal();
    world.store.fault_at(6..u64::MAX, Fault::Refused);
    assert!(world.step(&make(Some(0), &[(0, 3)])).is_err());
    world.store.heal();
    let parent = world.nth(0).unwrap();
    world.step(&Step::Delete { which: 0 }).unwrap();
    assert!(matches!(Snapshot::open(world.shared(), parent), Err(SnapshotError::NotFound { .. })));
    assert!(Snapshot::open_pinned(world.shared(), parent).unwrap().chunk(1).unwrap().is_some());
    world.end();
}

#[test]
fn what_is_damaged_is_named_and_not_read() {
    let mut world = World::new();
    world.step(&make(None, &[(0, 1), (4, 2)])).unwrap();
    let snapshot = world.nth(0).unwrap();
    for key in world.store.keys() {
        let healthy = world.store.copy();
        world.store.damage(&key, |bytes| bytes[70] ^= 1);
        let read = Snapshot::open(world.shared(), snapshot)
            .and_then(|snapshot| Ok((snapshot.chunk(0)?, snapshot.chunk(1 << 20)?)));
        match read.map(drop).unwrap_err() {
            SnapshotError::Damaged { object, offset: 8, .. } => assert_eq!(object, key),
            error => panic!("{error:?}"),
        }
        world.store = healthy;
    }
    // Wrong on the way once, and right then.
    world.store.heal();
    world.store.fault_at(1..3, Fault::WrongBytes);
    assert_eq!(world.open(snapshot).chunk(0).unwrap(), Some(chunk(1)));
    // An object that is sound, and another.
    let keys = world.store.keys();
    let chunks: Vec<_> = keys.iter().filter(|key| is_chunk(key)).collect();
    let other = world.store.get(chunks[1]).unwrap();
    world.store.put(chunks[0], &other).unwrap();
    assert!(matches!(world.open(snapshot).chunk(0), Err(SnapshotError::Damaged { offset: 32, .. })));
}

#[test]
fn a_copy_is_the_same_and_takes_over_what_is_there() {
    let mut world = World::new();
    world.step(&make(None, &[(0, 1), (1, 2), (4, 3)])).unwrap();
    world.step(&make(Some(0), &[(1, 9), (4, 0)])).unwrap();
    let (first, second) = (world.nth(0).unwrap(), world.nth(1).unwrap());
    let elsewhere = MemoryStore::new();
    let there: Arc<dyn ObjectStore> = Arc::new(elsewhere.clone());
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |progress: Progress| {
        seen.lock().unwrap().push(progress.percent());
        true
    };
    let copy = world.open(first).copy_to(&there, None, &progress).unwrap();
    assert_eq!(seen.lock().unwrap().iter().max(), Some(&100));
    let before = elsewhere.keys();
    let stopped = world.open(second).copy_to(&there, Some(copy), &|_| false);
    assert!(matches!(stopped, Err(SnapshotError::Stopped)));
    assert_eq!(elsewhere.keys(), before, "nothing is left of what was stopped");
    let copy_of_second = world.open(second).copy_to(&there, Some(copy), &|_| true).unwrap();
    for (copy, original) in [(copy, first), (copy_of_second, second)] {
        let (copy, original) = (Snapshot::open(Arc::clone(&there), copy).unwrap(), world.open(original));
        assert_eq!(copy.changed(&original, 0, 9).unwrap(), [0; 0]);
        assert_eq!(copy.info().chunks, original.info().chunks);
    }
    let chunks = elsewhere.keys().into_iter().filter(|key| is_chunk(key)).count();
    assert_eq!(chunks, 4, "three of the first, and one that changed");
}

#[test]
fn a_snapshot_is_written_block_by_block_and_a_second_thought_leaves_nothing() {
    let store = MemoryStore::new();
    let shared: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let writer = SnapshotWriter::begin(Arc::clone(&shared), None, 3 * CHUNK_BYTES).unwrap();
    for (index, byte) in [(0, 1), (1, 1), (0, 2), (1, 0), (2, 3)] {
        writer.put_chunk(index, &chunk(byte)).unwrap();
    }
    assert!(matches!(writer.put_chunk(3, &chunk(1)), Err(SnapshotError::OutOfRange { .. })));
    assert_eq!(Snapshots::new(Arc::clone(&shared)).list().unwrap(), [], "it is not complete");
    let name = writer.finish().unwrap();
    let snapshot = Snapshot::open(shared, name).unwrap();
    assert_eq!(snapshot.chunks(0, 9).unwrap(), [0, 2]);
    assert_eq!(snapshot.chunk(0).unwrap(), Some(chunk(2)));
    assert!(snapshot.chunk(3).is_err());
    assert_eq!(store.keys().len(), 5, "two chunks, two pages, a manifest: {:?}", store.keys());
}

fn any_step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec((0..CHUNKS.len(), 0u8..5), 0..4);
    prop_oneof![
        5 => (prop::option::weighted(0.8, 0usize..6), changes)
            .prop_map(|(parent, changes)| Step::Make { parent, changes }),
        1 => Just(Step::Resume),
        1 => Just(Step::Cancel),
        4 => (0usize..6).prop_map(|which| Step::Delete { which }),
    ]
}

/// Whether and at which call a step is stopped, and whether that one call is done.
fn any_stop() -> impl Strategy<Value = Option<(u64, bool)>> {
    prop::option::of((1u64..24, any::<bool>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_history_loses_nothing_and_leaves_nothing(
        steps in prop::collection::vec((any_step(), any_stop()), 1..16),
    ) {
        let mut world = World::new();
        for (step, stop) in steps {
            world.store.heal();
            if let Some((call, is_done)) = stop {
                if is_done {
                    world.store.fault_at(call..call + 1, Fault::LostAnswer);
                }
                world.store.fault_at(call..u64::MAX, Fault::Refused);
            }
            let result = world.step(&step);
            prop_assert!(stop.is_some() || result.is_ok(), "{result:?}");
            world.store.heal();
            world.check();
        }
        world.end();
    }
}
