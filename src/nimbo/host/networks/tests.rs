//! What is made of records, and what is kept of it, as root. What passes is in the tests of the crate `network`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::ports::{
    GuestSpec, InterfaceSpec, MachineSpec, MetadataOptions, Networks as _, PortSpec, SubnetSpec, VpcSpec,
};
use control::records::{
    DhcpOptions, Direction, EventCode, EventState, InstanceEvent, InstanceNotices, InterfaceOwner,
    Interruption, InterruptionAction, NameServer, Peer, Route, RouteTable, RouteTarget, SecurityGroup,
    SecurityGroupRule, Traffic,
};
use metadata::{Answer, Method, Request};
use network::Fabric;
use network::dns::Verdict;
use network::policy::{DropReason, Gateway, Target, device_name};
use tokio::runtime::Handle;
use types::{InternetGatewayId, MacAddress, NatGatewayId, RandomId};

use super::Networks;
use super::guest::{known_notices, lease, names};
use super::policy::{nat_gateways, policy, translation};
use super::vpc::Guest;

const PATIENCE: Duration = Duration::from_secs(30);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 4);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 7);

fn id<Id: RandomId>(number: u8) -> Id {
    Id::from_random([number; 16])
}

fn interface(number: u8, address: Ipv4Addr, public: Option<Ipv4Addr>) -> InterfaceSpec {
    let [a, b, c, d] = address.octets();
    InterfaceSpec {
        id: id(number),
        mac: MacAddress::new([6, 0, 0, 0, 0, number]),
        device_index: 0,
        addresses: vec![(address, public)],
        host_name: format!("ip-{a}-{b}-{c}-{d}.ec2.internal"),
        public_host_name: public.map(|_| "ec2-198-18-0-7.compute-1.amazonaws.com".to_owned()),
        subnet: id(1),
        subnet_range: "10.0.1.0/24".parse().unwrap(),
        vpc: id(1),
        vpc_ranges: vec!["10.0.0.0/16".parse().unwrap()],
        groups: vec![(id(1), "web".to_owned())],
    }
}

/// A guest with a public address, and a NAT gateway.
fn spec() -> VpcSpec {
    let guest = PortSpec {
        interface: interface(1, ADDRESS, Some(PUBLIC)),
        checks_source_and_destination: true,
        owner: InterfaceOwner::User,
    };
    let nat = PortSpec {
        interface: interface(2, Ipv4Addr::new(10, 0, 1, 9), None),
        checks_source_and_destination: true,
        owner: InterfaceOwner::NatGateway(id(3)),
    };
    let rule = |number, peer| SecurityGroupRule {
        id: id(number),
        direction: Direction::Ingress,
        traffic: Traffic::All,
        peer,
        description: None,
    };
    let group = SecurityGroup {
        id: id(1),
        vpc: id(1),
        name: "web".to_owned(),
        description: String::new(),
        rules: vec![
            rule(1, Peer::Range("192.0.2.0/24".parse().unwrap())),
            rule(2, Peer::Range6("2001:db8::/32".parse().unwrap())),
        ],
    };
    let route = |destination: &str, target| Route { destination: destination.parse().unwrap(), target };
    let routes = vec![
        route("0.0.0.0/0", RouteTarget::InternetGateway(id(4))),
        route("192.0.2.0/24", RouteTarget::NatGateway(id(3))),
        route("203.0.113.0/24", RouteTarget::NatGateway(id(5))),
    ];
    VpcSpec {
        id: id(1),
        domain: "ec2.internal".to_owned(),
        ranges: vec!["10.0.0.0/16".parse().unwrap()],
        has_resolver: true,
        dhcp_options: None,
        subnets: vec![SubnetSpec {
            id: id(1),
            range: "10.0.1.0/24".parse().unwrap(),
            acl: id(1),
            route_table: id(1),
        }],
        groups: vec![Arc::new(group)],
        acls: Vec::new(),
        route_tables: vec![Arc::new(RouteTable { id: id(1), vpc: id(1), routes, associations: Vec::new() })],
        internet_gateway: Some(id(4)),
        peerings: BTreeMap::new(),
        peer_members: BTreeMap::new(),
        peer_names: BTreeMap::new(),
        balancer_names: BTreeMap::new(),
        interfaces: vec![guest, nat],
        notices: BTreeMap::new(),
    }
}

#[test]
fn routes_lead_to_gateways_that_are_there() {
    let spec = spec();
    let vpc = policy(&spec);
    let routes: Vec<_> = vpc.route_tables[&id(1)].routes.values().copied().collect();
    let internet = Target::Gateway(Gateway::Internet(id(4)));
    assert_eq!(routes, [internet, Target::Interface(id(2)), Target::Blackhole]);
    let gateways = nat_gateways(&spec);
    let made = &gateways[&id(3)];
    assert_eq!((gateways.len(), &made.device), (1, &device_name(id(2))));
    assert_eq!(made.router, Ipv4Addr::new(10, 0, 1, 1));
    assert_eq!(translation(&spec).public, [(ADDRESS, PUBLIC)].into());
}

#[test]
fn a_nat_gateway_has_no_groups_and_a_guest_has_its_own() {
    let vpc = policy(&spec());
    let (guest, nat) = (&vpc.interfaces[&id(1)], &vpc.interfaces[&id(2)]);
    assert!(guest.checks_source_and_destination && !nat.checks_source_and_destination);
    assert_eq!(guest.groups, [id(1)]);
    // No packet here has the addresses of the other rule.
    assert_eq!(vpc.groups[&id(1)].rules.len(), 1);
    assert_eq!(vpc.groups[&nat.groups[0]].rules.len(), 2);
    assert_ne!(nat.groups, guest.groups);
}

#[test]
fn dhcp_tells_what_the_option_set_says() {
    let mut spec = spec();
    let told = |spec: &VpcSpec| lease(spec, &spec.interfaces[0].interface).unwrap();
    let plain = told(&spec);
    assert_eq!((plain.address, plain.host_name.as_str(), plain.mtu), (ADDRESS, "ip-10-0-1-4", 9001));
    assert!(plain.resolvers.is_empty() && plain.domain.is_empty());
    let elsewhere = Ipv4Addr::new(192, 0, 2, 53);
    spec.dhcp_options = Some(Arc::new(DhcpOptions {
        id: id(1),
        domain_name: Some("example.org".to_owned()),
        domain_name_servers: vec![NameServer::Provided, NameServer::At(elsewhere)],
        ntp_servers: vec![elsewhere],
        netbios_name_servers: Vec::new(),
        netbios_node_type: Some(2),
    }));
    let lease = told(&spec);
    assert_eq!(lease.resolvers, [Ipv4Addr::new(10, 0, 0, 2), elsewhere]);
    assert_eq!((lease.domain.as_str(), lease.netbios_node_type), ("example.org", Some(2)));
    assert_eq!(lease.ntp_servers, [elsewhere]);
}

#[test]
fn a_name_that_is_none_is_an_error() {
    let mut spec = spec();
    assert!(names(&spec).is_ok());
    spec.interfaces[0].interface.public_host_name = Some("a..b".to_owned());
    assert!(names(&spec).is_err());
}

#[test]
fn peers_are_known_by_their_members_and_names() {
    let mut spec = spec();
    let member = Ipv4Addr::new(172, 16, 0, 4);
    spec.peer_members.insert(id(9), [member].into());
    assert_eq!(policy(&spec).members(id(9)), [member].into());
    // What is asked for the address of `web.example`, without recursion.
    let mut query = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x03web\x07example\x00\x00\x01\x00\x01");
    assert_eq!(names(&spec).unwrap().answer(&query), Verdict::Forward);
    spec.peer_names.insert("web.example".to_owned(), member);
    match names(&spec).unwrap().answer(&query) {
        Verdict::Answer(answer) => assert!(answer.ends_with(&member.octets()), "{answer:?}"),
        other => panic!("{other:?}"),
    }
    spec.peer_names.insert("a..b".to_owned(), member);
    assert!(names(&spec).is_err());
}

#[test]
fn a_guest_is_told_what_is_to_come_apart_from_what_is_over() {
    let time = jiff::Timestamp::UNIX_EPOCH;
    let event =
        |state| InstanceEvent { id: String::new(), code: EventCode::SystemReboot, not_before: time, state };
    let told = known_notices(&InstanceNotices {
        id: id(1),
        interruption: Some(Interruption { action: InterruptionAction::Stop, at: time }),
        rebalance: None,
        events: [EventState::Completed, EventState::Active, EventState::Canceled].map(event).into(),
    });
    assert_eq!(told.interruption.map(|interruption| interruption.action), Some("stop"));
    let states = |events: &[metadata::Event]| events.iter().map(|event| event.state).collect::<Vec<_>>();
    assert_eq!(
        (states(&told.scheduled), states(&told.history)),
        (vec!["active"], vec!["completed", "canceled"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_runs_reads_what_it_is_told_since() {
    let folder = Folder(tempfile::tempdir().unwrap());
    std::fs::create_dir(folder.0.path().join("netns")).unwrap();
    let fabric = Fabric::open(&folder.0.path().join("netns/vpc")).unwrap();
    let mut spec = spec();
    let mut guest = Guest::new(&MachineSpec {
        id: id(1),
        instance_type: "t3.nano".to_owned(),
        vcpus: 1,
        memory: types::ByteSize::from_bytes(64 << 20),
        volumes: Vec::new(),
        interfaces: vec![spec.interfaces[0].interface.clone()],
        guest: GuestSpec {
            account: types::AccountId::new(0).unwrap(),
            zone: "us-east-1a".parse().unwrap(),
            image: id(1),
            reservation: id(1),
            launch_index: 0,
            launched: jiff::Timestamp::UNIX_EPOCH,
            key: None,
            user_data: Vec::new(),
            tags: BTreeMap::new(),
            metadata_options: MetadataOptions::default(),
        },
    });
    // Without a device, so that nobody is answered but who asks here.
    let mut read = |spec: &VpcSpec| {
        guest.serve(&fabric, spec, &BTreeSet::new(), &Handle::current()).unwrap();
        let path = "/latest/meta-data/spot/instance-action";
        let request = Request { method: Method::Get, path, token: None, ttl: None, is_forwarded: false };
        guest.metadata.as_ref().unwrap().answer(request)
    };
    assert_eq!(read(&spec), Answer::NotFound);
    let interruption = Interruption { action: InterruptionAction::Stop, at: jiff::Timestamp::UNIX_EPOCH };
    let told = InstanceNotices { interruption: Some(interruption), ..InstanceNotices::none(id(1)) };
    spec.notices.insert(id(1), Arc::new(told));
    let Answer::Text { body, .. } = read(&spec) else { panic!("it is told nothing") };
    assert_eq!(body, r#"{"action": "stop", "time": "1970-01-01T00:00:00Z"}"#);
    spec.notices.clear();
    assert_eq!(read(&spec), Answer::NotFound);
}

/// A folder in which files keep namespaces, until it is dropped.
struct Folder(tempfile::TempDir);

impl Folder {
    fn paths(&self) -> Vec<PathBuf> {
        let entries = self.0.path().join("netns").read_dir().unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn kept(&self) -> Vec<String> {
        self.paths().iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for path in self.paths() {
            let _ = ::network::Namespace::unpin(&path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_come_and_go_with_what_a_vpc_is_to_have() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let open = || Networks::open(folder.0.path(), None).unwrap();
    let (networks, mut spec) = (open(), spec());
    let file = |gateway: &dyn Display| format!("{}.{gateway}", spec.id);
    let vpc = spec.id.to_string();
    let [internet, other] = [file(&id::<InternetGatewayId>(4)), file(&id::<InternetGatewayId>(6))];
    let nat = file(&id::<NatGatewayId>(3));
    assert!(networks.dropped(spec.id).await.unwrap().is_none());
    networks.apply(spec.clone()).await.unwrap();
    assert!(networks.dropped(spec.id).await.unwrap().unwrap().contains_key(DropReason::Group.name()));
    assert_eq!(folder.kept(), [vpc.clone(), internet, nat.clone()]);
    spec.internet_gateway = Some(id(6));
    networks.apply(spec.clone()).await.unwrap();
    assert_eq!(folder.kept(), [vpc.clone(), other.clone(), nat]);
    // The next process, which is told of something else.
    drop(networks);
    let networks = open();
    assert_eq!(networks.vpcs(), [spec.id]);
    spec.interfaces.pop();
    // What answered in this process lets go of its sockets by and by.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = networks.apply(spec.clone()).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(folder.kept(), [vpc.clone(), other]);
    spec.internet_gateway = None;
    networks.apply(spec.clone()).await.unwrap();
    assert_eq!(folder.kept(), [vpc]);
    for _ in 0..2 {
        networks.remove(spec.id).await.unwrap();
        assert!(folder.kept().is_empty() && networks.vpcs().is_empty());
    }
    // It can be there again.
    networks.apply(spec.clone()).await.unwrap();
    networks.remove(spec.id).await.unwrap();
    assert!(folder.kept().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_linked_when_the_second_of_them_comes() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let networks = Networks::open(folder.0.path(), None).unwrap();
    let (peering, other) = (id(7), id(8));
    let plain = VpcSpec { internet_gateway: None, interfaces: Vec::new(), ..spec() };
    let mut one = VpcSpec { peerings: [(peering, other)].into(), ..plain.clone() };
    let second = VpcSpec { id: other, peerings: [(peering, one.id)].into(), ..plain };
    let is_linked = |vpc: &VpcSpec| {
        let pin = folder.0.path().join("netns").join(vpc.id.to_string());
        let namespace = ::network::Namespace::pinned(&pin).unwrap().unwrap();
        let devices = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        devices.unwrap().contains(&Gateway::Peering(peering).device_name())
    };
    networks.apply(one.clone()).await.unwrap();
    assert!(!is_linked(&one));
    networks.apply(second.clone()).await.unwrap();
    assert!(is_linked(&one) && is_linked(&second));
    // Deleted: either is told so, and the other end goes with it.
    one.peerings.clear();
    networks.apply(one.clone()).await.unwrap();
    assert!(!is_linked(&one) && !is_linked(&second));
    networks.remove(one.id).await.unwrap();
    networks.remove(second.id).await.unwrap();
}
