//! Messages of HTTP/2 as HTTP/1.1 has them: what comes in frames becomes the bytes that the proxy reads.
//!
//! What RFC 9113 calls malformed (8.1.1, 8.2.1, 8.2.2, 8.3) is refused, so nothing in a field can become a line or a message of its own. A body of which the length
//! is not said comes in chunks, and trailers behind them.

use std::io::Write as _;

use super::hpack::Fields;
use crate::http1::{is_token, length};

/// It breaks a rule for messages; the stream ends with that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A body that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// So much of it is still to come; none is said otherwise.
    Length(u64),
    Chunked,
    /// There is none, whatever its length would have been.
    None,
}

/// Writes the head of a request. `ends`: no body follows.
///
/// # Errors
/// [`Malformed`]; what was written is to be thrown away.
pub fn request(fields: &Fields, ends: bool, out: &mut Vec<u8>) -> Result<Incoming, Malformed> {
    let mut pseudo = Pseudo::default();
    let mut regular = Regular::default();
    for (name, value) in fields.iter() {
        check_value(value)?;
        match name.strip_prefix(b":") {
            Some(name) if !regular.has_begun => pseudo.take(name, value)?,
            Some(_) => return Err(Malformed),
            None => regular.take(name, value)?,
        }
    }
    let (Some(method), Some(path), Some(_)) = (pseudo.method, pseudo.path, pseudo.scheme) else {
        return Err(Malformed);
    };
    let is_path = path.first() == Some(&b'/') || (path == b"*" && method == b"OPTIONS");
    if method.is_empty()
        || !method.iter().all(|byte| is_token(*byte))
        || !is_path
        || path.iter().any(|byte| *byte <= b' ')
    {
        return Err(Malformed);
    }
    let host = match (pseudo.authority, regular.host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => return Err(Malformed),
        (authority, host) => authority.or(host),
    };
    for part in [method, b" ", path, b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    if let Some(host) = host {
        write_field(b"host", host, out);
    }
    regular.write(fields, out);
    let incoming = regular.body(ends)?;
    finish(regular.length, incoming, ends, out);
    Ok(incoming)
}

/// Writes the head of a response; `to_head`, if it answers a HEAD. None: another follows.
///
/// # Errors
/// [`Malformed`]; what was written is to be thrown away.
pub fn response(
    fields: &Fields,
    ends: bool,
    to_head: bool,
    out: &mut Vec<u8>,
) -> Result<Option<Incoming>, Malformed> {
    let mut status = None;
    let mut regular = Regular::default();
    for (name, value) in fields.iter() {
        check_value(value)?;
        match name {
            b":status" if status.is_none() && !regular.has_begun => status = Some(value),
            [b':', ..] => return Err(Malformed),
            _ => regular.take(name, value)?,
        }
    }
    let status = status
        .filter(|status| status.len() == 3 && status.iter().all(u8::is_ascii_digit))
        .ok_or(Malformed)?;
    // HTTP/2 has no upgrades (RFC 9113, 8.6).
    let is_interim = status[0] == b'1';
    if status == b"101" || (is_interim && ends) {
        return Err(Malformed);
    }
    for part in [&b"HTTP/1.1 "[..], status, b" \r\n"] {
        out.extend_from_slice(part);
    }
    regular.write(fields, out);
    if is_interim {
        out.extend_from_slice(b"\r\n");
        return Ok(None);
    }
    let has_no_body = to_head || matches!(status, b"204" | b"304");
    let incoming = if has_no_body { Incoming::None } else { regular.body(ends)? };
    if has_no_body {
        if let Some(length) = regular.length {
            write_length(length, out);
        }
        out.extend_from_slice(b"\r\n");
    } else {
        let length = regular.length.or(ends.then_some(0));
        finish(length, incoming, ends, out);
    }
    Ok(Some(incoming))
}

impl Incoming {
    /// Writes a piece of the body.
    ///
    /// # Errors
    /// [`Malformed`] when there is more than was said.
    pub fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            _ if data.is_empty() => return Ok(()),
            Incoming::None => return Err(Malformed),
            Incoming::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Malformed)?;
                out.extend_from_slice(data);
            }
            Incoming::Chunked => {
                // To write into memory cannot fail.
                let _ = write!(out, "{:x}\r\n", data.len());
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Writes the end, with trailers if there are some. Behind a body whose length was said there is no room for them.
    ///
    /// # Errors
    /// [`Malformed`] when there was less than was said, or trailers are none.
    pub fn end(self, trailers: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), Malformed> {
        if let Some(trailers) = trailers {
            for (name, value) in trailers.iter() {
                check_value(value)?;
                if name.first() == Some(&b':') {
                    return Err(Malformed);
                }
                check_name(name)?;
            }
        }
        match self {
            Incoming::Length(1..) => Err(Malformed),
            Incoming::Length(0) | Incoming::None => Ok(()),
            Incoming::Chunked => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flat_map(|trailers| trailers.iter()) {
                    // What says where a message ends, or whom it is for, says nothing behind it (RFC 9110, 6.5.1).
                    if !matches!(name, b"content-length" | b"host" | b"te") {
                        write_field(name, value, out);
                    }
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }

    /// All that was said to come has come.
    pub fn is_whole(self) -> bool {
        matches!(self, Incoming::Length(0) | Incoming::None)
    }
}

#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
}

impl<'a> Pseudo<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Malformed> {
        let place = match name {
            b"method" => &mut self.method,
            b"scheme" => &mut self.scheme,
            b"path" => &mut self.path,
            b"authority" => &mut self.authority,
            _ => return Err(Malformed),
        };
        if place.replace(value).is_some() { Err(Malformed) } else { Ok(()) }
    }
}

/// What was seen of the fields that are no pseudo-fields.
#[derive(Default)]
struct Regular<'a> {
    has_begun: bool,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    cookies: usize,
}

impl<'a> Regular<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Malformed> {
        self.has_begun = true;
        check_name(name)?;
        match name {
            b"host" if self.host.replace(value).is_some() => return Err(Malformed),
            b"content-length" => {
                let length = length(value).ok_or(Malformed)?;
                if self.length.replace(length).is_some_and(|before| before != length) {
                    return Err(Malformed);
                }
            }
            b"cookie" => self.cookies += 1,
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => return Err(Malformed),
            _ => {}
        }
        Ok(())
    }

    /// Writes them all but those that are written by others.
    fn write(&self, fields: &Fields, out: &mut Vec<u8>) {
        let mut are_cookies_written = false;
        for (name, value) in fields.iter() {
            match name {
                [b':', ..] | b"host" | b"content-length" => {}
                // Those that came in parts are one again (RFC 9113, 8.2.3).
                b"cookie" if self.cookies > 1 => {
                    if !std::mem::replace(&mut are_cookies_written, true) {
                        let cookies =
                            fields.iter().filter(|(name, _)| *name == b"cookie").map(|(_, value)| value);
                        write_field(b"cookie", &cookies.collect::<Vec<_>>().join(&b"; "[..]), out);
                    }
                }
                _ => write_field(name, value, out),
            }
        }
    }

    fn body(&self, ends: bool) -> Result<Incoming, Malformed> {
        match (ends, self.length) {
            (true, Some(1..)) => Err(Malformed),
            (true, _) => Ok(Incoming::None),
            (false, Some(length)) => Ok(Incoming::Length(length)),
            (false, None) => Ok(Incoming::Chunked),
        }
    }
}

/// Writes how the body is framed, and the head's end.
fn finish(length: Option<u64>, incoming: Incoming, ends: bool, out: &mut Vec<u8>) {
    match length {
        Some(length) => write_length(length, out),
        None if !ends && incoming == Incoming::Chunked => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n")
        }
        None => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn write_length(length: u64, out: &mut Vec<u8>) {
    // To write into memory cannot fail.
    let _ = write!(out, "content-length: {length}\r\n");
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Names are tokens in lower case, and none of those that are a connection's.
fn check_name(name: &[u8]) -> Result<(), Malformed> {
    let is_name = !name.is_empty() && name.iter().all(|byte| is_token(*byte) && !byte.is_ascii_uppercase());
    let is_connections = matches!(
        name,
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade"
    );
    if is_name && !is_connections { Ok(()) } else { Err(Malformed) }
}

fn check_value(value: &[u8]) -> Result<(), Malformed> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_value = !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    if is_value && !is_space(value.first()) && !is_space(value.last()) { Ok(()) } else { Err(Malformed) }
}
