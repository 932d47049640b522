//! LOCK, LOCKT, LOCKU: parts of files that exclude each other, whoever's client locks them.

use super::*;
use crate::client::LockKind::{Read, Write};
use crate::client::{Answer, LockKind};
use crate::proto::{Operation, share};

/// What is in the way: from where, how long, for writing or not, and of whom.
fn denied(answer: &Answer) -> (u64, u64, u32, u64, Vec<u8>) {
    assert_eq!(answer.status, Status::Denied);
    let operation = if answer.of(Operation::Lock).is_ok() { Operation::Lock } else { Operation::LockT };
    let mut result = answer.of(operation).unwrap();
    let numbers =
        (result.u64().unwrap(), result.u64().unwrap(), result.u32().unwrap(), result.u64().unwrap());
    (numbers.0, numbers.1, numbers.2, numbers.3, result.opaque(1024).unwrap().to_vec())
}

fn first(handle: &[u8], kind: LockKind, place: (u64, u64), open: &Stateid, owner: &[u8]) -> Compound {
    at(handle).lock_first(kind, false, place, open, owner)
}

#[test]
fn writers_exclude_readers_and_other_writers() {
    let fixture = Fixture::new();
    let (mut one, mut two) = (fixture.session_of(b"one", root()), fixture.session_of(b"two", root()));
    let (handle, of_one) = one.open_to_write("a");
    let (_, of_two) = two.open_to_write("a");
    let locked = one.done(first(&handle, Write, (10, 10), &of_one, b"p")).stateid(Operation::Lock).unwrap();
    assert_eq!(locked.seqid, 1);
    let answer = two.call(first(&handle, Read, (19, 1), &of_two, b"q")).unwrap();
    assert_eq!(denied(&answer), (10, 10, 2, one.client, b"p".to_vec()));
    let answer = two.call(at(&handle).lock_test(Write, (0, u64::MAX), b"q")).unwrap();
    assert_eq!(denied(&answer), (10, 10, 2, one.client, b"p".to_vec()));
    two.done(at(&handle).lock_test(Write, (20, u64::MAX), b"q"));
    one.done(at(&handle).lock_test(Write, (10, 10), b"p"));
    // Another owner of the same client is another one, and a name of another client's is nobody's.
    assert_eq!(one.status(at(&handle).lock_test(Write, (10, 1), b"q")), Status::Denied);
    assert_eq!(two.status(at(&handle).lock_test(Write, (10, 1), b"p")), Status::Denied);
    let unlocked = one.done(at(&handle).unlock((10, 5), &locked)).stateid(Operation::LockU).unwrap();
    assert_eq!(unlocked, Stateid { seqid: 2, ..locked });
    assert_eq!(one.status(at(&handle).unlock((10, 5), &locked)), Status::OldStateid);
    two.done(first(&handle, Read, (10, 5), &of_two, b"q"));
    let again = one.done(at(&handle).lock(Read, (10, 10), &unlocked)).stateid(Operation::Lock).unwrap();
    assert_eq!(again.seqid, 3, "readers do not exclude readers");
    // Who locks for the first time, twice, is who he was.
    let same = one.done(first(&handle, Read, (100, 1), &of_one, b"p")).stateid(Operation::Lock).unwrap();
    assert_eq!(same, Stateid { seqid: 4, ..locked });
    // Locks do not keep anybody from reading and writing.
    two.done(at(&handle).write_bytes(&of_two, 10, 0, b"x").read(&of_two, 10, 1));
    // I/O by the stateid of a lock is by what is open.
    one.done(at(&handle).write_bytes(&same, 10, 0, b"x"));
}

#[test]
fn locks_go_with_what_is_closed() {
    let fixture = Fixture::new();
    let (mut one, mut two) = (fixture.session_of(b"one", root()), fixture.session_of(b"two", root()));
    let (handle, of_one) = one.open_to_write("a");
    let (_, of_two) = two.open_to_write("a");
    let locked =
        one.done(first(&handle, Write, (0, u64::MAX), &of_one, b"p")).stateid(Operation::Lock).unwrap();
    assert_eq!(two.status(first(&handle, Read, (5, 1), &of_two, b"q")), Status::Denied);
    one.done(at(&handle).close(&of_one));
    assert_eq!(one.status(at(&handle).unlock((0, 1), &locked)), Status::BadStateid);
    two.done(first(&handle, Write, (5, 1), &of_two, b"q"));
}

#[test]
fn what_cannot_be_locked_is_told() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, open) = session.open_to_write("a");
    for place in [(0, 0), (5, u64::MAX - 1), (u64::MAX, 2)] {
        assert_eq!(session.status(first(&handle, Write, place, &open, b"p")), Status::Inval, "{place:?}");
        assert_eq!(session.status(at(&handle).lock_test(Write, place, b"p")), Status::Inval, "{place:?}");
    }
    let reading =
        session.done(at_root().open(&Open { owner: b"r", ..Open::to_read(b"a") })).opened().unwrap().stateid;
    let writing = Open { owner: b"w", access: share::WRITE, ..Open::to_read(b"a") };
    let writing = session.done(at_root().open(&writing)).opened().unwrap().stateid;
    assert_eq!(session.status(first(&handle, Write, (0, 1), &reading, b"p")), Status::OpenMode);
    assert_eq!(session.status(first(&handle, Read, (0, 1), &writing, b"p")), Status::OpenMode);
    assert_eq!(session.status(first(&handle, Write, (0, 1), &Stateid::ANONYMOUS, b"p")), Status::BadStateid);
    assert_eq!(session.status(at(&handle).lock(Write, (0, 1), &open)), Status::BadStateid, "it is no lock's");
    std::fs::create_dir(fixture.path("folder")).unwrap();
    let folder = session.handle("folder");
    assert_eq!(session.status(at(&folder).lock_test(Write, (0, 1), b"p")), Status::IsDir);
    assert_eq!(session.status(first(&folder, Write, (0, 1), &open, b"p")), Status::IsDir);
}

#[test]
fn a_file_has_only_so_many_locks() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, open) = session.open_to_write("a");
    let mut stateid =
        session.done(first(&handle, Write, (0, 1), &open, b"p")).stateid(Operation::Lock).unwrap();
    let mut count = 1;
    loop {
        let answer = session.call(at(&handle).lock(Write, (count * 2, 1), &stateid)).unwrap();
        if answer.status != Status::Ok {
            assert_eq!(answer.status, Status::DQuot);
            break;
        }
        stateid = answer.stateid(Operation::Lock).unwrap();
        count += 1;
    }
    assert_eq!(count, 512);
    stateid = session.done(at(&handle).unlock((0, 4), &stateid)).stateid(Operation::LockU).unwrap();
    session.done(at(&handle).lock(Write, (5000, 1), &stateid));
}

#[test]
fn a_lost_client_keeps_its_locks_until_somebody_wants_them() {
    let fixture = Fixture::with_lease(Duration::from_secs(1));
    let mut one = fixture.session_of(b"one", root());
    let (handle, of_one) = one.open_to_write("a");
    one.done(first(&handle, Write, (0, 10), &of_one, b"p"));
    let mut two = fixture.session_of(b"two", root());
    let (_, of_two) = two.open_to_write("a");
    assert_eq!(two.status(first(&handle, Write, (0, 10), &of_two, b"q")), Status::Denied);
    std::thread::sleep(Duration::from_millis(1300));
    // Nobody wanted them: it has not lost anything.
    one.done(at(&handle).read(&of_one, 0, 1));
    let ended = std::time::Instant::now() + Duration::from_secs(20);
    while two.status(first(&handle, Write, (0, 10), &of_two, b"q")) == Status::Denied {
        assert!(std::time::Instant::now() < ended);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        one.status(at(&handle).read(&of_one, 0, 1)),
        Status::BadSession,
        "its locks are somebody else's"
    );
}
