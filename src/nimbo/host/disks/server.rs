//! The process that has a volume open: `nimbo volume serve`, in a session of its own, which outlives this process.
//!
//! ```text
//!   find ──▶ somebody listens at FOLDER/control: who, says the kernel (SO_PEERCRED) ──▶ pidfd
//!   start ─▶ it prints that it listens                                             ──▶ pidfd
//! ```
//!
//! Nothing is written down about it, so nothing can be out of date: as long as the process is there, it can be found, whoever started it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::volume::CONTROL;
use crate::{socket, sys};

/// How long it may take to open its volume. After a crash of the host it reads what was written last.
const START_MAX: Duration = Duration::from_secs(60);
/// How long it may take to write down what it has, when it is to end.
const END_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether another's process is ready.
const LOOK: Duration = Duration::from_millis(5);
/// What is told of its messages when it does not start.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Where the process and its volume are.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The volume.
    pub(super) folder: PathBuf,
    /// Where microVMs find it.
    pub(super) socket: PathBuf,
    /// What it says on standard error.
    pub(super) log: PathBuf,
}

/// A process that runs, or has ended.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) pid: Pid,
    process: Arc<AsyncFd<OwnedFd>>,
}

impl Place {
    pub(super) fn control(&self) -> PathBuf {
        self.folder.join(CONTROL)
    }

    /// The process that has the volume, if one has.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn find(&self) -> anyhow::Result<Option<Server>> {
        let Some(server) = find(&self.control())? else { return Ok(None) };
        // It may be about to listen for microVMs.
        let wait = async {
            while !server.has_ended() && !is_socket(&self.socket) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(START_MAX, wait).await.is_err() {
            bail!(
                "process {} has {} and no socket {}",
                server.pid,
                self.folder.display(),
                self.socket.display()
            );
        }
        Ok((!server.has_ended()).then_some(server))
    }

    /// Starts a process, and returns when it listens.
    ///
    /// # Errors
    /// When it cannot be started, or ends at once; what it said is told.
    pub(super) async fn start(&self, program: &Path, arguments: Vec<OsString>) -> anyhow::Result<Server> {
        let log = File::create(&self.log).with_context(|| format!("cannot make {}", self.log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        sys::begin_session(&mut command);
        let mut child = tokio::process::Command::from(command).spawn().context("cannot start a process")?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("it ended at once")?;
        let server = Server::open(Pid::from_raw(pid)).context("cannot watch a process")?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        // From here on nobody waits for it but the runtime, which takes its status when it ends.
        drop(child);
        let mut line = String::new();
        match tokio::time::timeout(START_MAX, BufReader::new(stdout).read_line(&mut line)).await {
            Ok(Ok(1..)) => Ok(server),
            Ok(_) => Err(self.told()),
            Err(_) => {
                server.signal(Signal::SIGKILL);
                Err(anyhow!("it did not begin to serve within {} s", START_MAX.as_secs()))
            }
        }
        .with_context(|| format!("cannot serve the volume {}", self.folder.display()))
    }

    /// What the last process said.
    fn told(&self) -> anyhow::Error {
        let said = fs::read(&self.log).unwrap_or_default();
        let said =
            String::from_utf8_lossy(&said[said.len().saturating_sub(MESSAGE_BYTES_MAX)..]).into_owned();
        match said.trim().trim_start_matches("error: ") {
            "" => anyhow!("the process ended, and said nothing"),
            said => anyhow!("{said}"),
        }
    }
}

impl Server {
    fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid, process: Arc::new(sys::watch(sys::open_process(pid)?)?) })
    }

    /// Waits for its end, which the kernel tells at once.
    pub(super) async fn ended(&self) {
        // It fails only with the runtime's end.
        let _ = self.process.readable().await;
    }

    pub(super) fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut process = [PollFd::new(self.process.get_ref().as_fd(), PollFlags::POLLIN)];
        poll(&mut process, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Has it carry out what has arrived, flush, and end.
    pub(super) async fn end(&self) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(END_MAX, self.ended()).await.is_err() {
            tracing::warn!(pid = %self.pid, "the process of a volume does not end, and is killed");
            self.signal(Signal::SIGKILL);
            self.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = sys::signal_process(self.process.get_ref().as_fd(), signal) {
            tracing::debug!(pid = %self.pid, %error, "a process was sent no signal");
        }
    }
}

/// Has all processes end in order that serve volumes by sockets in `folder`.
///
/// # Errors
/// When the folder cannot be read, or a process not be watched.
pub(in crate::host) async fn end_all(folder: &Path) -> anyhow::Result<()> {
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
        if let Some(server) = find(&path)? {
            server.end().await;
        }
        // It is in a jail, where it does not see this one.
        socket::remove_abandoned(&path);
    }
    Ok(())
}

/// Who listens at a socket. Between two answers of the same process it was the one that is watched.
fn find(control: &Path) -> anyhow::Result<Option<Server>> {
    while let Some(pid) = listener(control)? {
        match Server::open(pid) {
            Ok(server) if listener(control)? == Some(pid) => return Ok(Some(server)),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => return Err(error).context("cannot watch the process of a volume"),
        }
    }
    Ok(None)
}

pub(in crate::host) fn listener(control: &Path) -> anyhow::Result<Option<Pid>> {
    match socket::connect(control) {
        Ok(stream) => {
            let peer = getsockopt(&stream, PeerCredentials).context("cannot tell who serves a volume")?;
            Ok(Some(Pid::from_raw(peer.pid())))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot connect to {}", control.display())),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}
