use types::RandomId;

use super::*;

fn id<T: RandomId>(number: u8) -> T {
    let mut bytes = [0; 16];
    bytes[0] = number;
    T::from_random(bytes)
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn ports(first: u16, last: u16) -> Ports {
    Ports { first, last }
}

fn rule(number: u8, direction: Direction, traffic: Traffic, peer: Peer) -> GroupRule {
    GroupRule { id: id(number), direction, traffic, peer }
}

fn everywhere() -> Peer {
    Peer::Range(Ipv4Net::default())
}

/// Lets everything pass, in both directions.
fn open_acl() -> Acl {
    let entry = |direction| AclEntry {
        direction,
        number: 100,
        allows: true,
        traffic: Traffic::All,
        range: Ipv4Net::default(),
    };
    Acl { entries: vec![entry(Direction::Ingress), entry(Direction::Egress)] }
}

fn interface(number: u8, subnet: u8, addresses: &[&str], groups: &[u8]) -> (NetworkInterfaceId, Interface) {
    let interface = Interface {
        subnet: id(subnet),
        mac: MacAddress::new([6, 0, 0, 0, 0, number]),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        groups: groups.iter().map(|group| id(*group)).collect(),
        checks_source_and_destination: true,
        port: Port::Device,
    };
    (id(number), interface)
}

/// Two subnets, three interfaces, and an ACL that lets everything pass.
fn small() -> Vpc {
    let subnet = |range| Subnet { range: net(range), acl: id(1), route_table: id(1) };
    let web = Group {
        rules: vec![
            rule(1, Direction::Egress, Traffic::All, everywhere()),
            rule(2, Direction::Ingress, Traffic::Tcp(ports(80, 80)), everywhere()),
            rule(3, Direction::Ingress, Traffic::Tcp(ports(22, 22)), Peer::Range(net("10.0.2.0/24"))),
            rule(4, Direction::Ingress, Traffic::All, Peer::Group(id(1))),
        ],
    };
    let data = Group {
        rules: vec![
            rule(5, Direction::Ingress, Traffic::Tcp(ports(5432, 5433)), Peer::Group(id(1))),
            rule(
                6,
                Direction::Ingress,
                Traffic::Icmp { icmp_type: Some(8), code: None },
                Peer::Range(net("10.0.0.0/16")),
            ),
        ],
    };
    Vpc {
        ranges: vec![net("10.0.0.0/16")],
        subnets: [(id(1), subnet("10.0.1.0/24")), (id(2), subnet("10.0.2.0/24"))].into(),
        interfaces: [
            interface(1, 1, &["10.0.1.4"], &[1]),
            interface(2, 1, &["10.0.1.5", "10.0.1.6"], &[1, 2]),
            interface(3, 2, &["10.0.2.4"], &[2]),
        ]
        .into(),
        groups: [(id(1), web), (id(2), data)].into(),
        peer_members: BTreeMap::new(),
        acls: [(id(1), open_acl())].into(),
        route_tables: [(id(1), RouteTable::default())].into(),
        gateways: BTreeMap::new(),
    }
}

/// With all that a VPC can have: ACLs that stop something, a router, a service, gateways, a peer's group.
fn large() -> Vpc {
    let mut vpc = small();
    let entry = |direction, number, allows, traffic, range| AclEntry {
        direction,
        number,
        allows,
        traffic,
        range: net(range),
    };
    let acl = Acl {
        entries: vec![
            entry(Direction::Ingress, 90, false, Traffic::Tcp(ports(22, 22)), "10.0.1.5/32"),
            entry(Direction::Ingress, 100, true, Traffic::All, "10.0.0.0/16"),
            entry(Direction::Egress, 100, true, Traffic::Tcp(ports(1024, 65535)), "0.0.0.0/0"),
            entry(
                Direction::Egress,
                110,
                true,
                Traffic::Icmp { icmp_type: Some(0), code: Some(0) },
                "0.0.0.0/0",
            ),
            entry(Direction::Egress, 120, false, Traffic::Protocol(47), "0.0.0.0/0"),
        ],
    };
    vpc.acls.insert(id(2), acl);
    if let Some(subnet) = vpc.subnets.get_mut(&id::<SubnetId>(2)) {
        (subnet.acl, subnet.route_table) = (id(2), id(2));
    }
    let (router, mut appliance) = interface(4, 2, &["10.0.2.5"], &[1]);
    appliance.checks_source_and_destination = false;
    vpc.interfaces.insert(router, appliance);
    let (service, mut balancer) = interface(5, 1, &["10.0.1.9"], &[1]);
    balancer.port = Port::Local;
    vpc.interfaces.insert(service, balancer);
    if let Some(data) = vpc.groups.get_mut(&id::<SecurityGroupId>(2)) {
        data.rules.push(rule(7, Direction::Ingress, Traffic::Tcp(ports(3306, 3306)), Peer::Group(id(3))));
    }
    vpc.peer_members.insert(id(3), [address("172.16.0.4"), address("172.16.0.5")].into());
    let internet = Gateway::Internet(id(1));
    vpc.gateways.insert(internet, address("169.254.128.0"));
    let routes = [
        (net("0.0.0.0/0"), Target::Gateway(internet)),
        (net("10.9.0.0/16"), Target::Blackhole),
        (net("192.168.0.0/16"), Target::Interface(router)),
        (net("172.16.0.0/12"), Target::Gateway(Gateway::Peering(id(7)))),
    ];
    vpc.route_tables.insert(id(2), RouteTable { routes: routes.into() });
    vpc
}

/// Compares with a file beside this one; with `UPDATE_GOLDEN` set, writes it.
fn compare(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policy/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(golden == text, "{} is not what was made now:\n{text}", path.display());
}

#[test]
fn a_vpcs_rules_are_those_in_the_files() {
    compare("small.nft", &Ruleset::of(&small()).text());
    compare("large.nft", &Ruleset::of(&large()).text());
}

#[test]
fn a_changed_rule_is_a_few_lines() {
    let (old, mut vpc) = (Ruleset::of(&large()), large());
    if let Some(group) = vpc.groups.get_mut(&id::<SecurityGroupId>(1)) {
        group.rules[1].traffic = Traffic::Tcp(ports(443, 443));
    }
    let new = Ruleset::of(&vpc);
    assert_ne!(old.generation(), new.generation());
    compare("changed-rule.nft", &new.change_from(&old));
    assert_eq!(new.change_from(&new), "");
}

#[test]
fn a_router_that_comes_changes_what_it_must() {
    compare("small-to-large.nft", &Ruleset::of(&large()).change_from(&Ruleset::of(&small())));
    compare("large-to-small.nft", &Ruleset::of(&small()).change_from(&Ruleset::of(&large())));
}

#[test]
fn the_same_vpc_has_the_same_generation_whoever_asks() {
    assert_eq!(Ruleset::of(&small()).generation(), Ruleset::of(&small()).generation());
    assert_ne!(Ruleset::of(&small()).generation(), 0);
}

fn tcp(source: &str, destination: &str, port: u16) -> Packet {
    let transport = Transport::Tcp { source: 40_000, destination: port };
    Packet { source: address(source), destination: address(destination), transport }
}

fn outcome(vpc: &Vpc, from: u8, packet: &Packet, flow: Flow) -> Outcome {
    vpc.verdict(Place::Interface(id(from)), None, packet, flow).outcome
}

fn arrives(at: u8) -> Outcome {
    Outcome::Arrives(Place::Interface(id(at)))
}

#[test]
fn a_verdict_names_what_passed_a_packet() {
    let vpc = large();
    let packet = tcp("10.0.1.5", "10.0.2.4", 5432);
    let verdict = vpc.verdict(Place::Interface(id(2)), None, &packet, Flow::Begins);
    assert_eq!(verdict.outcome, arrives(3));
    let steps = [
        Step::Route { subnet: id(1), route: None },
        Step::Acl { subnet: id(1), acl: id(1), direction: Direction::Egress, number: 100 },
        Step::Acl { subnet: id(2), acl: id(2), direction: Direction::Ingress, number: 100 },
        Step::Rule { interface: id(2), direction: Direction::Egress, group: id(1), rule: id(1) },
        Step::Rule { interface: id(3), direction: Direction::Ingress, group: id(2), rule: id(5) },
    ];
    assert_eq!(verdict.steps, steps);
}

#[test]
fn a_verdict_names_what_stopped_a_packet() {
    let vpc = large();
    let stopped = |from, packet: &Packet, flow| match outcome(&vpc, from, packet, flow) {
        Outcome::Stopped(stop) => stop,
        Outcome::Arrives(place) => panic!("{packet:?} arrives at {place:?}"),
    };
    let acl = |direction, number| Stop::Acl { subnet: id(2), acl: id(2), direction, number };
    for (from, packet, stop) in [
        (1, tcp("10.0.1.9", "10.0.2.4", 80), Stop::Spoofed { source: address("10.0.1.9") }),
        (1, tcp("10.0.1.4", "10.0.3.4", 80), Stop::NobodyThere),
        (1, tcp("10.0.1.4", "203.0.113.1", 80), Stop::NoRoute),
        (4, tcp("10.0.2.5", "10.9.3.4", 80), Stop::Blackhole { destination: net("10.9.0.0/16") }),
        (4, tcp("10.0.2.5", "172.16.3.4", 80), Stop::Blackhole { destination: net("172.16.0.0/12") }),
        (2, tcp("10.0.1.5", "10.0.2.4", 22), acl(Direction::Ingress, Some(90))),
        (4, tcp("10.0.2.5", "10.0.1.4", 80), acl(Direction::Egress, None)),
        (
            1,
            tcp("10.0.1.4", "10.0.2.4", 80),
            Stop::NoRule { interface: id(3), direction: Direction::Ingress },
        ),
        (
            3,
            tcp("10.0.2.4", "10.0.1.4", 8080),
            Stop::NoRule { interface: id(3), direction: Direction::Egress },
        ),
        (1, tcp("10.0.1.4", "10.0.0.2", 80), Stop::NotAnswered),
    ] {
        assert_eq!(stopped(from, &packet, Flow::Begins), stop, "{packet:?}");
    }
}

#[test]
fn an_answer_passes_groups_and_not_acls() {
    let vpc = large();
    let begun = tcp("10.0.1.5", "10.0.2.4", 5432);
    let answer = |port| {
        let transport = Transport::Tcp { source: 5432, destination: port };
        Packet { source: begun.destination, destination: begun.source, transport }
    };
    assert_eq!(outcome(&vpc, 3, &answer(40_000), Flow::Answers(begun)), arrives(2));
    let denied = Stop::Acl { subnet: id(2), acl: id(2), direction: Direction::Egress, number: None };
    assert_eq!(outcome(&vpc, 3, &answer(800), Flow::Answers(begun)), Outcome::Stopped(denied));
}
