//! What every operation answers in a wrong state: without a file, with a handle of a file that is gone, without a session; and what is not
//! served at all.

use super::*;
use crate::client::LockKind::Write;
use crate::client::{Claim, Connection, Values};
use crate::proto::{Attribute, Operation, share};

/// Every operation that is about the current file.
fn about_a_file() -> Vec<(Operation, Compound)> {
    let none = Values::default();
    let stateid = Stateid::ANONYMOUS;
    let compound = Compound::new;
    vec![
        (Operation::Access, compound().access(1)),
        (Operation::Close, compound().close(&stateid)),
        (Operation::Commit, compound().commit()),
        (Operation::Create, compound().create(2, b"x", &none)),
        (Operation::GetAttr, compound().get_attributes(only(Attribute::Size))),
        (Operation::GetFh, compound().get_handle()),
        (Operation::Link, compound().link(b"x")),
        (Operation::Lock, compound().lock(Write, (0, 1), &stateid)),
        (Operation::LockT, compound().lock_test(Write, (0, 1), b"p")),
        (Operation::LockU, compound().unlock((0, 1), &stateid)),
        (Operation::Lookup, compound().look_up(b"x")),
        (Operation::LookupP, compound().look_up_parent()),
        (Operation::NVerify, compound().verify(false, Bitmap::EMPTY, b"")),
        (Operation::Open, compound().open(&Open::to_read(b"x"))),
        (Operation::OpenDowngrade, compound().open_downgrade(&stateid, share::READ, 0)),
        (Operation::Read, compound().read(&stateid, 0, 1)),
        (Operation::ReadDir, compound().read_directory(0, [0; 8], 999, Bitmap::EMPTY)),
        (Operation::ReadLink, compound().read_link()),
        (Operation::Remove, compound().remove(b"x")),
        (Operation::Rename, compound().rename(b"x", b"y")),
        (Operation::SaveFh, compound().save()),
        (Operation::SecInfo, compound().security(b"x")),
        (Operation::SecInfoNoName, compound().security_without_name(0)),
        (Operation::SetAttr, compound().set_attributes(&stateid, &none)),
        (Operation::Verify, compound().verify(true, Bitmap::EMPTY, b"")),
        (Operation::Write, compound().write_bytes(&stateid, 0, 0, b"x")),
    ]
}

#[test]
fn without_a_file_there_is_nothing_to_do() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    for (operation, compound) in about_a_file() {
        assert_eq!(session.status(compound), Status::NoFileHandle, "{operation:?}");
    }
}

#[test]
fn without_a_session_there_is_nothing_to_do() {
    let fixture = Fixture::new();
    let mut connection = Connection::open(fixture.address()).unwrap();
    for (operation, compound) in about_a_file() {
        assert_eq!(connection.call(None, &compound).unwrap().status, Status::OpNotInSession, "{operation:?}");
    }
}

#[test]
fn stateids_that_are_none_are_bad() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, good) = session.open_to_write("a");
    let mut other = good.other;
    other[11] ^= 0x40;
    let bad = [
        Stateid { other, ..good },
        Stateid { other: [7; 12], ..good },
        Stateid { seqid: 5, other: [0; 12] },
        Stateid { seqid: 5, other: [0xff; 12] },
        Stateid { seqid: u32::MAX, other: [0; 12] },
        Stateid { seqid: good.seqid + 1, ..good },
        Stateid::CURRENT,
    ];
    for stateid in &bad {
        for compound in [
            at(&handle).close(stateid),
            at(&handle).open_downgrade(stateid, share::READ, 0),
            at(&handle).read(stateid, 0, 1),
            at(&handle).write_bytes(stateid, 0, 0, b"x"),
            at(&handle).set_attributes(stateid, &Values { size: Some(1), ..Values::default() }),
            at(&handle).lock(Write, (0, 1), stateid),
            at(&handle).lock_first(Write, false, (0, 1), stateid, b"p"),
            at(&handle).unlock((0, 1), stateid),
        ] {
            assert_eq!(session.status(compound), Status::BadStateid, "{stateid:?}");
        }
    }
    // Those of no state are good for I/O, and for nothing else.
    for compound in [
        at(&handle).close(&Stateid::ANONYMOUS),
        at(&handle).open_downgrade(&Stateid::BYPASS, share::READ, 0),
        at(&handle).unlock((0, 1), &Stateid::ANONYMOUS),
    ] {
        assert_eq!(session.status(compound), Status::BadStateid);
    }
}

#[test]
fn what_efs_does_not_serve_is_not_served() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), b"").unwrap();
    let mut session = fixture.session();
    for operation in [
        Operation::DelegPurge,
        Operation::DelegReturn,
        Operation::GetDeviceInfo,
        Operation::GetDeviceList,
        Operation::GetDirDelegation,
        Operation::LayoutCommit,
        Operation::LayoutGet,
        Operation::LayoutReturn,
        Operation::OpenAttr,
        Operation::OpenConfirm,
        Operation::ReleaseLockOwner,
        Operation::Renew,
        Operation::SetClientId,
        Operation::SetClientIdConfirm,
        Operation::SetSsv,
        Operation::WantDelegation,
    ] {
        let answer = session.call(at_root().raw(operation.number(), &[0; 64])).unwrap();
        assert_eq!((answer.status, answer.len()), (Status::NotSupp, 3), "{operation:?}");
    }
    for number in [0, 1, 2, 59, 75, 10044, u32::MAX] {
        assert_eq!(session.status(at_root().raw(number, &[0; 64])), Status::OpIllegal, "{number}");
    }
    let read = Open::to_read(b"a");
    for (open, status) in [
        (Open { deny: 1, ..read }, Status::NotSupp),
        (Open { deny: 3, ..read }, Status::NotSupp),
        (Open { deny: 4, ..read }, Status::Inval),
        (Open { access: 0, ..read }, Status::Inval),
        (Open { access: 5, ..read }, Status::Inval),
        (Open { claim: Claim::Other(6), ..read }, Status::NotSupp),
        (Open { claim: Claim::Other(7), ..read }, Status::BadXdr),
        (Open { claim: Claim::Previous, ..read }, Status::NoGrace),
        // That a delegation is wanted is a hint.
        (Open { access: share::READ | 0x400, ..read }, Status::Ok),
    ] {
        assert_eq!(session.status(at_root().open(&open)), status, "{open:?}");
    }
    assert_eq!(session.status(at_root().open_downgrade(&Stateid::ANONYMOUS, share::READ, 1)), Status::Inval);
}
