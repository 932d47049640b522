//! Records of RPC over TCP (RFC 5531, section 11), where they were received.
//!
//! ```text
//! │ done │ mark │ fragment │ mark │ fragment │ what came behind │ room │
//!        start                               next               end
//! ```
//!
//! A record of several fragments is pushed together. What is received beyond a record is kept for the next one.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::LAST_FRAGMENT;
use crate::ops::REQUEST_BYTES_MAX;

const MARK_BYTES: usize = 4;
const BUFFER_BYTES: usize = 4 << 10;
/// With the head of the call around what a session allows.
const RECORD_BYTES_MAX: usize = REQUEST_BYTES_MAX + 4096;
/// Clients send one.
const FRAGMENTS_MAX: usize = 64;

/// What comes over a connection.
#[derive(Debug)]
pub(super) struct Records {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Records {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 }
    }

    /// What comes after `rest`, which has come already.
    pub(super) fn from(rest: &[u8]) -> Self {
        let mut buffer = vec![0; BUFFER_BYTES.max(rest.len())];
        buffer[..rest.len()].copy_from_slice(rest);
        Self { buffer, start: 0, end: rest.len() }
    }

    /// The next record, and what has come behind it; none at the end of the connection.
    ///
    /// # Errors
    /// The socket's; `InvalidData` if a record is larger than any may be.
    pub(super) fn next(&mut self, stream: &TcpStream) -> io::Result<Option<(&[u8], &[u8])>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        // What is received stays, if it takes too long for the rest to come.
        let (mut length, mut raw) = (0, 0);
        for _ in 0..FRAGMENTS_MAX {
            if !self.have(stream, raw + MARK_BYTES)? {
                return if self.start == self.end {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            let at = self.start + raw;
            let mark = u32::from_be_bytes(std::array::from_fn(|place| self.buffer[at + place]));
            let fragment = usize::try_from(mark & !LAST_FRAGMENT).unwrap_or(usize::MAX);
            if length + fragment > RECORD_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a record is too large"));
            }
            if !self.have(stream, raw + MARK_BYTES + fragment)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let from = self.start + raw + MARK_BYTES;
            if mark & LAST_FRAGMENT != 0 && raw == 0 {
                self.start = from + fragment;
                return Ok(Some((&self.buffer[from..from + fragment], &self.buffer[self.start..self.end])));
            }
            length += fragment;
            raw += MARK_BYTES + fragment;
            if mark & LAST_FRAGMENT != 0 {
                let length = self.join(raw);
                let from = self.start - raw;
                return Ok(Some((&self.buffer[from..from + length], &self.buffer[self.start..self.end])));
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "a record has too many fragments"))
    }

    /// Pushes the fragments of the next `raw` bytes together, and goes on behind them. Returns how many bytes they are without their marks.
    fn join(&mut self, raw: usize) -> usize {
        let (start, mut from, mut to) = (self.start, self.start, self.start);
        while from < start + raw {
            let mark = u32::from_be_bytes(std::array::from_fn(|place| self.buffer[from + place]));
            let fragment = usize::try_from(mark & !LAST_FRAGMENT).unwrap_or(0);
            from += MARK_BYTES;
            self.buffer.copy_within(from..from + fragment, to);
            from += fragment;
            to += fragment;
        }
        self.start = from;
        to - start
    }

    /// Receives until there are `wanted` bytes. False if the connection ends before.
    fn have(&mut self, stream: &TcpStream, wanted: usize) -> io::Result<bool> {
        while self.end - self.start < wanted {
            if self.start + wanted > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
                if wanted > self.buffer.len() {
                    self.buffer.resize(wanted, 0);
                }
            }
            match recv(stream.as_raw_fd(), &mut self.buffer[self.end..], MsgFlags::empty()) {
                Ok(0) => return Ok(false),
                Ok(received) => self.end += received,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    /// Has no more memory than `bytes`, if nothing is in it.
    pub(super) fn rest(&mut self, bytes: usize) {
        if self.start == self.end && self.buffer.len() > bytes {
            self.buffer = vec![0; bytes];
            (self.start, self.end) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn fragment(bytes: &[u8], is_last: bool) -> Vec<u8> {
        let mark = u32::try_from(bytes.len()).unwrap() | if is_last { LAST_FRAGMENT } else { 0 };
        [&mark.to_be_bytes(), bytes].concat()
    }

    #[test]
    fn records_come_as_they_were_sent_however_they_were_cut() {
        let (mut client, server) = pair();
        let large = vec![7; 100_000];
        let sent = [
            fragment(b"one", true),
            fragment(b"tw", false),
            fragment(b"", false),
            fragment(b"o", true),
            fragment(&large, true),
            fragment(b"", true),
        ]
        .concat();
        let sender = std::thread::spawn(move || {
            client.set_nodelay(true).unwrap();
            sent.chunks(7).take(6).for_each(|piece| client.write_all(piece).unwrap());
            client.write_all(&sent[42..]).unwrap();
        });
        let mut records = Records::new();
        for expected in [b"one".as_slice(), b"two", &large, b""] {
            let (record, rest) = records.next(&server).unwrap().unwrap();
            assert_eq!(record, expected);
            // Another one goes on with what has come behind it.
            records = Records::from(rest);
        }
        assert_eq!(records.next(&server).unwrap(), None);
        records.rest(10);
        assert_eq!(records.buffer.len(), 10);
        sender.join().unwrap();
    }

    #[test]
    fn what_is_too_large_or_ends_early_is_an_error() {
        for (sent, kind) in [
            (vec![0xff; 4], io::ErrorKind::InvalidData),
            ([0; 4 * FRAGMENTS_MAX].to_vec(), io::ErrorKind::InvalidData),
            (fragment(b"one", true)[..5].to_vec(), io::ErrorKind::UnexpectedEof),
            (vec![0x80, 0], io::ErrorKind::UnexpectedEof),
        ] {
            let (mut client, server) = pair();
            client.write_all(&sent).unwrap();
            drop(client);
            assert_eq!(Records::new().next(&server).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn what_has_come_stays_when_the_rest_takes_long() {
        let (mut client, server) = pair();
        server.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        let sent = fragment(b"one", true);
        client.write_all(&sent[..5]).unwrap();
        let mut records = Records::new();
        assert_eq!(records.next(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        records.rest(0);
        client.write_all(&sent[5..]).unwrap();
        assert_eq!(records.next(&server).unwrap(), Some((b"one".as_slice(), b"".as_slice())));
    }
}
