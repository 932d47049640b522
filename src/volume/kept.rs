//! A request that is kept, to be given to a disk later or once more.

use crate::backend::{BlockRequest, IoBuffer};

/// Has room for a request, which is used again.
#[derive(Default)]
pub(crate) struct Kept {
    what: What,
    buffers: Vec<IoBuffer>,
}

#[derive(Clone, Copy, Default)]
enum What {
    Read {
        offset: u64,
    },
    Write {
        offset: u64,
    },
    #[default]
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
        may_unmap: bool,
    },
}

impl Kept {
    pub(crate) fn keep(&mut self, request: BlockRequest<'_>) {
        let (what, buffers) = match request {
            BlockRequest::Read { offset, buffers } => (What::Read { offset }, buffers),
            BlockRequest::Write { offset, buffers } => (What::Write { offset }, buffers),
            BlockRequest::Flush => (What::Flush, &[][..]),
            BlockRequest::Discard { offset, len } => (What::Discard { offset, len }, &[][..]),
            BlockRequest::WriteZeroes { offset, len, may_unmap } => {
                (What::WriteZeroes { offset, len, may_unmap }, &[][..])
            }
        };
        self.what = what;
        self.buffers.clear();
        self.buffers.extend_from_slice(buffers);
    }

    pub(crate) fn request(&self) -> BlockRequest<'_> {
        let buffers = &self.buffers;
        match self.what {
            What::Read { offset } => BlockRequest::Read { offset, buffers },
            What::Write { offset } => BlockRequest::Write { offset, buffers },
            What::Flush => BlockRequest::Flush,
            What::Discard { offset, len } => BlockRequest::Discard { offset, len },
            What::WriteZeroes { offset, len, may_unmap } => {
                BlockRequest::WriteZeroes { offset, len, may_unmap }
            }
        }
    }
}
