//! On payloads of a few instructions, so that any KVM will do; with real networks, volumes and processes, so as root.

mod interfaces;
#[path = "../../tests/payload/mod.rs"]
#[allow(dead_code, reason = "other tests have use for all of it")]
mod payload;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control::ports::{
    Disk, DiskSpec, Disks as _, End, GuestSpec, InterfaceSpec, LoginKey, MachineVolume, MetadataOptions,
    Networks as _, PortSpec, SubnetSpec, VpcSpec,
};
use control::records::InterfaceOwner;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use payload::{Instruction, build};
use types::{ByteSize, MacAddress, RandomId, VolumeKind, VolumeSpec};
use vmm::control::api::{EventKind, Events};

use super::folder::ProcessName;
use super::*;
use crate::host::disks::Volumes;
use crate::host::{Host, HostSpec};

const PATIENCE: Duration = Duration::from_secs(30);
/// Where the process that is to be killed finds what to do.
const FOLDER: &str = "NIMBO_TEST_FOLDER";
const HANGS: &str = "NIMBO_TEST_HANGS";

/// The program itself is made by the same build.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("nimbo");
    assert!(program.exists(), "there is no {}: cargo build -p nimbo makes it", program.display());
    program
}

/// A host in a folder of its own, with a volume to boot from.
struct Lab {
    folder: tempfile::TempDir,
    spec: MachineSpec,
}

impl Lab {
    /// `number` is one's own among the tests that run at the same time.
    async fn new(number: u8, program: &[Instruction]) -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let lab = Self { folder, spec: spec(number) };
        let (state, run) = (lab.path("state"), lab.path("run"));
        let host = Host::open(HostSpec { program: &self::program(), ..HostSpec::plain(&state, &run) });
        let host = host.unwrap();
        let spec = VolumeSpec { kind: VolumeKind::Gp3, size_gib: 1, iops: None, throughput_mib_s: None };
        let (id, zone) = (lab.spec.volumes[0].id, lab.spec.guest.zone);
        host.disks().create(DiskSpec { id, zone, spec, snapshot: None, key: None }).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !matches!(host.disks().disk(id), Some(Disk::Ready { .. })) {
            assert!(Instant::now() < deadline, "the volume is not made: {:?}", host.disks().disk(id));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Another in its place, with something on it.
        let disk = payload::disk::debian(lab.folder.path(), "disk.raw", &build(program));
        let volume = lab.volume();
        fs::remove_dir_all(&volume).unwrap();
        let import = Command::new(self::program()).args(["volume", "import"]).arg(volume).arg(disk).output();
        let import = import.unwrap();
        assert!(import.status.success(), "{import:?}");
        fs::write(lab.path("spec.json"), serde_json::to_vec(&lab.spec).unwrap()).unwrap();
        lab
    }

    fn id(&self) -> InstanceId {
        self.spec.id
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn volume(&self) -> PathBuf {
        self.path("state/volumes").join(self.spec.volumes[0].id.to_string())
    }

    async fn open(&self) -> Arc<Machines> {
        open(self.folder.path(), false, &self.spec).await
    }

    fn own(&self) -> Folder {
        Folder::of(&self.path("run"), self.id())
    }

    fn process(&self) -> ProcessName {
        self.own().process().unwrap().unwrap()
    }

    /// Another process that starts the microVM. It returns when that runs or, if it `hangs`, has got as far as the volumes.
    fn start_elsewhere(&self, hangs: bool) -> Elsewhere {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "host::machines::tests::a_process_that_is_to_be_killed",
            "--ignored",
            "--nocapture",
        ]);
        command.env(FOLDER, self.folder.path()).stdout(Stdio::piped());
        if hangs {
            command.env(HANGS, "1");
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let elsewhere = Elsewhere(child);
        let found = lines.map(Result::unwrap).find(|line| line.contains("it got there"));
        assert!(found.is_some(), "it did not start the microVM");
        elsewhere
    }

    async fn has_a_network(&self, machines: &Machines) {
        machines.networks().apply(vpc(&self.spec)).await.unwrap();
    }

    /// Who serves its volumes leaves by and by.
    async fn has_nothing_left(&self, machines: &Machines) {
        machines.networks().remove(self.spec.interfaces[0].vpc).await.unwrap();
        let left = |folder| self.path(folder).read_dir().unwrap().map(Result::unwrap).collect::<Vec<_>>();
        assert!(left("run/instances").is_empty() && left("run/netns").is_empty());
        let is_socket = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|it| it == "sock");
        let deadline = Instant::now() + PATIENCE;
        while left("run/volumes").iter().any(is_socket) {
            assert!(Instant::now() < deadline, "{:?}", left("run/volumes"));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let own = self.own();
        if let Ok(Some(process)) = own.process()
            && ProcessName::of(process.pid()).is_ok_and(|now| now == process)
        {
            let _ = kill(process.pid(), Signal::SIGKILL);
        }
        let pin = self.path("run/netns").join(self.spec.interfaces[0].vpc.to_string());
        let _ = ::network::Fabric::remove(&pin);
        if let Ok(Some(pid)) = crate::host::process::listener(&self.volume().join("control")) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

struct Elsewhere(Child);

impl Elsewhere {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Volumes that are never served.
struct Hanging;

impl Storage for Hanging {
    fn serve(&self, _: VolumeId, _: InstanceId) -> BoxFuture<'_, Result<PathBuf, HostError>> {
        println!("it got there");
        Box::pin(std::future::pending())
    }

    fn claim(&self, _: VolumeId, _: InstanceId) {}

    fn release(&self, _: VolumeId, _: InstanceId) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A host that is told of the VPC of an instance.
async fn open(folder: &Path, hangs: bool, spec: &MachineSpec) -> Arc<Machines> {
    let (state, run) = (folder.join("state"), folder.join("run"));
    let networks = Networks::open(&run, None).unwrap();
    let machines = if hangs {
        Machines::open_with(&program(), &run, Arc::new(Hanging), networks).unwrap()
    } else {
        let volumes = Volumes::open_with(&program(), &state, &run, false, None).unwrap();
        let machines = Machines::open_with(&program(), &run, Arc::new(volumes.clone()), networks).unwrap();
        volumes.go_on();
        machines
    };
    machines.networks().apply(vpc(spec)).await.unwrap();
    machines
}

/// The VPC of an instance, in which nothing passes.
fn vpc(spec: &MachineSpec) -> VpcSpec {
    let first = &spec.interfaces[0];
    let port = |interface: &InterfaceSpec| PortSpec {
        interface: interface.clone(),
        checks_source_and_destination: true,
        owner: InterfaceOwner::User,
    };
    let subnet = SubnetSpec { id: first.subnet, range: first.subnet_range, acl: id(1), route_table: id(1) };
    VpcSpec {
        id: first.vpc,
        domain: "ec2.internal".to_owned(),
        ranges: first.vpc_ranges.clone(),
        has_resolver: true,
        dhcp_options: None,
        subnets: vec![subnet],
        groups: Vec::new(),
        acls: Vec::new(),
        route_tables: Vec::new(),
        internet_gateway: None,
        peerings: BTreeMap::new(),
        peer_members: BTreeMap::new(),
        peer_names: BTreeMap::new(),
        balancer_names: BTreeMap::new(),
        interfaces: spec.interfaces.iter().map(port).collect(),
        notices: BTreeMap::new(),
    }
}

fn id<Id: RandomId>(number: u8) -> Id {
    Id::from_random([number; 16])
}

fn spec(number: u8) -> MachineSpec {
    let address = Ipv4Addr::new(10, 213, number, 5);
    MachineSpec {
        id: id(number),
        instance_type: "t3.nano".to_owned(),
        vcpus: 1,
        memory: ByteSize::from_bytes(64 << 20),
        volumes: vec![MachineVolume { id: id(number), device: "/dev/xvda".to_owned() }],
        interfaces: vec![InterfaceSpec {
            id: id(number),
            mac: MacAddress::generate(&mut [number; 6].as_slice()).unwrap(),
            device_index: 0,
            addresses: vec![(address, None)],
            host_name: format!("ip-10-213-{number}-5.ec2.internal"),
            public_host_name: None,
            subnet: id(number),
            subnet_range: format!("10.213.{number}.0/24").parse().unwrap(),
            vpc: id(number),
            vpc_ranges: vec!["10.213.0.0/16".parse().unwrap()],
            groups: vec![(id(number), "default".to_owned())],
        }],
        guest: GuestSpec {
            account: "123456789012".parse().unwrap(),
            zone: "us-east-1a".parse().unwrap(),
            image: id(number),
            reservation: id(number),
            launch_index: 0,
            launched: jiff::Timestamp::UNIX_EPOCH,
            key: Some(LoginKey { name: "me".to_owned(), public_key: "ssh-ed25519 AAAA me".to_owned() }),
            user_data: b"#!/bin/sh".to_vec(),
            tags: BTreeMap::new(),
            metadata_options: MetadataOptions::default(),
        },
    }
}

/// Waits until the microVM has ended.
async fn end(machines: &Machines, id: InstanceId) -> End {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match machines.observe(id) {
            Some(Machine::Ended(end)) => return end,
            state => assert!(Instant::now() < deadline, "it stays {state:?}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Types a line on the console, for which a payload waits.
fn type_line(lab: &Lab) {
    let stream = crate::socket::connect(&lab.own().control()).unwrap();
    let client = vmm::control::client::Client::over(stream).unwrap();
    let mut console = client.attach_console(None, true).unwrap();
    console.stream.write_all(b"a line\n").unwrap();
    // Whoever leaves with something unread is not listened to.
    let mut said = console.received;
    let mut byte = [0];
    while !said.ends_with(b"after it\n") && console.stream.read(&mut byte).is_ok_and(|length| length > 0) {
        said.push(byte[0]);
    }
}

fn wait_for_reset(lab: &Lab) {
    let stream = crate::socket::connect(&lab.own().control()).unwrap();
    let mut client = vmm::control::client::Client::over(stream).unwrap();
    let mut after = 0;
    loop {
        let news: Events = client.get(&format!("/v1/events?after={after}&wait_ms=30000")).unwrap();
        assert!(!news.events.is_empty(), "it does not begin anew");
        if news.events.iter().any(|event| event.kind == EventKind::Reset) {
            return;
        }
        after = news.next;
    }
}

const WAITS: [Instruction; 3] =
    [Instruction::EchoLine, Instruction::Print("after it\n"), Instruction::PowerOff];

/// Not a test: what [`Lab::start_elsewhere`] runs. It gives the microVM another interface, if there is one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by other tests"]
async fn a_process_that_is_to_be_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let spec: MachineSpec = serde_json::from_slice(&fs::read(folder.join("spec.json")).unwrap()).unwrap();
    let machines = open(&folder, std::env::var_os(HANGS).is_some(), &spec).await;
    machines.start(spec.clone()).await.unwrap();
    if let Ok(second) = fs::read(folder.join(interfaces::SECOND)) {
        let second = serde_json::from_slice(&second).unwrap();
        machines.networks().apply(vpc(&interfaces::with(&spec, &second))).await.unwrap();
        machines.plug_interface(spec.id, &second).await.unwrap();
    }
    println!("it got there");
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_microvm_starts_and_powers_off_and_is_forgotten() {
    let lab = Lab::new(1, &WAITS).await;
    let (machines, id) = (lab.open().await, lab.id());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    machines.on_change(Arc::new(move |id| tell.send(id).unwrap_or_default()));
    machines.start(lab.spec.clone()).await.unwrap();
    assert_eq!((machines.observe(id), machines.ids()), (Some(Machine::Running), vec![id]));
    assert_eq!(machines.plugged(id), [lab.spec.volumes[0].id].into());
    // Again: nothing.
    let process = lab.process();
    machines.start(lab.spec.clone()).await.unwrap();
    assert_eq!(lab.process(), process);
    machines.forget(id).await.unwrap_err();
    type_line(&lab);
    assert_eq!(end(&machines, id).await, End::PoweredOff);
    assert_eq!(told.recv().await, Some(id));
    let console = String::from_utf8(machines.console(id).unwrap()).unwrap();
    assert!(console.contains("a line\nafter it\n"), "{console}");
    assert!(machines.plugged(id).is_empty());
    machines.forget(id).await.unwrap();
    machines.forget(id).await.unwrap();
    assert_eq!((machines.observe(id), machines.ids()), (None, vec![]));
    lab.has_nothing_left(&machines).await;
    // Its last words stay until it is discarded.
    assert!(!machines.console(id).unwrap().is_empty());
    machines.discard(id).unwrap();
    assert!(machines.console(id).unwrap().is_empty());
    // It can be started again.
    lab.has_a_network(&machines).await;
    machines.start(lab.spec.clone()).await.unwrap();
    machines.kill(id).await.unwrap();
    assert_eq!(machines.observe(id), ended(End::Killed));
    machines.kill(id).await.unwrap();
    machines.forget(id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_microvm_whose_starter_was_killed_is_found_and_its_end_noticed() {
    let lab = Lab::new(2, &WAITS).await;
    lab.start_elsewhere(false).kill();
    let id = lab.id();
    for powers_off in [true, false] {
        let machines = lab.open().await;
        if machines.observe(id).is_none() {
            machines.start(lab.spec.clone()).await.unwrap();
        }
        assert_eq!(machines.observe(id), Some(Machine::Running));
        assert_eq!(machines.plugged(id), [lab.spec.volumes[0].id].into());
        let before = Instant::now();
        if powers_off {
            // It shuts down and begins anew, in the same process.
            machines.reset(id).await.unwrap();
            type_line(&lab);
            wait_for_reset(&lab);
            assert_eq!(machines.observe(id), Some(Machine::Running));
            // As it was asked to stop after that, it does.
            machines.reset(id).await.unwrap();
            machines.press_power_button(id).await.unwrap();
            type_line(&lab);
            assert_eq!(end(&machines, id).await, End::PoweredOff);
        } else {
            kill(lab.process().pid(), Signal::SIGKILL).unwrap();
            let End::Failed(why) = end(&machines, id).await else { panic!("nobody asked for it") };
            assert!(why.contains("process"), "{why}");
            assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
        }
        machines.forget(id).await.unwrap();
        lab.has_nothing_left(&machines).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_saw_is_told() {
    let lab = Lab::new(3, &WAITS).await;
    for powers_off in [true, false] {
        lab.start_elsewhere(false).kill();
        let process = lab.process();
        if powers_off {
            type_line(&lab);
        } else {
            kill(process.pid(), Signal::SIGKILL).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        while ProcessName::of(process.pid()).is_ok_and(|now| now == process) && !is_zombie(process.pid()) {
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let machines = lab.open().await;
        match end(&machines, lab.id()).await {
            End::PoweredOff => assert!(powers_off),
            End::Failed(_) => assert!(!powers_off),
            End::Killed => panic!("nobody killed it by Machines::kill"),
        }
        machines.forget(lab.id()).await.unwrap();
        lab.has_nothing_left(&machines).await;
    }
}

/// Whose parent does not wait for it.
fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_not_finished_is_undone_and_done_again() {
    let lab = Lab::new(4, &WAITS).await;
    lab.start_elsewhere(true).kill();
    assert!(lab.own().spec().unwrap().is_some(), "it is known from before the first effect");
    let machines = lab.open().await;
    assert_eq!(machines.observe(lab.id()), None);
    machines.start(lab.spec.clone()).await.unwrap();
    assert_eq!(machines.observe(lab.id()), Some(Machine::Running));
    machines.kill(lab.id()).await.unwrap();
    machines.forget(lab.id()).await.unwrap();
    lab.has_nothing_left(&machines).await;
    // As if the process had died before it could write down that the guest runs.
    lab.start_elsewhere(false).kill();
    fs::remove_file(lab.path("run/instances").join(lab.id().to_string()).join("started")).unwrap();
    let process = lab.process();
    let next = lab.open().await;
    next.start(lab.spec.clone()).await.unwrap();
    assert_ne!(lab.process(), process);
    next.kill(lab.id()).await.unwrap();
    next.forget(lab.id()).await.unwrap();
    lab.has_nothing_left(&next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let lab = Lab::new(5, &WAITS).await;
    let machines = lab.open().await;
    machines.start(lab.spec.clone()).await.unwrap();
    let mut other = MachineSpec { id: id(6), ..lab.spec.clone() };
    // The volume could be shared; the interface cannot.
    let error = machines.start(other.clone()).await.unwrap_err().to_string();
    assert!(error.contains(&lab.spec.interfaces[0].id.to_string()), "{error}");
    assert_eq!((machines.observe(other.id), machines.ids()), (None, vec![lab.id()]));
    assert_eq!(machines.observe(lab.id()), Some(Machine::Running));
    assert_eq!(machines.plugged(lab.id()).len(), 1);
    machines.kill(lab.id()).await.unwrap();
    machines.forget(lab.id()).await.unwrap();
    lab.has_nothing_left(&machines).await;
    other.interfaces.push(InterfaceSpec { vpc: id(9), ..other.interfaces[0].clone() });
    let error = machines.start(other.clone()).await.unwrap_err().to_string();
    assert!(error.contains("in one VPC"), "{error}");
    other.interfaces.pop();
    lab.has_a_network(&machines).await;
    other.volumes[0].id = id(7);
    let error = machines.start(other).await.unwrap_err().to_string();
    assert!(error.contains(&id::<VolumeId>(7).to_string()), "{error}");
    lab.has_nothing_left(&machines).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_kernel_is_told_by_name() {
    let lab = Lab::new(8, &WAITS).await;
    fs::remove_dir_all(lab.volume()).unwrap();
    volume::Volume::create(&lab.volume(), 64 << 20).unwrap();
    let machines = lab.open().await;
    let error = machines.start(lab.spec.clone()).await.unwrap_err().to_string();
    assert!(error.contains("partition") || error.contains("boot"), "{error}");
    lab.has_nothing_left(&machines).await;
}
