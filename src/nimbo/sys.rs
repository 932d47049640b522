//! The calls that no kept crate wraps, or wraps only as unsafe.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod request {
    // include/uapi/linux/fs.h: FICLONE
    nix::ioctl_write_int_bad!(clone_file, nix::request_code_write!(0x94, 9, size_of::<libc::c_int>()));
}

/// Makes `to` share all of `from`'s blocks, ioctl_ficlone(2).
pub(crate) fn clone_file(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: the request's argument is a descriptor number; no memory is passed.
    unsafe { request::clone_file(to.as_raw_fd(), from.as_raw_fd()) }?;
    Ok(())
}

/// Whether the kernel believes that its clock is synchronized, adjtimex(2).
pub(crate) fn clock_is_synchronized() -> io::Result<bool> {
    let mut state = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: `timex` is a C structure of integers, for which zeroes are a value; `modes` being zero asks only to read.
    let outcome = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    Ok(nix::errno::Errno::result(outcome)? != libc::TIME_ERROR)
}

/// The version of Landlock's interface, landlock_create_ruleset(2).
pub(crate) fn landlock_version() -> io::Result<i32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_ulong = 1;
    let (no_attributes, no_size) = (std::ptr::null::<libc::c_void>(), 0usize);
    // SAFETY: with this flag the call takes no attributes and makes no descriptor.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            no_attributes,
            no_size,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    i32::try_from(nix::errno::Errno::result(version)?).map_err(io::Error::other)
}

/// Has the kernel kill this process when the last holder of the other end of the socket `lifeline` is gone, and also when
/// anything is written to it. It holds across a change of user, which a parent-death signal (`PR_SET_PDEATHSIG`) does
/// not, and is about the other process, not about the thread that started this one.
///
/// # Errors
/// What fcntl(2) says, or `BrokenPipe` when the other end is closed already.
pub(crate) fn die_with(lifeline: BorrowedFd<'_>) -> io::Result<()> {
    /// include/uapi/asm-generic/fcntl.h
    const F_SETSIG: libc::c_int = 10;
    let pid = nix::unistd::getpid().as_raw();
    for (command, argument) in
        [(libc::F_SETOWN, pid), (F_SETSIG, libc::SIGKILL), (libc::F_SETFL, libc::O_ASYNC)]
    {
        // SAFETY: all three take a number.
        nix::errno::Errno::result(unsafe { libc::fcntl(lifeline.as_raw_fd(), command, argument) })?;
    }
    // Closed before the kernel was asked to tell: then it does not.
    let mut socket = [PollFd::new(lifeline, PollFlags::empty())];
    if poll(&mut socket, PollTimeout::ZERO)? > 0 {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

/// Makes the process that `command` starts the first of a session of its own, so that no signal to this one's reaches it: setsid(2).
pub(crate) fn begin_session(command: &mut Command) {
    let prepare = || nix::unistd::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe { command.pre_exec(prepare) };
}

/// Closes what whoever started this process has left open beside the standard streams. To be called before anything is opened.
///
/// # Errors
/// What close_range(2) says.
pub(crate) fn close_inherited() -> io::Result<()> {
    // SAFETY: nothing in this process owns a descriptor yet.
    unsafe { vmm::jail::close_inherited(&[]) }
}

/// A descriptor of a process, which can be read from when that has ended: pidfd_open(2).
///
/// # Errors
/// What the kernel says; `ESRCH` when there is no such process.
pub(crate) fn open_process(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: both arguments are numbers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let descriptor = RawFd::try_from(Errno::result(descriptor)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has made the descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sends a signal to a process, and never to another one that has its number since: pidfd_send_signal(2).
///
/// # Errors
/// What the kernel says; `ESRCH` when the process has ended.
pub(crate) fn signal_process(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let (no_details, no_flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
    // SAFETY: the descriptor is open, and no memory is passed.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal as libc::c_int,
            no_details,
            no_flags,
        )
    };
    Errno::result(outcome)?;
    Ok(())
}

/// Has the event loop tell when there is something to read.
///
/// # Errors
/// When the kernel cannot watch `descriptor`.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and neither closed nor exchanged as long as the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

// Where the program begins: before the C library's own `_start`.
//
// Position-independent and statically linked, it would first write its addresses into some thirty thousand places, in 130 pages that the kernel would
// have to make one by one. Here it is asked for all at once (madvise(2), MADV_POPULATE_WRITE), which takes 6 % off the start of a microVM's process.
// Linux before 5.14 refuses, and nothing is different.
std::arch::global_asm!(
    ".globl nimbo_start",
    ".type nimbo_start, @function",
    "nimbo_start:",
    "mov r12, rdx", // what _start is given beside the stack
    "lea rdi, [rip + __init_array_start]",
    "and rdi, -4096",
    "lea rsi, [rip + _edata + 4095]",
    "and rsi, -4096",
    "sub rsi, rdi",
    "mov edx, {populate_write}",
    "mov eax, {madvise}",
    "syscall",
    "mov rdx, r12",
    "jmp _start",
    ".size nimbo_start, . - nimbo_start",
    populate_write = const libc::MADV_POPULATE_WRITE,
    madvise = const libc::SYS_madvise,
);
