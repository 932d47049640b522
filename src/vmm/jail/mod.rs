//! The jail of a VMM process: what a guest that took the process over could still reach.
//!
//! ```text
//!  started ── close_inherited ──▶ open all that is needed ──▶ Jail::enter ──▶ threads, each with its filter ──▶ guest runs
//!                                                                │             (seccomp::enter)
//!                                                                └─ not one file can be opened from here on
//! ```
//!
//! | measure | takes away |
//! | --- | --- |
//! | empty root (mount namespace) | every file, every Unix socket with a path |
//! | empty network namespace | every network but the taps that are open |
//! | IPC and UTS namespaces | System V objects, the host's name |
//! | own user, no groups | other machines' processes and files |
//! | no capabilities, empty bounding set, no new privileges | everything root may |
//! | Landlock | files and TCP again, for what runs past the rest; signals to others |
//! | limits, no dumps | endless memory, threads and descriptors, core files, being traced |
//! | system call filters | see [`seccomp`] |
//!
//! Each stands alone: on a host that refuses one, the others hold. What was refused is in the [`JailReport`], never
//! silent; whether that is good enough, the caller decides. A kernel without Landlock, or with an older one, refuses
//! nothing: it gives what it has, the same at each start, and `nimbo doctor` tells what that is.
//!
//! An ordinary user gets most of it through a user namespace, where the host permits those. A share of the host's CPUs and
//! disks is a control group's matter, in which whoever starts the process may put it. Nor is memory limited by a group here:
//! that would count the page cache of the guest's disks too, and a temporary layer on a tmpfs as what cannot be given back.
//!
//! Threads have namespaces, users and filters of their own, so the jail is entered while there is one thread.

mod files;
mod inherit;
mod landlock;
mod namespaces;
mod privileges;
pub mod seccomp;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::Uid;

pub use files::FilesSpec;
pub use inherit::close_inherited;
pub use privileges::Identity;

/// How to jail.
#[derive(Debug)]
pub struct JailSpec {
    /// Who to become; `None` stays who started the process.
    pub identity: Option<Identity>,
    /// An empty network namespace to move to. `None` makes one, which takes some 0.4 ms: a parent of many machines makes
    /// one for all.
    pub network: Option<OwnedFd>,
    pub limits: Limits,
    pub filters: seccomp::Mode,
}

/// How much of something the process may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory of its own, whether it is used yet or not: the guest's, and what the devices and threads need.
    pub memory_bytes: u64,
    /// Threads of its own user, so it counts only where the process has one.
    pub threads: u64,
    /// Open descriptors: those of the devices, and those that clients send.
    pub descriptors: u64,
}

/// One thing that the jail does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Ipc,
    Network,
    EmptyRoot,
    OwnUser,
    BoundingSet,
    Capabilities,
    Landlock,
    Limits,
    Tracing,
    Filters,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Measure::Ipc => "IPC and UTS namespaces",
            Measure::Network => "an empty network",
            Measure::EmptyRoot => "a root directory of its own",
            Measure::OwnUser => "a user of its own",
            Measure::BoundingSet => "an empty capability bounding set",
            Measure::Capabilities => "no capabilities",
            Measure::Landlock => "Landlock",
            Measure::Limits => "limits",
            Measure::Tracing => "no dumps and no tracing",
            Measure::Filters => "system call filters",
        })
    }
}

/// A measure that the host did not let us take.
#[derive(Debug)]
pub struct Shortfall {
    pub measure: Measure,
    pub why: String,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.measure, self.why)
    }
}

/// What the jail lacks. Empty, it is whole.
#[derive(Debug, Default)]
#[must_use = "a jail that lacks something must be spoken of"]
pub struct JailReport {
    pub shortfalls: Vec<Shortfall>,
}

impl JailReport {
    pub fn is_whole(&self) -> bool {
        self.shortfalls.is_empty()
    }

    fn note<E: fmt::Display>(&mut self, measure: Measure, outcome: Result<(), E>) {
        if let Err(why) = outcome {
            self.shortfalls.push(Shortfall { measure, why: why.to_string() });
        }
    }
}

/// The jail could not be entered, and the process may be half in it: it must end.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("the jail is entered by a process of one thread, and this one has {threads}")]
    Threads { threads: u64 },
    #[error("cannot {operation}")]
    Host { operation: &'static str, source: io::Error },
}

fn host(operation: &'static str) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError::Host { operation, source }
}

/// The jail. There is no way out of it, so that it has no value.
#[derive(Debug)]
pub enum Jail {}

impl Jail {
    /// Jails the calling process. Afterwards it has what is open, and memory.
    ///
    /// The order matters: each step needs what the steps after it take away.
    ///
    /// # Errors
    /// [`JailError`] where going on would be worse than ending.
    pub fn enter(spec: JailSpec) -> Result<JailReport, JailError> {
        let threads = thread_count().map_err(host("count the threads of this process"))?;
        if threads != 1 {
            return Err(JailError::Threads { threads });
        }
        keep_memory_in_one_heap();
        seccomp::set_mode(spec.filters);
        let mut report = JailReport::default();
        let is_root = Uid::effective().is_root();
        let has_own_user = is_root && spec.identity.is_some();
        if !is_root && let Err(why) = namespaces::enter_user_namespace() {
            // The three below need it, and say so with their own reasons.
            report.note(Measure::OwnUser, Err(format!("no user namespace: {why}")));
        }
        report.note(Measure::Ipc, namespaces::leave_ipc_and_host_name());
        report.note(Measure::Network, namespaces::leave_network(spec.network));
        report.note(Measure::EmptyRoot, namespaces::empty_root());
        report.note(Measure::BoundingSet, privileges::empty_bounding_set());
        match spec.identity {
            Some(identity) if is_root => {
                privileges::become_user(identity).map_err(host("become the machine's user"))?;
            }
            Some(_) => report.note(Measure::OwnUser, Err("only root can become another user")),
            None => {}
        }
        privileges::drop_capabilities().map_err(host("drop capabilities"))?;
        privileges::forbid_new().map_err(host("forbid new privileges"))?;
        report.note(Measure::Landlock, landlock::deny_all());
        report.note(Measure::Limits, privileges::set_limits(spec.limits, has_own_user));
        report.note(Measure::Tracing, privileges::forbid_tracing());
        report.note(Measure::Filters, seccomp::check());
        Ok(report)
    }
}

/// The folder has one entry for each thread, and two links more.
fn thread_count() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// The C library gives each thread a heap of its own, and opens a file by its path before it shrinks one: no thread may.
/// One heap also keeps what the process holds of memory small.
fn keep_memory_in_one_heap() {
    // SAFETY: sets a number, while no other thread allocates.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
