//! The head of a response.

use std::ops::Range;

use super::Framing;
use super::head::{Field, Known, elements, length, line_end, read_fields};

/// The head of a response: places in the bytes that it was read from. One can be used for many, one after the other.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<Field>,
    pub framing: Framing,
    /// The connection can be used again, once the body has ended.
    pub stays: bool,
    /// Where the first line begins, and where it ends.
    pub first_line: Range<usize>,
}

impl Default for Response {
    fn default() -> Self {
        Self { status: 0, fields: Vec::new(), framing: Framing::None, stays: false, first_line: 0..0 }
    }
}

/// A head that is that of no response: the target is out of its senses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadResponse;

impl Response {
    /// Reads a head that is whole (see [`end_of_head`](super::end_of_head)) into this; `to_head` if it answers a HEAD.
    ///
    /// # Errors
    /// [`BadResponse`] if it cannot be understood in one way only.
    pub fn parse(&mut self, head: &[u8], to_head: bool) -> Result<(), BadResponse> {
        let end = line_end(head, 0).ok_or(BadResponse)?;
        let is_old = match head.get(..9) {
            Some(b"HTTP/1.1 ") => false,
            Some(b"HTTP/1.0 ") => true,
            _ => return Err(BadResponse),
        };
        self.first_line = 0..end;
        self.status = status(&head[9..end]).ok_or(BadResponse)?;
        read_fields(head, end + 2, &mut self.fields).map_err(|_| BadResponse)?;
        let (mut said, mut is_chunked, mut closes, mut stays) = (None, false, false, false);
        for field in &self.fields {
            let value = &head[field.value.clone()];
            match field.known {
                Some(Known::ContentLength) => {
                    let length = length(value).ok_or(BadResponse)?;
                    if said.replace(length).is_some_and(|before| before != length) {
                        return Err(BadResponse);
                    }
                }
                Some(Known::TransferEncoding) => {
                    if is_old || is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadResponse);
                    }
                    is_chunked = true;
                }
                Some(Known::Connection) => {
                    closes |= elements(value).any(|element| element.eq_ignore_ascii_case(b"close"));
                    stays |= elements(value).any(|element| element.eq_ignore_ascii_case(b"keep-alive"));
                }
                _ => {}
            }
        }
        // Whoever says both may mean either (RFC 9112, 6.3).
        if is_chunked && said.is_some() {
            return Err(BadResponse);
        }
        self.framing = match (is_chunked, said) {
            _ if to_head || self.has_no_body() => Framing::None,
            (true, _) => Framing::Chunked,
            (false, Some(0)) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        };
        self.stays = !closes && (!is_old || stays) && self.framing != Framing::UntilClose;
        Ok(())
    }

    /// Another follows (RFC 9110, 15.2), unless the protocol is another one from now on.
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    fn has_no_body(&self) -> bool {
        matches!(self.status, 100..=199 | 204 | 304)
    }
}

/// Three digits, and nothing or a space after them.
fn status(line: &[u8]) -> Option<u16> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit)
        || !matches!(rest.first(), None | Some(b' '))
        || rest.contains(&b'\r')
    {
        return None;
    }
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    (100..=599).contains(&status).then_some(status)
}
