//! Where the file systems of a disk begin: GPT, MBR, or no table at all.
//!
//! ```text
//!   GPT   0 protective MBR │ 1 header │ 2… entries │ … partitions … │ entries again │ header (last)
//!   MBR   0 four entries ─ one of them may be an extended partition:
//!           table ─▶ (one logical partition, next table) ─▶ …
//! ```
//!
//! Everything read here may have been written by a hostile guest: counts are bounded, chains end, and
//! a range outside the disk is left out. Sectors are 512 bytes, as our disks have.
//!
//! Sources: UEFI 2.10 section 5.3 (GPT); the partition types are those of the UAPI group's
//! Discoverable Partitions Specification.

use std::fmt;
use std::io;

use volume::{BlockBackend, SECTOR_BYTES};

use super::bytes::{le32, le64};

const SECTOR: usize = 512;
const GPT_SIGNATURE: &[u8; 8] = b"EFI PART";
const GPT_HEADER_BYTES: usize = 92;
const GPT_ENTRY_BYTES: usize = 128;
/// Twice what any tool makes.
const GPT_ENTRIES_MAX: usize = 256;
const MBR_LOGICAL_MAX: usize = 64;

/// What a partition says it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartitionKind {
    /// There is no table: a file system from the disk's first byte.
    WholeDisk,
    /// A GPT type, as its 16 bytes stand on the disk.
    Gpt([u8; 16]),
    /// An MBR type.
    Mbr(u8),
}

const EFI_SYSTEM: [u8; 16] = guid(0xc12a_7328, 0xf81f, 0x11d2, 0xba4b_00a0_c93e_c93b);
const BIOS_BOOT: [u8; 16] = guid(0x2168_6148, 0x6449, 0x6e6f, 0x744e_6565_6445_4649);
const LINUX_DATA: [u8; 16] = guid(0x0fc6_3daf, 0x8483, 0x4772, 0x8e79_3d69_d847_7de4);
const LINUX_ROOT: [u8; 16] = guid(0x4f68_bce3, 0xe8cd, 0x4db1, 0x96e7_fbca_f984_b709);
const LINUX_BOOT: [u8; 16] = guid(0xbc13_c2ff, 0x59e6, 0x4262, 0xa352_b275_fd6f_7172);
const LINUX_SWAP: [u8; 16] = guid(0x0657_fd6d, 0xa4ab, 0x43c4, 0x84e5_0933_c84b_4f4f);
const LINUX_LVM: [u8; 16] = guid(0xe6d6_d379, 0xf507, 0x44c2, 0xa23c_238f_2a3d_f928);

/// A GUID as it stands on a disk: the first three fields little-endian, the rest as it is written.
const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let (a, b, c, d) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes(), rest.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

impl PartitionKind {
    /// How likely the kernel is here; the least is tried first.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Gpt(LINUX_BOOT) => 0,
            Self::Gpt(LINUX_ROOT) | Self::WholeDisk => 1,
            Self::Gpt(LINUX_DATA) | Self::Mbr(0x83) => 2,
            _ => 3,
        }
    }
}

impl fmt::Display for PartitionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::WholeDisk => "whole disk",
            Self::Gpt(EFI_SYSTEM) | Self::Mbr(0xef) => "EFI system",
            Self::Gpt(BIOS_BOOT) => "BIOS boot",
            Self::Gpt(LINUX_DATA) | Self::Mbr(0x83) => "Linux",
            Self::Gpt(LINUX_ROOT) => "Linux root (x86-64)",
            Self::Gpt(LINUX_BOOT) => "Linux extended boot",
            Self::Gpt(LINUX_SWAP) | Self::Mbr(0x82) => "Linux swap",
            Self::Gpt(LINUX_LVM) | Self::Mbr(0x8e) => "Linux LVM",
            Self::Mbr(kind) => return write!(f, "type {kind:#04x}"),
            Self::Gpt(kind) => return write!(f, "type {:032x}", u128::from_le_bytes(kind)),
        };
        f.write_str(name)
    }
}

/// A range of the disk that may hold a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    /// Its number in the table, from 1; 0 is the whole disk.
    pub(super) number: u32,
    pub(super) kind: PartitionKind,
    pub(super) start_bytes: u64,
    pub(super) size_bytes: u64,
}

/// The partitions of a disk, in the order of its table; the disk itself if it has none.
///
/// # Errors
/// What the disk says when it cannot be read.
pub(super) fn partitions(disk: &dyn BlockBackend) -> io::Result<Vec<Partition>> {
    let mut sector = [0; SECTOR];
    if disk.size_bytes() < SECTOR_BYTES {
        return Ok(Vec::new());
    }
    disk.read_at(0, &mut sector)?;
    let whole = || {
        vec![Partition {
            number: 0,
            kind: PartitionKind::WholeDisk,
            start_bytes: 0,
            size_bytes: disk.size_bytes(),
        }]
    };
    if sector[510..] != [0x55, 0xaa] {
        return Ok(whole());
    }
    let entries = mbr_entries(&sector);
    if entries.iter().any(|entry| entry.kind == 0xee) {
        if let Some(found) = gpt(disk)? {
            return Ok(found);
        }
        return Ok(Vec::new());
    }
    let found = mbr(disk, &entries)?;
    // A boot sector of a bare file system has the same signature, and rubbish where the table would be.
    Ok(if found.is_empty() { whole() } else { found })
}

/// The partitions of the first GPT that is whole: the main one, else the one at the disk's end.
fn gpt(disk: &dyn BlockBackend) -> io::Result<Option<Vec<Partition>>> {
    let sectors = disk.size_bytes() / SECTOR_BYTES;
    for header_sector in [1, sectors.saturating_sub(1)] {
        if let Some(found) = gpt_at(disk, header_sector)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn gpt_at(disk: &dyn BlockBackend, header_sector: u64) -> io::Result<Option<Vec<Partition>>> {
    let mut header = [0; SECTOR];
    let sectors = disk.size_bytes() / SECTOR_BYTES;
    if header_sector >= sectors {
        return Ok(None);
    }
    disk.read_at(header_sector * SECTOR_BYTES, &mut header)?;
    let header_len = le32(&header, 12) as usize;
    if &header[..8] != GPT_SIGNATURE || !(GPT_HEADER_BYTES..=SECTOR).contains(&header_len) {
        return Ok(None);
    }
    let stated = le32(&header, 16);
    header[16..20].fill(0);
    if crc32fast::hash(&header[..header_len]) != stated || le64(&header, 24) != header_sector {
        return Ok(None);
    }
    let (table_sector, count) = (le64(&header, 72), le32(&header, 80) as usize);
    let entry_len = le32(&header, 84) as usize;
    if count > GPT_ENTRIES_MAX || entry_len != GPT_ENTRY_BYTES || table_sector >= sectors {
        return Ok(None);
    }
    let mut table = vec![0; count * entry_len];
    if disk.read_at(table_sector * SECTOR_BYTES, &mut table).is_err()
        || crc32fast::hash(&table) != le32(&header, 88)
    {
        return Ok(None);
    }
    let used = table.chunks_exact(entry_len).zip(1..).filter(|(entry, _)| entry[..16] != [0; 16]);
    let partitions = used.filter_map(|(entry, number)| {
        let mut kind = [0; 16];
        kind.copy_from_slice(&entry[..16]);
        let (first, last) = (le64(entry, 32), le64(entry, 40));
        let count = last.checked_sub(first)?.checked_add(1)?;
        partition(number, PartitionKind::Gpt(kind), first, count, sectors)
    });
    Ok(Some(partitions.collect()))
}

struct MbrEntry {
    kind: u8,
    first: u64,
    count: u64,
}

impl MbrEntry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

fn mbr_entries(sector: &[u8; SECTOR]) -> Vec<MbrEntry> {
    sector[446..510]
        .chunks_exact(16)
        .map(|entry| MbrEntry {
            kind: entry[4],
            first: u64::from(le32(entry, 8)),
            count: u64::from(le32(entry, 12)),
        })
        .collect()
}

fn mbr(disk: &dyn BlockBackend, entries: &[MbrEntry]) -> io::Result<Vec<Partition>> {
    let sectors = disk.size_bytes() / SECTOR_BYTES;
    let mut found = Vec::new();
    for (entry, number) in entries.iter().zip(1..) {
        if entry.kind != 0 && !entry.is_extended() {
            found.extend(partition(
                number,
                PartitionKind::Mbr(entry.kind),
                entry.first,
                entry.count,
                sectors,
            ));
        }
    }
    for extended in entries.iter().filter(|entry| entry.is_extended()) {
        logical(disk, extended.first, sectors, &mut found)?;
    }
    Ok(found)
}

/// Follows the chain of tables of an extended partition, each of which has one partition and the
/// place of the next table, both counted from different places.
fn logical(
    disk: &dyn BlockBackend,
    extended_first: u64,
    sectors: u64,
    found: &mut Vec<Partition>,
) -> io::Result<()> {
    let mut table_sector = extended_first;
    for number in 5..5 + MBR_LOGICAL_MAX {
        let mut sector = [0; SECTOR];
        if table_sector >= sectors {
            return Ok(());
        }
        disk.read_at(table_sector * SECTOR_BYTES, &mut sector)?;
        if sector[510..] != [0x55, 0xaa] {
            return Ok(());
        }
        let entries = mbr_entries(&sector);
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let (this, next) = (&entries[0], &entries[1]);
        if this.kind != 0 {
            let first = table_sector + this.first;
            found.extend(partition(number, PartitionKind::Mbr(this.kind), first, this.count, sectors));
        }
        if !next.is_extended() || next.first == 0 {
            return Ok(());
        }
        table_sector = extended_first + next.first;
    }
    Ok(())
}

/// A partition, if it begins within the disk and has any length; one that ends outside is cut.
fn partition(number: u32, kind: PartitionKind, first: u64, count: u64, sectors: u64) -> Option<Partition> {
    let count = count.min(sectors.checked_sub(first)?);
    (count > 0 && first > 0).then_some(Partition {
        number,
        kind,
        start_bytes: first * SECTOR_BYTES,
        size_bytes: count * SECTOR_BYTES,
    })
}
