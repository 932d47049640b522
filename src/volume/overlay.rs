//! A temporary layer of writes over a disk that stays as it was.
//!
//! ```text
//!   sector         0  1  2  3  4  5  6  7  8        size of the base │ size of the overlay
//!   top (sparse)         W  W           W                            │ (reads as zeroes)
//!   map            0  0  1  1  0  0  0  1  0                         │ 1  1  1 …
//!   base           B  B  ·  ·  B  B  B  ·  B                         │
//! ```
//!
//! The top is a nameless file, gone with its last descriptor. What was written stands in it at its own
//! offset, so the host's file system is the allocator, and there is no table on disk. The map says of
//! each sector whether the top holds it; it is wholly in memory, one bit for 512 bytes.
//!
//! Its unit is the sector because that is the unit of requests: whatever the guest writes, nothing has
//! to be read first, copied, or kept in order against other queues. The price, 1/4096 of the disk
//! where it was written (the words of the map are given by the kernel on first touch), is right for a
//! layer that lives as long as one machine.
//!
//! Invariants: a bit is set only after what it stands for was written, and before the guest hears of
//! it; bits are never cleared; the base is never written. So a reader that sees a bit finds the data,
//! and one that does not was concurrent with the writer.
//!
//! A flush does nothing, because nobody can open the top after a crash. Volumes that last
//! ([`layered`](crate::layered)) keep their map on disk, in blocks of 4 KiB, have many layers, and seal them.

mod map;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{BlockBackend, BlockQueue, Extent, SECTOR_BYTES};
use crate::extents::file_extent;
use crate::queue::{Abilities, Layout, Queue};
use crate::raw::{Raw, RawFile, check_range, read_to_end};
use crate::sys::{FileIndex, InPlace, RingFile, transfers_in_place};
use map::SectorMap;

const BASE: FileIndex = 0;
const TOP: FileIndex = 1;

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    #[error("cannot make a temporary file in {folder}")]
    Create { folder: PathBuf, source: io::Error },
    #[error("cannot give a temporary layer its size of {size_bytes} bytes")]
    Resize { size_bytes: u64, source: io::Error },
    #[error(
        "the disk has {base_bytes} bytes, so it cannot be shown as one of {size_bytes}; it can only grow"
    )]
    TooSmall { base_bytes: u64, size_bytes: u64 },
}

/// A disk whose writes are forgotten when it is closed.
#[derive(Debug, Clone)]
pub struct Overlay(Arc<Layers>);

#[derive(Debug)]
struct Layers {
    base: Arc<Raw>,
    top: File,
    top_in_place: InPlace,
    size_bytes: u64,
    map: SectorMap,
    abilities: Abilities,
}

impl Overlay {
    /// Lays a temporary layer in `folder` over `base`. With `size_bytes` larger than the base's the
    /// guest sees a larger disk, zeroes at its end, that it may grow into.
    ///
    /// # Errors
    /// [`OverlayError`], when there is no space or the size is less than the base's.
    pub fn create(base: &RawFile, folder: &Path, size_bytes: Option<u64>) -> Result<Self, OverlayError> {
        let size_bytes = checked_size(base, size_bytes)?;
        let top = nameless_file(folder, size_bytes)
            .map_err(|source| OverlayError::Create { folder: folder.to_owned(), source })?;
        Ok(Self::new(base, top, size_bytes))
    }

    /// As [`create`](Self::create), with the layer in `top`, an empty file that is open for reading and
    /// writing.
    ///
    /// # Errors
    /// As for `create`.
    pub fn with_top(base: &RawFile, top: File, size_bytes: Option<u64>) -> Result<Self, OverlayError> {
        let size_bytes = checked_size(base, size_bytes)?;
        top.set_len(size_bytes).map_err(|source| OverlayError::Resize { size_bytes, source })?;
        Ok(Self::new(base, top, size_bytes))
    }

    fn new(base: &RawFile, top: File, size_bytes: u64) -> Self {
        Self(Arc::new(Layers {
            base: Arc::clone(base.raw()),
            top_in_place: transfers_in_place(top.as_fd()),
            top,
            size_bytes,
            map: SectorMap::new(base.size_bytes() / SECTOR_BYTES),
            abilities: Abilities::default(),
        }))
    }
}

fn checked_size(base: &RawFile, wanted: Option<u64>) -> Result<u64, OverlayError> {
    let base_bytes = base.size_bytes();
    let size_bytes = wanted.unwrap_or(base_bytes);
    let size_bytes = size_bytes.checked_next_multiple_of(SECTOR_BYTES).ok_or_else(|| {
        OverlayError::Resize { size_bytes, source: io::Error::from_raw_os_error(libc::EFBIG) }
    })?;
    if size_bytes < base_bytes {
        return Err(OverlayError::TooSmall { base_bytes, size_bytes });
    }
    Ok(size_bytes)
}

/// A file without a name, in `folder`.
fn nameless_file(folder: &Path, size_bytes: u64) -> io::Result<File> {
    let nameless =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder);
    match nameless {
        Ok(file) => file.set_len(size_bytes).map(|()| file),
        // Some file systems, 9p among them, make only files with names: have one for a moment.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            named_for_a_moment(folder, size_bytes)
        }
        Err(error) => Err(error),
    }
}

fn named_for_a_moment(folder: &Path, size_bytes: u64) -> io::Result<File> {
    let process = std::process::id();
    for attempt in 0..1000 {
        let path = folder.join(format!(".overlay-{process}-{attempt}"));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                // While it has its name, for over 9p a file without one cannot get a size.
                let sized = file.set_len(size_bytes);
                std::fs::remove_file(&path)?;
                return sized.map(|()| file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

impl BlockBackend for Overlay {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue::new(Arc::clone(&self.0), depth)?))
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        check_range(offset, buffer.len(), self.0.size_bytes)?;
        while !buffer.is_empty() {
            let (file, run) = self.0.run(offset, buffer.len() as u64);
            let (part, rest) = buffer.split_at_mut(usize::try_from(run).expect("at most the buffer"));
            if file == BASE {
                self.0.base.read_at(offset, part)?;
            } else {
                read_to_end(&self.0.top, offset, part)?;
            }
            offset += run;
            buffer = rest;
        }
        Ok(())
    }

    fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let (file, run) = self.0.run(offset, len);
        Ok(if file == BASE { self.0.base.extent(offset, run) } else { file_extent(&self.0.top, offset, run) })
    }
}

impl Layout for Layers {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn files(&self) -> Vec<RingFile<'_>> {
        let top = RingFile { fd: self.top.as_fd(), direct_alignment: None, in_place: self.top_in_place };
        vec![self.base.ring_file(), top]
    }

    fn run(&self, offset: u64, len: u64) -> (FileIndex, u64) {
        if offset >= self.base.size_bytes() {
            return (TOP, len);
        }
        let sector = offset / SECTOR_BYTES;
        let (held, sectors) = self.map.run(sector, (offset + len).div_ceil(SECTOR_BYTES) - sector);
        let end = (sector + sectors) * SECTOR_BYTES;
        (if held { TOP } else { BASE }, u64::min(end - offset, len))
    }

    fn top(&self) -> FileIndex {
        TOP
    }

    fn written(&self, offset: u64, len: u64) {
        self.map.insert(offset / SECTOR_BYTES, len / SECTOR_BYTES);
    }

    fn survives_crashes(&self) -> bool {
        false
    }

    fn top_abilities(&self) -> &Abilities {
        &self.abilities
    }
}
