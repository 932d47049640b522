//! Histories of transactions, reads and watches, against a model that keeps the records of every revision.
//!
//! What a watch must tell of a revision is what differs between the records before it and after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::time::timeout;

use super::{Change, Entry, Key, Memory, Outcome, Revision, Snapshot, Store, StoreError, Txn, Value, Watch};

type Records = BTreeMap<Key, Entry>;

/// What the store had at each revision, the first being the one that it began at.
#[derive(Debug, Clone)]
pub(super) struct Model(Vec<Records>);

#[derive(Debug, Clone)]
pub(super) struct ModelTxn {
    compares: Vec<(&'static str, bool, Expected)>,
    operations: BTreeMap<&'static str, Option<u8>>,
}

/// What a compare asks for.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// What is so.
    Truth,
    /// What was so before.
    Before,
    Absence,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Commit(ModelTxn),
    Range(&'static str),
    /// Opens a watch so many revisions back.
    Watch(&'static str, u64),
    Next(Index),
    Reopen,
}

const KEYS: [&str; 7] = ["a", "a/1", "a/2", "a/20", "a/3", "b", "b/1"];
const PREFIXES: [&str; 6] = ["", "a", "a/", "a/2", "b", "c"];

pub(super) fn any_txn() -> impl Strategy<Value = ModelTxn> {
    let key = || prop::sample::select(&KEYS[..]);
    let expected =
        prop_oneof![6 => Just(Expected::Truth), 1 => Just(Expected::Before), 1 => Just(Expected::Absence)];
    let compares = prop::collection::vec((key(), any::<bool>(), expected), 0..3);
    let operations = prop::collection::btree_map(key(), prop::option::weighted(0.7, any::<u8>()), 0..4);
    (compares, operations).prop_map(|(compares, operations)| ModelTxn { compares, operations })
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    let prefix = || prop::sample::select(&PREFIXES[..]);
    prop_oneof![
        12 => any_txn().prop_map(Step::Commit),
        2 => prefix().prop_map(Step::Range),
        2 => (prefix(), 0u64..6).prop_map(|(prefix, back)| Step::Watch(prefix, back)),
        6 => any::<Index>().prop_map(Step::Next),
        1 => Just(Step::Reopen),
    ]
}

impl Model {
    pub(super) fn new() -> Self {
        Self(vec![Records::new()])
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.0.len() as u64 - 1)
    }

    fn now(&self) -> &Records {
        self.0.last().unwrap()
    }

    pub(super) fn at(&self, revision: Revision) -> Snapshot {
        let records = &self.0[usize::try_from(revision.0).unwrap()];
        Snapshot { revision, entries: records.values().cloned().collect() }
    }

    /// The transaction as a store gets it, and what must become of it.
    pub(super) fn judge(&mut self, model: &ModelTxn) -> (Txn, Outcome) {
        let mut txn = Txn::new();
        let mut holds = true;
        for &(key, created, expected) in &model.compares {
            let entry = self.now().get(key.as_bytes());
            let revision = |entry: &Entry| if created { entry.create_revision } else { entry.mod_revision };
            let truth = entry.map_or(Revision::ZERO, revision);
            let asked = match expected {
                Expected::Truth => truth,
                Expected::Before => Revision(truth.0.saturating_sub(1)),
                Expected::Absence => Revision::ZERO,
            };
            holds &= asked == truth;
            txn = if created { txn.if_not_replaced(key, asked) } else { txn.if_unchanged(key, asked) };
        }
        let revision = self.revision().next();
        let mut after = self.now().clone();
        for (&key, value) in &model.operations {
            let Some(value) = value else {
                txn = txn.delete(key);
                after.remove(key.as_bytes());
                continue;
            };
            // Also such as are larger than a page of a file.
            let value = Value::from(vec![*value; usize::from(*value).pow(2) / 8]);
            txn = txn.put(key, value.clone());
            let old = after.get(key.as_bytes());
            let entry = Entry {
                key: Key::from(key),
                value,
                create_revision: old.map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.map_or(1, |old| old.version + 1),
            };
            after.insert(Key::from(key), entry);
        }
        if !holds {
            return (txn, Outcome::Conflict(self.revision()));
        }
        if after != *self.now() {
            self.0.push(after);
        }
        (txn, Outcome::Committed(self.revision()))
    }

    /// What a watch must tell next, sorted by key.
    fn next(&self, prefix: &str, after: Revision) -> Option<(Revision, Vec<Change>)> {
        let revisions = after.next().0..self.0.len() as u64;
        revisions
            .map(|revision| (Revision(revision), self.changes(prefix, revision)))
            .find(|(_, changes)| !changes.is_empty())
    }

    fn changes(&self, prefix: &str, revision: u64) -> Vec<Change> {
        let new = usize::try_from(revision).unwrap();
        let (old, new) = (&self.0[new - 1], &self.0[new]);
        let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
        let changed = keys
            .into_iter()
            .filter(|key| key.starts_with(prefix.as_bytes()) && old.get(*key) != new.get(*key));
        changed
            .map(|key| new.get(key).map_or(Change::Delete(key.clone()), |entry| Change::Put(entry.clone())))
            .collect()
    }
}

struct Watching {
    prefix: &'static str,
    seen: Revision,
    watch: Box<dyn Watch>,
}

impl Watching {
    /// Takes what the model says is next; says whether there was something.
    async fn step(&mut self, model: &Model) -> bool {
        let Some(expected) = model.next(self.prefix, self.seen) else {
            let nothing = timeout(Duration::ZERO, self.watch.next()).await;
            assert!(nothing.is_err(), "{nothing:?} after {} below {:?}", self.seen, self.prefix);
            return false;
        };
        let mut told = timeout(Duration::from_secs(20), self.watch.next()).await.unwrap().unwrap();
        told.changes.sort_by(|one, other| one.key().cmp(other.key()));
        assert_eq!((told.revision, told.changes), expected);
        self.seen = expected.0;
        true
    }
}

/// Does all steps with a store, which `open` opens at first and again, or else never closes.
pub(super) async fn run(steps: &[Step], open: &dyn Fn() -> Arc<dyn Store>, closes: bool) {
    let mut store = Some(open());
    let mut model = Model::new();
    let mut watches: Vec<Watching> = Vec::new();
    // What came before is forgotten.
    let mut opened_at = Revision::ZERO;
    for step in steps {
        let current = store.as_ref().unwrap();
        match step {
            Step::Commit(txn) => {
                let (txn, expected) = model.judge(txn);
                assert_eq!(current.commit(txn).await.unwrap(), expected);
            }
            Step::Range(prefix) => {
                let mut expected = model.at(model.revision());
                expected.entries.retain(|entry| entry.key.starts_with(prefix.as_bytes()));
                assert_eq!(current.range(prefix.as_bytes()).await.unwrap(), expected);
            }
            Step::Watch(prefix, back) => {
                let seen = Revision(model.revision().0.saturating_sub(*back));
                match current.watch(prefix.as_bytes(), seen).await {
                    Ok(watch) => watches.push(Watching { prefix, seen, watch }),
                    Err(StoreError::Compacted { after }) => assert!(after == seen && seen < opened_at),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Next(index) if !watches.is_empty() => {
                let index = index.index(watches.len());
                watches[index].step(&model).await;
            }
            Step::Reopen if closes => {
                drop(store.take());
                for mut watching in watches.drain(..) {
                    while watching.watch.next().await.is_ok() {}
                    assert!(matches!(watching.watch.next().await, Err(StoreError::Closed)));
                }
                opened_at = model.revision();
                store = Some(open());
            }
            Step::Next(_) | Step::Reopen => {}
        }
    }
    for watching in &mut watches {
        while watching.step(&model).await {}
    }
    let store = store.unwrap();
    assert_eq!(store.range(b"").await.unwrap(), model.at(model.revision()));
    for key in KEYS {
        assert_eq!(store.get(key.as_bytes()).await.unwrap().as_ref(), model.now().get(key.as_bytes()));
    }
}

proptest! {
    #[test]
    fn a_store_in_memory_is_as_its_model(steps in prop::collection::vec(any_step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(&steps, &|| Arc::new(Memory::new()), false));
    }
}
