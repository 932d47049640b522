//! Frames shown to who watches an interface.
//!
//! A [`Capture`] is a Unix socket of packets (`SOCK_SEQPACKET`), whose other end came to its reader by the control socket. Each packet is
//! one frame: a [`Record`] and as much of the frame as the reader asked for. The kernel takes a packet as a whole or not at all, so
//! that any number of workers write to one socket without a lock. A reader that is too slow loses frames, which are counted; the guest never
//! waits for it.
//!
//! Frames are as guest and host hand them to each other: segments of up to 64 KiB, with checksums that are not done yet.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use serde::{Deserialize, Serialize};
use volume::IoBuffer;

use super::device::DirectionCounters;
use super::tap::write_pieces;
use super::{FRAME_BYTES_MAX, HEADER_BYTES};

/// Which way a frame goes, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// What stands before a frame in a packet of a capture, in little-endian order:
/// `time_ns: u64, length: u32, direction: u8, zero: [u8; 3]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When the frame was handed over, since 1970 by the host's clock.
    pub time_ns: u64,
    /// How long the whole frame is, from its Ethernet header on.
    pub length: u32,
    /// On the wire 0 and 1.
    pub direction: Direction,
}

impl Record {
    pub const BYTES: usize = 16;
    /// The longest packet.
    pub const PACKET_BYTES_MAX: usize = Record::BYTES + FRAME_BYTES_MAX - HEADER_BYTES;

    fn encode(self) -> [u8; Record::BYTES] {
        let mut bytes = [0; Record::BYTES];
        bytes[..8].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12] = u8::from(self.direction == Direction::Out);
        bytes
    }

    /// A packet as its record and the beginning of the frame; `None` if it is no packet of a capture.
    pub fn decode(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (head, frame) = packet.split_first_chunk::<{ Record::BYTES }>()?;
        let (time, rest) = head.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let direction = match rest[0] {
            0 => Direction::In,
            1 => Direction::Out,
            _ => return None,
        };
        let length = u32::from_le_bytes(*length);
        let is_part = u32::try_from(frame.len()).is_ok_and(|kept| kept <= length);
        is_part.then_some((Record { time_ns: u64::from_le_bytes(*time), length, direction }, frame))
    }
}

/// How a capture stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// Among those of the interface.
    pub id: u64,
    /// Frames that its reader was given.
    pub captured: u64,
    /// Frames that it was too slow for.
    pub dropped: u64,
}

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("the descriptor is not a Unix socket of packets (SOCK_SEQPACKET)")]
    NotPackets,
    #[error("{max} captures of the interface are under way already")]
    TooMany { max: usize },
    #[error("cannot set the capture's socket up")]
    SetUp { source: io::Error },
}

/// Somebody who watches an interface.
#[derive(Debug)]
pub(super) struct Capture {
    id: u64,
    socket: OwnedFd,
    /// How much of each frame is shown.
    snaplen: usize,
    captured: AtomicU64,
    dropped: AtomicU64,
    is_unread: AtomicBool,
}

impl Capture {
    /// Takes over `socket`, which is connected to the reader.
    pub(super) fn new(id: u64, socket: OwnedFd, snaplen: usize) -> Result<Self, CaptureError> {
        match getsockopt(&socket, sockopt::SockType) {
            Ok(SockType::SeqPacket) => {}
            _ => return Err(CaptureError::NotPackets),
        }
        let set_up = |error: nix::Error| CaptureError::SetUp { source: error.into() };
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL).map_err(set_up)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(set_up)?;
        let (captured, dropped, is_unread) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Ok(Capture { id, socket, snaplen, captured, dropped, is_unread })
    }

    pub(super) fn status(&self) -> CaptureStatus {
        CaptureStatus {
            id: self.id,
            captured: self.captured.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// Whether its reader is gone. Workers notice at the next frame; this asks the kernel.
    pub(super) fn has_ended(&self) -> bool {
        let mut asked = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let is_hung_up = poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        is_hung_up || self.is_unread.load(Ordering::Relaxed)
    }

    /// Writes a packet: `pieces`, of which the first is for `record`.
    fn write(&self, record: Record, pieces: &mut [IoBuffer], counters: &DirectionCounters) {
        if let Some(head) = pieces.first() {
            head.copy_from(&record.encode());
        }
        match write_pieces(self.socket.as_fd(), pieces) {
            Ok(()) => {
                self.captured.fetch_add(1, Ordering::Relaxed);
                counters.captured.add(1);
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.is_unread.store(true, Ordering::Relaxed);
            }
            // Its queue is full, or the kernel has no memory for it.
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                counters.capture_dropped.add(1);
            }
        }
    }
}

/// The captures that one worker writes to.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    captures: Vec<Arc<Capture>>,
    /// The pieces of a packet, and the record that its first one is.
    pieces: Vec<IoBuffer>,
    head: Box<[u8; Record::BYTES]>,
}

impl Watchers {
    pub(super) fn set(&mut self, captures: Vec<Arc<Capture>>) {
        self.captures = captures;
    }

    /// Shows the frame of `bytes` in `frame`, which begins with virtio's header; both count that.
    #[inline]
    pub(super) fn show(
        &mut self,
        direction: Direction,
        frame: &[IoBuffer],
        bytes: usize,
        counters: &DirectionCounters,
    ) {
        if !self.captures.is_empty() {
            self.show_all(direction, frame, bytes - HEADER_BYTES, counters);
        }
    }

    #[cold]
    fn show_all(
        &mut self,
        direction: Direction,
        frame: &[IoBuffer],
        bytes: usize,
        counters: &DirectionCounters,
    ) {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        let record = Record { time_ns, length: u32::try_from(bytes).unwrap_or(u32::MAX), direction };
        for capture in &self.captures {
            self.pieces.clear();
            // SAFETY: the head is ours, written and read only through this buffer, and outlives it.
            self.pieces.push(unsafe { IoBuffer::new(self.head.as_mut_ptr(), Record::BYTES) });
            add_part(&mut self.pieces, frame, HEADER_BYTES, bytes.min(capture.snaplen));
            capture.write(record, &mut self.pieces, counters);
        }
        self.captures.retain(|capture| !capture.is_unread.load(Ordering::Relaxed));
    }
}

/// Adds those parts of `frame` to `pieces` that hold `bytes` from `offset` on.
fn add_part(pieces: &mut Vec<IoBuffer>, frame: &[IoBuffer], mut offset: usize, mut bytes: usize) {
    for piece in frame {
        if bytes == 0 {
            return;
        }
        let part = piece.part(offset, bytes);
        offset -= offset.min(piece.len());
        bytes -= part.len();
        if !part.is_empty() {
            pieces.push(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for direction in [Direction::In, Direction::Out] {
            let record = Record { time_ns: 1_764_115_200_123_456_789, length: 70_000, direction };
            let packet = [&record.encode()[..], b"frame"].concat();
            assert_eq!(Record::decode(&packet), Some((record, &b"frame"[..])));
            assert_eq!(Record::decode(&packet[..15]), None);
        }
        let record = Record { time_ns: 1, length: 4, direction: Direction::In };
        assert_eq!(
            Record::decode(&[&record.encode()[..], b"frame"].concat()),
            None,
            "more than the frame has"
        );
    }

    #[test]
    fn a_part_of_a_frame_is_found_wherever_it_is_cut() {
        let mut bytes: Vec<u8> = (0..60).collect();
        for cut in 1..60 {
            let (start, length) = (bytes.as_mut_ptr(), bytes.len());
            // SAFETY: the bytes outlive the buffer, and nobody refers to them meanwhile.
            let whole = unsafe { IoBuffer::new(start, length) };
            let frame: Vec<_> = (0..length).step_by(cut).map(|at| whole.part(at, cut)).collect();
            let mut pieces = Vec::new();
            add_part(&mut pieces, &frame, 12, 30);
            let mut found = Vec::new();
            for piece in pieces {
                let mut part = vec![0; piece.len()];
                piece.copy_to(&mut part);
                found.extend(part);
            }
            assert_eq!(found, (12..42).collect::<Vec<u8>>());
        }
    }
}
