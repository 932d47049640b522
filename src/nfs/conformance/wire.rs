//! What comes that is no request, or cut, or too large; and what the server has when nobody asks.

use std::time::Instant;

use super::*;
use crate::client::{ClientError, Connection, Values, write_call};
use crate::proto::{Attribute, Operation};

#[test]
fn a_server_can_be_asked_whether_it_is_there() {
    let fixture = Fixture::new();
    Connection::open(fixture.address()).unwrap().null().unwrap();
}

#[test]
fn other_versions_are_refused() {
    let fixture = Fixture::new();
    let mut connection = Connection::open(fixture.address()).unwrap();
    for minor in [0, 2, 99] {
        let answer = connection.call(None, &at_root().of_version(minor)).unwrap();
        assert_eq!((answer.status, answer.len()), (Status::MinorVersMismatch, 0));
    }
}

#[test]
fn what_is_cut_is_told_where_it_is_cut() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    // Each operation, with nothing of its arguments, and with a part of them.
    for operation in Operation::ALL {
        let answer = session.call(at_root().raw(operation.number(), b"")).unwrap();
        assert_eq!(answer.len(), 3.min(answer.len()));
        let has_none = matches!(
            operation,
            Operation::GetFh
                | Operation::LookupP
                | Operation::PutPubFh
                | Operation::PutRootFh
                | Operation::ReadLink
                | Operation::RestoreFh
                | Operation::SaveFh
        );
        let is_refused = matches!(answer.status, Status::NotSupp | Status::OpIllegal | Status::SequencePos);
        assert!(
            has_none || is_refused || answer.status == Status::BadXdr,
            "{operation:?}: {:?}",
            answer.status
        );
    }
    // More is promised than there is.
    let mut promised = session.next(0, false, at_root());
    promised = promised.raw(Operation::Lookup.number(), &[0, 0, 0, 9, b'a']);
    assert_eq!(session.connection.call(None, &promised).unwrap().status, Status::BadXdr);
}

#[test]
fn arguments_that_cannot_be_decoded_at_all_are_garbage() {
    let fixture = Fixture::new();
    let mut connection = Connection::open(fixture.address()).unwrap();
    let mut record = crate::xdr::Writer::new();
    record.u32(0);
    crate::rpc::call(&mut record, 7, true, None);
    record.u32(u32::MAX);
    record.patch(0, 1 << 31 | u32::try_from(record.len() - 4).unwrap());
    connection.send_bytes(record.as_bytes()).unwrap();
    let answer = connection.receive_record().unwrap();
    assert_eq!(answer[20..], [0, 0, 0, 4], "GARBAGE_ARGS");
    connection.null().unwrap();
}

#[test]
fn who_does_not_speak_rpc_is_left() {
    let fixture = Fixture::new();
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0x80, 0, 0, 4, 1, 2, 3, 4], &[0xff; 64]] {
        let mut connection = Connection::open(fixture.address()).unwrap();
        connection.send_bytes(bytes).unwrap();
        assert!(matches!(connection.receive(), Err(ClientError::Connection(_))));
    }
    Connection::open(fixture.address()).unwrap().null().unwrap();
}

#[test]
fn requests_are_answered_in_their_order_however_many_wait() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a"), vec![7; 200_000]).unwrap();
    let mut session = fixture.session();
    let handle = session.handle("a");
    let (sender, receiver) = (root(), &mut session);
    for number in 0..3_u32 {
        let read = at(&handle).read(&Stateid::ANONYMOUS, u64::from(number), 100_000);
        let compound = receiver.next(number, false, read);
        receiver.connection.send(Some(&sender), Some(&compound)).unwrap();
    }
    for number in 0..3 {
        let answer = receiver.connection.receive().unwrap().ok().unwrap();
        assert_eq!(answer.bytes().unwrap().1.len(), 100_000);
        assert_eq!(answer.result(0).bytes(24).unwrap()[23], number, "the slot");
    }
}

#[test]
fn only_what_waits_for_the_disk_steps_aside() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    let service = fixture.server.as_ref().unwrap().service();
    let mut steps_aside = |compound: Compound| {
        let compound = session.next(1, false, compound);
        let mut record = crate::xdr::Writer::new();
        write_call(&mut record, 1, Some(&root()), Some(&compound));
        let (mut count, mut out) = (0, crate::xdr::Writer::new());
        let mut connection = crate::service::Connection::default();
        service.answer(&mut connection, record.as_bytes(), &mut out, &mut || count += 1).unwrap();
        count > 0
    };
    for stable in [1, 2] {
        assert!(steps_aside(at(&handle).write_bytes(&stateid, 0, stable, b"x")));
    }
    assert!(steps_aside(at(&handle).commit()));
    let values = Values { mode: Some(0o600), ..Values::default() };
    assert!(steps_aside(at(&handle).set_attributes(&stateid, &values)));
    assert!(steps_aside(at_root().create(2, b"b", &values)));
    assert!(steps_aside(at_root().open(&Open::to_write(b"c"))));
    assert!(steps_aside(at_root().save().rename(b"b", b"d")));
    assert!(steps_aside(at_root().remove(b"d")));
    assert!(!steps_aside(at(&handle).write_bytes(&stateid, 0, 0, b"x").read(&stateid, 0, 1)));
    assert!(!steps_aside(at_root().look_up(b"a").get_attributes(only(Attribute::Size)).access(1)));
    assert!(!steps_aside(at_root().open(&Open::to_write(b"a")).close(&Stateid::CURRENT)));
}

#[test]
fn requests_that_wait_for_the_disk_keep_no_others() {
    let fixture = Fixture::new();
    let owner = Owner { name: b"one", verifier: [1; 8] };
    let mut session = Session::open(fixture.address(), owner, root(), 32).unwrap();
    let (handle, stateid) = session.open_to_write("a");
    for round in 0..20_u8 {
        for slot in 0..32_u32 {
            let compound = match slot % 4 {
                0 => at(&handle).write_bytes(&stateid, u64::from(slot), 2, &[round]),
                1 => at(&handle).commit(),
                2 => at_root().create(2, format!("{round}-{slot}").as_bytes(), &Values::default()),
                _ => at(&handle).read(&stateid, 0, 1),
            };
            let compound = session.next(slot, slot % 4 == 2, compound);
            session.connection.send(Some(&root()), Some(&compound)).unwrap();
        }
        // In whatever order: each slot is answered once.
        let mut slots = Vec::new();
        for _ in 0..32 {
            let answer = session.connection.receive().unwrap().ok().unwrap();
            let mut sequence = answer.result(0);
            sequence.bytes(20).unwrap();
            slots.push(sequence.u32().unwrap());
        }
        slots.sort_unstable();
        assert_eq!(slots, (0..32).collect::<Vec<_>>());
    }
    assert_eq!(std::fs::read_dir(&fixture.spec.folder).unwrap().count(), 1 + 20 * 8);
}

#[test]
fn a_server_ends_with_its_connections_and_frees_its_address() {
    let mut fixture = Fixture::new();
    let mut connections: Vec<_> = (0..20).map(|_| Connection::open(fixture.address()).unwrap()).collect();
    connections.iter_mut().for_each(|connection| connection.null().unwrap());
    let started = Instant::now();
    fixture.server = None;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(connections.iter_mut().all(|connection| connection.null().is_err()));
}
