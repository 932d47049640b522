//! LOOKUP, LOOKUPP, PUTROOTFH, PUTPUBFH, SAVEFH, RESTOREFH, SECINFO, SECINFO_NO_NAME; and that nothing leads out of the folder.

use super::*;
use crate::client::Values;
use crate::proto::{Attribute, Operation};

#[test]
fn names_lead_to_files_and_back() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("one/two")).unwrap();
    std::fs::write(fixture.path("one/two/a"), b"abc").unwrap();
    let mut session = fixture.session();
    let top = session.done(at_root().get_handle()).handle().unwrap();
    assert_eq!(session.done(Compound::new().put_public().get_handle()).handle().unwrap(), top);
    let two = session.done(at_root().look_up(b"one").look_up(b"two").get_handle()).handle().unwrap();
    let one = session.done(at(&two).look_up_parent().get_handle()).handle().unwrap();
    assert_eq!(one, session.handle("one"));
    assert_eq!(session.done(at(&one).look_up_parent().get_handle()).handle().unwrap(), top);
    assert_eq!(session.status(at_root().look_up_parent()), Status::NoEnt);
    assert_eq!(session.status(at_root().look_up(b"none")), Status::NoEnt);
    let answer = session.done(at(&one).save().put_root().restore().get_handle());
    assert_eq!(answer.handle().unwrap(), one);
    assert_eq!(session.status(Compound::new().restore()), Status::NoFileHandle);
    let file = session.done(at(&two).look_up(b"a").get_handle()).handle().unwrap();
    assert_eq!(session.status(at(&file).look_up(b"x")), Status::NotDir);
    assert_eq!(session.status(at(&file).look_up_parent()), Status::NotDir);
    std::os::unix::fs::symlink("one", fixture.path("link")).unwrap();
    assert_eq!(session.status(at_root().look_up(b"link").look_up(b"two")), Status::SymLink);
}

#[test]
fn only_names_are_names() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"").unwrap();
    let mut session = fixture.session();
    let long = vec![b'x'; 256];
    let cases: [(&[u8], Status); 7] = [
        (b"", Status::Inval),
        (b".", Status::BadName),
        (b"..", Status::BadName),
        (b"a/b", Status::BadChar),
        (b"/", Status::BadChar),
        (b"a\0b", Status::BadChar),
        (&long, Status::NameTooLong),
    ];
    for (name, status) in cases {
        let shown = String::from_utf8_lossy(name);
        let mut answered = |compound| session.status(compound);
        assert_eq!(answered(at_root().look_up(name)), status, "{shown}");
        assert_eq!(answered(at_root().open(&Open::to_write(name))), status, "{shown}");
        assert_eq!(answered(at_root().create(2, name, &Values::default())), status, "{shown}");
        assert_eq!(answered(at_root().create_symbolic_link(name, b"x")), status, "{shown}");
        assert_eq!(answered(at_root().remove(name)), status, "{shown}");
        assert_eq!(answered(at_root().save().rename(name, b"b")), status, "{shown}");
        assert_eq!(answered(at_root().save().rename(b"a", name)), status, "{shown}");
        assert_eq!(answered(at_root().look_up(b"a").save().put_root().link(name)), status, "{shown}");
        assert_eq!(answered(at_root().security(name)), status, "{shown}");
    }
    let longest = vec![b'x'; 255];
    session.done(at_root().create(2, &longest, &Values::default()));
    // Bytes are names, also if they are no text.
    session.done(at_root().create(2, b"\xff\xfe", &Values::default()).put_root().look_up(b"\xff\xfe"));
}

#[test]
fn nothing_leads_out() {
    let fixture = Fixture::new();
    let outside = fixture.spec.folder.parent().unwrap().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink(&outside, fixture.path("link")).unwrap();
    std::os::unix::fs::symlink("../outside/secret", fixture.path("file")).unwrap();
    let mut session = fixture.session();
    assert_eq!(session.status(at_root().look_up(b"link").look_up(b"secret")), Status::SymLink);
    assert_eq!(session.status(at_root().open(&Open::to_read(b"file"))), Status::SymLink);
    assert_eq!(session.status(at_root().open(&Open::to_write(b"file"))), Status::SymLink);
    std::fs::create_dir_all(fixture.path("one/two")).unwrap();
    let (one, two) = (session.handle("one"), {
        session.done(at_root().look_up(b"one").look_up(b"two").get_handle()).handle().unwrap()
    });
    session.done(at(&two).look_up_parent());
    // Somebody on the host moves it out: what is above it is none of the clients' business.
    std::fs::rename(fixture.path("one"), outside.join("one")).unwrap();
    assert_eq!(session.status(at(&one).look_up_parent()), Status::Stale);
    assert_eq!(session.status(at(&two).look_up_parent()), Status::Stale);
}

#[test]
fn what_is_mounted_within_is_not_served() {
    let thread = std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        // The mounts are this thread's, and those of the threads that it starts.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let fixture = Fixture::new();
        std::fs::create_dir(fixture.path("mounted")).unwrap();
        mount(Some("none"), &fixture.path("mounted"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::write(fixture.path("mounted/a"), b"").unwrap();
        let mut session = fixture.session();
        assert_eq!(session.status(at_root().look_up(b"mounted")), Status::Access);
        assert_eq!(session.status(at_root().remove(b"mounted")), Status::Access);
        assert_eq!(session.status(at_root().save().rename(b"mounted", b"b")), Status::Access);
        let wanted = Bitmap::of(&[Attribute::Size, Attribute::RdattrError]);
        let listed = session.done(at_root().read_directory(0, [0; 8], 999, wanted));
        assert_eq!(listed.entries().unwrap().0[0].attributes.error, Some(Status::Access.number()));
        nix::mount::umount(&fixture.path("mounted")).unwrap();
        session.done(at_root().look_up(b"mounted"));
    });
    thread.join().unwrap();
}

#[test]
fn security_is_the_same_of_all() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("folder")).unwrap();
    let mut session = fixture.session();
    let folder = session.handle("folder");
    for (compound, operation) in [
        (at_root().security(b"folder"), Operation::SecInfo),
        (at(&folder).security_without_name(0), Operation::SecInfoNoName),
        (at(&folder).security_without_name(1), Operation::SecInfoNoName),
    ] {
        let answer = session.done(compound.clone());
        let flavors = answer.of(operation).unwrap().list(9, crate::xdr::Reader::u32).unwrap();
        assert_eq!(flavors, [1, 0], "AUTH_SYS before AUTH_NONE");
        assert_eq!(
            session.status(compound.get_handle()),
            Status::NoFileHandle,
            "there is no current file then"
        );
    }
    assert_eq!(session.status(at_root().security(b"none")), Status::NoEnt);
    assert_eq!(session.status(at_root().security_without_name(1)), Status::NoEnt);
    assert_eq!(session.status(at_root().security_without_name(2)), Status::BadXdr);
}
