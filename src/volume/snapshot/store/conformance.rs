//! What every [`ObjectStore`] must do. An implementation's tests call [`check`] with an empty store.

#![allow(clippy::unwrap_used, reason = "it is a test, which other crates call")]

use super::{ObjectStore, StoreErrorKind};

/// Tries all that is promised.
///
/// # Panics
/// Where a promise is not kept.
pub fn check(store: &dyn ObjectStore) {
    an_object_is_what_was_put_last(store);
    what_is_missing_is_not_found_and_may_be_deleted(store);
    a_list_has_what_begins_with_its_prefix(store);
    many_threads_use_it_at_once(store);
}

fn keys(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let mut keys = Vec::new();
    store.list(prefix, &mut |key| keys.push(key.to_owned())).unwrap();
    keys.sort_unstable();
    keys
}

fn an_object_is_what_was_put_last(store: &dyn ObjectStore) {
    let large: Vec<u8> = (0..700_000u32).map(|index| index.to_le_bytes()[1]).collect();
    for bytes in [&b"first"[..], b"", b"second", &large] {
        store.put("one/two/three", bytes).unwrap();
        assert_eq!(store.get("one/two/three").unwrap(), bytes);
    }
    store.delete("one/two/three").unwrap();
}

fn what_is_missing_is_not_found_and_may_be_deleted(store: &dyn ObjectStore) {
    let error = store.get("one/missing").unwrap_err();
    assert_eq!((error.kind, error.key.as_str()), (StoreErrorKind::NotFound, "one/missing"), "{error:?}");
    store.delete("one/missing").unwrap();
    store.put("one/there", b"x").unwrap();
    store.delete("one/there").unwrap();
    assert!(store.get("one/there").unwrap_err().is_not_found());
    assert_eq!(keys(store, "one/"), [""; 0]);
}

fn a_list_has_what_begins_with_its_prefix(store: &dyn ObjectStore) {
    // More than one page of any store.
    let mut names: Vec<String> = (0..1100).map(|index| format!("many/{index:04}")).collect();
    for name in names.iter().map(String::as_str).chain(["many-others/x", "man", "many/deep/a", "many/deep/b"])
    {
        store.put(name, name.as_bytes()).unwrap();
    }
    names.extend(["many/deep/a".to_owned(), "many/deep/b".to_owned()]);
    assert_eq!(keys(store, "many/"), names);
    assert_eq!(keys(store, "many/deep/"), ["many/deep/a", "many/deep/b"]);
    assert_eq!(keys(store, "none/"), [""; 0]);
    for name in names.iter().map(String::as_str).chain(["many-others/x", "man"]) {
        store.delete(name).unwrap();
    }
    assert_eq!(keys(store, "many/"), [""; 0]);
}

fn many_threads_use_it_at_once(store: &dyn ObjectStore) {
    std::thread::scope(|scope| {
        for thread in 0u8..8 {
            scope.spawn(move || {
                for round in 0u8..8 {
                    let key = format!("threads/{thread}-{round}");
                    store.put(&key, &[thread, round]).unwrap();
                    assert_eq!(store.get(&key).unwrap(), [thread, round]);
                }
            });
        }
    });
    assert_eq!(keys(store, "threads/").len(), 64);
    keys(store, "threads/").iter().for_each(|key| store.delete(key).unwrap());
}
