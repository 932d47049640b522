//! The process of one microVM, from what was opened for it to the guest's end.
//!
//! ```text
//! opened files ─▶ devices, console, control socket ─▶ jail ─▶ their threads ─▶ guest starts ─▶ event loop ─▶ end
//! ```
//! The loop is the main thread's. It owns the machine; CPUs and devices have threads of their own and reach it by
//! events. After the jail nothing is opened by path.

mod operations;

use std::collections::BTreeSet;
use std::io::{self, PipeWriter, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use types::MacAddress;
use volume::BlockBackend;

use crate::console::{AttachError, Console, ConsoleSpec, ViewerSpec};
use crate::control::api::{DeviceId, EventKind};
use crate::control::{ControlServer, EventLog, ProcessMemoryFile, ServerLimits};
use crate::jail::seccomp::{self, ThreadKind};
use crate::jail::{Jail, JailError, JailSpec};
use crate::machine::{BootSource, Machine, MachineError, MachineEvent, MachineSpec, ThreadEntry};
use crate::poll::{Interest, Poller, event_fd};
use crate::virtio::DeviceParts;
use crate::virtio::balloon::Balloon;
use crate::virtio::block::{Block, BlockSpec};
use crate::virtio::net::{Net, NetSpec, TapError};
use crate::virtio::rng::Rng;
use crate::virtio::vhost_user::{RemoteDisk, VhostUserBlockSpec};
use crate::virtio::vsock::{Vsock, VsockError, VsockSpec};
use operations::Owned;

/// What a process is given: everything is open already.
pub struct ProcessSpec {
    /// What the machine is called on the control socket.
    pub id: String,
    pub machine: MachineSpec,
    pub boot: Box<dyn BootSource>,
    /// In the order in which the guest sees them.
    pub disks: Vec<Disk>,
    pub interfaces: Vec<Interface>,
    pub vsock: Option<VsockSpec>,
    /// A source of randomness. Each device that a guest does not use costs its start a little.
    pub rng: bool,
    pub balloon: bool,
    pub console: ConsoleSpec,
    /// Who looks at the console from its first byte to its last, and types.
    pub viewer: Option<UnixStream>,
    /// Where the control socket listens.
    pub control: UnixListener,
    /// Gets a byte when the guest begins to run, and is closed.
    pub started: Option<PipeWriter>,
    pub jail: JailSpec,
}

/// A disk to be plugged in.
pub struct Disk {
    pub id: DeviceId,
    pub served: Served,
    /// Whether it can be unplugged.
    pub is_removable: bool,
}

/// Who serves a disk.
pub enum Served {
    /// This process.
    Here {
        /// What the guest reads as the serial number; 20 bytes count.
        serial: String,
        backend: Arc<dyn BlockBackend>,
    },
    /// Another process, by vhost-user; the machine's memory must be shared.
    Elsewhere {
        remote: Arc<RemoteDisk>,
        /// How long requests wait for another when it ends.
        patience: Duration,
    },
}

/// An interface to be plugged in.
pub struct Interface {
    pub id: DeviceId,
    pub mac: MacAddress,
    pub mtu: u16,
    /// One for each pair of queues.
    pub taps: Vec<OwnedFd>,
    /// Whether it can be unplugged.
    pub is_removable: bool,
}

/// How the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest switched itself off, or the control socket had it switched off.
    PoweredOff,
}

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("/dev/kvm cannot be opened")]
    OpenKvm { source: kvm_ioctls::Error },
    #[error("cannot {operation}")]
    Host { operation: &'static str, source: io::Error },
    #[error("disk {id}")]
    Disk { id: DeviceId, source: io::Error },
    #[error("interface {id}")]
    Interface { id: DeviceId, source: TapError },
    #[error("vsock")]
    Vsock { source: VsockError },
    #[error("the console's viewer")]
    Viewer { source: AttachError },
    #[error("the jail")]
    Jail { source: JailError },
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the guest cannot go on: {report}")]
    Fault { report: String },
}

const MACHINE: u64 = 0;
const CONTROL: u64 = 1;
const CONSOLE: u64 = 2;

/// How long viewers of the console have to take the guest's last words.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The most queues of a disk: more only cost threads.
const DISK_QUEUES_MAX: u16 = 4;

/// Runs a guest to its end.
///
/// # Errors
/// [`ProcessError`] when the guest cannot be started, or when it or the host fails it later.
pub fn run(spec: ProcessSpec) -> Result<End, ProcessError> {
    let host = |operation| move |source| ProcessError::Host { operation, source };
    let kvm = Kvm::new().map_err(|source| ProcessError::OpenKvm { source })?;
    let memory_file = ProcessMemoryFile::open().map_err(host("open this process's memory counters"))?;
    let (output, console) = Console::new(spec.console).map_err(host("make the console"))?;
    let events = Arc::new(EventLog::new().map_err(host("make the log of events"))?);
    let control = ControlServer::new(spec.control, events.clone(), ServerLimits::default())
        .map_err(host("serve the control socket"))?;

    let disks = spec.disks.iter().filter(|disk| disk.is_removable).map(|disk| &disk.id);
    let interfaces = spec.interfaces.iter().filter(|interface| interface.is_removable).map(|it| &it.id);
    // All else stays to the end.
    let removable: BTreeSet<_> = disks.chain(interfaces).map(DeviceId::to_string).collect();
    let (parts, balloon) =
        devices(spec.disks, spec.interfaces, spec.vsock, spec.rng, spec.balloon, spec.machine.cpus)?;

    let report = Jail::enter(spec.jail).map_err(|source| ProcessError::Jail { source })?;
    for shortfall in &report.shortfalls {
        eprintln!("the jail lacks {shortfall}");
    }
    let mut machine = Machine::new(kvm, spec.machine, spec.boot, output, FILTERED)?;
    for (id, parts) in parts {
        machine.plug(&id, parts)?;
    }
    seccomp::enter(ThreadKind::Main).map_err(host("put on the event loop's system call filter"))?;
    machine.start()?;
    events.publish(EventKind::Started);
    if let Some(mut started) = spec.started {
        // Whoever does not wait for it any more need not be told.
        let _ = started.write(&[1]);
    }
    let fixed = machine.devices().into_iter().map(|device| device.id);
    let fixed = fixed.filter(|id| !removable.contains(id)).collect();
    let started = Instant::now();
    let owned = Owned {
        id: spec.id,
        machine,
        fixed,
        balloon,
        events,
        memory_file,
        started,
        is_off: false,
        reboot_by: None,
    };
    let mut main = Loop::new(owned, console, control).map_err(host("watch the machine"))?;
    if let Some(stream) = spec.viewer {
        // After the console's input is connected, so that what was typed already is not dropped.
        let viewer = ViewerSpec { offset: Some(0), input: true, ..ViewerSpec::default() };
        main.console.attach(stream, viewer).map_err(|source| ProcessError::Viewer { source })?;
    }
    main.run()
}

/// Each thread confines itself before it does anything else.
pub(crate) const FILTERED: ThreadEntry = ThreadEntry {
    maker: || seccomp::enter_or_abort(ThreadKind::Maker),
    cpu: || seccomp::enter_or_abort(ThreadKind::Vcpu),
    worker: |kind| seccomp::enter_or_abort(ThreadKind::Worker(kind)),
};

/// All devices of the start, with their ids, in the order of their slots.
type Devices = (Vec<(String, DeviceParts)>, Option<Arc<Balloon>>);

fn devices(
    disks: Vec<Disk>,
    interfaces: Vec<Interface>,
    vsock: Option<VsockSpec>,
    rng: bool,
    balloon: bool,
    cpus: u8,
) -> Result<Devices, ProcessError> {
    let mut parts = Vec::new();
    for disk in disks {
        parts.push((disk.id.to_string(), disk_parts(disk, cpus)?));
    }
    for interface in interfaces {
        parts.push((interface.id.to_string(), interface_parts(interface)?));
    }
    if rng {
        parts.push(("rng".to_owned(), Rng::parts("rng")));
    }
    let balloon = balloon.then(|| Balloon::new("balloon")).transpose();
    let balloon = balloon.map_err(|source| ProcessError::Host { operation: "make the balloon", source })?;
    let balloon = balloon.map(|(handle, device)| {
        parts.push(("balloon".to_owned(), device));
        handle
    });
    if let Some(spec) = vsock {
        let device = Vsock::parts(spec).map_err(|source| ProcessError::Vsock { source })?;
        parts.push(("vsock".to_owned(), device));
    }
    Ok((parts, balloon))
}

fn disk_parts(disk: Disk, cpus: u8) -> Result<DeviceParts, ProcessError> {
    let Disk { id, served, .. } = disk;
    let (name, queues) = (id.to_string(), u16::from(cpus).min(DISK_QUEUES_MAX));
    let parts = match served {
        Served::Here { serial, backend } => {
            Block::new(BlockSpec { name, serial, backend, queues }).map(|(_, parts)| parts)
        }
        Served::Elsewhere { remote, patience } => remote.parts(VhostUserBlockSpec { name, queues, patience }),
    };
    parts.map_err(|source| ProcessError::Disk { id, source })
}

fn interface_parts(interface: Interface) -> Result<DeviceParts, ProcessError> {
    let Interface { id, mac, mtu, taps, .. } = interface;
    let spec = NetSpec { name: id.to_string(), mac, mtu, taps };
    Net::new(spec).map(|(_, parts)| parts).map_err(|source| ProcessError::Interface { id, source })
}

/// How long it is until then, as long as the poller waits at most.
fn left_ms(time: Instant) -> u16 {
    // A part of a millisecond is waited for, too.
    let left = time.saturating_duration_since(Instant::now()).as_millis() + 1;
    u16::try_from(left).unwrap_or(u16::MAX)
}

/// The main thread's event loop.
struct Loop {
    owned: Owned,
    console: Console,
    control: ControlServer,
    poller: Poller,
}

impl Loop {
    fn new(owned: Owned, mut console: Console, control: ControlServer) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.watch(event_fd(owned.machine.event_fd()), MACHINE, Interest::Read)?;
        poller.watch(&control, CONTROL, Interest::Read)?;
        poller.watch(&console, CONSOLE, Interest::Read)?;
        let serial = owned.machine.serial().clone();
        let room = serial.room_event()?;
        console.connect_input(serial, room)?;
        Ok(Loop { owned, console, control, poller })
    }

    fn run(mut self) -> Result<End, ProcessError> {
        let outcome = self.follow();
        self.console.write_log();
        outcome
    }

    fn follow(&mut self) -> Result<End, ProcessError> {
        let mut ready = Vec::new();
        while !self.owned.is_off {
            ready.clear();
            let timeout_ms = self.owned.reboot_by.map(left_ms);
            self.step(&mut ready, timeout_ms)?;
            if self.owned.reboot_by.is_some_and(|by| by <= Instant::now()) {
                self.owned.reset_in_time()?;
            }
        }
        self.owned.events.publish(EventKind::PoweredOff);
        self.say_last_words(&mut ready)?;
        Ok(End::PoweredOff)
    }

    fn step(
        &mut self,
        ready: &mut Vec<crate::poll::Event>,
        timeout_ms: Option<u16>,
    ) -> Result<(), ProcessError> {
        let host = |operation| move |source| ProcessError::Host { operation, source };
        self.poller.wait(ready, timeout_ms).map_err(host("wait for events"))?;
        for event in ready.iter() {
            match event.token {
                MACHINE => self.follow_machine()?,
                CONTROL => {
                    let served = self.control.serve(&mut self.owned, &mut self.console);
                    served.map_err(host("serve the control socket"))?;
                }
                _ => self.console.serve().map_err(host("serve the console"))?,
            }
        }
        Ok(())
    }

    fn follow_machine(&mut self) -> Result<(), ProcessError> {
        for event in self.owned.machine.take_events()? {
            match event {
                MachineEvent::PoweredOff if self.owned.reboot_by.is_some() => self.owned.begin_anew()?,
                MachineEvent::PoweredOff => self.owned.is_off = true,
                MachineEvent::Reset => {
                    self.owned.reboot_by = None;
                    self.owned.events.publish(EventKind::Reset);
                }
                MachineEvent::Unplugged { id } => self.owned.tell_unplugged(&id),
                MachineEvent::NeedsReset { id } => {
                    self.owned.tell(&id, |device| EventKind::DeviceNeedsReset { device });
                }
                MachineEvent::Disconnected { id } => {
                    self.owned.tell(&id, |device| EventKind::DeviceDisconnected { device });
                }
                MachineEvent::Reconnected { id } => {
                    self.owned.tell(&id, |device| EventKind::DeviceReconnected { device });
                }
                MachineEvent::Fault(report) => return Err(ProcessError::Fault { report }),
            }
        }
        Ok(())
    }

    /// Whoever looks at the console or waits for events gets the rest, if they take it in time.
    fn say_last_words(&mut self, ready: &mut Vec<crate::poll::Event>) -> Result<(), ProcessError> {
        let until = Instant::now() + LAST_WORDS;
        self.console
            .serve()
            .map_err(|source| ProcessError::Host { operation: "serve the console", source })?;
        while !self.console.is_caught_up() && Instant::now() < until {
            ready.clear();
            self.step(ready, Some(10))?;
        }
        Ok(())
    }
}
