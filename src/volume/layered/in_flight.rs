//! The ranges of blocks that are being written.
//!
//! A write in place goes along with others in place, as on any disk. A tracked one (it gives a block to the layer, makes it zeroes, or
//! its checksum must be known) has its blocks alone: so the state of a block, its checksum and its copy from below never depend on how
//! two writes meet.

use std::ops::Range;

use super::map::LayerId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Shared,
    Alone,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    first: u64,
    end: u64,
    access: Access,
    layer: LayerId,
}

/// Few at a time: as many as all queues are deep. So a list is faster than a tree.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Vec<Option<Write>>);

impl InFlight {
    /// Whether a write of these blocks must wait.
    pub(crate) fn conflicts(&self, blocks: &Range<u64>, access: Access) -> bool {
        self.0.iter().flatten().any(|write| {
            write.first < blocks.end
                && blocks.start < write.end
                && (access == Access::Alone || write.access == Access::Alone)
        })
    }

    pub(crate) fn add(&mut self, blocks: &Range<u64>, access: Access, layer: LayerId) -> usize {
        let write = Some(Write { first: blocks.start, end: blocks.end, access, layer });
        match self.0.iter().position(Option::is_none) {
            Some(free) => {
                self.0[free] = write;
                free
            }
            None => {
                self.0.push(write);
                self.0.len() - 1
            }
        }
    }

    pub(crate) fn remove(&mut self, index: usize) {
        self.0[index] = None;
    }

    /// Whether a block is being written by somebody who has it alone.
    pub(crate) fn is_tracked(&self, block: u64) -> bool {
        self.conflicts(&(block..block + 1), Access::Shared)
    }

    pub(crate) fn any_in(&self, layer: LayerId) -> bool {
        self.0.iter().flatten().any(|write| write.layer == layer)
    }
}
