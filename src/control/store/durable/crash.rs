//! Histories of transactions on a disk that crashes, or fails, at every write and every sync.
//!
//! What is left must open, and be what the model had at some revision: not before the last one that was answered, not after the last one
//! that was asked for.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use proptest::prelude::*;

use super::disk::{Disk, Numbers};
use super::*;
use crate::store::model::{Model, ModelTxn, any_step, any_txn, run};

const SCHEMA: Schema = Schema { version: 1, migrations: &[] };

fn open(disk: &Disk) -> Result<Redb, OpenError> {
    let path = Path::new("the disk");
    let failed = |error: redb::DatabaseError| OpenError::Database {
        path: path.to_owned(),
        source: Box::new(error.into()),
    };
    Redb::start(path, disk.database().map_err(failed)?, &SCHEMA)
}

/// Transactions in groups, each of which is asked for at once.
fn any_history(groups: usize) -> impl Strategy<Value = Vec<Vec<ModelTxn>>> {
    prop::collection::vec(prop::collection::vec(any_txn(), 1..6), 1..groups)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Asks for all transactions, calls `asked`, and says how each ended.
async fn commit_all(store: &Redb, txns: Vec<Txn>, asked: impl FnOnce()) -> Vec<Result<Outcome, StoreError>> {
    let mut asked = Some(asked);
    let mut commits: Vec<_> = txns.into_iter().map(|txn| store.commit(txn)).collect();
    let mut results: Vec<_> = commits.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (commit, result) in commits.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ready) = commit.as_mut().poll(context)
            {
                *result = Some(ready);
            }
        }
        if let Some(asked) = asked.take() {
            asked();
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// Opens what is left, and compares; says at which revision it is.
fn check(left: &Disk, model: &Model, least: Revision) -> Revision {
    let store = open(left).unwrap();
    let found = store.shared.range(b"");
    let bounds = least..=model.revision();
    assert!(bounds.contains(&found.revision), "{} is not in {bounds:?}", found.revision);
    assert_eq!(found, model.at(found.revision));
    found.revision
}

fn crash_at_every_step(history: &[Vec<ModelTxn>], seed: u64) {
    let disk = Disk::new();
    let store = open(&disk).unwrap();
    let mut model = Model::new();
    let plan: Vec<_> =
        history.iter().map(|group| group.iter().map(|txn| model.judge(txn)).collect::<Vec<_>>()).collect();
    let answered = Arc::new(AtomicU64::new(0));
    let crashes = Arc::new(AtomicU64::new(0));
    let is_sound = Arc::new(AtomicBool::new(true));
    disk.set_hook({
        let (model, answered, crashes) = (model.clone(), Arc::clone(&answered), Arc::clone(&crashes));
        let is_sound = Arc::clone(&is_sound);
        move |disk| {
            let least = Revision(answered.load(Ordering::SeqCst));
            let number = crashes.fetch_add(1, Ordering::SeqCst);
            let left = disk.crash(&mut Numbers::new(seed ^ number));
            // A panic must not go through redb, which would write on while it unwinds.
            let checked = std::panic::catch_unwind(|| {
                let revision = check(&left, &model, least);
                // What was found there to stay is there to stay.
                assert_eq!(check(&left.crash(&mut Numbers::new(number)), &model, revision), revision);
            });
            is_sound.fetch_and(checked.is_ok(), Ordering::SeqCst);
        }
    });
    runtime().block_on(async {
        for group in plan {
            let (txns, expected): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let outcomes = commit_all(&store, txns, || {}).await;
            let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
            assert_eq!(outcomes, expected);
            let newest = outcomes.into_iter().filter_map(Outcome::committed).max();
            answered.fetch_max(newest.unwrap_or(Revision::ZERO).0, Ordering::SeqCst);
        }
    });
    drop(store);
    assert!(is_sound.load(Ordering::SeqCst), "the store does not survive a crash");
    assert_eq!(check(&disk.live(), &model, model.revision()), model.revision());
    assert!(crashes.load(Ordering::SeqCst) >= disk.steps() / 2 || model.revision() == Revision::ZERO);
}

/// Lets a step fail, or all from it on; says whether one did.
fn fail(history: &[Vec<ModelTxn>], step: u64, lasting: bool, errno: i32) -> bool {
    let disk = Disk::new();
    let store = open(&disk).unwrap();
    let step = disk.steps() + step;
    disk.fail(step..if lasting { u64::MAX } else { step + 1 }, errno);
    let mut model = Model::new();
    let mut least = Revision::ZERO;
    let mut stopped = false;
    runtime().block_on(async {
        for group in history {
            let (txns, expected): (Vec<_>, Vec<_>) = group.iter().map(|txn| model.judge(txn)).unzip();
            for (result, expected) in commit_all(&store, txns, || {}).await.into_iter().zip(expected) {
                match result {
                    Ok(outcome) => {
                        assert!(!stopped, "a transaction is taken after one failed");
                        assert_eq!(outcome, expected);
                        least = least.max(outcome.committed().unwrap_or(Revision::ZERO));
                    }
                    Err(StoreError::Uncertain { source } | StoreError::Stopped { source }) => {
                        stopped = true;
                        let errno = io::Error::from_raw_os_error(errno).to_string();
                        assert!(source.to_string().contains(&errno), "{source}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            if stopped {
                // Reads go on, with what is durable.
                let after = store.range(b"").await.unwrap();
                assert_eq!(after, model.at(least));
                let refused = store.commit(Txn::new().put("more", *b"")).await;
                assert!(matches!(refused, Err(StoreError::Stopped { .. })), "{refused:?}");
                break;
            }
        }
    });
    drop(store);
    assert!(disk.has_failed() || !stopped, "the store stopped though the disk works");
    check(&disk.live(), &model, least);
    for seed in 0..3 {
        check(&disk.crash(&mut Numbers::new(step ^ seed << 32)), &model, least);
    }
    disk.has_failed()
}

/// Each case is hundreds of crashes, so there are few unless more are asked for.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig::with_cases(cases.unwrap_or(12))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_crash_at_any_write_or_sync_loses_nothing_that_was_answered(
        history in any_history(8), seed in any::<u64>(),
    ) {
        crash_at_every_step(&history, seed);
    }

    #[test]
    fn a_disk_that_fails_stops_the_store_and_loses_nothing_that_was_answered(
        history in any_history(5), full in any::<bool>(), lasting in any::<bool>(),
    ) {
        let errno = if full { nix::errno::Errno::ENOSPC } else { nix::errno::Errno::EIO };
        let mut step = 1;
        while fail(&history, step, lasting, errno as i32) {
            step += 1;
        }
    }

    #[test]
    fn a_store_on_disk_is_as_its_model(steps in prop::collection::vec(any_step(), 0..80)) {
        let disk = Disk::new();
        runtime().block_on(run(&steps, &|| Arc::new(open(&disk).unwrap()), true));
    }
}

#[test]
fn a_lone_transaction_waits_for_one_sync_and_those_that_wait_share_one() {
    const WAITING: u32 = 100;
    let disk = Disk::new();
    let store = open(&disk).unwrap();
    let txn = |number: u32| Txn::new().put(format!("key/{number}"), *b"value");
    let commit = |txns: Vec<Txn>, asked: &dyn Fn()| {
        let before = disk.syncs();
        let outcomes = runtime().block_on(commit_all(&store, txns, asked));
        assert!(outcomes.into_iter().all(|outcome| outcome.is_ok()));
        disk.syncs() - before
    };
    // Meanwhile the file grows to what it needs, which is a sync more each time.
    commit((0..WAITING).map(txn).collect(), &|| {});
    (0..20).for_each(|number| _ = commit(vec![txn(number)], &|| {}));
    for number in 0..50 {
        assert_eq!(commit(vec![txn(number)], &|| {}), 1);
    }
    // The disk is busy until all are asked for.
    let gate = Arc::new(Mutex::new(()));
    disk.set_hook({
        let gate = Arc::clone(&gate);
        move |_| drop(gate.lock().unwrap())
    });
    let closed = Cell::new(Some(gate.lock().unwrap()));
    let syncs = commit((0..WAITING).map(txn).collect(), &|| drop(closed.take()));
    // The first ones may have one of their own, and the file may grow.
    assert!(syncs <= 4, "{syncs} syncs for {WAITING} transactions");
}
