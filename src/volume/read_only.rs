//! A disk that refuses to be written to, whatever lies under it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::backend::{BlockBackend, BlockQueue, BlockRequest, Completion, Extent, QueueFull, Topology};

/// All but reads and flushes end with `EROFS`.
pub struct ReadOnly(pub Arc<dyn BlockBackend>);

struct ReadOnlyQueue {
    queue: Box<dyn BlockQueue>,
    depth: usize,
    refused: VecDeque<u64>,
}

impl BlockBackend for ReadOnly {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn topology(&self) -> Topology {
        self.0.topology()
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        let queue = self.0.open_queue(depth)?;
        Ok(Box::new(ReadOnlyQueue { queue, depth: usize::from(depth), refused: VecDeque::new() }))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.0.extent(offset, len)
    }
}

impl BlockQueue for ReadOnlyQueue {
    /// What is refused has ended when it was pushed, and is taken after the next submit.
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.queue.completion_event()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        if self.in_flight() == self.depth {
            return Err(QueueFull);
        }
        match request {
            BlockRequest::Read { .. } | BlockRequest::Flush => self.queue.push(token, request),
            BlockRequest::Write { .. } | BlockRequest::Discard { .. } | BlockRequest::WriteZeroes { .. } => {
                self.refused.push_back(token);
                Ok(())
            }
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        self.queue.submit()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        let refused = self
            .refused
            .pop_front()
            .map(|token| Completion { token, result: Err(io::Error::from_raw_os_error(libc::EROFS)) });
        refused.or_else(|| self.queue.next_completion())
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight() + self.refused.len()
    }

    fn wait(&mut self) -> io::Result<()> {
        if self.refused.is_empty() { self.queue.wait() } else { self.queue.submit() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;
    use crate::{RawFile, RawOptions};

    #[test]
    fn reads_pass_and_writes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, [7; 4096]).unwrap();
        let disk = ReadOnly(Arc::new(RawFile::open(&path, RawOptions::default()).unwrap()));
        assert!(disk.is_read_only() && disk.size_bytes() == 4096);
        let mut queue = disk.open_queue(4).unwrap();
        let (read, written) = (Memory::new(512), Memory::from_bytes(&[1; 512]));
        queue.push(0, BlockRequest::Read { offset: 512, buffers: &[read.all()] }).unwrap();
        queue.push(1, BlockRequest::Write { offset: 0, buffers: &[written.all()] }).unwrap();
        queue.push(2, BlockRequest::Discard { offset: 0, len: 512 }).unwrap();
        queue.push(3, BlockRequest::WriteZeroes { offset: 0, len: 512, may_unmap: true }).unwrap();
        assert!(queue.push(4, BlockRequest::Flush).is_err(), "four are in flight");
        let mut ended = Vec::new();
        while queue.in_flight() > 0 {
            queue.wait().unwrap();
            ended.extend(std::iter::from_fn(|| queue.next_completion()));
        }
        for Completion { token, result } in ended {
            let error = result.err().and_then(|error| error.raw_os_error());
            assert_eq!(error, (token != 0).then_some(libc::EROFS), "{token}");
        }
        assert_eq!(read.to_vec(), [7; 512]);
        drop(queue);
        assert_eq!(std::fs::read(&path).unwrap(), [7; 4096]);
    }
}
