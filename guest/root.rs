//! The root device: what `root=` means, waiting for it, and mounting it.

use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cmdline::CommandLine;
use crate::disk::Device;
use crate::mount::{Options, mount_at};
use crate::uevent::Uevents;

/// What names a device, in `root=` and in fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Path(PathBuf),
    Label(String),
    Uuid(String),
    PartUuid(String),
    PartLabel(String),
}

impl Source {
    pub fn parse(text: &str) -> Source {
        let unquoted = |value: &str| value.trim_matches('"').to_owned();
        match text.split_once('=') {
            Some(("LABEL", value)) => Source::Label(unquoted(value)),
            Some(("UUID", value)) => Source::Uuid(unquoted(value).to_lowercase()),
            Some(("PARTUUID", value)) => Source::PartUuid(unquoted(value).to_lowercase()),
            Some(("PARTLABEL", value)) => Source::PartLabel(unquoted(value)),
            _ => Source::Path(PathBuf::from(text)),
        }
    }

    /// The node of the device, if it is there now.
    pub fn find(&self) -> Option<PathBuf> {
        if let Source::Path(path) = self {
            let is_device = std::fs::metadata(path).is_ok_and(|node| node.file_type().is_block_device());
            return is_device.then(|| path.clone());
        }
        Device::all().into_iter().find(|device| self.names(device)).map(|device| device.node())
    }

    fn names(&self, device: &Device) -> bool {
        let partition = || {
            let (disk, number) = device.partition_of()?;
            disk.partition_table().ok()?.partition(number)
        };
        match self {
            Source::Path(path) => device.node() == *path,
            Source::Label(label) => device.superblock().is_some_and(|found| found.label == *label),
            Source::Uuid(uuid) => device.superblock().is_some_and(|found| found.uuid == *uuid),
            Source::PartUuid(uuid) => partition().is_some_and(|found| found.guid.to_string() == *uuid),
            Source::PartLabel(name) => partition().is_some_and(|found| found.name == *name),
        }
    }
}

/// Waits for the device that `root=` names, and mounts it at `target`. `events` must be older than the loading of
/// the disk's driver.
pub fn mount_root(line: &CommandLine, events: &Uevents, target: &Path) -> Result<()> {
    let Some(root) = line.root.as_deref() else {
        bail!(
            "the kernel command line has no root=: say which device to start from, such as root=LABEL=nimbo"
        );
    };
    let device = wait_for(root, line, events)?;
    let mut options = Options::parse(&line.root_flags);
    options.flags.set(MsFlags::MS_RDONLY, line.read_only);
    let kind = line.root_type.as_deref().unwrap_or("auto");
    mount_at(&device.to_string_lossy(), target, kind, &options)
}

fn wait_for(root: &str, line: &CommandLine, events: &Uevents) -> Result<PathBuf> {
    let source = Source::parse(root);
    let deadline = Instant::now() + line.root_wait;
    loop {
        if let Some(device) = source.find() {
            return Ok(device);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seen: Vec<String> = Device::all().iter().map(|d| d.node().display().to_string()).collect();
            let seen = if seen.is_empty() { "no disk at all".to_owned() } else { seen.join(" ") };
            let seconds = line.root_wait.as_secs();
            bail!("the root device {root} did not appear in {seconds} s; there is {seen}");
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut fds, timeout).context("wait for the root device")?;
        events.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        assert_eq!(Source::parse("/dev/vda1"), Source::Path("/dev/vda1".into()));
        assert_eq!(Source::parse("LABEL=a=b"), Source::Label("a=b".into()));
        assert_eq!(Source::parse("UUID=\"AB-cd\""), Source::Uuid("ab-cd".into()));
        assert_eq!(Source::parse("PARTUUID=AB"), Source::PartUuid("ab".into()));
        assert_eq!(Source::parse("10.0.0.1:/"), Source::Path("10.0.0.1:/".into()));
    }

    #[test]
    fn a_root_that_never_comes_is_named_with_what_is_there() {
        let line = CommandLine {
            root_wait: std::time::Duration::from_millis(1),
            ..CommandLine::parse("root=LABEL=no-such-label")
        };
        let error = wait_for("LABEL=no-such-label", &line, &Uevents::open().unwrap()).unwrap_err();
        assert!(
            error.to_string().starts_with("the root device LABEL=no-such-label did not appear"),
            "{error}"
        );
    }
}
