//! CREATE, LINK, READLINK, REMOVE, RENAME, READDIR.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use super::*;
use crate::client::Values;
use crate::proto::{Attribute, Operation};

#[test]
fn folders_links_and_fifos_are_made_and_devices_are_not() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let values = Values { mode: Some(0o2750), owner: Some("1000"), ..Values::default() };
    let answer = session.done(at_root().create(2, b"folder", &values).get_handle());
    let change = answer.change(Operation::Create).unwrap();
    assert!(change.after > change.before);
    let host = std::fs::metadata(fixture.path("folder")).unwrap();
    assert_eq!((host.mode() & 0o7777, host.uid(), host.is_dir()), (0o2750, 1000, true));
    // The new file is the current one.
    assert_eq!(answer.handle().unwrap(), session.handle("folder"));
    session.done(at_root().create(6, b"socket", &Values::default()).put_root().create(
        7,
        b"fifo",
        &Values::default(),
    ));
    assert!(std::fs::metadata(fixture.path("socket")).unwrap().file_type().is_socket());
    assert!(std::fs::metadata(fixture.path("fifo")).unwrap().file_type().is_fifo());
    let answer = session.done(at_root().create_symbolic_link(b"link", b"../else/where").read_link());
    assert_eq!(answer.of(Operation::ReadLink).unwrap().opaque(99), Ok(b"../else/where".as_slice()));
    assert_eq!(std::fs::read_link(fixture.path("link")).unwrap().as_os_str(), "../else/where");
    for (kind, status) in [
        (1, Status::BadType),
        (3, Status::BadType),
        (4, Status::BadType),
        (8, Status::BadType),
        (99, Status::BadType),
    ] {
        assert_eq!(session.status(at_root().create(kind, b"x", &Values::default())), status, "{kind}");
    }
    assert_eq!(session.status(at_root().create(2, b"folder", &Values::default())), Status::Exist);
    assert_eq!(session.status(at_root().create_symbolic_link(b"x", b"")), Status::Inval);
    assert_eq!(session.status(at_root().create_symbolic_link(b"x", b"a\0b")), Status::Inval);
    assert_eq!(session.status(at_root().create_symbolic_link(b"x", &[b'x'; 4081])), Status::NameTooLong);
    assert_eq!(session.status(at_root().read_link()), Status::IsDir);
    let fifo = session.handle("fifo");
    assert_eq!(session.status(at(&fifo).read_link()), Status::WrongType);
    assert_eq!(session.status(at(&fifo).create(2, b"x", &Values::default())), Status::NotDir);
}

#[test]
fn names_come_and_go() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    std::fs::create_dir_all(fixture.path("folder/inner")).unwrap();
    let mut session = fixture.session();
    let (handle, folder) = (session.handle("a"), session.handle("folder"));
    let link = |name: &[u8]| at(&handle).save().put_handle(&folder).link(name);
    let change = session.done(link(b"b")).change(Operation::Link).unwrap();
    assert!(change.after > change.before);
    assert_eq!(std::fs::metadata(fixture.path("a")).unwrap().nlink(), 2);
    assert_eq!(session.status(link(b"b")), Status::Exist);
    assert_eq!(session.status(at(&folder).save().put_root().link(b"c")), Status::IsDir);
    assert_eq!(session.status(at(&handle).save().link(b"c")), Status::NotDir);
    session.done(at_root().remove(b"a"));
    session.done(at(&handle).read(&Stateid::ANONYMOUS, 0, 1));
    assert_eq!(session.status(at_root().remove(b"a")), Status::NoEnt);
    assert_eq!(session.status(at_root().remove(b"folder")), Status::NotEmpty);
    assert_eq!(session.status(at(&handle).remove(b"x")), Status::NotDir);
    session.done(at(&folder).remove(b"inner").remove(b"b"));
    assert_eq!(session.status(at(&handle)), Status::Stale);
    session.done(at_root().remove(b"folder"));
    assert_eq!(std::fs::read_dir(&fixture.spec.folder).unwrap().count(), 0);
}

#[test]
fn what_is_renamed_replaces_only_its_kind() {
    let fixture = Fixture::new();
    for folder in ["one", "two", "full/inner", "empty"] {
        std::fs::create_dir_all(fixture.path(folder)).unwrap();
    }
    std::fs::write(fixture.path("one/a"), b"a").unwrap();
    std::fs::write(fixture.path("two/b"), b"b").unwrap();
    let mut session = fixture.session();
    let (one, two, replaced) = (session.handle("one"), session.handle("two"), {
        session.done(at_root().look_up(b"two").look_up(b"b").get_handle()).handle().unwrap()
    });
    let rename =
        |from: &[u8], old: &[u8], to: &[u8], new: &[u8]| at(from).save().put_handle(to).rename(old, new);
    session.done(rename(&one, b"a", &two, b"b"));
    assert_eq!(std::fs::read(fixture.path("two/b")).unwrap(), b"a");
    assert!(!fixture.path("one/a").exists());
    assert_eq!(session.status(at(&replaced)), Status::Stale);
    assert_eq!(session.status(rename(&one, b"a", &two, b"c")), Status::NoEnt);
    let top = session.done(at_root().get_handle()).handle().unwrap();
    let mut renamed = |old: &[u8], new: &[u8]| session.status(rename(&top, old, &top, new));
    assert_eq!(renamed(b"two", b"full"), Status::NotEmpty);
    assert_eq!(renamed(b"two", b"empty"), Status::Ok);
    assert_eq!(renamed(b"full", b"full"), Status::Ok, "it is there already");
    std::fs::write(fixture.path("file"), b"").unwrap();
    assert_eq!(renamed(b"file", b"full"), Status::Exist);
    assert_eq!(renamed(b"full", b"file"), Status::Exist);
    let inner = session.done(at_root().look_up(b"full").look_up(b"inner").get_handle()).handle().unwrap();
    assert_eq!(session.status(rename(&top, b"full", &inner, b"x")), Status::Inval, "into itself");
    assert_eq!(session.status(at_root().rename(b"a", b"b")), Status::NoFileHandle, "nothing was saved");
    let file = session.handle("file");
    assert_eq!(session.status(rename(&file, b"a", &top, b"b")), Status::NotDir);
    assert_eq!(session.status(rename(&top, b"a", &file, b"b")), Status::NotDir);
}

/// Names of a folder, asked for in answers of so many bytes.
fn names(session: &mut Session, bytes_max: u32, wanted: Bitmap) -> Vec<String> {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let answer = session.done(at_root().read_directory(cookie, [0; 8], bytes_max, wanted));
        let (entries, is_end) = answer.entries().unwrap();
        assert!(answer.of(Operation::ReadDir).unwrap().remaining() <= usize::try_from(bytes_max).unwrap());
        assert!(is_end || !entries.is_empty());
        for entry in entries {
            assert!(entry.cookie > 2);
            cookie = entry.cookie;
            names.push(String::from_utf8(entry.name).unwrap());
        }
        if is_end {
            return names;
        }
    }
}

#[test]
fn folders_are_listed_once_and_whole() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    assert_eq!(names(&mut session, 1000, Bitmap::EMPTY), Vec::<String>::new());
    let expected: BTreeSet<String> = (0..3000).map(|number| format!("file-{number}")).collect();
    expected.iter().for_each(|name| std::fs::write(fixture.path(name), b"").unwrap());
    let plain = Bitmap::of(&[Attribute::Type, Attribute::FileId]);
    let with_status =
        Bitmap::of(&[Attribute::Type, Attribute::FileId, Attribute::Size, Attribute::FileHandle]);
    for (bytes_max, wanted) in
        [(1000, Bitmap::EMPTY), (8192, plain), (65_536, plain), (8192, with_status), (1 << 20, with_status)]
    {
        let listed = names(&mut session, bytes_max, wanted);
        assert_eq!(listed.len(), expected.len());
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

#[test]
fn cookies_stay_when_others_come_and_go() {
    let fixture = Fixture::new();
    let stay: BTreeSet<String> = (0..500).map(|number| format!("stays-{number}")).collect();
    stay.iter().for_each(|name| std::fs::write(fixture.path(name), b"").unwrap());
    (0..500).for_each(|number| std::fs::write(fixture.path(&format!("goes-{number}")), b"").unwrap());
    let mut session = fixture.session();
    let (mut seen, mut cookie, mut round) = (Vec::new(), 0, 0);
    loop {
        let answer = session.done(at_root().read_directory(cookie, [0; 8], 2000, Bitmap::EMPTY));
        let (entries, is_end) = answer.entries().unwrap();
        cookie = entries.last().map_or(cookie, |entry| entry.cookie);
        seen.extend(entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()));
        if is_end {
            break;
        }
        for number in round * 5..(round + 1) * 5 {
            let _ = std::fs::remove_file(fixture.path(&format!("goes-{number}")));
            std::fs::write(fixture.path(&format!("comes-{number}")), b"").unwrap();
        }
        round += 1;
    }
    let stayed: Vec<_> = seen.iter().filter(|name| name.starts_with("stays")).cloned().collect();
    assert_eq!(stayed.len(), stay.len(), "none twice");
    assert_eq!(stayed.into_iter().collect::<BTreeSet<_>>(), stay);
}

#[test]
fn listings_tell_what_getattr_tells() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    std::fs::create_dir(fixture.path("folder")).unwrap();
    std::os::unix::fs::symlink("a", fixture.path("link")).unwrap();
    let mut session = fixture.session();
    let all = Bitmap::SUPPORTED.without(Bitmap::WRITE_ONLY).without(Bitmap::SPACE);
    for wanted in [all, Bitmap::of(&[Attribute::Type, Attribute::FileId, Attribute::RdattrError])] {
        let (entries, is_end) =
            session.done(at_root().read_directory(0, [0; 8], 65_536, wanted)).entries().unwrap();
        assert!(is_end && entries.len() == 3);
        for entry in entries {
            let alone = at_root().look_up(&entry.name).get_attributes(wanted);
            assert_eq!(session.done(alone).attributes().unwrap(), entry.attributes);
        }
    }
}

#[test]
fn what_cannot_be_listed_is_told() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    let mut session = fixture.session();
    let list =
        |cookie, verifier, bytes_max| at_root().read_directory(cookie, verifier, bytes_max, Bitmap::EMPTY);
    for cookie in [1, 2, u64::MAX] {
        assert_eq!(session.status(list(cookie, [0; 8], 1000)), Status::BadCookie, "{cookie}");
    }
    assert_eq!(session.status(list(5, [1; 8], 1000)), Status::NotSame);
    assert_eq!(session.status(list(0, [0; 8], 20)), Status::TooSmall);
    let file = session.handle("a");
    assert_eq!(session.status(at(&file).read_directory(0, [0; 8], 1000, Bitmap::EMPTY)), Status::NotDir);
    assert_eq!(session.status(at_root().read_directory(0, [0; 8], 1000, Bitmap::WRITE_ONLY)), Status::Inval);
    // An entry whose attributes may not be had says so, if it is asked.
    std::os::unix::fs::chown(&fixture.spec.folder, Some(1000), Some(1000)).unwrap();
    std::fs::set_permissions(&fixture.spec.folder, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    session.who = user(1000);
    let wanted = Bitmap::of(&[Attribute::Size, Attribute::RdattrError]);
    let (entries, _) = session.done(at_root().read_directory(0, [0; 8], 1000, wanted)).entries().unwrap();
    assert_eq!(entries[0].attributes.error, Some(Status::Access.number()));
    assert_eq!(
        session.status(at_root().read_directory(0, [0; 8], 1000, only(Attribute::Size))),
        Status::Access
    );
}
