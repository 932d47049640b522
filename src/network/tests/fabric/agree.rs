//! What the model says of a packet is what the kernel does with it: VPCs made at random, and packets of all kinds sent into them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use network::Ipv4Net;
use network::policy::{
    Acl, AclEntry, Direction, Flow, Gateway, Group, GroupRule, Outcome, Packet, Peer, Place, Ports,
    RouteTable, Target, Traffic, Transport, Vpc, device_name,
};
use proptest::prelude::*;
use proptest::sample::select;
use types::MacAddress;

use crate::frame::{CLIENT_PORTS, Wire, bytes_of, number_of};
use crate::lab::{Lab, id, interface, ip, mac, mac_of, net, run, vpc};

const GATEWAY_MAC: MacAddress = MacAddress::new([6, 0, 0, 0, 1, 1]);
const ADDRESSES: [&str; 5] = ["10.0.1.4", "10.0.1.5", "10.0.2.4", "10.0.2.5", "10.0.1.6"];
/// Not of the VPC, but for the last, which nobody has.
const ELSEWHERE: [&str; 5] = ["192.168.1.9", "192.168.2.9", "203.0.113.9", "172.16.3.4", "10.0.3.3"];

fn gateway() -> Gateway {
    Gateway::Internet(id(1))
}

fn ports() -> impl Strategy<Value = Ports> {
    select(vec![(80, 80), (443, 443), (0, 65_535), (1024, 65_535), (75, 90), (400, 500)])
        .prop_map(|(first, last)| Ports { first, last })
}

fn traffic() -> impl Strategy<Value = Traffic> {
    prop_oneof![
        4 => Just(Traffic::All),
        1 => ports().prop_map(Traffic::Tcp),
        1 => ports().prop_map(Traffic::Udp),
        1 => select(vec![(None, None), (Some(8), None), (Some(13), Some(0))])
            .prop_map(|(icmp_type, code)| Traffic::Icmp { icmp_type, code }),
        1 => select(vec![6, 17, 50]).prop_map(Traffic::Protocol),
    ]
}

fn range() -> impl Strategy<Value = Ipv4Net> {
    let narrow = select(vec![
        "10.0.0.0/16",
        "10.0.1.0/24",
        "10.0.2.0/24",
        "10.0.1.4/32",
        "10.0.2.5/32",
        "192.168.0.0/16",
        "192.168.1.0/24",
        "203.0.113.0/24",
    ]);
    prop_oneof![1 => Just("0.0.0.0/0"), 1 => narrow].prop_map(net)
}

fn direction() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Ingress, Direction::Egress])
}

fn group() -> impl Strategy<Value = Group> {
    let peer = prop_oneof![3 => range().prop_map(Peer::Range), 1 => (1u8..5).prop_map(|group| Peer::Group(id(group)))];
    let rule = (direction(), traffic(), peer);
    prop::collection::vec(rule, 2..10).prop_map(|rules| {
        let rule =
            |(number, (direction, traffic, peer))| GroupRule { id: id(number), direction, traffic, peer };
        Group { rules: (1..).zip(rules).map(rule).collect() }
    })
}

fn acl() -> impl Strategy<Value = Acl> {
    let entry = (direction(), prop::bool::weighted(0.85), traffic(), range());
    prop::collection::vec(entry, 2..9).prop_map(|entries| {
        let entry = |(number, (direction, allows, traffic, range))| AclEntry {
            direction,
            number,
            allows,
            traffic,
            range,
        };
        Acl { entries: (1..).zip(entries).map(entry).collect() }
    })
}

fn routes() -> impl Strategy<Value = RouteTable> {
    let target = prop_oneof![
        Just(Target::Blackhole),
        Just(Target::Gateway(gateway())),
        Just(Target::Gateway(Gateway::Peering(id(9)))),
        (1u8..6).prop_map(|number| Target::Interface(id(number))),
    ];
    let destination =
        select(vec!["0.0.0.0/0", "192.168.0.0/16", "192.168.1.0/24", "10.0.2.0/24", "172.16.0.0/12"]);
    prop::collection::btree_map(destination.prop_map(net), target, 0..4)
        .prop_map(|routes| RouteTable { routes })
}

/// Of two subnets and five interfaces, each of which may take what is not its own.
fn any_vpc() -> impl Strategy<Value = Vpc> {
    let interfaces = prop::collection::vec(
        (prop::collection::vec(1u8..4, 1..4), prop::bool::weighted(0.75)),
        ADDRESSES.len() - 1,
    );
    let groups = prop::collection::vec(group(), 3);
    let open = prop::bool::weighted(0.5);
    (interfaces, groups, (acl(), acl(), open), (routes(), routes())).prop_map(
        |(interfaces, groups, (first_acl, second_acl, is_open), (first_table, second_table))| {
            let mut made = vpc();
            for (number, (groups, checks)) in (1..).zip(interfaces) {
                let address = ADDRESSES[usize::from(number) - 1];
                // The first has another address beside its own.
                let addresses = if number == 1 { vec![address, ADDRESSES[4]] } else { vec![address] };
                let mut new = interface(number, &addresses, &groups);
                new.checks_source_and_destination = checks;
                made.interfaces.insert(id(number), new);
            }
            made.groups = (1..).zip(groups).map(|(number, group)| (id(number), group)).collect();
            if !is_open {
                made.acls = [(id(1), first_acl), (id(2), second_acl)].into();
                made.subnets.get_mut(&id(2)).unwrap().acl = id(2);
            }
            made.route_tables = [(id(1), first_table), (id(2), second_table)].into();
            // A peer's: of them the gateway's packets come.
            made.peer_members = [(id(4), ELSEWHERE[1..3].iter().map(|text| ip(text)).collect())].into();
            made.gateways = BTreeMap::from([(gateway(), ip("169.254.128.0"))]);
            made
        },
    )
}

fn any_address() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![4 => select(ADDRESSES.to_vec()), 1 => select(ELSEWHERE.to_vec())].prop_map(ip)
}

fn transport() -> impl Strategy<Value = Transport> {
    let port = || select(vec![80, 443, 8080, 22]);
    prop_oneof![
        port().prop_map(|destination| Transport::Tcp { source: 0, destination }),
        port().prop_map(|destination| Transport::Udp { source: 0, destination }),
        select(vec![(8, 0), (8, 0), (13, 0), (13, 1), (3, 1)])
            .prop_map(|(icmp_type, code)| Transport::Icmp { icmp_type, code }),
        select(vec![50u8, 99]).prop_map(Transport::Other),
    ]
}

#[derive(Debug, Clone)]
struct Sent {
    /// An interface, or 0 for the gateway.
    from: u8,
    /// None: the sender's own.
    source: Option<Ipv4Addr>,
    destination: Ipv4Addr,
    transport: Transport,
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let source = prop::option::weighted(0.15, any_address());
    (0u8..5, source, any_address(), transport()).prop_map(|(from, source, destination, transport)| Sent {
        from,
        source,
        destination,
        transport,
    })
}

struct World {
    lab: Lab,
    wires: BTreeMap<u8, Wire>,
    router: BTreeMap<u8, MacAddress>,
    number: u16,
    others: BTreeSet<(Ipv4Addr, Ipv4Addr, u8)>,
}

impl World {
    fn new(vpc: Vpc) -> Self {
        let mut lab = Lab::new(vpc);
        let namespace = lab.fabric.namespace();
        let devices = (1..=4).map(|number| (number, device_name(id(number)), mac(number)));
        let devices: Vec<_> = devices.chain([(0, gateway().device_name(), GATEWAY_MAC)]).collect();
        let wires =
            devices.iter().map(|(number, name, mac)| (*number, Wire::new(namespace, name, *mac))).collect();
        let out = gateway().device_name();
        run(namespace, &format!("ip link set {out} up"));
        run(namespace, &format!("ip neigh add 169.254.128.0 lladdr {GATEWAY_MAC} dev {out} nud permanent"));
        let router = devices.iter().map(|(number, name, _)| (*number, mac_of(namespace, name))).collect();
        assert_eq!(lab.apply().missing, []);
        // Packets of the kernel's own that come with a device's start.
        let mut world = Self { lab, wires, router, number: 0, others: BTreeSet::new() };
        world.arrived(u16::MAX);
        world
    }

    fn send(&mut self, from: u8, packet: &Packet, echo: u16) -> Option<u8> {
        self.number += 1;
        let (number, router) = (self.number, self.router[&from]);
        self.wires.get_mut(&from).unwrap().send(router, &bytes_of(packet, number, echo));
        self.arrived(number)
    }

    /// Where the packet with this number is.
    fn arrived(&mut self, number: u16) -> Option<u8> {
        let mut places = Vec::new();
        for (place, wire) in &mut self.wires {
            let is_it = |packet: &Vec<u8>| number_of(packet) == number && packet[8] == 63;
            places.extend(wire.packets().iter().filter(|packet| is_it(packet)).map(|_| *place));
        }
        assert!(places.len() <= 1, "a packet is at {places:?}");
        places.pop()
    }
}

fn place(number: u8) -> Place {
    if number == 0 { Place::Gateway(gateway()) } else { Place::Interface(id(number)) }
}

fn number(place: Place) -> u8 {
    (0..5).find(|number| self::place(*number) == place).unwrap_or(u8::MAX)
}

fn expected(vpc: &Vpc, from: u8, packet: &Packet, flow: Flow) -> Option<u8> {
    match vpc.verdict(place(from), None, packet, flow).outcome {
        Outcome::Arrives(place) => Some(number(place)),
        Outcome::Stopped(_) => None,
    }
}

fn check(world: &mut World, vpc: &Vpc, sent: &Sent, port: u16) -> Result<(), TestCaseError> {
    let own = if sent.from == 0 { ip("203.0.113.9") } else { ip(ADDRESSES[usize::from(sent.from) - 1]) };
    let source = sent.source.unwrap_or(own);
    // A flow of its own: none is known from a packet before.
    let transport = match sent.transport {
        Transport::Tcp { destination, .. } => Transport::Tcp { source: port, destination },
        Transport::Udp { destination, .. } => Transport::Udp { source: port, destination },
        other => other,
    };
    let packet = Packet { source, destination: sent.destination, transport };
    if source == packet.destination {
        return Ok(());
    }
    if let Transport::Other(protocol) = transport {
        // Nothing tells its flows apart, so one that answers an earlier one begins none.
        if world.others.contains(&(packet.destination, source, protocol)) {
            return Ok(());
        }
        world.others.insert((source, packet.destination, protocol));
    }
    let arrived = world.send(sent.from, &packet, port);
    prop_assert_eq!(
        arrived,
        expected(vpc, sent.from, &packet, Flow::Begins),
        "{:?}: {:?}",
        packet,
        vpc.verdict(place(sent.from), None, &packet, Flow::Begins)
    );
    let Some(at) = arrived else { return Ok(()) };
    let answer = packet.answer();
    prop_assert_eq!(
        world.send(at, &answer, port),
        expected(vpc, at, &answer, Flow::Answers(packet)),
        "{:?}: {:?}",
        answer,
        vpc.verdict(place(at), None, &answer, Flow::Answers(packet))
    );
    if matches!(transport, Transport::Udp { .. } | Transport::Icmp { .. }) {
        goes_on(world, vpc, &packet, port)?;
    }
    Ok(())
}

/// Sends the packet of a flow that is known again, also from where it may not come.
fn goes_on(world: &mut World, vpc: &Vpc, packet: &Packet, port: u16) -> Result<(), TestCaseError> {
    for from in 0..5 {
        let flow = Flow::Continues(*packet);
        prop_assert_eq!(
            world.send(from, packet, port),
            expected(vpc, from, packet, flow),
            "{:?} again: {:?}",
            packet,
            vpc.verdict(place(from), None, packet, flow)
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_does_what_the_model_says(
        first in any_vpc(), second in any_vpc(), sent in prop::collection::vec(any_sent(), 40)
    ) {
        let mut world = World::new(first.clone());
        let mut port = CLIENT_PORTS;
        // The second time, by the rules that the first ones were changed into.
        for vpc in [first, second] {
            world.lab.vpc = vpc.clone();
            world.lab.apply();
            for sent in &sent {
                port += 1;
                check(&mut world, &vpc, sent, port)?;
            }
        }
    }
}
