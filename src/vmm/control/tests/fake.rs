//! A machine that is none, behind a real socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use types::ByteSize;
use vmm_sys_util::eventfd::EventFd;

use crate::console::watch::borrow;
use crate::console::{Console, ConsoleOutput, ConsoleSpec, SerialInput};
use crate::control::api::*;
use crate::control::client::Client;
use crate::control::operations::{OperationError, Operations, Removal, Removed};
use crate::control::{ControlServer, EventLog, ServerLimits};
use crate::poll::{Interest, Poller};
use crate::virtio::DeviceKind;

/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct FakeMachine {
    pub(super) state: MachineState,
    pub(super) devices: Vec<DeviceStatus>,
    interface: InterfaceStatus,
    balloon: BalloonStatus,
    events: Arc<EventLog>,
    /// What the disks that were plugged in hold.
    pub(super) contents: Arc<Mutex<Vec<String>>>,
}

impl FakeMachine {
    pub(crate) fn new(events: Arc<EventLog>) -> Self {
        let root = DeviceStatus {
            id: "root".parse().unwrap(),
            kind: DeviceKind::Block,
            state: DeviceState::Active,
            pci_address: "0000:00:01.0".to_owned(),
            removable: false,
        };
        let interface = InterfaceStatus {
            id: "net0".parse().unwrap(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            captures: Vec::new(),
            impairments: Impairments::default(),
        };
        let gib = |count| ByteSize::from_gib(count).unwrap();
        FakeMachine {
            state: MachineState::Running,
            devices: vec![root],
            interface,
            balloon: BalloonStatus { target_bytes: gib(0), actual_bytes: gib(0) },
            events,
            contents: Arc::default(),
        }
    }

    fn change(
        &mut self,
        operation: &'static str,
        to: MachineState,
        event: EventKind,
    ) -> Result<(), OperationError> {
        if self.state == MachineState::Off {
            return Err(OperationError::WrongState { operation, state: self.state });
        }
        self.state = to;
        self.events.publish(event);
        Ok(())
    }

    fn plug(&mut self, id: DeviceId, kind: DeviceKind) -> Result<DeviceStatus, OperationError> {
        if self.devices.iter().any(|device| device.id == id) {
            return Err(OperationError::DeviceExists { id });
        }
        let pci_address = format!("0000:00:{:02x}.0", self.devices.len() + 1);
        let status = DeviceStatus { id, kind, state: DeviceState::Plugged, pci_address, removable: true };
        self.devices.push(status.clone());
        self.events.publish(EventKind::DevicePlugged { device: status.id.clone() });
        Ok(status)
    }
}

impl Operations for FakeMachine {
    fn machine(&self) -> MachineStatus {
        MachineStatus {
            id: "i-0123456789abcdef0".to_owned(),
            state: self.state,
            vcpus: 2,
            memory_bytes: ByteSize::from_gib(1).unwrap(),
            uptime_ms: 61_500,
            devices: self.devices.clone(),
        }
    }

    fn pause(&mut self) -> Result<(), OperationError> {
        self.change("pause", MachineState::Paused, EventKind::Paused)
    }

    fn resume(&mut self) -> Result<(), OperationError> {
        self.change("resume", MachineState::Running, EventKind::Resumed)
    }

    fn press_power_button(&mut self) -> Result<(), OperationError> {
        match self.state {
            MachineState::Running => Ok(()),
            state => Err(OperationError::WrongState { operation: "press the power button of", state }),
        }
    }

    fn reboot(&mut self) -> Result<(), OperationError> {
        self.press_power_button()
    }

    fn reset(&mut self) -> Result<(), OperationError> {
        self.change("reset", MachineState::Running, EventKind::Reset)
    }

    fn power_off(&mut self) -> Result<(), OperationError> {
        self.change("turn off", MachineState::Off, EventKind::PoweredOff)
    }

    fn counters(&mut self) -> Result<Counters, OperationError> {
        let exits =
            [("memory_write", 1041), ("port_write", 8112)].map(|(kind, count)| (kind.into(), count)).into();
        let devices = self.devices.iter().map(|device| DeviceCounters {
            id: device.id.clone(),
            kind: device.kind,
            counters: serde_json::json!({"reads": 1834, "read_bytes": 75_264_000}),
        });
        Ok(Counters {
            uptime_ms: 61_500,
            vcpus: vec![VcpuCounters { index: 0, cpu_ns: 4_100_000_000, exits }],
            devices: devices.collect(),
            process: ProcessMemory {
                resident_bytes: ByteSize::from_mib(181).unwrap(),
                private_bytes: ByteSize::from_mib(179).unwrap(),
                swapped_bytes: ByteSize::ZERO,
            },
        })
    }

    fn devices(&self) -> Vec<DeviceStatus> {
        self.devices.clone()
    }

    fn add_disk(&mut self, spec: DiskSpec, disk: OwnedFd) -> Result<DeviceStatus, OperationError> {
        let mut text = String::new();
        File::from(disk).read_to_string(&mut text).map_err(|source| OperationError::Host {
            operation: "read the disk",
            source: Box::new(source),
        })?;
        let status = self.plug(spec.id, DeviceKind::Block)?;
        self.contents.lock().unwrap().push(text);
        Ok(status)
    }

    fn reconnect_disk(&mut self, id: &DeviceId, server: OwnedFd) -> Result<DeviceStatus, OperationError> {
        let device = self.devices.iter_mut().find(|device| device.id == *id);
        let device = device.ok_or_else(|| OperationError::NoDevice { id: id.clone() })?;
        if device.state != DeviceState::Disconnected {
            return Err(OperationError::NotDisconnected { id: id.clone() });
        }
        device.state = DeviceState::Active;
        let mut text = String::new();
        File::from(server).read_to_string(&mut text).unwrap();
        self.contents.lock().unwrap().push(text);
        Ok(device.clone())
    }

    fn add_interface(
        &mut self,
        spec: InterfaceSpec,
        taps: Vec<OwnedFd>,
    ) -> Result<DeviceStatus, OperationError> {
        self.contents.lock().unwrap().push(format!("{} {} taps", spec.mac, taps.len()));
        self.plug(spec.id, DeviceKind::Net)
    }

    fn interfaces(&self) -> Vec<InterfaceStatus> {
        vec![self.interface.clone()]
    }

    fn impair(&mut self, id: &DeviceId, impairments: Impairments) -> Result<InterfaceStatus, OperationError> {
        if *id != self.interface.id {
            return Err(OperationError::NoDevice { id: id.clone() });
        }
        let now = &mut self.interface.impairments;
        for (now, wanted) in
            [(&mut now.inbound, impairments.inbound), (&mut now.outbound, impairments.outbound)]
        {
            if let Some(wanted) = wanted {
                *now = Some(wanted).filter(|wanted| !wanted.is_nothing());
            }
        }
        Ok(self.interface.clone())
    }

    fn capture(
        &mut self,
        id: &DeviceId,
        spec: CaptureSpec,
        socket: OwnedFd,
    ) -> Result<CaptureStatus, OperationError> {
        if *id != self.interface.id {
            return Err(OperationError::NoDevice { id: id.clone() });
        }
        // A packet of a frame of four bytes.
        let mut packet = [0; 20];
        packet[8] = 4;
        packet[16..].copy_from_slice(b"ping");
        let length = spec.snaplen.map_or(packet.len(), |snaplen| 16 + usize::try_from(snaplen).unwrap());
        File::from(socket).write_all(&packet[..length]).unwrap();
        let status = CaptureStatus { id: 1, captured: 1, dropped: 0 };
        self.interface.captures.push(status.clone());
        Ok(status)
    }

    fn remove_device(
        &mut self,
        kind: DeviceKind,
        id: &DeviceId,
        removal: Removal,
    ) -> Result<Removed, OperationError> {
        let found = self.devices.iter().position(|device| device.id == *id && device.kind == kind);
        let Some(at) = found else { return Err(OperationError::NoDevice { id: id.clone() }) };
        if !self.devices[at].removable {
            return Err(OperationError::NotRemovable { id: id.clone() });
        }
        match removal {
            Removal::Ask => {
                self.devices[at].state = DeviceState::Unplugging;
                Ok(Removed::Unplugging(self.devices[at].clone()))
            }
            Removal::Force => {
                self.devices.remove(at);
                self.events.publish(EventKind::DeviceUnplugged { device: id.clone() });
                Ok(Removed::Gone)
            }
        }
    }

    fn balloon(&self) -> Result<BalloonStatus, OperationError> {
        Ok(self.balloon.clone())
    }

    fn set_balloon(&mut self, target: BalloonTarget) -> Result<BalloonStatus, OperationError> {
        if target.target_bytes > ByteSize::from_gib(1).unwrap() {
            let reason = "the machine has 1G".to_owned();
            return Err(OperationError::Invalid { member: "target_bytes", reason });
        }
        self.balloon.target_bytes = target.target_bytes;
        Ok(self.balloon.clone())
    }
}

/// A serial port that takes everything.
#[derive(Default)]
pub(crate) struct Typed(pub(super) Mutex<Vec<u8>>);

impl SerialInput for Typed {
    fn room(&self) -> usize {
        64
    }

    fn push(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

/// The fake machine's event loop, as a VMM's main thread has it.
pub(crate) struct EventLoop {
    pub(crate) server: ControlServer,
    pub(crate) console: Console,
    pub(crate) machine: FakeMachine,
    stop: EventFd,
}

impl EventLoop {
    pub(crate) fn run(mut self) {
        let poller = Poller::new().unwrap();
        poller.watch(&self.server, 0, Interest::Read).unwrap();
        poller.watch(&self.console, 1, Interest::Read).unwrap();
        poller.watch(borrow(&self.stop), 2, Interest::Read).unwrap();
        let mut ready = Vec::new();
        loop {
            ready.clear();
            poller.wait(&mut ready, None).unwrap();
            for event in &ready {
                match event.token {
                    0 => self.server.serve(&mut self.machine, &mut self.console).unwrap(),
                    1 => self.console.serve().unwrap(),
                    _ => return,
                }
            }
        }
    }
}

/// A machine that serves a socket until this is dropped.
pub(super) struct Served {
    pub(super) path: PathBuf,
    pub(super) folder: tempfile::TempDir,
    pub(super) events: Arc<EventLog>,
    pub(super) output: ConsoleOutput,
    pub(super) typed: Arc<Typed>,
    pub(super) contents: Arc<Mutex<Vec<String>>>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Parts {
    pub(super) served: Served,
    pub(super) event_loop: EventLoop,
}

/// A machine and its loop, which does not run yet.
pub(super) fn parts(limits: ServerLimits) -> Parts {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let events = Arc::new(EventLog::new().unwrap());
    let machine = FakeMachine::new(events.clone());
    let (output, mut console) = Console::new(ConsoleSpec { ring_bytes: 4096, log_file: None }).unwrap();
    let typed = Arc::new(Typed::default());
    console.connect_input(typed.clone(), EventFd::new(libc::EFD_NONBLOCK).unwrap()).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let server = ControlServer::new(listener, events.clone(), limits).unwrap();
    let stop = EventFd::new(0).unwrap();
    let contents = machine.contents.clone();
    let event_loop = EventLoop { server, console, machine, stop: stop.try_clone().unwrap() };
    let served = Served { path, folder, events, output, typed, contents, stop, thread: None };
    Parts { served, event_loop }
}

impl Served {
    pub(super) fn new() -> Self {
        Self::with(ServerLimits::default())
    }

    pub(super) fn with(limits: ServerLimits) -> Self {
        let Parts { mut served, event_loop } = parts(limits);
        served.run(event_loop);
        served
    }

    pub(super) fn run(&mut self, event_loop: EventLoop) {
        self.thread = Some(std::thread::spawn(move || event_loop.run()));
    }

    pub(super) fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    pub(super) fn connect(&self) -> UnixStream {
        connect(&self.path)
    }

    /// What the server says to `bytes` until it closes.
    pub(super) fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may refuse and close before it has read all.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut stream)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.write(1).unwrap();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
    }
}

pub(super) fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(super) fn read_to_end(stream: &mut UnixStream) -> String {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => all.extend_from_slice(&chunk[..length]),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("the server neither answers nor closes: {e}"),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Waits until `holds`.
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come about");
        std::thread::yield_now();
    }
}

/// Whether every copy of the pipe's other end is closed.
pub(super) fn is_hung_up(pipe: &OwnedFd) -> bool {
    let mut asked = libc::pollfd { fd: pipe.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one structure, which lives through the call.
    unsafe { libc::poll(&raw mut asked, 1, 0) };
    asked.revents & libc::POLLHUP != 0
}
