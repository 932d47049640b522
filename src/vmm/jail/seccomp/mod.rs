//! Which system calls each kind of thread may make (seccomp(2)).
//!
//! | thread | beyond memory, locks, time and its own descriptors |
//! | --- | --- |
//! | main | all of the below, making threads and rings, making a virtual machine anew |
//! | maker | making a virtual machine |
//! | vCPU | `KVM_RUN`, a vCPU's state, connecting eventfds and interrupts |
//! | block | an io_uring that was made for it, reading and writing open files, messages to who serves it elsewhere |
//! | net | frames through a tap and to captures, the tap's offloads and queues |
//! | rng | nothing |
//! | balloon | giving memory back |
//! | vsock | Unix streams |
//!
//! No thread may open a file by its path, make a process, make memory executable, or trace. A forbidden call ends the
//! process at once with `SIGSYS`; `strace -f` or, with [`Mode::Log`], the kernel's audit log says which it was.
//!
//! The filters are constants of the program; nothing is compiled when a machine starts. What io_uring carries out, no filter
//! sees: so a disk's ring takes nothing but transfers of that disk, which the kernel ensures (`volume`), and only the
//! main thread can make another. What that one could open, the jail's empty root, its empty network and Landlock take away.

mod program;
mod requests;
mod rules;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::OnceLock;

use crate::virtio::DeviceKind;
use program::{Instruction, Program};

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// The event loop.
    Main,
    /// Has KVM make a virtual machine, and ends.
    Maker,
    Vcpu,
    /// A worker of a device of this kind.
    Worker(DeviceKind),
}

/// What happens at a forbidden call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// The process ends by `SIGSYS`.
    #[default]
    Kill,
    /// The kernel logs it and carries it out: for finding what a list lacks.
    Log,
    /// There are no filters.
    Off,
}

static MODE: OnceLock<Mode> = OnceLock::new();

/// Decides for all threads of this process, once: a later choice is ignored, as filters stay for good.
pub fn set_mode(mode: Mode) {
    let _ = MODE.set(mode);
}

fn mode() -> Mode {
    MODE.get().copied().unwrap_or_default()
}

/// Whether this kernel can do what the mode wants.
///
/// # Errors
/// What seccomp(2) says.
pub(super) fn check() -> io::Result<()> {
    if mode() == Mode::Off {
        return Ok(());
    }
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads one word, which lives through the call.
    let known =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if known == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts the filter of `kind` on the calling thread and on those that it makes from now on.
///
/// # Errors
/// What seccomp(2) says.
pub fn enter(kind: ThreadKind) -> io::Result<()> {
    let program = match kind {
        ThreadKind::Main => &rules::MAIN,
        ThreadKind::Maker => &rules::MAKER,
        ThreadKind::Vcpu => &rules::VCPU,
        ThreadKind::Worker(DeviceKind::Block) => &rules::BLOCK_WORKER,
        ThreadKind::Worker(DeviceKind::Net) => &rules::NET_WORKER,
        ThreadKind::Worker(DeviceKind::Rng) => &rules::RNG_WORKER,
        ThreadKind::Worker(DeviceKind::Balloon) => &rules::BALLOON_WORKER,
        ThreadKind::Worker(DeviceKind::Vsock) => &rules::VSOCK_WORKER,
    };
    match mode() {
        Mode::Kill => install(program),
        Mode::Log => install(&program.logging()),
        Mode::Off => Ok(()),
    }
}

/// As [`enter`], for threads that have nobody to tell: one that cannot be confined ends the process.
pub fn enter_or_abort(kind: ThreadKind) {
    if let Err(error) = enter(kind) {
        eprintln!("the system call filter of a {kind:?} thread cannot be put on: {error}");
        std::process::abort();
    }
}

/// `struct sock_fprog`
#[repr(C)]
struct FilterProgram {
    length: libc::c_ushort,
    instructions: *const Instruction,
}

fn install(program: &Program) -> io::Result<()> {
    let instructions = program.instructions();
    let length = libc::c_ushort::try_from(instructions.len()).map_err(io::Error::other)?;
    let filter = FilterProgram { length, instructions: instructions.as_ptr() };
    super::privileges::forbid_new()?;
    // SAFETY: the kernel copies the program, which has the said length; an `Instruction` is a `sock_filter`.
    let outcome =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
