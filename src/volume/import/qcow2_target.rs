//! A qcow2 image that is being written, by several threads: version 3, clusters of 64 KiB, nothing compressed.
//!
//! ```text
//!   0   header, written last
//!   1   L1 table, written at the end
//!   …   clusters of data and L2 tables, one after the other as they are needed
//!   …   refcount table and refcount blocks, written at the end: every cluster of the file has one owner
//! ```
//!
//! A cluster number is taken from a counter, so writers wait for each other only when one begins with an L2 table. The entries of a write stand
//! together in one L2 table and are written to the file at once, so memory is needed for the L1 table alone: 1 MiB for 64 TiB. A cluster
//! of zeroes is not there, and reads as zeroes because there is no backing file.
//!
//! Source: QEMU's `docs/interop/qcow2.txt`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ImportError;
use super::target::{Partial, Target, Writer, is_zero};
use crate::qcow2::MAGIC;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_LEN: usize = 1 << CLUSTER_BITS;
const VERSION: u32 = 3;
const HEADER_BYTES: u32 = 104;
/// An entry of the L1, an L2, or the refcount table.
const ENTRY: u64 = 8;
/// How many entries a table of one cluster has.
const ENTRIES: u64 = CLUSTER / ENTRY;
/// What an L2 table is about.
const TABLE_BYTES: u64 = ENTRIES * CLUSTER;
/// References are counted in 16 bits.
const REFCOUNT_ORDER: u32 = 4;
/// How many clusters a refcount block is about.
const COUNTED: u64 = CLUSTER / 2;
/// Of an entry: what it points at belongs to nobody else.
const ONE_OWNER: u64 = 1 << 63;

pub(super) struct Qcow2Target {
    partial: Partial,
    size_bytes: u64,
    /// The next cluster of the file that is nobody's.
    next: AtomicU64,
    /// For each L2 table its cluster, or zero.
    tables: Mutex<Vec<u64>>,
}

/// Where the parts that are written at the end are, in clusters.
struct Refcounts {
    table: u64,
    table_clusters: u64,
    blocks: u64,
    /// All clusters of the file.
    total: u64,
}

impl Refcounts {
    /// Those of a file with so many clusters before them. They count themselves as well.
    fn after(used: u64) -> Self {
        let mut blocks = 0;
        loop {
            let table_clusters = u64::div_ceil(blocks, ENTRIES);
            let total = used + table_clusters + blocks;
            let needed = total.div_ceil(COUNTED);
            if needed == blocks {
                return Self { table: used, table_clusters, blocks, total };
            }
            blocks = needed;
        }
    }
}

impl Qcow2Target {
    /// Begins an image in what is to be a file.
    pub(super) fn new(partial: Partial, size_bytes: u64) -> Self {
        let tables = size_bytes.div_ceil(TABLE_BYTES);
        let l1_clusters = (tables * ENTRY).div_ceil(CLUSTER);
        Self {
            partial,
            size_bytes,
            next: AtomicU64::new(1 + l1_clusters),
            tables: Mutex::new(vec![0; usize::try_from(tables).expect("at most 131,072")]),
        }
    }

    fn file(&self) -> &File {
        &self.partial.file
    }

    fn take(&self, clusters: u64) -> u64 {
        self.next.fetch_add(clusters, Ordering::Relaxed)
    }

    /// The cluster of an L2 table, which is made when it is first asked for.
    fn table(&self, index: u64) -> u64 {
        let mut tables = self.tables.lock().expect("nothing panics with it");
        let table = &mut tables[usize::try_from(index).expect("a table of the disk")];
        if *table == 0 {
            *table = self.take(1);
        }
        *table
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(CLUSTER), "units are whole clusters");
        let is_there: Vec<bool> = bytes.chunks(CLUSTER_LEN).map(|cluster| !is_zero(cluster)).collect();
        let count = is_there.iter().filter(|is_there| **is_there).count() as u64;
        if count == 0 {
            return Ok(());
        }
        let mut next = self.take(count);
        let mut entries = Vec::new();
        for run in is_there.chunk_by(|one, other| one == other) {
            let start = entries.len() / 8 * CLUSTER_LEN;
            if run[0] {
                let end = bytes.len().min(start + run.len() * CLUSTER_LEN);
                self.file().write_all_at(&bytes[start..end], next * CLUSTER)?;
            }
            for is_there in run {
                let entry = if *is_there { (next * CLUSTER) | ONE_OWNER } else { 0 };
                entries.extend(entry.to_be_bytes());
                next += u64::from(*is_there);
            }
        }
        let mut rest = &entries[..];
        let mut cluster = offset / CLUSTER;
        while !rest.is_empty() {
            let room = usize::try_from((ENTRIES - cluster % ENTRIES) * ENTRY).expect("at most a cluster");
            let (part, after) = rest.split_at(room.min(rest.len()));
            let place = self.table(cluster / ENTRIES) * CLUSTER + cluster % ENTRIES * ENTRY;
            self.file().write_all_at(part, place)?;
            (rest, cluster) = (after, cluster + part.len() as u64 / ENTRY);
        }
        Ok(())
    }

    /// Writes what is known only now, and gives the file its name.
    pub(super) fn finish(self) -> Result<(), ImportError> {
        let written = self.write_tables();
        written.map_err(|source| self.partial.write_failed(0, source))?;
        self.partial.finish()
    }

    fn write_tables(&self) -> io::Result<()> {
        let refcounts = Refcounts::after(self.next.load(Ordering::Relaxed));
        self.file().set_len(refcounts.total * CLUSTER)?;
        let first_block = refcounts.table + refcounts.table_clusters;
        let blocks = (0..refcounts.blocks).map(|block| (first_block + block) * CLUSTER);
        let table: Vec<u8> = blocks.flat_map(u64::to_be_bytes).collect();
        self.file().write_all_at(&table, refcounts.table * CLUSTER)?;
        for block in 0..refcounts.blocks {
            let counted = COUNTED.min(refcounts.total - block * COUNTED);
            let counts: Vec<u8> = (0..counted).flat_map(|_| 1u16.to_be_bytes()).collect();
            self.file().write_all_at(&counts, (first_block + block) * CLUSTER)?;
        }
        let tables = self.tables.lock().expect("nothing panics with it");
        let entry = |table: &u64| if *table == 0 { 0 } else { (table * CLUSTER) | ONE_OWNER };
        let l1: Vec<u8> = tables.iter().flat_map(|table| entry(table).to_be_bytes()).collect();
        self.file().write_all_at(&l1, CLUSTER)?;
        let l1_entries = u32::try_from(tables.len()).map_err(io::Error::other)?;
        self.file().write_all_at(&self.header(l1_entries, &refcounts)?, 0)
    }

    fn header(&self, l1_entries: u32, refcounts: &Refcounts) -> io::Result<Vec<u8>> {
        let table_clusters = u32::try_from(refcounts.table_clusters).map_err(io::Error::other)?;
        let mut header = MAGIC.to_vec();
        let mut field = |bytes: &[u8]| header.extend_from_slice(bytes);
        field(&VERSION.to_be_bytes());
        // No backing file: neither the place nor the length of its name.
        field(&[0; 12]);
        field(&CLUSTER_BITS.to_be_bytes());
        field(&self.size_bytes.to_be_bytes());
        // Not encrypted.
        field(&[0; 4]);
        field(&l1_entries.to_be_bytes());
        field(&CLUSTER.to_be_bytes());
        field(&(refcounts.table * CLUSTER).to_be_bytes());
        field(&table_clusters.to_be_bytes());
        // No snapshots, and no features of any kind.
        field(&[0; 12 + 3 * 8]);
        field(&REFCOUNT_ORDER.to_be_bytes());
        field(&HEADER_BYTES.to_be_bytes());
        Ok(header)
    }
}

impl Target for Qcow2Target {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, ImportError> {
        Ok(Box::new(self))
    }
}

impl Writer for &Qcow2Target {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ImportError> {
        Qcow2Target::write(self, offset, bytes).map_err(|source| self.partial.write_failed(offset, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_count_all_clusters_and_themselves() {
        for used in [2, 3, COUNTED - 2, COUNTED - 1, COUNTED, ENTRIES * COUNTED, 1 << 31] {
            let refcounts = Refcounts::after(used);
            assert_eq!(refcounts.total, used + refcounts.table_clusters + refcounts.blocks);
            assert!(refcounts.blocks * COUNTED >= refcounts.total);
            assert!((refcounts.blocks - 1) * COUNTED < refcounts.total, "none too many of {used}");
            assert!(refcounts.table_clusters * ENTRIES >= refcounts.blocks);
        }
    }
}
