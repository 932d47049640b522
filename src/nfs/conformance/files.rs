//! OPEN, CLOSE, OPEN_DOWNGRADE, READ, WRITE, COMMIT.

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::client::{Claim, How, Values};
use crate::proto::{Attribute, Operation, share};

fn values(mode: u32) -> Values<'static> {
    Values { mode: Some(mode), ..Values::default() }
}

#[test]
fn what_is_written_is_read_and_lies_in_the_folder() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    let answer = session.done(at(&handle).write_bytes(&stateid, 3, 0, b"hello"));
    let written = answer.written().unwrap();
    assert_eq!((written.count, written.stable), (5, 0));
    assert_eq!(std::fs::read(fixture.path("a")).unwrap(), b"\0\0\0hello");
    for stable in [1, 2] {
        let answer = session.done(at(&handle).write_bytes(&stateid, 0, stable, b"ab"));
        assert_eq!(answer.written().unwrap(), crate::client::Written { count: 2, stable, ..written });
    }
    let answer = session.done(at(&handle).commit());
    let mut verifier = answer.of(Operation::Commit).unwrap();
    assert_eq!(verifier.fixed(), Ok(written.verifier));
    let answer = session.done(at(&handle).read(&stateid, 1, 4));
    assert_eq!(answer.bytes().unwrap(), (false, b"b\0he".as_slice()));
    let answer = session.done(at(&handle).read(&stateid, 3, 5));
    assert_eq!(answer.bytes().unwrap(), (true, b"hello".as_slice()), "it ends where the file does");
    let answer = session.done(at(&handle).read(&stateid, 100, 5));
    assert_eq!(answer.bytes().unwrap(), (true, b"".as_slice()));
    let answer = session.done(at(&handle).read(&stateid, u64::MAX, 5));
    assert_eq!(answer.bytes().unwrap(), (true, b"".as_slice()));
    session.done(at(&handle).close(&stateid));
    assert_eq!(session.status(at(&handle).read(&stateid, 0, 1)), Status::BadStateid);
}

#[test]
fn large_files_come_whole_wherever_they_are_cut() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    let bytes: Vec<u8> =
        (0..3_000_001_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for (number, piece) in (0_u64..).zip(bytes.chunks(1 << 20)) {
        let answer = session.done(at(&handle).write_bytes(&stateid, number << 20, 0, piece));
        assert_eq!(usize::try_from(answer.written().unwrap().count), Ok(piece.len()));
    }
    session.done(at(&handle).commit());
    assert_eq!(std::fs::read(fixture.path("a")).unwrap(), bytes);
    // By the pipe, by the buffer, kept and not, and with something behind it.
    for (count, is_kept, is_last) in [
        (1 << 20, false, true),
        (100_001, false, true),
        (4096, false, true),
        (1000, true, true),
        (100_001, false, false),
    ] {
        let mut read = Vec::new();
        loop {
            let offset = u64::try_from(read.len()).unwrap();
            let compound = at(&handle).read(&stateid, offset, count);
            let compound = if is_last { compound } else { compound.get_handle() };
            let answer = session.call_by(1, is_kept, compound).unwrap().ok().unwrap();
            let (is_end, piece) = answer.bytes().unwrap();
            read.extend_from_slice(piece);
            assert!(is_end || !piece.is_empty());
            if is_end {
                break;
            }
        }
        assert!(read == bytes, "{count} {is_kept} {is_last}");
    }
}

#[test]
fn open_makes_files_in_four_ways() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let mut open = |name: &str, how| {
        let open = Open { how: Some(how), ..Open::to_write(name.as_bytes()) };
        let answer = session.call(at_root().open(&open)).unwrap();
        (answer.status, answer.opened().ok())
    };
    let (status, opened) = open("a", How::Unchecked(values(0o640)));
    assert_eq!((status, opened.unwrap().set), (Status::Ok, only(Attribute::Mode)));
    assert!(opened.unwrap().change.after > opened.unwrap().change.before, "the folder has changed");
    assert_eq!(std::fs::metadata(fixture.path("a")).unwrap().mode() & 0o7777, 0o640);
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    assert_eq!(open("a", How::Guarded(values(0o600))).0, Status::Exist);
    let (status, opened) = open("a", How::Unchecked(values(0o600)));
    assert_eq!((status, opened.unwrap().set), (Status::Ok, Bitmap::EMPTY), "it is as it was");
    assert_eq!(std::fs::read(fixture.path("a")).unwrap(), b"abc");
    let cut = Values { size: Some(0), ..values(0o600) };
    assert_eq!(open("a", How::Unchecked(cut)).1.unwrap().set, only(Attribute::Size));
    assert_eq!(std::fs::metadata(fixture.path("a")).unwrap().len(), 0);
    assert_eq!(std::fs::metadata(fixture.path("a")).unwrap().mode() & 0o7777, 0o640);
    for how in [How::Exclusive, |verifier| How::ExclusiveWith(verifier, values(0o604))] {
        let name = if matches!(how([0; 8]), How::Exclusive(_)) { "b" } else { "c" };
        let (status, opened) = open(name, how([1; 8]));
        assert_eq!(status, Status::Ok);
        assert!(opened.unwrap().set.has(Attribute::TimeAccessSet), "where the verifier is kept");
        assert_eq!(open(name, how([1; 8])).0, Status::Ok, "the same one again");
        assert_eq!(open(name, how([2; 8])).0, Status::Exist);
    }
    assert_eq!(std::fs::metadata(fixture.path("c")).unwrap().mode() & 0o7777, 0o604);
    let time = Values { modify: Some(crate::client::Time::Now), ..values(0o600) };
    assert_eq!(
        open("d", How::ExclusiveWith([1; 8], time)).0,
        Status::AttrNotSupp,
        "the times have the verifier"
    );
}

#[test]
fn an_owner_has_a_file_open_once() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    let mut session = fixture.session();
    let answer = session.done(at_root().open(&Open::to_read(b"a")).get_handle());
    let (handle, reading) = (answer.handle().unwrap(), answer.opened().unwrap().stateid);
    assert_eq!(session.status(at(&handle).write_bytes(&reading, 0, 0, b"x")), Status::OpenMode);
    let writing = Open { access: share::WRITE, ..Open::to_read(b"a") };
    let both = session.done(at_root().open(&writing)).opened().unwrap().stateid;
    assert_eq!(both.other, reading.other);
    assert_eq!(both.seqid, reading.seqid + 1);
    assert_eq!(session.status(at(&handle).read(&reading, 0, 1)), Status::OldStateid);
    session.done(at(&handle).write_bytes(&both, 0, 0, b"x").read(&both, 0, 1));
    // Zero stands for the last version.
    session.done(at(&handle).read(&Stateid { seqid: 0, ..both }, 0, 1));
    assert_eq!(session.status(at(&handle).read(&Stateid { seqid: 9, ..both }, 0, 1)), Status::BadStateid);
    let answer = session.done(at(&handle).open_downgrade(&both, share::READ, 0));
    let reading = answer.stateid(Operation::OpenDowngrade).unwrap();
    assert_eq!(session.status(at(&handle).write_bytes(&reading, 0, 0, b"x")), Status::OpenMode);
    assert_eq!(session.status(at(&handle).open_downgrade(&reading, share::BOTH, 0)), Status::Inval);
    let other = Open { owner: b"other", ..Open::to_read(b"a") };
    let of_other = session.done(at_root().open(&other)).opened().unwrap().stateid;
    assert_ne!(of_other.other, reading.other);
    session.done(at(&handle).close(&reading));
    session.done(at(&handle).read(&of_other, 0, 1));
}

#[test]
fn a_stateid_is_good_for_its_file_and_its_client() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (a, of_a) = session.open_to_write("a");
    let (b, _) = session.open_to_write("b");
    assert_eq!(session.status(at(&b).read(&of_a, 0, 1)), Status::BadStateid);
    assert_eq!(session.status(at(&b).close(&of_a)), Status::BadStateid);
    let mut other = fixture.session_of(b"other", root());
    assert_eq!(other.status(at(&a).read(&of_a, 0, 1)), Status::BadStateid);
    // The current one stands for what the last operation gave, and goes with the file.
    let open = Open::to_write(b"a");
    session.done(at_root().open(&open).write_bytes(&Stateid::CURRENT, 0, 0, b"x").close(&Stateid::CURRENT));
    assert_eq!(session.status(at(&a).read(&Stateid::CURRENT, 0, 1)), Status::BadStateid);
    session.done(at_root().open(&open).save().put_root().restore().read(&Stateid::CURRENT, 0, 1));
}

#[test]
fn without_a_stateid_the_caller_is_judged_each_time() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    std::fs::set_permissions(fixture.path("a"), std::fs::Permissions::from_mode(0o604)).unwrap();
    let mut session = fixture.session_of(b"user", user(1000));
    let handle = session.handle("a");
    for stateid in [Stateid::ANONYMOUS, Stateid::BYPASS] {
        assert_eq!(session.done(at(&handle).read(&stateid, 0, 9)).bytes().unwrap().1, b"abc");
        assert_eq!(session.status(at(&handle).write_bytes(&stateid, 0, 0, b"x")), Status::Access);
    }
    session.who = root();
    session.done(at(&handle).write_bytes(&Stateid::ANONYMOUS, 0, 0, b"x"));
    assert_eq!(std::fs::read(fixture.path("a")).unwrap(), b"xbc");
}

#[test]
fn only_regular_files_are_opened_read_and_written() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("folder")).unwrap();
    std::os::unix::fs::symlink("x", fixture.path("link")).unwrap();
    nix::unistd::mkfifo(&fixture.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut session = fixture.session();
    for (name, status) in [("folder", Status::IsDir), ("link", Status::SymLink), ("fifo", Status::WrongType)]
    {
        assert_eq!(session.status(at_root().open(&Open::to_read(name.as_bytes()))), status, "{name}");
        assert_eq!(session.status(at_root().open(&Open::to_write(name.as_bytes()))), status, "{name}");
        let handle = session.handle(name);
        assert_eq!(session.status(at(&handle).read(&Stateid::ANONYMOUS, 0, 1)), status, "{name}");
        assert_eq!(
            session.status(at(&handle).write_bytes(&Stateid::ANONYMOUS, 0, 0, b"x")),
            status,
            "{name}"
        );
        assert_eq!(session.status(at(&handle).commit()), status, "{name}");
        let here = Open { claim: Claim::Handle, ..Open::to_read(b"") };
        assert_eq!(session.status(at(&handle).open(&here)), status, "{name}");
    }
}

#[test]
fn a_file_that_is_open_lives_on_without_a_name() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    session.done(at_root().remove(b"a"));
    session.done(at(&handle).write_bytes(&stateid, 0, 2, b"abc").get_attributes(only(Attribute::NumLinks)));
    assert_eq!(session.done(at(&handle).read(&stateid, 0, 9)).bytes().unwrap().1, b"abc");
    session.done(at(&handle).close(&stateid));
    assert_eq!(session.status(at(&handle).get_attributes(only(Attribute::Size))), Status::Stale);
}

#[test]
fn what_is_open_can_be_opened_by_its_handle() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    let mut session = fixture.session();
    let handle = session.handle("a");
    let here = Open { claim: Claim::Handle, ..Open::to_read(b"") };
    let answer = session.done(at(&handle).open(&here).read(&Stateid::CURRENT, 0, 9));
    assert_eq!(answer.bytes().unwrap().1, b"abc");
    let made = Open { claim: Claim::Handle, ..Open::to_write(b"") };
    assert_eq!(session.status(at(&handle).open(&made)), Status::Inval, "it is there already");
}

#[test]
fn the_host_sees_and_is_seen() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    let file = std::fs::File::options().write(true).open(fixture.path("a")).unwrap();
    file.write_all_at(b"from the host", 0).unwrap();
    let answer = session.done(at(&handle).read(&stateid, 0, 100));
    assert_eq!(answer.bytes().unwrap(), (true, b"from the host".as_slice()));
}

#[test]
fn too_large_an_offset_is_told() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    for offset in [u64::MAX, 1 << 63, (1 << 63) - 1] {
        let status = session.status(at(&handle).write_bytes(&stateid, offset, 0, b"abc"));
        assert!(matches!(status, Status::FBig | Status::Inval), "{offset}: {status:?}");
    }
    let huge = Values { size: Some(u64::MAX), ..Values::default() };
    assert_eq!(session.status(at(&handle).set_attributes(&stateid, &huge)), Status::FBig);
}
