//! `nimbo vmm`: the process of one microVM.
//!
//! Its standard input is a socket, over which it is told a [`ProcessSpec`], one line, and given the descriptors that the spec names. It opens nothing else by path but what the kernel offers to everybody (`/dev/kvm`), and
//! that before the guest's first instruction.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use types::{ByteSize, InstanceId, MacAddress};
use vmm::boot::KernelFiles;
use vmm::console::{ConsoleSpec, LogFileSpec};
use vmm::jail::seccomp::Mode;
use vmm::jail::{Identity, JailSpec, Limits};
use vmm::machine::{BootSource, HostCpuid, MachineSpec, SystemIdentity};
use vmm::memory::Backing;
use vmm::process::{Disk, Interface, ProcessError, Served};
use vmm::virtio::vhost_user::{BootReader, RemoteDisk};
use vmm::virtio::vsock;
use volume::{BlockBackend, Overlay, RawFile, RawOptions};

use crate::boot_source::KernelOnDisk;
use crate::microvm::handover::{self, Given, Place};
use crate::{boot_source, failure, sys};

/// The exit status after an error that was printed: the guest could not be started, or this side failed.
pub(crate) const FAILED: u8 = 1;
/// The exit status after the guest could not go on, which was printed.
pub(crate) const CRASHED: u8 = 3;

/// What the process may take beside the guest's memory: stacks, queues, a kernel that is unpacked. It needs far less.
const OWN_MEMORY_BYTES_MAX: u64 = 1 << 30;

/// The event loop, 32 CPUs, and 31 devices of up to 32 queues.
const THREADS_MAX: u64 = 1 + 32 + 31 * 32;

/// Descriptors of 32 CPUs, 31 devices with their queues, and some hundred clients.
const DESCRIPTORS_MAX: u64 = 4096;

/// The first vsock address that a guest can have. Each guest has a host of its own, as far as it can see.
const GUEST_CID: u64 = 3;

/// At this size the file begins anew with its newest half, so it always has the last 64 KiB.
const CONSOLE_LOG_BYTES_MAX: u64 = 128 * 1024;

/// Users from here on are microVMs'. The range is far from what distributions and user namespaces are given.
const USER_BASE: u32 = 0x6000_0000;

/// What a microVM is. Its [`Place`]s are those of descriptors among all that come with it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessSpec {
    pub(crate) cpus: u8,
    pub(crate) cpuid: HostCpuid,
    pub(crate) memory: ByteSize,
    /// Other processes may serve its devices.
    pub(crate) shares_memory: bool,
    pub(crate) instance: InstanceId,
    pub(crate) instance_type: String,
    pub(crate) boot: BootSpec,
    /// In the order in which the guest sees them.
    pub(crate) disks: Vec<NamedDisk>,
    /// In the order in which the guest sees them.
    pub(crate) interfaces: Vec<InterfaceSpec>,
    pub(crate) vsock: Option<VsockSpec>,
    /// A network namespace for the process itself, in which there is nothing; it makes one if none is given.
    pub(crate) network: Option<Place>,
    /// A Unix stream that sees the console from its first byte on, and types.
    pub(crate) viewer: Option<Place>,
    /// A file that gets the newest of the console's output.
    pub(crate) console_log: Option<Place>,
    /// A listening Unix socket.
    pub(crate) control: Place,
    /// A pipe that gets a byte when the guest begins to run.
    pub(crate) started: Place,
    /// A file that is told how it ended, as a [`Report`] in JSON: for who cannot wait for the process. It is not told by one that was killed.
    pub(crate) report: Option<Place>,
    /// The process dies when the other end of its standard input is closed.
    pub(crate) has_lifeline: bool,
}

/// How a microVM ended, by its own process's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    PoweredOff,
    /// Why the guest could not be started, or not go on.
    Failed(String),
}

/// A disk by what it is called on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NamedDisk {
    pub(crate) id: String,
    pub(crate) disk: DiskSpec,
    /// Whether it can be unplugged.
    pub(crate) is_removable: bool,
}

/// Where the kernel comes from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BootSpec {
    /// What the boot loader's configuration on the first disk names, except for its command line if one is given.
    Disk {
        command_line: Option<String>,
    },
    Kernel {
        kernel: Place,
        initrd: Option<Place>,
        command_line: String,
    },
}

/// A disk. The path is for messages.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DiskSpec {
    Raw {
        file: Place,
        path: PathBuf,
        read_only: bool,
    },
    /// Writes go to `layer`, an empty file; the guest sees `size`, or the base's.
    Layered {
        base: Place,
        path: PathBuf,
        layer: Place,
        size: Option<ByteSize>,
    },
    /// Whoever is at the other end of this Unix stream serves it (vhost-user).
    VhostUser {
        socket: Place,
        /// How long requests wait for another server, which comes by the control socket.
        reconnect_ms: u64,
    },
}

/// An interface on a tap, by what it is called on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InterfaceSpec {
    pub(crate) id: String,
    pub(crate) mac: MacAddress,
    pub(crate) mtu: u16,
    /// A descriptor for each pair of queues.
    pub(crate) queues: Vec<Place>,
    /// Whether it can be unplugged.
    pub(crate) is_removable: bool,
}

/// Sockets between guest and host, as `vmm::virtio::vsock` describes them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VsockSpec {
    /// A listening Unix socket.
    pub(crate) listener: Place,
    /// A Unix socket of packets, whose other end is asked for what the guest wants to reach.
    pub(crate) services: Place,
}

/// Runs the microVM to its end.
pub(crate) fn main() -> anyhow::Result<ExitCode> {
    sys::close_inherited().context("cannot close what this process has inherited")?;
    let (spec, mut given) = hear().context("cannot read the microVM's specification")?;
    let report = spec.report.map(|place| given.take_file(place)).transpose()?;
    let outcome = open(spec, &mut given).and_then(|spec| Ok(vmm::process::run(spec)?));
    let (code, told) = match outcome {
        Ok(vmm::process::End::PoweredOff) => (ExitCode::SUCCESS, Report::PoweredOff),
        Err(error) => {
            let is_fault = matches!(error.downcast_ref(), Some(ProcessError::Fault { .. }));
            let text = failure::render(&error);
            eprint!("{text}");
            (ExitCode::from(if is_fault { CRASHED } else { FAILED }), Report::Failed(text))
        }
    };
    if let Some(mut report) = report {
        report.write_all(&serde_json::to_vec(&told)?).context("cannot tell how the microVM ended")?;
    }
    Ok(code)
}

/// What standard input tells. It may be a lifeline from then on.
fn hear() -> anyhow::Result<(ProcessSpec, Given)> {
    let stdin = io::stdin();
    let (spec, given): (ProcessSpec, _) = handover::hear(stdin.as_fd())?;
    if spec.has_lifeline {
        sys::die_with(stdin.as_fd())?;
    }
    Ok((spec, given))
}

/// The specification with everything in it open.
fn open(spec: ProcessSpec, given: &mut Given) -> anyhow::Result<vmm::process::ProcessSpec> {
    let disks = spec
        .disks
        .into_iter()
        .map(|named| open_disk(named.disk, given).map(|disk| (named.id, disk, named.is_removable)));
    let disks = disks.collect::<anyhow::Result<Vec<_>>>()?;
    let boot: Box<dyn BootSource> = match spec.boot {
        BootSpec::Kernel { kernel, initrd, command_line } => Box::new(KernelFiles {
            kernel: given.take_file(kernel)?,
            initrd: initrd.map(|place| given.take_file(place)).transpose()?,
            command_line,
        }),
        BootSpec::Disk { command_line } => Box::new(KernelOnDisk {
            disk: match disks.first() {
                Some((_, Opened::Here(disk), _)) => boot_source::Disk::Here(Arc::clone(disk)),
                Some((_, Opened::Elsewhere { remote, .. }, _)) => boot_source::Disk::Elsewhere(
                    BootReader::new(Arc::clone(remote)).context("cannot prepare to read the first disk")?,
                ),
                None => bail!("there is neither a disk nor a kernel to boot"),
            },
            command_line,
        }),
    };
    let mut generation = [0; 16];
    let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    random.read_exact(&mut generation).context("cannot draw an id")?;
    let uuid = uuid_of(spec.instance);
    let machine = MachineSpec {
        cpus: spec.cpus,
        cpuid: spec.cpuid,
        memory_bytes: spec.memory.bytes(),
        backing: if spec.shares_memory { Backing::Shared } else { Backing::Private },
        identity: SystemIdentity {
            uuid: ec2_uuid(uuid),
            product: spec.instance_type,
            asset: spec.instance.to_string(),
        },
        generation: u128::from_le_bytes(generation),
    };
    Ok(vmm::process::ProcessSpec {
        id: spec.instance.to_string(),
        machine,
        boot,
        disks: disks
            .into_iter()
            .map(|(id, opened, is_removable)| disk(&id, opened, is_removable))
            .collect::<Result<_, _>>()?,
        interfaces: spec
            .interfaces
            .into_iter()
            .map(|interface| open_interface(interface, given))
            .collect::<anyhow::Result<_>>()?,
        console: ConsoleSpec {
            log_file: spec.console_log.map(|place| open_log(place, given)).transpose()?,
            ..ConsoleSpec::default()
        },
        viewer: spec.viewer.map(|place| given.take(place)).transpose()?.map(UnixStream::from),
        control: UnixListener::from(given.take(spec.control)?),
        started: Some(given.take(spec.started)?.into()),
        vsock: spec.vsock.map(|vsock| open_vsock(vsock, given)).transpose()?,
        rng: true,
        balloon: true,
        jail: JailSpec {
            // An ordinary user can become nobody else, and need not.
            identity: Uid::effective().is_root().then(own_user),
            network: spec.network.map(|place| given.take(place)).transpose()?,
            limits: Limits {
                memory_bytes: spec.memory.bytes().saturating_add(OWN_MEMORY_BYTES_MAX),
                threads: THREADS_MAX,
                descriptors: DESCRIPTORS_MAX,
            },
            filters: Mode::Kill,
        },
    })
}

/// A user that no other machine has at this time, since no other process has this one's number.
fn own_user() -> Identity {
    Identity::of(USER_BASE + std::process::id())
}

/// An instance keeps its UUID from start to start.
fn uuid_of(instance: InstanceId) -> u128 {
    let hash = blake3::hash(instance.to_string().as_bytes());
    let (bytes, _) = hash.as_bytes().split_at(16);
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// cloud-init takes a machine for one of EC2 by a UUID that begins so.
fn ec2_uuid(random: u128) -> u128 {
    const PREFIX: u128 = 0xec2 << 116;
    PREFIX | random & (u128::MAX >> 12)
}

/// A disk, or the way to it.
enum Opened {
    Here(Arc<dyn BlockBackend>),
    Elsewhere { remote: Arc<RemoteDisk>, patience: Duration },
}

fn open_disk(spec: DiskSpec, given: &mut Given) -> anyhow::Result<Opened> {
    match spec {
        DiskSpec::Raw { file, path, read_only } => {
            let options = RawOptions { read_only, direct: false };
            Ok(Opened::Here(Arc::new(RawFile::from_file(given.take_file(file)?, &path, options)?)))
        }
        DiskSpec::Layered { base, path, layer, size } => {
            let options = RawOptions { read_only: true, direct: false };
            let base = RawFile::from_file(given.take_file(base)?, &path, options)?;
            let overlay = Overlay::with_top(&base, given.take_file(layer)?, size.map(ByteSize::bytes));
            Ok(Opened::Here(Arc::new(
                overlay.with_context(|| format!("cannot lay a temporary layer over {}", path.display()))?,
            )))
        }
        DiskSpec::VhostUser { socket, reconnect_ms } => {
            let remote = RemoteDisk::connect(given.take(socket)?.into()).context("cannot open a disk")?;
            Ok(Opened::Elsewhere { remote, patience: Duration::from_millis(reconnect_ms) })
        }
    }
}

fn disk(name: &str, opened: Opened, is_removable: bool) -> anyhow::Result<Disk> {
    let id = name.parse()?;
    let served = match opened {
        Opened::Here(backend) => Served::Here { serial: name.to_owned(), backend },
        Opened::Elsewhere { remote, patience } => Served::Elsewhere { remote, patience },
    };
    Ok(Disk { id, served, is_removable })
}

fn open_log(place: Place, given: &mut Given) -> anyhow::Result<LogFileSpec> {
    Ok(LogFileSpec { file: given.take_file(place)?, bytes_max: CONSOLE_LOG_BYTES_MAX })
}

fn open_interface(spec: InterfaceSpec, given: &mut Given) -> anyhow::Result<Interface> {
    let InterfaceSpec { id, mac, mtu, queues, is_removable } = spec;
    let taps = queues.into_iter().map(|place| given.take(place)).collect::<anyhow::Result<_>>()?;
    Ok(Interface { id: id.parse()?, mac, mtu, taps, is_removable })
}

fn open_vsock(spec: VsockSpec, given: &mut Given) -> anyhow::Result<vsock::VsockSpec> {
    Ok(vsock::VsockSpec {
        name: "vsock".to_owned(),
        guest_cid: GUEST_CID,
        listener: Some(given.take(spec.listener)?.into()),
        services: Some(given.take(spec.services)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_begins_with_ec2_and_keeps_the_rest() {
        assert_eq!(ec2_uuid(0), 0xec2 << 116);
        assert_eq!(format!("{:032x}", ec2_uuid(u128::MAX)), format!("ec2{}", "f".repeat(29)));
    }
}
