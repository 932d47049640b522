//! Namespaces in which there is nothing, or nothing but some files: no network, no System V objects, no host name.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

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

const NOTHING: Option<&Path> = None;
const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Makes an empty directory the root, in which nothing can be made, and lets go of all else.
pub(super) fn empty_root() -> io::Result<()> {
    leave_mounts()?;
    let flags = PLAIN | MsFlags::MS_RDONLY;
    mount(NOTHING, ANY_DIRECTORY, Some("tmpfs"), flags, Some("size=4k,mode=555"))?;
    enter_root()
}

/// Makes a directory the root in which there are some files and folders, at their own paths, and this process in /proc. In `writable` ones
/// things can be made. What is not there is left out.
pub(super) fn root_of(writable: &[PathBuf], readable: &[PathBuf]) -> io::Result<()> {
    leave_mounts()?;
    mount(NOTHING, ANY_DIRECTORY, Some("tmpfs"), PLAIN, Some("size=256k,mode=755"))?;
    for path in readable {
        // Libraries are executed.
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        bind(path, flags)?;
    }
    for path in writable {
        bind(path, PLAIN)?;
    }
    let proc = beneath(Path::new("/proc"));
    fs::create_dir(&proc)?;
    // Processes alone, and of these none that has more rights: nothing of the kernel's settings.
    mount(NOTHING, &proc, Some("proc"), PLAIN, Some("subset=pid,hidepid=ptraceable"))?;
    let flags = PLAIN | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NOTHING, ANY_DIRECTORY, NOTHING, flags, NOTHING)?;
    enter_root()
}

/// Where a path is in the new root before that is entered.
fn beneath(path: &Path) -> PathBuf {
    Path::new(ANY_DIRECTORY).join(path.strip_prefix("/").unwrap_or(path))
}

fn bind(path: &Path, flags: MsFlags) -> io::Result<()> {
    let target = beneath(path);
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    if metadata.is_dir() {
        fs::create_dir_all(&target)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(&target))?;
        fs::write(&target, "")?;
    }
    mount(Some(path), &target, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
    Ok(mount(NOTHING, &target, NOTHING, flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND, NOTHING)?)
}

/// What is mounted from now on is not mounted elsewhere.
fn leave_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    Ok(mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?)
}

/// Makes what is mounted at [`ANY_DIRECTORY`] the root, and lets go of all else.
fn enter_root() -> io::Result<()> {
    chdir(ANY_DIRECTORY)?;
    match pivot_root(".", ".") {
        // The old root lies over the new one now.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // The root is the initial RAM disk, which cannot be exchanged: the empty directory is moved over it.
        Err(nix::errno::Errno::EINVAL) => {
            mount(Some("."), "/", NOTHING, MsFlags::MS_MOVE, NOTHING)?;
            chroot(".")?;
        }
        Err(e) => return Err(e.into()),
    }
    Ok(chdir("/")?)
}
