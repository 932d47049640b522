//! The numbers of the protocol, and its messages as bytes. All integers are big-endian.

use std::io;

/// What the server says first.
pub(super) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// What options begin with, and the second word of the greeting.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Flags of the handshake, which the server sends and the client repeats.
pub(super) mod handshake_flag {
    pub(in crate::nbd) const FIXED_NEWSTYLE: u16 = 1;
    pub(in crate::nbd) const NO_ZEROES: u16 = 1 << 1;
}

pub(super) mod option {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const INFO: u32 = 6;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

pub(super) mod option_reply {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const SERVER: u32 = 2;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const META_CONTEXT: u32 = 4;
    pub(in crate::nbd) const ERR_UNSUPPORTED: u32 = (1 << 31) + 1;
    pub(in crate::nbd) const ERR_INVALID: u32 = (1 << 31) + 3;
    pub(in crate::nbd) const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub(in crate::nbd) const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// The metadata context that tells which parts of an export hold anything, and the number that this server gives it.
pub(super) const ALLOCATION: &str = "base:allocation";
pub(super) const ALLOCATION_ID: u32 = 1;

/// What it tells of a part.
pub mod allocation_flag {
    pub const HOLE: u32 = 1;
    pub const ZERO: u32 = 1 << 1;
}

/// What `INFO` and `GO` tell of an export.
pub(super) mod info {
    pub(in crate::nbd) const EXPORT: u16 = 0;
    pub(in crate::nbd) const NAME: u16 = 1;
    pub(in crate::nbd) const BLOCK_SIZE: u16 = 3;
}

pub mod transmission_flag {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

pub mod command_flag {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
}

mod chunk_type {
    pub(super) const NONE: u16 = 0;
    pub(super) const OFFSET_DATA: u16 = 1;
    pub(super) const BLOCK_STATUS: u16 = 5;
    pub(super) const ERROR: u16 = (1 << 15) + 1;
}

const CHUNK_IS_LAST: u16 = 1;

/// The errors that a reply may have; the protocol gives them numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Error {
    NotPermitted = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
    Unsupported = 95,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EROFS | libc::EACCES) => Error::NotPermitted,
            Some(libc::EINVAL) => Error::Invalid,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Error::NoSpace,
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Error::Unsupported,
            _ => Error::Io,
        }
    }
}

/// How long a request is, without the data that follows a write.
pub(super) const REQUEST_BYTES: usize = 28;

/// A request as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestHeader {
    pub(super) flags: u16,
    pub(super) command: u16,
    /// What the reply is recognised by.
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl RequestHeader {
    /// `None` when it does not begin as every request does.
    pub(super) fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u32()? != REQUEST_MAGIC {
            return None;
        }
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: fields.u32()?,
        })
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        put(&mut bytes, 0, &REQUEST_MAGIC.to_be_bytes());
        put(&mut bytes, 4, &self.flags.to_be_bytes());
        put(&mut bytes, 6, &self.command.to_be_bytes());
        put(&mut bytes, 8, &self.cookie.to_be_bytes());
        put(&mut bytes, 16, &self.offset.to_be_bytes());
        put(&mut bytes, 24, &self.len.to_be_bytes());
        bytes
    }
}

/// The longest reply, without the data of a read.
pub(super) const REPLY_BYTES_MAX: usize = 28;

/// A reply's bytes up to its data.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyHeader {
    bytes: [u8; REPLY_BYTES_MAX],
    len: usize,
}

impl ReplyHeader {
    /// A simple reply; the data of a read that succeeded follow.
    pub(super) fn simple(cookie: u64, error: Option<Error>) -> Self {
        let mut bytes = [0; REPLY_BYTES_MAX];
        put(&mut bytes, 0, &SIMPLE_REPLY_MAGIC.to_be_bytes());
        put(&mut bytes, 4, &error.map_or(0, |error| error as u32).to_be_bytes());
        put(&mut bytes, 8, &cookie.to_be_bytes());
        Self { bytes, len: 16 }
    }

    /// The one chunk of a read that succeeded; `len` bytes of data follow.
    pub(super) fn data(cookie: u64, offset: u64, len: u32) -> Self {
        if len == 0 {
            // A chunk of data has at least one byte.
            return Self::chunk(chunk_type::NONE, cookie, 0, &[]);
        }
        Self::chunk(chunk_type::OFFSET_DATA, cookie, len, &offset.to_be_bytes())
    }

    /// The one chunk of a block status; `len` bytes of descriptors follow.
    pub(super) fn block_status(cookie: u64, len: u32) -> Self {
        Self::chunk(chunk_type::BLOCK_STATUS, cookie, len, &ALLOCATION_ID.to_be_bytes())
    }

    /// The one chunk of a request that failed.
    pub(super) fn failure(cookie: u64, error: Error) -> Self {
        let mut fields = [0; 6];
        put(&mut fields, 0, &(error as u32).to_be_bytes());
        Self::chunk(chunk_type::ERROR, cookie, 0, &fields)
    }

    fn chunk(kind: u16, cookie: u64, data_len: u32, fields: &[u8]) -> Self {
        let fields_len = u32::try_from(fields.len()).expect("eight bytes at most");
        let mut bytes = [0; REPLY_BYTES_MAX];
        put(&mut bytes, 0, &STRUCTURED_REPLY_MAGIC.to_be_bytes());
        put(&mut bytes, 4, &CHUNK_IS_LAST.to_be_bytes());
        put(&mut bytes, 6, &kind.to_be_bytes());
        put(&mut bytes, 8, &cookie.to_be_bytes());
        put(&mut bytes, 16, &(fields_len + data_len).to_be_bytes());
        put(&mut bytes, 20, fields);
        Self { bytes, len: 20 + fields.len() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Fields one after the other, from bytes that may be too short.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
