//! What the kernel and the file system offer: privileges, namespaces, io_uring, cgroups, disk, clock, Landlock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use io_uring::{IoUring, Probe, opcode};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sched::{CloneFlags, unshare};
use types::ByteSize;

use super::report::Check;
use crate::sys;

/// `privileges`: the capabilities that making a network and a jail takes.
pub(crate) fn privileges() -> Check {
    judge_privileges(fs::read_to_string("/proc/self/status"))
}

fn judge_privileges(status: io::Result<String>) -> Check {
    const NAME: &str = "privileges";
    // capabilities(7): numbers of bits in the sets of /proc/PID/status.
    const NEEDED: [(u32, &str); 4] =
        [(6, "CAP_SETGID"), (7, "CAP_SETUID"), (12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];
    let effective = status.ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    let Some(effective) = effective else {
        return Check::failed(NAME, "/proc/self/status shows no capabilities", "Mount /proc.");
    };
    let missing: Vec<_> =
        NEEDED.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Check::ok(NAME, "may make networks and jails");
    }
    Check::failed(NAME, format!("lacks {}", missing.join(", ")), "Run as root: sudo nimbo …")
}

/// `namespaces`: those that a microVM's process is put into.
pub(crate) fn namespaces() -> Check {
    // Of a thread that ends at once, so that the process stays where it is.
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    let outcome = std::thread::spawn(move || unshare(flags)).join();
    judge_namespaces(outcome.unwrap_or(Err(nix::Error::EAGAIN)))
}

fn judge_namespaces(outcome: nix::Result<()>) -> Check {
    const NAME: &str = "namespaces";
    match outcome {
        Ok(()) => Check::ok(NAME, "network, mount and IPC namespaces can be made"),
        Err(nix::Error::EPERM) => Check::failed(
            NAME,
            "not permitted",
            "Run as root. In a container, add --cap-add SYS_ADMIN or --privileged.",
        ),
        Err(nix::Error::ENOSPC) => Check::failed(
            NAME,
            "the limit is reached",
            "Raise it: sudo sysctl user.max_net_namespaces=10000 user.max_mnt_namespaces=10000.",
        ),
        Err(error) => Check::failed(
            NAME,
            error.desc(),
            "Use a kernel that has NET_NS and IPC_NS: Debian's kernels have them.",
        ),
    }
}

/// `io_uring`: the ring, and the operations that disks are served with.
pub(crate) fn io_uring() -> Check {
    judge_io_uring(missing_ring_operations(), fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok())
}

fn missing_ring_operations() -> io::Result<Vec<&'static str>> {
    let needed = [
        (opcode::Nop::CODE, "NOP"),
        (opcode::Readv::CODE, "READV"),
        (opcode::Writev::CODE, "WRITEV"),
        (opcode::Read::CODE, "READ"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::Fallocate::CODE, "FALLOCATE"),
    ];
    // Deferred task work is Linux 6.1's.
    let ring: IoUring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(needed.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect())
}

fn judge_io_uring(missing: io::Result<Vec<&'static str>>, disabled: Option<String>) -> Check {
    const NAME: &str = "io_uring";
    match missing {
        Ok(missing) if missing.is_empty() => Check::ok(NAME, "has all operations that disks need"),
        Ok(missing) => {
            Check::failed(NAME, format!("lacks {}", missing.join(", ")), "Use Linux 6.1 or newer.")
        }
        Err(_) if disabled.as_deref().is_some_and(|value| value.trim() != "0") => Check::failed(
            NAME,
            "is turned off by the sysctl kernel.io_uring_disabled",
            "Turn it on: sudo sysctl kernel.io_uring_disabled=0.",
        ),
        Err(error) => Check::failed(
            NAME,
            format!("cannot be set up: {error}"),
            "Use Linux 6.1 or newer. A container's seccomp profile may forbid it: allow io_uring_setup, \
             io_uring_enter and io_uring_register.",
        ),
    }
}

/// `cgroups`: whether whoever starts a microVM can hold it to a share of the host.
pub(crate) fn cgroups() -> Check {
    let controllers = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .find_map(|root| fs::read_to_string(Path::new(root).join("cgroup.controllers")).ok());
    judge_cgroups(controllers)
}

fn judge_cgroups(controllers: Option<String>) -> Check {
    const NAME: &str = "cgroups";
    const NEEDED: [&str; 4] = ["cpu", "io", "memory", "pids"];
    const REMEDY: &str = "Boot with systemd.unified_cgroup_hierarchy=1. Without it, guests cannot be held to a share of \
                          this machine, as by systemd-run --scope --property CPUWeight=50 nimbo run …";
    let Some(controllers) = controllers else {
        return Check::warning(NAME, "version 2 is not mounted", REMEDY);
    };
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|needed| !controllers.split_whitespace().any(|has| has == *needed))
        .collect();
    if missing.is_empty() {
        return Check::ok(NAME, "version 2, with cpu, io, memory and pids");
    }
    Check::warning(NAME, format!("version 2, without {}", missing.join(", ")), REMEDY)
}

/// What was found out about the folder that images and layers go to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Disk {
    folder: PathBuf,
    available: ByteSize,
    punches_holes: bool,
    clones: bool,
}

/// `disk`: room for what guests write, and how well the file system gives it back.
pub(crate) fn disk(folder: &Path) -> Check {
    judge_disk(folder, look_at_disk(folder))
}

fn look_at_disk(folder: &Path) -> io::Result<Disk> {
    const PIECE_BYTES: i64 = 64 << 10;
    // What does not exist yet will be made where its nearest ancestor is.
    let folder = folder.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    let space = nix::sys::statvfs::statvfs(folder)?;
    let available = space.blocks_available().saturating_mul(space.fragment_size());
    let file = tempfile::tempfile_in(folder)?;
    file.set_len(PIECE_BYTES.unsigned_abs())?;
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let copy = tempfile::tempfile_in(folder)?;
    Ok(Disk {
        folder: folder.to_owned(),
        available: ByteSize::from_bytes(available),
        punches_holes: fallocate(&file, punch, 0, PIECE_BYTES).is_ok(),
        clones: sys::clone_file(&file, &copy).is_ok(),
    })
}

fn judge_disk(folder: &Path, disk: io::Result<Disk>) -> Check {
    const NAME: &str = "disk";
    const AVAILABLE_MIB_MIN: u64 = 1 << 10;
    const AVAILABLE_MIB_GOOD: u64 = 8 << 10;
    const MAKE_ROOM: &str = "Make room, or choose another place: set XDG_CACHE_HOME.";
    let disk = match disk {
        Ok(disk) => disk,
        Err(error) => {
            let finding = format!("cannot write in {}: {error}", folder.display());
            return Check::failed(
                NAME,
                finding,
                "Make it writable, or choose another place: set XDG_CACHE_HOME.",
            );
        }
    };
    let mib = disk.available.mib();
    let room = format!("{:.1} GiB free in {}", mib as f64 / 1024.0, disk.folder.display());
    let can = match (disk.punches_holes, disk.clones) {
        (true, true) => "gives back discarded space, copies by reference",
        (true, false) => "gives back discarded space",
        (false, _) => "keeps discarded space",
    };
    let finding = format!("{room}; {can}");
    if mib < AVAILABLE_MIB_MIN {
        Check::failed(NAME, finding, MAKE_ROOM)
    } else if mib < AVAILABLE_MIB_GOOD {
        Check::warning(NAME, finding, MAKE_ROOM)
    } else if !disk.punches_holes {
        Check::warning(
            NAME,
            finding,
            "What a guest deletes stays allocated. Use ext4, xfs or btrfs to get it back.",
        )
    } else {
        Check::ok(NAME, finding)
    }
}

/// `clock`: what guests' clocks are derived from, and whether it shows the right time.
pub(crate) fn clock() -> Check {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    judge_clock(source.ok().as_deref().map(str::trim), sys::clock_is_synchronized())
}

fn judge_clock(source: Option<&str>, synchronized: io::Result<bool>) -> Check {
    const NAME: &str = "clock";
    let finding = format!("source {}", source.unwrap_or("unknown"));
    match (source, synchronized) {
        (Some("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page"), Ok(true)) => {
            Check::ok(NAME, format!("{finding}, synchronized"))
        }
        (Some("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page"), Ok(false)) => Check::warning(
            NAME,
            format!("{finding}, not synchronized by NTP as far as the kernel knows"),
            "Guests start with this machine's time. If it is wrong: sudo apt-get install systemd-timesyncd.",
        ),
        (Some("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page"), Err(_)) => Check::ok(NAME, finding),
        _ => Check::warning(
            NAME,
            format!("{finding}: reading the time is slow, here and in guests"),
            "If the kernel's log has no word on why it gave up the TSC, boot with tsc=reliable.",
        ),
    }
}

/// `landlock`: how much of the jail's last wall this kernel has.
pub(crate) fn landlock() -> Check {
    judge_landlock(sys::landlock_version())
}

fn judge_landlock(version: io::Result<i32>) -> Check {
    const NAME: &str = "landlock";
    const OTHER_WALLS: &str = "The rest of the jail keeps guests from all of this too.";
    /// What landlock(7) knows from this version on, and the kernel that brought it.
    const PARTS: [(i32, &str, &str); 4] = [
        (1, "files", "5.13"),
        (4, "TCP", "6.7"),
        (5, "devices", "6.10"),
        (6, "abstract sockets and signals", "6.12"),
    ];
    let version = match version {
        Ok(version) => version,
        Err(error) => {
            let what = match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => "is switched off",
                _ => "is not in this kernel",
            };
            let remedy = format!(
                "{OTHER_WALLS} Use a kernel that has it, and if it is booted with lsm=, with landlock in that list."
            );
            return Check::warning(NAME, what, remedy);
        }
    };
    let (closed, open): (Vec<_>, Vec<_>) = PARTS.iter().partition(|(since, ..)| *since <= version);
    let names = |parts: &[&(i32, &str, &str)]| parts.iter().map(|part| part.1).collect::<Vec<_>>().join(", ");
    let finding = format!("version {version} closes {}", names(&closed));
    match open.last() {
        None => Check::ok(NAME, finding),
        Some((_, _, kernel)) => Check::warning(
            NAME,
            format!("{finding}; not {}", names(&open)),
            format!("{OTHER_WALLS} For all of it, use Linux {kernel} or newer."),
        ),
    }
}

#[cfg(test)]
mod tests;
