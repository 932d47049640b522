//! What is in each partition, and the files in those that can be read.

use std::fmt;
use std::sync::Arc;

use volume::BlockBackend;

use super::bytes::Window;
use super::ext4::{Ext4, Ext4Error, FileKind, Inode};
use super::partition::Partition;

/// A boot loader's configuration, or a script it includes, is far smaller.
const TEXT_BYTES_MAX: u64 = 512 << 10;

/// ECMA-119, section 8.1: the first volume descriptor is in sector 16 of 2048 bytes.
const ISO_SIGNATURE_AT: u64 = 16 * 2048 + 1;

/// What a partition holds.
pub(super) enum Content {
    Ext4(Box<Ext4>),
    /// An ext4 that cannot be read, and why.
    Broken(Ext4Error),
    /// A known kind that is not read here.
    Other(&'static str),
    Unknown,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ext4(fs) if fs.label.is_empty() => f.write_str("ext4"),
            Self::Ext4(fs) => write!(f, "ext4 \"{}\"", fs.label.escape_debug()),
            Self::Broken(error) => write!(f, "ext4 that cannot be read: {}", chain(error)),
            Self::Other(name) => write!(f, "{name} (kernels are read from ext4 only)"),
            Self::Unknown => f.write_str("no known file system"),
        }
    }
}

/// An error and its sources in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Finds out what is in a partition.
pub(super) fn content(disk: &Arc<dyn BlockBackend>, partition: &Partition) -> Content {
    match Ext4::open(Window::new(disk, partition)) {
        Ok(Some(fs)) => Content::Ext4(Box::new(fs)),
        Err(error) => Content::Broken(error),
        Ok(None) => other(&Window::new(disk, partition)).map_or(Content::Unknown, Content::Other),
    }
}

/// Whether the disk is an installation medium. One that can be written to a stick has a partition table as well.
pub(super) fn is_iso(disk: &dyn BlockBackend) -> bool {
    let mut found = [0; 5];
    disk.size_bytes() > ISO_SIGNATURE_AT + 5
        && disk.read_at(ISO_SIGNATURE_AT, &mut found).is_ok()
        && &found == b"CD001"
}

/// Names a file system or the like by its signature.
fn other(window: &Window) -> Option<&'static str> {
    const SIGNATURES: [(u64, &[u8], &str); 8] = [
        (0, b"XFSB", "XFS"),
        (0x1_0040, b"_BHRfS_M", "btrfs"),
        (0x52, b"FAT32", "FAT"),
        (0x36, b"FAT1", "FAT"),
        (0, b"LUKS\xba\xbe", "LUKS encryption"),
        (0x218, b"LVM2 001", "LVM"),
        (0xff6, b"SWAPSPACE2", "swap"),
        (0, b"hsqs", "squashfs"),
    ];
    SIGNATURES.into_iter().find_map(|(offset, signature, name)| {
        let mut found = [0; 16];
        let found = &mut found[..signature.len()];
        (window.read_at(offset, found).is_ok() && found == signature).then_some(name)
    })
}

impl Ext4 {
    /// The regular file at `path`, if there is one.
    pub(super) fn regular(&self, path: &str) -> Result<Option<Inode>, Ext4Error> {
        match self.lookup(path) {
            Ok(inode) if inode.kind == FileKind::Regular => Ok(Some(inode)),
            Ok(_) | Err(Ext4Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The text of a small file, if there is one.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>, Ext4Error> {
        let Some(inode) = self.regular(path)? else { return Ok(None) };
        let bytes = self.read(&inode, TEXT_BYTES_MAX)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The names in a directory; none if there is no directory.
    pub(super) fn list(&self, path: &str) -> Result<Vec<String>, Ext4Error> {
        match self.lookup(path) {
            Ok(inode) if inode.kind == FileKind::Directory => self.names(&inode),
            Ok(_) | Err(Ext4Error::NotFound) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// What a boot loader's script may ask of the file system that it is on. A path may begin with a
/// device in parentheses, which is not looked at.
pub(super) trait Files {
    /// The text of a small file, if it can be read.
    fn text(&self, path: &str) -> Option<String>;
    /// The names in a directory.
    fn list(&self, path: &str) -> Vec<String>;
    /// Whether the test `-e`, `-f`, `-s` or `-d` holds.
    fn has(&self, path: &str, test: &str) -> bool;
}

impl Files for Ext4 {
    fn text(&self, path: &str) -> Option<String> {
        Ext4::text(self, split_device(path).1).ok().flatten()
    }

    fn list(&self, path: &str) -> Vec<String> {
        Ext4::list(self, split_device(path).1).unwrap_or_default()
    }

    fn has(&self, path: &str, test: &str) -> bool {
        let Ok(inode) = self.lookup(split_device(path).1) else { return false };
        match test {
            "-f" => inode.kind == FileKind::Regular,
            "-d" => inode.kind == FileKind::Directory,
            "-s" => inode.size_bytes > 0,
            _ => true,
        }
    }
}

/// Splits `(device)/path`.
pub(super) fn split_device(path: &str) -> (Option<&str>, &str) {
    path.strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .map_or((None, path), |(device, path)| (Some(device), path))
}
