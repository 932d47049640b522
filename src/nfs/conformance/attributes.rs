//! GETATTR, SETATTR, ACCESS, VERIFY, NVERIFY.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::client::{Time, Values};
use crate::proto::{Attribute, access};

/// All that can be asked for.
fn all() -> Bitmap {
    Bitmap::SUPPORTED.without(Bitmap::WRITE_ONLY)
}

#[test]
fn attributes_are_the_hosts_and_only_those_asked_for() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    std::os::unix::fs::chown(fixture.path("a"), Some(1000), Some(100)).unwrap();
    let mut session = fixture.session();
    let handle = session.handle("a");
    let attributes = session.done(at(&handle).get_attributes(all())).attributes().unwrap();
    let host = std::fs::metadata(fixture.path("a")).unwrap();
    assert_eq!(attributes.bitmap, all());
    assert_eq!((attributes.kind, attributes.size, attributes.links), (Some(1), Some(3), Some(1)));
    assert_eq!(attributes.mode, Some(host.mode() & 0o7777));
    assert_eq!((attributes.owner.as_deref(), attributes.group.as_deref()), (Some("1000"), Some("100")));
    assert_eq!(attributes.file_id, Some(host.ino()));
    assert_eq!(attributes.modify, Some((host.mtime(), u32::try_from(host.mtime_nsec()).unwrap())));
    assert_eq!(attributes.handle.as_deref(), Some(handle.as_slice()));
    assert_eq!(attributes.supported, Some(Bitmap::SUPPORTED));
    assert_eq!(attributes.lease_s, Some(90));
    assert!(attributes.space_total.unwrap() > 1 << 20);
    // What is not served is not told, and is no error.
    let acl = Bitmap::from_words([1 << 12 | 1 << 4, 1 << 31, 1 << 12]);
    let attributes = session.done(at(&handle).get_attributes(acl)).attributes().unwrap();
    assert_eq!(attributes.bitmap, only(Attribute::Size));
    assert_eq!(session.done(at(&handle).get_attributes(Bitmap::EMPTY)).attributes().unwrap().values, b"");
    for attribute in [Attribute::TimeAccessSet, Attribute::TimeModifySet] {
        assert_eq!(session.status(at(&handle).get_attributes(only(attribute))), Status::Inval);
    }
    // Each alone is what it is among all.
    for attribute in Attribute::ALL.iter().filter(|attribute| all().has(**attribute)) {
        let alone = session.done(at(&handle).get_attributes(only(*attribute))).attributes().unwrap();
        assert_eq!(alone.bitmap, only(*attribute));
        assert!(!alone.values.is_empty());
    }
}

#[test]
fn every_change_is_another_number() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    let mut last = 0;
    // More than the host's clock has ticks for.
    for number in 0..200_u64 {
        let compound = at(&handle);
        let compound = match number % 3 {
            0 => compound.write_bytes(&stateid, 0, 0, b"x"),
            1 => compound
                .set_attributes(&Stateid::ANONYMOUS, &Values { mode: Some(0o600), ..Values::default() }),
            _ => compound.save().put_root().link(format!("{number}").as_bytes()).restore(),
        };
        let answer = session.done(compound.get_attributes(only(Attribute::Change)));
        let change = answer.attributes().unwrap().change.unwrap();
        assert!(change > last, "{number}: {last} {change}");
        last = change;
    }
    let unchanged = session.done(at(&handle).read(&stateid, 0, 1).get_attributes(only(Attribute::Change)));
    assert_eq!(unchanged.attributes().unwrap().change, Some(last));
}

#[test]
fn attributes_are_set() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    let values = Values {
        size: Some(1000),
        mode: Some(0o4711),
        owner: Some("1000"),
        group: Some("100"),
        access: Some(Time::At(5, 6)),
        modify: Some(Time::At(-7, 8)),
    };
    let answer = session.done(at(&handle).set_attributes(&stateid, &values));
    assert_eq!(Bitmap::read(&mut answer.of(crate::proto::Operation::SetAttr).unwrap()), Ok(Bitmap::SETTABLE));
    let host = std::fs::metadata(fixture.path("a")).unwrap();
    assert_eq!((host.len(), host.mode() & 0o7777, host.uid(), host.gid()), (1000, 0o4711, 1000, 100));
    assert_eq!((host.atime(), host.atime_nsec(), host.mtime(), host.mtime_nsec()), (5, 6, -7, 8));
    let now = Values { modify: Some(Time::Now), ..Values::default() };
    session.done(at(&handle).set_attributes(&Stateid::ANONYMOUS, &now));
    let host = std::fs::metadata(fixture.path("a")).unwrap();
    assert!(host.modified().unwrap().elapsed().unwrap() < Duration::from_secs(60) && host.atime() == 5);
    // A symbolic link's own times and owner, and not those of what it names.
    std::os::unix::fs::symlink("a", fixture.path("link")).unwrap();
    let link = session.handle("link");
    let values = Values { owner: Some("7"), modify: Some(Time::At(1, 2)), ..Values::default() };
    session.done(at(&link).set_attributes(&Stateid::ANONYMOUS, &values));
    let host = std::fs::symlink_metadata(fixture.path("link")).unwrap();
    assert_eq!((host.uid(), host.mtime()), (7, 1));
    assert_eq!(std::fs::metadata(fixture.path("a")).unwrap().uid(), 1000);
    let mode = Values { mode: Some(0o600), ..Values::default() };
    assert_eq!(session.status(at(&link).set_attributes(&Stateid::ANONYMOUS, &mode)), Status::Inval);
}

#[test]
fn what_cannot_be_set_is_told_with_what_was() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    std::fs::set_permissions(fixture.path("a"), std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::create_dir(fixture.path("folder")).unwrap();
    let mut session = fixture.session_of(b"user", user(1000));
    let (handle, folder) = (session.handle("a"), session.handle("folder"));
    let size = Values { size: Some(1), ..Values::default() };
    let both = Values { mode: Some(0o600), ..size };
    let answer = session.call(at(&handle).set_attributes(&Stateid::ANONYMOUS, &both)).unwrap();
    assert_eq!(answer.status, Status::Perm);
    assert_eq!(
        Bitmap::read(&mut answer.of(crate::proto::Operation::SetAttr).unwrap()),
        Ok(only(Attribute::Size))
    );
    assert_eq!(session.status(at(&folder).set_attributes(&Stateid::ANONYMOUS, &size)), Status::IsDir);
    let owner = Values { owner: Some("root"), ..Values::default() };
    assert_eq!(session.status(at(&handle).set_attributes(&Stateid::ANONYMOUS, &owner)), Status::BadOwner);
    let answer = session.done(at_root().open(&Open::to_read(b"a")));
    let stateid = answer.opened().unwrap().stateid;
    assert_eq!(session.status(at(&handle).set_attributes(&stateid, &size)), Status::OpenMode);
    let mut arguments = crate::xdr::Writer::new();
    Stateid::ANONYMOUS.write(&mut arguments);
    let with = |bitmap: Bitmap| {
        let mut arguments = crate::xdr::Writer::new();
        Stateid::ANONYMOUS.write(&mut arguments);
        bitmap.write(&mut arguments);
        arguments.opaque(&[0; 8]);
        arguments.into_bytes()
    };
    let set = crate::proto::Operation::SetAttr.number();
    assert_eq!(session.status(at(&handle).raw(set, &with(only(Attribute::FileId)))), Status::Inval);
    assert_eq!(
        session.status(at(&handle).raw(set, &with(Bitmap::from_words([1 << 12, 0, 0])))),
        Status::AttrNotSupp
    );
    assert_eq!(
        session.status(at(&handle).raw(set, &with(only(Attribute::Mode)))),
        Status::BadXdr,
        "there is more"
    );
}

#[test]
fn access_is_what_the_kernel_says() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    std::fs::set_permissions(fixture.path("a"), std::fs::Permissions::from_mode(0o754)).unwrap();
    std::os::unix::fs::chown(fixture.path("a"), Some(1000), Some(100)).unwrap();
    std::fs::create_dir(fixture.path("folder")).unwrap();
    std::fs::set_permissions(fixture.path("folder"), std::fs::Permissions::from_mode(0o751)).unwrap();
    let mut session = fixture.session();
    let (file, folder) = (session.handle("a"), session.handle("folder"));
    let told = access::READ | access::MODIFY | access::EXTEND | access::EXECUTE;
    let mut granted = |who: Identity, handle: &[u8]| {
        session.who = who;
        session.done(at(handle).access(access::ALL)).access().unwrap()
    };
    assert_eq!(granted(user(1000), &file), (told, told));
    assert_eq!(granted(Identity::new(2000, 1, &[5, 100]), &file), (told, access::READ | access::EXECUTE));
    assert_eq!(granted(user(2000), &file), (told, access::READ));
    assert_eq!(granted(root(), &file), (told, told));
    let of_folders = access::ALL & !access::EXECUTE;
    assert_eq!(granted(user(2000), &folder), (of_folders, access::LOOKUP));
    assert_eq!(granted(root(), &folder), (of_folders, of_folders));
    assert_eq!(session.status(at(&file).access(0x40)), Status::Inval);
}

#[test]
fn attributes_are_compared() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"abc").unwrap();
    let mut session = fixture.session();
    let handle = session.handle("a");
    let wanted = Bitmap::of(&[Attribute::Size, Attribute::Type, Attribute::FileId]);
    let values = session.done(at(&handle).get_attributes(wanted)).attributes().unwrap().values;
    let mut other = values.clone();
    other[7] ^= 1;
    session.done(at(&handle).verify(true, wanted, &values).get_handle());
    assert_eq!(session.status(at(&handle).verify(true, wanted, &other)), Status::NotSame);
    assert_eq!(session.status(at(&handle).verify(false, wanted, &values)), Status::Same);
    session.done(at(&handle).verify(false, wanted, &other).get_handle());
    for (bitmap, status) in [
        (Bitmap::from_words([1 << 12, 0, 0]), Status::AttrNotSupp),
        (only(Attribute::RdattrError), Status::Inval),
        (only(Attribute::TimeModifySet), Status::Inval),
    ] {
        assert_eq!(session.status(at(&handle).verify(true, bitmap, &values)), status);
    }
}
