//! The bytes of layered volumes on stable storage: docs/volume-format.md, as functions.
//!
//! Nothing here reads or writes a file. What is decoded is checked first: the magic, the checksum, that it belongs to the layer
//! it was found in, and every number against its range. So whatever the bytes are, decoding ends with a value that can be relied on
//! or with [`Damage`], and uses no memory that the input does not justify.
//!
//! Numbers are little-endian. Checksums are CRC-32C over the whole page or file with the checksum's own four bytes zero.

mod header;
mod key;
mod manifest;
mod map_page;
mod record;

pub(crate) use header::Header;
#[cfg(test)]
pub(crate) use key::any_key;
pub(crate) use key::{KEY_RECORD_LEN, decode_key, encode_key};
pub(crate) use manifest::{Base, Covered, LayerEntry, Manifest};
pub(crate) use map_page::MapPage;
pub(crate) use record::{ENTRIES_MAX, Entry, Record, RecordKind};

/// The unit of metadata and of the map, in bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// The same, as a length of memory.
pub(crate) const PAGE_LEN: usize = 4096;
/// The largest volume: 64 TiB.
pub(crate) const BLOCKS_MAX: u64 = 1 << 34;

const MAGIC_LEN: usize = 8;
const CHECKSUM_AT: usize = 8;
const VERSION: u32 = 1;

pub(crate) type Page = [u8; PAGE_LEN];

/// What tells one layer, or one volume, from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

impl Uuid {
    /// Where it says that there is none.
    pub(crate) const NONE: Uuid = Uuid([0; 16]);
}

/// What a layer says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// Nothing: the layers below are asked.
    Absent,
    /// The block's data stands in this layer.
    Data,
    /// The block reads as zeroes, whatever is below.
    Zero,
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (at byte {offset} of it)")]
pub struct Damage {
    /// Where, within what was decoded.
    pub offset: u64,
    pub what: &'static str,
}

impl Damage {
    pub(crate) fn at(offset: usize, what: &'static str) -> Self {
        Self { offset: offset as u64, what }
    }
}

impl BlockState {
    fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(BlockState::Absent),
            1 => Some(BlockState::Data),
            2 => Some(BlockState::Zero),
            _ => None,
        }
    }

    fn code(self) -> u8 {
        match self {
            BlockState::Absent => 0,
            BlockState::Data => 1,
            BlockState::Zero => 2,
        }
    }
}

/// Reads numbers at fixed places of bytes that are long enough.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("a range has its length")
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub(crate) fn uuid(&self, at: usize) -> Uuid {
        Uuid(self.array(at))
    }

    pub(crate) fn expect_zero(&self, from: usize, to: usize) -> Result<(), Damage> {
        match self.0[from..to].iter().position(|byte| *byte != 0) {
            Some(at) => Err(Damage::at(from + at, "a reserved byte is not zero")),
            None => Ok(()),
        }
    }
}

pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// The checksum of `bytes`, which hold one at the usual place.
fn checksum(bytes: &[u8]) -> u32 {
    let before = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
    let without = crc32c::crc32c_append(before, &[0; 4]);
    crc32c::crc32c_append(without, &bytes[CHECKSUM_AT + 4..])
}

pub(crate) fn seal_with_checksum(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    put(bytes, CHECKSUM_AT, sum.to_le_bytes());
}

/// Checks magic and checksum.
pub(crate) fn open<'a>(bytes: &'a [u8], magic: &[u8; MAGIC_LEN]) -> Result<Fields<'a>, Damage> {
    if &bytes[..MAGIC_LEN] != magic {
        return Err(Damage::at(0, "the magic number is wrong"));
    }
    let fields = Fields(bytes);
    if fields.u32(CHECKSUM_AT) != checksum(bytes) {
        return Err(Damage::at(CHECKSUM_AT, "the checksum does not match"));
    }
    Ok(fields)
}
