//! What a queue knows of a request.

use std::io;

use crate::backend::IoBuffer;
use crate::layered::base::ChunkBytes;
use crate::layered::state::Permit;
use crate::sys::AlignedMemory;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Read,
    Write,
    Zero { punch: bool },
    Flush,
}

/// What a request's calls are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// None yet, or those for a part of it have ended.
    Begun,
    Reading,
    InPlace,
    CopyingUp,
    Writing,
    Punching,
    Ended,
}

pub(super) struct Request<F> {
    pub(super) token: u64,
    pub(super) work: Work,
    pub(super) stage: Stage,
    /// What is to be done yet, in bytes of the volume, and where the part that is being done ends.
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) part_end: u64,
    /// The guest's, and where in the volume the first of them begins.
    pub(super) buffers: Vec<IoBuffer>,
    pub(super) start: u64,
    /// Calls that the ring has, and the files that they are on.
    pub(super) calls: u32,
    pub(super) slots: Vec<u32>,
    pub(super) error: Option<io::Error>,
    /// When it began to wait for chunks of a snapshot, by the clock of those.
    pub(super) waits_since: Option<u64>,
    /// What a read needs of the snapshot, and no layer had when it was last looked.
    pub(super) arrived: Vec<(u64, ChunkBytes)>,
    pub(super) permit: Option<Permit<F>>,
    /// Whole blocks that the guest's memory is only a part of, or that must not change while they are written.
    pub(super) bounce: AlignedMemory,
    /// Whether all blocks of a write are there, and not only those that are written in part.
    pub(super) is_all_bounced: bool,
    /// Of each block, if they are to be known.
    pub(super) has_checksums: bool,
    pub(super) checksums: Vec<u32>,
    /// A list of buffers, to be used again.
    pub(super) list: Vec<IoBuffer>,
    /// What is read into the bounce memory: where in the volume it begins, and its length.
    pub(super) runs: Vec<(u64, u64)>,
}

impl<F> Request<F> {
    pub(super) fn new() -> Self {
        Self {
            token: 0,
            work: Work::Flush,
            stage: Stage::Begun,
            at: 0,
            end: 0,
            part_end: 0,
            buffers: Vec::new(),
            start: 0,
            calls: 0,
            slots: Vec::new(),
            error: None,
            waits_since: None,
            arrived: Vec::new(),
            permit: None,
            bounce: AlignedMemory::zeroed(0),
            is_all_bounced: false,
            has_checksums: false,
            checksums: Vec::new(),
            list: Vec::new(),
            runs: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, token: u64) {
        self.token = token;
        self.stage = Stage::Begun;
        self.error = None;
        self.waits_since = None;
    }

    pub(super) fn set(&mut self, work: Work, offset: u64, len: u64, buffers: &[IoBuffer]) {
        (self.work, self.at, self.end, self.start) = (work, offset, offset + len, offset);
        self.buffers.clear();
        self.buffers.extend_from_slice(buffers);
    }

    /// Makes sure that there is so much bounce memory.
    pub(super) fn reserve_bounce(&mut self, len: usize) {
        if self.bounce.buffer().len() < len {
            self.bounce = AlignedMemory::zeroed(len);
        }
    }
}
