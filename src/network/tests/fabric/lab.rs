//! What the tests share: VPCs to fill, guests behind their ports, and what guests do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use network::policy::{
    Acl, AclEntry, Direction, Group, GroupRule, Interface, Peer, Port, Ports, RouteTable, Subnet, Traffic,
    Vpc, device_name,
};
use network::{Fabric, Ipv4Net, Namespace};
use types::{MacAddress, RandomId};

/// Long enough for a loaded machine; nothing waits that long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// For what must not arrive. A packet that does arrive takes a few milliseconds.
pub const SILENCE: Duration = Duration::from_millis(400);

pub fn id<T: RandomId>(number: u8) -> T {
    let mut bytes = [0; 16];
    bytes[0] = number;
    T::from_random(bytes)
}

pub fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub fn mac(number: u8) -> MacAddress {
    MacAddress::new([6, 0, 0, 0, 0, number])
}

pub fn everywhere() -> Peer {
    Peer::Range(Ipv4Net::default())
}

pub fn tcp(first: u16, last: u16) -> Traffic {
    Traffic::Tcp(Ports { first, last })
}

pub fn udp(port: u16) -> Traffic {
    Traffic::Udp(Ports { first: port, last: port })
}

pub const PING: Traffic = Traffic::Icmp { icmp_type: Some(8), code: None };

pub fn rule(number: u8, direction: Direction, traffic: Traffic, peer: Peer) -> GroupRule {
    GroupRule { id: id(number), direction, traffic, peer }
}

/// A group that lets everything out, and in what is named.
pub fn letting_in(rules: &[(Traffic, Peer)]) -> Group {
    let ingress =
        |(number, (traffic, peer)): (u8, &(Traffic, Peer))| rule(number, Direction::Ingress, *traffic, *peer);
    let egress = rule(0, Direction::Egress, Traffic::All, everywhere());
    Group { rules: [egress].into_iter().chain((1..).zip(rules).map(ingress)).collect() }
}

pub fn entry(direction: Direction, number: u16, allows: bool, traffic: Traffic, range: &str) -> AclEntry {
    AclEntry { direction, number, allows, traffic, range: net(range) }
}

pub fn open_acl() -> Acl {
    let open = |direction| entry(direction, 100, true, Traffic::All, "0.0.0.0/0");
    Acl { entries: vec![open(Direction::Ingress), open(Direction::Egress)] }
}

/// 10.0.0.0/16 with subnets 1, 10.0.1.0/24, and 2, 10.0.2.0/24, an open ACL for both and an empty route table for each. No interfaces.
pub fn vpc() -> Vpc {
    let subnet = |range, table| Subnet { range: net(range), acl: id(1), route_table: id(table) };
    Vpc {
        ranges: vec![net("10.0.0.0/16")],
        subnets: [(id(1), subnet("10.0.1.0/24", 1)), (id(2), subnet("10.0.2.0/24", 2))].into(),
        acls: [(id(1), open_acl())].into(),
        route_tables: [(id(1), RouteTable::default()), (id(2), RouteTable::default())].into(),
        ..Vpc::default()
    }
}

pub fn interface(number: u8, addresses: &[&str], groups: &[u8]) -> Interface {
    let first = ip(addresses[0]);
    Interface {
        subnet: id(first.octets()[2]),
        mac: mac(number),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        groups: groups.iter().map(|group| id(*group)).collect(),
        checks_source_and_destination: true,
        port: Port::Device,
    }
}

/// A VPC in force.
pub struct Lab {
    folder: tempfile::TempDir,
    pub fabric: Fabric,
    pub vpc: Vpc,
}

impl Lab {
    pub fn new(vpc: Vpc) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fabric = Fabric::open(&folder.path().join("vpc")).unwrap();
        let mut lab = Self { folder, fabric, vpc };
        lab.apply();
        lab
    }

    pub fn pin(&self) -> PathBuf {
        self.folder.path().join("vpc")
    }

    pub fn apply(&mut self) -> network::fabric::Report {
        self.fabric.apply(&self.vpc).unwrap()
    }

    /// Adds interface `number`, with a Linux behind it that has its addresses.
    pub fn guest(&mut self, number: u8, addresses: &[&str], groups: &[u8]) -> Guest {
        self.vpc.interfaces.insert(id(number), interface(number, addresses, groups));
        let guest = Guest { namespace: Namespace::create().unwrap() };
        guest.plug(self, number, "eth0");
        guest.number(addresses, "eth0");
        guest
    }

    pub fn group(&mut self, number: u8, group: Group) {
        self.vpc.groups.insert(id(number), group);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        Fabric::remove(&self.pin()).unwrap();
    }
}

/// A Linux that plays a guest.
pub struct Guest {
    pub namespace: Namespace,
}

impl Guest {
    /// Links it to an interface's port, and applies the VPC.
    pub fn plug(&self, lab: &mut Lab, number: u8, name: &str) {
        join(&self.namespace, name, lab.fabric.namespace(), &device_name(id(number)));
        run(&self.namespace, &format!("ip link set {name} address {} mtu 9001", mac(number)));
        run(&self.namespace, &format!("ip link set {name} up"));
        assert_eq!(lab.apply().missing, []);
    }

    /// As DHCP would: the addresses, the first with the way out.
    pub fn number(&self, addresses: &[&str], name: &str) {
        for address in addresses {
            run(&self.namespace, &format!("ip addr add {address}/24 dev {name}"));
        }
        let [a, b, c, _] = ip(addresses[0]).octets();
        run(&self.namespace, &format!("ip route replace default via {a}.{b}.{c}.1 dev {name}"));
    }

    pub fn listen(&self, port: u16) -> TcpListener {
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        self.namespace.run(bind).unwrap().unwrap()
    }

    pub fn connect(&self, to: &str, port: u16, patience: Duration) -> std::io::Result<TcpStream> {
        let to = SocketAddr::from((ip(to), port));
        self.namespace.run(|| TcpStream::connect_timeout(&to, patience)).unwrap()
    }

    pub fn reaches(&self, to: &str, port: u16) -> bool {
        self.connect(to, port, PATIENCE).is_ok()
    }

    pub fn misses(&self, to: &str, port: u16) -> bool {
        self.connect(to, port, SILENCE).is_err()
    }

    pub fn pings(&self, arguments: &str) -> bool {
        attempt(&self.namespace, &format!("ping -q -c 1 -W 0.4 {arguments}")).status.success()
    }
}

/// A socket that waits so long for what it is sent.
pub fn socket(namespace: &Namespace, address: &str, port: u16, patience: Duration) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((address, port))).unwrap().unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// Both ends of a connection.
pub struct Talk {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Talk {
    pub fn between(client: &Guest, listener: &TcpListener, to: &str) -> Self {
        let port = listener.local_addr().unwrap().port();
        let client = client.connect(to, port, PATIENCE).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { client, server }
    }

    /// Whether a word goes there and another back.
    pub fn goes_on(&mut self, patience: Duration) -> bool {
        hear(&mut self.client, &mut self.server, patience)
            && hear(&mut self.server, &mut self.client, patience)
    }
}

pub fn hear(from: &mut TcpStream, to: &mut TcpStream, patience: Duration) -> bool {
    from.write_all(b"word").unwrap();
    to.set_read_timeout(Some(patience)).unwrap();
    to.read_exact(&mut [0; 4]).is_ok()
}

/// Links two namespaces by a pair of interfaces.
pub fn join(one: &Namespace, name: &str, other: &Namespace, peer: &str) {
    // `ip` takes a namespace by its path, here that of our descriptor.
    let path = format!("/proc/{}/fd/{}", std::process::id(), other.as_fd().as_raw_fd());
    run(one, &format!("ip link add {name} type veth peer name {peer} netns {path}"));
}

/// Runs a command in `namespace` and gives its output; it must succeed.
pub fn run(namespace: &Namespace, command: &str) -> String {
    let output = attempt(namespace, command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn attempt(namespace: &Namespace, command: &str) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let words: Vec<_> = command.split(' ').collect();
    let spawn = || std::process::Command::new(words[0]).args(&words[1..]).env("PATH", path).output();
    let output = namespace.run(spawn).unwrap();
    output.unwrap_or_else(|error| panic!("{command} cannot be run ({error}); see scripts/deps"))
}

/// A device's own.
pub fn mac_of(namespace: &Namespace, device: &str) -> MacAddress {
    let text = run(namespace, &format!("ip -br link show {device}"));
    let mac = text.split_whitespace().nth(2).unwrap_or_else(|| panic!("no address in {text}"));
    mac.parse().unwrap()
}

/// How many frames a device has sent.
pub fn sent_by(namespace: &Namespace, device: &str) -> u64 {
    let shown = run(namespace, "cat /proc/net/dev");
    let line = shown.lines().find(|line| line.trim().starts_with(&format!("{device}:"))).unwrap();
    line.split_whitespace().nth(10).unwrap().parse().unwrap()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
