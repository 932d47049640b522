//! Public addresses, by which the host, other VPCs and an outside reach guests, and guests an outside.
//!
//! ```text
//! outside                          host                       gateway        VPC              guests
//! wan 198.51.100.1/24 ────────── eth0 198.51.100.2/24   nimboN ── uplink  vpc ── igw…   tap… ── eth0
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use network::path::{Exchange, Site, Spot};
use network::policy::{Gateway, Interface, Packet, Place, Port, Target, Traffic, Transport, device_name};
use network::{InternetGateway, NEXT_HOP, Namespace, NatGateway, NatGatewaySpec, STAND_IN, Translation};

use crate::lab::{
    Guest, Lab, PATIENCE, PING, SILENCE, Talk, attempt, everywhere, id, interface, ip, letting_in, net, run,
    socket, vpc,
};

const OUTSIDE: &str = "198.51.100.1";
const NAT: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 9);
const HOST: &str = "198.51.100.2";
const PUBLIC: [&str; 3] = ["198.18.0.7", "198.18.0.8", "198.18.0.9"];

/// A host with a way to an outside.
struct World {
    host: Guest,
    outside: Guest,
}

impl World {
    fn new() -> Self {
        let [host, outside] = [(); 2].map(|()| Guest { namespace: Namespace::create().unwrap() });
        crate::lab::join(&host.namespace, "eth0", &outside.namespace, "wan");
        for (at, address, device) in [(&host, HOST, "eth0"), (&outside, OUTSIDE, "wan")] {
            run(&at.namespace, &format!("ip addr add {address}/24 dev {device}"));
            run(&at.namespace, &format!("ip link set {device} up"));
        }
        run(&host.namespace, &format!("ip route add default via {OUTSIDE}"));
        Self { host, outside }
    }

    /// A VPC with a gateway and a way to it, whose groups let everything pass.
    fn vpc(&self) -> Public {
        self.vpc_reached_from(None)
    }

    /// As [`Self::vpc`]; its public addresses are reached from an interface of the host.
    fn vpc_reached_from(&self, lan: Option<&str>) -> Public {
        let mut made = vpc();
        made.groups = [(id(1), letting_in(&[(Traffic::All, everywhere())]))].into();
        let internet = Gateway::Internet(id(1));
        made.gateways.insert(internet, NEXT_HOP);
        for table in made.route_tables.values_mut() {
            table.routes.insert(net("0.0.0.0/0"), Target::Gateway(internet));
        }
        let lab = Lab::new(made);
        let gateway = self.open(&lab, lan);
        let translation = Translation { ranges: lab.vpc.ranges.clone(), ..Translation::default() };
        let mut public = Public { lab, gateway, translation };
        public.lab.apply();
        public
    }

    fn open(&self, lab: &Lab, lan: Option<&str>) -> InternetGateway {
        let device = Gateway::Internet(id(1)).device_name();
        let (host, vpc) = (&self.host.namespace, lab.fabric.namespace());
        InternetGateway::open(&pin(lab), host, vpc, &device, lan).unwrap()
    }

    fn traces(&self) -> String {
        let links = run(&self.host.namespace, "ip -br link");
        let links: Vec<_> = links.lines().filter(|line| line.starts_with("nimbo")).collect();
        // The carrier takes its time.
        let routes = run(&self.host.namespace, "ip route show").replace(" linkdown", "");
        let tables = run(&self.host.namespace, "nft list tables");
        let answered = run(&self.host.namespace, "ip neigh show proxy");
        let forwarding = run(&self.host.namespace, "cat /proc/sys/net/ipv4/conf/eth0/forwarding");
        format!("{}; {routes}; {tables}; {answered}; {forwarding}", links.len())
    }
}

fn pin(lab: &Lab) -> std::path::PathBuf {
    lab.pin().with_extension("gateway")
}

struct Public {
    lab: Lab,
    gateway: InternetGateway,
    translation: Translation,
}

impl Public {
    /// Which addresses are public, and as what.
    fn publish(&mut self, pairs: &[(&str, &str)]) {
        self.translation.public = pairs.iter().map(|(private, public)| (ip(private), ip(public))).collect();
        self.gateway.apply(&self.translation).unwrap();
    }

    /// Whether the model says that an echo request passes, and its reply.
    fn passes(&self, from: (Option<u8>, &str), destination: &str) -> bool {
        let (from, source) = from;
        let policy = self.lab.vpc.clone();
        let nat = |address: &Ipv4Addr| policy.interface_at(*address).map(|(id, _)| (id, *address));
        let nat_gateways = nat(&NAT).into_iter().collect();
        let site =
            Site { policy, translation: self.translation.clone(), peers: BTreeMap::new(), nat_gateways };
        let transport = Transport::Icmp { icmp_type: 8, code: 0 };
        let packet = Packet { source: ip(source), destination: ip(destination), transport };
        let from = from.map_or(Spot::Outside, |number| Spot::Vpc(id(1), Place::Interface(id(number))));
        Exchange::of(&[(id(1), site)].into(), HOST.parse().unwrap(), from, packet).passes()
    }

    fn close(self, world: &World) {
        InternetGateway::remove(&pin(&self.lab), &world.host.namespace).unwrap();
    }
}

/// Also when a test fails: nothing keeps its namespaces.
impl Drop for Public {
    fn drop(&mut self) {
        for pin in [pin(&self.lab), self.lab.pin().with_extension("nat")] {
            let _ = Namespace::unpin(&pin);
        }
    }
}

/// Who is at the other end of a new connection.
fn peer_of(client: &Guest, server: &Guest, to: &str) -> Ipv4Addr {
    let listener = server.listen(80);
    client.connect(to, 80, PATIENCE).unwrap();
    match listener.accept().unwrap().1 {
        SocketAddr::V4(peer) => *peer.ip(),
        SocketAddr::V6(peer) => panic!("{peer}"),
    }
}

#[test]
fn a_public_address_leads_in_and_out() {
    let world = World::new();
    let before = world.traces();
    let mut public = world.vpc();
    let one = public.lab.guest(1, &["10.0.1.4"], &[1]);
    let two = public.lab.guest(2, &["10.0.2.4"], &[1]);
    public.publish(&[("10.0.1.4", PUBLIC[0])]);
    // The host is itself to guests.
    assert!(world.host.pings(PUBLIC[0]));
    assert_eq!(peer_of(&world.host, &one, PUBLIC[0]), ip(HOST));
    // Outwards, as the host.
    assert_eq!(peer_of(&one, &world.outside, OUTSIDE), ip(HOST));
    // Without a public address there is no way out, and none in.
    assert!(!two.pings(OUTSIDE) && !world.host.pings(PUBLIC[1]) && one.pings("10.0.2.4"));
    let (first, second) = ((Some(1), "10.0.1.4"), (Some(2), "10.0.2.4"));
    let host = (None, HOST);
    assert!(public.passes(host, PUBLIC[0]) && public.passes(first, OUTSIDE));
    assert!(!public.passes(host, PUBLIC[1]) && !public.passes(second, OUTSIDE));
    public.publish(&[("10.0.1.4", PUBLIC[0]), ("10.0.2.4", PUBLIC[1])]);
    assert!(two.pings(OUTSIDE) && world.host.pings(PUBLIC[1]));
    // At each other's public address, and at one's own.
    assert_eq!(peer_of(&one, &two, PUBLIC[1]), ip(PUBLIC[0]));
    assert!(one.pings(PUBLIC[0]));
    assert!(public.passes(first, PUBLIC[1]) && public.passes(first, PUBLIC[0]));
    assert!(public.passes(second, OUTSIDE) && public.passes(host, PUBLIC[1]));
    // The host itself is not to be reached, nor what nobody has.
    assert!(one.misses(HOST, 22) && !one.pings(HOST) && !world.host.pings(PUBLIC[2]));
    public.close(&world);
    assert_eq!(world.traces(), before);
}

#[test]
fn who_has_an_address_that_answers_would_not_go_to_is_seen_at_another() {
    let world = World::new();
    let mut public = world.vpc();
    let one = public.lab.guest(1, &["10.0.1.4"], &[1]);
    public.publish(&[("10.0.1.4", PUBLIC[0])]);
    // The host is in a range that the VPC has, or routes to a peer.
    public.translation.elsewhere = vec![net("198.51.100.0/24")];
    public.publish(&[("10.0.1.4", PUBLIC[0])]);
    assert_eq!(peer_of(&world.host, &one, PUBLIC[0]), STAND_IN);
    public.translation.elsewhere.clear();
    // It has moved to another network.
    run(&world.host.namespace, "ip addr add 203.0.113.2/24 dev eth0");
    run(&world.host.namespace, &format!("ip addr del {HOST}/24 dev eth0"));
    run(&world.host.namespace, "ip route replace default via 203.0.113.1");
    public.publish(&[("10.0.1.4", PUBLIC[0]), ("10.0.1.5", PUBLIC[1])]);
    assert_eq!(peer_of(&world.host, &one, PUBLIC[0]), ip("203.0.113.2"));
    // There is no way out at all.
    run(&world.host.namespace, "ip route del default");
    public.publish(&[("10.0.1.4", PUBLIC[0])]);
    assert_eq!(peer_of(&world.host, &one, PUBLIC[0]), STAND_IN);
    public.close(&world);
}

#[test]
fn the_lan_reaches_public_addresses_where_it_is_to() {
    const ON_LAN: &str = "198.51.100.200";
    let world = World::new();
    let before = world.traces();
    let mut hidden = world.vpc();
    let _there = hidden.lab.guest(1, &["10.0.1.4"], &[1]);
    hidden.publish(&[("10.0.1.4", "198.51.100.201")]);
    let mut public = world.vpc_reached_from(Some("eth0"));
    let one = public.lab.guest(1, &["10.0.1.4"], &[1]);
    let two = public.lab.guest(2, &["10.0.2.4"], &[1]);
    public.publish(&[("10.0.1.4", ON_LAN), ("10.0.2.4", PUBLIC[0])]);
    assert!(world.host.pings("198.51.100.201") && !world.outside.pings("198.51.100.201"));
    // Somebody of the LAN has to ask for the address first, and the host takes its time to answer.
    assert_eq!(peer_of(&world.outside, &one, ON_LAN), ip(OUTSIDE));
    assert_eq!(peer_of(&one, &world.outside, OUTSIDE), ip(HOST));
    // What is routed here from there comes in too, and what is not had is not answered for.
    run(&world.outside.namespace, &format!("ip route add 198.18.0.0/16 via {HOST}"));
    assert_eq!(peer_of(&world.outside, &two, PUBLIC[0]), ip(OUTSIDE));
    assert!(world.outside.misses("198.51.100.202", 80) && !world.outside.pings("203.0.113.9"));
    // Nobody there is taken for a guest, or for who stands for others.
    run(&world.outside.namespace, &format!("ip addr add {}/32 dev lo", PUBLIC[0]));
    let heard = crate::lab::socket(&one.namespace, "10.0.1.4", 7, SILENCE);
    let said = |from: &str| {
        let socket = crate::lab::socket(&world.outside.namespace, from, 0, SILENCE);
        socket.send_to(b"word", (ON_LAN, 7)).unwrap();
        heard.recv(&mut [0; 4]).is_ok()
    };
    assert!(said(OUTSIDE) && !said(PUBLIC[0]));
    // Nobody has it any more.
    let answered = || run(&world.host.namespace, "ip neigh show proxy");
    public.publish(&[("10.0.2.4", PUBLIC[0])]);
    assert!(!answered().contains(ON_LAN) && answered().contains(PUBLIC[0]), "{}", answered());
    assert!(world.outside.misses(ON_LAN, 80));
    // The next server is told of no LAN.
    public.gateway = world.open(&public.lab, None);
    public.publish(&[("10.0.1.4", ON_LAN)]);
    assert_eq!(answered(), "");
    assert!(world.host.pings(ON_LAN) && world.outside.misses(ON_LAN, 80));
    hidden.close(&world);
    public.close(&world);
    assert_eq!(world.traces(), before);
}

#[test]
fn what_a_killed_process_has_left_in_the_host_is_taken_back() {
    let world = World::new();
    run(&world.host.namespace, "ip neigh add proxy 198.51.100.9 dev eth0");
    let before = world.traces();
    let mut public = world.vpc_reached_from(Some("eth0"));
    public.publish(&[("10.0.1.4", PUBLIC[0])]);
    let had = world.traces();
    assert!(["nimbo0", "table ip nimbo", PUBLIC[0]].iter().all(|trace| had.contains(trace)), "{had}");
    // With its files, and without a word to the host.
    drop(public);
    crate::lab::eventually("the namespace goes", || {
        !run(&world.host.namespace, "ip link").contains("nimbo0")
    });
    assert_ne!(world.traces(), before);
    for _ in 0..2 {
        network::uplink::remove_leftovers(&world.host.namespace).unwrap();
        assert_eq!(world.traces(), before);
    }
}

#[test]
fn forwarding_that_somebody_else_wants_stays_on() {
    let world = World::new();
    let mut public = world.vpc();
    let fence = || run(&world.host.namespace, "nft list set ip nimbo forwarding");
    assert!(fence().contains("eth0"));
    let forwarding = "/proc/sys/net/ipv4/conf/eth0/forwarding";
    // A container engine that is started later.
    let switch_on = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    world.host.namespace.run(switch_on).unwrap().unwrap();
    // What that forwards passes from now on.
    let device = Gateway::Internet(id(1)).device_name();
    public.gateway.repair(&pin(&public.lab), public.lab.fabric.namespace(), &device).unwrap();
    assert!(!fence().contains("eth0"), "{}", fence());
    public.close(&world);
    assert_eq!(run(&world.host.namespace, &format!("cat {forwarding}")), "1\n");
}

#[test]
fn what_comes_in_passes_by_the_groups_of_who_it_is_for() {
    let world = World::new();
    let mut public = world.vpc();
    let one = public.lab.guest(1, &["10.0.1.4"], &[2]);
    public.lab.group(2, letting_in(&[(PING, everywhere())]));
    public.lab.apply();
    public.publish(&[("10.0.1.4", PUBLIC[0])]);
    let _listener = one.listen(80);
    assert!(world.host.pings(PUBLIC[0]) && world.host.misses(PUBLIC[0], 80));
    public.close(&world);
}

#[test]
fn an_address_that_moves_takes_nothing_of_its_flows_along() {
    let world = World::new();
    let mut public = world.vpc();
    let one = public.lab.guest(1, &["10.0.1.4"], &[1]);
    let two = public.lab.guest(2, &["10.0.2.4"], &[1]);
    public.publish(&[("10.0.1.4", PUBLIC[0]), ("10.0.2.4", PUBLIC[1])]);
    let [one_listens, two_listens] = [&one, &two].map(|guest| guest.listen(80));
    let mut moved = Talk::between(&world.host, &one_listens, PUBLIC[0]);
    let mut stays = Talk::between(&world.host, &two_listens, PUBLIC[1]);
    let out_listens = world.outside.listen(80);
    let mut out = Talk::between(&one, &out_listens, OUTSIDE);
    assert!(moved.goes_on(PATIENCE) && stays.goes_on(PATIENCE) && out.goes_on(PATIENCE));
    // Another public address for the one, that one for nobody: the other's flows notice nothing.
    public.publish(&[("10.0.1.4", PUBLIC[2]), ("10.0.2.4", PUBLIC[1])]);
    assert!(stays.goes_on(PATIENCE) && !moved.goes_on(SILENCE) && !out.goes_on(SILENCE));
    assert!(!world.host.pings(PUBLIC[0]));
    let mut again = Talk::between(&world.host, &one_listens, PUBLIC[2]);
    assert!(again.goes_on(PATIENCE) && Talk::between(&one, &out_listens, OUTSIDE).goes_on(PATIENCE));
    // To the other guest, which has had another until now.
    public.publish(&[("10.0.2.4", PUBLIC[2])]);
    assert!(!again.goes_on(SILENCE) && !stays.goes_on(SILENCE));
    assert!(Talk::between(&world.host, &two_listens, PUBLIC[2]).goes_on(PATIENCE));
    assert!(!one.pings(OUTSIDE));
    public.close(&world);
}

#[test]
fn two_vpcs_of_the_same_ranges_reach_each_other_at_public_addresses() {
    let world = World::new();
    let [mut here, mut there] = [world.vpc(), world.vpc()];
    let one = here.lab.guest(1, &["10.0.1.4"], &[1]);
    let other = there.lab.guest(1, &["10.0.1.4"], &[1]);
    here.publish(&[("10.0.1.4", PUBLIC[0])]);
    there.publish(&[("10.0.1.4", PUBLIC[1])]);
    assert_eq!(peer_of(&one, &other, PUBLIC[1]), ip(PUBLIC[0]));
    // An address moves from the one to the other, told in either order.
    there.publish(&[("10.0.1.4", PUBLIC[0])]);
    here.publish(&[]);
    let listener = other.listen(80);
    assert!(Talk::between(&world.host, &listener, PUBLIC[0]).goes_on(PATIENCE));
    there.publish(&[]);
    here.publish(&[("10.0.1.4", PUBLIC[0])]);
    let listener = one.listen(80);
    assert!(Talk::between(&world.host, &listener, PUBLIC[0]).goes_on(PATIENCE));
    here.close(&world);
    there.close(&world);
}

#[test]
fn a_gateway_is_taken_up_and_repaired() {
    let world = World::new();
    let mut public = world.vpc();
    let one = public.lab.guest(1, &["10.0.1.4"], &[1]);
    public.publish(&[("10.0.1.4", PUBLIC[0])]);
    let listener = one.listen(80);
    let mut talk = Talk::between(&world.host, &listener, PUBLIC[0]);
    // Another process, which is told the same.
    public.gateway = world.open(&public.lab, None);
    assert!(talk.goes_on(PATIENCE));
    let translation = public.translation.clone();
    public.gateway.apply(&translation).unwrap();
    assert!(talk.goes_on(PATIENCE));
    // Somebody else undoes what there is in the host, in the VPC and of the file.
    run(&world.host.namespace, "ip link del nimbo0");
    let device = Gateway::Internet(id(1)).device_name();
    run(public.lab.fabric.namespace(), &format!("ip link del {device}"));
    Namespace::unpin(&pin(&public.lab)).unwrap();
    assert!(!world.host.pings(PUBLIC[0]));
    public.gateway.repair(&pin(&public.lab), public.lab.fabric.namespace(), &device).unwrap();
    public.lab.fabric.repair().unwrap();
    assert!(talk.goes_on(PATIENCE) && one.pings(OUTSIDE));
    // The host's route, or its rules, and nothing else; or all rules of the host, as a firewall does that is loaded anew.
    let route = format!("ip route del {}", PUBLIC[0]);
    for harm in [&*route, "nft flush set ip nimbo0 addresses", "nft flush ruleset"] {
        run(&world.host.namespace, harm);
        assert!(!world.host.pings(PUBLIC[0]) || !one.pings(OUTSIDE), "{harm}");
        public.gateway.repair(&pin(&public.lab), public.lab.fabric.namespace(), &device).unwrap();
        assert!(world.host.pings(PUBLIC[0]) && one.pings(OUTSIDE), "{harm}");
        assert!(run(&world.host.namespace, "nft list table ip nimbo").contains("\"eth0\""), "{harm}");
    }
    public.close(&world);
    assert!(!attempt(&world.host.namespace, "nft list table ip nimbo").status.success());
}

#[test]
fn a_nat_gateway_lends_its_address_to_who_has_none() {
    let world = World::new();
    let mut public = world.vpc();
    let private = public.lab.guest(1, &["10.0.1.4"], &[1]);
    // In the other subnet, which alone leads to the internet gateway.
    let spec = NatGatewaySpec {
        device: device_name(id(9)),
        mac: crate::lab::mac(9),
        address: NAT,
        router: ip("10.0.2.1"),
    };
    let pin = public.lab.pin().with_extension("nat");
    let open = |public: &Public| NatGateway::open(&pin, public.lab.fabric.namespace(), spec.clone()).unwrap();
    let gateway = open(&public);
    let interface =
        Interface { checks_source_and_destination: false, ..crate::lab::interface(9, &["10.0.2.9"], &[1]) };
    public.lab.vpc.interfaces.insert(id(9), interface);
    let routes = &mut public.lab.vpc.route_tables.get_mut(&id(1)).unwrap().routes;
    routes.insert(net("0.0.0.0/0"), Target::Interface(id(9)));
    assert!(public.lab.apply().missing.is_empty());
    let inside = (Some(1), "10.0.1.4");
    assert!(!private.pings(OUTSIDE) && !public.passes(inside, OUTSIDE));
    public.publish(&[("10.0.2.9", PUBLIC[0])]);
    assert!(private.pings(OUTSIDE) && public.passes(inside, OUTSIDE));
    assert_eq!(peer_of(&private, &world.outside, OUTSIDE), ip(HOST));
    assert!(private.pings("-M do -s 1472 198.51.100.1") && !private.pings("-M do -s 1473 198.51.100.1"));
    let listener = world.outside.listen(81);
    let mut talk = Talk::between(&private, &listener, OUTSIDE);
    // Nothing comes in that was not asked for.
    let _server = private.listen(80);
    assert!(!world.host.pings(PUBLIC[0]) && world.host.misses(PUBLIC[0], 80));
    assert!(!public.passes((None, HOST), PUBLIC[0]));
    // Another process takes it up; somebody else unmakes it.
    drop(gateway);
    let mut gateway = open(&public);
    public.lab.apply();
    assert!(talk.goes_on(PATIENCE));
    run(public.lab.fabric.namespace(), &format!("ip link del {}", device_name(id(9))));
    assert!(!private.pings(OUTSIDE));
    gateway.repair(&pin, public.lab.fabric.namespace()).unwrap();
    public.lab.fabric.repair().unwrap();
    assert!(talk.goes_on(PATIENCE) && private.pings(OUTSIDE));
    Namespace::unpin(&pin).unwrap();
    public.close(&world);
}

#[test]
fn a_service_answers_who_asks_from_outside_and_asks_from_its_own_address() {
    let world = World::new();
    let mut public = world.vpc();
    let mut service = interface(9, &["10.0.1.9"], &[1]);
    service.port = Port::Local;
    public.lab.vpc.interfaces.insert(id(9), service);
    public.lab.apply();
    public.publish(&[("10.0.1.9", PUBLIC[0])]);
    let inside = Guest { namespace: public.lab.fabric.namespace().try_clone().unwrap() };
    assert_eq!(peer_of(&world.host, &inside, PUBLIC[0]), ip(HOST));
    let server = socket(&world.outside.namespace, OUTSIDE, 53, PATIENCE);
    let client = socket(&inside.namespace, "10.0.1.9", 0, PATIENCE);
    client.send_to(b"word", (ip(OUTSIDE), 53)).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 4]).unwrap();
    assert_eq!(peer.ip(), ip(HOST));
    server.send_to(b"answer", peer).unwrap();
    assert_eq!(client.recv(&mut [0; 6]).unwrap(), 6);
    assert_eq!(public.lab.fabric.repair().unwrap().changed, 0, "what is there is not known again");
    public.close(&world);
}
