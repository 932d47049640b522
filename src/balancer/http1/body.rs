//! Where a body ends, as its bytes come by.

use super::Framing;

/// The longest line of a chunk's size, with its extensions.
const SIZE_LINE_BYTES_MAX: u32 = 1024;
/// All trailers together.
const TRAILER_BYTES_MAX: u32 = 16 << 10;

/// How far a body is. It is forwarded as it came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    #[default]
    Ended,
}

/// Where in `chunked` framing (RFC 9112, 7.1) the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// In the digits of a size; how many there were.
    Size {
        size: u64,
        digits: u8,
    },
    /// In extensions, which nobody reads.
    Extension {
        size: u64,
        bytes: u32,
    },
    /// Before the line feed of a size's line.
    SizeFeed {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// Before the end of a chunk.
    DataReturn,
    DataFeed,
    /// At the begin of a line of the trailers.
    TrailerStart {
        bytes: u32,
    },
    Trailer {
        bytes: u32,
    },
    TrailerFeed {
        bytes: u32,
    },
    /// Before the last line feed.
    LastFeed,
}

/// What of some bytes is the body's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub bytes: usize,
    /// It ends behind them.
    pub is_end: bool,
}

/// What the next bytes of a body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Data,
    /// What says where data begin and end.
    Framing,
    /// The fields after chunks, with the empty line.
    Trailer,
}

/// It is framed wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyError;

impl Body {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Body::Ended,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunks::Size { size: 0, digits: 0 }),
            Framing::UntilClose => Body::UntilClose,
        }
    }

    pub fn has_ended(&self) -> bool {
        *self == Body::Ended
    }

    /// The connection was closed. Says whether that is how the body ends.
    pub fn close(&mut self) -> bool {
        let ends = matches!(self, Body::UntilClose | Body::Ended);
        *self = Body::Ended;
        ends
    }

    /// Takes what of `bytes`, the next that came, is the body's.
    ///
    /// # Errors
    /// [`BodyError`] when they frame nothing; none of them is to be forwarded.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Taken, BodyError> {
        let taken = match self {
            Body::Ended => 0,
            Body::UntilClose => bytes.len(),
            Body::Length(left) => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                if *left == 0 {
                    *self = Body::Ended;
                }
                taken
            }
            Body::Chunked(chunks) => {
                let (mut at, mut now) = (0, Some(*chunks));
                while let (Some(chunks), Some(rest)) = (now, bytes.get(at..).filter(|rest| !rest.is_empty()))
                {
                    let (taken, next) = chunks.step(rest)?;
                    (at, now) = (at + taken, next);
                }
                *self = now.map_or(Body::Ended, Body::Chunked);
                at
            }
        };
        Ok(Taken { bytes: taken, is_end: self.has_ended() })
    }

    /// Takes the first of `bytes` that are one part of it, and says how many and which. There is one byte at least, and the body has not ended.
    ///
    /// # Errors
    /// [`BodyError`] when they frame nothing.
    pub fn take_part(&mut self, bytes: &[u8]) -> Result<(usize, Part), BodyError> {
        let Body::Chunked(chunks) = *self else { return Ok((self.take(bytes)?.bytes, Part::Data)) };
        let part = match chunks {
            Chunks::Data { .. } => Part::Data,
            Chunks::TrailerStart { .. }
            | Chunks::Trailer { .. }
            | Chunks::TrailerFeed { .. }
            | Chunks::LastFeed => Part::Trailer,
            _ => Part::Framing,
        };
        let (taken, next) = chunks.step(bytes)?;
        *self = next.map_or(Body::Ended, Body::Chunked);
        Ok((taken, part))
    }
}

impl Chunks {
    /// Takes one byte or more. None: it was the last one.
    fn step(self, bytes: &[u8]) -> Result<(usize, Option<Self>), BodyError> {
        let byte = bytes[0];
        let next = match (self, byte) {
            (Chunks::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // 16 digits are more than anybody has bytes.
                if digits == 15 {
                    return Err(BodyError);
                }
                let digit = char::from(byte).to_digit(16).ok_or(BodyError)?;
                Chunks::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Chunks::Size { digits: 0, .. }, _) => return Err(BodyError),
            (Chunks::Size { size, .. } | Chunks::Extension { size, .. }, b'\r') => Chunks::SizeFeed { size },
            (Chunks::Size { size, .. }, b';' | b' ' | b'\t') => Chunks::Extension { size, bytes: 0 },
            (Chunks::Extension { size, bytes }, b'\t' | b' '..=b'~') if bytes < SIZE_LINE_BYTES_MAX => {
                Chunks::Extension { size, bytes: bytes + 1 }
            }
            (Chunks::SizeFeed { size: 0 }, b'\n') => Chunks::TrailerStart { bytes: 0 },
            (Chunks::SizeFeed { size }, b'\n') => Chunks::Data { left: size },
            (Chunks::Data { left }, _) => {
                let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let left = left - taken as u64;
                return Ok((taken, Some(if left == 0 { Chunks::DataReturn } else { Chunks::Data { left } })));
            }
            (Chunks::DataReturn, b'\r') => Chunks::DataFeed,
            (Chunks::DataFeed, b'\n') => Chunks::Size { size: 0, digits: 0 },
            (Chunks::TrailerStart { .. }, b'\r') => Chunks::LastFeed,
            (Chunks::TrailerStart { bytes }, b'!'..=b'~') => Chunks::Trailer { bytes: bytes + 1 },
            (Chunks::Trailer { bytes }, b'\r') => Chunks::TrailerFeed { bytes },
            (Chunks::Trailer { bytes }, b'\t' | b' '..=b'~' | 0x80..) if bytes < TRAILER_BYTES_MAX => {
                Chunks::Trailer { bytes: bytes + 1 }
            }
            (Chunks::TrailerFeed { bytes }, b'\n') => Chunks::TrailerStart { bytes },
            (Chunks::LastFeed, b'\n') => return Ok((1, None)),
            _ => return Err(BodyError),
        };
        Ok((1, Some(next)))
    }
}
