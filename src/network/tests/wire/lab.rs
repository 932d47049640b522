//! What the tests share: a host, an outside and a guest, each a network namespace of the test's own.
//!
//! ```text
//! outside                          host                        (VPC)                guest
//! wan 198.51.100.1/24 ────────── eth0 198.51.100.2/24   nimboN ── uplink  tap0 ═══ eth0
//! ```
//!
//! The double line is the test's pump: it carries frames between the queue that a microVM's device
//! would serve and a second tap, behind which an ordinary Linux plays the guest.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use network::{HostAccess, Namespace, Publish, Standalone, StandaloneSpec, Tap, tap};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use types::MacAddress;

pub const MAC: MacAddress = MacAddress::new([0x06, 0, 0, 0, 0, 0x04]);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Long enough for a loaded machine; nothing waits that long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A host with a way to an outside.
pub struct World {
    pub host: Namespace,
    pub outside: Namespace,
    pub folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let (host, outside) = (Namespace::create().unwrap(), Namespace::create().unwrap());
        let world = Self { host, outside, folder: tempfile::tempdir().unwrap() };
        join(&world.host, "eth0", &format!("{HOST}/24"), &world.outside, "wan", &format!("{OUTSIDE}/24"));
        ip(&world.host, &format!("route add default via {OUTSIDE}"));
        fs::write(world.resolv_conf(), "nameserver 127.0.0.1\n").unwrap();
        world
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    pub fn spec(&self) -> StandaloneSpec {
        spec(self.resolv_conf())
    }

    /// An instance's network, with a guest at the other end of its tap that has its address already.
    pub fn start(&self, spec: StandaloneSpec) -> (Standalone, Guest) {
        let mut network = self.host.run(|| Standalone::start(spec)).unwrap().unwrap();
        let guest = Guest::behind(&mut network);
        guest.number(&network);
        (network, guest)
    }

    pub fn publishing(&self, publish: &[&str]) -> (Standalone, Guest) {
        let publish = publish.iter().map(|text| text.parse::<Publish>().unwrap()).collect();
        self.start(StandaloneSpec { publish, ..self.spec() })
    }

    /// The uplinks' traces in the host: interfaces, tables, and whether its interface forwards.
    pub fn traces(&self) -> String {
        let links = run(&self.host, "ip", &["-br", "link"]);
        let links: Vec<_> = links.lines().filter(|line| line.starts_with("nimbo")).collect();
        let tables = run(&self.host, "nft", &["list", "tables"]);
        let forwarding =
            self.host.run(|| fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/forwarding").unwrap());
        format!("{} links; {}; eth0 forwards: {}", links.len(), tables.trim(), forwarding.unwrap().trim())
    }
}

pub fn spec(resolv_conf: PathBuf) -> StandaloneSpec {
    StandaloneSpec {
        mac: MAC,
        queue_pairs: 1,
        domain: "ec2.internal".to_owned(),
        uplink: Some(HostAccess::Denied),
        publish: Vec::new(),
        resolv_conf,
    }
}

/// What [`World::traces`] says when there are none.
pub const NO_TRACES: &str = "0 links; ; eth0 forwards: 0";

/// A Linux that plays the guest.
pub struct Guest {
    pub namespace: Namespace,
    stop: UnixStream,
    pump: Option<JoinHandle<()>>,
}

impl Guest {
    pub fn behind(network: &mut Standalone) -> Self {
        let namespace = Namespace::create().unwrap();
        let theirs = network.take_queues().expect("the queues are taken once").remove(0);
        let ours = Tap::create(&namespace, "eth0", 1).unwrap().into_queues().remove(0);
        // As a microVM's device and a Linux driver agree: checksums and segments are left undone.
        let offload = tap::Offload { checksum: true, tso4: true, tso6: true, ecn: true };
        for queue in [&theirs, &ours] {
            tap::set_offload(queue, offload).unwrap();
        }
        ip(&namespace, &format!("link set eth0 address {MAC} mtu {}", network.mtu()));
        ip(&namespace, "link set eth0 up");
        let (stop, stopped) = UnixStream::pair().unwrap();
        let pump = std::thread::spawn(move || pump(theirs, ours, stopped));
        Self { namespace, stop, pump: Some(pump) }
    }

    /// Takes the address that DHCP would give.
    pub fn number(&self, network: &Standalone) {
        let plan = network.plan();
        ip(
            &self.namespace,
            &format!("addr add {}/{} dev eth0", network.address(), plan.subnet().prefix_len()),
        );
        ip(&self.namespace, &format!("route add default via {}", plan.router()));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.shutdown(std::net::Shutdown::Both).ok();
        let ended = self.pump.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("the pump runs until now").expect("the pump does not fail");
        }
    }
}

fn pump(theirs: OwnedFd, ours: OwnedFd, stopped: UnixStream) {
    let mut frame = vec![0; 1 << 17];
    let (mut theirs, mut ours) = (fs::File::from(theirs), fs::File::from(ours));
    loop {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut watched = [readable(stopped.as_fd()), readable(theirs.as_fd()), readable(ours.as_fd())];
        poll(&mut watched, PollTimeout::NONE).unwrap();
        let [stop, left, right] = watched.map(|fd| fd.any().unwrap_or(false));
        if stop {
            return;
        }
        if left {
            carry(&mut theirs, &mut ours, &mut frame);
        }
        if right {
            carry(&mut ours, &mut theirs, &mut frame);
        }
    }
}

/// An interface that is going down, or full, loses frames as any does.
fn carry(from: &mut fs::File, to: &mut fs::File, frame: &mut [u8]) {
    if let Ok(length) = from.read(frame) {
        to.write_all(&frame[..length]).ok();
    }
}

/// Links two namespaces by a pair of interfaces.
pub fn join(one: &Namespace, name: &str, address: &str, other: &Namespace, peer: &str, peer_address: &str) {
    // `ip` takes a namespace by its path, here that of our descriptor.
    let path = format!("/proc/{}/fd/{}", std::process::id(), other.as_fd().as_raw_fd());
    run(one, "ip", &["link", "add", name, "type", "veth", "peer", "name", peer, "netns", &path]);
    for (namespace, name, address) in [(one, name, address), (other, peer, peer_address)] {
        ip(namespace, &format!("addr add {address} dev {name}"));
        ip(namespace, &format!("link set {name} up"));
    }
}

pub fn ip(namespace: &Namespace, arguments: &str) -> String {
    run(namespace, "ip", &arguments.split(' ').collect::<Vec<_>>())
}

/// Runs a command in `namespace` and gives its output; it must succeed.
pub fn run(namespace: &Namespace, program: &str, arguments: &[&str]) -> String {
    let output = attempt(namespace, program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn attempt(namespace: &Namespace, program: &str, arguments: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let spawn = || Command::new(program).args(arguments).env("PATH", path).output();
    let output = namespace.run(spawn).unwrap();
    output.unwrap_or_else(|error| panic!("{program} cannot be run ({error}); see scripts/deps"))
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn write_executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
