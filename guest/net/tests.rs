//! The client against a server of the crate dhcproto, over a real link: a veth pair between two network namespaces
//! that the test makes. Needs root and the command `ip`.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use dhcproto::v4::{self, DhcpOption, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::gettid;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 9);

fn ip(command: &str) -> String {
    let output = Command::new("ip").args(command.split(' ')).output().expect("ip, of the package iproute2");
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A namespace lives as long as the thread that made it.
fn enter_new_namespace() -> String {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: these tests need root");
    format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())
}

/// Answers until the other side is gone. Leases last for `time` seconds; what it was asked goes to `seen`.
fn serve(
    time: u32,
    namespace: &Sender<String>,
    link_is_there: &Receiver<()>,
    seen: &Sender<v4::MessageType>,
) {
    namespace.send(enter_new_namespace()).unwrap();
    link_is_there.recv_timeout(LIMIT).unwrap();
    ip("link set lo up");
    ip("link set srv0 up");
    ip("addr add 10.7.0.1/24 dev srv0");
    let socket = UdpSocket::bind(("0.0.0.0", SERVER_PORT)).unwrap();
    setsockopt(&socket, sockopt::Broadcast, &true).unwrap();
    setsockopt(&socket, sockopt::BindToDevice, &"srv0".into()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let request = v4::Message::decode(&mut Decoder::new(&buffer[..length])).unwrap();
        let kind = request.opts().msg_type().unwrap();
        let answer = answer(&request, kind, time).to_vec().unwrap();
        let to = if from.ip().is_unspecified() { (Ipv4Addr::BROADCAST, CLIENT_PORT).into() } else { from };
        if seen.send(kind).is_err() {
            return;
        }
        socket.send_to(&answer, to).unwrap();
    }
}

fn answer(request: &v4::Message, kind: v4::MessageType, time: u32) -> v4::Message {
    let any = Ipv4Addr::UNSPECIFIED;
    let mut reply = v4::Message::new_with_id(request.xid(), any, CLIENT, any, any, &request.chaddr()[..6]);
    reply.set_opcode(v4::Opcode::BootReply);
    let kind = match kind {
        v4::MessageType::Discover => v4::MessageType::Offer,
        _ => v4::MessageType::Ack,
    };
    // As the network of nimbo does it: alone on the link, and a gateway in no network of ours.
    let routes = vec![32, 10, 7, 0, 1, 0, 0, 0, 0, 0, 10, 7, 0, 1];
    for option in [
        DhcpOption::MessageType(kind),
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::SubnetMask(Ipv4Addr::BROADCAST),
        DhcpOption::AddressLeaseTime(time),
        DhcpOption::DomainNameServer(vec![Ipv4Addr::new(10, 7, 0, 2)]),
        DhcpOption::DomainName("ec2.internal".into()),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::Unknown(v4::UnknownOption::new(OptionCode::from(121), routes)),
    ] {
        reply.opts_mut().insert(option);
    }
    reply
}

/// A client in a namespace of its own, joined to a server by a link that is made after the client was opened.
fn with_link(time: u32, check: fn(&mut Network, &Receiver<v4::MessageType>, &Path)) {
    let client = thread::spawn(move || {
        let here = enter_new_namespace();
        let (namespace, namespace_of_server) = channel();
        let (tell_link, link_is_there) = channel();
        let (seen, is_seen) = channel();
        let server = thread::spawn(move || serve(time, &namespace, &link_is_there, &seen));
        let there = namespace_of_server.recv_timeout(LIMIT).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        let mut network = Network::open(7, &resolv_conf, |link| link.name == "cli0").unwrap();
        network.refresh().unwrap();
        assert!(network.interfaces.is_empty());
        // From a third place, so that neither end is made where it is not wanted.
        assert_ne!(here, there);
        ip(&format!("link add cli0 mtu 1500 type veth peer name srv0 netns {there}"));
        tell_link.send(()).unwrap();
        check(&mut network, &is_seen, &resolv_conf);
        ip("link del cli0");
        let deadline = Instant::now() + LIMIT;
        while !network.interfaces.is_empty() {
            assert!(Instant::now() < deadline, "the interface was not given up");
            network.turn(Some(deadline)).unwrap();
        }
        drop((network, is_seen));
        drop(server);
    });
    client.join().unwrap();
}

fn turn_until(network: &mut Network, mut done: impl FnMut(&Network) -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done(network) {
        assert!(Instant::now() < deadline, "timed out");
        network.turn(Some(deadline)).unwrap();
    }
}

#[test]
fn an_interface_that_appears_is_configured() {
    with_link(3600, |network, _seen, resolv_conf| {
        turn_until(network, Network::is_up);
        let address = ip("-4 -o addr show dev cli0");
        assert!(address.contains("inet 10.7.0.9/32"), "{address}");
        assert!(ip("link show dev cli0").contains("mtu 1400"));
        let routes = ip("-4 route show");
        assert!(routes.contains("default via 10.7.0.1 dev cli0 proto dhcp"), "{routes}");
        assert!(routes.contains("10.7.0.1 dev cli0 proto dhcp scope link"), "{routes}");
        let resolv = std::fs::read_to_string(resolv_conf).unwrap();
        assert_eq!(resolv, "search ec2.internal\nnameserver 10.7.0.2\n");
        // Real packets flow both ways, through the route that was set.
        let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
        socket.connect((SERVER, 1)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.send(b"x").unwrap();
        let refused = socket.recv(&mut [0]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the server's host answers");
    });
}

#[test]
fn a_lease_is_renewed_by_the_address_it_is_for() {
    with_link(4, |network, seen, _resolv_conf| {
        let mut kinds = Vec::new();
        // Discover, request; and two renewals, each of which comes after half of four seconds.
        turn_until(network, |_| {
            kinds.extend(seen.try_iter());
            kinds.len() >= 4
        });
        use v4::MessageType::{Discover, Request};
        assert_eq!(kinds[..4], [Discover, Request, Request, Request]);
        turn_until(network, |network| network.interfaces.values().all(|i| !i.client.is_waiting()));
        assert!(network.is_up());
    });
}
