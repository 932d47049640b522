//! What every [`BlockBackend`] must do, tried on each of ours and on each file system at hand.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::backend::{BlockBackend, BlockQueue, BlockRequest, Completion, Content, Extent, SECTOR_BYTES};
use crate::crypt::OpenKeys;
use crate::extents::extents;
use crate::snapshot::store::memory::MemoryStore;
use crate::snapshot::{CHUNK_BYTES, ObjectStore, Snapshot, SnapshotDisk, SnapshotWriter};
use crate::testing::{FakeDisk, Memory, execute};
use crate::{Overlay, RawError, RawFile, RawOptions, Stores, Volume};
use types::volume::{Allowance, Limits};

const SECTORS: usize = 64;
const SECTOR: usize = 512;

/// A disk under test, with the folder that its files are in.
struct Disk {
    backend: Box<dyn BlockBackend>,
    _folder: Option<TempDir>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Fake,
    Raw,
    Direct,
    Overlay,
    OverlayOverDirect,
    /// Half of the disk is the base's and half is new.
    GrownOverlay,
    /// With a layer below the top that holds half of it.
    Layered,
    /// The same with a key.
    Encrypted,
    /// With so few operations a second that some are held.
    Limited,
    Waiting,
    /// Of a snapshot in a store; it can only be read.
    Snapshot,
}

/// Every kind on every file system at hand: the machine's, tmpfs, and that of the test itself, which is
/// the checkout's (9p in the lab). Direct I/O only where there is any.
fn all() -> Vec<(Kind, PathBuf)> {
    use Kind::{
        Direct, Encrypted, Fake, GrownOverlay, Layered, Limited, Overlay, OverlayOverDirect, Raw, Waiting,
    };
    let here = std::env::current_exe().unwrap();
    let mut all = vec![(Fake, "/".into())];
    for parent in [Path::new("/var/tmp"), Path::new("/dev/shm"), here.parent().unwrap()] {
        let direct = if has_direct(parent) { &[Direct, OverlayOverDirect][..] } else { &[] };
        let kinds = [Raw, Overlay, GrownOverlay, Layered, Encrypted, Limited, Waiting].iter().chain(direct);
        all.extend(kinds.map(|kind| (*kind, parent.to_owned())));
    }
    all
}

/// Whether files in a folder can be used with direct I/O; if not, opening one must say so.
fn has_direct(parent: &Path) -> bool {
    let folder = tempfile::tempdir_in(parent).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [0; SECTOR]).unwrap();
    match RawFile::open(&path, RawOptions { read_only: false, direct: true }) {
        Ok(_) => true,
        Err(RawError::NoDirect { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A disk of this kind whose files are in a new folder in `parent`, and which holds `bytes`.
fn disk(kind: Kind, parent: &Path, bytes: &[u8]) -> Disk {
    if matches!(kind, Kind::Fake) {
        return Disk { backend: Box::new(FakeDisk::new(bytes.to_vec())), _folder: None };
    }
    if matches!(kind, Kind::Snapshot) {
        return Disk { backend: snapshot(bytes), _folder: None };
    }
    let folder = tempfile::tempdir_in(parent).unwrap();
    let backend = file_backend(kind, folder.path(), bytes);
    Disk { backend, _folder: Some(folder) }
}

fn file_backend(kind: Kind, folder: &Path, bytes: &[u8]) -> Box<dyn BlockBackend> {
    if matches!(kind, Kind::Layered | Kind::Encrypted) {
        return layered(folder, bytes, matches!(kind, Kind::Encrypted));
    }
    let path = folder.join("disk");
    let half = bytes.len() / 2;
    let content = if matches!(kind, Kind::GrownOverlay) { &bytes[..half] } else { bytes };
    std::fs::write(&path, content).unwrap();
    let options = RawOptions {
        read_only: !matches!(kind, Kind::Raw | Kind::Direct | Kind::Limited | Kind::Waiting),
        direct: matches!(kind, Kind::Direct | Kind::OverlayOverDirect),
    };
    let raw = RawFile::open(&path, options).unwrap();
    match kind {
        Kind::Raw | Kind::Direct => Box::new(raw),
        Kind::Waiting => Box::new(crate::Waiting::new(Arc::new(raw)).unwrap()),
        Kind::Limited => Box::new(crate::Limited::new(Arc::new(raw), Some(few())).unwrap()),
        Kind::Overlay | Kind::OverlayOverDirect => Box::new(Overlay::create(&raw, folder, None).unwrap()),
        Kind::GrownOverlay => {
            let overlay = Overlay::create(&raw, folder, Some(bytes.len() as u64)).unwrap();
            let rest = Memory::from_bytes(&bytes[half..]);
            let request = BlockRequest::Write { offset: half as u64, buffers: &[rest.all()] };
            execute(&mut *overlay.open_queue(1).unwrap(), request).unwrap();
            Box::new(overlay)
        }
        Kind::Fake | Kind::Layered | Kind::Encrypted | Kind::Snapshot => unreachable!("made elsewhere"),
    }
}

fn few() -> Limits {
    let always = |rate| Allowance { base: rate, peak: rate, credits: 0 };
    Limits { iops: always(5000), bytes: always(100 << 20), unit_bytes: 4096, whole_units: false }
}

fn layered(folder: &Path, bytes: &[u8], is_encrypted: bool) -> Box<dyn BlockBackend> {
    let size = bytes.len() as u64;
    let volume = if is_encrypted {
        Volume::create_encrypted(folder, size, &OpenKeys, &"key".parse().unwrap()).unwrap();
        Volume::open_with(folder, Stores { keys: Some(Arc::new(OpenKeys)), objects: None }).unwrap()
    } else {
        Volume::create(folder, size).unwrap();
        Volume::open(folder).unwrap()
    };
    let mut queue = volume.open_queue(1).unwrap();
    let memory = Memory::from_bytes(bytes);
    execute(&mut *queue, BlockRequest::Write { offset: 0, buffers: &[memory.all()] }).unwrap();
    volume.seal().unwrap();
    let half = memory.all().part(bytes.len() / 2, usize::MAX);
    execute(&mut *queue, BlockRequest::Write { offset: bytes.len() as u64 / 2, buffers: &[half] }).unwrap();
    Box::new(volume)
}

/// A snapshot of one chunk, of which only the beginning is of the disk.
fn snapshot(bytes: &[u8]) -> Box<dyn BlockBackend> {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let writer = SnapshotWriter::begin(Arc::clone(&store), None, bytes.len() as u64).unwrap();
    let mut chunk = bytes.to_vec();
    chunk.resize(usize::try_from(CHUNK_BYTES).unwrap(), 0);
    writer.put_chunk(0, &chunk).unwrap();
    Box::new(SnapshotDisk::new(Snapshot::open(store, writer.finish().unwrap()).unwrap()))
}

/// For tests that only read.
fn for_each_readable_kind(bytes: &[u8], test: impl Fn(&dyn BlockBackend)) {
    for_each_kind(bytes, &test);
    test(&*disk(Kind::Snapshot, Path::new("/"), bytes).backend);
}

fn for_each_kind(bytes: &[u8], test: impl Fn(&dyn BlockBackend)) {
    for (kind, parent) in all() {
        eprintln!("{kind:?} in {}", parent.display());
        let disk = disk(kind, &parent, bytes);
        test(&*disk.backend);
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from((index / SECTOR * 7 + index) % 251).unwrap()).collect()
}

fn read_all(backend: &dyn BlockBackend) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(backend.size_bytes()).unwrap()];
    backend.read_at(0, &mut bytes).unwrap();
    bytes
}

/// What a disk says that it does not hold is zeroes, wherever it is asked from, and what it says covers all of it.
fn check_extents(backend: &dyn BlockBackend, bytes: &[u8]) {
    let end = bytes.len() as u64;
    let place = |offset| usize::try_from(offset).unwrap();
    for start in (0..end).step_by(SECTOR) {
        let Extent { content, len } = backend.extent(start, end - start).unwrap();
        assert!(len > 0 && len <= end - start && len.is_multiple_of(SECTOR_BYTES), "{len} at {start}");
        let is_zero = bytes[place(start)..place(start + len)].iter().all(|byte| *byte == 0);
        assert!(content == Content::Data || is_zero, "{content:?} at {start}");
        assert_eq!(backend.extent(start, SECTOR_BYTES).unwrap(), Extent { content, len: SECTOR_BYTES });
    }
    let covered: u64 = extents(backend, 0, end).map(|extent| extent.unwrap().1.len).sum();
    assert_eq!(covered, end);
}

/// Waits for the event as a device does, and takes all that ended.
fn drain(queue: &mut dyn BlockQueue) -> Vec<Completion> {
    drain_all(&mut [queue])
}

/// The same for several queues at once, as their threads would.
fn drain_all(queues: &mut [&mut dyn BlockQueue]) -> Vec<Completion> {
    let mut completions = Vec::new();
    while queues.iter().any(|queue| queue.in_flight() > 0) {
        let before = completions.len();
        queues
            .iter_mut()
            .for_each(|queue| completions.extend(std::iter::from_fn(|| queue.next_completion())));
        if completions.len() > before {
            continue;
        }
        let busy: Vec<_> = queues.iter().filter(|queue| queue.in_flight() > 0).collect();
        let events: Vec<_> = busy.iter().map(|queue| queue.completion_event()).collect();
        let mut polled: Vec<_> =
            events.iter().map(|event| PollFd::new(event.as_fd(), PollFlags::POLLIN)).collect();
        assert!(poll(&mut polled, PollTimeout::from(10_000u16)).unwrap() > 0, "no event in 10 s");
        // Poll knows no edges, so the events have to be read here.
        for event in
            polled.iter().zip(&events).filter(|(event, _)| event.any() == Some(true)).map(|(_, event)| event)
        {
            let _ = nix::unistd::read(event, &mut [0; 8]);
        }
    }
    completions
}

#[test]
fn a_disk_has_the_size_of_what_it_holds() {
    let bytes = pattern(SECTORS * SECTOR);
    for_each_readable_kind(&bytes, |backend| {
        assert_eq!(backend.size_bytes(), bytes.len() as u64);
        assert_eq!(read_all(backend), bytes);
    });
}

#[test]
fn reads_of_any_place_give_what_is_there_in_buffers_of_any_shape() {
    let bytes = pattern(SECTORS * SECTOR);
    for_each_readable_kind(&bytes, |backend| {
        let mut queue = backend.open_queue(4).unwrap();
        for (sector, count, piece) in [(0, 1, 512), (3, 20, 100), (7, 57, 4096), (0, 64, 1), (63, 1, 513)] {
            let memory = Memory::new(count * SECTOR);
            let offset = (sector * SECTOR) as u64;
            execute(&mut *queue, BlockRequest::Read { offset, buffers: &memory.pieces(piece) }).unwrap();
            assert_eq!(memory.to_vec(), &bytes[sector * SECTOR..(sector + count) * SECTOR]);
        }
    });
}

#[test]
fn what_a_disk_does_not_hold_is_zeroes() {
    let mut bytes = pattern(SECTORS * SECTOR);
    bytes[16 * SECTOR..40 * SECTOR].fill(0);
    for_each_readable_kind(&bytes, |backend| check_extents(backend, &bytes));
}

#[test]
fn a_batch_ends_with_each_token_once_and_rings_the_event() {
    let bytes = pattern(SECTORS * SECTOR);
    for_each_readable_kind(&bytes, |backend| {
        let mut queue = backend.open_queue(32).unwrap();
        for _ in 0..3 {
            let memories: Vec<Memory> = (0..32).map(|_| Memory::new(SECTOR)).collect();
            for (token, memory) in memories.iter().enumerate() {
                let token = token as u64;
                let offset = token * SECTOR_BYTES;
                queue.push(token, BlockRequest::Read { offset, buffers: &[memory.all()] }).unwrap();
            }
            assert!(queue.push(99, BlockRequest::Flush).is_err(), "the queue is full");
            queue.submit().unwrap();
            let mut tokens: Vec<u64> = drain(&mut *queue)
                .into_iter()
                .map(|completion| {
                    completion.result.unwrap();
                    completion.token
                })
                .collect();
            tokens.sort_unstable();
            assert_eq!(tokens, (0..32).collect::<Vec<u64>>());
            for (index, memory) in memories.iter().enumerate() {
                assert_eq!(memory.to_vec(), &bytes[index * SECTOR..(index + 1) * SECTOR]);
            }
        }
    });
}

#[test]
fn what_is_wrong_in_itself_is_refused_by_its_completion() {
    let bytes = pattern(SECTORS * SECTOR);
    let size = bytes.len() as u64;
    for_each_kind(&bytes, |backend| {
        let mut queue = backend.open_queue(4).unwrap();
        let sector = Memory::new(SECTOR);
        let odd = Memory::new(SECTOR - 1);
        let wrong = [
            BlockRequest::Read { offset: size, buffers: &[sector.all()] },
            BlockRequest::Read { offset: u64::MAX - 511, buffers: &[sector.all(), sector.all()] },
            BlockRequest::Read { offset: 1, buffers: &[sector.all()] },
            BlockRequest::Write { offset: 0, buffers: &[odd.all()] },
            BlockRequest::Discard { offset: size - 512, len: 1024 },
            BlockRequest::WriteZeroes { offset: 512, len: u64::MAX - 511, may_unmap: true },
        ];
        for request in wrong {
            let error = execute(&mut *queue, request).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{request:?}: {error}");
        }
        assert_eq!(
            backend.read_at(size, &mut [0]).unwrap_err().kind() == io::ErrorKind::UnexpectedEof,
            !is_fake(backend)
        );
        assert_eq!(read_all(backend), bytes, "a refused request changes nothing");
    });
}

fn is_fake(backend: &dyn BlockBackend) -> bool {
    // Only the fake one says so in the operating system's words.
    backend.read_at(u64::MAX, &mut [0]).unwrap_err().raw_os_error().is_some()
}

#[test]
fn a_disk_that_can_only_be_read_refuses_all_else() {
    let bytes = pattern(SECTORS * SECTOR);
    let disk = disk(Kind::Snapshot, Path::new("/"), &bytes);
    assert!(disk.backend.is_read_only());
    let mut queue = disk.backend.open_queue(4).unwrap();
    let sector = Memory::new(SECTOR);
    for request in [
        BlockRequest::Write { offset: 0, buffers: &[sector.all()] },
        BlockRequest::Discard { offset: 0, len: 512 },
        BlockRequest::WriteZeroes { offset: 0, len: 512, may_unmap: true },
    ] {
        assert_eq!(execute(&mut *queue, request).unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
    for offset in [SECTORS as u64 * SECTOR_BYTES, 1] {
        let error =
            execute(&mut *queue, BlockRequest::Read { offset, buffers: &[sector.all()] }).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
    execute(&mut *queue, BlockRequest::Flush).unwrap();
    assert_eq!(read_all(&*disk.backend), bytes);
}

#[test]
fn nothing_to_do_is_done() {
    for_each_kind(&pattern(SECTORS * SECTOR), |backend| {
        let mut queue = backend.open_queue(1).unwrap();
        assert!(queue.next_completion().is_none());
        queue.wait().unwrap();
        for request in [
            BlockRequest::Read { offset: 0, buffers: &[] },
            BlockRequest::Write { offset: 0, buffers: &[] },
            BlockRequest::Discard { offset: 0, len: 0 },
            BlockRequest::WriteZeroes { offset: 0, len: 0, may_unmap: false },
            BlockRequest::Flush,
        ] {
            execute(&mut *queue, request).unwrap();
        }
    });
}

#[test]
fn a_queue_may_be_opened_here_and_used_there() {
    let bytes = pattern(SECTORS * SECTOR);
    for_each_readable_kind(&bytes, |backend| {
        let mut queue = backend.open_queue(4).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let memory = Memory::new(SECTOR);
                let request = BlockRequest::Read { offset: 512, buffers: &[memory.all()] };
                execute(&mut *queue, request).unwrap();
                assert_eq!(memory.to_vec(), &pattern(SECTORS * SECTOR)[512..1024]);
            });
        });
    });
}

#[test]
fn a_queue_that_is_dropped_has_finished_its_writes() {
    for_each_kind(&vec![0; SECTORS * SECTOR], |backend| {
        let memory = Memory::from_bytes(&pattern(SECTORS * SECTOR));
        let mut queue = backend.open_queue(64).unwrap();
        for (index, piece) in memory.pieces(SECTOR).into_iter().enumerate() {
            let offset = (index * SECTOR) as u64;
            queue.push(0, BlockRequest::Write { offset, buffers: &[piece] }).unwrap();
        }
        queue.submit().unwrap();
        drop(queue);
        drop(memory);
    });
}

/// Four threads write the sectors of the same blocks, each its own ones.
#[test]
fn queues_that_share_blocks_do_not_undo_each_other() {
    const THREADS: usize = 4;
    for_each_kind(&vec![0xee; SECTORS * SECTOR], |backend| {
        let expected = pattern(SECTORS * SECTOR);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let memory = Memory::from_bytes(&expected);
                scope.spawn(move || {
                    let mut queue = backend.open_queue(8).unwrap();
                    for (sector, piece) in memory.pieces(SECTOR).into_iter().enumerate() {
                        if sector % THREADS != thread {
                            continue;
                        }
                        let request =
                            BlockRequest::Write { offset: (sector * SECTOR) as u64, buffers: &[piece] };
                        while queue.push(sector as u64, request).is_err() {
                            queue.wait().unwrap();
                            queue.next_completion().unwrap().result.unwrap();
                        }
                        queue.submit().unwrap();
                    }
                    for completion in drain(&mut *queue) {
                        completion.result.unwrap();
                    }
                });
            }
        });
        assert_eq!(read_all(backend), expected);
    });
}

/// One request of a history, in sectors.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read { piece: usize },
    Write { piece: usize, seed: u8 },
    Zero { may_unmap: bool },
    Discard,
    Flush,
}

fn any_step() -> impl Strategy<Value = (usize, usize, Step)> {
    let piece = prop_oneof![Just(512usize), Just(4096), Just(1024), 1usize..2000];
    let step = prop_oneof![
        4 => piece.clone().prop_map(|piece| Step::Read { piece }),
        5 => (piece, any::<u8>()).prop_map(|(piece, seed)| Step::Write { piece, seed }),
        1 => any::<bool>().prop_map(|may_unmap| Step::Zero { may_unmap }),
        1 => Just(Step::Discard),
        1 => Just(Step::Flush),
    ];
    (0..SECTORS, 1..24usize, step).prop_map(|(first, count, step)| (first, count.min(SECTORS - first), step))
}

/// What is in flight, with the sectors and the memory it uses.
struct InFlight {
    first: usize,
    count: usize,
    step: Step,
    memory: Memory,
}

/// Runs batches of requests over three queues. Those of a batch are in flight together and touch no
/// sector twice, so each one's outcome is known.
fn agrees_with_a_list_of_bytes(kind: Kind, parent: &Path, batches: &[Vec<(usize, usize, Step)>]) {
    let mut model: Vec<Option<u8>> = pattern(SECTORS * SECTOR).into_iter().map(Some).collect();
    let disk = disk(kind, parent, &pattern(SECTORS * SECTOR));
    let mut queues: Vec<_> = (0..3).map(|_| disk.backend.open_queue(32).unwrap()).collect();
    for batch in batches {
        let mut touched = [false; SECTORS];
        let mut in_flight = HashMap::new();
        for (token, &(first, count, step)) in batch.iter().enumerate() {
            let sectors = first..first + count;
            if touched[sectors.clone()].contains(&true) {
                continue;
            }
            touched[sectors].fill(true);
            let memory = push(&mut *queues[token % 3], token as u64, first, count, step);
            in_flight.insert(token as u64, InFlight { first, count, step, memory });
        }
        for queue in &mut queues {
            queue.submit().unwrap();
        }
        let mut queues: Vec<&mut dyn BlockQueue> = queues.iter_mut().map(|queue| &mut **queue as _).collect();
        for completion in drain_all(&mut queues) {
            completion.result.unwrap();
            apply(&mut model, &in_flight[&completion.token]);
        }
    }
    let bytes = read_all(&*disk.backend);
    check_extents(&*disk.backend, &bytes);
    for (index, (found, expected)) in bytes.into_iter().zip(&model).enumerate() {
        assert!(
            expected.is_none_or(|expected| expected == found),
            "byte {index} is {found}, not {expected:?}"
        );
    }
}

fn push(queue: &mut dyn BlockQueue, token: u64, first: usize, count: usize, step: Step) -> Memory {
    let (offset, len) = ((first * SECTOR) as u64, (count * SECTOR) as u64);
    let memory = match step {
        Step::Write { seed, .. } => {
            let bytes: Vec<u8> = pattern(count * SECTOR).into_iter().map(|byte| byte ^ seed).collect();
            Memory::from_bytes(&bytes)
        }
        _ => Memory::new(count * SECTOR),
    };
    let request = match step {
        Step::Read { piece } => BlockRequest::Read { offset, buffers: &memory.pieces(piece) },
        Step::Write { piece, .. } => BlockRequest::Write { offset, buffers: &memory.pieces(piece) },
        Step::Zero { may_unmap } => BlockRequest::WriteZeroes { offset, len, may_unmap },
        Step::Discard => BlockRequest::Discard { offset, len },
        Step::Flush => BlockRequest::Flush,
    };
    queue.push(token, request).unwrap();
    memory
}

/// Compares what was read with the model, or changes the model; `None` is a byte of any value.
fn apply(model: &mut [Option<u8>], done: &InFlight) {
    let bytes = &mut model[done.first * SECTOR..(done.first + done.count) * SECTOR];
    match done.step {
        Step::Read { .. } => {
            for (found, expected) in done.memory.to_vec().into_iter().zip(bytes) {
                assert!(expected.is_none_or(|expected| expected == found));
            }
        }
        Step::Write { .. } => {
            bytes.iter_mut().zip(done.memory.to_vec()).for_each(|(byte, new)| *byte = Some(new));
        }
        Step::Zero { .. } => bytes.fill(Some(0)),
        Step::Discard => bytes.fill(None),
        Step::Flush => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_history_agrees_with_a_list_of_bytes(
        batches in prop::collection::vec(prop::collection::vec(any_step(), 1..12), 1..12),
    ) {
        for (kind, parent) in all() {
            agrees_with_a_list_of_bytes(kind, &parent, &batches);
        }
    }
}
