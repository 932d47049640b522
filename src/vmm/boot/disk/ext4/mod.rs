//! A reader of ext2, ext3 and ext4, for what stands between a disk and its kernel.
//!
//! The guest writes this file system and the host reads it at every start, so it is read as hostile:
//! trees are as deep as they say at first and no deeper, links and lists end, and nothing is
//! allocated by a size that the disk states, only by a bound that the caller sets. File data is read
//! by extents, straight into the caller's buffer.
//!
//! ```text
//!   path ─▶ directory ─▶ inode ─▶ extents (or block map, or inline) ─▶ blocks ─▶ journal's newer copy
//! ```
//!
//! A file system that was not unmounted has its newest metadata in the journal; that is read as if
//! it had been replayed, without writing (see [`journal`]).
//!
//! What it deliberately does not do: verify checksums (the guest's kernel does, and damage here ends
//! in an error or in a kernel that does not start), follow fast commits, decrypt, read attributes.
//!
//! Source: the kernel's documentation, `filesystems/ext4/`.

mod blocks;
mod directory;
mod journal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use super::bytes::{Window, le16, le32};
use blocks::Run;
use journal::Replayed;

const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: u16 = 0xef53;
const ROOT_INODE: u32 = 2;
const INODE_BYTES_MIN: usize = 128;
const INODE_BYTES_MAX: usize = 4096;

/// Features without which this reader would misread, by bit.
mod incompatible {
    pub(super) const FILE_TYPE: u32 = 0x2;
    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const META_GROUPS: u32 = 0x10;
    pub(super) const EXTENTS: u32 = 0x40;
    pub(super) const BITS_64: u32 = 0x80;
    pub(super) const MOUNT_PROTECTION: u32 = 0x100;
    pub(super) const FLEXIBLE_GROUPS: u32 = 0x200;
    pub(super) const ATTRIBUTE_INODES: u32 = 0x400;
    pub(super) const CHECKSUM_SEED: u32 = 0x2000;
    pub(super) const LARGE_DIRECTORIES: u32 = 0x4000;
    pub(super) const INLINE_DATA: u32 = 0x8000;
    pub(super) const ENCRYPT: u32 = 0x1_0000;
    pub(super) const CASE_FOLD: u32 = 0x2_0000;

    pub(super) const KNOWN: u32 = FILE_TYPE
        | RECOVER
        | META_GROUPS
        | EXTENTS
        | BITS_64
        | MOUNT_PROTECTION
        | FLEXIBLE_GROUPS
        | ATTRIBUTE_INODES
        | CHECKSUM_SEED
        | LARGE_DIRECTORIES
        | INLINE_DATA
        | ENCRYPT
        | CASE_FOLD;
}

const SPARSE_SUPERBLOCKS: u32 = 0x1;

mod inode_flags {
    pub(super) const ENCRYPTED: u32 = 0x800;
    pub(super) const EXTENTS: u32 = 0x8_0000;
    pub(super) const INLINE_DATA: u32 = 0x1000_0000;
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    #[error("cannot read the file system at byte {offset}")]
    Io { offset: u64, source: io::Error },
    #[error("the file system needs features that are unknown here (bits {bits:#x})")]
    Unsupported { bits: u32 },
    #[error("the file system is damaged: {what} ({place})")]
    Corrupt { what: &'static str, place: u64 },
    #[error("there is no such file")]
    NotFound,
    #[error("too many symbolic links")]
    LinkLoop,
    #[error("it is not a {expected}")]
    WrongKind { expected: &'static str },
    #[error("it is encrypted")]
    Encrypted,
    #[error("it has {size_bytes} bytes, and at most {limit_bytes} are allowed")]
    TooLarge { size_bytes: u64, limit_bytes: u64 },
}

fn corrupt(what: &'static str, place: impl Into<u64>) -> Ext4Error {
    Ext4Error::Corrupt { what, place: place.into() }
}

/// A file system.
pub(super) struct Ext4 {
    window: Window,
    block_bytes: usize,
    blocks: u64,
    first_data_block: u64,
    blocks_per_group: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_bytes: usize,
    descriptor_bytes: usize,
    meta_groups_from: Option<u64>,
    sparse_superblocks: bool,
    pub(super) uuid: [u8; 16],
    pub(super) label: String,
    /// Where the newer copy of a block is.
    replayed: BTreeMap<u64, Replayed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Regular,
    Directory,
    Link,
    Other,
}

/// A file, as its inode describes it.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    number: u32,
    pub(super) kind: FileKind,
    pub(super) size_bytes: u64,
    flags: u32,
    /// The root of the extent tree, the block map, or the data itself.
    root: [u8; 60],
    /// The rest of inline data, which stands among the extended attributes.
    inline_rest: Vec<u8>,
}

impl Ext4 {
    /// The file system in `window`, or `None` when there is no ext2, 3 or 4.
    pub(super) fn open(window: Window) -> Result<Option<Self>, Ext4Error> {
        if window.size_bytes() < SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES as u64 {
            return Ok(None);
        }
        let mut superblock = [0; SUPERBLOCK_BYTES];
        window
            .read_at(SUPERBLOCK_OFFSET, &mut superblock)
            .map_err(|source| Ext4Error::Io { offset: SUPERBLOCK_OFFSET, source })?;
        if le16(&superblock, 0x38) != MAGIC {
            return Ok(None);
        }
        let features = le32(&superblock, 0x60);
        if features & !incompatible::KNOWN != 0 {
            return Err(Ext4Error::Unsupported { bits: features & !incompatible::KNOWN });
        }
        let mut this = Self::from_superblock(window, &superblock, features)?;
        if features & incompatible::RECOVER != 0 {
            this.replayed = this.read_journal(le32(&superblock, 0xe0))?;
        }
        Ok(Some(this))
    }

    fn from_superblock(window: Window, superblock: &[u8], features: u32) -> Result<Self, Ext4Error> {
        let shift = le32(superblock, 0x18);
        if shift > 6 {
            return Err(corrupt("a block size beyond 64 KiB", shift));
        }
        let has_64_bits = features & incompatible::BITS_64 != 0;
        let high = if has_64_bits { u64::from(le32(superblock, 0x150)) } else { 0 };
        let has_sizes = le32(superblock, 0x4c) > 0;
        let inode_bytes = if has_sizes { usize::from(le16(superblock, 0x58)) } else { INODE_BYTES_MIN };
        let descriptor_bytes = if has_64_bits { usize::from(le16(superblock, 0xfe)) } else { 32 };
        let this = Self {
            window,
            block_bytes: 1024 << shift,
            blocks: high << 32 | u64::from(le32(superblock, 0x4)),
            first_data_block: u64::from(le32(superblock, 0x14)),
            blocks_per_group: u64::from(le32(superblock, 0x20)),
            inodes: le32(superblock, 0x0),
            inodes_per_group: le32(superblock, 0x28),
            inode_bytes,
            descriptor_bytes,
            meta_groups_from: (features & incompatible::META_GROUPS != 0)
                .then(|| u64::from(le32(superblock, 0x104))),
            sparse_superblocks: le32(superblock, 0x64) & SPARSE_SUPERBLOCKS != 0,
            uuid: superblock[0x68..0x78].try_into().expect("16 bytes"),
            label: text(&superblock[0x78..0x88]),
            replayed: BTreeMap::new(),
        };
        let inode_fits = (INODE_BYTES_MIN..=INODE_BYTES_MAX).contains(&inode_bytes);
        if !inode_fits || !inode_bytes.is_power_of_two() || inode_bytes > this.block_bytes {
            return Err(corrupt("the size of an inode", inode_bytes as u64));
        }
        if !(32..=1024).contains(&descriptor_bytes) || !descriptor_bytes.is_power_of_two() {
            return Err(corrupt("the size of a group descriptor", descriptor_bytes as u64));
        }
        if this.blocks_per_group == 0 || this.inodes_per_group == 0 {
            return Err(corrupt("an empty block group", 0u64));
        }
        Ok(this)
    }

    /// Fills the buffer from `offset` within a block, taking the journal's copy if there is one.
    fn read_block(&self, block: u64, offset: usize, buffer: &mut [u8]) -> Result<(), Ext4Error> {
        let Some(newer) = self.replayed.get(&block) else {
            return self.read_stored(block, offset, buffer);
        };
        self.read_stored(newer.block, offset, buffer)?;
        newer.restore(offset, buffer);
        Ok(())
    }

    /// Fills the buffer from `offset` within a block as it stands on the disk; it may go on into
    /// the next blocks.
    fn read_stored(&self, block: u64, offset: usize, buffer: &mut [u8]) -> Result<(), Ext4Error> {
        if block >= self.blocks || block == 0 && self.block_bytes > 1024 && offset < 1024 {
            return Err(corrupt("a block outside the file system", block));
        }
        let at = block
            .checked_mul(self.block_bytes as u64)
            .and_then(|at| at.checked_add(offset as u64))
            .ok_or_else(|| corrupt("a block outside the file system", block))?;
        self.window.read_at(at, buffer).map_err(|source| Ext4Error::Io { offset: at, source })
    }

    fn inode(&self, number: u32) -> Result<Inode, Ext4Error> {
        if number == 0 || number > self.inodes {
            return Err(corrupt("an inode number", number));
        }
        let index = number - 1;
        let table = self.inode_table(index / self.inodes_per_group)?;
        let at = u64::from(index % self.inodes_per_group) * self.inode_bytes as u64;
        let block_bytes = self.block_bytes as u64;
        let block = table.checked_add(at / block_bytes).ok_or_else(|| corrupt("an inode table", table))?;
        let mut bytes = vec![0; self.inode_bytes];
        let offset = usize::try_from(at % block_bytes).expect("less than a block");
        self.read_block(block, offset, &mut bytes)?;
        Ok(Inode::from_bytes(number, &bytes))
    }

    /// The first block of a group's inodes.
    fn inode_table(&self, group: u32) -> Result<u64, Ext4Error> {
        let per_block = self.block_bytes / self.descriptor_bytes;
        let index = u64::from(group) / per_block as u64;
        let block = match self.meta_groups_from {
            Some(from) if index >= from => {
                let first_group = index * per_block as u64;
                self.first_data_block
                    + first_group * self.blocks_per_group
                    + u64::from(self.has_superblock(first_group))
            }
            _ => SUPERBLOCK_OFFSET / self.block_bytes as u64 + 1 + index,
        };
        let mut descriptor = vec![0; self.descriptor_bytes];
        let within = group as usize % per_block * self.descriptor_bytes;
        self.read_block(block, within, &mut descriptor)?;
        let high = if self.descriptor_bytes >= 64 { le32(&descriptor, 0x28) } else { 0 };
        Ok(u64::from(high) << 32 | u64::from(le32(&descriptor, 0x8)))
    }

    fn has_superblock(&self, group: u64) -> bool {
        let is_power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        !self.sparse_superblocks || group <= 1 || is_power_of(3) || is_power_of(5) || is_power_of(7)
    }

    /// Fills the buffer from `offset` in the file; it must lie within the file.
    pub(super) fn read_at(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<(), Ext4Error> {
        if inode.flags & inode_flags::ENCRYPTED != 0 {
            return Err(Ext4Error::Encrypted);
        }
        if inode.flags & inode_flags::INLINE_DATA != 0 {
            return inode.read_inline(offset, buffer);
        }
        let block_bytes = self.block_bytes as u64;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let left = buffer.len() - done;
            let within = usize::try_from(at % block_bytes).expect("less than a block");
            let wanted = (within + left).div_ceil(self.block_bytes) as u64;
            let run = self.run(inode, at / block_bytes, wanted)?;
            let run_bytes =
                usize::try_from(run.blocks).unwrap_or(usize::MAX).saturating_mul(self.block_bytes);
            let len = left.min(run_bytes - within);
            let part = &mut buffer[done..done + len];
            match run {
                Run { start: None, .. } => part.fill(0),
                Run { start: Some(start), .. } => self.read_run(start, within, part)?,
            }
            done += len;
        }
        Ok(())
    }

    /// Reads from blocks that follow each other: at once, unless the journal has some of them.
    fn read_run(&self, start: u64, within: usize, buffer: &mut [u8]) -> Result<(), Ext4Error> {
        let count = (within + buffer.len()).div_ceil(self.block_bytes) as u64;
        let end = start.checked_add(count).filter(|end| *end <= self.blocks);
        let end = end.ok_or_else(|| corrupt("an extent outside the file system", start))?;
        if self.replayed.range(start..end).next().is_none() {
            return self.read_stored(start, within, buffer);
        }
        let (mut offset, mut rest) = (within, buffer);
        for block in start..end {
            let len = rest.len().min(self.block_bytes - offset);
            let (part, after) = rest.split_at_mut(len);
            self.read_block(block, offset, part)?;
            (offset, rest) = (0, after);
        }
        Ok(())
    }

    /// All of a file that has at most `limit_bytes`.
    pub(super) fn read(&self, inode: &Inode, limit_bytes: u64) -> Result<Vec<u8>, Ext4Error> {
        let too_large = || Ext4Error::TooLarge { size_bytes: inode.size_bytes, limit_bytes };
        if inode.size_bytes > limit_bytes {
            return Err(too_large());
        }
        let mut bytes = vec![0; usize::try_from(inode.size_bytes).map_err(|_| too_large())?];
        self.read_at(inode, 0, &mut bytes)?;
        Ok(bytes)
    }
}

impl Inode {
    fn from_bytes(number: u32, bytes: &[u8]) -> Self {
        let kind = match le16(bytes, 0) & 0xf000 {
            0x8000 => FileKind::Regular,
            0x4000 => FileKind::Directory,
            0xa000 => FileKind::Link,
            _ => FileKind::Other,
        };
        let flags = le32(bytes, 0x20);
        let inline_rest = if flags & inode_flags::INLINE_DATA != 0 {
            inline_attribute(bytes).unwrap_or_default()
        } else {
            Vec::new()
        };
        Self {
            number,
            kind,
            size_bytes: u64::from(le32(bytes, 0x6c)) << 32 | u64::from(le32(bytes, 0x4)),
            flags,
            root: bytes[0x28..0x64].try_into().expect("60 bytes"),
            inline_rest,
        }
    }

    fn read_inline(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Ext4Error> {
        let all = [&self.root[..], &self.inline_rest].concat();
        let outside = || corrupt("inline data that ends early", self.number);
        let start = usize::try_from(offset).map_err(|_| outside())?;
        let end = start.checked_add(buffer.len()).ok_or_else(outside)?;
        buffer.copy_from_slice(all.get(start..end).ok_or_else(outside)?);
        Ok(())
    }
}

/// The value of the attribute `system.data`, which holds what of inline data the inode's own 60
/// bytes do not.
fn inline_attribute(inode: &[u8]) -> Option<Vec<u8>> {
    const ATTRIBUTES_MAGIC: u32 = 0xea02_0000;
    const SYSTEM: u8 = 7;
    let extra = usize::from(le16(inode.get(0x80..0x82)?, 0));
    let attributes = inode.get(INODE_BYTES_MIN + extra..)?;
    if le32(attributes.get(..4)?, 0) != ATTRIBUTES_MAGIC {
        return None;
    }
    let values = &attributes[4..];
    let mut entries = values;
    loop {
        let header = entries.get(..16)?;
        let (name_len, name_index) = (usize::from(header[0]), header[1]);
        if name_len == 0 && name_index == 0 {
            return None;
        }
        let name = entries.get(16..16 + name_len)?;
        if name_index == SYSTEM && name == b"data" {
            let start = usize::from(le16(header, 2));
            let len = usize::try_from(le32(header, 8)).ok()?;
            return values.get(start..start.checked_add(len)?).map(<[u8]>::to_vec);
        }
        entries = entries.get((16 + name_len).next_multiple_of(4)..)?;
    }
}

/// Text that ends with its first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
