//! Which parts of a disk hold anything: what copies leave out, and what clients of the NBD server ask for.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::backend::{BlockBackend, SECTOR_BYTES};

/// What stands somewhere on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Anything, maybe zeroes.
    Data,
    /// It reads as zeroes, and may take space.
    Zeroes,
    /// It reads as zeroes and takes no space.
    Hole,
}

/// A part of a disk that is one thing throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub content: Content,
    /// In bytes; a multiple of [`SECTOR_BYTES`], and not zero.
    pub len: u64,
}

impl Extent {
    pub(crate) fn new(content: Content, len: u64) -> Self {
        Self { content, len }
    }
}

/// The extents of a range, in order: neighbours differ. Ends with the first error.
pub fn extents(
    disk: &dyn BlockBackend,
    offset: u64,
    len: u64,
) -> impl Iterator<Item = io::Result<(u64, Extent)>> {
    let end = offset + len;
    let mut next = offset;
    let mut ahead: Option<Extent> = None;
    std::iter::from_fn(move || {
        let start = next;
        let mut extent = match ahead.take() {
            Some(extent) => extent,
            None if start < end => match disk.extent(start, end - start) {
                Ok(extent) => extent,
                Err(error) => {
                    next = end;
                    return Some(Err(error));
                }
            },
            None => return None,
        };
        while start + extent.len < end {
            // An error is told when it is its turn.
            match disk.extent(start + extent.len, end - start - extent.len) {
                Ok(more) if more.content == extent.content => extent.len += more.len,
                Ok(other) => {
                    ahead = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        next = start + extent.len;
        Some(Ok((start, extent)))
    })
}

/// What of a file is a hole, as far as its file system tells; what is beyond its end is one.
pub(crate) fn file_extent(file: &File, offset: u64, len: u64) -> Extent {
    let seek = |whence| match i64::try_from(offset) {
        Ok(offset) => lseek(file, offset, whence).map(|found| u64::try_from(found).unwrap_or(u64::MAX)),
        Err(_) => Err(Errno::EOVERFLOW),
    };
    // A sector that is in part a hole is data.
    match seek(Whence::SeekData).map(|data| data - data % SECTOR_BYTES) {
        Ok(data) if data > offset => Extent::new(Content::Hole, len.min(data - offset)),
        Ok(_) => {
            let hole = seek(Whence::SeekHole).map_or(u64::MAX, |hole| hole.next_multiple_of(SECTOR_BYTES));
            Extent::new(Content::Data, len.min(hole.saturating_sub(offset)).max(SECTOR_BYTES))
        }
        Err(Errno::ENXIO) => Extent::new(Content::Hole, len),
        Err(_) => Extent::new(Content::Data, len),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::testing::FakeDisk;

    #[test]
    fn extents_of_a_disk_are_in_order_and_neighbours_differ() {
        let mut bytes = vec![0; 16 * 512];
        bytes[512..3 * 512].fill(1);
        bytes[15 * 512] = 1;
        let disk = FakeDisk::new(bytes);
        let found: Vec<_> = extents(&disk, 0, 16 * 512).map(Result::unwrap).collect();
        let hole = |sectors: u64| Extent::new(Content::Hole, sectors * 512);
        let data = |sectors: u64| Extent::new(Content::Data, sectors * 512);
        assert_eq!(found, [(0, hole(1)), (512, data(2)), (1536, hole(12)), (15 * 512, data(1))]);
        assert_eq!(extents(&disk, 512, 512).map(Result::unwrap).collect::<Vec<_>>(), [(512, data(1))]);
        assert_eq!(extents(&disk, 512, 0).count(), 0);
        disk.fail(2048..2560, libc::EIO);
        let results: Vec<_> = extents(&disk, 0, 16 * 512).map(|extent| extent.is_ok()).collect();
        assert_eq!(results, [true, true, true, false], "and nothing after an error");
    }

    #[test]
    fn a_files_holes_are_told_in_whole_sectors() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len((4 << 20) + 100).unwrap();
        file.write_all_at(&[1; 700], 1 << 20).unwrap();
        let hole = file_extent(&file, 0, 5 << 20);
        assert_eq!(hole, Extent::new(Content::Hole, 1 << 20));
        let data = file_extent(&file, 1 << 20, 4 << 20);
        assert!(
            data.content == Content::Data && data.len >= 1024 && data.len.is_multiple_of(512),
            "{data:?}"
        );
        assert_eq!(file_extent(&file, 4 << 20, 512), Extent::new(Content::Hole, 512));
        assert_eq!(file_extent(&file, 8 << 20, 512), Extent::new(Content::Hole, 512));
    }
}
