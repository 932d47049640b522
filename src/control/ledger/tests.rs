use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::records::{InternetGateway, TagSet};
use crate::state::Table;
use crate::store::{BoxFuture, Entry, Memory, Snapshot, Watch};
use crate::testing::{ledger, space};
use types::{InternetGatewayId, ResourceId, VpcId};

fn gateways(ledger: &Ledger) -> Vec<InternetGateway> {
    let all = |table: &Table<InternetGateway>| table.iter().map(|row| row.as_ref().clone()).collect();
    ledger
        .read(|state| state.space(space()).map(|tables| all(&tables.internet_gateways)).unwrap_or_default())
        .0
}

async fn make(ledger: &Ledger) -> InternetGatewayId {
    let make = |tx: &mut Transaction<'_>| {
        let id = tx.new_id();
        tx.put(InternetGateway { id, vpc: None });
        Ok::<_, std::convert::Infallible>(id)
    };
    ledger.write(space(), make).await.unwrap()
}

#[tokio::test]
async fn what_was_written_is_there_when_the_store_is_opened_again() {
    let store = Arc::new(Memory::new());
    let first = ledger(store.clone(), 1).await;
    for _ in 0..300 {
        make(&first).await;
    }
    let second = ledger(store, 2).await;
    assert_eq!(gateways(&second), gateways(&first));
    assert_eq!(gateways(&second).len(), 300);
}

#[tokio::test]
async fn many_writers_at_once_are_all_written() {
    let store = Arc::new(Memory::new());
    let first = Arc::new(ledger(store.clone(), 1).await);
    let writers: Vec<_> = (0..500)
        .map(|_| {
            let ledger = Arc::clone(&first);
            tokio::spawn(async move { make(&ledger).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(gateways(&ledger(store, 2).await).len(), 500);
}

#[tokio::test]
async fn who_is_overtaken_writes_nothing_more() {
    let store = Arc::new(Memory::new());
    let first = ledger(store.clone(), 1).await;
    make(&first).await;
    let second = ledger(store.clone(), 2).await;
    let nothing = |tx: &mut Transaction<'_>| {
        let id = tx.new_id();
        tx.put(InternetGateway { id, vpc: None });
        Ok::<_, std::convert::Infallible>(())
    };
    for _ in 0..2 {
        let error = first.write(space(), nothing).await.unwrap_err();
        assert!(matches!(error, WriteError::Stopped(Stopped::Overtaken)), "{error}");
    }
    assert!(matches!(first.stopped().await, Stopped::Overtaken));
    make(&second).await;
    assert_eq!(gateways(&ledger(store, 3).await).len(), 2);
}

#[tokio::test]
async fn what_is_erased_is_gone_and_what_is_written_after_is_there() {
    let store = Arc::new(Memory::new());
    let first = ledger(store.clone(), 1).await;
    for _ in 0..3 {
        make(&first).await;
    }
    first.erase().await.unwrap();
    assert_eq!(gateways(&first), []);
    make(&first).await;
    assert_eq!(gateways(&first).len(), 1);
    assert_eq!(gateways(&ledger(store, 2).await), gateways(&first));
}

#[tokio::test]
async fn what_is_being_erased_is_not_there_after_a_crash() {
    let store = Arc::new(Memory::new());
    let first = ledger(store.clone(), 1).await;
    for _ in 0..3 {
        make(&first).await;
    }
    drop(first);
    // As far as it got: some records are gone, and that the others shall go is written down.
    let key = store.range(RECORDS.as_bytes()).await.unwrap().entries[0].key.clone();
    let crashed = Txn::new().put(ERASING_KEY, b"".as_slice()).delete(key);
    store.commit(crashed).await.unwrap().committed().unwrap();
    let second = ledger(store.clone(), 2).await;
    assert_eq!(gateways(&second), []);
    make(&second).await;
    assert_eq!(gateways(&ledger(store, 3).await).len(), 1);
}

#[tokio::test]
async fn what_is_too_large_for_the_store_changes_nothing() {
    let ledger = ledger(Arc::new(Memory::new()), 1).await;
    let too_much = |tx: &mut Transaction<'_>| {
        for _ in 0..=OPERATIONS_MAX {
            let id = tx.new_id();
            tx.put(InternetGateway { id, vpc: None });
        }
        Ok::<_, std::convert::Infallible>(())
    };
    let error = ledger.write(space(), too_much).await.unwrap_err();
    assert!(matches!(error, WriteError::TooLarge { .. }), "{error}");
    assert_eq!(gateways(&ledger), []);
    make(&ledger).await;
}

/// A store whose commits wait until it is let on.
#[derive(Debug)]
struct Slow {
    inner: Memory,
    may_go_on: watch::Receiver<bool>,
}

impl Store for Slow {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        self.inner.get(key)
    }

    fn range<'a>(&'a self, prefix: &'a [u8]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        self.inner.range(prefix)
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        let mut may_go_on = self.may_go_on.clone();
        Box::pin(async move {
            may_go_on.wait_for(|may| *may).await.unwrap();
            self.inner.commit(txn).await
        })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, StoreError>> {
        self.inner.watch(prefix, after)
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_it_is_durable() {
    let (let_on, may_go_on) = watch::channel(true);
    let ledger = Arc::new(ledger(Arc::new(Slow { inner: Memory::new(), may_go_on }), 1).await);
    let_on.send_replace(false);
    let writer = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { make(&ledger).await }
    });
    // It is seen in memory, and whoever sees it waits as its writer does.
    while gateways(&ledger).is_empty() {
        tokio::task::yield_now().await;
    }
    let ((), as_of) = ledger.read(|_| ());
    let wait = tokio::time::timeout(std::time::Duration::from_secs(3600), ledger.settled(as_of));
    assert!(wait.await.is_err(), "what is not durable was told");
    assert!(!writer.is_finished());
    let_on.send_replace(true);
    ledger.settled(as_of).await.unwrap();
    writer.await.unwrap();
}

#[derive(Debug, Clone)]
enum Change {
    Put { number: u8, vpc: Option<u8> },
    Remove(u8),
    Tag(u8),
}

fn gateway(number: u8) -> InternetGatewayId {
    types::RandomId::from_random([number; 16])
}

fn vpc(number: u8) -> VpcId {
    types::RandomId::from_random([number; 16])
}

fn change() -> impl Strategy<Value = Change> {
    let number = 0u8..6;
    prop_oneof![
        (number.clone(), proptest::option::of(0u8..3)).prop_map(|(number, vpc)| Change::Put { number, vpc }),
        number.clone().prop_map(Change::Remove),
        number.prop_map(Change::Tag),
    ]
}

/// What is attached, and whether it has tags.
type Model = BTreeMap<u8, (Option<u8>, bool)>;

fn apply(tx: &mut Transaction<'_>, model: &mut Model, change: &Change) {
    match *change {
        Change::Put { number, vpc: to } => {
            tx.put(InternetGateway { id: gateway(number), vpc: to.map(vpc) });
            model.entry(number).or_default().0 = to;
        }
        Change::Remove(number) => {
            tx.remove::<InternetGateway>(gateway(number));
            model.remove(&number);
        }
        Change::Tag(number) => {
            if let Some((_, is_tagged)) = model.get_mut(&number) {
                tx.put(TagSet {
                    resource: gateway(number).into(),
                    tags: BTreeMap::from([("a".into(), "b".into())]),
                });
                *is_tagged = true;
            }
        }
    }
}

fn check(ledger: &Ledger, model: &Model) {
    let ((), _) = ledger.read(|state| {
        let Some(tables) = state.space(space()) else { return assert!(model.is_empty()) };
        let rows: Vec<_> = tables.internet_gateways.iter().map(|row| (row.id, row.vpc)).collect();
        let mut expected: Vec<_> =
            model.iter().map(|(number, (to, _))| (gateway(*number), to.map(vpc))).collect();
        expected.sort_unstable();
        assert_eq!(rows, expected);
        for target in 0..3 {
            let linked: Vec<_> = tables.internet_gateways.linked_to(vpc(target)).map(|row| row.id).collect();
            expected.retain(|(_, to)| to.is_some());
            let to_it = expected.iter().filter(|(_, to)| *to == Some(vpc(target))).map(|(id, _)| *id);
            assert_eq!(linked, to_it.collect::<Vec<_>>());
        }
        let mut tagged: Vec<ResourceId> = model
            .iter()
            .filter(|(_, (_, is_tagged))| *is_tagged)
            .map(|(number, _)| gateway(*number).into())
            .collect();
        tagged.sort_unstable();
        assert_eq!(tables.tags.iter().map(|set| set.resource).collect::<Vec<_>>(), tagged);
    });
}

proptest! {
    /// Transactions, each with whether it is refused at its end.
    #[test]
    fn histories_are_as_a_model_has_them(
        history in prop::collection::vec((prop::collection::vec(change(), 0..6), any::<bool>()), 0..20)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Arc::new(Memory::new());
            let first = ledger(store.clone(), 1).await;
            let mut model = Model::new();
            for (changes, is_refused) in history {
                let mut after = model.clone();
                let outcome = first.write(space(), |tx| {
                    changes.iter().for_each(|change| apply(tx, &mut after, change));
                    if is_refused { Err(()) } else { Ok(()) }
                });
                match outcome.await {
                    Ok(()) => model = after,
                    Err(WriteError::Refused(())) => assert!(is_refused),
                    Err(error) => panic!("{error:?}"),
                }
                check(&first, &model);
            }
            check(&ledger(store, 2).await, &model);
        });
    }
}
