//! What every [`Store`] must do. An implementation's tests call [`check`] while nobody else changes the store.
//!
//! It asks for nothing that etcd does not give: no order of the changes within a revision, no first revision, no moment at which a watch
//! tells, and no revision that a store forgets by itself.

#![allow(clippy::unwrap_used, reason = "it is a test, which other crates call")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{
    Change, Changes, Entry, InvalidTxn, Key, OPERATIONS_MAX, Outcome, Revision, Snapshot, Store, StoreError,
    TXN_BYTES_MAX, Txn, Value, Watch, read_and_watch,
};

const PREFIX: &str = "conformance/";
/// How long a watch may take to tell.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tries all that is promised.
///
/// # Panics
/// Where a promise is not kept.
pub async fn check(store: Arc<dyn Store>) {
    clear(&*store).await;
    a_record_knows_its_revisions(&*store).await;
    only_what_changes_something_takes_a_revision(&*store).await;
    a_transaction_is_done_if_all_compares_hold(&*store).await;
    a_transaction_is_done_as_a_whole(&*store).await;
    values_are_any_bytes(&*store).await;
    a_range_has_what_begins_with_its_prefix(&*store).await;
    limits_are_checked(&*store).await;
    a_watch_tells_all_that_came_after_it(&*store).await;
    a_watch_waits_and_can_be_cancelled(&*store).await;
    a_watch_can_begin_at_a_revision_to_come(&*store).await;
    writers_do_not_lose_what_others_wrote(&store).await;
    a_mirror_is_the_same_in_the_end(&store).await;
    clear(&*store).await;
}

fn key(name: &str) -> Key {
    Key::from(format!("{PREFIX}{name}"))
}

async fn clear(store: &dyn Store) {
    for entry in store.range(PREFIX.as_bytes()).await.unwrap().entries {
        committed(store, Txn::new().delete(&entry.key)).await;
    }
    assert_eq!(store.range(PREFIX.as_bytes()).await.unwrap().entries, []);
}

async fn committed(store: &dyn Store, txn: Txn) -> Revision {
    store.commit(txn).await.unwrap().committed().expect("nothing contradicts the transaction")
}

async fn put(store: &dyn Store, name: &str, value: &str) -> Revision {
    committed(store, Txn::new().put(key(name), value.as_bytes())).await
}

async fn revision(store: &dyn Store) -> Revision {
    store.range(PREFIX.as_bytes()).await.unwrap().revision
}

async fn next(watch: &mut dyn Watch) -> Changes {
    let mut changes = timeout(PATIENCE, watch.next()).await.expect("the watch does not tell").unwrap();
    changes.changes.sort_unstable_by(|one, other| one.key().cmp(other.key()));
    changes
}

fn entry(name: &str, value: &str, create: Revision, modified: Revision, version: u64) -> Entry {
    let value = Value::from(value.as_bytes());
    Entry { key: key(name), value, create_revision: create, mod_revision: modified, version }
}

async fn a_record_knows_its_revisions(store: &dyn Store) {
    assert_eq!(store.get(&key("record")).await.unwrap(), None);
    let first = put(store, "record", "one").await;
    assert_eq!(store.get(&key("record")).await.unwrap(), Some(entry("record", "one", first, first, 1)));
    let second = put(store, "record", "two").await;
    assert_eq!(store.get(&key("record")).await.unwrap(), Some(entry("record", "two", first, second, 2)));
    // The same again is a change too.
    let third = put(store, "record", "two").await;
    assert_eq!(store.get(&key("record")).await.unwrap(), Some(entry("record", "two", first, third, 3)));
    committed(store, Txn::new().delete(key("record"))).await;
    assert_eq!(store.get(&key("record")).await.unwrap(), None);
    let again = put(store, "record", "new").await;
    assert_eq!(store.get(&key("record")).await.unwrap(), Some(entry("record", "new", again, again, 1)));
}

async fn only_what_changes_something_takes_a_revision(store: &dyn Store) {
    let first = put(store, "revision", "").await;
    assert_eq!(revision(store).await, first);
    assert_eq!(put(store, "revision", "").await, first.next());
    let first = first.next();
    assert_eq!(committed(store, Txn::new()).await, first);
    assert_eq!(committed(store, Txn::new().delete(key("revision/none"))).await, first);
    let conflict = Txn::new().if_absent(key("revision")).put(key("revision"), *b"other");
    assert_eq!(store.commit(conflict).await.unwrap(), Outcome::Conflict(first));
    assert_eq!(revision(store).await, first);
    assert_eq!(committed(store, Txn::new().delete(key("revision"))).await, first.next());
}

async fn a_transaction_is_done_if_all_compares_hold(store: &dyn Store) {
    let created = put(store, "compare", "one").await;
    let modified = put(store, "compare", "two").await;
    let (there, none) = (key("compare"), key("compare/none"));
    let cases = [
        (Txn::new().if_unchanged(&there, modified), true),
        (Txn::new().if_unchanged(&there, created), false),
        (Txn::new().if_unchanged(&there, modified.next()), false),
        (Txn::new().if_not_replaced(&there, created), true),
        (Txn::new().if_not_replaced(&there, modified), false),
        (Txn::new().if_absent(&there), false),
        (Txn::new().if_not_replaced(&there, Revision::ZERO), false),
        (Txn::new().if_absent(&none), true),
        (Txn::new().if_not_replaced(&none, Revision::ZERO), true),
        (Txn::new().if_unchanged(&none, created), false),
        (Txn::new().if_not_replaced(&none, created), false),
        (Txn::new().if_unchanged(&there, modified).if_absent(&none).if_not_replaced(&there, created), true),
        (Txn::new().if_unchanged(&there, modified).if_absent(&there).if_absent(&none), false),
        (Txn::new().if_absent(&none).if_unchanged(&there, created), false),
    ];
    for (txn, holds) in cases {
        let outcome = store.commit(txn.clone().put(key("compare/done"), *b"")).await.unwrap();
        assert_eq!(outcome.committed().is_some(), holds, "{txn:?}");
        let done = store.get(&key("compare/done")).await.unwrap();
        assert_eq!(done.is_some(), holds, "{txn:?}");
        committed(store, Txn::new().delete(key("compare/done"))).await;
    }
    // What a compare is of may be what is changed.
    committed(store, Txn::new().if_unchanged(&there, modified).delete(&there)).await;
    committed(store, Txn::new().if_absent(&there).put(&there, *b"three")).await;
    let stale = Txn::new().if_unchanged(&there, modified).delete(&there);
    assert_eq!(store.commit(stale).await.unwrap().committed(), None);
    let other = Txn::new().if_not_replaced(&there, created).delete(&there);
    assert_eq!(store.commit(other).await.unwrap().committed(), None);
    assert_eq!(&*store.get(&there).await.unwrap().unwrap().value, b"three");
}

async fn a_transaction_is_done_as_a_whole(store: &dyn Store) {
    let first = put(store, "whole/1", "one").await;
    put(store, "whole/2", "two").await;
    let txn = Txn::new().put(key("whole/1"), *b"other").delete(key("whole/2")).put(key("whole/3"), *b"three");
    let done = committed(store, txn.clone()).await;
    let expected = [entry("whole/1", "other", first, done, 2), entry("whole/3", "three", done, done, 1)];
    let snapshot = store.range(&key("whole/")).await.unwrap();
    assert_eq!(snapshot, Snapshot { revision: done, entries: expected.to_vec() });
    assert_eq!(store.commit(txn.if_absent(key("whole/1"))).await.unwrap(), Outcome::Conflict(done));
    assert_eq!(store.range(&key("whole/")).await.unwrap(), snapshot);
}

async fn values_are_any_bytes(store: &dyn Store) {
    let large: Vec<u8> = (0..300_000u32).map(|index| index.to_le_bytes()[1]).collect();
    for value in [&b""[..], b"\0", b"\xff\xfe\0\n", &large] {
        committed(store, Txn::new().put(key("value"), value)).await;
        assert_eq!(&*store.get(&key("value")).await.unwrap().unwrap().value, value);
    }
    let odd = Key::from(&*[PREFIX.as_bytes(), b"\0\xff\n"].concat());
    committed(store, Txn::new().put(&odd, *b"odd")).await;
    assert_eq!(&*store.get(&odd).await.unwrap().unwrap().value, b"odd");
}

async fn a_range_has_what_begins_with_its_prefix(store: &dyn Store) {
    let of = |prefix: &[u8]| Key::from(&*[PREFIX.as_bytes(), b"range/", prefix].concat());
    let names: [&[u8]; 10] =
        [b"a", b"a/", b"a/\0", b"a/1", b"a/1/x", b"a/\xfe", b"a/\xff", b"a/\xff\xff", b"a0", b"b"];
    for name in names.iter().rev() {
        committed(store, Txn::new().put(of(name), *name)).await;
    }
    let prefixes: [&[u8]; 9] = [b"", b"a", b"a/", b"a/1", b"a/\xff", b"a/\xff\xff", b"b", b"b/", b"c"];
    for prefix in prefixes {
        let found = store.range(&of(prefix)).await.unwrap().entries;
        let found: Vec<_> = found.iter().map(|entry| &*entry.value).collect();
        let expected: Vec<_> = names.iter().copied().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(found, expected, "{}", prefix.escape_ascii());
    }
    let all = store.range(b"").await.unwrap().entries;
    assert!(all.is_sorted_by(|one, other| one.key < other.key));
    assert!(all.len() > names.len());
    // More than one page of any store.
    for first in (0..1500).step_by(100) {
        let numbers = first..first + 100;
        let txn =
            numbers.fold(Txn::new(), |txn, number| txn.put(of(format!("many/{number:04}").as_bytes()), *b""));
        committed(store, txn).await;
    }
    let found = store.range(&of(b"many/")).await.unwrap().entries;
    let expected: Vec<_> = (0..1500).map(|number| of(format!("many/{number:04}").as_bytes())).collect();
    assert_eq!(found.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), expected);
}

async fn limits_are_checked(store: &dyn Store) {
    let before = store.range(PREFIX.as_bytes()).await.unwrap();
    let refused = async |txn: Txn| match store.commit(txn).await {
        Err(StoreError::Invalid(why)) => why,
        other => panic!("{other:?}"),
    };
    let compares =
        |count| (0..count).fold(Txn::new(), |txn, number| txn.if_absent(key(&format!("many/{number}"))));
    let puts =
        |count, txn| (0..count).fold(txn, |txn: Txn, number| txn.put(key(&format!("many/{number}")), *b""));
    let deletes =
        |count| (0..count).fold(Txn::new(), |txn, number| txn.delete(key(&format!("many/{number}"))));
    let over = OPERATIONS_MAX + 1;
    for txn in [compares(over), puts(over, Txn::new()), deletes(over)] {
        assert_eq!(refused(txn).await, InvalidTxn::TooMany { count: over });
    }
    let twice = key("twice");
    for txn in [
        Txn::new().put(&twice, *b"1").put(&twice, *b"2"),
        Txn::new().put(&twice, *b"1").delete(&twice),
        Txn::new().delete(&twice).delete(&twice),
    ] {
        assert_eq!(refused(txn).await, InvalidTxn::DuplicateKey { key: twice.clone() });
    }
    for txn in [Txn::new().put("", *b"1"), Txn::new().delete(""), Txn::new().if_absent("")] {
        assert_eq!(refused(txn).await, InvalidTxn::EmptyKey);
    }
    let large = key("large");
    let overhead = 64 + large.len();
    let bytes = TXN_BYTES_MAX + 1;
    let txn = Txn::new().put(&large, vec![7; bytes - overhead]);
    assert_eq!(refused(txn).await, InvalidTxn::TooLarge { bytes });
    assert_eq!(store.range(PREFIX.as_bytes()).await.unwrap(), before);

    committed(store, Txn::new().put(&large, vec![7; TXN_BYTES_MAX - overhead])).await;
    assert_eq!(store.get(&large).await.unwrap().unwrap().value.len(), TXN_BYTES_MAX - overhead);
    committed(store, puts(OPERATIONS_MAX, compares(OPERATIONS_MAX))).await;
    committed(store, deletes(OPERATIONS_MAX)).await;
    committed(store, Txn::new().delete(&large)).await;
}

async fn a_watch_tells_all_that_came_after_it(store: &dyn Store) {
    let before = put(store, "watch/before", "").await;
    let mut early = store.watch(&key("watch/"), before).await.unwrap();
    let mut narrow = store.watch(&key("watch/b"), before).await.unwrap();
    let first = put(store, "watch/a", "one").await;
    put(store, "watched", "of another prefix").await;
    let txn = Txn::new()
        .put(key("watch/b"), *b"b")
        .delete(key("watch/a"))
        .put(key("watched"), *b"of another prefix")
        .delete(key("watch/none"));
    let second = committed(store, txn).await;
    let conflict = Txn::new().if_absent(key("watch/b")).delete(key("watch/b"));
    assert_eq!(store.commit(conflict).await.unwrap(), Outcome::Conflict(second));
    let third = put(store, "watch/b", "c").await;

    let put_a = Change::Put(entry("watch/a", "one", first, first, 1));
    let put_b = Change::Put(entry("watch/b", "b", second, second, 1));
    let put_c = Change::Put(entry("watch/b", "c", second, third, 2));
    let revisions = [
        Changes { revision: first, changes: vec![put_a] },
        Changes { revision: second, changes: vec![Change::Delete(key("watch/a")), put_b.clone()] },
        Changes { revision: third, changes: vec![put_c] },
    ];
    // Opened before, after, and in the middle: they tell the same.
    let mut late = store.watch(&key("watch/"), before).await.unwrap();
    let mut middle = store.watch(&key("watch/"), first).await.unwrap();
    for expected in &revisions {
        assert_eq!(next(&mut *early).await, *expected);
        assert_eq!(next(&mut *late).await, *expected);
    }
    for expected in &revisions[1..] {
        assert_eq!(next(&mut *middle).await, *expected);
    }
    assert_eq!(next(&mut *narrow).await, Changes { revision: second, changes: vec![put_b] });
    assert_eq!(next(&mut *narrow).await, revisions[2]);
}

async fn a_watch_waits_and_can_be_cancelled(store: &dyn Store) {
    let before = revision(store).await;
    let mut watch = store.watch(&key("waits"), before).await.unwrap();
    assert!(timeout(Duration::from_millis(20), watch.next()).await.is_err(), "there is nothing to tell");
    for _ in 0..20 {
        let put = put(store, "waits", "").await;
        // Some of these are dropped before they are ready.
        let told = timeout(PATIENCE, async {
            loop {
                if let Ok(changes) = timeout(Duration::from_micros(50), watch.next()).await {
                    break changes.unwrap().revision;
                }
            }
        });
        assert_eq!(told.await.expect("the watch does not tell"), put);
    }
    assert!(timeout(Duration::from_millis(20), watch.next()).await.is_err(), "everything is told");
}

async fn a_watch_can_begin_at_a_revision_to_come(store: &dyn Store) {
    let before = revision(store).await;
    let mut watch = store.watch(&key("future"), before.next().next()).await.unwrap();
    put(store, "future", "1").await;
    put(store, "future", "2").await;
    let third = put(store, "future", "3").await;
    assert_eq!(next(&mut *watch).await.revision, third);
}

async fn writers_do_not_lose_what_others_wrote(store: &Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 25;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = Arc::clone(store);
        writers.spawn(async move {
            let mut revisions = Vec::new();
            while revisions.len() < usize::try_from(ROUNDS).unwrap() {
                let (modified, count) = match store.get(&key("count")).await.unwrap() {
                    Some(old) => (old.mod_revision, u64::from_le_bytes((*old.value).try_into().unwrap())),
                    None => (Revision::ZERO, 0),
                };
                let txn = Txn::new().if_unchanged(key("count"), modified);
                let txn = txn.put(key("count"), (count + 1).to_le_bytes());
                revisions.extend(store.commit(txn).await.unwrap().committed());
            }
            revisions
        });
    }
    let mut revisions: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len() as u64, WRITERS * ROUNDS);
    let entry = store.get(&key("count")).await.unwrap().unwrap();
    assert_eq!(*entry.value, (WRITERS * ROUNDS).to_le_bytes());
    assert_eq!((entry.version, Some(&entry.mod_revision)), (WRITERS * ROUNDS, revisions.last()));
}

/// A watch that begins in the middle of others' work, with what there was, and goes on while they work.
async fn a_mirror_is_the_same_in_the_end(store: &Arc<dyn Store>) {
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = Arc::clone(store);
        writers.spawn(async move {
            for round in 0..200 {
                let name = format!("mirror/{writer}/{}", round % 7);
                match round % 5 {
                    3 => _ = committed(&*store, Txn::new().delete(key(&name))).await,
                    4 => _ = put(&*store, "of no interest", "").await,
                    _ => _ = put(&*store, &name, &round.to_string()).await,
                }
                tokio::task::yield_now().await;
            }
        });
    }
    put(&**store, "mirror/begun", "").await;
    let (snapshot, mut watch) = read_and_watch(&**store, &key("mirror/")).await.unwrap();
    let ender = Arc::clone(store);
    let ended = tokio::spawn(async move {
        writers.join_all().await;
        put(&*ender, "mirror/ended", "").await
    });
    let mut revision = snapshot.revision;
    let mut mirror: BTreeMap<_, _> =
        snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    while !mirror.contains_key(&key("mirror/ended")) {
        let changes = next(&mut *watch).await;
        assert!(changes.revision > revision, "{} comes after {revision}", changes.revision);
        revision = changes.revision;
        for change in changes.changes {
            match change {
                Change::Put(entry) => mirror.insert(entry.key.clone(), entry),
                Change::Delete(key) => mirror.remove(&key),
            };
        }
    }
    assert_eq!(ended.await.unwrap(), revision);
    let snapshot = store.range(&key("mirror/")).await.unwrap();
    assert_eq!(mirror.into_values().collect::<Vec<_>>(), snapshot.entries);
}
