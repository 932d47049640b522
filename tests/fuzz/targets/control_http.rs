//! Clients of the control socket, who say anything in pieces of any size, with and without descriptors, and hang up.

use std::cell::RefCell;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use types::ByteSize;
use vmm::console::{Console, ConsoleSpec};
use vmm::control::api::{
    BalloonStatus, BalloonTarget, CaptureSpec, CaptureStatus, Counters, DeviceId, DeviceState, DeviceStatus,
    DiskSpec, Impairments, InterfaceSpec, InterfaceStatus, MachineState, MachineStatus, ProcessMemory,
};
use vmm::control::operations::{OperationError, Operations, Removal, Removed};
use vmm::control::{ControlServer, EventLog, ServerLimits};
use vmm::virtio::DeviceKind;

const CLIENTS: usize = 3;
/// What a stretch of an input begins with that is not said but done.
const MARK: u8 = 0xfe;
const TAKEN: usize = 1 << 16;

/// A machine that does what it is told and has one disk and an interface `net0`.
struct FakeMachine {
    state: MachineState,
    disk: DeviceStatus,
    balloon: ByteSize,
}

impl FakeMachine {
    fn enter(&mut self, state: MachineState) -> Result<(), OperationError> {
        self.state = state;
        Ok(())
    }

    fn plugged(&self, id: DeviceId, kind: DeviceKind) -> Result<DeviceStatus, OperationError> {
        if id == self.disk.id {
            return Err(OperationError::DeviceExists { id });
        }
        Ok(DeviceStatus { id, kind, ..self.disk.clone() })
    }
}

impl Operations for FakeMachine {
    fn machine(&self) -> MachineStatus {
        MachineStatus {
            id: "i-0123456789abcdef0".into(),
            state: self.state,
            vcpus: 2,
            memory_bytes: ByteSize::from_bytes(1 << 30),
            uptime_ms: 1,
            devices: self.devices(),
        }
    }
    fn pause(&mut self) -> Result<(), OperationError> {
        self.enter(MachineState::Paused)
    }
    fn resume(&mut self) -> Result<(), OperationError> {
        self.enter(MachineState::Running)
    }
    fn press_power_button(&mut self) -> Result<(), OperationError> {
        Err(OperationError::WrongState { operation: "press the power button of", state: self.state })
    }
    fn reboot(&mut self) -> Result<(), OperationError> {
        Err(OperationError::WrongState { operation: "reboot", state: self.state })
    }
    fn reset(&mut self) -> Result<(), OperationError> {
        self.enter(MachineState::Running)
    }
    fn power_off(&mut self) -> Result<(), OperationError> {
        self.enter(MachineState::Off)
    }
    fn counters(&mut self) -> Result<Counters, OperationError> {
        let process = ProcessMemory::default();
        Ok(Counters { uptime_ms: 1, vcpus: Vec::new(), devices: Vec::new(), process })
    }
    fn devices(&self) -> Vec<DeviceStatus> {
        vec![self.disk.clone()]
    }
    fn add_disk(&mut self, spec: DiskSpec, _disk: OwnedFd) -> Result<DeviceStatus, OperationError> {
        self.plugged(spec.id, DeviceKind::Block)
    }
    fn reconnect_disk(&mut self, id: &DeviceId, _: OwnedFd) -> Result<DeviceStatus, OperationError> {
        Err(OperationError::NotDisconnected { id: id.clone() })
    }

    fn add_interface(
        &mut self,
        spec: InterfaceSpec,
        _taps: Vec<OwnedFd>,
    ) -> Result<DeviceStatus, OperationError> {
        self.plugged(spec.id, DeviceKind::Net)
    }
    fn interfaces(&self) -> Vec<InterfaceStatus> {
        vec![interface(Impairments::default())]
    }
    fn impair(&mut self, id: &DeviceId, impairments: Impairments) -> Result<InterfaceStatus, OperationError> {
        for impairment in [&impairments.inbound, &impairments.outbound].into_iter().flatten() {
            impairment.check().expect("what is out of its range is refused before");
        }
        match id.as_str() {
            "net0" => Ok(interface(impairments)),
            _ => Err(OperationError::NoDevice { id: id.clone() }),
        }
    }
    fn capture(
        &mut self,
        id: &DeviceId,
        _: CaptureSpec,
        _socket: OwnedFd,
    ) -> Result<CaptureStatus, OperationError> {
        Err(OperationError::TooManyCaptures { id: id.clone(), max: 0 })
    }
    fn remove_device(
        &mut self,
        _: DeviceKind,
        id: &DeviceId,
        how: Removal,
    ) -> Result<Removed, OperationError> {
        match how {
            _ if *id != self.disk.id => Err(OperationError::NoDevice { id: id.clone() }),
            Removal::Ask => Ok(Removed::Unplugging(self.disk.clone())),
            Removal::Force => Ok(Removed::Gone),
        }
    }
    fn balloon(&self) -> Result<BalloonStatus, OperationError> {
        Ok(BalloonStatus { target_bytes: self.balloon, actual_bytes: self.balloon })
    }
    fn set_balloon(&mut self, target: BalloonTarget) -> Result<BalloonStatus, OperationError> {
        self.balloon = target.target_bytes;
        self.balloon()
    }
}

fn interface(impairments: Impairments) -> InterfaceStatus {
    let mac = "02:00:00:00:00:01".parse().expect("an address");
    InterfaceStatus { id: "net0".parse().expect("an id"), mac, captures: Vec::new(), impairments }
}

struct Served {
    address: SocketAddr,
    server: ControlServer,
    console: Console,
    machine: FakeMachine,
    clients: Vec<Option<UnixStream>>,
    /// What clients pass.
    passed: File,
}

impl Served {
    fn new() -> Self {
        let name = format!("nimbo-fuzz-control-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a good name");
        let listener = UnixListener::bind_addr(&address).expect("the name is free");
        let events = Arc::new(EventLog::new().expect("there are descriptors"));
        let server = ControlServer::new(listener, events, ServerLimits::default());
        let (_, console) = Console::new(ConsoleSpec::default()).expect("there are descriptors");
        let disk = DeviceStatus {
            id: "root".parse().expect("an id"),
            kind: DeviceKind::Block,
            state: DeviceState::Active,
            pci_address: "0000:00:01.0".into(),
            removable: true,
        };
        let machine = FakeMachine { state: MachineState::Running, disk, balloon: ByteSize::ZERO };
        let server = server.expect("there are descriptors");
        let passed = File::open("/dev/null").expect("there is one");
        let clients = (0..CLIENTS).map(|_| None).collect();
        Served { address, server, console, machine, clients, passed }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect_addr(&self.address).expect("the listener is there");
        client.set_nonblocking(true).expect("a socket can be told not to block");
        client
    }

    fn serve(&mut self) {
        self.server.serve(&mut self.machine, &mut self.console).expect("the server goes on");
        self.console.serve().expect("the console goes on");
    }

    /// `MARK`, then what is done and by which client; anything else is said by the client that did something last.
    fn act(&mut self, data: &[u8]) {
        let mut current = 0;
        for (index, stretch) in data.split(|byte| *byte == MARK).enumerate() {
            let said = match (index, stretch) {
                (0, said) => said,
                (_, [what, said @ ..]) => {
                    current = usize::from(what >> 4) % CLIENTS;
                    match what % 4 {
                        0 => self.clients[current] = None,
                        1 => self.pass_descriptor(current),
                        2 => self.read(current),
                        _ => {}
                    }
                    said
                }
                (_, []) => continue,
            };
            self.say(current, said);
            self.serve();
        }
    }

    fn say(&mut self, client: usize, said: &[u8]) {
        if !said.is_empty() {
            let mut client = &*self.client(client);
            // The server may have closed, and a socket may be full.
            let _ = client.write(said);
        }
    }

    fn pass_descriptor(&mut self, client: usize) {
        // Not the client's own end: whoever holds that keeps it open.
        let passed = [self.passed.as_raw_fd()];
        let client = self.client(client);
        let control = [ControlMessage::ScmRights(&passed)];
        let _ =
            sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(b" ")], &control, MsgFlags::MSG_DONTWAIT, None);
    }

    fn read(&mut self, client: usize) {
        let _ = self.client(client).read(&mut [0; TAKEN]);
    }

    fn client(&mut self, client: usize) -> &mut UnixStream {
        let fresh = if self.clients[client].is_none() { Some(self.connect()) } else { None };
        self.clients[client].get_or_insert_with(|| fresh.expect("just made"))
    }

    /// Whoever comes next is answered.
    fn check(&mut self) {
        self.clients.fill_with(|| None);
        let mut client = self.connect();
        client
            .write_all(b"GET /v1/machine HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("a fresh socket has room");
        // The others' ends, the new client, its request.
        for _ in 0..3 {
            self.serve();
        }
        let mut answer = [0; TAKEN];
        let length = client.read(&mut answer).expect("an answer");
        assert!(
            answer[..length].starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&answer[..length])
        );
        drop(client);
        self.serve();
    }
}

thread_local! {
    static SERVED: RefCell<Served> = RefCell::new(Served::new());
}

/// Serves the clients of one input.
pub fn run(data: &[u8]) {
    SERVED.with_borrow_mut(|served| {
        served.act(data);
        served.check();
    });
}

/// What each path wants, in one piece and in two, with a descriptor and without.
pub fn seeds() -> Vec<Vec<u8>> {
    let request = |line: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let mut seeds: Vec<Vec<u8>> = [
        ("GET /v1/", ""),
        ("GET /v1/machine", ""),
        ("PUT /v1/balloon", r#"{"target_bytes": 1048576}"#),
        ("GET /v1/events?after=0&wait_ms=1", ""),
        ("GET /v1/counters", ""),
        ("DELETE /v1/disks/root?force=true", ""),
        ("POST /v1/machine/pause", "{}"),
        (
            "PUT /v1/interfaces/net0/impairments",
            r#"{"in": {"latency_us": 5, "jitter_us": 5, "rate_bps": 1000, "seed": 1}}"#,
        ),
    ]
    .map(|(line, body)| request(line, body))
    .to_vec();
    let disk =
        request("POST /v1/disks", r#"{"id": "data", "serial": "vol1", "read_only": true, "format": "raw"}"#);
    let tap = request("POST /v1/interfaces", r#"{"id": "eth1", "mac": "06:00:00:00:00:05", "mtu": 1500}"#);
    seeds.extend([[&[MARK, 1], disk.as_slice()].concat(), [&[MARK, 0x11], tap.as_slice()].concat()]);
    let upgrade = b"GET /v1/console?input=true HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: nimbo-console\r\n\r\n";
    seeds.push([upgrade.as_slice(), &[MARK, 3], b"typed", &[MARK, 0]].concat());
    seeds
}
