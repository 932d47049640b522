//! Where packets go: tables of subnets, routers among the guests, gateways, several interfaces.

use network::path::{Exchange, Site, Spot};
use network::policy::{Gateway, Packet, Peer, Place, Target, Traffic, Transport, device_name};
use network::{Ipv4Net, NEXT_HOP, Namespace, Translation};

use crate::lab::{
    Guest, Lab, PATIENCE, PING, SILENCE, Talk, everywhere, id, interface, ip, join, letting_in, mac, net,
    run, sent_by, socket, tcp, vpc,
};

fn open_lab() -> Lab {
    let mut made = vpc();
    made.groups = [(id(1), letting_in(&[(Traffic::All, everywhere())]))].into();
    Lab::new(made)
}

fn route(lab: &mut Lab, table: u8, range: &str, target: Target) {
    lab.vpc.route_tables.entry(id(table)).or_default().routes.insert(net(range), target);
}

/// The other end of a gateway's device, which answers under any address in the ranges.
fn outside(lab: &mut Lab, gateway: Gateway, at: &str, ranges: &[&str]) -> Namespace {
    let namespace = Namespace::create().unwrap();
    let device = gateway.device_name();
    join(&namespace, "eth0", lab.fabric.namespace(), &device);
    for range in ranges {
        run(&namespace, &format!("ip route add local {range} dev lo"));
    }
    run(&namespace, &format!("ip addr add {at}/32 dev eth0"));
    run(&namespace, "ip link set eth0 up");
    run(&namespace, "ip route add 10.0.0.0/16 via 10.0.1.1 dev eth0 onlink");
    run(lab.fabric.namespace(), &format!("ip link set {device} mtu 1500 up"));
    lab.vpc.gateways.insert(gateway, ip(at));
    namespace
}

#[test]
fn the_longest_prefix_leads_and_a_blackhole_ends() {
    let mut lab = open_lab();
    let (internet, peer) = (Gateway::Internet(id(1)), Gateway::Peering(id(1)));
    let _world = outside(&mut lab, internet, "169.254.128.0", &["192.0.2.0/24", "172.16.0.0/12"]);
    let _peer = outside(&mut lab, peer, "169.254.128.2", &["172.16.0.0/16"]);
    let one = lab.guest(1, &["10.0.1.4"], &[1]);
    let two = lab.guest(2, &["10.0.2.4"], &[1]);
    let passed = |lab: &Lab, gateway: Gateway| sent_by(lab.fabric.namespace(), &gateway.device_name());
    assert!(!one.pings("192.0.2.1"));
    route(&mut lab, 1, "0.0.0.0/0", Target::Gateway(internet));
    lab.apply();
    assert!(one.pings("192.0.2.1") && one.pings("172.16.3.4") && one.pings("172.17.3.4"));
    // The other subnet has a table of its own.
    assert!(!two.pings("192.0.2.1"));
    // A longer prefix, to elsewhere.
    let before = passed(&lab, peer);
    route(&mut lab, 1, "172.16.0.0/16", Target::Gateway(peer));
    lab.apply();
    assert!(one.pings("172.16.3.4") && one.pings("172.17.3.4"));
    assert_ne!(passed(&lab, peer), before);
    // What is gone does not fall back to the shorter one.
    route(&mut lab, 1, "172.16.0.0/16", Target::Gateway(Gateway::Peering(id(2))));
    route(&mut lab, 1, "172.17.0.0/16", Target::Blackhole);
    lab.apply();
    assert!(!one.pings("172.16.3.4") && !one.pings("172.17.3.4") && one.pings("192.0.2.1"));
    // A route to all is no way to an address of the VPC that nobody has.
    assert!(!one.pings("10.0.3.3"));
}

#[test]
fn what_leaves_for_the_outside_is_cut_to_its_size() {
    let mut lab = open_lab();
    let internet = Gateway::Internet(id(1));
    let _world = outside(&mut lab, internet, "169.254.128.0", &["192.0.2.0/24"]);
    route(&mut lab, 1, "0.0.0.0/0", Target::Gateway(internet));
    let one = lab.guest(1, &["10.0.1.4"], &[1]);
    assert!(one.pings("-M do -s 1472 192.0.2.1"));
    // The router says which size would pass, and the sender remembers.
    assert!(!one.pings("-M do -s 1473 192.0.2.1"));
    let learnt = run(&one.namespace, "ip route get 192.0.2.1");
    assert!(learnt.contains("mtu 1500"), "{learnt}");
}

#[test]
fn nothing_comes_in_from_a_gateway_as_one_of_the_vpc() {
    let mut lab = open_lab();
    let internet = Gateway::Internet(id(1));
    let world = outside(&mut lab, internet, "169.254.128.0", &["192.0.2.0/24"]);
    route(&mut lab, 1, "0.0.0.0/0", Target::Gateway(internet));
    let one = lab.guest(1, &["10.0.1.4"], &[1]);
    let outsider = Guest { namespace: world };
    assert!(outsider.pings("-I 192.0.2.1 10.0.1.4"));
    let server = socket(&one.namespace, "10.0.1.4", 53, SILENCE);
    let is_heard_as = |source| {
        let client = socket(&outsider.namespace, source, 0, SILENCE);
        client.send_to(b"word", "10.0.1.4:53").unwrap();
        server.recv(&mut [0; 4]).is_ok()
    };
    run(&outsider.namespace, "ip addr add 10.0.1.5/32 dev lo");
    assert!(is_heard_as("192.0.2.1") && !is_heard_as("10.0.1.5"));
    // By its groups, as from anywhere.
    lab.group(1, letting_in(&[(PING, Peer::Range(net("198.51.100.0/24")))]));
    lab.apply();
    assert!(!outsider.pings("-I 192.0.2.1 10.0.1.4") && one.pings("192.0.2.1"));
}

#[test]
fn a_guest_routes_for_others_once_nobody_checks() {
    let mut lab = open_lab();
    let client = lab.guest(1, &["10.0.1.4"], &[1]);
    let router = lab.guest(2, &["10.0.2.4"], &[1]);
    // A network behind it that the VPC does not know.
    run(&router.namespace, "ip addr add 192.168.7.1/32 dev lo");
    run(&router.namespace, "sysctl -q -w net.ipv4.ip_forward=1");
    route(&mut lab, 1, "192.168.0.0/16", Target::Interface(id(2)));
    lab.apply();
    assert!(!client.pings("192.168.7.1"));
    lab.vpc.interfaces.get_mut(&id(2)).unwrap().checks_source_and_destination = false;
    lab.apply();
    assert!(client.pings("192.168.7.1"));
    let listener = router.listen(80);
    let mut talk = Talk::between(&client, &listener, "192.168.7.1");
    assert!(talk.goes_on(PATIENCE));
    // Its groups look at what passes.
    lab.vpc.interfaces.get_mut(&id(2)).unwrap().groups = vec![id(2)];
    lab.group(2, letting_in(&[(PING, Peer::Group(id(1)))]));
    lab.apply();
    assert!(client.pings("192.168.7.1") && !talk.goes_on(SILENCE));
}

#[test]
fn a_middlebox_opens_no_way_that_groups_have_closed() {
    let mut lab = open_lab();
    let client = lab.guest(1, &["10.0.1.4"], &[1]);
    let middle = lab.guest(2, &["10.0.2.4"], &[1]);
    let server = lab.guest(3, &["10.0.2.5"], &[3]);
    lab.group(3, letting_in(&[(PING, everywhere())]));
    lab.vpc.interfaces.get_mut(&id(2)).unwrap().checks_source_and_destination = false;
    // More specific than the VPC's own range: to the server's subnet by the middlebox.
    route(&mut lab, 1, "10.0.2.0/24", Target::Interface(id(2)));
    lab.apply();
    run(
        &middle.namespace,
        "sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0",
    );
    let hops = || sent_by(lab.fabric.namespace(), &device_name(id(2)));
    let before = hops();
    assert!(client.pings("10.0.2.5") && hops() > before);
    let _listener = server.listen(80);
    assert!(client.misses("10.0.2.5", 80));
    lab.group(3, letting_in(&[(tcp(80, 80), Peer::Group(id(1)))]));
    lab.apply();
    assert!(client.reaches("10.0.2.5", 80) && !client.pings("10.0.2.5"));
}

#[test]
fn a_guest_with_two_interfaces_is_reached_at_all_their_addresses() {
    let mut lab = open_lab();
    let one = lab.guest(1, &["10.0.1.4"], &[1]);
    let two = lab.guest(2, &["10.0.1.5", "10.0.1.6"], &[1]);
    lab.vpc.interfaces.insert(id(3), interface(3, &["10.0.2.5", "10.0.2.6"], &[1]));
    two.plug(&mut lab, 3, "eth1");
    for address in ["10.0.2.5", "10.0.2.6"] {
        run(&two.namespace, &format!("ip addr add {address}/24 dev eth1"));
        run(&two.namespace, &format!("ip rule add from {address} lookup 2"));
    }
    run(&two.namespace, "ip route add default via 10.0.2.1 dev eth1 table 2");
    for address in ["10.0.1.5", "10.0.1.6", "10.0.2.5", "10.0.2.6"] {
        assert!(one.pings(address), "{address}");
    }
    // An answer by the wrong one is from an address that is not its own.
    run(&two.namespace, "ip rule del from 10.0.2.6");
    assert!(!one.pings("10.0.2.6") && one.pings("10.0.2.5"));
    // An interface that goes takes its addresses along.
    lab.vpc.interfaces.remove(&id(3));
    lab.apply();
    assert!(!one.pings("10.0.2.5") && one.pings("10.0.1.6"));
}

/// Two VPCs of other ranges, linked, whose first subnets lead to each other.
fn peers() -> [Lab; 2] {
    let mut labs = [open_lab(), open_lab()];
    let peering = Gateway::Peering(id(1));
    let other_range: Ipv4Net = net("10.1.0.0/16");
    labs[1].vpc.ranges = vec![other_range];
    labs[1].vpc.subnets.get_mut(&id(1)).unwrap().range = net("10.1.1.0/24");
    labs[1].vpc.subnets.remove(&id(2));
    // Again changes nothing.
    for _ in 0..2 {
        network::peer(id(1), labs[0].fabric.namespace(), labs[1].fabric.namespace()).unwrap();
    }
    for (lab, range) in labs.iter_mut().zip(["10.1.0.0/16", "10.0.0.0/16"]) {
        lab.vpc.gateways.insert(peering, NEXT_HOP);
        route(lab, 1, range, Target::Gateway(peering));
        lab.apply();
    }
    labs
}

/// Whether the model says that a connection to port 80 passes from a guest of the first to one of the second, and is answered.
fn passes(labs: [&Lab; 2], from: (u8, &str), to: &str) -> bool {
    let site = |(number, lab): (u8, &Lab)| {
        let translation = Translation { ranges: lab.vpc.ranges.clone(), ..Translation::default() };
        let peers = [(id(1), id(3 - number))].into();
        (id(number), Site { policy: lab.vpc.clone(), translation, peers, nat_gateways: [].into() })
    };
    let (number, source) = from;
    let transport = Transport::Tcp { source: 32_768, destination: 80 };
    let packet = Packet { source: ip(source), destination: ip(to), transport };
    let from = Spot::Vpc(id(1), Place::Interface(id(number)));
    Exchange::of(&(1..).zip(labs).map(site).collect(), network::STAND_IN, from, packet).passes()
}

#[test]
fn peers_meet_by_their_groups() {
    let [mut first, mut second] = peers();
    let peering = Gateway::Peering(id(1));
    let one = first.guest(1, &["10.0.1.4"], &[1]);
    let other = second.guest(1, &["10.1.1.4"], &[1]);
    let _listener = other.listen(80);
    let agree = |first: &Lab, second: &Lab, reaches: bool| {
        assert_eq!(one.connect("10.1.1.4", 80, SILENCE).is_ok(), reaches);
        assert_eq!(passes([first, second], (1, "10.0.1.4"), "10.1.1.4"), reaches);
    };
    agree(&first, &second, true);
    assert!(one.pings("-M do -s 8973 10.1.1.4") && other.pings("10.0.1.4"));
    second.group(1, letting_in(&[]));
    second.apply();
    agree(&first, &second, false);
    assert!(!one.pings("10.1.1.4") && other.pings("10.0.1.4"));
    second.group(1, letting_in(&[(Traffic::All, everywhere())]));
    // A way there, and none back.
    let routes = std::mem::take(&mut second.vpc.route_tables.get_mut(&id(1)).unwrap().routes);
    second.apply();
    agree(&first, &second, false);
    second.vpc.route_tables.get_mut(&id(1)).unwrap().routes = routes;
    second.apply();
    agree(&first, &second, true);
    network::part(first.fabric.namespace(), [id(1)]).unwrap();
    assert!(other.pings("10.0.1.4"));
    network::part(first.fabric.namespace(), []).unwrap();
    assert_eq!(second.fabric.repair().unwrap().missing_gateways, [peering]);
    assert!(!other.pings("10.0.1.4"));
    assert_eq!(mac(1), first.vpc.interfaces[&id(1)].mac);
}

#[test]
fn a_peers_group_as_source_is_the_addresses_of_who_is_in_it() {
    let [mut first, mut second] = peers();
    let one = first.guest(1, &["10.0.1.4"], &[1]);
    let two = first.guest(2, &["10.0.1.5"], &[1]);
    let server = second.guest(1, &["10.1.1.4"], &[2]);
    second.group(2, letting_in(&[(tcp(80, 80), Peer::Group(id(9)))]));
    second.apply();
    let listener = server.listen(80);
    assert!(one.misses("10.1.1.4", 80) && two.misses("10.1.1.4", 80));
    second.vpc.peer_members.insert(id(9), [ip("10.0.1.4")].into());
    second.apply();
    let mut talk = Talk::between(&one, &listener, "10.1.1.4");
    assert!(talk.goes_on(PATIENCE) && two.misses("10.1.1.4", 80));
    for (from, is_member) in [((1, "10.0.1.4"), true), ((2, "10.0.1.5"), false)] {
        assert_eq!(passes([&first, &second], from, "10.1.1.4"), is_member);
    }
    // Who leaves is cut off, and who joins is let in.
    second.vpc.peer_members.insert(id(9), [ip("10.0.1.5")].into());
    second.apply();
    assert!(!talk.goes_on(SILENCE) && two.reaches("10.1.1.4", 80));
}
