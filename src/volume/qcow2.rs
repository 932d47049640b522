//! A reader of qcow2 images, versions 2 and 3, for [`import`](crate::import()).
//!
//! ```text
//!   guest offset ─▶ L1 table ─▶ L2 table ─▶ cluster │ zeroes │ compressed cluster │ nothing
//!
//!   L2 entry   63 one owner │ 62 compressed │ 55…9 offset in the file │ 0 reads as zeroes
//!   compressed 62 set │ sectors after the first │ offset, any byte
//! ```
//!
//! Tables are read as they are needed, one at a time for each thread, so memory is bounded by the
//! size of a cluster whatever the image says. Every offset is checked against the file's length; what
//! does not fit is an error with its place, never a panic.
//!
//! Refused, each with its remedy: backing files, encryption, external data files, extended L2
//! entries, images marked as corrupt or as not closed properly. Snapshots inside of the image are
//! passed over: what is imported is its present state.
//!
//! Source: QEMU's `docs/interop/qcow2.txt`.

#[cfg(test)]
pub(crate) mod tests;

use std::io::Read;

use flate2::{Decompress, FlushDecompress};

use crate::import::{Image, ImportError, check_size};
use crate::raw::read_to_end;

pub(crate) const MAGIC: &[u8; 4] = b"QFI\xfb";

const HEADER_BYTES: usize = 112;
const HEADER_BYTES_VERSION_3: u32 = 104;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZEROES: u64 = 1;

/// Features whose images cannot be read by who does not know them.
mod incompatible {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Deflate,
    Zstd,
}

/// An image whose header was found good.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    image: Image,
    file_bytes: u64,
    size_bytes: u64,
    cluster_bits: u32,
    l1_offset: u64,
    has_zero_flag: bool,
    compression: Compression,
}

/// Takes bytes of the disk, with their offset.
pub(crate) type WriteAt<'a> = dyn FnMut(u64, &[u8]) -> Result<(), ImportError> + 'a;

/// One thread's way through an image.
pub(crate) struct Reader<'a> {
    qcow2: &'a Qcow2,
    /// The L2 table that was used last, by its place in the L1 table; none if the image has none.
    table: Option<(u64, Option<Vec<u8>>)>,
    cluster: Vec<u8>,
    packed: Vec<u8>,
}

/// Where a cluster's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    Zeroes,
    Plain { offset: u64 },
    Packed { offset: u64, len: usize },
}

impl Qcow2 {
    /// Reads and checks the header.
    pub(crate) fn open(image: Image) -> Result<Self, ImportError> {
        const CONVERT: &str = "convert it with `qemu-img convert -O qcow2`";
        const REPAIR: &str = "repair it with `qemu-img check -r all`";
        let file_bytes = image.file.metadata().map_err(|source| image.read_failed(0, source))?.len();
        let mut header = [0; HEADER_BYTES];
        read_to_end(&image.file, 0, &mut header).map_err(|source| image.read_failed(0, source))?;
        let version = be32(&header, 4);
        if !(2..=3).contains(&version) {
            return Err(image.unsupported("a QCOW of an unknown version", CONVERT));
        }
        if be64(&header, 8) != 0 {
            return Err(image.unsupported("a qcow2 that needs a backing file", CONVERT));
        }
        if be32(&header, 32) != 0 {
            return Err(image.unsupported("an encrypted qcow2", CONVERT));
        }
        let features = if version == 3 { be64(&header, 72) } else { 0 };
        for (bit, what, remedy) in [
            (incompatible::CORRUPT, "a qcow2 that is marked as corrupt", REPAIR),
            (incompatible::DIRTY, "a qcow2 that was not closed properly", REPAIR),
            (incompatible::EXTERNAL_DATA, "a qcow2 whose data is in another file", CONVERT),
            (incompatible::EXTENDED_L2, "a qcow2 with extended L2 entries", CONVERT),
            (!incompatible::KNOWN, "a qcow2 with unknown features", CONVERT),
        ] {
            if features & bit != 0 {
                return Err(image.unsupported(what, remedy));
            }
        }
        let has_compression_type = features & incompatible::COMPRESSION_TYPE != 0;
        if has_compression_type && be32(&header, 100) <= HEADER_BYTES_VERSION_3 {
            return Err(image.corrupt(100, "the header ends before its compression type"));
        }
        let compression = match (has_compression_type, header[104]) {
            (false, _) | (true, 0) => Compression::Deflate,
            (true, 1) => Compression::Zstd,
            _ => return Err(image.unsupported("a qcow2 with an unknown compression", CONVERT)),
        };
        let cluster_bits = be32(&header, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(image.corrupt(20, "the size of a cluster"));
        }
        let size_bytes = be64(&header, 24);
        check_size(&image, size_bytes)?;
        let this = Self {
            file_bytes,
            size_bytes: size_bytes.next_multiple_of(crate::SECTOR_BYTES),
            cluster_bits,
            l1_offset: be64(&header, 40),
            has_zero_flag: version == 3,
            compression,
            image,
        };
        this.check_tables(u64::from(be32(&header, 36)))?;
        Ok(this)
    }

    fn check_tables(&self, l1_entries: u64) -> Result<(), ImportError> {
        let needed = self.size_bytes.div_ceil(self.cluster_bytes() << (self.cluster_bits - 3));
        if l1_entries < needed {
            return Err(self.image.corrupt(36, "the L1 table is too short for the disk"));
        }
        let end = self.l1_offset.checked_add(needed * 8);
        if end.is_none_or(|end| end > self.file_bytes) {
            return Err(self
                .image
                .corrupt(40, "the L1 table is outside the file, which may have been cut short"));
        }
        Ok(())
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { qcow2: self, table: None, cluster: Vec::new(), packed: Vec::new() }
    }

    /// Whether the clusters that are neither missing nor zeroes are more than `limit_bytes` together; one
    /// that is used twice counts twice.
    pub(crate) fn maps_more_than(&self, limit_bytes: u64) -> Result<bool, ImportError> {
        let reader = self.reader();
        let table_bytes = self.cluster_bytes() << (self.cluster_bits - 3);
        let mut mapped_bytes = 0;
        for l1_index in 0..self.size_bytes.div_ceil(table_bytes) {
            let Some(table) = reader.load(l1_index)? else { continue };
            for entry in table.as_chunks().0 {
                let cluster = self.cluster(u64::from_be_bytes(*entry), self.l1_offset + l1_index * 8)?;
                mapped_bytes += if cluster == Cluster::Zeroes { 0 } else { self.cluster_bytes() };
            }
            if mapped_bytes > limit_bytes {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// What an L2 entry, which stands at `place`, says.
    fn cluster(&self, entry: u64, place: u64) -> Result<Cluster, ImportError> {
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (self.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
            let len = (sectors + 1) * crate::SECTOR_BYTES - offset % crate::SECTOR_BYTES;
            // The last sector need not be there in full.
            let len = len.min(self.file_bytes.saturating_sub(offset));
            if len == 0 {
                return Err(self.image.corrupt(
                    place,
                    "a compressed cluster is outside the file, which may have been cut short",
                ));
            }
            let len = usize::try_from(len).expect("a few megabytes at most");
            return Ok(Cluster::Packed { offset, len });
        }
        let offset = entry & OFFSET_MASK;
        if self.has_zero_flag && entry & READS_AS_ZEROES != 0 || offset == 0 {
            return Ok(Cluster::Zeroes);
        }
        // The file may end within its last cluster, which reads as zeroes from there on.
        if !offset.is_multiple_of(self.cluster_bytes()) || offset >= self.file_bytes {
            return Err(self.image.corrupt(
                place,
                "a cluster is not aligned or outside the file, which may have been cut short",
            ));
        }
        Ok(Cluster::Plain { offset })
    }
}

impl Reader<'_> {
    /// Hands what the disk holds in a range, whose bounds are multiples of the largest cluster or the
    /// disk's end, to `write`, with its offset; zeroes are left out. `buffer` is as long as the range
    /// at least.
    pub(crate) fn copy(
        &mut self,
        offset: u64,
        len: u64,
        buffer: &mut [u8],
        write: &mut WriteAt<'_>,
    ) -> Result<(), ImportError> {
        let step = self.qcow2.cluster_bytes();
        let end = offset + len;
        let mut at = offset;
        while at < end {
            match self.lookup(at)? {
                Cluster::Zeroes => at += step,
                Cluster::Packed { offset, len } => {
                    self.unpack(offset, len)?;
                    let wanted = usize::try_from(step.min(end - at)).expect("a cluster at most");
                    write(at, &self.cluster[..wanted])?;
                    at += step;
                }
                Cluster::Plain { offset } => {
                    // Clusters that follow each other in the file too are read at once.
                    let mut count = 1;
                    while at + count * step < end
                        && self.lookup(at + count * step)?
                            == (Cluster::Plain { offset: offset + count * step })
                    {
                        count += 1;
                    }
                    let wanted = usize::try_from((count * step).min(end - at)).expect("a range at most");
                    let part = &mut buffer[..wanted];
                    read_to_end(&self.qcow2.image.file, offset, part)
                        .map_err(|source| self.qcow2.image.read_failed(offset, source))?;
                    write(at, part)?;
                    at += count * step;
                }
            }
        }
        Ok(())
    }

    fn lookup(&mut self, at: u64) -> Result<Cluster, ImportError> {
        let qcow2 = self.qcow2;
        let index = at >> qcow2.cluster_bits;
        let table_bits = qcow2.cluster_bits - 3;
        let (l1_index, l2_index) = (index >> table_bits, index & ((1 << table_bits) - 1));
        if self.table.as_ref().is_none_or(|(loaded, _)| *loaded != l1_index) {
            self.table = Some((l1_index, self.load(l1_index)?));
        }
        let Some((_, Some(table))) = &self.table else { return Ok(Cluster::Zeroes) };
        let offset = usize::try_from(l2_index * 8).expect("less than a cluster");
        qcow2.cluster(be64(table, offset), qcow2.l1_offset + l1_index * 8)
    }

    /// The L2 table that an L1 entry points to, if it does.
    fn load(&self, l1_index: u64) -> Result<Option<Vec<u8>>, ImportError> {
        let Qcow2 { image, l1_offset, file_bytes, .. } = self.qcow2;
        let place = l1_offset + l1_index * 8;
        let mut entry = [0; 8];
        read_to_end(&image.file, place, &mut entry).map_err(|source| image.read_failed(place, source))?;
        let offset = u64::from_be_bytes(entry) & OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        let len = self.qcow2.cluster_bytes();
        if !offset.is_multiple_of(len) || offset + len > *file_bytes {
            return Err(image.corrupt(
                place,
                "an L2 table is not aligned or outside the file, which may have been cut short",
            ));
        }
        let mut table = vec![0; usize::try_from(len).expect("a few megabytes at most")];
        read_to_end(&image.file, offset, &mut table).map_err(|source| image.read_failed(offset, source))?;
        Ok(Some(table))
    }

    /// Unpacks a compressed cluster into `self.cluster`.
    fn unpack(&mut self, offset: u64, len: usize) -> Result<(), ImportError> {
        let image = &self.qcow2.image;
        self.packed.resize(len, 0);
        read_to_end(&image.file, offset, &mut self.packed)
            .map_err(|source| image.read_failed(offset, source))?;
        self.cluster.resize(1 << self.qcow2.cluster_bits, 0);
        let is_whole = match self.qcow2.compression {
            // What follows the data in its last sector belongs to others, so both stop when the
            // cluster is full.
            Compression::Deflate => {
                let mut decoder = Decompress::new(false);
                let outcome = decoder.decompress(&self.packed, &mut self.cluster, FlushDecompress::Finish);
                outcome.is_ok() && decoder.total_out() == self.cluster.len() as u64
            }
            Compression::Zstd => zstd::stream::read::Decoder::with_buffer(&self.packed[..])
                .and_then(|mut decoder| decoder.read_exact(&mut self.cluster))
                .is_ok(),
        };
        if is_whole {
            Ok(())
        } else {
            Err(image.corrupt(offset, "a compressed cluster is not whole; the file may have been cut short"))
        }
    }
}

fn be32(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_be_bytes(field)
}

fn be64(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_be_bytes(field)
}
