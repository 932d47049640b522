//! What a guest finds on its network: an address by DHCP, neighbours by ARP, names, metadata's socket.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use network::{METADATA, Namespace, RESOLVER, Standalone, StandaloneSpec, Tap};

use crate::lab::{self, Guest, MAC, PATIENCE, World, attempt, ip, run, write_executable};

/// A network and a guest that has no address yet.
fn unnumbered(world: &World) -> (Standalone, Guest) {
    let spec = world.spec();
    let mut network = world.host.run(|| Standalone::start(spec)).unwrap().unwrap();
    let guest = Guest::behind(&mut network);
    (network, guest)
}

/// Runs a DHCP client whose script writes down its environment, and reads that.
fn environment_after(world: &World, guest: &Guest, client: impl Fn(&str) -> Vec<String>) -> String {
    let (script, environment) = (world.folder.path().join("script"), world.folder.path().join("environment"));
    let event = "${reason:-$1}";
    let text = format!(
        "#!/bin/sh\nreason={event}\ncase $reason in BOUND|REBOOT|bound) env > {0}.new; mv {0}.new {0};; esac\n",
        environment.display()
    );
    write_executable(&script, &text);
    let arguments = client(script.to_str().unwrap());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    run(&guest.namespace, arguments[0], &arguments[1..]);
    fs::read_to_string(environment).unwrap()
}

fn assert_has(environment: &str, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let line = environment.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        // dhclient quotes some of its values.
        let found = line.map(|value| value.trim_matches(['\'', '"']).trim());
        assert_eq!(found, Some(*value), "{name} in:\n{environment}");
    }
}

#[test]
fn busyboxs_client_is_given_what_an_instance_on_aws_is_given() {
    let world = World::new();
    let (_network, guest) = unnumbered(&world);
    let client = |script: &str| {
        let command = format!("udhcpc -i eth0 -f -q -n -t 10 -T 1 -O mtu -s {script}");
        command.split(' ').map(str::to_owned).collect()
    };
    let environment = environment_after(&world, &guest, client);
    assert_has(
        &environment,
        &[
            ("ip", "10.0.0.4"),
            ("mask", "20"),
            ("router", "10.0.0.1"),
            ("serverid", "10.0.0.1"),
            ("dns", "10.0.0.2"),
            ("hostname", "ip-10-0-0-4"),
            ("domain", "ec2.internal"),
            ("mtu", "1500"),
            ("lease", "3600"),
        ],
    );
}

#[test]
fn dhclient_binds_remembers_and_releases() {
    let world = World::new();
    let (_network, guest) = unnumbered(&world);
    let folder = world.folder.path().to_owned();
    let client = |script: &str| {
        let files = format!("-lf {0}/leases -pf {0}/pid", folder.display());
        let command = format!("dhclient -4 -1 -v {files} -sf {script} eth0");
        command.split(' ').map(str::to_owned).collect()
    };
    let stop =
        || run(&guest.namespace, "dhclient", &["-x", "-pf", folder.join("pid").to_str().unwrap(), "eth0"]);
    let environment = environment_after(&world, &guest, client);
    assert_has(
        &environment,
        &[
            ("reason", "BOUND"),
            ("new_ip_address", "10.0.0.4"),
            ("new_subnet_mask", "255.255.240.0"),
            ("new_routers", "10.0.0.1"),
            ("new_domain_name_servers", "10.0.0.2"),
            ("new_host_name", "ip-10-0-0-4"),
            ("new_domain_name", "ec2.internal"),
            ("new_interface_mtu", "1500"),
            ("new_dhcp_lease_time", "3600"),
        ],
    );
    stop();
    // It starts again with the lease on its disk, and asks for that address outright.
    fs::remove_file(folder.join("environment")).unwrap();
    let environment = environment_after(&world, &guest, client);
    assert_has(&environment, &[("reason", "REBOOT"), ("new_ip_address", "10.0.0.4")]);
    stop();
    // A lease of another network is refused, and the right one given.
    let leases = fs::read_to_string(folder.join("leases")).unwrap();
    fs::write(folder.join("leases"), leases.replace("fixed-address 10.0.0.4", "fixed-address 10.9.9.9"))
        .unwrap();
    fs::remove_file(folder.join("environment")).unwrap();
    let environment = environment_after(&world, &guest, client);
    assert_has(&environment, &[("reason", "BOUND"), ("new_ip_address", "10.0.0.4")]);
    let leases =
        ["-lf", folder.join("leases").to_str().unwrap(), "-pf", folder.join("pid").to_str().unwrap()]
            .map(str::to_owned);
    let [a, b, c, d] = leases.each_ref().map(String::as_str);
    run(&guest.namespace, "dhclient", &["-r", a, b, c, d, "-sf", "/bin/true", "eth0"]);
}

#[test]
fn a_client_with_another_hardware_address_is_given_nothing() {
    let world = World::new();
    let (_network, guest) = unnumbered(&world);
    ip(&guest.namespace, "link set eth0 address 06:00:00:00:00:05");
    let output = attempt(
        &guest.namespace,
        "udhcpc",
        &["-i", "eth0", "-f", "-q", "-n", "-t", "2", "-T", "1", "-s", "/bin/true"],
    );
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn a_guest_sees_the_router_for_everybody_and_at_once() {
    let world = World::new();
    let (network, guest) = world.start(world.spec());
    let _metadata = network.metadata_listener().unwrap();
    // As on distributions that take the link-local range for on-link: metadata answers ARP itself.
    ip(&guest.namespace, "route add 169.254.0.0/16 dev eth0");
    guest.namespace.run(|| TcpStream::connect((METADATA, 80))).unwrap().unwrap();
    let neighbours = ip(&guest.namespace, "neigh show dev eth0");
    let of = |address: &str| {
        let line = neighbours.lines().find(|line| line.starts_with(&format!("{address} ")));
        line.and_then(|line| line.split(' ').nth(2)).map(str::to_owned)
    };
    assert!(of("169.254.169.254").is_some(), "{neighbours}");
    let port = run(network.vpc(), "ip", &["neigh", "show", "dev", "tap0"]);
    assert!(port.contains(&format!("10.0.0.4 lladdr {MAC} PERMANENT")), "{port}");
}

#[test]
fn a_tap_has_as_many_queues_as_asked_for() {
    let namespace = Namespace::create().unwrap();
    let tap = Tap::create(&namespace, "tap0", 4).unwrap();
    let shown = run(&namespace, "ip", &["-d", "link", "show", "tap0"]);
    assert!(shown.contains("multi_queue") && shown.contains("numqueues 4"), "{shown}");
    let queues = tap.into_queues();
    assert_eq!(queues.len(), 4);
    let all = network::tap::Offload { checksum: true, tso4: true, tso6: true, ecn: true };
    network::tap::set_offload(&queues[0], all).unwrap();
    drop(queues);
    lab::eventually("the tap goes with its queues", || !ip(&namespace, "link").contains("tap0"));
    assert!(Tap::create(&namespace, "tap0", 0).is_err());
    assert!(Tap::create(&namespace, "a-name-that-is-too-long", 1).is_err());
}

#[test]
fn a_range_that_the_host_uses_is_passed_over() {
    let world = World::new();
    ip(&world.host, "addr add 10.0.40.1/24 dev eth0");
    let (network, _guest) =
        world.start(StandaloneSpec { domain: "eu-west-1.compute.internal".into(), ..world.spec() });
    assert_eq!(network.plan().vpc().to_string(), "172.31.0.0/16");
    assert_eq!(network.host_name(), "ip-172-31-0-4.eu-west-1.compute.internal");
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(0x4242, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// Asks as a guest does, by UDP.
fn resolve(guest: &Guest, server: Ipv4Addr, name: &str, kind: RecordType) -> Message {
    let socket = guest.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((server, 53)).unwrap();
    socket.send(&query(name, kind)).unwrap();
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).unwrap();
    let message = Message::from_vec(&answer[..length]).unwrap();
    assert_eq!((message.metadata.id, message.metadata.message_type), (0x4242, MessageType::Response));
    message
}

#[test]
fn a_guest_resolves_its_own_name_both_ways() {
    let world = World::new();
    let (network, guest) = world.start(world.spec());
    for server in [network.plan().resolver(), RESOLVER] {
        let answer = resolve(&guest, server, "IP-10-0-0-4.ec2.internal.", RecordType::A);
        assert_eq!(answer.answers[0].data, RData::A(Ipv4Addr::new(10, 0, 0, 4).into()));
        let answer = resolve(&guest, server, "4.0.0.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(answer.answers[0].data.to_string(), "ip-10-0-0-4.ec2.internal.");
        let answer = resolve(&guest, server, "ip-10-0-0-9.ec2.internal.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
}

/// A resolver of the host that answers one query by each protocol with the query itself, marked.
fn parrot(world: &World) -> std::thread::JoinHandle<()> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let sockets = world.host.run(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap()));
    let (udp, tcp) = sockets.unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        let (length, client) = udp.recv_from(&mut message).unwrap();
        message[2] |= 0x80;
        udp.send_to(&message[..length], client).unwrap();
        let (mut stream, _) = tcp.accept().unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let body = &mut message[..usize::from(u16::from_be_bytes(length))];
        stream.read_exact(body).unwrap();
        body[2] |= 0x80;
        stream.write_all(&[&length, &*body].concat()).unwrap();
    })
}

#[test]
fn other_names_are_asked_of_the_hosts_resolvers_by_either_protocol() {
    let world = World::new();
    let (network, guest) = world.start(world.spec());
    let resolver = parrot(&world);
    let answer = resolve(&guest, RESOLVER, "www.example.org.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);

    let server = network.plan().resolver();
    let mut stream = guest.namespace.run(|| TcpStream::connect((server, 53))).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let asked = query("www.example.org.", RecordType::TXT);
    stream
        .write_all(&[&u16::try_from(asked.len()).unwrap().to_be_bytes(), asked.as_slice()].concat())
        .unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(Message::from_vec(&answer).unwrap().queries[0].query_type(), RecordType::TXT);
    resolver.join().unwrap();
}

#[test]
fn without_a_resolver_a_guest_is_told_so() {
    let world = World::new();
    let (_network, guest) = world.start(world.spec());
    let answer = resolve(&guest, RESOLVER, "www.example.org.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}
