//! A real process that commits on a real file, and is killed at any moment, again and again.
//!
//! Each of its writers counts: transaction `n` puts the number `n` into two records, and a third record comes or goes with each. A
//! writer tells up to which number it was answered; what is found must be that number or a later one, and the same in all three.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::disk::Numbers;
use super::*;
use crate::store::Key;

const FILE: &str = "NIMBO_KILLED_STORE";
const WRITERS: usize = 4;
const SCHEMA: Schema = Schema { version: 1, migrations: &[] };

fn key(writer: usize, name: &str) -> Key {
    Key::from(format!("{name}/{writer}"))
}

/// The number, and more of it with some numbers than with others.
fn content(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + usize::try_from(number % 97).unwrap() * 8)
}

/// Which number a writer's records have.
fn number(store: &Redb, writer: usize) -> u64 {
    let [one, two, odd] = ["one", "two", "odd"].map(|name| store.shared.get(&key(writer, name)));
    let Some(one) = one else {
        assert!(two.is_none() && odd.is_none(), "half of the first transaction");
        return 0;
    };
    let number = u64::from_le_bytes(one.value[..8].try_into().unwrap());
    assert_eq!(*one.value, content(number), "half of a value");
    assert_eq!(one.version, number);
    let two = two.unwrap();
    assert!(two.value == one.value && two.mod_revision == one.mod_revision, "half a transaction");
    assert_eq!(odd.map(|odd| odd.mod_revision), (number % 2 == 1).then_some(one.mod_revision));
    number
}

async fn write_for_ever(store: &Redb, writer: usize) {
    for number in number(store, writer) + 1.. {
        let [one, two, odd] = ["one", "two", "odd"].map(|name| key(writer, name));
        let txn = Txn::new().put(one, content(number)).put(two, content(number));
        let txn = if number % 2 == 1 { txn.if_absent(&odd).put(odd, *b"") } else { txn.delete(odd) };
        assert!(store.commit(txn).await.unwrap().committed().is_some());
        // In one call, so that no line is torn.
        std::io::stdout().write_all(format!("answered {writer} {number}\n").as_bytes()).unwrap();
    }
}

#[test]
#[ignore = "the process that the test below kills"]
fn writer() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let store = Arc::new(Redb::open(Path::new(&file), &SCHEMA).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            writers.spawn(async move { write_for_ever(&store, writer).await });
        }
        writers.join_all().await;
    });
}

/// Runs writers, kills them some time after the first answer, and says up to which number each was answered.
fn killed_writers(file: &Path, after: Duration) -> [u64; WRITERS] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::durable::kill::writer", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut answered = [0; WRITERS];
    let mut note = |line: String| {
        // The test's own name may stand before the first.
        let Some((_, line)) = line.rsplit_once("answered ") else { return false };
        let (writer, number) = line.split_once(' ').unwrap();
        answered[writer.parse::<usize>().unwrap()] = number.parse().unwrap();
        true
    };
    // So that some rounds are killed while they open the store, and most while they write.
    if !after.is_zero() {
        let begun = lines.by_ref().any(&mut note);
        assert!(begun, "the writers ended by themselves");
        match Redb::open(file, &SCHEMA) {
            Err(OpenError::InUse { holder, .. }) => assert_eq!(holder, Holder(Some(child.id()))),
            other => panic!("a second process opened the store: {other:?}"),
        }
    }
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| lines.for_each(|line| _ = note(line)));
        std::thread::sleep(after);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "the writers ended by themselves");
        reader.join().unwrap();
    });
    answered
}

#[test]
fn what_was_answered_is_there_after_the_process_is_killed_at_any_moment() {
    let rounds = std::env::var("NIMBO_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(40);
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = folder.path().join("store.redb");
    let mut numbers = Numbers::new(7);
    let mut least = [0; WRITERS];
    for round in 0..rounds {
        let after = if round % 8 == 7 { 0 } else { 1 + numbers.below(20_000) as u64 };
        let answered = killed_writers(&file, Duration::from_micros(after));
        let store = Redb::open(&file, &SCHEMA).unwrap();
        for writer in 0..WRITERS {
            let found = number(&store, writer);
            let answered = answered[writer].max(least[writer]);
            // One more may have been done and not answered yet.
            let bounds = answered..=answered + 1;
            assert!(
                bounds.contains(&found),
                "round {round}: {found} is there, and {answered} was answered last"
            );
            least[writer] = found;
        }
    }
    assert!(least.iter().sum::<u64>() > rounds, "the writers hardly wrote: {least:?}");
}
