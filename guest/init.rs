//! The life of pid 1 in the root: set the machine up, start its children, and wait for what happens.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cmdline::CommandLine;
use crate::console::{self, say};
use crate::modules::Modules;
use crate::power::Buttons;
use crate::services::{self, Services};
use crate::shutdown::{self, How};
use crate::uevent::Uevents;
use crate::{MODULES, fstab, mount as mounts};

/// Never ends but by an error.
///
/// # Errors
/// Whatever the machine cannot go on with.
pub fn run() -> Result<Infallible> {
    mounts::first()?;
    open_console();
    let line = CommandLine::of_kernel();
    let signals = take_signals()?;
    prepare();
    let events = Uevents::open()?;
    Modules::of_kernel().load_list(Path::new(MODULES));
    fstab::mount_all(fstab::Kind::Local);
    let mut machine = Machine::default();
    machine.buttons.refresh();
    machine.start(&line)?;
    loop {
        if let Some(how) = machine.turn(&signals, &events)? {
            shutdown::run(how, &signals);
        }
    }
}

/// The console that the kernel gave us is lost if it mounted the root itself, without an initrd.
fn open_console() {
    let Ok(console) = File::options().read(true).write(true).open("/dev/console") else { return };
    let _ = nix::unistd::dup2_stdin(&console);
    let _ = nix::unistd::dup2_stdout(&console);
    let _ = nix::unistd::dup2_stderr(&console);
}

/// All that pid 1 reacts to. SIGINT is ctrl-alt-del; the others are what busybox's poweroff, reboot and halt send.
fn take_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPWR]
    {
        set.add(signal);
    }
    set.thread_block().context("block signals")?;
    // Fails outside the first pid namespace, where there is no such key.
    let _ = set_cad_enabled(false);
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context("open a signalfd")
}

/// What a machine works without, if badly: so what fails is said and left.
fn prepare() {
    let none: Option<&str> = None;
    if let Err(errno) = mount(none, "/", none, MsFlags::MS_REMOUNT, none) {
        say!("the root stays read-only: {errno}");
    }
    for error in mounts::system() {
        say!("{error:#}");
    }
}

#[derive(Default)]
struct Machine {
    services: Services,
    cloud: Option<Pid>,
    /// Where `cloud` tells how far it is, until it closes it.
    progress: Option<ChildStdout>,
    buttons: Buttons,
    may_serve: bool,
}

impl Machine {
    fn start(&mut self, line: &CommandLine) -> Result<()> {
        if !line.cloud {
            self.services.add_net(Stdio::null());
            self.serve();
            console::ready();
            return Ok(());
        }
        let (network_up, tell_network_up) = std::io::pipe().context("make a pipe")?;
        self.services.add_net(tell_network_up.into());
        let mut cloud = services::ourselves("cloud");
        let mut child =
            cloud.stdin(network_up).stdout(Stdio::piped()).spawn().context("start nimbo-init cloud")?;
        self.progress = child.stdout.take();
        self.cloud = Some(pid_of(child.id()));
        Ok(())
    }

    /// Starts what has to wait for host keys and users.
    fn serve(&mut self) {
        if !std::mem::replace(&mut self.may_serve, true) {
            self.services.add_configured();
        }
    }

    /// Waits for one thing to happen, and reacts. The answer is how to shut down, if that is due.
    fn turn(&mut self, signals: &SignalFd, events: &Uevents) -> Result<Option<How>> {
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(events.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.buttons.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        if let Some(progress) = &self.progress {
            fds.push(PollFd::new(progress.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match self.services.next_start() {
            Some(at) => round_up(at.saturating_duration_since(Instant::now())),
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for something to happen"),
        }
        let cloud_spoke = self.progress.is_some() && fds.last().and_then(PollFd::any) == Some(true);
        drop(fds);
        if cloud_spoke {
            self.listen_to_cloud();
        }
        if events.drain().iter().any(|event| matches!(event.subsystem.as_str(), "input" | "")) {
            self.buttons.refresh();
        }
        self.services.start_due(Instant::now());
        if self.buttons.pressed() {
            say!("the power button was pressed");
            return Ok(Some(How::PowerOff));
        }
        Ok(self.handle_signals(signals))
    }

    /// One line means that services may start. The end of the pipe means that no such line will come.
    fn listen_to_cloud(&mut self) {
        let Some(progress) = &mut self.progress else { return };
        let mut buffer = [0; 64];
        if !matches!(progress.read(&mut buffer), Ok(length) if length > 0) {
            self.progress = None;
        }
        self.serve();
    }

    fn handle_signals(&mut self, signals: &SignalFd) -> Option<How> {
        let mut how = None;
        while let Ok(Some(info)) = signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
            match number {
                Some(Signal::SIGCHLD) => self.reap(),
                Some(Signal::SIGTERM | Signal::SIGINT) => how = Some(How::Reboot),
                Some(Signal::SIGUSR1) => how = Some(How::Halt),
                Some(Signal::SIGUSR2 | Signal::SIGPWR) => how = Some(How::PowerOff),
                _ => {}
            }
        }
        how
    }

    /// Takes in every child that has ended, ours and orphans.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let pid = match status {
                WaitStatus::StillAlive => return,
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) => pid,
                _ => continue,
            };
            if self.cloud == Some(pid) && !matches!(status, WaitStatus::Exited(_, 0)) {
                say!("nimbo-init cloud ended with {}", show(status));
            }
            self.services.ended(pid, &show(status), Instant::now());
        }
    }
}

/// How a child ended, in words.
fn show(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("status {code}"),
        WaitStatus::Signaled(_, signal, _) => signal.to_string(),
        other => format!("{other:?}"),
    }
}

/// The id of a child as nix has it.
pub fn pid_of(id: u32) -> Pid {
    // Linux has at most 2^22 process ids.
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

/// A whole number of milliseconds that is not too short, so that a deadline has passed when poll(2) returns.
pub fn round_up(left: std::time::Duration) -> PollTimeout {
    PollTimeout::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX)
}

/// Starts a command that is not looked after.
pub fn spawn(command: &mut Command) -> std::io::Result<Pid> {
    command.spawn().map(|child| pid_of(child.id()))
}
