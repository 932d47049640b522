//! Where a layered volume lives: a folder of files, and rings that move data to and from them.
//!
//! The engine is generic over [`Storage`], so that one and the same code runs on the host's files ([`host`]) and, in tests, on a
//! storage in memory that forgets or tears at a crash what was not synced (`fake`).
//!
//! What an implementation promises, and no more: a write is seen by every later read; it survives a crash once a `sync_data` of its
//! file returned that began after the write ended; before that any 512 bytes of it may survive or not. A name survives once a
//! `sync_folder` returned that began after it was made. A rename is one step.

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod host;

use std::io;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;

use crate::backend::IoBuffer;
use crate::sys::{Call, Ended, FileIndex};

/// A folder.
pub(crate) trait Storage: Send + Sync + Sized + 'static {
    type File: StorageFile;
    type Ring: StorageRing<File = Self::File>;

    /// Makes an empty file that there is not yet.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    fn open(&self, name: &str) -> io::Result<Self::File>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn names(&self) -> io::Result<Vec<String>>;
    fn sync_folder(&self) -> io::Result<()>;
    /// Sixteen bytes that nobody else has.
    fn unique(&self) -> io::Result<[u8; 16]>;
    fn ring(&self, depth: u16) -> io::Result<Self::Ring>;
}

/// A file. Every transfer is of all bytes.
pub(crate) trait StorageFile: Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Beyond the end of the file are zeroes.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Takes the space that later writes of the range need.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes the range zeroes and gives its space back, where the file system can.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// The first place from `offset` on that may hold other than zeroes.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    fn sync_data(&self) -> io::Result<()>;
    /// Begins to write what a sync will have to wait for: who syncs several files begins with all of them, so that these wait together.
    fn begin_sync(&self) {}
}

/// One thread's way to move data: calls that are started, submitted together, and end in any order.
/// How a ring goes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Past the page cache, where the file system has that.
    Direct,
    /// Through the page cache, where what was written a moment ago still is: past it, it would have to be on the disk first.
    Cached,
}

pub(crate) trait StorageRing: Send {
    type File: StorageFile;

    /// Readable when a call ended, as for [`BlockQueue`](crate::BlockQueue); whoever wants the ring's owner writes to it.
    fn event(&self) -> &Arc<EventFd>;
    /// Puts a file at a place of the ring's list, or nothing. No call may be on its way to what stood there.
    fn set_file(&mut self, index: FileIndex, file: Option<(&Self::File, Way)>) -> io::Result<()>;
    fn start(&mut self, owner: u32, call: Call, buffers: &[IoBuffer]);
    fn submit(&mut self) -> io::Result<()>;
    /// A call that has ended, if any has; arms the event when there is none.
    fn next(&mut self) -> Option<Ended>;
    /// Waits until a call ended, or none is on its way.
    fn wait(&mut self) -> io::Result<()>;
}
