//! The disk is a piece of memory; the guest may say of a request that it fails.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::eventfd::{EfdFlags, EventFd};
use vmm::virtio::block::{Block, BlockSpec};
use volume::{BlockBackend, BlockQueue, BlockRequest, Completion, QueueFull};

use crate::driver::Machine;

const DISK_BYTES: usize = 0x1_0000;

#[derive(Default)]
struct Disk {
    bytes: Mutex<Vec<u8>>,
    fails: AtomicBool,
    holds: AtomicBool,
}

struct Backend(Arc<Disk>);

struct DiskQueue {
    disk: Arc<Disk>,
    event: EventFd,
    done: VecDeque<Completion>,
    depth: usize,
}

impl BlockBackend for Backend {
    fn size_bytes(&self) -> u64 {
        DISK_BYTES as u64
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        let (disk, event) =
            (self.0.clone(), EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        Ok(Box::new(DiskQueue { disk, event, done: VecDeque::new(), depth: usize::from(depth) }))
    }

    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl BlockQueue for DiskQueue {
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        assert!(self.done.len() < self.depth, "the device gives no more than it asked room for");
        let mut bytes = self.disk.bytes.lock().expect("nobody panics");
        // A range outside of the disk panics here: the device must not let it through.
        let at = |offset: u64| usize::try_from(offset).expect("64 bits");
        match request {
            BlockRequest::Read { offset, buffers } => {
                let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
                let mut source = &bytes[at(offset)..at(offset) + length];
                for buffer in buffers {
                    source = &source[buffer.copy_from(source)..];
                }
            }
            BlockRequest::Write { offset, buffers } => {
                let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
                let mut target = &mut bytes[at(offset)..at(offset) + length];
                for buffer in buffers {
                    let copied = buffer.copy_to(target);
                    target = &mut target[copied..];
                }
            }
            BlockRequest::Flush => {}
            BlockRequest::Discard { offset, len } | BlockRequest::WriteZeroes { offset, len, .. } => {
                bytes[at(offset)..at(offset + len)].fill(0);
            }
        }
        let fails = self.disk.fails.load(Ordering::Relaxed);
        let result = if fails { Err(io::ErrorKind::Other.into()) } else { Ok(()) };
        self.done.push_back(Completion { token, result });
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion> {
        if self.disk.holds.load(Ordering::Relaxed) { None } else { self.done.pop_front() }
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.disk.holds.store(false, Ordering::Relaxed);
        Ok(())
    }
}

thread_local! {
    static MACHINE: RefCell<(Arc<Disk>, Machine)> = RefCell::new({
        let disk = Arc::new(Disk { bytes: Mutex::new(vec![0; DISK_BYTES]), ..Disk::default() });
        let backend = Arc::new(Backend(disk.clone()));
        let spec = BlockSpec { name: "blk".into(), serial: "vol".into(), backend, queues: 1 };
        let (_, mut parts) = Block::new(spec).expect("there are descriptors");
        (disk, Machine::new(parts.device, parts.workers.remove(0), &[]))
    });
}

/// Runs one driver.
pub fn run(data: &[u8]) {
    MACHINE.with_borrow_mut(|(disk, machine)| {
        machine.run(data, |bytes| {
            let first = bytes.first().copied().unwrap_or(0);
            disk.fails.store(first & 1 != 0, Ordering::Relaxed);
            disk.holds.store(first & 2 != 0, Ordering::Relaxed);
        });
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
