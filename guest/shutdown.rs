//! The end of the machine: every process is asked, then told, to end; file systems are left clean; the kernel stops.
//!
//! Each step has a limit, so that a dead NFS server or a process in the kernel's hands cannot keep a machine from
//! stopping.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sync};

use crate::console::say;
use crate::init::{round_up, spawn};
use crate::mount::parse_mountinfo;
use crate::services;

const TERM_WAIT: Duration = Duration::from_secs(5);
const KILL_WAIT: Duration = Duration::from_secs(2);
const UNMOUNT_WAIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    PowerOff,
    Reboot,
    Halt,
}

/// Stops the machine. `signals` must deliver SIGCHLD.
pub fn run(how: How, signals: &SignalFd) -> ! {
    let (mode, words) = match how {
        How::PowerOff => (RebootMode::RB_POWER_OFF, "powering off"),
        How::Reboot => (RebootMode::RB_AUTOBOOT, "rebooting"),
        How::Halt => (RebootMode::RB_HALT_SYSTEM, "halting"),
    };
    say!("{words}");
    end_processes(signals);
    // In a child, because sync(2) and umount(2) have no limit of their own.
    match spawn(&mut services::ourselves("leave")) {
        Ok(_) if wait_for_children(signals, UNMOUNT_WAIT) => {}
        Ok(_) => say!("file systems could not be left in {} s", UNMOUNT_WAIT.as_secs()),
        Err(error) => {
            say!("file systems are not unmounted: {error}");
            sync();
        }
    }
    let Err(errno) = reboot(mode);
    crate::fault::end(&format!("{words}: {errno}"))
}

fn end_processes(signals: &SignalFd) {
    let everyone = Pid::from_raw(-1);
    // A shell ignores SIGTERM but not the loss of its terminal; a stopped process has to run to end.
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
        let _ = kill(everyone, signal);
    }
    if wait_for_children(signals, TERM_WAIT) {
        return;
    }
    say!("some processes did not end in {} s and are killed", TERM_WAIT.as_secs());
    let _ = kill(everyone, Signal::SIGKILL);
    wait_for_children(signals, KILL_WAIT);
}

/// Whether all have ended in time. Every process is a child of pid 1 once its parent is gone.
fn wait_for_children(signals: &SignalFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) => {}
            _ => continue,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, round_up(left));
        while let Ok(Some(_)) = signals.read_signal() {}
    }
}

/// `nimbo-init leave`: unmounts all that holds data, the last mounted first, and makes the root read-only.
///
/// # Errors
/// If the root could not be made read-only. What else fails is said.
pub fn leave_file_systems() -> Result<()> {
    sync();
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for (target, kind) in parse_mountinfo(&text).into_iter().rev() {
        if target == "/" || matches!(kind.as_str(), "proc" | "sysfs" | "devtmpfs" | "devpts" | "cgroup2") {
            continue;
        }
        if umount2(target.as_str(), MntFlags::empty()).is_err()
            && let Err(errno) = umount2(target.as_str(), MntFlags::MNT_DETACH)
        {
            say!("unmount {target}: {errno}");
        }
    }
    let none: Option<&str> = None;
    let result = mount(none, "/", none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none);
    sync();
    result.context("make the root read-only")
}
