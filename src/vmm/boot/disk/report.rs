//! What is said when a disk has no kernel.

use std::fmt;

use volume::BlockBackend;

use super::Volume;
use super::filesystem::{Content, is_iso};
use super::partition::{Partition, PartitionKind};

/// Lines of this kind that are kept: a hostile configuration could make many.
const TRIED_MAX: usize = 64;

/// What was looked for.
#[derive(Debug, Default)]
pub(super) struct Tried(Vec<String>);

impl Tried {
    pub(super) fn note(&mut self, partition: &Partition, path: &str, outcome: &str) {
        if self.0.len() < TRIED_MAX {
            // What the guest wrote must not reach a terminal as it is.
            let outcome: String = outcome.chars().take(200).flat_map(char::escape_debug).collect();
            let outcome = outcome.replace("\\\"", "\"").replace("\\'", "'");
            self.0.push(format!("{path} on {partition}: {outcome}"));
        }
    }
}

/// A disk without a kernel: what is on it, and what was looked for.
#[derive(Debug)]
pub struct NoKernel {
    size_bytes: u64,
    partitions: Vec<String>,
    tried: Vec<String>,
    advice: &'static str,
}

impl NoKernel {
    pub(super) fn new(disk: &dyn BlockBackend, volumes: &[Volume], tried: Tried) -> Self {
        let partitions = volumes.iter().map(|volume| {
            let Volume { partition, content } = volume;
            let size = Size(partition.size_bytes);
            match partition.kind {
                PartitionKind::WholeDisk => format!("{partition}: {size}, no partition table, {content}"),
                kind => format!("{partition}: {kind}, {size}, {content}"),
            }
        });
        Self {
            size_bytes: disk.size_bytes(),
            partitions: partitions.collect(),
            tried: tried.0,
            advice: advice(disk, volumes),
        }
    }
}

/// What to do about it.
fn advice(disk: &dyn BlockBackend, volumes: &[Volume]) -> &'static str {
    let is_known = |volume: &Volume| !matches!(volume.content, Content::Unknown);
    let is_readable = |volume: &Volume| matches!(volume.content, Content::Ext4(_) | Content::Broken(_));
    if is_iso(disk) {
        "this is an ISO 9660 image, which installs a system: take the vendor's cloud image, raw or qcow2, instead"
    } else if !volumes.iter().any(is_known) {
        "this may not be a disk image, or be cut short or encrypted: take a raw or qcow2 image of a whole disk, or name \
         a kernel outside of it with --kernel, --initrd and --cmdline"
    } else if !volumes.iter().any(is_readable) {
        "have /boot on an ext4 file system, or name a kernel outside of the image with --kernel, --initrd and --cmdline"
    } else {
        "install a kernel and a GRUB configuration (or Boot Loader Specification entries) in the image, or name \
         a kernel outside of it with --kernel, --initrd and --cmdline"
    }
}

impl std::error::Error for NoKernel {}

impl fmt::Display for NoKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no kernel was found on the disk ({})", Size(self.size_bytes))?;
        writeln!(f, "  on it:")?;
        if self.partitions.is_empty() {
            writeln!(f, "    no partition that can be used")?;
        }
        for line in &self.partitions {
            writeln!(f, "    {line}")?;
        }
        if !self.tried.is_empty() {
            writeln!(f, "  looked for:")?;
        }
        for line in &self.tried {
            writeln!(f, "    {line}")?;
        }
        write!(f, "  {}", self.advice)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => f.write_str("the whole disk"),
            number => write!(f, "partition {number}"),
        }
    }
}

/// A size for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= unit {
                let tenths = u128::from(self.0) * 10 / u128::from(unit);
                return write!(f, "{}.{} {name}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}
