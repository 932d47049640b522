//! A VPC to measure, with as many interfaces and rules as asked for. Run by `scripts/bench network`, as root:
//!
//! ```text
//! fabric_bench FOLDER INTERFACES RULES
//! ```
//!
//! Pins the VPC's namespace at FOLDER/vpc, and those of two guests in different subnets of it, 10.0.0.10 and 10.0.128.10, at FOLDER/client
//! and FOLDER/server. The others are taps that nobody reads. Metadata is served at all of them. Prints `ready`. For each line on its standard input it
//! changes a rule, and prints how many microseconds that took. All is gone when its input ends.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use metadata::{Service, TokenKey};
use network::policy::{
    Acl, AclEntry, Direction, Group, GroupRule, Interface, Peer, Port, Ports, RouteTable, Subnet, Target,
    Traffic, Vpc, device_name,
};
use network::{Fabric, Ipv4Net, Namespace, Tap};
use tokio::runtime::Runtime;
use types::{MacAddress, RandomId, SystemClock};

/// Fewer than a group may have by AWS's default quota.
const RULES_PER_GROUP: u32 = 50;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder"));
    let mut number = || arguments.next().expect("a number").parse::<u32>().expect("a number");
    let (interfaces, rules) = (number().max(2), number().max(RULES_PER_GROUP));

    let mut vpc = vpc(interfaces, rules);
    let mut fabric = Fabric::open(&folder.join("vpc")).unwrap();
    let guests = ["client", "server"].map(|name| guest(&folder.join(name)));
    for (number, guest) in (0..).zip(&guests) {
        plug(&fabric, guest, number);
    }
    let tap = |number| Tap::create(fabric.namespace(), &device_name(id(number)), 1).unwrap();
    let taps: Vec<_> = (2..interfaces).map(tap).collect();
    let report = fabric.apply(&vpc).unwrap();
    assert!(report.missing.is_empty(), "{} devices are missing", report.missing.len());
    let _metadata = serve_metadata(&fabric, interfaces);
    println!("ready");
    for (round, line) in (1u16..).zip(std::io::stdin().lock().lines()) {
        line.unwrap();
        let group = vpc.groups.get_mut(&id(0)).unwrap();
        group.rules[1].traffic = Traffic::Tcp(Ports { first: round, last: round });
        let start = Instant::now();
        fabric.apply(&vpc).unwrap();
        println!("{}", start.elapsed().as_micros());
    }
    drop(taps);
    for pin in ["client", "server"] {
        Namespace::unpin(&folder.join(pin)).unwrap();
    }
    Fabric::remove(&folder.join("vpc")).unwrap();
}

fn id<T: RandomId>(number: u32) -> T {
    T::from_random(u128::from(number).to_le_bytes())
}

/// One half of the interfaces in each of two subnets.
fn address(number: u32) -> Ipv4Addr {
    let [.., high, low] = (10 + number / 2).to_be_bytes();
    Ipv4Addr::new(10, 0, if number.is_multiple_of(2) { high } else { high | 128 }, low)
}

fn mac(number: u32) -> MacAddress {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddress::new([6, 0, a, b, c, d])
}

fn vpc(interfaces: u32, rules: u32) -> Vpc {
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    let groups = rules / RULES_PER_GROUP;
    let interface = |number: u32| Interface {
        subnet: id(number % 2),
        mac: mac(number),
        addresses: vec![address(number)],
        groups: vec![id(number % groups)],
        checks_source_and_destination: true,
        port: Port::Device,
    };
    let subnet = |range| Subnet { range: net(range), acl: id(0), route_table: id(0) };
    // One that stops something is looked at for every packet.
    let entry = |direction, number, allows, traffic| AclEntry {
        direction,
        number,
        allows,
        traffic,
        range: Ipv4Net::default(),
    };
    let both = |direction| {
        let telnet = Traffic::Tcp(Ports { first: 23, last: 23 });
        [entry(direction, 90, false, telnet), entry(direction, 100, true, Traffic::All)]
    };
    let entries = [Direction::Ingress, Direction::Egress].into_iter().flat_map(both).collect();
    let routes = BTreeMap::from([(net("192.168.0.0/16"), Target::Blackhole)]);
    Vpc {
        ranges: vec![net("10.0.0.0/16")],
        subnets: [(id(0), subnet("10.0.0.0/17")), (id(1), subnet("10.0.128.0/17"))].into(),
        interfaces: (0..interfaces).map(|number| (id(number), interface(number))).collect(),
        groups: (0..groups).map(|number| (id(number), group(number, groups))).collect(),
        acls: [(id(0), Acl { entries })].into(),
        route_tables: [(id(0), RouteTable { routes })].into(),
        ..Vpc::default()
    }
}

/// Ports and ranges of all kinds; the last rule lets the measured flow in.
fn group(number: u32, groups: u32) -> Group {
    let rule_of = |at: u32, direction, traffic, peer| {
        let id = id(number * RULES_PER_GROUP + at);
        GroupRule { id, direction, traffic, peer }
    };
    let rule = |at: u32| {
        let first = u16::try_from(100 + 7 * at).unwrap();
        let ports = Ports { first, last: if at.is_multiple_of(3) { first + 20 } else { first } };
        let low = u8::try_from(at).unwrap();
        let range = Ipv4Net::new(Ipv4Addr::new(10, low % 4, low, 0), 16 + low % 9).unwrap();
        let peer = if at.is_multiple_of(10) {
            Peer::Group(id((number + 1) % groups))
        } else {
            Peer::Range(range.trunc())
        };
        let traffic = if at.is_multiple_of(2) { Traffic::Udp(ports) } else { Traffic::Tcp(ports) };
        rule_of(at, Direction::Ingress, traffic, peer)
    };
    let everywhere = Peer::Range(Ipv4Net::default());
    let measured = Traffic::Tcp(Ports { first: 5201, last: 5201 });
    let last = RULES_PER_GROUP - 1;
    let rest = [
        rule_of(last - 1, Direction::Egress, Traffic::All, everywhere),
        rule_of(last, Direction::Ingress, measured, everywhere),
    ];
    Group { rules: (0..last - 1).map(rule).chain(rest).collect() }
}

/// As `nimbo serve` does: a socket for each interface, on one runtime.
fn serve_metadata(fabric: &Fabric, interfaces: u32) -> Runtime {
    let runtime = Runtime::new().unwrap();
    for number in 0..interfaces {
        let listener = network::metadata_listener(fabric.namespace(), &device_name(id(number))).unwrap();
        let key = TokenKey::generate(&mut [3; 32].as_slice()).unwrap();
        let service = Arc::new(Service::new(metadata::testing::instance(), key, Arc::new(SystemClock)));
        runtime.spawn(metadata::serve(listener, service));
    }
    runtime
}

fn guest(pin: &Path) -> Namespace {
    let guest = Namespace::create().unwrap();
    guest.pin(pin).unwrap();
    guest
}

fn plug(fabric: &Fabric, guest: &Namespace, number: u32) {
    let device = device_name(id(number));
    let path = format!("/proc/{}/fd/{}", std::process::id(), fabric.namespace().as_fd().as_raw_fd());
    let router = if number == 0 { "10.0.0.1" } else { "10.0.128.1" };
    for command in [
        format!("link add eth0 type veth peer name {device} netns {path}"),
        format!("link set eth0 address {} mtu {} up", mac(number), network::fabric::MTU),
        format!("addr add {}/17 dev eth0", address(number)),
        format!("route add default via {router}"),
    ] {
        let run = || Command::new("ip").args(command.split(' ')).status().unwrap();
        assert!(guest.run(run).unwrap().success(), "ip {command}");
    }
}
