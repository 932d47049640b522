//! What the journal has that the file system has not yet.
//!
//! After a crash the newest metadata is in the journal alone. Mounting would copy it home; this
//! reader may not write, and instead remembers for each block where its newest committed copy is.
//!
//! ```text
//!   superblock │ descriptor (which blocks) │ copy │ copy │ … │ revoked blocks │ commit │ descriptor …
//!                └──────────────── transaction N ──────────────────────────────────┘  └ N + 1
//! ```
//!
//! The log is a ring that begins where its superblock says and ends with the first block that does
//! not carry the number expected. A transaction counts once its commit was seen. A block that was
//! revoked in transaction N has no valid copy in N or before.
//!
//! All numbers in the journal are big-endian. Source: `filesystems/ext4/journal.rst`.

use std::collections::{BTreeMap, HashMap};

use super::super::bytes::be32;
use super::{Ext4, Ext4Error, Inode, corrupt};

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_OLD: u32 = 3;
const SUPERBLOCK: u32 = 4;
const REVOKE: u32 = 5;

const FEATURE_64_BITS: u32 = 0x2;
const FEATURE_CHECKSUM_2: u32 = 0x8;
const FEATURE_CHECKSUM_3: u32 = 0x10;
const FEATURE_FAST_COMMIT: u32 = 0x20;
const FEATURES_KNOWN: u32 = 0x3f;

const TAG_ESCAPED: u32 = 0x1;
const TAG_SAME_UUID: u32 = 0x2;
const TAG_LAST: u32 = 0x8;

/// A journal of 1 GiB has this many blocks, and `mke2fs` makes none larger.
const BLOCKS_MAX: u32 = 1 << 18;
const FAST_COMMIT_BLOCKS: u32 = 256;

/// A newer copy of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replayed {
    pub(super) block: u64,
    /// The block begins with the journal's magic number, which its copy must not.
    escaped: bool,
}

impl Replayed {
    /// Undoes the escape in what was read from `offset` on.
    pub(super) fn restore(self, offset: usize, buffer: &mut [u8]) {
        if self.escaped && offset < 4 {
            let magic = &MAGIC.to_be_bytes()[offset..];
            let len = magic.len().min(buffer.len());
            buffer[..len].copy_from_slice(&magic[..len]);
        }
    }
}

/// The settings of the log.
struct Log<'a> {
    fs: &'a Ext4,
    inode: Inode,
    features: u32,
    first: u32,
    end: u32,
}

/// What one transaction, or all of them, say of blocks.
#[derive(Default)]
struct Found {
    copies: Vec<(u64, Replayed)>,
    revoked: Vec<u64>,
}

impl Ext4 {
    /// Where the newest copies are that the journal in inode `number` has.
    pub(super) fn read_journal(&self, number: u32) -> Result<BTreeMap<u64, Replayed>, Ext4Error> {
        let inode = self.inode(number)?;
        let mut block = vec![0; self.block_bytes];
        self.read_at(&inode, 0, &mut block)?;
        let is_superblock =
            be32(&block, 0) == MAGIC && matches!(be32(&block, 4), SUPERBLOCK | SUPERBLOCK_OLD);
        if !is_superblock || be32(&block, 0xc) as usize != self.block_bytes {
            return Err(corrupt("the journal's superblock", number));
        }
        let features = if be32(&block, 4) == SUPERBLOCK { be32(&block, 0x28) } else { 0 };
        if features & !FEATURES_KNOWN != 0 {
            return Err(Ext4Error::Unsupported { bits: features & !FEATURES_KNOWN });
        }
        let (first, sequence, start) = (be32(&block, 0x14), be32(&block, 0x18), be32(&block, 0x1c));
        let mut end = be32(&block, 0x10);
        if features & FEATURE_FAST_COMMIT != 0 {
            let stated = be32(&block, 0x54);
            end = end.saturating_sub(if stated == 0 { FAST_COMMIT_BLOCKS } else { stated });
        }
        if start == 0 {
            return Ok(BTreeMap::new());
        }
        if end > BLOCKS_MAX || first == 0 || !(first..end).contains(&start) {
            return Err(corrupt("the journal's bounds", number));
        }
        Log { fs: self, inode, features, first, end }.replay(start, sequence)
    }
}

impl Log<'_> {
    fn replay(&self, start: u32, mut sequence: u32) -> Result<BTreeMap<u64, Replayed>, Ext4Error> {
        let mut newest: HashMap<u64, (u64, Replayed)> = HashMap::new();
        let mut revoked: HashMap<u64, u64> = HashMap::new();
        let mut open = Found::default();
        let mut at = start;
        // Transactions are counted from here, for their own numbers may wrap.
        let mut transaction = 0;
        let mut left = self.end - self.first;
        while left > 0 {
            let mut block = vec![0; self.fs.block_bytes];
            self.fs.read_stored(self.locate(at)?, 0, &mut block)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                break;
            }
            let used = match be32(&block, 4) {
                DESCRIPTOR => 1 + self.descriptor(&block, at, left, &mut open)?,
                REVOKE => {
                    self.revocations(&block, &mut open);
                    1
                }
                COMMIT => {
                    newest.extend(open.copies.drain(..).map(|(block, copy)| (block, (transaction, copy))));
                    revoked.extend(open.revoked.drain(..).map(|block| (block, transaction)));
                    sequence = sequence.wrapping_add(1);
                    transaction += 1;
                    1
                }
                _ => break,
            };
            at = self.step(at, used);
            left = left.saturating_sub(used);
        }
        newest.retain(|block, (transaction, _)| revoked.get(block).is_none_or(|last| *transaction > *last));
        Ok(newest.into_iter().map(|(block, (_, copy))| (block, copy)).collect())
    }

    /// Takes note of the blocks whose copies follow the descriptor at `at`, and says how many.
    fn descriptor(&self, block: &[u8], at: u32, left: u32, open: &mut Found) -> Result<u32, Ext4Error> {
        let has_64_bits = self.features & FEATURE_64_BITS != 0;
        let has_checksum_3 = self.features & FEATURE_CHECKSUM_3 != 0;
        let has_checksum_2 = self.features & FEATURE_CHECKSUM_2 != 0;
        let tag_len = match (has_checksum_3, has_64_bits) {
            (true, _) => 16,
            (false, bits) => (if bits { 12 } else { 8 }) + if has_checksum_2 { 2 } else { 0 },
        };
        let tail = if has_checksum_2 || has_checksum_3 { 4 } else { 0 };
        let tags_end = block.len() - tail;
        let (mut offset, mut count) = (12, 0);
        while offset + tag_len <= tags_end && count + 1 < left {
            let tag = &block[offset..offset + tag_len];
            // In the third form the flags are a word; before, half of one behind a checksum.
            let flags = if has_checksum_3 { be32(tag, 4) } else { be32(tag, 4) & 0xffff };
            let high = if has_64_bits { u64::from(be32(tag, 8)) } else { 0 };
            let home = high << 32 | u64::from(be32(tag, 0));
            count += 1;
            let copy = self.locate(self.step(at, count))?;
            open.copies.push((home, Replayed { block: copy, escaped: flags & TAG_ESCAPED != 0 }));
            offset += tag_len + if flags & TAG_SAME_UUID == 0 { 16 } else { 0 };
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        Ok(count)
    }

    fn revocations(&self, block: &[u8], open: &mut Found) {
        let used = (be32(block, 12) as usize).clamp(16, block.len());
        let list = &block[16..used];
        if self.features & FEATURE_64_BITS != 0 {
            let number = |entry: &[u8]| u64::from(be32(entry, 0)) << 32 | u64::from(be32(entry, 4));
            open.revoked.extend(list.chunks_exact(8).map(number));
        } else {
            open.revoked.extend(list.chunks_exact(4).map(|entry| u64::from(be32(entry, 0))));
        }
    }

    /// The block `count` after `at` in the ring.
    fn step(&self, at: u32, count: u32) -> u32 {
        let len = u64::from(self.end - self.first);
        let offset = (u64::from(at - self.first) + u64::from(count)) % len;
        self.first + u32::try_from(offset).expect("less than the log's length")
    }

    /// Where a block of the log is in the file system.
    fn locate(&self, at: u32) -> Result<u64, Ext4Error> {
        let run = self.fs.run(&self.inode, u64::from(at), 1)?;
        run.start.ok_or_else(|| corrupt("a hole in the journal", at))
    }
}
