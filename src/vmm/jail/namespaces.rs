//! Namespaces in which there is nothing: no files, no network, no System V objects, no host name.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, chdir, chroot, pivot_root};

/// A directory that every Linux system has: the empty root is mounted over it, where nobody else sees it.
const ANY_DIRECTORY: &str = "/proc";

/// Becomes root of a user namespace in which only the caller's own user and group exist, under their own numbers: with that
/// an ordinary user may make the other namespaces.
pub(super) fn enter_user_namespace() -> io::Result<()> {
    let (user, group) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // Groups can be mapped by an ordinary user only once they cannot be dropped (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

pub(super) fn leave_ipc_and_host_name() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?)
}

/// Moves to `namespace`, which is empty, or to a new one.
pub(super) fn leave_network(namespace: Option<OwnedFd>) -> io::Result<()> {
    match namespace {
        Some(namespace) => Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?),
        None => Ok(unshare(CloneFlags::CLONE_NEWNET)?),
    }
}

/// Makes an empty directory the root, in which nothing can be made, and lets go of all else.
pub(super) fn empty_root() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&Path> = None;
    // What is mounted here from now on is not mounted elsewhere.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(nothing, ANY_DIRECTORY, Some("tmpfs"), flags, Some("size=4k,mode=555"))?;
    chdir(ANY_DIRECTORY)?;
    match pivot_root(".", ".") {
        // The old root lies over the new one now.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // The root is the initial RAM disk, which cannot be exchanged: the empty directory is moved over it.
        Err(nix::errno::Errno::EINVAL) => {
            mount(Some("."), "/", nothing, MsFlags::MS_MOVE, nothing)?;
            chroot(".")?;
        }
        Err(e) => return Err(e.into()),
    }
    Ok(chdir("/")?)
}
