//! Callers are who AUTH_SYS says, and the kernel judges what they may.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::client::{Connection, How, Values};
use crate::proto::share;

fn make(fixture: &Fixture, name: &str, mode: u32, owner: u32) {
    std::fs::write(fixture.path(name), b"abc").unwrap();
    std::os::unix::fs::chown(fixture.path(name), Some(owner), Some(owner)).unwrap();
    std::fs::set_permissions(fixture.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

fn open_up(fixture: &Fixture) {
    std::fs::set_permissions(&fixture.spec.folder, std::fs::Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn what_a_caller_makes_is_his() {
    let fixture = Fixture::new();
    open_up(&fixture);
    let mut session = fixture.session_of(b"one", Identity::new(1000, 100, &[200]));
    session.open_to_write("a");
    session.done(
        at_root().create(2, b"folder", &Values::default()).put_root().create_symbolic_link(b"link", b"x"),
    );
    for name in ["a", "folder", "link"] {
        let host = std::fs::symlink_metadata(fixture.path(name)).unwrap();
        assert_eq!((host.uid(), host.gid()), (1000, 100), "{name}");
    }
    // Nobody else becomes him for that.
    session.who = user(2000);
    session.open_to_write("b");
    assert_eq!(std::fs::metadata(fixture.path("b")).unwrap().uid(), 2000);
    session.who = root();
    session.open_to_write("c");
    assert_eq!(std::fs::metadata(fixture.path("c")).unwrap().uid(), 0);
}

#[test]
fn what_a_caller_may_not_is_refused() {
    let fixture = Fixture::new();
    make(&fixture, "his", 0o600, 1000);
    make(&fixture, "group", 0o040, 0);
    std::os::unix::fs::chown(fixture.path("group"), None, Some(100)).unwrap();
    make(&fixture, "run", 0o711, 0);
    let mut session = fixture.session_of(b"one", user(2000));
    let read = |name: &[u8]| at_root().open(&Open::to_read(name));
    assert_eq!(session.status(read(b"his")), Status::Access);
    assert_eq!(session.status(at_root().open(&Open::to_write(b"new"))), Status::Access);
    assert_eq!(session.status(at_root().create(2, b"new", &Values::default())), Status::Access);
    assert_eq!(session.status(at_root().remove(b"his")), Status::Access);
    assert_eq!(session.status(at_root().save().rename(b"his", b"new")), Status::Access);
    let handle = session.handle("his");
    let owner = Values { owner: Some("2000"), ..Values::default() };
    let mode = Values { mode: Some(0o777), ..Values::default() };
    for values in [owner, mode] {
        assert_eq!(session.status(at(&handle).set_attributes(&Stateid::ANONYMOUS, &values)), Status::Perm);
    }
    session.done(read(b"run"));
    let write = Open { access: share::WRITE, ..Open::to_read(b"run") };
    assert_eq!(session.status(at_root().open(&write)), Status::Access, "who may execute it may only read it");
    assert_eq!(session.status(read(b"group")), Status::Access);
    session.who = Identity::new(2000, 2000, &[1, 100]);
    session.done(read(b"group"));
    session.who = user(1000);
    session.done(read(b"his"));
    // A folder that may not be searched.
    std::fs::create_dir(fixture.path("folder")).unwrap();
    std::fs::write(fixture.path("folder/a"), b"").unwrap();
    std::fs::set_permissions(fixture.path("folder"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(session.status(at_root().look_up(b"folder").look_up(b"a")), Status::Access);
    assert_eq!(
        session.status(at_root().look_up(b"folder").read_directory(0, [0; 8], 999, Bitmap::EMPTY)),
        Status::Access
    );
}

#[test]
fn a_stateid_does_not_make_somebody_else_of_its_caller() {
    let fixture = Fixture::new();
    make(&fixture, "a", 0o600, 1000);
    let mut session = fixture.session_of(b"one", user(1000));
    let (handle, stateid) = session.open_to_write("a");
    std::fs::set_permissions(fixture.path("a"), std::fs::Permissions::from_mode(0o400)).unwrap();
    session.done(at(&handle).write_bytes(&stateid, 0, 0, b"x"));
    session.who = user(2000);
    assert_eq!(session.status(at(&handle).read(&stateid, 0, 1)), Status::Access);
    assert_eq!(session.status(at(&handle).write_bytes(&stateid, 0, 0, b"x")), Status::Access);
    session.who = root();
    session.done(at(&handle).read(&stateid, 0, 1));
}

#[test]
fn who_writes_takes_the_bits_for_set_user_id_away() {
    let fixture = Fixture::new();
    make(&fixture, "a", 0o4777, 0);
    let mut session = fixture.session_of(b"one", user(1000));
    let (handle, stateid) = session.open_to_write("a");
    session.done(at(&handle).write_bytes(&stateid, 0, 0, b"x"));
    assert_eq!(std::fs::metadata(fixture.path("a")).unwrap().mode() & 0o7777, 0o777);
}

#[test]
fn a_file_may_be_made_read_only_and_written() {
    let fixture = Fixture::new();
    open_up(&fixture);
    let mut session = fixture.session_of(b"one", user(1000));
    let values = Values { mode: Some(0o444), ..Values::default() };
    let open = Open { how: Some(How::Guarded(values)), ..Open::to_write(b"a") };
    session.done(at_root().open(&open).write_bytes(&Stateid::CURRENT, 0, 0, b"abc"));
    assert_eq!(std::fs::read(fixture.path("a")).unwrap(), b"abc");
    let open = Open { owner: b"other", ..Open::to_write(b"a") };
    assert_eq!(session.status(at_root().open(&open)), Status::Access);
}

#[test]
fn who_says_nothing_of_himself_is_nobody() {
    let fixture = Fixture::new();
    open_up(&fixture);
    make(&fixture, "a", 0o600, 0);
    let mut session = fixture.session();
    let mut connection = Connection::open(fixture.address()).unwrap();
    let mut anonymous = |compound: Compound| {
        let compound = session.next(1, false, compound);
        connection.call(None, &compound).unwrap()
    };
    assert_eq!(anonymous(at_root().open(&Open::to_read(b"a"))).status, Status::Access);
    anonymous(at_root().open(&Open::to_write(b"b"))).ok().unwrap();
    assert_eq!(std::fs::metadata(fixture.path("b")).unwrap().uid(), 65534);
}

#[test]
fn callers_on_one_connection_do_not_become_each_other() {
    let fixture = Fixture::new();
    open_up(&fixture);
    let mut session = fixture.session();
    for round in 0..40_u32 {
        let uid = [0, 1000, 2000, 3000][usize::try_from(round).unwrap() % 4];
        session.who = Identity::new(uid, uid + round % 3, &[uid + 1]);
        let name = format!("{round}");
        // Not known yet, so the server must be root in between.
        make(&fixture, &format!("x{name}"), 0o644, 1);
        session.done(
            at_root()
                .look_up(format!("x{name}").as_bytes())
                .put_root()
                .open(&Open::to_write(name.as_bytes())),
        );
        let host = std::fs::metadata(fixture.path(&name)).unwrap();
        assert_eq!((host.uid(), host.gid()), (uid, uid + round % 3));
    }
}
