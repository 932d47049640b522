//! The process of the microVM: started, talked to, and its end noticed.
//!
//! Everything that it needs is opened here and handed over by number, so that it opens nothing by path: disks, the
//! temporary layer, the kernel, the tap's queues, the listening sockets.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::thread;

use anyhow::{Context as _, anyhow};
use network::Namespace;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::{JoinHandle, spawn_blocking};
use types::InstanceId;
use vmm::control::client::{Client, ClientError};

use super::args::Args;
use super::disks::{Disks, Handed, open};
use super::network::{INSTANCE_TYPE, Network};
use super::reconnect;
use super::terminal::relay;
use super::vsock::Vsock;
use crate::boot_source::CONSOLE;
use crate::socket::SocketPath;
use crate::sys;
use crate::vmm_process::{self, BootSpec, InterfaceSpec, ProcessSpec, VsockSpec};
use crate::volume::ServedVolume;

/// How the microVM's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The guest turned the power off.
    PoweredOff,
    /// The process printed an error.
    Failed,
    /// The guest could not go on; the process printed why.
    Crashed,
    /// By [`Machine::kill`].
    Killed,
    /// By somebody else, or by itself in a way that it should not.
    Died(String),
}

/// A conversation on a connection of its own to the control socket, on a thread of its own since the client blocks.
type Talk<T> = JoinHandle<Result<T, ClientError>>;

/// A network namespace with nothing in it, which takes the kernel longest of all that a microVM's process is put into, and
/// so is made meanwhile.
#[derive(Debug)]
pub(super) struct Nowhere(thread::JoinHandle<Result<Namespace, network::Error>>);

impl Nowhere {
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn prepare() -> anyhow::Result<Self> {
        let thread = thread::Builder::new().name("nowhere".to_owned()).spawn(Namespace::bare);
        thread.map(Self).context("cannot start a thread")
    }

    /// An ordinary user may not make one; the process makes its own then, in a way open to all.
    fn wait(self) -> Option<Namespace> {
        self.0.join().ok()?.ok()
    }
}

/// The process.
pub(super) struct Machine {
    child: Child,
    /// The process dies when this is closed, so also with this process.
    _lifeline: File,
    /// Has a byte when the guest runs, or ends without one.
    started: pipe::Receiver,
    control: Control,
    /// What it has of this process.
    volumes: Vec<ServedVolume>,
    _vsock: Option<Vsock>,
    /// Passes on what the process says on standard error.
    messages: JoinHandle<()>,
    was_killed: bool,
}

impl Machine {
    /// Starts the process, and returns with it the guest's console, which ends when the process does. `image` is raw,
    /// `nowhere` the network that the process is to be in.
    ///
    /// # Errors
    /// When a file cannot be opened or a process cannot be started; what is wrong with their content is told by the
    /// process.
    pub(super) fn start(
        args: &Args,
        image: Option<&Path>,
        instance: InstanceId,
        network: Option<&mut Network>,
        nowhere: Nowhere,
    ) -> anyhow::Result<(Self, UnixStream)> {
        let mut handed = Vec::new();
        let mut hand = |descriptor: OwnedFd| {
            let number = descriptor.as_raw_fd();
            handed.push(descriptor);
            number
        };
        let (control, listener) = Control::listen(args.control.as_deref())?;
        let (console, viewer) = UnixStream::pair().context("cannot make a stream for the console")?;
        let (started, tell_started) = io::pipe().context("cannot make a pipe")?;
        let started = pipe::Receiver::from_owned_fd(started.into()).context("cannot watch a pipe")?;
        let (vsock, vsock_spec) = match args.vsock.as_deref().map(Vsock::start).transpose()? {
            Some((vsock, handed)) => {
                let (listener, services) = (hand(handed.listener.into()), hand(handed.services));
                (Some(vsock), Some(VsockSpec { listener, services }))
            }
            None => (None, None),
        };
        let disks = Disks::open(args, image)?;
        let shares_memory = args.share_memory || disks.are_served_elsewhere();
        let Handed { disks, volumes, servers } = disks.hand(&mut hand);
        let spec = ProcessSpec {
            cpus: args.cpus,
            memory: args.memory,
            shares_memory,
            instance,
            instance_type: INSTANCE_TYPE.to_owned(),
            boot: boot(args, &mut hand)?,
            disks,
            interface: network.map(|network| InterfaceSpec {
                mac: network.mac,
                mtu: network.mtu(),
                queues: network.take_queues().into_iter().map(&mut hand).collect(),
            }),
            vsock: vsock_spec,
            network: nowhere.wait().map(|namespace| hand(namespace.into())),
            viewer: hand(viewer.into()),
            control: hand(listener.into()),
            started: hand(tell_started.into()),
        };
        let (mut child, lifeline) = spawn(&spec, &handed)?;
        let messages = tokio::spawn(pass_on(child.stderr.take()));
        drop(handed);
        if !servers.is_empty() {
            let servers = servers.into_iter().map(|(place, path)| (vmm_process::disk_id(place), path));
            reconnect::start(control.socket.path().to_owned(), servers.collect())?;
        }
        let machine = Self {
            child,
            _lifeline: lifeline,
            started,
            control,
            volumes,
            _vsock: vsock,
            messages,
            was_killed: false,
        };
        Ok((machine, console))
    }

    /// Waits until the guest runs; false when the process has ended without that.
    ///
    /// # Errors
    /// What read(2) says.
    pub(super) async fn has_started(&mut self) -> anyhow::Result<bool> {
        let length = self.started.read(&mut [0]).await.context("cannot wait for the guest's start")?;
        Ok(length > 0)
    }

    /// # Errors
    /// When the process does not answer, or the guest is paused.
    pub(super) async fn press_power_button(&self) -> anyhow::Result<()> {
        let press = |mut client: Client| client.request("POST", "/v1/machine/power-button", b"{}", &[]);
        self.control.talk(press).await.context("the thread for the power button failed")??;
        Ok(())
    }

    /// Ends the process at once. What the guest wrote to disks that outlive it is as after a power cut.
    pub(super) fn kill(&mut self) {
        self.was_killed = true;
        // The only error is that it has ended.
        let _ = self.child.start_kill();
    }

    /// Waits for the end, which a pidfd tells at once.
    ///
    /// # Errors
    /// What waitpid(2) says.
    pub(super) async fn wait(&mut self) -> anyhow::Result<End> {
        let status = self.child.wait().await.context("cannot wait for the microVM's process")?;
        Ok(end(status, self.was_killed))
    }

    /// Passes on the last messages of a process that has ended, and closes its volumes.
    ///
    /// # Errors
    /// When what was written last may not be on stable storage.
    pub(super) async fn finish(self) -> anyhow::Result<()> {
        // The task ends with the stream, and has nothing to return.
        let _ = self.messages.await;
        self.volumes.into_iter().try_for_each(ServedVolume::close)
    }
}

fn end(status: ExitStatus, was_killed: bool) -> End {
    const FAILED: i32 = vmm_process::FAILED as i32;
    const CRASHED: i32 = vmm_process::CRASHED as i32;
    match (status.code(), status.signal()) {
        (Some(0), _) => End::PoweredOff,
        (Some(FAILED), _) => End::Failed,
        (Some(CRASHED), _) => End::Crashed,
        _ if was_killed => End::Killed,
        (Some(code), _) => End::Died(format!("it returned {code}")),
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("?", |signal| signal.as_str());
            let why =
                if signal == libc::SIGSYS { ": it made a system call that its jail forbids" } else { "" };
            End::Died(format!("killed by signal {signal} ({name}){why}"))
        }
        (None, None) => End::Died(status.to_string()),
    }
}

/// Starts this same binary as `nimbo vmm`, and writes its specification into its standard input, which stays open.
fn spawn(spec: &ProcessSpec, handed: &[OwnedFd]) -> anyhow::Result<(Child, File)> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("vmm").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A Ctrl-C at the terminal, which goes to a whole process group, is for this process to translate.
    command.process_group(0);
    sys::inherit(&mut command, handed.iter().map(|descriptor| descriptor.as_raw_fd()).collect());
    let start = || {
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        // A line is less than what a pipe takes without a reader.
        let mut lifeline = File::from(stdin.into_owned_fd()?);
        let mut line = serde_json::to_vec(spec)?;
        line.push(b'\n');
        lifeline.write_all(&line)?;
        Ok((child, lifeline))
    };
    start().map_err(|error: io::Error| anyhow!(error).context("cannot start the microVM's process"))
}

/// Prints what the process says, line by line.
async fn pass_on(stderr: Option<ChildStderr>) {
    let Some(stderr) = stderr else { return };
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        relay(&line);
    }
}

fn boot(args: &Args, hand: &mut impl FnMut(OwnedFd) -> RawFd) -> anyhow::Result<BootSpec> {
    let Some(kernel) = &args.kernel else {
        return Ok(BootSpec::Disk { command_line: args.cmdline.clone() });
    };
    Ok(BootSpec::Kernel {
        kernel: hand(open(kernel, "kernel")?.into()),
        initrd: args
            .initrd
            .as_deref()
            .map(|path| open(path, "initrd").map(|file| hand(file.into())))
            .transpose()?,
        command_line: args.cmdline.clone().unwrap_or_else(|| CONSOLE.to_owned()),
    })
}

/// Where the control socket is.
#[derive(Debug)]
struct Control {
    socket: SocketPath,
    /// Ours, and nobody else may enter it, unless the user chose the path.
    _folder: Option<TempDir>,
}

impl Control {
    fn listen(chosen: Option<&Path>) -> anyhow::Result<(Self, UnixListener)> {
        let (path, folder) = match chosen {
            Some(path) => (path.to_owned(), None),
            None => {
                let folder = tempfile::Builder::new().prefix("nimbo-").tempdir();
                let folder = folder.context("cannot make a folder for the control socket")?;
                (folder.path().join("control"), Some(folder))
            }
        };
        let (socket, listener) = SocketPath::listen(&path, "the control socket")?;
        Ok((Self { socket, _folder: folder }, listener))
    }

    fn talk<T: Send + 'static>(
        &self,
        talk: impl FnOnce(Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Talk<T> {
        let path = self.socket.path().to_owned();
        spawn_blocking(move || Client::connect(&path).and_then(talk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_told_apart() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let signalled = ExitStatus::from_raw;
        assert_eq!(end(exited(0), false), End::PoweredOff);
        assert_eq!(end(exited(0), true), End::PoweredOff);
        assert_eq!(end(exited(1), false), End::Failed);
        assert_eq!(end(exited(3), false), End::Crashed);
        assert_eq!(end(signalled(9), true), End::Killed);
        assert_eq!(end(signalled(9), false), End::Died("killed by signal 9 (SIGKILL)".into()));
        let End::Died(why) = end(signalled(31), false) else { panic!("not told") };
        assert!(why.contains("SIGSYS") && why.contains("jail"), "{why}");
        assert_eq!(end(exited(101), false), End::Died("it returned 101".into()));
    }
}
