//! A snapshot as a disk, which can only be read.
//!
//! Nothing is stored on the host: chunks are fetched when something of them is read, and the [`CACHED_CHUNKS`] that were used last are kept
//! in memory. The requests of one submission are served together, each chunk that they need fetched once and several at a time; all of them
//! have ended when `submit` returns, so whoever submits waits for the store.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::error::SnapshotError;
use super::format::CHUNK_BYTES;
use super::parallel;
use super::reader::Snapshot;
use crate::backend::{
    BlockBackend, BlockQueue, BlockRequest, Completion, Content, Extent, IoBuffer, QueueFull,
};
use crate::queue::check;
use crate::raw::check_range;

/// How many chunks are kept: 32 MiB.
const CACHED_CHUNKS: usize = 64;

/// The bytes of a chunk; nothing if they are all zeroes.
type Bytes = Option<Arc<Vec<u8>>>;

/// A disk that holds what a snapshot does. Clones, and all queues, share what was fetched.
#[derive(Clone)]
pub struct SnapshotDisk(Arc<Source>);

struct Source {
    snapshot: Snapshot,
    cache: Mutex<Cache>,
    /// A chunk is no longer under way.
    news: Condvar,
}

#[derive(Default)]
struct Cache {
    /// Each with the time of its last use.
    chunks: HashMap<u64, (Bytes, u64)>,
    under_way: HashSet<u64>,
    clock: u64,
}

impl Cache {
    fn find(&mut self, index: u64) -> Option<Bytes> {
        self.clock += 1;
        let (bytes, used) = self.chunks.get_mut(&index)?;
        *used = self.clock;
        Some(bytes.clone())
    }

    fn keep(&mut self, index: u64, bytes: Bytes) {
        if self.chunks.len() >= CACHED_CHUNKS {
            let oldest = self.chunks.iter().min_by_key(|(_, (_, used))| *used).map(|(index, _)| *index);
            oldest.and_then(|oldest| self.chunks.remove(&oldest));
        }
        self.clock += 1;
        self.chunks.insert(index, (bytes, self.clock));
    }
}

impl Source {
    /// Nothing panics while it changes what is kept.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk; who else fetches the same one is waited for.
    fn chunk(&self, index: u64) -> Result<Bytes, SnapshotError> {
        {
            let mut cache = self.cache();
            while cache.under_way.contains(&index) {
                cache = self.news.wait(cache).unwrap_or_else(PoisonError::into_inner);
            }
            if let Some(bytes) = cache.find(index) {
                return Ok(bytes);
            }
            cache.under_way.insert(index);
        }
        let fetched = self.snapshot.chunk(index).map(|bytes| bytes.map(Arc::new));
        let mut cache = self.cache();
        cache.under_way.remove(&index);
        self.news.notify_all();
        if let Ok(bytes) = &fetched {
            cache.keep(index, bytes.clone());
        }
        fetched
    }

    fn has(&self, index: u64) -> bool {
        self.cache().chunks.contains_key(&index)
    }
}

impl SnapshotDisk {
    pub fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(Source { snapshot, cache: Mutex::default(), news: Condvar::new() }))
    }
}

impl BlockBackend for SnapshotDisk {
    fn size_bytes(&self) -> u64 {
        self.0.snapshot.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        Ok(Box::new(SnapshotQueue {
            source: Arc::clone(&self.0),
            event: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            depth: usize::from(depth.max(1)),
            pushed: Vec::new(),
            wanted: BTreeMap::new(),
            ended: VecDeque::new(),
        }))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(offset, buffer.len(), self.size_bytes())?;
        let mut rest = buffer;
        for (index, start, len) in parts(offset, rest.len()) {
            let (part, after) = rest.split_at_mut(len);
            match self.0.chunk(index).map_err(io::Error::other)? {
                Some(bytes) => part.copy_from_slice(&bytes[start..start + len]),
                None => part.fill(0),
            }
            rest = after;
        }
        Ok(())
    }

    fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let first = offset / CHUNK_BYTES;
        let run = self.0.snapshot.run(first, (offset + len).div_ceil(CHUNK_BYTES));
        let (is_there, chunks) = run.map_err(io::Error::other)?;
        let content = if is_there { Content::Data } else { Content::Hole };
        Ok(Extent { content, len: len.min((first + chunks) * CHUNK_BYTES - offset) })
    }
}

/// The chunks of a range: which, from where on within it, and how much of it.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = usize::try_from(at % CHUNK_BYTES).expect("within a chunk");
        let in_chunk = usize::try_from(CHUNK_BYTES).expect("a length of memory") - start;
        let part = (len - done).min(in_chunk);
        done += part;
        (part > 0).then_some((at / CHUNK_BYTES, start, part))
    })
}

struct SnapshotQueue {
    source: Arc<Source>,
    event: EventFd,
    depth: usize,
    /// What was not submitted yet.
    pushed: Vec<Completion>,
    /// What it needs of each chunk.
    wanted: BTreeMap<u64, Vec<Piece>>,
    ended: VecDeque<Completion>,
}

/// What a request needs of a chunk.
struct Piece {
    /// Its place in `pushed`.
    request: usize,
    start: usize,
    target: IoBuffer,
}

impl SnapshotQueue {
    /// Serves all that is wanted of some chunk; says what to tell those requests if that cannot be.
    fn serve(&self, index: u64, pieces: &[Piece]) -> Result<(), ()> {
        match self.source.chunk(index) {
            Ok(Some(bytes)) => pieces.iter().for_each(|piece| {
                piece.target.copy_from(&bytes[piece.start..]);
            }),
            Ok(None) => pieces.iter().for_each(|piece| piece.target.fill_with_zeroes()),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a snapshot cannot be read");
                return Err(());
            }
        }
        Ok(())
    }
}

impl BlockQueue for SnapshotQueue {
    fn completion_event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn push(&mut self, token: u64, request: BlockRequest<'_>) -> Result<(), QueueFull> {
        if self.in_flight() >= self.depth {
            return Err(QueueFull);
        }
        let result = check(&request, self.source.snapshot.size_bytes(), true);
        if let (Ok(()), BlockRequest::Read { mut offset, buffers }) = (&result, request) {
            for buffer in buffers {
                let mut done = 0;
                for (index, start, len) in parts(offset, buffer.len()) {
                    let piece = Piece { request: self.pushed.len(), start, target: buffer.part(done, len) };
                    self.wanted.entry(index).or_default().push(piece);
                    done += len;
                }
                offset += done as u64;
            }
        }
        self.pushed.push(Completion { token, result });
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.pushed.is_empty() {
            return Ok(());
        }
        let wanted: Vec<(u64, Vec<Piece>)> = std::mem::take(&mut self.wanted).into_iter().collect();
        let failed = Mutex::new(HashSet::new());
        let serve = |(index, pieces): &(u64, Vec<Piece>)| {
            if self.serve(*index, pieces).is_err() {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.extend(pieces.iter().map(|piece| piece.request));
            }
        };
        // Those that are at hand need no other thread.
        let (at_hand, missing): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|(index, _)| self.source.has(*index));
        at_hand.iter().for_each(serve);
        let Ok(()) = parallel(&missing, |chunk| {
            serve(chunk);
            Ok::<_, Infallible>(())
        });
        for request in failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.pushed[request].result = Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.ended.extend(self.pushed.drain(..));
        self.event.write(1)?;
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.ended.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.pushed.len() + self.ended.len()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::memory::{Fault, MemoryStore};
    use super::super::{ObjectStore, SnapshotWriter};
    use super::*;
    use crate::testing::{Memory, execute};

    const CHUNKS: u64 = 80;

    fn chunk(index: u64) -> Vec<u8> {
        vec![u8::try_from(index).unwrap() + 1; usize::try_from(CHUNK_BYTES).unwrap()]
    }

    /// A disk of more chunks than are kept, of which every third is zeroes, and its store.
    fn disk() -> (SnapshotDisk, MemoryStore) {
        let memory = MemoryStore::new();
        let store: Arc<dyn ObjectStore> = Arc::new(memory.clone());
        let writer = SnapshotWriter::begin(Arc::clone(&store), None, CHUNKS * CHUNK_BYTES).unwrap();
        (0..CHUNKS)
            .filter(|index| index % 3 != 2)
            .for_each(|index| writer.put_chunk(index, &chunk(index)).unwrap());
        let snapshot = Snapshot::open(store, writer.finish().unwrap()).unwrap();
        (SnapshotDisk::new(snapshot), memory)
    }

    #[test]
    fn chunks_are_fetched_once_while_they_are_kept_and_few_are() {
        let (disk, store) = disk();
        let mut queue = disk.open_queue(4).unwrap();
        let memory = Memory::new(2 * chunk(0).len());
        let read = |queue: &mut dyn BlockQueue, offset| {
            execute(queue, BlockRequest::Read { offset, buffers: &memory.pieces(4096) }).unwrap();
            memory.to_vec()
        };
        let expected = [&chunk(0)[100 * 512..], &chunk(1), &vec![0; 100 * 512][..]].concat();
        assert!(read(&mut *queue, 100 * 512) == expected);
        let calls = store.calls();
        // Another queue has them too.
        assert!(read(&mut *disk.open_queue(1).unwrap(), 100 * 512) == expected);
        assert_eq!(store.calls(), calls);
        for index in 0..CHUNKS - 1 {
            let both = read(&mut *queue, index * CHUNK_BYTES);
            assert_eq!(both[0], if index % 3 == 2 { 0 } else { chunk(index)[0] });
        }
        assert_eq!(disk.0.cache().chunks.len(), CACHED_CHUNKS);
        let calls = store.calls();
        read(&mut *queue, 0);
        assert!(store.calls() > calls, "it was given up for later ones");
    }

    #[test]
    fn what_cannot_be_read_fails_alone_and_not_for_ever() {
        let (disk, store) = disk();
        disk.read_at(0, &mut [0; 512]).unwrap();
        let mut queue = disk.open_queue(4).unwrap();
        let memories = [Memory::new(512), Memory::new(512)];
        let mut read_both = || {
            for (token, memory) in (0..).zip(&memories) {
                let request = BlockRequest::Read { offset: token * CHUNK_BYTES, buffers: &[memory.all()] };
                queue.push(token, request).unwrap();
            }
            queue.wait().unwrap();
            [queue.next_completion().unwrap().result, queue.next_completion().unwrap().result]
        };
        store.heal();
        store.fault_at(1..9, Fault::WrongBytes);
        let [there, wrong] = read_both();
        there.unwrap();
        assert_eq!(wrong.unwrap_err().raw_os_error(), Some(libc::EIO));
        store.heal();
        read_both().into_iter().for_each(Result::unwrap);
        assert_eq!(memories[1].to_vec(), &chunk(1)[..512]);
    }
}
