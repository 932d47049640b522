//! The process of a microVM as whoever starts it sees it: `nimbo run` one that dies with it, the host of a region many that do not.
//!
//! The process is started first, and is told what it is to be over a socket while it begins. Everything that it needs is opened by who starts it
//! and comes over that socket too, so that it opens nothing by path: disks, the kernel, the tap's queues, the listening sockets.

pub(crate) mod handover;
pub(crate) mod reconnect;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::Context as _;
use network::Namespace;
use vmm::machine::{CpuError, HostCpuid};

use crate::sys;
use crate::vmm_process;

/// A CPU has a pair of queues of its own, up to here: each costs a thread.
const QUEUE_PAIRS_MAX: u16 = 4;

/// This same binary.
pub(crate) const PROGRAM: &str = "/proc/self/exe";

/// How many pairs of queues an interface has.
pub(crate) fn queue_pairs(cpus: u8) -> u16 {
    u16::from(cpus).min(QUEUE_PAIRS_MAX)
}

/// What a microVM's process is given that takes the kernel longest, and so is got while that process begins.
#[derive(Debug)]
pub(crate) struct Provisions {
    /// A network namespace with nothing in it. An ordinary user may not make one; the process makes its own then, in a way open to all.
    pub(crate) nowhere: Option<Namespace>,
    pub(crate) cpuid: HostCpuid,
}

/// [`Provisions`] that are being got.
#[derive(Debug)]
pub(crate) struct Getting(thread::JoinHandle<Result<Provisions, CpuError>>);

impl Provisions {
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn get() -> anyhow::Result<Getting> {
        let get = || Ok(Provisions { nowhere: Namespace::enter_bare().ok(), cpuid: HostCpuid::ask()? });
        let thread = thread::Builder::new().name("provisions".to_owned()).spawn(get);
        thread.map(Getting).context("cannot start a thread")
    }
}

impl Getting {
    /// # Errors
    /// When `/dev/kvm` cannot be asked.
    pub(crate) fn wait(self) -> anyhow::Result<Provisions> {
        let got = self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(got?)
    }
}

/// `nimbo vmm`: a process that waits to be told, over the socket, what it is to be, and ends when that is closed instead. It `outlives` who
/// starts it, or not.
///
/// # Errors
/// When there is no socket to be had.
pub(crate) fn command(program: &Path, outlives: bool) -> io::Result<(Command, UnixStream)> {
    let (ours, its) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.arg("vmm").stdin(OwnedFd::from(its)).stdout(Stdio::null()).stderr(Stdio::piped());
    if outlives {
        sys::begin_session(&mut command);
    } else {
        // A Ctrl-C at the terminal, which goes to a whole process group, is for who started it to translate.
        command.process_group(0);
    }
    Ok((command, ours))
}

/// How a microVM's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The guest turned the power off.
    PoweredOff,
    /// The process printed an error.
    Failed,
    /// The guest could not go on; the process printed why.
    Crashed,
    /// By somebody else, or by itself in a way that it should not.
    Died(String),
}

pub(crate) fn exit(status: ExitStatus) -> Exit {
    const FAILED: i32 = vmm_process::FAILED as i32;
    const CRASHED: i32 = vmm_process::CRASHED as i32;
    match (status.code(), status.signal()) {
        (Some(0), _) => Exit::PoweredOff,
        (Some(FAILED), _) => Exit::Failed,
        (Some(CRASHED), _) => Exit::Crashed,
        (Some(code), _) => Exit::Died(format!("it returned {code}")),
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("?", |signal| signal.as_str());
            let why =
                if signal == libc::SIGSYS { ": it made a system call that its jail forbids" } else { "" };
            Exit::Died(format!("killed by signal {signal} ({name}){why}"))
        }
        (None, None) => Exit::Died(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_told_apart() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let signalled = ExitStatus::from_raw;
        assert_eq!(exit(exited(0)), Exit::PoweredOff);
        assert_eq!(exit(exited(1)), Exit::Failed);
        assert_eq!(exit(exited(3)), Exit::Crashed);
        assert_eq!(exit(signalled(9)), Exit::Died("killed by signal 9 (SIGKILL)".into()));
        let Exit::Died(why) = exit(signalled(31)) else { panic!("not told") };
        assert!(why.contains("SIGSYS") && why.contains("jail"), "{why}");
        assert_eq!(exit(exited(101)), Exit::Died("it returned 101".into()));
    }
}
