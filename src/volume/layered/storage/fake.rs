//! A folder in memory that knows what a crash would leave of it.
//!
//! Every page of a file has versions: the one that is on stable storage, then one for each write since. A sync makes the newest
//! of those that it found the stable one. A crash leaves for each 512 bytes any of the versions, and also what a call that is under
//! way may have written so far; for each name it leaves any file that had it since the folder was synced.
//!
//! Every operation that changes something, and the two ends of every sync, is a step. At each step the thread's [`Hook`] is called,
//! which may take [`FakeStorage::crash`]'s word for what would be left, or do other work in between.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Storage, StorageFile, StorageRing, Way};
use crate::backend::IoBuffer;
use crate::sys::{Call, Ended, FileIndex};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

type Bytes = Arc<[u8; PAGE]>;
type Hook = Rc<dyn Fn(&FakeStorage, &'static str)>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Calls `hook` at each step of any storage on this thread while `work` runs. At what it does itself it is not called.
pub(crate) fn with_hook<T>(hook: Hook, work: impl FnOnce() -> T) -> T {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            HOOK.set(None);
        }
    }
    HOOK.set(Some(hook));
    let _restore = Restore;
    work()
}

/// Numbers that are the same every time (xorshift64*, Vigna 2016).
#[derive(Debug, Clone)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(high).unwrap() % end.max(1)
    }
}

#[derive(Clone)]
pub(crate) struct FakeStorage(Arc<Mutex<Disk>>);

struct Disk {
    files: Vec<FakeContent>,
    /// For each name the file that has it on stable storage, and those that had it since.
    names: BTreeMap<String, Vec<Option<usize>>>,
    steps: u64,
    fail: Option<(u64, i32)>,
    full: bool,
    next_unique: u64,
    next_call: u64,
}

#[derive(Default, Clone)]
struct FakeContent {
    /// As for names: the stable length first.
    lens: Vec<u64>,
    pages: HashMap<u64, Vec<Bytes>>,
    unsynced: BTreeSet<u64>,
    /// What calls under way will have written: call, page, start within the page, bytes.
    under_way: Vec<(u64, u64, usize, Vec<u8>)>,
}

pub(crate) struct FakeFile {
    storage: FakeStorage,
    index: usize,
}

pub(crate) struct FakeRing {
    storage: FakeStorage,
    event: Arc<EventFd>,
    files: HashMap<FileIndex, usize>,
    started: Vec<FakeCall>,
    submitted: Vec<FakeCall>,
    numbers: Numbers,
}

struct FakeCall {
    id: u64,
    owner: u32,
    call: Call,
    buffers: Vec<IoBuffer>,
}

impl FakeStorage {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Disk {
            files: Vec::new(),
            names: BTreeMap::new(),
            steps: 0,
            fail: None,
            full: false,
            next_unique: 1,
            next_call: 0,
        })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    pub(crate) fn steps(&self) -> u64 {
        self.disk().steps
    }

    /// Lets the operation at step `at` fail, and nothing else.
    pub(crate) fn fail_at(&self, at: u64, errno: i32) {
        self.disk().fail = Some((at, errno));
    }

    pub(crate) fn forget_failure(&self) {
        self.disk().fail = None;
    }

    /// Whether an operation failed as it was told to. After a sync that failed, memory shows what stable storage never gets.
    pub(crate) fn has_failed(&self) -> bool {
        let disk = self.disk();
        disk.fail.is_some_and(|(at, _)| disk.steps >= at)
    }

    /// Takes no new pages from now on, or takes them again.
    pub(crate) fn set_full(&self, full: bool) {
        self.disk().full = full;
    }

    /// Changes a byte that is on stable storage, as a bad disk would.
    pub(crate) fn damage(&self, name: &str, offset: u64, change: impl FnOnce(&mut [u8; PAGE])) {
        let mut disk = self.disk();
        let index = disk.names[name].last().unwrap().unwrap();
        let versions =
            disk.files[index].pages.entry(offset / PAGE as u64).or_insert_with(|| vec![Arc::new([0; PAGE])]);
        change(Arc::make_mut(versions.last_mut().unwrap()));
    }

    /// What a crash may leave; what, `numbers` choose.
    pub(crate) fn crash(&self, numbers: &mut Numbers) -> FakeStorage {
        let disk = self.disk();
        // Nothing of what was not synced, all of it, or any part.
        let mode = numbers.below(4);
        let mut choose = |count: usize| match mode {
            0 => 0,
            1 => count - 1,
            _ => numbers.below(count),
        };
        let mut left = Disk {
            files: Vec::new(),
            names: BTreeMap::new(),
            steps: 0,
            fail: None,
            full: false,
            next_unique: disk.next_unique + 1_000_000,
            next_call: 0,
        };
        for file in &disk.files {
            let mut pages: HashMap<u64, Vec<Bytes>> = HashMap::with_capacity(file.pages.len());
            for (page, versions) in &file.pages {
                let kept =
                    if versions.len() == 1 { Arc::clone(&versions[0]) } else { torn(versions, &mut choose) };
                pages.insert(*page, vec![kept]);
            }
            for (_, page, start, bytes) in &file.under_way {
                let kept = pages.entry(*page).or_insert_with(|| vec![Arc::new([0; PAGE])]);
                for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                    if choose(2) == 1 {
                        let at = start + index * SECTOR;
                        Arc::make_mut(&mut kept[0])[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            let len = file.lens[choose(file.lens.len())];
            left.files.push(FakeContent { lens: vec![len], pages, ..FakeContent::default() });
        }
        for (name, versions) in &disk.names {
            left.names.insert(name.clone(), vec![versions[choose(versions.len())]]);
        }
        FakeStorage(Arc::new(Mutex::new(left)))
    }

    /// Counts a step, tells the hook, and says whether it is one that fails.
    fn step(&self, what: &'static str) -> io::Result<()> {
        let failure = {
            let mut disk = self.disk();
            disk.steps += 1;
            disk.fail.filter(|(at, _)| *at == disk.steps)
        };
        if let Some((_, errno)) = failure {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let hook = HOOK.take();
        if let Some(hook) = hook {
            hook(self, what);
            HOOK.set(Some(hook));
        }
        Ok(())
    }

    fn set_name(&self, name: &str, file: Option<usize>) {
        let mut disk = self.disk();
        disk.names.entry(name.to_owned()).or_insert_with(|| vec![None]).push(file);
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        let disk = self.disk();
        disk.names.get(name).and_then(|versions| *versions.last()?).ok_or(io::ErrorKind::NotFound.into())
    }
}

fn torn(versions: &[Bytes], choose: &mut impl FnMut(usize) -> usize) -> Bytes {
    let mut bytes = [0; PAGE];
    for at in (0..PAGE).step_by(SECTOR) {
        let version = &versions[choose(versions.len())];
        bytes[at..at + SECTOR].copy_from_slice(&version[at..at + SECTOR]);
    }
    Arc::new(bytes)
}

impl Disk {
    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (page, start, part) in parts(offset, bytes) {
            let has_page = self.files[file].pages.contains_key(&page);
            if self.full && !has_page {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            let content = &mut self.files[file];
            let versions = content.pages.entry(page).or_insert_with(|| vec![Arc::new([0; PAGE])]);
            let mut next = **versions.last().unwrap();
            next[start..start + part.len()].copy_from_slice(part);
            versions.push(Arc::new(next));
            content.unsynced.insert(page);
        }
        let content = &mut self.files[file];
        let end = offset + bytes.len() as u64;
        if end > *content.lens.last().unwrap() {
            content.lens.push(end);
        }
        Ok(())
    }

    fn read(&self, file: usize, mut offset: u64, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let start = usize::try_from(offset % PAGE as u64).unwrap();
            let len = bytes.len().min(PAGE - start);
            let (part, rest) = bytes.split_at_mut(len);
            match self.files[file].pages.get(&(offset / PAGE as u64)) {
                Some(versions) => part.copy_from_slice(&versions.last().unwrap()[start..start + len]),
                None => part.fill(0),
            }
            (bytes, offset) = (rest, offset + len as u64);
        }
    }
}

/// The parts of each page.
fn parts(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, usize, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = usize::try_from(at % PAGE as u64).unwrap();
        let part = bytes.get(done..).filter(|rest| !rest.is_empty())?;
        let part = &part[..part.len().min(PAGE - start)];
        done += part.len();
        Some((at / PAGE as u64, start, part))
    })
}

impl Storage for FakeStorage {
    type File = FakeFile;
    type Ring = FakeRing;

    fn create(&self, name: &str) -> io::Result<FakeFile> {
        self.step("create")?;
        if self.find(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let index = {
            let mut disk = self.disk();
            disk.files.push(FakeContent { lens: vec![0], ..FakeContent::default() });
            disk.files.len() - 1
        };
        self.set_name(name, Some(index));
        Ok(FakeFile { storage: self.clone(), index })
    }

    fn open(&self, name: &str) -> io::Result<FakeFile> {
        Ok(FakeFile { storage: self.clone(), index: self.find(name)? })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step("rename")?;
        let file = self.find(from)?;
        self.set_name(from, None);
        self.set_name(to, Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step("remove")?;
        self.find(name)?;
        self.set_name(name, None);
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let disk = self.disk();
        let live = disk.names.iter().filter(|(_, versions)| versions.last().unwrap().is_some());
        Ok(live.map(|(name, _)| name.clone()).collect())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let known: Vec<_> =
            self.disk().names.iter().map(|(name, versions)| (name.clone(), versions.len())).collect();
        self.step("begin to sync the folder")?;
        for (name, count) in known {
            self.disk().names.get_mut(&name).unwrap().drain(..count - 1);
        }
        self.step("end to sync the folder")
    }

    fn unique(&self) -> io::Result<[u8; 16]> {
        let mut disk = self.disk();
        disk.next_unique += 1;
        Ok(u128::from(disk.next_unique).to_le_bytes())
    }

    fn ring(&self, _depth: u16) -> io::Result<FakeRing> {
        Ok(FakeRing {
            storage: self.clone(),
            event: Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?),
            files: HashMap::new(),
            started: Vec::new(),
            submitted: Vec::new(),
            numbers: Numbers::new(self.disk().steps.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        })
    }
}

impl StorageFile for FakeFile {
    fn len(&self) -> io::Result<u64> {
        Ok(*self.storage.disk().files[self.index].lens.last().unwrap())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.step("set a length")?;
        self.storage.disk().files[self.index].lens.push(len);
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.storage.disk().read(self.index, offset, bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.storage.step("write")?;
        self.storage.disk().write(self.index, offset, bytes)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.step("allocate")?;
        let mut disk = self.storage.disk();
        for page in offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64) {
            if disk.full && !disk.files[self.index].pages.contains_key(&page) {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            disk.files[self.index].pages.entry(page).or_insert_with(|| vec![Arc::new([0; PAGE])]);
        }
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.step("punch a hole")?;
        let mut disk = self.storage.disk();
        let zeroes = vec![0; usize::try_from(len).unwrap()];
        // Holes need no room.
        let full = std::mem::replace(&mut disk.full, false);
        let result = disk.write(self.index, offset, &zeroes);
        disk.full = full;
        result
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let disk = self.storage.disk();
        let first = offset / PAGE as u64;
        let next = disk.files[self.index].pages.keys().filter(|page| **page >= first).min();
        Ok(next.map(|page| offset.max(page * PAGE as u64)))
    }

    fn sync_data(&self) -> io::Result<()> {
        let (lens, pages): (usize, Vec<(u64, usize)>) = {
            let mut disk = self.storage.disk();
            let file = &mut disk.files[self.index];
            let unsynced = std::mem::take(&mut file.unsynced);
            (file.lens.len(), unsynced.into_iter().map(|page| (page, file.pages[&page].len())).collect())
        };
        self.storage.step("begin to sync a file")?;
        {
            let mut disk = self.storage.disk();
            let file = &mut disk.files[self.index];
            file.lens.drain(..lens - 1);
            for (page, count) in pages {
                file.pages.get_mut(&page).unwrap().drain(..count - 1);
            }
        }
        self.storage.step("end to sync a file")
    }
}

impl FakeRing {
    fn execute(&mut self, call: &FakeCall) -> io::Result<()> {
        let file = |index: FileIndex| FakeFile { storage: self.storage.clone(), index: self.files[&index] };
        match call.call {
            Call::Read { file: index, mut offset } => {
                for buffer in &call.buffers {
                    let mut bytes = vec![0; buffer.len()];
                    file(index).read_at(offset, &mut bytes)?;
                    buffer.copy_from(&bytes);
                    offset += bytes.len() as u64;
                }
                Ok(())
            }
            Call::Write { file: index, offset } => file(index).write_at(offset, &gather(&call.buffers)),
            Call::SyncData { file: index } => file(index).sync_data(),
            Call::Allocate { file: index, offset, len, .. } => file(index).punch_hole(offset, len),
            Call::Nothing => Ok(()),
        }
    }
}

fn gather(buffers: &[IoBuffer]) -> Vec<u8> {
    let mut bytes = vec![0; buffers.iter().map(IoBuffer::len).sum()];
    let mut rest = &mut bytes[..];
    for buffer in buffers {
        let copied = buffer.copy_to(rest);
        rest = &mut rest[copied..];
    }
    bytes
}

impl StorageRing for FakeRing {
    type File = FakeFile;

    fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    fn set_file(&mut self, index: FileIndex, file: Option<(&FakeFile, Way)>) -> io::Result<()> {
        let uses = |call: &FakeCall| match call.call {
            Call::Read { file, .. }
            | Call::Write { file, .. }
            | Call::SyncData { file }
            | Call::Allocate { file, .. } => file == index,
            Call::Nothing => false,
        };
        assert!(!self.started.iter().chain(&self.submitted).any(uses), "a file went while it was used");
        match file {
            Some((file, _)) => self.files.insert(index, file.index),
            None => self.files.remove(&index),
        };
        Ok(())
    }

    fn start(&mut self, owner: u32, call: Call, buffers: &[IoBuffer]) {
        let id = {
            let mut disk = self.storage.disk();
            disk.next_call += 1;
            disk.next_call
        };
        self.started.push(FakeCall { id, owner, call, buffers: buffers.to_vec() });
    }

    fn submit(&mut self) -> io::Result<()> {
        let mut disk = self.storage.disk();
        for call in self.started.drain(..) {
            if let Call::Write { file, offset } = call.call {
                let content = &mut disk.files[self.files[&file]];
                let bytes = gather(&call.buffers);
                let under_way =
                    parts(offset, &bytes).map(|(page, start, part)| (call.id, page, start, part.to_vec()));
                content.under_way.extend(under_way);
            }
            self.submitted.push(call);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Ended> {
        if self.submitted.is_empty() {
            self.submit().ok()?;
        }
        if self.submitted.is_empty() {
            return None;
        }
        let call = self.submitted.swap_remove(self.numbers.below(self.submitted.len()));
        let result = self.execute(&call);
        for file in &mut self.storage.disk().files {
            file.under_way.retain(|(id, ..)| *id != call.id);
        }
        Some(Ended { owner: call.owner, result })
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()
    }
}
