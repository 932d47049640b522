//! Real processes in a real network, as root.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use balancer::config::{
    Action, Attributes, Forward, HealthCheck, Listener, Protocol, Target, TargetGroup, WeightedTargetGroup,
};
use control::ports::{Balancers as _, InterfaceSpec, Networks as _, PortSpec, SubnetSpec, VpcSpec};
use control::records::{Direction, InterfaceOwner, Peer, SecurityGroup, SecurityGroupRule, Traffic};
use network::Namespace;
use nix::sys::signal::{Signal, kill};
use types::{MacAddress, RandomId, TargetGroupId};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 9);
/// Of another of the VPC's own services, where the target is.
const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);

fn id<Id: RandomId>(number: u8) -> Id {
    Id::from_random([number; 16])
}

fn port(number: u8, address: Ipv4Addr) -> PortSpec {
    let interface = InterfaceSpec {
        id: id(number),
        mac: MacAddress::new([6, 0, 0, 0, 0, number]),
        device_index: 0,
        addresses: vec![(address, None)],
        host_name: format!("service-{number}.ec2.internal"),
        public_host_name: None,
        subnet: id(1),
        subnet_range: "10.0.1.0/24".parse().unwrap(),
        vpc: id(1),
        vpc_ranges: vec!["10.0.0.0/16".parse().unwrap()],
        groups: vec![(id(1), "all".to_owned())],
    };
    PortSpec {
        interface,
        checks_source_and_destination: true,
        owner: InterfaceOwner::LoadBalancer(id(number)),
    }
}

fn vpc() -> VpcSpec {
    let rule = |direction| SecurityGroupRule {
        id: id(1),
        direction,
        traffic: Traffic::All,
        peer: Peer::Range("0.0.0.0/0".parse().unwrap()),
        description: None,
    };
    let group = SecurityGroup {
        id: id(1),
        vpc: id(1),
        name: "all".to_owned(),
        description: String::new(),
        rules: [Direction::Ingress, Direction::Egress].map(rule).into(),
    };
    let subnet =
        SubnetSpec { id: id(1), range: "10.0.1.0/24".parse().unwrap(), acl: id(1), route_table: id(1) };
    VpcSpec {
        id: id(1),
        domain: "ec2.internal".to_owned(),
        ranges: vec!["10.0.0.0/16".parse().unwrap()],
        has_resolver: false,
        dhcp_options: None,
        subnets: vec![subnet],
        groups: vec![Arc::new(group)],
        acls: Vec::new(),
        route_tables: Vec::new(),
        internet_gateway: None,
        peerings: BTreeMap::new(),
        peer_members: BTreeMap::new(),
        peer_names: BTreeMap::new(),
        balancer_names: BTreeMap::new(),
        interfaces: vec![port(1, NODE), port(2, TARGET)],
        notices: BTreeMap::new(),
    }
}

/// One that forwards what comes to this port.
fn spec(listens: u16) -> BalancerSpec {
    let group: TargetGroupId = id(1);
    let target = Target { id: "one".to_owned(), ip: TARGET.into(), port: 80, zone: None };
    let forward = Forward {
        target_groups: vec![WeightedTargetGroup { name: group.to_string(), weight: 1 }],
        stickiness_s: None,
    };
    let listener = Listener {
        address: SocketAddr::from((NODE, listens)),
        protocol: Protocol::Http,
        security_policy: None,
        certificates: Vec::new(),
        default_action: Action::Forward(forward),
        rules: Vec::new(),
    };
    let group_config = TargetGroup {
        protocol: Protocol::Http,
        protocol_version: balancer::config::ProtocolVersion::Http1,
        algorithm: balancer::config::Algorithm::RoundRobin,
        targets: vec![target],
        stickiness: None,
        slow_start_s: 0,
        deregistration_delay_s: 0,
        health_check: HealthCheck::default(),
    };
    let config = LoadBalancer {
        listeners: vec![listener],
        target_groups: [(group.to_string(), group_config)].into(),
        attributes: Attributes::default(),
        access_log: None,
        source: Some(NODE.into()),
    };
    BalancerSpec { id: id(1), vpc: id(1), interfaces: vec![id(1)], config }
}

fn program() -> PathBuf {
    // target/…/debug/deps/nimbo-…, beside which the program is.
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("nimbo")
}

struct Lab {
    run: tempfile::TempDir,
    networks: Arc<Networks>,
    balancers: HostBalancers,
}

impl Lab {
    async fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        let networks = Networks::open(run.path(), None).unwrap();
        networks.apply(vpc()).await.unwrap();
        let balancers =
            HostBalancers(Balancers::open(&program(), run.path(), Arc::clone(&networks)).unwrap());
        let lab = Self { run, networks, balancers };
        lab.serve();
        lab
    }

    /// Another process that comes after this one.
    fn next(&self) -> HostBalancers {
        let networks = Arc::clone(&self.networks);
        HostBalancers(Balancers::open(&program(), self.run.path(), networks).unwrap())
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace: Namespace = self.networks.namespace(id(1)).unwrap().unwrap();
        namespace.run(work).unwrap()
    }

    /// Answers all requests at the target's address with who has asked.
    fn serve(&self) {
        let listener = self.inside(|| TcpListener::bind((TARGET, 80)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_string();
                thread::spawn(move || {
                    let _ = stream.read(&mut [0; 4096]);
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{peer}",
                        peer.len()
                    );
                    let _ = stream.write_all(head.as_bytes());
                });
            }
        });
    }

    /// What comes from a port of the load balancer's. None: nobody listens.
    fn ask(&self, port: u16) -> Option<String> {
        self.inside(|| {
            let mut stream = TcpStream::connect((NODE, port)).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            Some(answer)
        })
    }

    fn process(&self) -> Option<nix::unistd::Pid> {
        let control = self.run.path().join("balancers").join(id::<LoadBalancerId>(1).to_string());
        process::listener(&control).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(pid) = self.process() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let pin = self.run.path().join("netns").join(id::<types::VpcId>(1).to_string());
        let _ = network::Fabric::remove(&pin);
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_serves_in_its_network_through_changes_and_ends_of_whoever_is_about_it() {
    let lab = Lab::new().await;
    let changed = Arc::new(Mutex::new(0));
    let count = Arc::clone(&changed);
    lab.balancers.on_balancer_change(Arc::new(move |_| *count.lock().unwrap() += 1));
    lab.balancers.apply_balancer(spec(80)).await.unwrap();
    let answer = lab.ask(80).unwrap();
    // Its targets see its own address.
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n10.0.1.9"), "{answer}");
    let place = (id::<TargetGroupId>(1), SocketAddr::from((TARGET, 80)));
    let found = |host: &HostBalancers| host.target_health(id(1)).and_then(|all| all.get(&place).cloned());
    until("the target is healthy", || found(&lab.balancers) == Some(TargetHealth::Healthy)).await;
    assert!(*changed.lock().unwrap() > 0);

    // A listener goes, another comes, and the process stays.
    let first = lab.process().unwrap();
    lab.balancers.apply_balancer(spec(8080)).await.unwrap();
    assert!(lab.ask(8080).is_some());
    until("the old port is free", || lab.ask(80).is_none()).await;
    assert_eq!(lab.process(), Some(first));

    // Whoever comes next finds it, and is told all that it knows.
    let next = lab.next();
    assert_eq!((next.balancers(), next.target_health(id(1))), (vec![id(1)], None));
    next.apply_balancer(spec(8080)).await.unwrap();
    until("the next one knows", || found(&next) == Some(TargetHealth::Healthy)).await;
    assert_eq!(lab.process(), Some(first));

    // Its end is told at once, and it is there again.
    kill(first, Signal::SIGKILL).unwrap();
    until("its end is told", || next.target_health(id(1)).is_none()).await;
    next.apply_balancer(spec(8080)).await.unwrap();
    assert!(lab.ask(8080).is_some() && lab.process() != Some(first));

    // What it cannot be is refused, and it goes on.
    let mut wrong = spec(8080);
    wrong.config.listeners[0].address = SocketAddr::from(([10, 0, 1, 99], 8080));
    let refused = next.apply_balancer(wrong).await.unwrap_err().to_string();
    assert!(refused.contains("10.0.1.99"), "{refused}");
    assert!(lab.ask(8080).is_some());

    next.remove_balancer(id(1)).await.unwrap();
    next.remove_balancer(id(1)).await.unwrap();
    assert_eq!((lab.ask(8080), lab.process(), next.balancers()), (None, None, Vec::new()));
    assert_eq!(lab.run.path().join("balancers").read_dir().unwrap().count(), 0);
}
