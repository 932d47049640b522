//! Control groups (version 2) of microVMs, where the host has them: what they may have of memory, and their share of the processors.
//!
//! ```text
//!   /sys/fs/cgroup/nimbo/i-…     memory.max, cpu.weight, cpu.max
//! ```
//!
//! A host without them runs the same microVMs without limits beside those of their jails.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::ports::CpuLimit;
use types::{ByteSize, InstanceId};

const ROOT: &str = "/sys/fs/cgroup";
const OURS: &str = "nimbo";
/// Of a processor. The kernel's own default is that of a group, whatever it holds.
const WEIGHT: u64 = 100;
/// `CGROUP_WEIGHT_MAX`
const WEIGHT_MAX: u64 = 10_000;
/// What the process may take beside the guest's memory, as in its jail.
const OWN_MEMORY_BYTES: u64 = 1 << 30;

/// Puts a process into a group of its own.
pub(super) fn put(id: InstanceId, pid: u32, vcpus: u8, memory: ByteSize) {
    if let Err(error) = try_put(Path::new(ROOT), id, pid, vcpus, memory) {
        tracing::info!(%id, %error, "the microVM has no control group");
    }
}

/// Removes the group of a process that has ended.
pub(super) fn remove(id: InstanceId) {
    match fs::remove_dir(group(Path::new(ROOT), id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%id, %error, "the microVM's control group cannot be removed");
        }
        _ => {}
    }
}

/// Removes the group that those of all microVMs are in, if there is none any more.
pub(super) fn remove_root() {
    match fs::remove_dir(Path::new(ROOT).join(OURS)) {
        // Another nimbo on this machine has microVMs in theirs.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {
            tracing::warn!(%error, "the control group of all microVMs cannot be removed");
        }
        _ => {}
    }
}

/// How long a microVM's process has worked; none, if it has no group.
pub(super) fn cpu_time(id: InstanceId) -> Option<Duration> {
    let stat = fs::read_to_string(group(Path::new(ROOT), id).join("cpu.stat")).ok()?;
    usage(&stat)
}

/// `usage_usec` of `cpu.stat`.
fn usage(stat: &str) -> Option<Duration> {
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    usage.trim().parse().ok().map(Duration::from_micros)
}

/// Holds a microVM's process back, or lets it go.
pub(super) fn limit(id: InstanceId, limit: Option<CpuLimit>) -> io::Result<()> {
    fs::write(group(Path::new(ROOT), id).join("cpu.max"), quota(limit))
}

/// What `cpu.max` says: microseconds of work, in so many of time.
fn quota(limit: Option<CpuLimit>) -> String {
    const PERIOD_US: u64 = 100_000;
    match limit {
        // The kernel takes no less than a millisecond.
        Some(limit) => {
            format!("{} {PERIOD_US}", (u64::from(limit.per_mille) * PERIOD_US / 1000).max(1000))
        }
        None => format!("max {PERIOD_US}"),
    }
}

fn group(root: &Path, id: InstanceId) -> PathBuf {
    root.join(OURS).join(id.to_string())
}

fn try_put(root: &Path, id: InstanceId, pid: u32, vcpus: u8, memory: ByteSize) -> io::Result<()> {
    if !root.join("cgroup.controllers").exists() {
        return Err(io::Error::other("the host has no control groups of version 2"));
    }
    let group = group(root, id);
    fs::create_dir_all(&group)?;
    for parent in [root, &root.join(OURS)] {
        fs::write(parent.join("cgroup.subtree_control"), "+cpu +memory")?;
    }
    let weight = (WEIGHT * u64::from(vcpus)).min(WEIGHT_MAX);
    fs::write(group.join("cpu.weight"), weight.to_string())?;
    fs::write(group.join("memory.max"), memory.bytes().saturating_add(OWN_MEMORY_BYTES).to_string())?;
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_usage_are_as_the_kernel_has_them() {
        assert_eq!(quota(Some(CpuLimit { per_mille: 200 })), "20000 100000");
        assert_eq!(quota(Some(CpuLimit { per_mille: 1 })), "1000 100000");
        assert_eq!(quota(None), "max 100000");
        let stat = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";
        assert_eq!(usage(stat), Some(Duration::from_millis(1500)));
        assert_eq!(usage("user_usec 1\n"), None);
    }
}
