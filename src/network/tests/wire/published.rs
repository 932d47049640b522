//! Ports of the host that lead into the guest.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};

use network::{Error, Namespace, Standalone, StandaloneSpec};

use crate::lab::{self, Guest, HOST, PATIENCE, World};

fn connect(host: &Namespace, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = host.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn listen(guest: &Guest, port: u16) -> TcpListener {
    guest.namespace.run(|| TcpListener::bind(("0.0.0.0", port))).unwrap().unwrap()
}

fn first(network: &Standalone) -> SocketAddr {
    network.published()[0].listen
}

#[test]
fn each_direction_of_a_connection_ends_by_itself() {
    let world = World::new();
    let (network, guest) = world.publishing(&["0:80"]);
    let server = listen(&guest, 80);
    let mut client = connect(&world.host, first(&network)).unwrap();
    let (mut served, peer) = server.accept().unwrap();
    assert_eq!(peer.ip(), network.plan().router());

    // The client has said all, and still hears the whole answer.
    let question = vec![1; 1 << 20];
    let asked = question.len();
    let guest_side = std::thread::spawn(move || {
        let mut received = Vec::new();
        served.read_to_end(&mut received).unwrap();
        served.write_all(&vec![2; 3 << 20]).unwrap();
        received.len()
    });
    client.write_all(&question).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(guest_side.join().unwrap(), asked);
    assert_eq!(answer, vec![2; 3 << 20]);
}

#[test]
fn a_port_that_the_guest_does_not_serve_resets_the_connection() {
    let world = World::new();
    let (network, _guest) = world.publishing(&["0:81"]);
    let outcome = connect(&world.host, first(&network)).and_then(|mut client| client.read(&mut [0]));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_by_the_guest_is_passed_on() {
    let world = World::new();
    let (network, guest) = world.publishing(&["0:80"]);
    let server = listen(&guest, 80);
    let mut client = connect(&world.host, first(&network)).unwrap();
    let (served, _) = server.accept().unwrap();
    // Closing with something unread resets.
    client.write_all(b"unread").unwrap();
    served.peek(&mut [0]).unwrap();
    drop(served);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_client_can_come_before_the_guest_is_up() {
    let world = World::new();
    let (network, guest) = world.publishing(&["0:80"]);
    lab::ip(&guest.namespace, "link set eth0 down");
    let mut client = connect(&world.host, first(&network)).unwrap();
    let server = listen(&guest, 80);
    lab::ip(&guest.namespace, "link set eth0 up");
    lab::ip(&guest.namespace, &format!("route add default via {}", network.plan().router()));
    server.accept().unwrap().0.write_all(b"up").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "up");
}

#[test]
fn each_client_of_a_udp_port_gets_its_own_answers() {
    let world = World::new();
    let (network, guest) = world.publishing(&["0:5353/udp"]);
    let server = guest.namespace.run(|| UdpSocket::bind("0.0.0.0:5353")).unwrap().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = || {
        let socket = world.host.run(|| UdpSocket::bind("127.0.0.1:0")).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(first(&network)).unwrap();
        socket
    };
    let clients = [client(), client()];
    let mut buffer = [0; 16];
    for round in 0..3 {
        for (number, client) in (0..).zip(&clients) {
            client.send(&[round, number]).unwrap();
        }
        for _ in &clients {
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..length], from).unwrap();
        }
        for (number, client) in (0..).zip(&clients) {
            assert_eq!(client.recv(&mut buffer).unwrap(), 2);
            assert_eq!(buffer[..2], [round, number]);
        }
    }
}

#[test]
fn a_port_is_published_where_it_was_asked_for() {
    let world = World::new();
    let (network, guest) = world.publishing(&["0:80", "0.0.0.0:0:80"]);
    let _server = listen(&guest, 80);
    let [local, open] = network.published() else { panic!("two ports") };
    assert!(connect(&world.host, local.listen).is_ok());
    let local_from_outside = SocketAddr::from((HOST, local.listen.port()));
    assert_eq!(connect(&world.outside, local_from_outside).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(connect(&world.outside, SocketAddr::from((HOST, open.listen.port()))).is_ok());
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_left() {
    let world = World::new();
    let _taken = world.host.run(|| TcpListener::bind("127.0.0.1:8080")).unwrap().unwrap();
    let spec = StandaloneSpec { publish: vec!["8080:80".parse().unwrap()], ..world.spec() };
    let error = world.host.run(|| Standalone::start(spec)).unwrap().unwrap_err();
    assert!(matches!(error, Error::PortInUse { address } if address.port() == 8080), "{error}");
    assert_eq!(world.traces(), lab::NO_TRACES);
}
