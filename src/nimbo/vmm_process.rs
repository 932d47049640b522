//! `nimbo vmm`: the process of one microVM.
//!
//! It reads a [`ProcessSpec`], one line, from standard input and takes over the descriptors that the spec names, which whoever
//! started it has left open. It opens nothing else by path but what the kernel offers to everybody (`/dev/kvm`), and
//! that before the guest's first instruction.

use std::fs::File;
use std::io::{self, BufRead as _, Read as _};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
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
use vmm::console::ConsoleSpec;
use vmm::jail::seccomp::Mode;
use vmm::jail::{Identity, JailSpec, Limits};
use vmm::machine::{BootSource, MachineSpec, SystemIdentity};
use vmm::memory::Backing;
use vmm::process::{Disk, Interface, ProcessError, Served};
use vmm::virtio::vhost_user::{BootReader, RemoteDisk};
use vmm::virtio::vsock;
use volume::{BlockBackend, Overlay, RawFile, RawOptions};

use crate::boot_source::KernelOnDisk;
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

/// Users from here on are microVMs'. The range is far from what distributions and user namespaces are given.
const USER_BASE: u32 = 0x6000_0000;

/// What a microVM is. Numbers of type [`RawFd`] are descriptors that the process inherits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessSpec {
    pub(crate) cpus: u8,
    pub(crate) memory: ByteSize,
    /// Other processes may serve its devices.
    pub(crate) shares_memory: bool,
    pub(crate) instance: InstanceId,
    pub(crate) instance_type: String,
    pub(crate) boot: BootSpec,
    /// In the order in which the guest sees them.
    pub(crate) disks: Vec<DiskSpec>,
    pub(crate) interface: Option<InterfaceSpec>,
    pub(crate) vsock: Option<VsockSpec>,
    /// A network namespace for the process itself, in which there is nothing; it makes one if none is given.
    pub(crate) network: Option<RawFd>,
    /// A Unix stream that sees the console from its first byte on, and types.
    pub(crate) viewer: RawFd,
    /// A listening Unix socket.
    pub(crate) control: RawFd,
    /// A pipe that gets a byte when the guest begins to run.
    pub(crate) started: RawFd,
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
        kernel: RawFd,
        initrd: Option<RawFd>,
        command_line: String,
    },
}

/// A disk. The path is for messages.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DiskSpec {
    Raw {
        file: RawFd,
        path: PathBuf,
        read_only: bool,
    },
    /// Writes go to `layer`, an empty file; the guest sees `size`, or the base's.
    Layered {
        base: RawFd,
        path: PathBuf,
        layer: RawFd,
        size: Option<ByteSize>,
    },
    /// Whoever is at the other end of this Unix stream serves it (vhost-user).
    VhostUser {
        socket: RawFd,
        /// How long requests wait for another server, which comes by the control socket.
        reconnect_ms: u64,
    },
}

/// An interface on a tap.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InterfaceSpec {
    pub(crate) mac: MacAddress,
    pub(crate) mtu: u16,
    /// A descriptor for each pair of queues.
    pub(crate) queues: Vec<RawFd>,
}

/// Sockets between guest and host, as `vmm::virtio::vsock` describes them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VsockSpec {
    /// A listening Unix socket.
    pub(crate) listener: RawFd,
    /// A Unix socket of packets, whose other end is asked for what the guest wants to reach.
    pub(crate) services: RawFd,
}

/// Runs the microVM to its end.
pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let spec = read_spec().context("cannot read the microVM's specification")?;
    match vmm::process::run(open(spec)?) {
        Ok(vmm::process::End::PoweredOff) => Ok(ExitCode::SUCCESS),
        Err(error @ ProcessError::Fault { .. }) => {
            eprint!("{}", failure::render(&error.into()));
            Ok(ExitCode::from(CRASHED))
        }
        Err(error) => Err(error.into()),
    }
}

/// The line on standard input. What is left of it is a lifeline: the process dies when its other end is closed.
fn read_spec() -> io::Result<ProcessSpec> {
    let mut line = String::new();
    let mut stdin = io::stdin().lock();
    stdin.read_line(&mut line)?;
    sys::die_with(stdin.as_fd())?;
    Ok(serde_json::from_str(&line)?)
}

/// The specification with everything in it open.
fn open(spec: ProcessSpec) -> anyhow::Result<vmm::process::ProcessSpec> {
    let disks = spec.disks.into_iter().map(open_disk).collect::<anyhow::Result<Vec<_>>>()?;
    let boot: Box<dyn BootSource> = match spec.boot {
        BootSpec::Kernel { kernel, initrd, command_line } => Box::new(KernelFiles {
            kernel: take_file(kernel)?,
            initrd: initrd.map(take_file).transpose()?,
            command_line,
        }),
        BootSpec::Disk { command_line } => Box::new(KernelOnDisk {
            disk: match disks.first() {
                Some(Opened::Here(disk)) => boot_source::Disk::Here(Arc::clone(disk)),
                Some(Opened::Elsewhere { remote, .. }) => boot_source::Disk::Elsewhere(
                    BootReader::new(Arc::clone(remote)).context("cannot prepare to read the first disk")?,
                ),
                None => bail!("there is neither a disk nor a kernel to boot"),
            },
            command_line,
        }),
    };
    let (mut uuid, mut generation) = ([0; 16], [0; 16]);
    let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    random
        .read_exact(&mut uuid)
        .and_then(|()| random.read_exact(&mut generation))
        .context("cannot draw an id")?;
    let machine = MachineSpec {
        cpus: spec.cpus,
        memory_bytes: spec.memory.bytes(),
        backing: if spec.shares_memory { Backing::Shared } else { Backing::Private },
        identity: SystemIdentity {
            uuid: ec2_uuid(u128::from_le_bytes(uuid)),
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
            .zip(0..)
            .map(|(opened, index)| disk(opened, index))
            .collect::<Result<_, _>>()?,
        interfaces: spec.interface.map(open_interface).transpose()?.into_iter().collect(),
        console: ConsoleSpec::default(),
        viewer: Some(UnixStream::from(take(spec.viewer)?)),
        control: UnixListener::from(take(spec.control)?),
        started: Some(take(spec.started)?.into()),
        vsock: spec.vsock.map(open_vsock).transpose()?,
        rng: true,
        balloon: true,
        jail: JailSpec {
            // An ordinary user can become nobody else, and need not.
            identity: Uid::effective().is_root().then(own_user),
            network: spec.network.map(take).transpose()?,
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

fn open_disk(spec: DiskSpec) -> anyhow::Result<Opened> {
    match spec {
        DiskSpec::Raw { file, path, read_only } => {
            let options = RawOptions { read_only, direct: false };
            Ok(Opened::Here(Arc::new(RawFile::from_file(take_file(file)?, &path, options)?)))
        }
        DiskSpec::Layered { base, path, layer, size } => {
            let options = RawOptions { read_only: true, direct: false };
            let base = RawFile::from_file(take_file(base)?, &path, options)?;
            let overlay = Overlay::with_top(&base, take_file(layer)?, size.map(ByteSize::bytes));
            Ok(Opened::Here(Arc::new(
                overlay.with_context(|| format!("cannot lay a temporary layer over {}", path.display()))?,
            )))
        }
        DiskSpec::VhostUser { socket, reconnect_ms } => {
            let remote = RemoteDisk::connect(take(socket)?.into()).context("cannot open a disk")?;
            Ok(Opened::Elsewhere { remote, patience: Duration::from_millis(reconnect_ms) })
        }
    }
}

/// What a disk is called on the control socket, by its place.
pub(crate) fn disk_id(place: usize) -> String {
    format!("disk{place}")
}

fn disk(opened: Opened, place: usize) -> anyhow::Result<Disk> {
    let name = disk_id(place);
    let id = name.parse()?;
    let served = match opened {
        Opened::Here(backend) => Served::Here { serial: name, backend },
        Opened::Elsewhere { remote, patience } => Served::Elsewhere { remote, patience },
    };
    Ok(Disk { id, served, is_removable: false })
}

fn open_interface(spec: InterfaceSpec) -> anyhow::Result<Interface> {
    let taps = spec.queues.into_iter().map(take).collect::<anyhow::Result<_>>()?;
    Ok(Interface { id: "net0".parse()?, mac: spec.mac, mtu: spec.mtu, taps })
}

fn open_vsock(spec: VsockSpec) -> anyhow::Result<vsock::VsockSpec> {
    Ok(vsock::VsockSpec {
        name: "vsock".to_owned(),
        guest_cid: GUEST_CID,
        listener: Some(take(spec.listener)?.into()),
        services: Some(take(spec.services)?),
    })
}

fn take(number: RawFd) -> anyhow::Result<OwnedFd> {
    sys::take_inherited(number)
        .with_context(|| format!("descriptor {number} of the specification was not handed over"))
}

fn take_file(number: RawFd) -> anyhow::Result<File> {
    take(number).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_begins_with_ec2_and_keeps_the_rest() {
        assert_eq!(ec2_uuid(0), 0xec2 << 116);
        assert_eq!(format!("{:032x}", ec2_uuid(u128::MAX)), format!("ec2{}", "f".repeat(29)));
    }

    #[test]
    fn a_descriptor_of_this_process_is_not_taken_for_an_inherited_one() {
        let own = File::open("/dev/null").unwrap();
        assert!(sys::take_inherited(std::os::fd::AsRawFd::as_raw_fd(&own)).is_err());
        assert!(sys::take_inherited(0).is_err());
        assert!(sys::take_inherited(987_654).is_err());
    }
}
