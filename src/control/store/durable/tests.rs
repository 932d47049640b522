//! The store on real files.

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::store::conformance;

const ONE: Schema = Schema { version: 1, migrations: &[] };

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/var/tmp").unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("store.redb")
    }

    fn open(&self, schema: &Schema) -> Result<Redb, OpenError> {
        Redb::open(&self.file(), schema)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

async fn put(store: &Redb, key: &str, value: &str) -> Revision {
    let outcome = store.commit(Txn::new().put(key, value.as_bytes())).await.unwrap();
    outcome.committed().unwrap()
}

fn records(store: &Redb) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    store.shared.range(b"").entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
}

fn pairs(records: &[(&str, &str)]) -> Vec<(String, String)> {
    records.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_is_a_store() {
    let folder = Folder::new();
    conformance::check(Arc::new(folder.open(&ONE).unwrap())).await;
    // Again, on what that left.
    conformance::check(Arc::new(folder.open(&ONE).unwrap())).await;
}

#[tokio::test]
async fn what_was_committed_is_there_again_with_all_its_revisions() {
    let folder = Folder::new();
    let store = folder.open(&ONE).unwrap();
    put(&store, "a", "1").await;
    put(&store, "b", "2").await;
    put(&store, "a", "3").await;
    let last = store.commit(Txn::new().delete("b")).await.unwrap().committed().unwrap();
    let before = store.range(b"").await.unwrap();
    assert_eq!(before.revision, last);
    drop(store);
    let store = folder.open(&ONE).unwrap();
    assert_eq!(store.range(b"").await.unwrap(), before);
    // What was deleted last is forgotten, and its revision is not.
    assert_eq!(put(&store, "b", "4").await, last.next());
    assert_eq!(folder.names(), ["store.redb"]);
}

#[tokio::test]
async fn a_watch_from_before_the_store_was_opened_is_compacted() {
    let folder = Folder::new();
    let store = folder.open(&ONE).unwrap();
    let first = put(&store, "a", "1").await;
    let mut watch = store.watch(b"", Revision::ZERO).await.unwrap();
    drop(store);
    assert_eq!(watch.next().await.unwrap().revision, first);
    assert!(matches!(watch.next().await, Err(StoreError::Closed)));
    let store = folder.open(&ONE).unwrap();
    assert!(matches!(store.watch(b"", Revision::ZERO).await, Err(StoreError::Compacted { .. })));
    let mut watch = store.watch(b"", first).await.unwrap();
    let second = put(&store, "a", "2").await;
    assert_eq!(watch.next().await.unwrap().revision, second);
}

#[test]
fn the_file_is_for_its_owner_and_one_process_alone() {
    let folder = Folder::new();
    let store = folder.open(&ONE).unwrap();
    assert_eq!(mode(&folder.file()), 0o600);
    let error = folder.open(&ONE).unwrap_err();
    assert!(error.to_string().contains(&format!("process {};", std::process::id())), "{error}");
    drop(store);
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o644)).unwrap();
    folder.open(&ONE).unwrap();
    assert_eq!(mode(&folder.file()), 0o600);
}

#[test]
fn a_store_that_is_closed_can_be_opened_though_a_process_that_is_being_started_has_its_file() {
    let folder = Folder::new();
    let store = folder.open(&ONE).unwrap();
    let inherited = store.file.as_ref().unwrap().inherited();
    drop(store);
    drop(folder.open(&ONE).unwrap());
    drop(inherited);
}

#[test]
fn a_store_that_was_half_made_is_made_anew() {
    let folder = Folder::new();
    fs::write(folder.0.path().join("store.redb.new"), [7; 10_000]).unwrap();
    drop(folder.open(&ONE).unwrap());
    assert_eq!(folder.names(), ["store.redb"]);
    drop(folder.open(&ONE).unwrap());
}

#[test]
fn what_is_no_store_is_left_as_it_is() {
    let folder = Folder::new();
    for bytes in [&b"no store"[..], &[0; 100_000]] {
        fs::write(folder.file(), bytes).unwrap();
        let error = folder.open(&ONE).unwrap_err();
        assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
        assert!(error.source().is_some());
        assert_eq!(fs::read(folder.file()).unwrap(), bytes);
    }
    let error = Redb::open(Path::new("/nowhere/store.redb"), &ONE).unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "{error:?}");
}

/// Instances had an owner of their own; now it is in the record, and those that are gone are not kept.
const TO_TWO: Migration = Migration {
    from: 1,
    apply: |records| {
        for (key, value) in records.range(b"instance/") {
            let name = std::str::from_utf8(&key)?.trim_start_matches("instance/");
            let owner = records.range(format!("owner/{name}").as_bytes());
            let [(owner_key, owner)] = &owner[..] else { return Err(format!("{name} has no owner").into()) };
            records.delete(owner_key);
            match &*value {
                b"gone" => records.delete(&key),
                value => records.put(&key, [value, b" of ", owner].concat()),
            }
        }
        Ok(())
    },
};
const TO_THREE: Migration = Migration {
    from: 2,
    apply: |records| {
        for (key, value) in records.range(b"") {
            records.delete(&key);
            records.put([b"us-east-1/", &*key].concat().as_slice(), value);
        }
        Ok(())
    },
};
const THREE: Schema = Schema { version: 3, migrations: &[TO_TWO, TO_THREE] };

async fn old_store(folder: &Folder) -> Snapshot {
    let store = folder.open(&ONE).unwrap();
    put(&store, "instance/1", "running").await;
    put(&store, "instance/2", "gone").await;
    put(&store, "owner/1", "alice").await;
    put(&store, "owner/2", "bob").await;
    store.range(b"").await.unwrap()
}

#[tokio::test]
async fn an_older_store_is_migrated_at_once_and_kept() {
    let folder = Folder::new();
    let old = old_store(&folder).await;
    let store = folder.open(&THREE).unwrap();
    let expected = pairs(&[("us-east-1/instance/1", "running of alice")]);
    assert_eq!(records(&store), expected);
    assert_eq!(store.range(b"").await.unwrap().revision, old.revision.next());
    drop(store);
    let store = folder.open(&THREE).unwrap();
    assert_eq!(records(&store), expected);
    assert_eq!(store.range(b"").await.unwrap().revision, old.revision.next());
    drop(store);

    let error = folder.open(&ONE).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 3, known: 1, .. }), "{error:?}");
    assert_eq!(folder.names(), ["store.redb", "store.redb.v1"]);
    let copy = folder.0.path().join("store.redb.v1");
    assert_eq!(mode(&copy), 0o600);
    let store = Redb::open(&copy, &ONE).unwrap();
    assert_eq!(store.range(b"").await.unwrap(), old);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_store_as_it_was() {
    let folder = Folder::new();
    let store = folder.open(&ONE).unwrap();
    put(&store, "instance/1", "running").await;
    put(&store, "instance/2", "running").await;
    put(&store, "owner/1", "alice").await;
    let old = store.range(b"").await.unwrap();
    drop(store);
    let error = folder.open(&THREE).unwrap_err();
    assert!(matches!(error, OpenError::Migration { from: 1, .. }), "{error:?}");
    assert!(error.source().unwrap().to_string().contains("2 has no owner"));
    let error = folder.open(&Schema { version: 2, migrations: &[TO_THREE] }).unwrap_err();
    assert!(matches!(error, OpenError::NoMigration { from: 1, .. }), "{error:?}");

    let store = folder.open(&ONE).unwrap();
    assert_eq!(store.range(b"").await.unwrap(), old);
    // The copy is made anew from what the store has then.
    put(&store, "owner/2", "bob").await;
    drop(store);
    let store = folder.open(&THREE).unwrap();
    assert_eq!(records(&store).len(), 2);
    let copy = Redb::open(&folder.0.path().join("store.redb.v1"), &ONE).unwrap();
    assert_eq!(records(&copy).len(), 4);
}

/// Crashes at every step of a migration.
#[tokio::test]
async fn a_migration_is_done_or_not() {
    use super::disk::{Disk, Numbers};
    use std::sync::Mutex;

    let disk = Disk::new();
    let path = Path::new("the disk");
    let start = |disk: &Disk, schema: &Schema| Redb::start(path, disk.database().unwrap(), schema);
    let store = start(&disk, &ONE).unwrap();
    put(&store, "instance/1", "running").await;
    put(&store, "owner/1", "alice").await;
    drop(store);
    let left = Arc::new(Mutex::new(Vec::new()));
    disk.set_hook({
        let left = Arc::clone(&left);
        move |disk| left.lock().unwrap().push(disk.crash(&mut Numbers::new(disk.steps())))
    });
    drop(start(&disk, &THREE).unwrap());
    let (mut old, mut new) = (0, 0);
    for left in left.lock().unwrap().drain(..) {
        match start(&left, &ONE) {
            Ok(store) => {
                assert_eq!(records(&store), pairs(&[("instance/1", "running"), ("owner/1", "alice")]));
                old += 1;
            }
            Err(OpenError::Newer { found: 3, .. }) => new += 1,
            Err(error) => panic!("{error:?}"),
        }
        let store = start(&left, &THREE).unwrap();
        assert_eq!(records(&store), pairs(&[("us-east-1/instance/1", "running of alice")]));
    }
    assert!(old > 0 && new > 0, "{old} and {new}");
}
