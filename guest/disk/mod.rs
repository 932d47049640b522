//! Block devices as sysfs shows them, and what stands on them: there is no udev here to ask.

pub mod ext4;
pub mod gpt;

use std::fs::{self, File};
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A disk or a partition, by its name under `/sys/class/block`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    name: String,
    folder: PathBuf,
}

impl Device {
    /// Those that hold data now; empty ones, such as unused loop devices, are left out.
    pub fn all() -> Vec<Device> {
        let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
        let mut devices: Vec<Device> = entries
            .flatten()
            .filter_map(|entry| Device::in_folder(&entry.path()))
            .filter(|device| device.number("size").is_ok_and(|sectors| sectors > 0))
            .collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices
    }

    /// The device with this number, as `st_dev` gives it.
    pub fn by_number(device: u64) -> Option<Device> {
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        Device::in_folder(Path::new(&format!("/sys/dev/block/{major}:{minor}")))
    }

    fn in_folder(link: &Path) -> Option<Device> {
        let folder = fs::canonicalize(link).ok()?;
        let name = folder.file_name()?.to_str()?.to_owned();
        Some(Device { name, folder })
    }

    /// The device node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(self.name.replace('!', "/"))
    }

    /// The disk that this partition is on, with its number there; nothing for a disk.
    pub fn partition_of(&self) -> Option<(Device, NonZeroU32)> {
        let number = u32::try_from(self.number("partition").ok()?).ok()?;
        Some((Device::in_folder(self.folder.parent()?)?, NonZeroU32::new(number)?))
    }

    /// In bytes.
    pub fn size(&self) -> Result<u64> {
        // sysfs counts in 512 bytes whatever the disk does.
        Ok(self.number("size")?.saturating_mul(512))
    }

    /// In bytes.
    pub fn logical_block_size(&self) -> Result<u64> {
        self.number("queue/logical_block_size")
    }

    fn number(&self, attribute: &str) -> Result<u64> {
        let path = self.folder.join(attribute);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("read a number from {}", path.display()))
    }

    /// The superblock, if there is an ext4 file system on it.
    pub fn superblock(&self) -> Option<ext4::Superblock> {
        let mut bytes = [0; ext4::LENGTH];
        File::open(self.node()).ok()?.read_exact_at(&mut bytes, ext4::OFFSET).ok()?;
        ext4::Superblock::parse(&bytes)
    }

    /// Reads the partition table of a disk.
    pub fn partition_table(&self) -> Result<gpt::Table> {
        let node = self.node();
        let disk = File::open(&node).with_context(|| format!("open {}", node.display()))?;
        let block_size = self.logical_block_size()?;
        let mut block = vec![0; usize::try_from(block_size)?];
        disk.read_exact_at(&mut block, block_size).with_context(|| format!("read {}", node.display()))?;
        let header = gpt::Header::parse(&block).with_context(|| node.display().to_string())?;
        let (offset, length) = header.entries_extent();
        let mut entries = vec![0; length];
        disk.read_exact_at(&mut entries, offset).with_context(|| format!("read {}", node.display()))?;
        gpt::Table::new(header, entries).with_context(|| node.display().to_string())
    }
}
