//! Processes that serve something at a control socket and outlive this one: started in sessions of their own, and found again.
//!
//! ```text
//!   find ──▶ somebody listens at the control socket: who, says the kernel (SO_PEERCRED) ──▶ pidfd
//!   start ─▶ it prints that it listens                                                  ──▶ pidfd
//! ```
//!
//! Nothing is written down about them, so nothing can be out of date: as long as such a process is there, it can be found, whoever started it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use network::Namespace;
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::runtime::Handle;

use crate::{socket, sys};

/// How long one may take to say that it listens.
pub(super) const START_MAX: Duration = Duration::from_secs(60);
/// How long one may take to write down what it has, when it is to end.
const END_MAX: Duration = Duration::from_secs(30);
/// What is told of its messages when it does not start.
const MESSAGE_BYTES_MAX: usize = 2048;

/// A process that runs, or has ended.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) pid: Pid,
    descriptor: Arc<AsyncFd<OwnedFd>>,
}

impl Process {
    fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid, descriptor: Arc::new(sys::watch(sys::open_process(pid)?)?) })
    }

    /// Starts one that prints a line when it listens, and returns then. What it says on standard error goes to `log`. It is in `namespace`, if
    /// one is named, or in the network of this process.
    ///
    /// # Errors
    /// When it cannot be started, or ends at once; what it said is told.
    pub(super) async fn start(
        mut command: Command,
        log: &Path,
        namespace: Option<&Namespace>,
    ) -> anyhow::Result<Self> {
        let messages = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(messages);
        sys::begin_session(&mut command);
        let mut command = tokio::process::Command::from(command);
        let runtime = Handle::current();
        let spawned = match namespace {
            // It begins where the thread is that starts it.
            Some(namespace) => namespace.run(|| {
                let _inside = runtime.enter();
                command.spawn()
            })?,
            None => command.spawn(),
        };
        let mut child = spawned.context("cannot start a process")?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("it ended at once")?;
        let process = Self::open(Pid::from_raw(pid)).context("cannot watch a process")?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        // From here on nobody waits for it but the runtime, which takes its status when it ends.
        drop(child);
        let mut line = String::new();
        match tokio::time::timeout(START_MAX, BufReader::new(stdout).read_line(&mut line)).await {
            Ok(Ok(1..)) => Ok(process),
            Ok(_) => Err(told(log)),
            Err(_) => {
                process.signal(Signal::SIGKILL);
                Err(anyhow!("it did not begin to serve within {} s", START_MAX.as_secs()))
            }
        }
    }

    /// Waits for its end, which the kernel tells at once.
    pub(super) async fn ended(&self) {
        // It fails only with the runtime's end.
        let _ = self.descriptor.readable().await;
    }

    pub(super) fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut process = [PollFd::new(self.descriptor.get_ref().as_fd(), PollFlags::POLLIN)];
        poll(&mut process, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Has it carry out what has arrived, flush, and end.
    pub(super) async fn end(&self) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(END_MAX, self.ended()).await.is_err() {
            tracing::warn!(pid = %self.pid, "a process does not end, and is killed");
            self.signal(Signal::SIGKILL);
            self.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = sys::signal_process(self.descriptor.get_ref().as_fd(), signal) {
            tracing::debug!(pid = %self.pid, %error, "a process was sent no signal");
        }
    }
}

/// What the last process said.
fn told(log: &Path) -> anyhow::Error {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(MESSAGE_BYTES_MAX)..]).into_owned();
    match said.trim().trim_start_matches("error: ") {
        "" => anyhow!("the process ended, and said nothing"),
        said => anyhow!("{said}"),
    }
}

/// Who listens at a socket. Between two answers of the same process it was the one that is watched.
pub(super) fn find(control: &Path) -> anyhow::Result<Option<Process>> {
    while let Some(pid) = listener(control)? {
        match Process::open(pid) {
            Ok(process) if listener(control)? == Some(pid) => return Ok(Some(process)),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => return Err(error).context("cannot watch a process"),
        }
    }
    Ok(None)
}

pub(super) fn listener(control: &Path) -> anyhow::Result<Option<Pid>> {
    match socket::connect(control) {
        Ok(stream) => {
            let peer = getsockopt(&stream, PeerCredentials).context("cannot tell who listens at a socket")?;
            Ok(Some(Pid::from_raw(peer.pid())))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot connect to {}", control.display())),
    }
}

/// Has all processes end in order that serve something by sockets in `folder`.
///
/// # Errors
/// When the folder cannot be read, or a process not be watched.
pub(super) async fn end_all(folder: &Path) -> anyhow::Result<()> {
    let about = || format!("cannot read the folder {}", folder.display());
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(about)?,
    };
    for entry in entries {
        let path = entry.with_context(about)?.path();
        if !is_socket(&path) {
            continue;
        }
        if let Some(process) = find(&path)? {
            process.end().await;
        }
        // It is in a jail, where it does not see this one.
        socket::remove_abandoned(&path);
    }
    Ok(())
}

pub(super) fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}
