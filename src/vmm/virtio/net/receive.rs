//! From the tap to the guest.
//!
//! ```text
//!            offered: the driver's chains, in order            spill
//!   readv ─▶ │ chain │ chain │ chain │ chain │ … │ chain │ ─▶ │ 64 KiB │
//!              the frame's: used together            kept for the next
//! ```
//!
//! The kernel does not say how long the next frame is, so a read offers room for the longest. Chains that the frame
//! did not need stay offered for the next one. Where the driver has not given enough, the frame's end comes to lie in
//! the spill, and the frame is complete when the driver has given chains for the rest. So no frame is lost or cut, and
//! only then is anything copied.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use volume::IoBuffer;

use super::capture::{Direction, Watchers};
use super::device::PairCounters;
use super::{FRAME_BYTES_MAX, HEADER_BYTES, PIECES_MAX, Tap};
use crate::virtio::{Buffers, DeviceError, Ring};

/// Frames that one call receives before others get their turn.
const FRAMES_PER_TURN: usize = 64;

/// Once so many pieces are offered no more chains are taken, so that a read never has more than the kernel's 1024.
const OFFERED_PIECES_MAX: usize = 512;

/// `num_buffers` in the frame's header.
const CHAINS_OFFSET: usize = 10;

/// Where frames to the guest come from.
pub(super) trait Source {
    /// Fills `into` with the next frame and its header, and says how long it is; `None` when there is none for now.
    ///
    /// # Errors
    /// When a frame could not be read.
    fn next(&mut self, into: &[IoBuffer]) -> io::Result<Option<usize>>;
}

impl Source for &Tap {
    fn next(&mut self, into: &[IoBuffer]) -> io::Result<Option<usize>> {
        self.read(into)
    }
}

pub(super) struct Receiver {
    ring: Ring,
    /// The driver takes frames that span several chains.
    is_mergeable: bool,
    /// Room that a read offers, if the driver gave as much.
    wanted_bytes: usize,
    offered: VecDeque<Offered>,
    offered_bytes: usize,
    /// The pieces of all that is offered, in order, from `first_piece` on.
    pieces: Vec<IoBuffer>,
    first_piece: usize,
    frame: Frame,
    spill: Box<[u8]>,
    buffers: Buffers,
    counters: Arc<PairCounters>,
}

/// A chain that can take a frame or a part of one.
#[derive(Clone, Copy)]
struct Offered {
    head: u16,
    pieces: usize,
    bytes: usize,
}

/// The frame that is being given to the driver.
#[derive(Default)]
struct Frame {
    /// Its chains so far, with the bytes in each.
    chains: Vec<(u16, usize)>,
    /// The two bytes of `num_buffers` in its header.
    chain_count: Option<[IoBuffer; 2]>,
    bytes: usize,
    /// What lies in the spill, from here to there.
    spilled: std::ops::Range<usize>,
}

impl Receiver {
    pub(super) fn new(
        ring: Ring,
        is_mergeable: bool,
        frame_bytes: usize,
        counters: Arc<PairCounters>,
    ) -> Self {
        Receiver {
            ring,
            is_mergeable,
            wanted_bytes: frame_bytes,
            offered: VecDeque::new(),
            offered_bytes: 0,
            pieces: Vec::with_capacity(OFFERED_PIECES_MAX + PIECES_MAX + 1),
            first_piece: 0,
            frame: Frame::default(),
            spill: vec![0; FRAME_BYTES_MAX].into(),
            buffers: Buffers::with_capacity(PIECES_MAX),
            counters,
        }
    }

    /// How long frames are from now on, with their header.
    pub(super) fn expect(&mut self, frame_bytes: usize) {
        self.wanted_bytes = frame_bytes;
    }

    /// Has the worker called again for this queue after everything else that waits.
    pub(super) fn call_again(&self) {
        self.ring.kick_self();
    }

    /// Gives the driver what the source has, as far as there are chains for it, and shows it to `watchers`.
    pub(super) fn receive(
        &mut self,
        source: &mut impl Source,
        watchers: &mut Watchers,
    ) -> Result<(), DeviceError> {
        self.ring.suppress_kicks();
        let mut is_over = false;
        for _ in 0..FRAMES_PER_TURN {
            self.take_offers()?;
            if self.offered.is_empty() {
                // The driver sees what it got before it is asked for more.
                self.ring.notify();
                if self.ring.allow_kicks() {
                    self.ring.suppress_kicks();
                    continue;
                }
                return Ok(());
            }
            let has_frame = if self.frame.spilled.is_empty() { self.read(source, watchers) } else { Some(0) };
            let Some(bytes) = has_frame else {
                is_over = true;
                break;
            };
            self.deliver(bytes);
        }
        self.ring.notify();
        if !is_over {
            self.ring.kick_self();
        }
        Ok(())
    }

    /// Takes chains until the longest frame has room.
    fn take_offers(&mut self) -> Result<(), DeviceError> {
        while self.offered.is_empty()
            || (self.is_mergeable
                && self.offered_bytes < self.wanted_bytes
                && self.pieces.len() - self.first_piece < OFFERED_PIECES_MAX)
        {
            let Some(head) = self.ring.pop()? else { break };
            self.ring.gather(head, &mut self.buffers)?;
            let bytes = usize::try_from(self.buffers.writable_bytes()).unwrap_or(usize::MAX);
            if self.buffers.readable_bytes() > 0 {
                return Err(self.ring.bad_chain("a buffer to receive into cannot be written by the device"));
            }
            if bytes < HEADER_BYTES {
                return Err(self.ring.bad_chain("a buffer to receive into is too short for the header"));
            }
            self.pieces.drain(..self.first_piece);
            self.first_piece = 0;
            let pieces = self.buffers.writable();
            self.pieces.extend_from_slice(pieces);
            self.offered.push_back(Offered { head, pieces: pieces.len(), bytes });
            self.offered_bytes = self.offered_bytes.saturating_add(bytes);
        }
        Ok(())
    }

    /// Reads a frame into what is offered and, beyond that, into the spill; says how long it is.
    fn read(&mut self, source: &mut impl Source, watchers: &mut Watchers) -> Option<usize> {
        // SAFETY: the spill is ours and lives longer than the read; no reference to it is alive meanwhile.
        let spill = unsafe { IoBuffer::new(self.spill.as_mut_ptr(), self.spill.len()) };
        self.pieces.push(spill);
        let pieces = &self.pieces[self.first_piece..];
        let bytes = source.next(pieces).unwrap_or_else(|_| {
            self.counters.receive.errors.add(1);
            None
        });
        if let Some(bytes) = bytes.filter(|bytes| self.takes(*bytes)) {
            watchers.show(Direction::In, pieces, bytes, &self.counters.receive);
        }
        self.pieces.pop();
        bytes
    }

    /// Whether the driver can be given a frame of `bytes`, now or with more chains.
    fn takes(&self, bytes: usize) -> bool {
        self.is_mergeable || bytes <= self.offered_bytes
    }

    /// Hands the `bytes` just read to the driver, or, if some of a frame is in the spill, more of those.
    fn deliver(&mut self, bytes: usize) {
        if !self.takes(bytes) {
            self.counters.receive.dropped.add(1);
            return;
        }
        self.frame.bytes += bytes;
        let mut read = bytes;
        while let Some(&offered) = self.offered.front() {
            let used = if read > 0 { read.min(offered.bytes) } else { self.unspill(offered) };
            if used == 0 {
                break;
            }
            read = read.saturating_sub(used);
            if self.frame.chains.is_empty() {
                self.frame.chain_count = self.chain_count(offered);
            }
            self.frame.chains.push((offered.head, used));
            self.withdraw(offered);
        }
        if read > 0 {
            self.frame.spilled = 0..read;
        }
        if self.frame.spilled.is_empty() {
            self.finish();
        }
    }

    /// Copies out of the spill what fits into `offered`.
    fn unspill(&mut self, offered: Offered) -> usize {
        let start = self.frame.spilled.start;
        for piece in &self.pieces[self.first_piece..self.first_piece + offered.pieces] {
            let rest = self.frame.spilled.clone();
            self.frame.spilled.start += piece.copy_from(&self.spill[rest]);
        }
        self.frame.spilled.start - start
    }

    /// Where `num_buffers` stands in a frame that begins in `offered`, however that is cut.
    fn chain_count(&self, offered: Offered) -> Option<[IoBuffer; 2]> {
        let byte = |mut offset: usize| {
            for piece in &self.pieces[self.first_piece..self.first_piece + offered.pieces] {
                if offset < piece.len() {
                    return Some(piece.part(offset, 1));
                }
                offset -= piece.len();
            }
            None
        };
        Some([byte(CHAINS_OFFSET)?, byte(CHAINS_OFFSET + 1)?])
    }

    fn withdraw(&mut self, offered: Offered) {
        self.offered.pop_front();
        self.offered_bytes -= offered.bytes;
        self.first_piece += offered.pieces;
    }

    /// The frame is whole: the driver gets its chains, all at the next [`Ring::notify`].
    fn finish(&mut self) {
        let count = u16::try_from(self.frame.chains.len()).unwrap_or(u16::MAX).to_le_bytes();
        for (place, byte) in self.frame.chain_count.iter().flatten().zip(count) {
            place.copy_from(&[byte]);
        }
        for (head, bytes) in self.frame.chains.drain(..) {
            self.ring.put_used(head, u32::try_from(bytes).unwrap_or(u32::MAX));
        }
        self.counters.receive.frame(self.frame.bytes - HEADER_BYTES);
        (self.frame.chain_count, self.frame.bytes) = (None, 0);
    }
}
