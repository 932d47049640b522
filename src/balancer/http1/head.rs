//! What heads of requests and responses have in common: lines, and fields.

use std::ops::Range;

use memchr::{memchr, memmem};

/// The largest head of a request
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html>).
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// The most fields of a head: whoever sends more wants to keep somebody busy.
const FIELDS_MAX: usize = 256;

/// A line of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// With its end.
    pub line: Range<usize>,
    pub name: Range<usize>,
    /// Without white space around it.
    pub value: Range<usize>,
    pub known: Option<Known>,
}

/// Fields that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Connection,
    ContentLength,
    Cookie,
    Expect,
    Host,
    KeepAlive,
    ProxyConnection,
    Te,
    TransferEncoding,
    Upgrade,
    ForwardedFor,
    ForwardedPort,
    ForwardedProto,
    TraceId,
}

impl Known {
    fn of(name: &[u8]) -> Option<Self> {
        // Most fields are none of these, which their lengths tell nearly always.
        let (known, text): (Self, &[u8]) = match (name.len(), name.first()?.to_ascii_lowercase()) {
            (2, _) => (Self::Te, b"te"),
            (4, _) => (Self::Host, b"host"),
            (6, b'c') => (Self::Cookie, b"cookie"),
            (6, _) => (Self::Expect, b"expect"),
            (7, _) => (Self::Upgrade, b"upgrade"),
            (10, b'c') => (Self::Connection, b"connection"),
            (10, _) => (Self::KeepAlive, b"keep-alive"),
            (14, _) => (Self::ContentLength, b"content-length"),
            (15, b'x') if name[12].eq_ignore_ascii_case(&b'f') => (Self::ForwardedFor, b"x-forwarded-for"),
            (15, _) => (Self::TraceId, b"x-amzn-trace-id"),
            (16, b'x') => (Self::ForwardedPort, b"x-forwarded-port"),
            (16, _) => (Self::ProxyConnection, b"proxy-connection"),
            (17, b'x') => (Self::ForwardedProto, b"x-forwarded-proto"),
            (17, _) => (Self::TransferEncoding, b"transfer-encoding"),
            _ => return None,
        };
        name.eq_ignore_ascii_case(text).then_some(known)
    }
}

/// Why a head is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadField {
    /// No colon, nothing or white space before it, or what no name has.
    Name,
    /// NUL or a carriage return in a value, or a line that goes on with the one before (`obs-fold`).
    Value,
    TooMany,
}

/// Where the head that `bytes` begin with ends, if all of it is there: behind its empty line. `seen` bytes were looked at before.
pub fn end_of_head(bytes: &[u8], seen: usize) -> Option<usize> {
    let mut at = seen.saturating_sub(3);
    while let Some(found) = memmem::find(bytes.get(at..)?, b"\r\n\r\n") {
        let end = at + found + 4;
        // Empty lines before the first line are no head (RFC 9112, 2.2).
        if bytes[..end].iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            return Some(end);
        }
        at = end - 2;
    }
    None
}

/// The end of the line that begins at `start`, before its CRLF. All lines of a head have one; a line feed alone ends none, and is in none.
pub(super) fn line_end(head: &[u8], start: usize) -> Option<usize> {
    let feed = start + memchr(b'\n', head.get(start..)?)?;
    (feed > start && head[feed - 1] == b'\r').then(|| feed - 1)
}

/// Reads the fields from `start` on, to the empty line. Tells whether there were bytes in values that RFC 9110 has in none.
pub(crate) fn read_fields(head: &[u8], start: usize, fields: &mut Vec<Field>) -> Result<bool, BadField> {
    fields.clear();
    let mut at = start;
    let mut is_odd = false;
    loop {
        let end = line_end(head, at).ok_or(BadField::Value)?;
        if end == at {
            return Ok(is_odd);
        }
        if fields.len() == FIELDS_MAX {
            return Err(BadField::TooMany);
        }
        let line = &head[at..end];
        let colon = line.iter().position(|byte| *byte == b':').ok_or(BadField::Name)?;
        if colon == 0 || !line[..colon].iter().all(|byte| is_token(*byte)) {
            return Err(if matches!(line[0], b' ' | b'\t') { BadField::Value } else { BadField::Name });
        }
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let value = &line[colon + 1..];
        let from = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
        let to = value.iter().rposition(|byte| !is_space(byte)).map_or(from, |last| last + 1);
        for byte in &value[from..to] {
            match byte {
                0 | b'\r' => return Err(BadField::Value),
                b'\t' | b' '..=b'~' => {}
                _ => is_odd = true,
            }
        }
        let before = at + colon + 1;
        fields.push(Field {
            line: at..end + 2,
            name: at..at + colon,
            value: before + from..before + to,
            known: Known::of(&line[..colon]),
        });
        at = end + 2;
    }
}

/// A `tchar` (RFC 9110, 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0_u8;
        loop {
            table[byte as usize] = matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
                | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z'
            );
            if byte == u8::MAX {
                break table;
            }
            byte += 1;
        }
    };
    TOKEN[usize::from(byte)]
}

/// The length that a `Content-Length` says.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0_u64, |length, digit| length.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// The elements of a list (RFC 9110, 5.6.1).
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}
