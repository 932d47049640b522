//! A request as HTTP brings it, and its number.

use std::fmt;

use hyper::HeaderMap;
use ring::rand::{SecureRandom, SystemRandom};

/// A whole request. Path and query are as they were on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A header that is text; `None` also if it is not.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
    }
}

/// The id of a request: a random UUID (RFC 9562, version 4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 36]);

impl RequestId {
    /// A new one. Without random numbers it is all zeros: nothing is protected by it.
    pub fn generate() -> Self {
        let mut bytes = [0; 16];
        if let Err(error) = SystemRandom::new().fill(&mut bytes) {
            tracing::warn!(%error, "there are no random numbers for the id of a request");
        }
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut text = [b'-'; 36];
        let digits = (0..36).filter(|at| !matches!(at, 8 | 13 | 18 | 23));
        let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        for (at, nibble) in digits.zip(nibbles) {
            text[at] = b"0123456789abcdef"[usize::from(nibble)];
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        // All of it is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_random_uuid() {
        let id = RequestId::generate();
        let groups: Vec<usize> = id.as_str().split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(id.as_str().as_bytes()[14], b'4');
        assert_ne!(id, RequestId::generate());
    }
}
