//! The life of pid 1 in the initrd: find the root, mount it, make it `/`, and execute init there.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::{chdir, chroot, execv};

use crate::cmdline::CommandLine;
use crate::modules::Modules;
use crate::uevent::Uevents;
use crate::{MODULES, mount as mounts, root};

const NEW_ROOT: &str = "/newroot";
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
const TMPFS_MAGIC: FsType = FsType(0x0102_1994);

/// Whether `/` is the kernel's first file system, in memory, into which an initrd is unpacked.
pub fn is_root() -> bool {
    statfs("/").is_ok_and(|fs| matches!(fs.filesystem_type(), RAMFS_MAGIC | TMPFS_MAGIC))
}

/// Ends by executing another program.
///
/// # Errors
/// Whatever kept it from that.
pub fn run() -> Result<Infallible> {
    mounts::first()?;
    let line = CommandLine::of_kernel();
    let events = Uevents::open()?;
    Modules::of_kernel().load_list(Path::new(MODULES));
    root::mount_root(&line, &events, Path::new(NEW_ROOT))?;
    drop(events);
    switch_root()?;
    execute_init(&line)
}

/// Makes what is mounted at `/newroot` the root of everything (rootfs itself can be neither unmounted nor pivoted).
fn switch_root() -> Result<()> {
    let none: Option<&str> = None;
    for place in ["/proc", "/sys", "/dev"] {
        let target = format!("{NEW_ROOT}{place}");
        // On a read-only root the folder is there already, or mount says that it is not.
        let _ = fs::create_dir(&target);
        mount(Some(place), target.as_str(), none, MsFlags::MS_MOVE, none)
            .with_context(|| format!("move {place} to {target}"))?;
    }
    chdir(NEW_ROOT).with_context(|| format!("enter {NEW_ROOT}"))?;
    if is_root() {
        let device = fs::metadata("/").context("look at /")?.dev();
        delete_all(Path::new("/"), device);
    }
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).context("move the new root to /")?;
    chroot(".").context("make the new root ours")?;
    chdir("/").context("enter /")
}

/// Gives back the memory of the initrd's files: everything under `folder` that is on `device`.
fn delete_all(folder: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(found) if found.dev() != device => {}
            Ok(found) if found.is_dir() => {
                delete_all(&path, device);
                // It stays if something is mounted in it, as in the new root's place.
                let _ = fs::remove_dir(&path);
            }
            // What cannot be deleted costs some memory and nothing else.
            _ => drop(fs::remove_file(&path)),
        }
    }
}

fn execute_init(line: &CommandLine) -> Result<Infallible> {
    let choices = match &line.init {
        Some(init) => vec![init.as_str()],
        None => vec!["/sbin/nimbo-init", "/init", "/sbin/init"],
    };
    let Some(program) = choices.iter().find(|path| Path::new(path).exists()) else {
        bail!("the root has no init: looked for {}", choices.join(", "));
    };
    let path = CString::new(*program)?;
    execv(&path, &[&path]).with_context(|| format!("execute {program} of the root"))
}
