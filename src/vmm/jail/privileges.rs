//! Users, groups, capabilities and limits: what a process may, by whom it is.

use std::io;

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::Limits;

/// Who the process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub user: Uid,
    pub group: Gid,
}

impl Identity {
    /// A user and a group of the same number.
    pub fn of(number: u32) -> Self {
        Identity { user: Uid::from_raw(number), group: Gid::from_raw(number) }
    }
}

/// `_LINUX_CAPABILITY_VERSION_3`
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`, of which version 3 takes two.
#[repr(C)]
#[derive(Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// No program that is executed gives privileges back (`PR_SET_NO_NEW_PRIVS`).
pub(super) fn forbid_new() -> io::Result<()> {
    // SAFETY: numbers only.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Nobody of the same user can trace the process, read its memory or its files in /proc, and it leaves no core.
pub(super) fn forbid_tracing() -> io::Result<()> {
    // SAFETY: numbers only.
    checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

/// Takes from the process, for good, what any later gain could draw on. Needs `CAP_SETPCAP`.
pub(super) fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..=63 {
        // SAFETY: numbers only.
        let outcome = checked(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) });
        match outcome {
            Ok(()) => {}
            // Past the last capability of this kernel.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Becomes `identity`, with no other group. Root's capabilities are gone with it.
pub(super) fn become_user(identity: Identity) -> io::Result<()> {
    setgroups(&[])?;
    setresgid(identity.group, identity.group, identity.group)?;
    setresuid(identity.user, identity.user, identity.user)?;
    Ok(())
}

/// Gives up every capability, ambient ones included.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let none = [CapabilitySets::default(), CapabilitySets::default()];
    // SAFETY: the kernel reads a header and two sets, as this version has, which live through the call.
    let outcome = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: numbers only.
    checked(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })
}

/// No more than `limits`, and no core file. Threads are counted by user, so only one that nobody else is has a limit of them.
pub(super) fn set_limits(limits: Limits, has_own_user: bool) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, limits.descriptors, limits.descriptors)?;
    setrlimit(Resource::RLIMIT_DATA, limits.memory_bytes, limits.memory_bytes)?;
    if has_own_user {
        setrlimit(Resource::RLIMIT_NPROC, limits.threads, limits.threads)?;
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

pub(super) fn checked(outcome: libc::c_int) -> io::Result<()> {
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
