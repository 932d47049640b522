//! One attached stream: where it stands in the ring, and what waits to be sent before that.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::ring::count;
use super::{ConsoleOutput, SerialInput};
use crate::console::watch::{Watch, interest};
use crate::poll::{Poller, Token};

/// How much is copied out of the ring at once, while the serial port's writer may have to wait.
const CHUNK_BYTES: usize = 16 * 1024;

/// The stream is over: its other side closed it, or it broke.
#[derive(Debug)]
pub(super) struct Gone;

#[derive(Debug)]
pub(super) struct Viewer {
    pub(super) stream: UnixStream,
    /// The offset of the next byte to send.
    position: u64,
    /// What goes out before the ring's bytes: an HTTP head, a notice.
    preface: Vec<u8>,
    /// What came in before the stream was ours and is not yet with the serial port.
    early_input: Vec<u8>,
    /// The stream takes no more just now.
    blocked: bool,
    /// The serial port takes no more just now.
    stalled: bool,
    watch: Watch,
}

impl Viewer {
    pub(super) fn new(stream: UnixStream, position: u64, preface: Vec<u8>, early_input: Vec<u8>) -> Self {
        Viewer {
            stream,
            position,
            preface,
            early_input,
            blocked: false,
            stalled: false,
            watch: Watch::default(),
        }
    }

    /// Waits for what this viewer needs next.
    pub(super) fn rewatch(&mut self, poller: &Poller, token: Token) -> io::Result<()> {
        self.watch.set(poller, &self.stream, token, interest(!self.stalled, self.blocked))
    }

    pub(super) fn unwatch(&mut self, poller: &Poller) -> io::Result<()> {
        self.watch.set(poller, &self.stream, 0, None)
    }

    /// Sends until the stream takes no more or the viewer is where the ring ended when the call began: a guest that
    /// never stops writing does not hold the caller.
    pub(super) fn send(&mut self, output: &ConsoleOutput) -> Result<(), Gone> {
        let end = output.end();
        let mut chunk = [0; CHUNK_BYTES];
        self.blocked = false;
        loop {
            if !self.preface.is_empty() {
                let Some(sent) = write(&mut self.stream, &self.preface)? else { break };
                self.preface.drain(..sent);
                continue;
            }
            if self.position >= end {
                return Ok(());
            }
            let span = output.read(self.position, &mut chunk);
            if span.lost > 0 {
                self.preface = super::loss_notice(span.lost).into_bytes();
                self.position = span.offset;
                continue;
            }
            let Some(sent) = write(&mut self.stream, &chunk[..span.length])? else { break };
            self.position = span.offset + count(sent);
        }
        self.blocked = true;
        Ok(())
    }

    /// Whether the viewer has been sent all before the offset `end`.
    pub(super) fn has_sent(&self, end: u64) -> bool {
        self.preface.is_empty() && self.position >= end
    }

    /// Moves bytes from the stream to the serial port as far as that has room.
    pub(super) fn forward_input(&mut self, serial: &dyn SerialInput) -> Result<(), Gone> {
        let early = self.early_input.len().min(serial.room());
        serial.push(&self.early_input[..early]);
        self.early_input.drain(..early);

        let mut chunk = [0; 4096];
        let room = serial.room().min(chunk.len());
        self.stalled = room == 0;
        if !self.stalled {
            let received = read(&mut self.stream, &mut chunk[..room])?;
            serial.push(&chunk[..received]);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Reads what a viewer without the input sends: only its end is of interest.
    pub(super) fn discard_input(&mut self) -> Result<(), Gone> {
        self.early_input.clear();
        read(&mut self.stream, &mut [0; 4096]).map(drop)
    }
}

/// How much the stream took; `None` when it takes nothing just now.
fn write(stream: &mut UnixStream, bytes: &[u8]) -> Result<Option<usize>, Gone> {
    match stream.write(bytes) {
        Ok(0) => Err(Gone),
        Ok(sent) => Ok(Some(sent)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(_) => Err(Gone),
    }
}

/// How much came; nothing is no end of the stream.
fn read(stream: &mut UnixStream, into: &mut [u8]) -> Result<usize, Gone> {
    match stream.read(into) {
        Ok(0) => Err(Gone),
        Ok(received) => Ok(received),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(_) => Err(Gone),
    }
}
