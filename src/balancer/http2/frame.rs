//! Frames (RFC 9113, 4 and 6): what stands before each, and what is written of those that are sent.

/// Before each frame.
pub(super) const HEADER_BYTES: usize = 9;
/// What a client sends first, before its settings.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest payload, until the other end says that it takes larger ones. Nobody is told that here.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 << 10;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// Flags, some of which have the same bit.
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const HAS_PRIORITY: u8 = 32;

/// Settings (RFC 9113, 6.5.2).
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// Why a stream or a connection ends (RFC 9113, 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    NoError = 0,
    ProtocolError = 1,
    InternalError = 2,
    FlowControlError = 3,
    StreamClosed = 5,
    FrameSizeError = 6,
    RefusedStream = 7,
    Cancel = 8,
    CompressionError = 9,
    EnhanceYourCalm = 11,
}

/// What stands before a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    /// None: not all of it is there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = bytes.first_chunk::<HEADER_BYTES>()?;
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        Some(Self { length, kind: *kind, flags: *flags, stream: u32::from_be_bytes(*stream) & MAX_31 })
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

const MAX_31: u32 = u32::MAX >> 1;

/// Numbers of 31 bits, without the one before them.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?) & MAX_31)
}

/// Begins a frame, whose payload of this length follows; lengths of frames that are written fit.
pub(super) fn begin(kind: u8, flags: u8, stream: u32, length: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

pub(super) fn write(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    begin(kind, flags, stream, payload.len(), out);
    out.extend_from_slice(payload);
}

pub(super) fn settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    begin(SETTINGS, 0, 0, settings.len() * 6, out);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn reset(stream: u32, code: Code, out: &mut Vec<u8>) {
    write(RST_STREAM, 0, stream, &(code as u32).to_be_bytes(), out);
}

pub(super) fn window_update(stream: u32, by: u32, out: &mut Vec<u8>) {
    write(WINDOW_UPDATE, 0, stream, &by.to_be_bytes(), out);
}

/// Streams up to `last` are served, others are not.
pub(super) fn go_away(last: u32, code: Code, out: &mut Vec<u8>) {
    begin(GOAWAY, 0, 0, 8, out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&(code as u32).to_be_bytes());
}

/// Writes a block of fields, which may take several frames.
pub(super) fn headers(stream: u32, ends: bool, block: &[u8], max: usize, out: &mut Vec<u8>) {
    let mut pieces = block.chunks(max).peekable();
    let (mut kind, mut flags) = (HEADERS, if ends { END_STREAM } else { 0 });
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= END_HEADERS;
        }
        write(kind, flags, stream, piece, out);
        (kind, flags) = (CONTINUATION, 0);
    }
}

/// A payload without its padding (RFC 9113, 6.1); none if it is all padding, and more.
pub(super) fn unpadded<'a>(header: &Header, payload: &'a [u8]) -> Option<&'a [u8]> {
    if !header.has(PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.len().checked_sub(usize::from(*padding)).map(|length| &rest[..length])
}
