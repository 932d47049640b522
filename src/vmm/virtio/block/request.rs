//! What a guest asks of its disk, read from a descriptor chain and checked.

use volume::{IoBuffer, SECTOR_BYTES};

use super::{RANGE_SECTORS_MAX, feature};
use crate::virtio::Buffers;

const HEADER_BYTES: usize = 16;
const RANGE_BYTES: usize = 16;

/// Request types (virtio 1.2, 5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// A range's flag: the space may be given back.
const UNMAP: u32 = 1;

/// What the device says of a request (virtio 1.2, 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

impl Status {
    pub(super) fn byte(self) -> u8 {
        match self {
            Status::Ok => 0,
            Status::IoError => 1,
            Status::Unsupported => 2,
        }
    }
}

/// What a request is checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub(super) size_bytes: u64,
    /// What offsets and lengths are multiples of.
    pub(super) block_bytes: u64,
    pub(super) is_read_only: bool,
    /// The features that the driver negotiated.
    pub(super) features: u64,
}

/// A sound request. Offsets and lengths are in bytes, whole blocks, and within the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Into all the writable buffers.
    Read {
        offset: u64,
    },
    /// From all the readable buffers.
    Write {
        offset: u64,
    },
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
        may_unmap: bool,
    },
    /// The disk's serial number, into the writable buffers.
    Id,
}

/// A chain of the form of a request.
#[derive(Debug)]
pub(super) struct Parsed {
    /// Where the status goes.
    pub(super) status: IoBuffer,
    /// The request, or the status that refuses it.
    pub(super) request: Result<Request, Status>,
}

/// Takes header and status off `buffers`, which then hold the request's data alone.
///
/// # Errors
/// The reason why the chain has not the form of a request.
pub(super) fn parse(buffers: &mut Buffers, disk: &Disk) -> Result<Parsed, &'static str> {
    let header: [u8; HEADER_BYTES] = buffers.take_front().ok_or("it is too short for a request's header")?;
    let status = buffers.take_last_byte().ok_or("it has no byte for the status")?;
    let (kind, rest) = header.split_at(4);
    let sector = u64_at(rest, 4);
    let (must_read_only, must_write_only) = match u32_at(kind, 0) {
        IN | GET_ID => (true, false),
        OUT | DISCARD | WRITE_ZEROES => (false, true),
        _ => (false, false),
    };
    if must_read_only && buffers.readable_bytes() > 0 {
        return Err("the data of a request that reads cannot be written by the device");
    }
    if must_write_only && buffers.writable_bytes() > 0 {
        return Err("the data of a request that writes cannot be read by the device");
    }
    let request = match u32_at(kind, 0) {
        IN => disk
            .range(sector, u64::from(buffers.writable_bytes()))
            .map(|(offset, _)| Request::Read { offset }),
        OUT => disk
            .writable()
            .and_then(|()| disk.range(sector, u64::from(buffers.readable_bytes())))
            .map(|(offset, _)| Request::Write { offset }),
        FLUSH => Ok(Request::Flush),
        GET_ID => Ok(Request::Id),
        DISCARD if disk.features & feature::DISCARD != 0 => discard(buffers, disk),
        WRITE_ZEROES if disk.features & feature::WRITE_ZEROES != 0 => write_zeroes(buffers, disk),
        _ => Err(Status::Unsupported),
    };
    Ok(Parsed { status, request })
}

fn discard(buffers: &mut Buffers, disk: &Disk) -> Result<Request, Status> {
    let range = Range::take(buffers)?;
    if range.flags != 0 {
        return Err(Status::Unsupported);
    }
    let (offset, len) = range.within(disk)?;
    Ok(Request::Discard { offset, len })
}

fn write_zeroes(buffers: &mut Buffers, disk: &Disk) -> Result<Request, Status> {
    let range = Range::take(buffers)?;
    if range.flags & !UNMAP != 0 {
        return Err(Status::Unsupported);
    }
    let (offset, len) = range.within(disk)?;
    Ok(Request::WriteZeroes { offset, len, may_unmap: range.flags & UNMAP != 0 })
}

/// The one range of a discard or write-zeroes: `sector: u64, sectors: u32, flags: u32`.
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Range {
    /// The device offers one range for each request; more, or part of one, it cannot serve.
    fn take(buffers: &mut Buffers) -> Result<Self, Status> {
        let bytes: [u8; RANGE_BYTES] = buffers.take_front().ok_or(Status::IoError)?;
        if buffers.readable_bytes() > 0 {
            return Err(Status::IoError);
        }
        Ok(Range { sector: u64_at(&bytes, 0), sectors: u32_at(&bytes, 8), flags: u32_at(&bytes, 12) })
    }

    fn within(&self, disk: &Disk) -> Result<(u64, u64), Status> {
        disk.writable()?;
        if self.sectors > RANGE_SECTORS_MAX {
            return Err(Status::IoError);
        }
        disk.range(self.sector, u64::from(self.sectors) * SECTOR_BYTES)
    }
}

impl Disk {
    fn writable(&self) -> Result<(), Status> {
        if self.is_read_only { Err(Status::IoError) } else { Ok(()) }
    }

    /// `len` bytes from `sector` on, as offset and length, if they are whole blocks of this disk.
    fn range(&self, sector: u64, len: u64) -> Result<(u64, u64), Status> {
        let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Status::IoError)?;
        let end = offset.checked_add(len).ok_or(Status::IoError)?;
        let is_whole = offset.is_multiple_of(self.block_bytes) && len.is_multiple_of(self.block_bytes);
        if end > self.size_bytes || !is_whole {
            return Err(Status::IoError);
        }
        Ok((offset, len))
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}
