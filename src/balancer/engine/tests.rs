use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::*;

/// The next completions, waited for.
fn next(ring: &mut Ring) -> Vec<Completion> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut completions = Vec::new();
    while completions.is_empty() {
        assert!(Instant::now() < deadline, "nothing came");
        ring.wait(Duration::from_millis(100), &mut completions).unwrap();
    }
    completions
}

fn pair() -> (TcpStream, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (theirs, Socket::new(OwnedFd::from(listener.accept().unwrap().0)))
}

fn received(ring: &mut Ring) -> Buffer {
    match next(ring).pop().unwrap().outcome {
        Outcome::Received(Ok(Some(buffer))) => buffer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_received_is_sent_on_and_its_memory_used_again() {
    let mut ring = Ring::new().unwrap();
    let (mut theirs, socket) = pair();
    // More often than there are buffers.
    for round in 0..3000_u32 {
        ring.receive(&socket, round % 2 == 0, 1);
        theirs.write_all(&round.to_le_bytes()).unwrap();
        let buffer = received(&mut ring);
        assert_eq!(ring.bytes(&buffer), round.to_le_bytes());
        ring.send(&socket, Data::Received(buffer, 1..3), 2);
        let Completion { token: 2, outcome: Outcome::Sent(Ok(()), Data::Received(buffer, _)) } =
            next(&mut ring).pop().unwrap()
        else {
            panic!("it was not sent")
        };
        let mut echo = [0; 2];
        theirs.read_exact(&mut echo).unwrap();
        assert_eq!(echo, round.to_le_bytes()[1..3]);
        ring.give_back(buffer);
    }
}

#[test]
fn connections_are_accepted_made_and_ended() {
    let mut ring = Ring::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    ring.accept(&listener, 7);
    for _ in 0..3 {
        let _theirs = TcpStream::connect(address).unwrap();
        assert!(matches!(
            next(&mut ring).pop(),
            Some(Completion { token: 7, outcome: Outcome::Accepted(Ok(_)) })
        ));
    }
    let ours = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    );
    let ours = Socket::new(ours.unwrap());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    ring.connect(&ours, other.local_addr().unwrap(), 8);
    assert!(matches!(
        next(&mut ring).pop(),
        Some(Completion { token: 8, outcome: Outcome::Connected(Ok(())) })
    ));
    drop(other.accept().unwrap());
    ring.receive(&ours, true, 9);
    assert_eq!(received(&mut ring).len(), 0);
    ring.send(&ours, Data::Bytes(b"nobody".to_vec()), 10);
    next(&mut ring);
    ring.send(&ours, Data::Bytes(b"hears".to_vec()), 11);
    assert!(matches!(next(&mut ring).pop().unwrap().outcome, Outcome::Sent(Err(_), _)));
}

#[test]
fn what_is_posted_comes_at_once_and_what_is_ones_own_is_sent_as_what_was_received() {
    let mut ring = Ring::new().unwrap();
    let (mut theirs, socket) = pair();
    ring.receive(&socket, true, 1);
    ring.post(7);
    ring.post(8);
    let mut completions = Vec::new();
    ring.wait(Duration::from_secs(60), &mut completions).unwrap();
    let tokens: Vec<u64> = completions.iter().map(|completion| completion.token).collect();
    assert!(tokens == [7, 8] && completions.iter().all(|one| matches!(one.outcome, Outcome::Posted)));
    let plain = Buffer::from(b"plain text".to_vec());
    assert_eq!((plain.len(), Buffer::END.len()), (10, 0));
    let data = ring.keep(plain, 6..10);
    assert_eq!(ring.data(&data), b"text");
    ring.send(&socket, data, 2);
    let Completion { token: 2, outcome: Outcome::Sent(Ok(()), data) } = next(&mut ring).pop().unwrap() else {
        panic!("it was not sent")
    };
    let mut text = [0; 4];
    theirs.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"text");
    ring.let_go(data);
    assert!(ring.spare().is_empty());
}

#[test]
fn when_all_memory_is_taken_that_is_said() {
    let mut ring = Ring::new().unwrap();
    let (mut theirs, socket) = pair();
    let mut taken = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline);
        theirs.write_all(b"x").unwrap();
        ring.receive(&socket, false, 1);
        match next(&mut ring).pop().unwrap().outcome {
            Outcome::Received(Ok(Some(buffer))) => taken.push(buffer),
            Outcome::Received(Ok(None)) => break,
            other => panic!("{other:?}"),
        }
    }
    ring.give_back(taken.pop().unwrap());
    ring.receive(&socket, false, 1);
    assert_eq!(received(&mut ring).len(), 1);
}

#[test]
fn a_ring_ends_with_operations_under_way() {
    let mut ring = Ring::new().unwrap();
    let (theirs, socket) = pair();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    ring.accept(&listener, 1);
    ring.receive(&socket, true, 2);
    ring.send(&socket, Data::Bytes(vec![0; 64 << 20]), 3);
    ring.wait(Duration::ZERO, &mut Vec::new()).unwrap();
    let began = Instant::now();
    drop(ring);
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(theirs);
}
