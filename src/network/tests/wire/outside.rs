//! The way out: reached, masqueraded, one way only, and leaving nothing behind.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::{self, HOST, NO_TRACES, OUTSIDE, World, eventually, run};
use network::{HostAccess, Namespace, StandaloneSpec};

const PORT: u16 = 7777;
/// For what must not arrive. A packet that does arrive takes a few milliseconds.
const SILENCE: Duration = Duration::from_millis(500);

fn listen(namespace: &Namespace) -> TcpListener {
    namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap().unwrap()
}

fn connect(namespace: &Namespace, to: Ipv4Addr, patience: Duration) -> std::io::Result<TcpStream> {
    namespace.run(|| TcpStream::connect_timeout(&SocketAddr::from((to, PORT)), patience)).unwrap()
}

#[test]
fn a_guest_reaches_the_outside_under_the_hosts_address() {
    let world = World::new();
    let (_network, guest) = world.start(world.spec());
    let server = listen(&world.outside);
    let mut client = connect(&guest.namespace, OUTSIDE, lab::PATIENCE).unwrap();
    let (mut served, peer) = server.accept().unwrap();
    assert_eq!(peer.ip(), HOST);
    let sent = vec![7; 1 << 20];
    let writer = std::thread::spawn(move || client.write_all(&sent).map(|()| sent));
    let mut received = Vec::new();
    served.read_to_end(&mut received).unwrap();
    assert_eq!(received, writer.join().unwrap().unwrap());
}

#[test]
fn nobody_outside_opens_a_connection_to_a_guest() {
    let world = World::new();
    let (network, guest) = world.start(world.spec());
    let _server = listen(&guest.namespace);
    // The way would be there: the guest's range by the host, and the transit range beyond it.
    let range = network.plan().vpc().to_string();
    run(&world.outside, "ip", &["route", "add", &range, "via", &HOST.to_string()]);
    run(&world.outside, "ip", &["route", "add", "169.254.128.0/31", "via", &HOST.to_string()]);
    let inner = Ipv4Addr::new(169, 254, 128, 1);
    run(&world.host, "ip", &["route", "add", &range, "via", &inner.to_string()]);
    assert!(connect(&world.outside, network.address(), SILENCE).is_err());
    assert!(connect(&world.outside, inner, SILENCE).is_err());
    assert!(connect(&world.host, network.address(), SILENCE).is_err());
    // And it is the rules that keep them out: the router itself gets through to the same server.
    connect(network.vpc(), network.address(), lab::PATIENCE).unwrap();
}

#[test]
fn a_guest_reaches_its_host_only_where_that_is_wanted() {
    let world = World::new();
    let _server = listen(&world.host);
    let (network, guest) = world.start(world.spec());
    assert!(connect(&guest.namespace, HOST, SILENCE).is_err());
    drop((network, guest));
    let (_network, guest) = world.start(StandaloneSpec { uplink: Some(HostAccess::Allowed), ..world.spec() });
    connect(&guest.namespace, HOST, lab::PATIENCE).unwrap();
}

#[test]
fn an_isolated_guest_reaches_nothing_and_changes_nothing() {
    let world = World::new();
    let _server = listen(&world.outside);
    let (_network, guest) = world.start(StandaloneSpec { uplink: None, ..world.spec() });
    assert!(connect(&guest.namespace, OUTSIDE, SILENCE).is_err());
    assert_eq!(world.traces(), NO_TRACES);
}

#[test]
fn an_address_that_no_instance_has_does_not_exist() {
    let world = World::new();
    let (_network, guest) = world.start(world.spec());
    let error = connect(&guest.namespace, Ipv4Addr::new(10, 0, 0, 77), lab::PATIENCE).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable);
}

#[test]
fn the_last_of_several_uplinks_leaves_the_host_as_it_was() {
    let world = World::new();
    assert_eq!(world.traces(), NO_TRACES);
    let server = listen(&world.outside);
    let (first, first_guest) = world.start(world.spec());
    let (_second, second_guest) = world.start(world.spec());
    for guest in [&first_guest, &second_guest] {
        connect(&guest.namespace, OUTSIDE, lab::PATIENCE).unwrap();
        server.accept().unwrap();
    }
    drop((first, first_guest));
    connect(&second_guest.namespace, OUTSIDE, lab::PATIENCE).unwrap();
    drop((_second, second_guest));
    assert_eq!(world.traces(), NO_TRACES);
}

#[test]
fn a_host_that_forwards_already_goes_on_forwarding() {
    let world = World::new();
    world.host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap().unwrap();
    let before = world.traces();
    drop(world.start(world.spec()));
    assert_eq!(world.traces(), before);
}

#[test]
fn forwarding_for_uplinks_makes_no_router_of_the_host() {
    let world = World::new();
    let third = Namespace::create().unwrap();
    let server = listen(&third);
    // A second network of the host, which the outside knows how to reach.
    let lan = Ipv4Addr::new(203, 0, 113, 2);
    lab::join(&world.host, "lan", "203.0.113.1/24", &third, "eth0", "203.0.113.2/24");
    run(&third, "ip", &["route", "add", "default", "via", "203.0.113.1"]);
    run(&world.outside, "ip", &["route", "add", "203.0.113.0/24", "via", &HOST.to_string()]);
    let (_network, guest) = world.start(world.spec());
    assert!(connect(&world.outside, lan, SILENCE).is_err());
    connect(&guest.namespace, lan, lab::PATIENCE).unwrap();
    assert_eq!(server.accept().unwrap().1.ip(), Ipv4Addr::new(203, 0, 113, 1));
}

/// Not a test: the process that the next one starts and kills. It ends with its standard input.
#[test]
#[ignore = "is run by another test, in a process of its own"]
fn a_process_with_a_network() {
    let folder = std::env::var_os("RESOLV_CONF").expect("the other test sets it");
    let publish = vec!["8080:80".parse().unwrap()];
    let spec = StandaloneSpec { publish, ..lab::spec(folder.into()) };
    let _network = network::Standalone::start(spec).unwrap();
    println!("{READY}");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

const READY: &str = "the network is up";

#[test]
fn what_a_killed_process_left_is_swept_by_the_next() {
    let world = World::new();
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "outside::a_process_with_a_network", "--ignored", "--nocapture"])
            .env("RESOLV_CONF", world.resolv_conf())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    };
    let mut process = world.host.run(start).unwrap().unwrap();
    let output = std::io::BufReader::new(process.stdout.take().unwrap());
    let is_ready = output.lines().any(|line| line.unwrap().contains(READY));
    let before = world.traces();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(is_ready && before.starts_with("1 links; ") && before.ends_with(": 2"), "{before}");

    // The kernel removes what is its own, and the port is free.
    eventually("the interface is gone", || world.traces().starts_with("0 links; "));
    assert!(world.traces().contains("table ip nimbo0"), "{}", world.traces());
    drop(world.publishing(&["8080:80"]));
    assert_eq!(world.traces(), NO_TRACES);
}

#[test]
fn a_guest_that_takes_another_address_is_heard_nowhere() {
    let world = World::new();
    let bind = |namespace: &Namespace, address: &str| {
        let socket = namespace.run(|| UdpSocket::bind((address, PORT))).unwrap().unwrap();
        socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        socket
    };
    let server = bind(&world.outside, "0.0.0.0");
    let (_network, guest) = world.start(world.spec());
    run(&guest.namespace, "ip", &["addr", "add", "10.0.0.99/32", "dev", "eth0"]);
    // In this order: were the first to pass, it would arrive before the second.
    for (address, word) in [("10.0.0.99", "stolen"), ("10.0.0.4", "own")] {
        bind(&guest.namespace, address).send_to(word.as_bytes(), (OUTSIDE, PORT)).unwrap();
    }
    let mut word = [0; 16];
    let length = server.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"own");
}

#[test]
fn a_firewall_that_drops_is_left_alone_and_named() {
    let world = World::new();
    let rules = "table ip filter {\n chain FORWARD {\n type filter hook forward priority 0; policy drop;\n }\n \
                 chain DOCKER-USER {\n }\n}\n";
    let file = world.folder.path().join("rules");
    std::fs::write(&file, rules).unwrap();
    run(&world.host, "nft", &["-f", file.to_str().unwrap()]);
    let before = run(&world.host, "nft", &["list", "table", "ip", "filter"]);
    let (network, guest) = world.start(world.spec());
    let [advice] = network.obstacles() else { panic!("one obstacle, not {:?}", network.obstacles()) };
    assert!(advice.contains("ip filter FORWARD") && advice.contains("DOCKER-USER"), "{advice}");
    assert!(connect(&guest.namespace, OUTSIDE, SILENCE).is_err());

    // The advice works, here in the words of nft.
    let _server = listen(&world.outside);
    for rule in ["iifname \"nimbo*\" accept", "oifname \"nimbo*\" ct state established,related accept"] {
        run(&world.host, "nft", &["insert", "rule", "ip", "filter", "FORWARD", rule]);
    }
    connect(&guest.namespace, OUTSIDE, lab::PATIENCE).unwrap();
    drop((network, guest));
    let (network, _guest) = world.start(world.spec());
    assert!(network.obstacles().is_empty());
    drop(network);
    run(&world.host, "nft", &["flush", "chain", "ip", "filter", "FORWARD"]);
    assert_eq!(run(&world.host, "nft", &["list", "table", "ip", "filter"]), before);
}
