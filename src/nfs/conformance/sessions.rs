//! EXCHANGE_ID, CREATE_SESSION, SEQUENCE, BIND_CONN_TO_SESSION, BACKCHANNEL_CTL, DESTROY_SESSION, DESTROY_CLIENTID, RECLAIM_COMPLETE,
//! TEST_STATEID, FREE_STATEID.

use super::*;
use crate::client::{Connection, LockKind};
use crate::proto::{Operation, exchange};

fn exchange_id(
    connection: &mut Connection,
    owner: &[u8],
    verifier: [u8; 8],
    flags: u32,
    uid: u32,
) -> Result<(u64, u32, u32), Status> {
    let answer =
        connection.call(Some(&user(uid)), &Compound::new().exchange_id(verifier, owner, flags)).unwrap();
    match answer.status {
        Status::Ok => {
            let mut result = answer.result(0);
            Ok((result.u64().unwrap(), result.u32().unwrap(), result.u32().unwrap()))
        }
        status => Err(status),
    }
}

fn create_session(
    connection: &mut Connection,
    client: u64,
    sequence: u32,
    uid: u32,
) -> Result<[u8; 16], Status> {
    let create = Compound::new().create_session(client, sequence, &Session::channel(2));
    let answer = connection.call(Some(&user(uid)), &create).unwrap();
    match answer.status {
        Status::Ok => Ok(answer.result(0).fixed().unwrap()),
        status => Err(status),
    }
}

#[test]
fn a_client_is_known_by_its_name_and_its_life() {
    let fixture = Fixture::new();
    let mut connection = Connection::open(fixture.address()).unwrap();
    let exchange_id = |connection: &mut Connection, verifier, flags, uid| {
        exchange_id(connection, b"one", verifier, flags, uid)
    };
    let (first, sequence, flags) = exchange_id(&mut connection, [1; 8], 0, 0).unwrap();
    assert_eq!((sequence, flags), (1, exchange::USE_NON_PNFS), "it is new");
    // Nobody has confirmed it: another one takes its place.
    let (second, ..) = exchange_id(&mut connection, [1; 8], 0, 0).unwrap();
    assert_ne!(first, second);
    assert_eq!(create_session(&mut connection, first, 1, 0), Err(Status::StaleClientId));
    assert_eq!(exchange_id(&mut connection, [1; 8], exchange::UPDATE_CONFIRMED, 0), Err(Status::NoEnt));
    assert_eq!(
        create_session(&mut connection, second, 1, 7),
        Err(Status::ClidInUse),
        "somebody else made it"
    );
    let session = create_session(&mut connection, second, 1, 0).unwrap();
    // It is the same one, as long as it lives.
    let (again, sequence, flags) = exchange_id(&mut connection, [1; 8], 0, 0).unwrap();
    assert_eq!((again, sequence, flags), (second, 2, exchange::USE_NON_PNFS | exchange::CONFIRMED));
    let update = |connection: &mut Connection, verifier, uid| {
        exchange_id(connection, verifier, exchange::UPDATE_CONFIRMED, uid)
    };
    assert_eq!(update(&mut connection, [1; 8], 0).unwrap().0, second);
    assert_eq!(update(&mut connection, [2; 8], 0), Err(Status::NotSame));
    assert_eq!(update(&mut connection, [1; 8], 7), Err(Status::Perm));
    // A new life: what the old one had goes when the new one is confirmed.
    let (third, ..) = exchange_id(&mut connection, [2; 8], 0, 0).unwrap();
    assert_ne!(third, second);
    let sequence = |session| Compound::new().sequence(session, 1, 0, 0, false);
    assert_eq!(connection.call(None, &sequence(session)).unwrap().status, Status::Ok);
    let of_third = create_session(&mut connection, third, 1, 0).unwrap();
    assert_eq!(connection.call(None, &sequence(session)).unwrap().status, Status::BadSession);
    assert_eq!(connection.call(None, &sequence(of_third)).unwrap().status, Status::Ok);
    assert_eq!(fixture.server.as_ref().unwrap().service().clients(), 1);
}

#[test]
fn a_name_in_use_is_not_given_to_somebody_else() {
    let fixture = Fixture::new();
    let mut session = fixture.session_of(b"one", root());
    let mut connection = Connection::open(fixture.address()).unwrap();
    session.open_to_write("a");
    assert_eq!(exchange_id(&mut connection, b"one", [1; 8], 0, 7), Err(Status::ClidInUse));
    let mut idle = fixture.session_of(b"two", root());
    exchange_id(&mut connection, b"two", [1; 8], 0, 7).unwrap();
    assert_eq!(idle.status(Compound::new()), Status::BadSession, "it had nothing to lose");
}

#[test]
fn what_exchange_id_does_not_know_is_refused() {
    let fixture = Fixture::new();
    let mut connection = Connection::open(fixture.address()).unwrap();
    for (flags, expected) in [(0x80, Status::Inval), (exchange::CONFIRMED, Status::Inval)] {
        assert_eq!(exchange_id(&mut connection, b"one", [1; 8], flags, 0), Err(expected));
    }
    for (protection, expected) in [(1, Status::Inval), (2, Status::EncrAlgUnsupp), (3, Status::BadXdr)] {
        let mut arguments = crate::xdr::Writer::new();
        arguments.fixed(&[1; 8]);
        arguments.opaque(b"one");
        arguments.u32(0);
        arguments.u32(protection);
        let compound = Compound::new().raw(Operation::ExchangeId.number(), arguments.as_bytes());
        assert_eq!(connection.call(None, &compound).unwrap().status, expected);
    }
}

#[test]
fn sessions_are_created_once_each_and_as_large_as_may_be() {
    let fixture = Fixture::new();
    let mut connection = Connection::open(fixture.address()).unwrap();
    let (client, ..) = exchange_id(&mut connection, b"one", [1; 8], 0, 0).unwrap();
    assert_eq!(create_session(&mut connection, client, 0, 0), Err(Status::SeqMisordered));
    assert_eq!(create_session(&mut connection, client, 2, 0), Err(Status::SeqMisordered));
    assert_eq!(create_session(&mut connection, client + 1, 1, 0), Err(Status::StaleClientId));
    let channel = |place: usize, value: u32| {
        let mut channel = Session::channel(2);
        channel[place] = value;
        channel
    };
    for (channel, expected) in [
        (channel(1, 100), Status::TooSmall),
        (channel(2, 100), Status::TooSmall),
        (channel(4, 0), Status::Inval),
        (channel(5, 0), Status::Inval),
    ] {
        let create = Compound::new().create_session(client, 1, &channel);
        assert_eq!(connection.call(None, &create).unwrap().status, expected);
    }
    let first = create_session(&mut connection, client, 1, 0).unwrap();
    assert_eq!(create_session(&mut connection, client, 1, 0), Ok(first), "it is told again");
    let second = create_session(&mut connection, client, 2, 0).unwrap();
    assert_ne!(first, second);
    assert_eq!(create_session(&mut connection, client, 1, 0), Err(Status::SeqMisordered));
    let create =
        Compound::new().create_session(client, 3, &[0, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX]);
    let answer = connection.call(Some(&user(0)), &create).unwrap().ok().unwrap();
    let mut result = answer.result(0);
    result.bytes(28).unwrap();
    let granted: Vec<_> = (0..5).map(|_| result.u32().unwrap()).collect();
    assert!(granted[0] < 2 << 20 && granted[1] < 2 << 20 && granted[2] <= 8192, "{granted:?}");
    assert_eq!(granted[3..], [64, 64]);
    // There is an end to it.
    let outcome: Vec<_> =
        (4..30).map(|sequence| create_session(&mut connection, client, sequence, 0)).collect();
    assert!(outcome.contains(&Err(Status::NoSpc)));
}

#[test]
fn each_request_is_done_once_and_answered_again() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let make = at_root().create(2, b"folder", &crate::client::Values::default());
    let request = session.next(1, true, make);
    let first = session.connection.call(Some(&root()), &request).unwrap();
    assert_eq!(first.status, Status::Ok);
    // Also over another connection, as after a broken one.
    for mut connection in
        [Connection::open(fixture.address()).unwrap(), Connection::open(fixture.address()).unwrap()]
    {
        let again = connection.call(Some(&root()), &request).unwrap();
        assert_eq!(again.record()[4..], first.record()[4..], "it was not done again");
    }
    let request = session.next(1, false, at_root().remove(b"folder"));
    session.connection.call(Some(&root()), &request).unwrap().ok().unwrap();
    let again = session.connection.call(Some(&root()), &request).unwrap();
    assert_eq!((again.status, again.len()), (Status::RetryUncachedRep, 2));
    // Also what failed.
    let request = session.next(1, true, at_root().remove(b"folder"));
    for _ in 0..2 {
        let answer = session.connection.call(Some(&root()), &request).unwrap();
        assert_eq!((answer.status, answer.len()), (Status::NoEnt, 3));
    }
}

#[test]
fn a_request_out_of_order_is_refused() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let id = session.id;
    let mut sequence = |id, sequence, slot, highest| {
        let compound = Compound::new().sequence(id, sequence, slot, highest, false);
        session.connection.call(None, &compound).unwrap().status
    };
    assert_eq!(sequence(id, 2, 1, 1), Status::SeqMisordered);
    assert_eq!(sequence(id, 1, 1, 1), Status::Ok);
    assert_eq!(sequence(id, 1, 1, 1), Status::Ok, "a request of nothing but SEQUENCE is done again");
    assert_eq!(sequence(id, 3, 1, 1), Status::SeqMisordered);
    assert_eq!(sequence(id, 0, 1, 1), Status::SeqMisordered);
    assert_eq!(sequence(id, 1, 4, 0), Status::BadSlot);
    assert_eq!(sequence(id, 1, 3, 4), Status::BadHighSlot);
    assert_eq!(sequence([9; 16], 1, 0, 0), Status::BadSession);
}

#[test]
fn operations_are_where_they_may_be() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let mut connection = Connection::open(fixture.address()).unwrap();
    let mut outside = |compound: Compound| connection.call(None, &compound).unwrap().status;
    assert_eq!(outside(at_root()), Status::OpNotInSession);
    assert_eq!(outside(Compound::new().raw(99, b"")), Status::OpNotInSession);
    assert_eq!(outside(Compound::new().destroy_client(7).put_root()), Status::NotOnlyOp);
    assert_eq!(outside(Compound::new().bind_connection(session.id, 1).put_root()), Status::NotOnlyOp);
    assert_eq!(outside(Compound::new()), Status::Ok, "nothing is asked for");
    assert_eq!(session.status(at_root().sequence(session.id, 1, 1, 1, false)), Status::SequencePos);
    assert_eq!(session.status(Compound::new().bind_connection(session.id, 1)), Status::NotOnlyOp);
    assert_eq!(session.status(Compound::new().destroy_session(session.id).put_root()), Status::NotOnlyOp);
    assert_eq!(session.status(Compound::new().raw(99, b"")), Status::OpIllegal);
    let many = (0..16).fold(Compound::new(), |compound, _| compound.put_root());
    assert_eq!(session.status(many), Status::TooManyOps);
}

#[test]
fn connections_are_bound_and_sessions_destroyed() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let mut connection = Connection::open(fixture.address()).unwrap();
    for (asked, bound) in [(1, 1), (2, 2), (3, 3), (7, 3)] {
        let answer =
            connection.call(None, &Compound::new().bind_connection(session.id, asked)).unwrap().ok().unwrap();
        let mut result = answer.result(0);
        assert_eq!((result.fixed(), result.u32()), (Ok(session.id), Ok(bound)));
    }
    let mut outside = |compound: Compound| connection.call(None, &compound).unwrap().status;
    assert_eq!(outside(Compound::new().bind_connection(session.id, 4)), Status::BadXdr);
    assert_eq!(outside(Compound::new().bind_connection([9; 16], 1)), Status::BadSession);
    session.done(Compound::new().backchannel());
    let (handle, stateid) = session.open_to_write("a");
    assert_eq!(outside(Compound::new().destroy_client(session.client)), Status::ClientIdBusy);
    session.done(at(&handle).close(&stateid));
    assert_eq!(
        outside(Compound::new().destroy_client(session.client)),
        Status::ClientIdBusy,
        "it has a session"
    );
    assert_eq!(outside(Compound::new().destroy_session([9; 16])), Status::BadSession);
    session.done(Compound::new().destroy_session(session.id));
    assert_eq!(session.status(Compound::new()), Status::BadSession);
    assert_eq!(outside(Compound::new().destroy_client(session.client)), Status::Ok);
    assert_eq!(outside(Compound::new().destroy_client(session.client)), Status::StaleClientId);
}

#[test]
fn nothing_is_taken_before_all_was_taken_back() {
    let fixture = Fixture::new();
    let owner = Owner { name: b"one", verifier: [1; 8] };
    let mut session = Session::open_to_reclaim(fixture.address(), owner, root(), 2).unwrap();
    assert_eq!(session.status(at_root().open(&Open::to_write(b"a"))), Status::Grace);
    session.done(at_root().reclaim_complete(true));
    assert_eq!(session.status(Compound::new().reclaim_complete(true)), Status::NoFileHandle);
    assert_eq!(
        session.status(at_root().open(&Open::to_write(b"a"))),
        Status::Grace,
        "that was for one file system"
    );
    session.done(Compound::new().reclaim_complete(false));
    session.open_to_write("a");
    assert_eq!(session.status(Compound::new().reclaim_complete(false)), Status::CompleteAlready);
}

#[test]
fn stateids_are_tested_and_freed() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, open) = session.open_to_write("a");
    let lock = at(&handle).lock_first(LockKind::Write, false, (0, 10), &open, b"locker");
    let locked = session.done(lock).stateid(Operation::Lock).unwrap();
    let unlocked = session.done(at(&handle).unlock((0, 10), &locked)).stateid(Operation::LockU).unwrap();
    let bad = Stateid { other: [9; 12], ..open };
    let mut tested = |stateids: &[Stateid]| {
        let answer = session.done(Compound::new().test_stateids(stateids));
        let statuses = answer.of(Operation::TestStateid).unwrap().list(9, crate::xdr::Reader::u32).unwrap();
        statuses.into_iter().map(|status| Status::from_number(status).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(
        tested(&[open, locked, unlocked, bad]),
        [Status::Ok, Status::OldStateid, Status::Ok, Status::BadStateid]
    );
    assert_eq!(session.status(Compound::new().free_stateid(&open)), Status::LocksHeld);
    assert_eq!(session.status(Compound::new().free_stateid(&bad)), Status::BadStateid);
    let again =
        session.done(at(&handle).lock(LockKind::Read, (5, 5), &unlocked)).stateid(Operation::Lock).unwrap();
    assert_eq!(session.status(Compound::new().free_stateid(&again)), Status::LocksHeld);
    let unlocked = session.done(at(&handle).unlock((0, u64::MAX), &again)).stateid(Operation::LockU).unwrap();
    session.done(Compound::new().free_stateid(&unlocked));
    assert_eq!(session.status(at(&handle).unlock((0, 10), &unlocked)), Status::BadStateid);
    session.done(at(&handle).close(&open));
}

#[test]
fn answers_that_do_not_fit_are_not_begun() {
    let fixture = Fixture::new();
    let mut session = fixture.session();
    let (handle, stateid) = session.open_to_write("a");
    session.done(at(&handle).write_bytes(&stateid, 0, 0, &vec![7; 100_000]));
    let (mut connection, who) = (Connection::open(fixture.address()).unwrap(), root());
    let create = Compound::new().create_session(session.client, 2, &[0, 2048, 1024, 600, 16, 2]);
    let id = connection.call(Some(&who), &create).unwrap().ok().unwrap().result(0).fixed().unwrap();
    let sequence = std::cell::Cell::new(0);
    let mut status = |is_kept, compound: Compound| {
        sequence.set(sequence.get() + 1);
        let compound = compound.after_sequence(id, sequence.get(), 0, is_kept);
        connection.call(Some(&who), &compound).unwrap().status
    };
    assert_eq!(status(false, at(&handle).read(&stateid, 0, 950)), Status::RepTooBig);
    assert_eq!(status(false, at(&handle).read(&stateid, 0, 700)), Status::Ok);
    assert_eq!(status(true, at(&handle).read(&stateid, 0, 700)), Status::RepTooBigToCache);
    assert_eq!(status(true, at(&handle).read(&stateid, 0, 300)), Status::Ok);
    assert_eq!(
        status(true, at(&handle).read(&stateid, 0, 300).put_root().remove(b"a")),
        Status::RepTooBigToCache
    );
    assert!(fixture.path("a").exists());
    assert_eq!(status(false, at(&handle).write_bytes(&stateid, 0, 0, &[7; 2048])), Status::ReqTooBig);
    // The slot is where it was.
    sequence.set(sequence.get() - 1);
    assert_eq!(status(false, at(&handle).write_bytes(&stateid, 0, 0, &[7; 1024])), Status::Ok);
}
