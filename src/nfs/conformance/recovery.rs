//! What is left after a restart: handles, and what clients take back of what they had.

use super::*;
use crate::client::LockKind::Write;
use crate::client::{Claim, Connection};
use crate::proto::Operation;

fn previous() -> Open<'static> {
    Open { claim: Claim::Previous, how: None, ..Open::to_write(b"") }
}

fn owner(name: &[u8]) -> Owner<'_> {
    Owner { name, verifier: [1; 8] }
}

#[test]
fn handles_survive_renames_and_restarts_and_no_others_are_good() {
    let mut fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, _) = session.open_to_write("a");
    std::fs::create_dir(fixture.path("folder")).unwrap();
    std::fs::rename(fixture.path("a"), fixture.path("folder/b")).unwrap();
    session.done(at(&handle).read(&Stateid::ANONYMOUS, 0, 1));
    fixture.restart();
    let mut session = fixture.session_of(b"other", root());
    session.done(at(&handle).read(&Stateid::ANONYMOUS, 0, 1));
    std::fs::remove_file(fixture.path("folder/b")).unwrap();
    assert_eq!(
        session.status(at(&handle).get_attributes(only(crate::proto::Attribute::Size))),
        Status::Stale
    );
    assert_eq!(session.status(at(&handle)), Status::Stale);
    // A file of the host's that was not given out: its handle is of the same form, but not signed.
    let mut forged = session.handle("folder");
    *forged.last_mut().unwrap() ^= 1;
    for bad in [forged.as_slice(), &[], &[1; 13], &[0; 128], &forged[..12]] {
        assert_eq!(session.status(at(bad)), Status::BadHandle, "{bad:?}");
    }
    std::fs::remove_file(fixture.spec.state.join("key")).unwrap();
    let folder = session.handle("folder");
    fixture.restart();
    assert_eq!(fixture.session_of(b"x", root()).status(at(&folder)), Status::BadHandle, "of another key");
}

#[test]
fn locks_are_taken_back_before_anybody_else_may_have_them() {
    let mut fixture = Fixture::new();
    let (mut one, mut two) = (fixture.session_of(b"one", root()), fixture.session_of(b"two", root()));
    let (handle, open) = one.open_to_write("a");
    one.done(at(&handle).lock_first(Write, false, (0, 10), &open, b"p"));
    two.open_to_write("a");
    fixture.restart();
    let lost = one.connection.call(Some(&root()), &Compound::new().sequence(one.id, 9, 0, 0, false));
    assert!(lost.is_err(), "the connection is broken");
    let mut connection = Connection::open(fixture.address()).unwrap();
    let sequence = Compound::new().sequence(one.id, 9, 0, 0, false);
    assert_eq!(connection.call(None, &sequence).unwrap().status, Status::BadSession);
    // Who has nothing to take back may open files, and not lock them.
    let mut new = fixture.session_of(b"new", root());
    let (_, of_new) = new.open_to_write("a");
    let lock = |open: &Stateid, reclaims| at(&handle).lock_first(Write, reclaims, (0, 10), open, b"p");
    assert_eq!(new.status(lock(&of_new, false)), Status::Grace);
    assert_eq!(new.status(at(&handle).lock_test(Write, (0, 1), b"p")), Status::Grace);
    assert_eq!(new.status(at(&handle).open(&previous())), Status::NoGrace, "it has said that it was done");
    let mut stranger = Session::open_to_reclaim(fixture.address(), owner(b"stranger"), root(), 1).unwrap();
    assert_eq!(stranger.status(at(&handle).open(&previous())), Status::ReclaimBad);
    let mut one = Session::open_to_reclaim(fixture.address(), owner(b"one"), root(), 1).unwrap();
    let opened = one.done(at(&handle).open(&previous())).opened().unwrap().stateid;
    assert_eq!(one.status(lock(&opened, false)), Status::Grace);
    one.done(lock(&opened, true));
    one.done(Compound::new().reclaim_complete(false));
    assert_eq!(one.status(lock(&opened, true)), Status::NoGrace);
    assert_eq!(new.status(lock(&of_new, false)), Status::Grace, "another one may still come");
    let mut two = Session::open_to_reclaim(fixture.address(), owner(b"two"), root(), 1).unwrap();
    two.done(Compound::new().reclaim_complete(false));
    // All are back.
    assert_eq!(new.status(lock(&of_new, false)), Status::Denied);
    one.done(at(&handle).close(&opened));
    new.done(lock(&of_new, false));
}

#[test]
fn who_does_not_come_back_in_time_has_lost_what_he_had() {
    let mut fixture = Fixture::with_lease(Duration::from_secs(1));
    let mut one = fixture.session_of(b"one", root());
    let (handle, _) = one.open_to_write("a");
    fixture.restart();
    let mut new = fixture.session_of(b"new", root());
    let (_, open) = new.open_to_write("a");
    let lock = || at(&handle).lock_first(Write, false, (0, 10), &open, b"p");
    assert_eq!(new.status(lock()), Status::Grace);
    let ended = std::time::Instant::now() + Duration::from_secs(20);
    while new.status(lock()) == Status::Grace {
        assert!(std::time::Instant::now() < ended);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut one = Session::open_to_reclaim(fixture.address(), owner(b"one"), root(), 1).unwrap();
    assert_eq!(one.status(at(&handle).open(&previous())), Status::NoGrace);
    // Nor is he waited for the next time.
    while fixture.spec.state.join("clients").read_dir().unwrap().count() > 1 {
        assert!(std::time::Instant::now() < ended);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_client_that_says_goodbye_is_not_waited_for() {
    let mut fixture = Fixture::new();
    let mut one = fixture.session_of(b"one", root());
    one.done(Compound::new().destroy_session(one.id));
    let mut connection = Connection::open(fixture.address()).unwrap();
    connection.call(None, &Compound::new().destroy_client(one.client)).unwrap().ok().unwrap();
    fixture.restart();
    let mut new = fixture.session_of(b"new", root());
    let (handle, open) = new.open_to_write("a");
    new.done(at(&handle).lock_first(Write, false, (0, 10), &open, b"p"));
}

#[test]
fn writes_of_before_are_known_as_such() {
    let mut fixture = Fixture::new();
    let verifier = |fixture: &Fixture, name: &[u8]| {
        let mut session = fixture.session_of(name, root());
        let (handle, stateid) = session.open_to_write("a");
        let answer = session.done(at(&handle).write_bytes(&stateid, 0, 0, b"x").commit());
        assert_eq!(answer.of(Operation::Commit).unwrap().fixed(), Ok(answer.written().unwrap().verifier));
        answer.written().unwrap().verifier
    };
    let before = verifier(&fixture, b"one");
    assert_eq!(verifier(&fixture, b"two"), before);
    fixture.restart();
    assert_ne!(verifier(&fixture, b"three"), before);
}
