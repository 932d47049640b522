//! Programs that are kept running: `net`, a shell on the console, dropbear, and the lines of `/etc/nimbo/services`.
//!
//! ```text
//! Waiting ──due──▶ Running ──ends──▶ Waiting, the longer the shorter it ran
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::console::say;
use crate::init::spawn;
use crate::{ssh, sys, terminal};

const LIST: &str = "/etc/nimbo/services";
/// Keeps what is written to it in the kernel's ring, for `dmesg`: bounded in size and rate, and on no disk.
const KERNEL_LOG: &str = "/dev/kmsg";
const DROPBEAR: &str = "/usr/sbin/dropbear";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const DELAY_MIN: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(60);
/// A program that ran for this long is not one that fails at its start.
const SETTLED: Duration = Duration::from_secs(10);

/// A command with the environment and the signals that programs expect.
pub fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command.env("PATH", PATH).env("HOME", "/root");
    sys::unblock_signals(&mut command);
    command
}

/// This program, in another of its lives.
pub fn ourselves(life: &str) -> Command {
    let path = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut command = program(path);
    command.arg(life);
    command
}

fn net(tell_up: Stdio) -> Command {
    let mut command = ourselves("net");
    command.stdin(Stdio::null()).stdout(tell_up);
    command
}

#[derive(Default)]
pub struct Services(Vec<Service>);

struct Service {
    name: String,
    command: Command,
    state: State,
    delay: Duration,
}

#[derive(Clone, Copy)]
enum State {
    Running {
        pid: Pid,
        since: Instant,
    },
    Waiting {
        until: Instant,
    },
    /// It could not even be started, and would not be the next time.
    Failed,
}

impl Services {
    /// Starts a program, and again whenever it ends.
    pub fn add(&mut self, name: &str, command: Command) {
        let state = State::Waiting { until: Instant::now() };
        let mut service = Service { name: name.to_owned(), command, state, delay: DELAY_MIN };
        service.start();
        self.0.push(service);
    }

    /// Starts `nimbo-init net`, and again whenever it ends. The first one is given the pipe on which to tell that
    /// the network is up.
    pub fn add_net(&mut self, tell_up: Stdio) {
        self.add("net", net(tell_up));
        if let Some(service) = self.0.last_mut() {
            // Our end of the pipe is closed with this, so that its reader sees the end when net ends.
            service.command.stdout(Stdio::null());
        }
    }

    /// Adds what the image has: a console, dropbear, a list.
    pub fn add_configured(&mut self) {
        if terminal::path().is_some() {
            let mut console = ourselves("console");
            sys::new_session(&mut console);
            self.add("console", console);
        }
        if Path::new(DROPBEAR).exists() {
            let mut dropbear = program(DROPBEAR);
            dropbear.args(["-F", "-E", "-R"]).stdin(Stdio::null());
            if !Path::new(ssh::PASSWORDS_ALLOWED).exists() {
                dropbear.arg("-s");
            }
            sys::new_session(&mut dropbear);
            // Its messages come whenever somebody knocks: not between the lines of whoever types on the console.
            match File::options().append(true).open(KERNEL_LOG) {
                Ok(log) => {
                    dropbear.stderr(log);
                }
                Err(error) => say!("dropbear's messages go to the console: {KERNEL_LOG}: {error}"),
            }
            self.add("dropbear", dropbear);
        }
        for line in parse_list(&fs::read_to_string(LIST).unwrap_or_default()) {
            let mut shell = program("/bin/sh");
            sys::new_session(shell.args(["-c", &format!("exec {line}")]).stdin(Stdio::null()));
            self.add(line, shell);
        }
    }

    /// When something has to be started again.
    pub fn next_start(&self) -> Option<Instant> {
        let waiting = self.0.iter().filter_map(|service| match service.state {
            State::Waiting { until } => Some(until),
            State::Running { .. } | State::Failed => None,
        });
        waiting.min()
    }

    pub fn start_due(&mut self, now: Instant) {
        for service in &mut self.0 {
            if matches!(service.state, State::Waiting { until } if until <= now) {
                service.start();
            }
        }
    }

    /// Takes note that a process has ended, which may be none of these.
    pub fn ended(&mut self, ended: Pid, how: &str, now: Instant) {
        for service in &mut self.0 {
            let State::Running { pid, since } = service.state else { continue };
            if pid != ended {
                continue;
            }
            service.delay = next_delay(service.delay, now.saturating_duration_since(since));
            service.state = State::Waiting { until: now + service.delay };
            // A shell that was left is no news.
            if service.name != "console" {
                let delay = service.delay.as_secs_f32();
                say!("{} ended with {how}; again in {delay:.1} s", service.name);
            }
        }
    }
}

impl Service {
    fn start(&mut self) {
        self.state = match spawn(&mut self.command) {
            Ok(pid) => State::Running { pid, since: Instant::now() },
            Err(error) => {
                say!("{} cannot be started: {error}", self.name);
                State::Failed
            }
        };
    }
}

/// How long to wait after a program that ran for `lived`.
fn next_delay(last: Duration, lived: Duration) -> Duration {
    if lived >= SETTLED { DELAY_MIN } else { (last * 2).min(DELAY_MAX) }
}

fn parse_list(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_comments() {
        assert_eq!(parse_list("# web\n httpd -f -h /www\n\n").collect::<Vec<_>>(), ["httpd -f -h /www"]);
    }

    #[test]
    fn a_program_that_keeps_failing_is_started_ever_more_rarely() {
        let mut delay = DELAY_MIN;
        for _ in 0..20 {
            let next = next_delay(delay, Duration::ZERO);
            assert!(next > delay || next == DELAY_MAX);
            delay = next;
        }
        assert_eq!(delay, DELAY_MAX);
        assert_eq!(next_delay(delay, SETTLED), DELAY_MIN);
    }

    #[test]
    fn one_that_ends_waits_and_is_started_again() {
        let mut services = Services::default();
        services.add("true", Command::new("/bin/true"));
        let State::Running { pid, since } = services.0[0].state else { panic!("it was not started") };
        nix::sys::wait::waitpid(pid, None).unwrap();
        services.ended(pid, "status 0", since);
        assert_eq!(services.next_start(), Some(since + 2 * DELAY_MIN));
        services.start_due(since + 2 * DELAY_MIN);
        let State::Running { pid: again, .. } = services.0[0].state else {
            panic!("it was not started again")
        };
        nix::sys::wait::waitpid(again, None).unwrap();
        assert_ne!(again, pid);
    }
}
