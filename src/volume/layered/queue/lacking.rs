//! Blocks that a volume was made without, and has to fetch: what a request does until it has them.
//!
//! A read is served as soon as the chunk is there, from memory: the file would have to wait until the chunk is on the disk. A write of a
//! part of a block waits until the block stands in a layer.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{Queue, Storage};
use crate::layered::base::Want;
use crate::layered::map::Location;
use crate::queue::Cursor;
use crate::snapshot::CHUNK_BYTES;
use crate::snapshot::format::CHUNK_BLOCKS;

/// What a request needs of the blocks that the volume may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// What they are.
    Bytes,
    /// That they stand in a layer.
    Place,
}

impl<S: Storage> Queue<S> {
    /// Whether some of these blocks must be fetched first: then the request waits for that, or has failed.
    pub(super) fn lacks(&mut self, index: u32, blocks: Range<u64>, needs: Needs) -> bool {
        let request = &mut self.requests[index as usize];
        request.arrived.clear();
        let Some(base) = self.engine.base() else { return false };
        let mut is_lacking = false;
        let mut next = blocks.start;
        while next < blocks.end {
            let (location, run) = self.engine.map.run(next, blocks.end - next);
            let end = next + run;
            while location == Location::Absent && next < end && base.has(next) {
                let since = *request.waits_since.get_or_insert_with(|| base.clock());
                let chunk = next / CHUNK_BLOCKS;
                match base.want(chunk, since, &self.waker) {
                    Want::Arrived(bytes) if needs == Needs::Bytes => request.arrived.push((chunk, bytes)),
                    Want::Arrived(_) | Want::Waits => is_lacking = true,
                    Want::Failed => {
                        request.error.get_or_insert(io::Error::from_raw_os_error(libc::EIO));
                        return true;
                    }
                }
                next = (chunk + 1) * CHUNK_BLOCKS;
            }
            next = next.max(end);
        }
        if is_lacking {
            self.parked.push_back(index);
        }
        is_lacking
    }

    /// Fills the next part of the buffers, within a chunk, with what no layer has.
    pub(super) fn copy_arrived(
        &mut self,
        index: u32,
        location: Location,
        at: u64,
        cursor: &mut Cursor<'_>,
        len: u64,
    ) {
        let request = &mut self.requests[index as usize];
        let chunk = at / CHUNK_BYTES;
        let arrived =
            request.arrived.iter().find(|(other, _)| *other == chunk && location == Location::Absent);
        let Some((_, Some(bytes))) = arrived else {
            return cursor.take(len).for_each(|buffer| buffer.fill_with_zeroes());
        };
        let bytes = Arc::clone(bytes);
        let mut rest = &bytes[usize::try_from(at % CHUNK_BYTES).expect("within a chunk")..];
        self.scratch.clear();
        self.scratch.extend(cursor.take(len));
        if self.engine.cipher.is_some() {
            request.bounce_run(at, len, &mut self.scratch);
        }
        for buffer in &self.scratch {
            rest = &rest[buffer.copy_from(rest)..];
        }
    }
}
