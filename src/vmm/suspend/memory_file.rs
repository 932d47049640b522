//! The guest's RAM as a sparse file.
//!
//! ```text
//! 0          RAM below the hole, then RAM from 4 GiB on, without a gap; zeroes are holes
//! RAM bytes  nimbomem (8 bytes), the suspension's name (16), zeroes up to a page
//! ```

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::SuspendError;
use crate::memory::GuestRam;

const MAGIC: [u8; 8] = *b"nimbomem";
const PAGE_BYTES: usize = 4096;
static ZEROES: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Whether the file is one of `ram_bytes` that belongs to the suspension `name`.
pub(super) fn check(file: &File, ram_bytes: u64, name: u128) -> Result<(), SuspendError> {
    let read = |source| SuspendError::Memory { operation: "read", source };
    let bytes = file.metadata().map_err(read)?.len();
    let expected = ram_bytes.saturating_add(ZEROES.len() as u64);
    if bytes != expected {
        return Err(SuspendError::MemoryLength { bytes, expected });
    }
    let mut page = ZEROES;
    file.read_exact_at(&mut page, ram_bytes).map_err(read)?;
    if page == label(name) { Ok(()) } else { Err(SuspendError::OtherMemory) }
}

/// The page behind the RAM.
fn label(name: u128) -> [u8; PAGE_BYTES] {
    let mut page = ZEROES;
    page[..8].copy_from_slice(&MAGIC);
    page[8..24].copy_from_slice(&name.to_le_bytes());
    page
}

/// Writes the RAM of a guest that stands still; it is durable when this returns.
pub(super) fn write(ram: &GuestRam, name: u128, file: &File) -> io::Result<()> {
    // What was there is gone before there is anything else.
    file.set_len(0)?;
    let mut offset = 0;
    for region in ram.iter() {
        write_region(region, file, offset)?;
        offset += region.len();
    }
    file.write_all_at(&label(name), offset)?;
    file.sync_all()
}

fn write_region(region: &GuestRegionMmap, file: &File, offset: u64) -> io::Result<()> {
    // SAFETY: the region is mapped for as long as the process lives; no CPU runs and no worker touches it, so nobody writes.
    let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), region.size()) };
    let mut at = 0;
    while let Some(data) = next_data(region, at)? {
        let mut from = data.start;
        for page in data.clone().step_by(PAGE_BYTES) {
            if bytes[page..page + PAGE_BYTES] == ZEROES {
                file.write_all_at(&bytes[from..page], offset + from as u64)?;
                from = page + PAGE_BYTES;
            }
        }
        file.write_all_at(&bytes[from..data.end], offset + from as u64)?;
        at = data.end;
    }
    Ok(())
}

/// The next whole pages from `at` on that are worth a look. Of shared memory the host knows which it has never given; to read those
/// would have it give them. Private pages that were never touched all read from one page of zeroes.
fn next_data(region: &GuestRegionMmap, at: usize) -> io::Result<Option<Range<usize>>> {
    let size = region.size();
    if at >= size {
        return Ok(None);
    }
    let Some(place) = region.file_offset() else { return Ok(Some(at..size)) };
    let seek = |from: usize, whence| {
        let from = place.start() + from as u64;
        // SAFETY: no memory is touched.
        let found = unsafe { libc::lseek(place.file().as_raw_fd(), from.cast_signed(), whence) };
        match u64::try_from(found) {
            Ok(found) => {
                let within = usize::try_from(found - place.start()).unwrap_or(size);
                Ok(Some((within / PAGE_BYTES * PAGE_BYTES).min(size)))
            }
            Err(_) => match io::Error::last_os_error() {
                nothing if nothing.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                error => Err(error),
            },
        }
    };
    let Some(start) = seek(at, libc::SEEK_DATA)?.filter(|&start| start < size) else { return Ok(None) };
    Ok(Some(start..seek(start, libc::SEEK_HOLE)?.unwrap_or(size)))
}
