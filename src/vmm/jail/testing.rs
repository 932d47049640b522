//! Children of a test: processes that may be jailed, filtered and killed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Longer than any child takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    /// With what its work said.
    Badly(String),
    By(Signal),
}

/// A child process; it is killed when this is dropped before its end.
pub(crate) struct Child {
    pid: Option<Pid>,
    report: UnixStream,
}

impl Child {
    /// Starts `work` in a copy of this process that has one thread.
    pub(crate) fn start(work: impl FnOnce() -> Result<(), String>) -> Child {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        // SAFETY: the child has this thread alone. It takes no lock that another thread of the test could hold but
        // the allocator's, which fork(3) leaves usable, and ends without returning.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Child { pid: Some(child), report: ours },
            ForkResult::Child => {
                never_shrink_heaps();
                close_virtual_machines();
                let outcome = catch_unwind(AssertUnwindSafe(work));
                let text = match outcome {
                    Ok(Ok(())) => String::new(),
                    Ok(Err(text)) => text,
                    Err(_) => "it panicked".to_owned(),
                };
                let _ = theirs.write_all(text.as_bytes());
                // SAFETY: ends the child without running what the parent registered for its own end.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        let mut text = String::new();
        self.report.read_to_string(&mut text).expect("the child hangs, or its report is not text");
        let pid = self.pid.take().unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::Signaled(_, signal, _) => Ended::By(signal),
            WaitStatus::Exited(_, 0) if text.is_empty() => Ended::Well,
            _ => Ended::Badly(text),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

/// A product's process has one heap from its start. The test's had one for each thread before the fork, and the C library
/// opens a file before it shrinks such a heap, which ends a filtered process.
fn never_shrink_heaps() {
    // SAFETY: sets a number, in a process of one thread.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX) };
}

/// Other tests run guests meanwhile. A copy of a virtual machine's descriptor would keep it alive after its owner dropped it.
fn close_virtual_machines() {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let is_kvm = |path: &std::path::Path| {
        std::fs::read_link(path)
            .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"anon_inode:kvm-"))
    };
    let kvm: Vec<libc::c_int> = open
        .map(|entry| entry.path())
        .filter(|path| is_kvm(path))
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect();
    for fd in kvm {
        // SAFETY: their owners are threads of the parent, which this copy of it does not have.
        unsafe { libc::close(fd) };
    }
}

/// Does `work` in a child.
pub(crate) fn in_child(work: impl FnOnce() -> Result<(), String>) -> Ended {
    Child::start(work).end()
}

/// For a child's report.
pub(crate) fn ensure(holds: bool, what: impl std::fmt::Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_string()) }
}
