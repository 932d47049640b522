//! The GUID partition table: read it, and move the end of a partition outwards (UEFI 2.10, section 5.3).
//!
//! ```text
//! LBA 0        1       2 … 33        first usable … last usable      …      last
//! protective  header  entries       partitions                     entries  header
//! MBR                                                              (the backup, mirrored)
//!
//! header:  0 "EFI PART"   12 size   16 CRC of the header with this field 0   24 its own LBA   32 the other header's
//!         40 first usable  48 last usable   56 disk GUID   72 entries' LBA   80 count   84 entry size   88 entries' CRC
//! entry:   0 type GUID   16 its own GUID   32 first LBA   40 last LBA   48 attributes   56 name, UTF-16LE, 36 units
//! ```
//!
//! A table is accepted only with both checksums right. Growing changes nothing but the end of one partition, the
//! last usable LBA, and the place of the backup.

use std::fmt;
use std::num::NonZeroU32;

/// Entry arrays beyond this are not believed: the usual one has 16 KiB.
const ENTRIES_MAX: u64 = 1 << 20;
/// Partitions end on a multiple of this, so that file systems see whole blocks.
const ALIGNMENT: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    #[error("no partition table: the signature \"EFI PART\" is not at block 1")]
    NoSignature,
    #[error("the header of the partition table is cut off at byte {length}")]
    Short { length: usize },
    #[error("the header of the partition table says {field} = {value}, which cannot be")]
    Field { field: &'static str, value: u64 },
    #[error(
        "the checksum of the partition table's {part} is {found:#010x}, its content gives {computed:#010x}"
    )]
    Checksum { part: &'static str, found: u32, computed: u32 },
    #[error("there is no partition {number}")]
    NoPartition { number: NonZeroU32 },
}

/// A GUID as it stands on disk, shown as Linux shows PARTUUID: the first three groups are little-endian.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Guid([u8; 16]);

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        for (place, &index) in ORDER.iter().enumerate() {
            let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{:02x}", self.0[index])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One partition; LBAs are inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub guid: Guid,
    pub name: String,
    pub first: u64,
    pub last: u64,
}

/// A valid header block: the first logical block of it that the table needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    bytes: Vec<u8>,
    block_size: u64,
}

impl Header {
    /// Checks the block at LBA 1; its length is the disk's logical block size.
    ///
    /// # Errors
    /// [`GptError`] if it is not a header, or a damaged one.
    pub fn parse(block: &[u8]) -> Result<Self, GptError> {
        if block.get(..8) != Some(b"EFI PART") {
            return Err(GptError::NoSignature);
        }
        let size = u64::from(u32_at(block, 12)?);
        let used = usize::try_from(size).ok().filter(|&size| size >= 92).and_then(|size| block.get(..size));
        let used = used.ok_or(GptError::Field { field: "header size", value: size })?;
        let found = u32_at(block, 16)?;
        let computed = header_checksum(used);
        if found != computed {
            return Err(GptError::Checksum { part: "header", found, computed });
        }
        let block_size = u64::try_from(block.len()).unwrap_or(u64::MAX);
        let header = Header { bytes: used.to_vec(), block_size };
        let entry_size = u64::from(header.entry_size());
        if entry_size < 128 || !entry_size.is_power_of_two() {
            return Err(GptError::Field { field: "entry size", value: entry_size });
        }
        let count = u64::from(header.u32(80));
        if count == 0 || count.saturating_mul(entry_size) > ENTRIES_MAX {
            return Err(GptError::Field { field: "entry count", value: count });
        }
        Ok(header)
    }

    /// Where the entries stand: their first byte on the disk, and how many bytes.
    pub fn entries_extent(&self) -> (u64, usize) {
        let length = u64::from(self.u32(80)) * u64::from(self.entry_size());
        (self.u64(72).saturating_mul(self.block_size), usize::try_from(length).unwrap_or_default())
    }

    fn entry_size(&self) -> u32 {
        self.u32(84)
    }

    // The fields below 92 exist: `parse` checked the size.
    fn u32(&self, offset: usize) -> u32 {
        u32_at(&self.bytes, offset).unwrap_or_default()
    }

    fn u64(&self, offset: usize) -> u64 {
        u64_at(&self.bytes, offset).unwrap_or_default()
    }

    fn set_u64(&mut self, offset: usize, value: u64) {
        self.bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// A whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    header: Header,
    entries: Vec<u8>,
}

/// Bytes that have to be written at this offset of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

impl Table {
    /// Joins a header with the bytes of [`Header::entries_extent`].
    ///
    /// # Errors
    /// [`GptError::Checksum`] if these are not the entries that the header speaks of.
    pub fn new(header: Header, entries: Vec<u8>) -> Result<Self, GptError> {
        let found = header.u32(88);
        let computed = crc32fast::hash(&entries);
        if found != computed {
            return Err(GptError::Checksum { part: "entries", found, computed });
        }
        Ok(Table { header, entries })
    }

    /// The partition of this number, as the kernel counts: from 1.
    pub fn partition(&self, number: NonZeroU32) -> Option<Partition> {
        let entry = self.entry(number)?;
        let name: Vec<u16> =
            entry[56..128].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
        Some(Partition {
            guid: Guid(entry[16..32].try_into().ok()?),
            name: String::from_utf16_lossy(&name).trim_end_matches('\0').to_owned(),
            first: u64_at(entry, 32).ok()?,
            last: u64_at(entry, 40).ok()?,
        })
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        let count = self.header.u32(80);
        (1..=count).filter_map(|number| self.partition(NonZeroU32::new(number)?))
    }

    fn entry(&self, number: NonZeroU32) -> Option<&[u8]> {
        let entry = self.entries.get(self.entry_offset(number)..)?.get(..128)?;
        // A type of zero is an unused entry.
        entry[..16].iter().any(|&byte| byte != 0).then_some(entry)
    }

    fn entry_offset(&self, number: NonZeroU32) -> usize {
        let offset = u64::from(number.get() - 1) * u64::from(self.header.entry_size());
        usize::try_from(offset).unwrap_or(usize::MAX)
    }

    /// The table for a disk of `blocks` logical blocks in which partition `number` reaches as far as it can: to the
    /// next partition or the backup. Nothing if there is less than the alignment to gain.
    ///
    /// # Errors
    /// [`GptError::NoPartition`], or [`GptError::Field`] if the disk is smaller than the table says.
    pub fn grown(&self, number: NonZeroU32, blocks: u64) -> Result<Option<Table>, GptError> {
        let partition = self.partition(number).ok_or(GptError::NoPartition { number })?;
        let entries_blocks =
            u64::try_from(self.entries.len()).unwrap_or(u64::MAX).div_ceil(self.header.block_size);
        let backup = blocks.saturating_sub(1);
        let last_usable = backup.saturating_sub(entries_blocks + 1);
        if last_usable < self.header.u64(48) {
            return Err(GptError::Field { field: "last usable block", value: self.header.u64(48) });
        }
        let next = self.partitions().map(|other| other.first).filter(|&first| first > partition.first).min();
        let end = next.unwrap_or(last_usable + 1).min(last_usable + 1);
        let step = (ALIGNMENT / self.header.block_size).max(1);
        let end = end - end % step;
        if end < partition.last.saturating_add(1).saturating_add(step) {
            return Ok(None);
        }
        let mut table = self.clone();
        let at = table.entry_offset(number) + 40;
        table.entries[at..at + 8].copy_from_slice(&(end - 1).to_le_bytes());
        table.header.set_u64(32, backup);
        table.header.set_u64(48, last_usable);
        table.header.set_u32(88, crc32fast::hash(&table.entries));
        table.header.seal();
        Ok(Some(table))
    }

    /// What to write, in an order that leaves one valid table wherever it stops: the backup first.
    pub fn writes(&self) -> Vec<Write> {
        let block = self.header.block_size;
        let backup_at = self.header.u64(32);
        let entries_blocks = u64::try_from(self.entries.len()).unwrap_or(u64::MAX).div_ceil(block);
        let mut backup = self.header.clone();
        backup.set_u64(24, backup_at);
        backup.set_u64(32, self.header.u64(24));
        backup.set_u64(72, backup_at - entries_blocks);
        backup.seal();
        let write = |lba: u64, bytes: &[u8]| Write { offset: lba * block, bytes: bytes.to_vec() };
        vec![
            write(backup_at - entries_blocks, &self.entries),
            write(backup_at, &backup.bytes),
            write(self.header.u64(72), &self.entries),
            write(self.header.u64(24), &self.header.bytes),
        ]
    }
}

/// The protective MBR, block 0, with its one partition made as large as a disk of `blocks` logical blocks (UEFI 2.10,
/// section 5.2.3). Nothing if it is right already, or is no protective one.
///
/// ```text
/// 446 first entry:  4 type 0xee   8 first block   12 size in blocks, at most 0xffffffff     510 0x55 0xaa
/// ```
pub fn protective_mbr(block: &[u8], blocks: u64) -> Option<Vec<u8>> {
    if block.get(510..512) != Some(&[0x55, 0xaa]) || block[450] != 0xee {
        return None;
    }
    let size = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut new = block.to_vec();
    new[458..462].copy_from_slice(&size.to_le_bytes());
    (new != block).then_some(new)
}

impl Header {
    fn seal(&mut self) {
        let checksum = header_checksum(&self.bytes);
        self.set_u32(16, checksum);
    }
}

fn header_checksum(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..16]);
    hasher.update(&[0; 4]);
    hasher.update(&header[20..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, GptError> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.map(|&field| u32::from_le_bytes(field)).ok_or(GptError::Short { length: bytes.len() })
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, GptError> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.map(|&field| u64::from_le_bytes(field)).ok_or(GptError::Short { length: bytes.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: usize = 512;

    fn one(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).expect("partitions count from 1")
    }

    /// A disk of `blocks` with partitions at these LBAs, made independently of the code under test.
    fn disk(blocks: u64, partitions: &[(u64, u64)]) -> (Vec<u8>, Vec<u8>) {
        let mut entries = vec![0; 128 * 128];
        for (index, &(first, last)) in partitions.iter().enumerate() {
            let entry = &mut entries[index * 128..][..128];
            entry[..16].fill(0xaa);
            entry[16..32].copy_from_slice(&(1..=16).collect::<Vec<u8>>());
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            entry[56..60].copy_from_slice(b"n\0i\0");
        }
        let mut header = vec![0; BLOCK];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
        for (at, value) in [(24, 1), (32, blocks - 1), (40, 34), (48, blocks - 34), (72, 2)] {
            header[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        let checksum = crc32fast::hash(&header[..92]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        (header, entries)
    }

    fn table(blocks: u64, partitions: &[(u64, u64)]) -> Table {
        let (header, entries) = disk(blocks, partitions);
        Table::new(Header::parse(&header).unwrap(), entries).unwrap()
    }

    #[test]
    fn shows_a_partition_as_linux_does() {
        let partition = table(20_480, &[(2048, 20_000)]).partition(one(1)).unwrap();
        assert_eq!(partition.guid.to_string(), "04030201-0605-0807-090a-0b0c0d0e0f10");
        assert_eq!((partition.name.as_str(), partition.first, partition.last), ("ni", 2048, 20_000));
    }

    #[test]
    fn grows_to_the_new_end_and_then_no_more() {
        let grown = table(20_480, &[(2048, 18_431)]).grown(one(1), 204_800).unwrap().unwrap();
        assert_eq!(grown.partition(one(1)).unwrap().last, 204_800 - 2048 - 1);
        assert_eq!(grown.grown(one(1), 204_800), Ok(None));
    }

    #[test]
    fn stops_before_the_partition_behind_it() {
        let grown = table(20_480, &[(2048, 4095), (8192, 10_239)]).grown(one(1), 204_800).unwrap().unwrap();
        assert_eq!(grown.partition(one(1)).unwrap().last, 8191);
    }

    #[test]
    fn both_copies_that_it_writes_are_valid() {
        let grown = table(20_480, &[(2048, 18_431)]).grown(one(1), 204_800).unwrap().unwrap();
        let mut image = vec![0; 204_800 * BLOCK];
        for write in grown.writes() {
            let at = usize::try_from(write.offset).unwrap();
            image[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        for lba in [1, 204_799] {
            let header = Header::parse(&image[lba * BLOCK..][..BLOCK]).unwrap();
            let (at, length) = header.entries_extent();
            let entries = image[usize::try_from(at).unwrap()..][..length].to_vec();
            let copy = Table::new(header, entries).unwrap();
            assert_eq!(copy.partition(one(1)), grown.partition(one(1)));
        }
    }

    #[test]
    fn the_protective_mbr_covers_the_disk_or_all_that_it_can() {
        let mut block = vec![0; BLOCK];
        assert_eq!(protective_mbr(&block, 100), None);
        (block[510], block[511], block[450]) = (0x55, 0xaa, 0xee);
        let new = protective_mbr(&block, 100).unwrap();
        assert_eq!(new[458..462], [99, 0, 0, 0]);
        assert_eq!(protective_mbr(&new, 100), None);
        assert_eq!(protective_mbr(&new, 1 << 40).unwrap()[458..462], [0xff; 4]);
    }

    #[test]
    fn a_smaller_disk_is_an_error() {
        let error = table(20_480, &[(2048, 18_431)]).grown(one(1), 10_000).unwrap_err();
        assert!(matches!(error, GptError::Field { field: "last usable block", .. }), "{error}");
    }

    proptest! {
        #[test]
        fn one_wrong_bit_is_noticed(bit in 0usize..92 * 8) {
            let (mut header, _) = disk(20_480, &[(2048, 18_431)]);
            header[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::parse(&header).is_err());
        }

        #[test]
        fn no_header_is_too_strange(mut block in prop::collection::vec(any::<u8>(), 0..600), grow_to: u64) {
            // With the signature and the checksum right, the fields are reached.
            if block.len() >= 92 {
                block[..8].copy_from_slice(b"EFI PART");
                block[12..16].copy_from_slice(&92u32.to_le_bytes());
                block[80..84].copy_from_slice(&4u32.to_le_bytes());
                block[84..88].copy_from_slice(&128u32.to_le_bytes());
                let entries = vec![0x55; 512];
                block[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
                let checksum = header_checksum(&block[..92]);
                block[16..20].copy_from_slice(&checksum.to_le_bytes());
                let header = Header::parse(&block).unwrap();
                let _ = header.entries_extent();
                let table = Table::new(header, entries).unwrap();
                let _ = table.partition(one(4));
                let _ = table.grown(one(1), grow_to);
            } else {
                prop_assert!(Header::parse(&block).is_err());
            }
        }
    }
}
