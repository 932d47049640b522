//! Grows the root to the size of its disk, while it is mounted: the partition, then the ext4 file system in it.

use std::fs::{self, File};
use std::num::NonZeroU32;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Context, Result};

use crate::console::say;
use crate::disk::{Device, gpt};
use crate::sys;

/// Grows the root's partition, if it is on one.
pub fn partition() -> Result<()> {
    let Some(device) = root_device()? else { return Ok(()) };
    let Some((disk, number)) = device.partition_of() else { return Ok(()) };
    grow_on(&disk, number).with_context(|| format!("grow partition {number} of {}", disk.node().display()))
}

fn grow_on(disk: &Device, number: NonZeroU32) -> Result<()> {
    let block_size = disk.logical_block_size()?;
    let table = match disk.partition_table() {
        Ok(table) => table,
        // A disk with an MBR, which growing would need other code for.
        Err(error) if error.downcast_ref() == Some(&gpt::GptError::NoSignature) => {
            say!("the root's disk has no GPT: its partition is left as it is");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let blocks = disk.size()? / block_size;
    let Some(grown) = table.grown(number, blocks)? else { return Ok(()) };
    let partition = grown.partition(number).context("it is gone")?;
    let node = disk.node();
    let mut options = File::options();
    let file =
        options.read(true).write(true).open(&node).with_context(|| format!("open {}", node.display()))?;
    let mut first = [0; 512];
    file.read_exact_at(&mut first, 0).context("read the first block")?;
    let mbr = gpt::protective_mbr(&first, blocks).map(|bytes| gpt::Write { offset: 0, bytes });
    for write in grown.writes().into_iter().chain(mbr) {
        file.write_all_at(&write.bytes, write.offset).context("write the partition table")?;
        // One copy is to be whole before the other one is touched.
        file.sync_data().context("write the partition table")?;
    }
    let length = (partition.last + 1 - partition.first) * block_size;
    sys::resize_partition(&file, number.get(), partition.first * block_size, length)
        .context("tell the kernel the partition's new size")?;
    say!("the root's partition has grown to {} MiB", length >> 20);
    Ok(())
}

/// Grows the root's file system to the size of its device, if it is ext4 and smaller.
pub fn file_system() -> Result<()> {
    let Some(device) = root_device()? else { return Ok(()) };
    let Some(superblock) = device.superblock() else { return Ok(()) };
    let blocks = device.size()? / superblock.block_size;
    if blocks <= superblock.blocks {
        return Ok(());
    }
    let root = File::open("/").context("open /")?;
    sys::resize_ext4(&root, blocks)
        .with_context(|| format!("grow the root's ext4 from {} to {blocks} blocks", superblock.blocks))?;
    // The kernel leaves a tail that is too small for a block group.
    let reached = device.superblock().map_or(0, |superblock| superblock.blocks);
    if reached > superblock.blocks {
        say!("the root's file system has grown to {} MiB", (reached * superblock.block_size) >> 20);
    }
    Ok(())
}

/// Nothing if the root is in memory, or on the network.
fn root_device() -> Result<Option<Device>> {
    let root = fs::metadata("/").context("look at /")?;
    Ok(Device::by_number(root.dev()))
}
