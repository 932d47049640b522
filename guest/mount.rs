//! Mounting: the file systems of every Linux machine, and what a line of fstab or `root=` asks for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// A file system that has no device.
struct Virtual {
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    data: &'static str,
}

const fn virtual_at(target: &'static str, kind: &'static str, flags: MsFlags, data: &'static str) -> Virtual {
    Virtual { target, kind, flags, data }
}

const NO_SUID: MsFlags = MsFlags::MS_NOSUID;
const NO_PROGRAMS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const NO_DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// What has to be there before anything can be looked at.
const FIRST: [Virtual; 3] = [
    virtual_at("/proc", "proc", NO_PROGRAMS, ""),
    virtual_at("/sys", "sysfs", NO_PROGRAMS, ""),
    virtual_at("/dev", "devtmpfs", NO_SUID, "mode=0755"),
];

/// What programs expect beyond that.
const SYSTEM: [Virtual; 5] = [
    virtual_at("/dev/pts", "devpts", NO_SUID.union(MsFlags::MS_NOEXEC), "gid=5,mode=0620,ptmxmode=0666"),
    virtual_at("/dev/shm", "tmpfs", NO_DEVICES, "mode=1777"),
    virtual_at("/run", "tmpfs", NO_DEVICES, "mode=0755"),
    virtual_at("/tmp", "tmpfs", NO_DEVICES, "mode=1777"),
    virtual_at("/sys/fs/cgroup", "cgroup2", NO_PROGRAMS, ""),
];

/// Mounts `/proc`, `/sys` and `/dev`.
pub fn first() -> Result<()> {
    FIRST.iter().try_for_each(Virtual::mount)
}

/// Mounts the rest; gives back what failed, for a machine works without most of it.
pub fn system() -> Vec<anyhow::Error> {
    SYSTEM.iter().filter_map(|entry| entry.mount().err()).collect()
}

impl Virtual {
    fn mount(&self) -> Result<()> {
        if is_mount_point(Path::new(self.target)) {
            return Ok(());
        }
        // On a read-only root the folder is there already, or mount says that it is not.
        let _ = fs::create_dir_all(self.target);
        let data = (!self.data.is_empty()).then_some(self.data);
        mount(Some(self.kind), self.target, Some(self.kind), self.flags, data)
            .with_context(|| format!("mount {} at {}", self.kind, self.target))
    }
}

/// Whether something is mounted here. The kernel would mount most of these only once, but proc again and again.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let here = device(path);
    here.is_some() && path.parent().is_some_and(|parent| device(parent) != here)
}

/// Mount options, divided into what mount(2) takes as flags and what the file system takes as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub flags: MsFlags,
    pub data: String,
}

impl Options {
    /// Parses `ro,noatime,commit=30`. Words for programs, not for the kernel (`nofail`, `_netdev`, `x-…`), are dropped.
    pub fn parse(text: &str) -> Self {
        let mut flags = MsFlags::empty();
        let mut data: Vec<&str> = Vec::new();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match effect(word) {
                Some((flag, true)) => flags.insert(flag),
                Some((flag, false)) => flags.remove(flag),
                None if is_for_programs(word) => {}
                None => data.push(word),
            }
        }
        Options { flags, data: data.join(",") }
    }
}

/// The flag that a word sets (true) or clears.
fn effect(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "lazytime" => (MsFlags::MS_LAZYTIME, true),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        _ => return None,
    })
}

fn is_for_programs(word: &str) -> bool {
    let known =
        ["defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group"];
    known.contains(&word) || word.starts_with("x-") || word.starts_with("comment=")
}

/// Mounts `source` at `target`, making the folder. The type `auto` tries what the kernel knows.
pub fn mount_at(source: &str, target: &Path, kind: &str, options: &Options) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("make the mount point {}", target.display()))?;
    let data = (!options.data.is_empty()).then_some(options.data.as_str());
    let try_as = |kind: &str| mount(Some(source), target, Some(kind), options.flags, data);
    let result = if kind == "auto" && !options.flags.contains(MsFlags::MS_BIND) {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let mut result = Err(Errno::ENODEV);
        for kind in kinds_with_device(&known) {
            result = try_as(kind);
            // EINVAL is "not mine"; any other fault is about this file system.
            if result != Err(Errno::EINVAL) {
                break;
            }
        }
        result
    } else {
        try_as(kind)
    };
    result.with_context(|| format!("mount {source} at {} (type {kind})", target.display()))
}

/// The types of `/proc/filesystems` that live on a device. The kernel lists ext2 and ext3 before ext4, which mounts
/// them all and does not complain about the others.
fn kinds_with_device(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.starts_with("nodev"));
    let mut kinds: Vec<&str> = lines.map(str::trim).filter(|kind| !kind.is_empty()).collect();
    kinds.sort_by_key(|&kind| kind != "ext4");
    kinds
}

/// The mount points of `/proc/self/mountinfo` with their types, in the order of mounting.
pub fn parse_mountinfo(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (places, kinds) = line.split_once(" - ")?;
            let target = places.split(' ').nth(4)?;
            Some((unescape(target), kinds.split(' ').next()?.to_owned()))
        })
        .collect()
}

/// The kernel and fstab write blanks in paths as three octal digits: `\040`.
pub fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let code = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                rest = &after[3..];
            }
            None => plain.push(byte),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_flags_or_data_and_later_words_win() {
        let options = Options::parse("defaults,ro,noatime,rw,commit=30,nofail,x-systemd.automount,vers=4.1");
        assert_eq!(options, Options { flags: MsFlags::MS_NOATIME, data: "commit=30,vers=4.1".into() });
    }

    #[test]
    fn mountinfo_gives_places_and_types() {
        let text = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
                    30 22 0:40 / /mnt/a\\040b rw - nfs4 10.0.0.1:/ rw,vers=4.1\n";
        let want = [("/".to_owned(), "ext4".to_owned()), ("/mnt/a b".to_owned(), "nfs4".to_owned())];
        assert_eq!(parse_mountinfo(text), want);
    }

    #[test]
    fn only_types_with_a_device_are_tried() {
        let text = "nodev\tsysfs\nnodev\ttmpfs\n\text2\n\tvfat\n\text4\n";
        assert_eq!(kinds_with_device(text), ["ext4", "ext2", "vfat"]);
    }

    proptest! {
        #[test]
        fn unescape_is_the_inverse_of_what_the_kernel_does(path in "[ -~]{0,40}") {
            let escaped: String = path.chars().map(|c| match c {
                ' ' => "\\040".to_owned(),
                '\\' => "\\134".to_owned(),
                c => c.to_string(),
            }).collect();
            prop_assert_eq!(unescape(&escaped), path);
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,200}") {
            let _ = (unescape(&text), parse_mountinfo(&text), Options::parse(&text));
        }
    }
}
