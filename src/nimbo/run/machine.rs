//! The process of the microVM: started, talked to, and its end noticed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::Context as _;
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
use super::terminal::{relay, say};
use super::vsock::Vsock;
use crate::boot_source::CONSOLE;
use crate::microvm::handover::{self, Place};
use crate::microvm::reconnect::{self, Owner};
use crate::microvm::{self, Exit, Getting, PROGRAM, Provisions};
use crate::socket::SocketPath;
use crate::vmm_process::{BootSpec, InterfaceSpec, ProcessSpec, VsockSpec};
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

/// The process, which begins while it is found out what it is to be.
pub(super) struct Begun {
    child: Child,
    socket: UnixStream,
    provisions: Getting,
}

impl Begun {
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn begin() -> anyhow::Result<Self> {
        let provisions = Provisions::get()?;
        let begin = || {
            let (command, socket) = microvm::command(Path::new(PROGRAM), false)?;
            Ok((Command::from(command).kill_on_drop(true).spawn()?, socket))
        };
        let begun: io::Result<_> = begin();
        let (child, socket) = begun.context("cannot start the microVM's process")?;
        Ok(Self { child, socket, provisions })
    }
}

/// The process.
pub(super) struct Machine {
    child: Child,
    /// The process dies when this is closed, so also with this process.
    _lifeline: UnixStream,
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
    /// Tells the process what to be, and returns with it the guest's console, which ends when the process does. `image` is raw.
    ///
    /// # Errors
    /// When a file cannot be opened or the process has ended; what is wrong with their content is told by the
    /// process.
    pub(super) fn start(
        begun: Begun,
        args: &Args,
        image: Option<&Path>,
        instance: InstanceId,
        network: Option<&mut Network>,
    ) -> anyhow::Result<(Self, UnixStream)> {
        let Begun { mut child, socket, provisions } = begun;
        let mut handed = handover::Handed::default();
        let mut hand = |descriptor: OwnedFd| handed.hand(descriptor);
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
        let Provisions { nowhere, cpuid } = provisions.wait()?;
        let spec = ProcessSpec {
            cpus: args.cpus,
            cpuid,
            memory: args.memory,
            shares_memory,
            instance,
            instance_type: INSTANCE_TYPE.to_owned(),
            boot: boot(args, &mut hand)?,
            disks,
            interfaces: network
                .map(|network| InterfaceSpec {
                    id: "net0".to_owned(),
                    is_removable: false,
                    mac: network.mac,
                    mtu: network.mtu(),
                    queues: network.take_queues().into_iter().map(&mut hand).collect(),
                })
                .into_iter()
                .collect(),
            vsock: vsock_spec,
            network: nowhere.map(|namespace| hand(namespace.into())),
            viewer: Some(hand(viewer.into())),
            console_log: None,
            control: hand(listener.into()),
            started: hand(tell_started.into()),
            report: None,
            has_lifeline: true,
        };
        handover::tell(&socket, &spec, &handed).context("cannot tell the microVM's process what it is")?;
        let messages = tokio::spawn(pass_on(child.stderr.take()));
        drop(handed);
        if !servers.is_empty() {
            reconnect::start(control.socket.path().to_owned(), Servers(servers))?;
        }
        let machine = Self {
            child,
            _lifeline: socket,
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
    match microvm::exit(status) {
        Exit::PoweredOff => End::PoweredOff,
        Exit::Failed => End::Failed,
        Exit::Crashed => End::Crashed,
        Exit::Died(_) if was_killed => End::Killed,
        Exit::Died(why) => End::Died(why),
    }
}

/// Prints what the process says, line by line.
async fn pass_on(stderr: Option<ChildStderr>) {
    let Some(stderr) = stderr else { return };
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        relay(&line);
    }
}

fn boot(args: &Args, hand: &mut impl FnMut(OwnedFd) -> Place) -> anyhow::Result<BootSpec> {
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

/// Where those listen who serve disks, by the disks' ids.
struct Servers(BTreeMap<String, PathBuf>);

impl Owner for Servers {
    fn server(&self, device: &str) -> Option<PathBuf> {
        self.0.get(device).cloned()
    }

    fn say(&self, message: &str) {
        say(message);
    }
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
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn one_that_was_killed_here_has_not_died_by_itself() {
        let killed = ExitStatus::from_raw(9);
        assert_eq!(end(killed, true), End::Killed);
        assert_eq!(end(killed, false), End::Died("killed by signal 9 (SIGKILL)".into()));
        assert_eq!(end(ExitStatus::from_raw(0), true), End::PoweredOff);
    }
}
