//! Which blocks a file's data is in: extent trees, and the block maps of before.
//!
//! ```text
//!   extent node   header (magic, entries, max, depth) │ entries, sorted by logical block
//!     depth > 0     logical, child node
//!     depth = 0     logical, count, physical      count > 32768: count - 32768 blocks of zeroes
//!   block map     12 blocks │ a block of blocks │ a block of those │ and of those
//! ```

use super::super::bytes::{le16, le32};
use super::{Ext4, Ext4Error, Inode, corrupt, inode_flags};

const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_DEPTH_MAX: u16 = 5;
/// The longest extent with data; a larger count marks one that was never written.
const EXTENT_BLOCKS_MAX: u64 = 32768;
const MAP_DIRECT: u64 = 12;

/// Blocks of a file that follow each other on the disk, or that are a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: Option<u64>,
    pub(super) blocks: u64,
}

impl Ext4 {
    /// Where the file's block `logical` is, and how many blocks from it, at most `wanted` and at
    /// least one, follow it there.
    pub(super) fn run(&self, inode: &Inode, logical: u64, wanted: u64) -> Result<Run, Ext4Error> {
        let run = if inode.flags & inode_flags::EXTENTS != 0 {
            self.extent(inode, logical)?
        } else {
            Run { start: self.mapped(inode, logical)?, blocks: 1 }
        };
        Ok(Run { blocks: run.blocks.clamp(1, wanted.max(1)), ..run })
    }

    fn extent(&self, inode: &Inode, logical: u64) -> Result<Run, Ext4Error> {
        let number = inode.number;
        let mut node = inode.root.to_vec();
        let mut depth = None;
        // Where the next entry on any level begins: a hole goes no further.
        let mut bound = u64::MAX;
        loop {
            let entries = entries(&node, depth, number)?;
            depth = Some(le16(&node, 6));
            let after = entries.partition_point(|entry| u64::from(le32(entry, 0)) <= logical);
            if let Some(next) = entries.get(after) {
                bound = bound.min(u64::from(le32(next, 0)));
            }
            let hole = Run { start: None, blocks: bound.saturating_sub(logical) };
            let Some(entry) = after.checked_sub(1).map(|index| entries[index]) else { return Ok(hole) };
            if depth == Some(0) {
                return Ok(leaf(entry, logical).unwrap_or(hole));
            }
            let child = u64::from(le16(entry, 8)) << 32 | u64::from(le32(entry, 4));
            let mut bytes = vec![0; self.block_bytes];
            self.read_block(child, 0, &mut bytes)?;
            node = bytes;
        }
    }

    /// The block of a file that has a block map.
    fn mapped(&self, inode: &Inode, logical: u64) -> Result<Option<u64>, Ext4Error> {
        let per_block = (self.block_bytes / 4) as u64;
        let (mut index, mut block, mut span);
        if logical < MAP_DIRECT {
            let at = usize::try_from(logical).expect("below 12") * 4;
            return Ok(Some(u64::from(le32(&inode.root, at))).filter(|block| *block != 0));
        }
        index = logical - MAP_DIRECT;
        span = per_block;
        let mut level = 0;
        while index >= span {
            index -= span;
            span = span.saturating_mul(per_block);
            level += 1;
            if level == 3 {
                return Err(corrupt("a file beyond its block map", inode.number));
            }
        }
        block = u64::from(le32(&inode.root, 48 + level * 4));
        while block != 0 && span > 1 {
            span /= per_block;
            let at = usize::try_from(index / span).expect("below a block") * 4;
            index %= span;
            let mut pointer = [0; 4];
            self.read_block(block, at, &mut pointer)?;
            block = u64::from(le32(&pointer, 0));
        }
        Ok(Some(block).filter(|block| *block != 0))
    }
}

/// The entries of a node, whose depth must be one less than its parent's.
fn entries(node: &[u8], parent_depth: Option<u16>, number: u32) -> Result<Vec<&[u8]>, Ext4Error> {
    let (magic, count, depth) = (le16(node, 0), usize::from(le16(node, 2)), le16(node, 6));
    let depth_fits = match parent_depth {
        None => depth <= EXTENT_DEPTH_MAX,
        Some(parent) => depth.checked_add(1) == Some(parent),
    };
    if magic != EXTENT_MAGIC || !depth_fits {
        return Err(corrupt("the extent tree of an inode", number));
    }
    let bytes = node.get(12..12 + count * 12).ok_or_else(|| corrupt("an extent node of an inode", number))?;
    Ok(bytes.chunks_exact(12).collect())
}

/// What an extent says of a logical block at or after its first, if it reaches that far.
fn leaf(entry: &[u8], logical: u64) -> Option<Run> {
    let count = u64::from(le16(entry, 4));
    let skipped = logical - u64::from(le32(entry, 0));
    let is_written = count <= EXTENT_BLOCKS_MAX;
    let blocks = if is_written { count } else { count - EXTENT_BLOCKS_MAX }.checked_sub(skipped)?;
    let start = u64::from(le16(entry, 6)) << 32 | u64::from(le32(entry, 8));
    (blocks > 0).then_some(Run { start: is_written.then_some(start + skipped), blocks })
}
