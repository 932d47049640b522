use types::{MacAddress, NetworkAclId, RandomId, SubnetId};

use super::*;
use crate::Ipv4Net;
use crate::policy::{
    Acl, AclEntry, Direction, Group, GroupRule, Interface, Peer, Port, Ports, RouteTable, Subnet, Target,
    Traffic, Transport,
};

const OUTSIDE: &str = "192.0.2.9";
const PUBLIC: &str = "198.18.0.7";
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

fn id<T: RandomId>(number: u8) -> T {
    let mut bytes = [0; 16];
    bytes[0] = number;
    T::from_random(bytes)
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn rule(number: u8, direction: Direction, traffic: Traffic) -> GroupRule {
    GroupRule { id: id(number), direction, traffic, peer: Peer::Range(Ipv4Net::default()) }
}

fn entry(direction: Direction, traffic: Traffic) -> AclEntry {
    AclEntry { direction, number: 100, allows: true, traffic, range: Ipv4Net::default() }
}

/// 10.N.0.0/16 with the subnets 10.N.1.0/24 and 10.N.2.0/24, each with a route table of its number, and the interface N at 10.N.1.4. Group 1 lets TCP
/// to port 80 in, and everything out.
fn site(number: u8) -> Site {
    let both = [Direction::Ingress, Direction::Egress];
    let group = Group {
        rules: vec![
            rule(1, Direction::Ingress, Traffic::Tcp(Ports { first: 80, last: 80 })),
            rule(2, Direction::Egress, Traffic::All),
        ],
    };
    let subnet = |third: u8| {
        let range = net(&format!("10.{number}.{third}.0/24"));
        (id::<SubnetId>(third), Subnet { range, acl: id(1), route_table: id(third) })
    };
    let ranges = vec![net(&format!("10.{number}.0.0/16"))];
    let policy = Vpc {
        ranges: ranges.clone(),
        subnets: [subnet(1), subnet(2)].into(),
        groups: [(id(1), group), (id(2), Group { rules: both.map(|way| rule(3, way, Traffic::All)).into() })]
            .into(),
        acls: [(id(1), Acl { entries: both.map(|way| entry(way, Traffic::All)).into() })].into(),
        route_tables: [(id(1), RouteTable::default()), (id(2), RouteTable::default())].into(),
        ..Vpc::default()
    };
    let translation = Translation { ranges, elsewhere: Vec::new(), public: BTreeMap::new() };
    let mut site = Site { policy, translation, peers: BTreeMap::new(), nat_gateways: BTreeMap::new() };
    site.add(number, &format!("10.{number}.1.4"), 1);
    site
}

impl Site {
    fn add(&mut self, number: u8, address: &str, group: u8) -> &mut Interface {
        let address = ip(address);
        let interface = Interface {
            subnet: id(address.octets()[2]),
            mac: MacAddress::new([6, 0, 0, 0, 0, number]),
            addresses: vec![address],
            groups: vec![id(group)],
            checks_source_and_destination: true,
            port: Port::Device,
        };
        self.policy.interfaces.entry(id(number)).insert_entry(interface).into_mut()
    }

    fn route(&mut self, table: u8, range: &str, target: Target) {
        self.policy.route_tables.entry(id(table)).or_default().routes.insert(net(range), target);
    }

    /// An internet gateway, to which the first subnet leads, and a public address.
    fn open(&mut self, private: &str, public: &str) {
        let gateway = Gateway::Internet(id(1));
        self.policy.gateways.insert(gateway, ip("169.254.128.0"));
        self.route(1, "0.0.0.0/0", Target::Gateway(gateway));
        self.translation.public.insert(ip(private), ip(public));
    }
}

type Sites = BTreeMap<VpcId, Site>;

/// Two peers that lead to each other.
fn peers() -> Sites {
    let mut sites: Sites = [(id(1), site(1)), (id(2), site(2))].into();
    for (number, other) in [(1, 2), (2, 1)] {
        let site = sites.get_mut(&id(number)).unwrap();
        site.peers.insert(id(9), id(other));
        site.policy.gateways.insert(Gateway::Peering(id(9)), ip("169.254.128.2"));
        site.route(1, &format!("10.{other}.0.0/16"), Target::Gateway(Gateway::Peering(id(9))));
    }
    sites
}

fn spot(vpc: u8, interface: u8) -> Spot {
    Spot::Vpc(id(vpc), Place::Interface(id(interface)))
}

fn tcp(source: &str, destination: &str, port: u16) -> Packet {
    let transport = Transport::Tcp { source: 32_768, destination: port };
    Packet { source: ip(source), destination: ip(destination), transport }
}

fn ask(sites: &Sites, from: Spot, packet: Packet) -> Exchange {
    Exchange::of(sites, HOST, from, packet)
}

/// Why the request does not arrive.
fn stopped(exchange: &Exchange) -> Why {
    assert!(!exchange.passes() && exchange.answer.is_none(), "{exchange:?}");
    exchange.request.end.unwrap_err().why
}

/// Why the answer does not.
fn unanswered(exchange: &Exchange) -> Why {
    assert!(!exchange.passes() && exchange.request.end.is_ok(), "{exchange:?}");
    exchange.answer.as_ref().unwrap().end.unwrap_err().why
}

#[test]
fn peers_are_reached_by_the_routes_and_groups_of_both() {
    let mut sites = peers();
    let to = |port| tcp("10.1.1.4", "10.2.1.4", port);
    let exchange = ask(&sites, spot(1, 1), to(80));
    assert!(exchange.passes(), "{exchange:?}");
    assert_eq!(exchange.request.end, Ok(spot(2, 2)));
    assert!(exchange.request.passed.contains(&Passed::Peering { id: id(9), to: id(2) }));
    let answer = exchange.answer.unwrap();
    assert_eq!(answer.end, Ok(spot(1, 1)));
    assert!(answer.passed.contains(&Passed::Peering { id: id(9), to: id(1) }));
    let no_rule = Stop::NoRule { interface: id(2), direction: Direction::Ingress };
    assert_eq!(stopped(&ask(&sites, spot(1, 1), to(81))), Why::Policy(no_rule));
    let nobody = ask(&sites, spot(1, 1), tcp("10.1.1.4", "10.2.3.4", 80));
    assert_eq!(stopped(&nobody), Why::Policy(Stop::NobodyThere));
    // A peer leads nobody's packets on.
    let peering = Target::Gateway(Gateway::Peering(id(9)));
    sites.get_mut(&id(1)).unwrap().route(1, "192.168.0.0/16", peering);
    let beyond = ask(&sites, spot(1, 1), tcp("10.1.1.4", "192.168.7.1", 80));
    assert_eq!(stopped(&beyond), Why::Policy(Stop::NoRoute));
    // A way there is no way back.
    sites.get_mut(&id(2)).unwrap().policy.route_tables.clear();
    assert_eq!(unanswered(&ask(&sites, spot(1, 1), to(80))), Why::Policy(Stop::NoRoute));
    sites.remove(&id(2));
    assert_eq!(stopped(&ask(&sites, spot(1, 1), to(80))), Why::NoPeer { id: id(9) });
}

#[test]
fn acls_look_at_the_answer_too() {
    let mut sites = peers();
    let policy = &mut sites.get_mut(&id(2)).unwrap().policy;
    let ports = Traffic::Tcp(Ports { first: 49_152, last: 65_535 });
    let acl = policy.acls.get_mut(&id::<NetworkAclId>(1)).unwrap();
    acl.entries = vec![entry(Direction::Ingress, Traffic::All), entry(Direction::Egress, ports)];
    let denied = Stop::Acl { subnet: id(1), acl: id(1), direction: Direction::Egress, number: None };
    assert_eq!(unanswered(&ask(&sites, spot(1, 1), tcp("10.1.1.4", "10.2.1.4", 80))), Why::Policy(denied));
}

#[test]
fn what_has_a_public_address_gets_out_and_is_reached() {
    let mut sites: Sites = [(id(1), site(1))].into();
    let out = tcp("10.1.1.4", OUTSIDE, 443);
    assert_eq!(stopped(&ask(&sites, spot(1, 1), out)), Why::Policy(Stop::NoRoute));
    sites.get_mut(&id(1)).unwrap().open("10.1.1.5", PUBLIC);
    assert_eq!(stopped(&ask(&sites, spot(1, 1), out)), Why::NoPublicAddress { gateway: id(1) });
    assert_eq!(stopped(&ask(&sites, Spot::Outside, tcp(OUTSIDE, "198.18.0.8", 80))), Why::NobodyHas);
    sites.get_mut(&id(1)).unwrap().open("10.1.1.4", "198.18.0.8");
    let exchange = ask(&sites, spot(1, 1), out);
    assert!(exchange.passes() && exchange.request.end == Ok(Spot::Outside), "{exchange:?}");
    let exchange = ask(&sites, Spot::Outside, tcp(OUTSIDE, "198.18.0.8", 80));
    assert!(exchange.passes() && exchange.request.end == Ok(spot(1, 1)), "{exchange:?}");
    // Private addresses are nothing to anybody outside, and the machine itself is not reached.
    assert_eq!(stopped(&ask(&sites, Spot::Outside, tcp(OUTSIDE, "10.1.1.4", 80))), Why::NobodyHas);
    for destination in [STAND_IN, HOST] {
        assert_eq!(stopped(&ask(&sites, spot(1, 1), Packet { destination, ..out })), Why::Host);
    }
    let policy = &mut sites.get_mut(&id(1)).unwrap().policy;
    policy.gateways.clear();
    let inward = ask(&sites, Spot::Outside, tcp(OUTSIDE, "198.18.0.8", 80));
    assert_eq!(stopped(&inward), Why::NoInternetGateway { vpc: id(1) });
}

#[test]
fn who_has_an_address_of_the_vpc_outside_is_seen_as_the_machine() {
    let mut sites: Sites = [(id(1), site(1))].into();
    let site = sites.get_mut(&id(1)).unwrap();
    site.open("10.1.1.4", PUBLIC);
    // What the VPC routes elsewhere would be answered there.
    site.translation.elsewhere = vec![net("203.0.113.0/24")];
    site.route(1, "203.0.113.0/24", Target::Blackhole);
    for stranger in ["10.1.1.5", "169.254.128.3", "203.0.113.5"] {
        let exchange = ask(&sites, Spot::Outside, tcp(stranger, PUBLIC, 80));
        assert!(exchange.passes(), "{exchange:?}");
        assert_eq!(exchange.answer.unwrap().end, Ok(Spot::Outside));
    }
}

#[test]
fn public_addresses_lead_from_one_vpc_to_another_and_back_into_the_same() {
    let mut sites: Sites = [(id(1), site(1)), (id(2), site(2))].into();
    for (number, public) in [(1, PUBLIC), (2, "198.18.0.8")] {
        sites.get_mut(&id(number)).unwrap().open(&format!("10.{number}.1.4"), public);
    }
    let exchange = ask(&sites, spot(1, 1), tcp("10.1.1.4", "198.18.0.8", 80));
    assert!(exchange.passes() && exchange.request.end == Ok(spot(2, 2)), "{exchange:?}");
    let first = sites.get_mut(&id(1)).unwrap();
    first.add(3, "10.1.1.5", 1);
    first.open("10.1.1.5", "198.18.0.9");
    let exchange = ask(&sites, spot(1, 1), tcp("10.1.1.4", "198.18.0.9", 80));
    assert!(exchange.passes() && exchange.request.end == Ok(spot(1, 3)), "{exchange:?}");
}

#[test]
fn a_nat_gateway_lends_its_address_and_takes_nothing_else() {
    let mut sites: Sites = [(id(1), site(1))].into();
    let site = sites.get_mut(&id(1)).unwrap();
    site.add(5, "10.1.1.9", 2).checks_source_and_destination = false;
    site.nat_gateways.insert(id(5), ip("10.1.1.9"));
    site.open("10.1.1.9", PUBLIC);
    site.add(6, "10.1.2.4", 1);
    site.route(2, "0.0.0.0/0", Target::Interface(id(5)));
    let exchange = ask(&sites, spot(1, 6), tcp("10.1.2.4", OUTSIDE, 443));
    assert!(exchange.passes() && exchange.request.end == Ok(Spot::Outside), "{exchange:?}");
    let nat = Passed::Nat { vpc: id(1), interface: id(5), was: ip("10.1.2.4"), is: ip("10.1.1.9") };
    assert!(exchange.request.passed.contains(&nat));
    let answer = exchange.answer.unwrap();
    let nat = Passed::Nat { vpc: id(1), interface: id(5), was: ip("10.1.1.9"), is: ip("10.1.2.4") };
    assert!(answer.passed.contains(&nat) && answer.end == Ok(spot(1, 6)), "{answer:?}");
    let inward = ask(&sites, Spot::Outside, tcp(OUTSIDE, PUBLIC, 80));
    assert_eq!(stopped(&inward), Why::Unsolicited { interface: id(5) });
}

#[test]
fn who_routes_for_others_sends_on_and_not_in_a_circle() {
    let mut sites: Sites = [(id(1), site(1))].into();
    let site = sites.get_mut(&id(1)).unwrap();
    site.add(3, "10.1.2.5", 2);
    site.add(4, "10.1.2.4", 1);
    site.route(1, "10.1.2.0/24", Target::Interface(id(3)));
    let packet = tcp("10.1.1.4", "10.1.2.4", 80);
    let closed = Stop::NotForInterface { interface: id(3) };
    assert_eq!(stopped(&ask(&sites, spot(1, 1), packet)), Why::Policy(closed));
    let router = sites.get_mut(&id(1)).unwrap().policy.interfaces.get_mut(&id(3)).unwrap();
    router.checks_source_and_destination = false;
    let exchange = ask(&sites, spot(1, 1), packet);
    assert!(exchange.request.passed.contains(&Passed::Router { vpc: id(1), interface: id(3) }));
    assert!(exchange.passes() && exchange.request.end == Ok(spot(1, 4)), "{exchange:?}");
    let site = sites.get_mut(&id(1)).unwrap();
    site.route(1, "192.168.0.0/16", Target::Interface(id(3)));
    site.route(2, "192.168.0.0/16", Target::Interface(id(3)));
    assert_eq!(stopped(&ask(&sites, spot(1, 1), tcp("10.1.1.4", "192.168.7.1", 80))), Why::Circle);
}

#[test]
fn an_answer_by_another_way_answers_nothing() {
    let mut sites = peers();
    let second = sites.get_mut(&id(2)).unwrap();
    second.open("10.2.1.4", PUBLIC);
    second.policy.route_tables.get_mut(&id(1)).unwrap().routes.remove(&net("10.1.0.0/16"));
    let exchange = ask(&sites, spot(1, 1), tcp("10.1.1.4", "10.2.1.4", 80));
    assert_eq!(unanswered(&exchange), Why::Policy(Stop::NoFlow));
}

#[test]
fn an_answer_to_another_vpc_is_none_there() {
    let mut sites = peers();
    let third = Gateway::Peering(id(8));
    let second = sites.get_mut(&id(2)).unwrap();
    second.peers.insert(id(8), id(3));
    second.policy.gateways.insert(third, ip("169.254.128.4"));
    second.route(1, "10.1.0.0/16", Target::Gateway(third));
    let mut other = site(3);
    other.policy.gateways.insert(third, ip("169.254.128.4"));
    sites.insert(id(3), other);
    let exchange = ask(&sites, spot(1, 1), tcp("10.1.1.4", "10.2.1.4", 80));
    assert_eq!(unanswered(&exchange), Why::Policy(Stop::NoFlow));
}

#[test]
fn what_the_vpc_itself_answers_passes_no_rule() {
    let mut sites: Sites = [(id(1), site(1))].into();
    sites.get_mut(&id(1)).unwrap().policy.acls.clear();
    let exchange = ask(&sites, spot(1, 1), tcp("10.1.1.4", "169.254.169.254", 80));
    assert!(exchange.passes(), "{exchange:?}");
}
