//! A file in memory that knows what a crash would leave of it.
//!
//! Every 512 bytes have versions: the one on stable storage, then one for each write since, and so has the length. A sync makes the
//! newest the stable one. A crash leaves for each any version, so writes are torn and reordered in every way that a disk may.
//!
//! Each write, change of length, and sync is a step. After it the hook is called, which may ask for what a crash would leave then.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Builder, Database, StorageBackend};

const SECTOR: u64 = 512;
const SECTOR_LEN: usize = 512;

type Sector = [u8; SECTOR_LEN];
type Hook = Arc<dyn Fn(&Disk) + Send + Sync>;

/// The disk. Its clones are the same one.
#[derive(Clone)]
pub(super) struct Disk(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    /// The stable version first, the one that is read last.
    sectors: BTreeMap<u64, Vec<Sector>>,
    lens: Vec<u64>,
    steps: u64,
    syncs: u64,
    /// Which steps fail, and how.
    failing: Option<(Range<u64>, i32)>,
    failed: bool,
    hook: Option<Hook>,
}

/// Numbers that are the same every time (xorshift64*, Vigna 2016).
#[derive(Debug, Clone)]
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(high).unwrap() % end.max(1)
    }
}

impl Disk {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Content { lens: vec![0], ..Content::default() })))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    pub(super) fn database(&self) -> Result<Database, redb::DatabaseError> {
        Builder::new().create_with_backend(self.clone())
    }

    /// Calls `hook` after each step from now on.
    pub(super) fn set_hook(&self, hook: impl Fn(&Self) + Send + Sync + 'static) {
        self.content().hook = Some(Arc::new(hook));
    }

    pub(super) fn steps(&self) -> u64 {
        self.content().steps
    }

    pub(super) fn syncs(&self) -> u64 {
        self.content().syncs
    }

    /// Lets these steps fail.
    pub(super) fn fail(&self, steps: Range<u64>, errno: i32) {
        self.content().failing = Some((steps, errno));
    }

    /// Whether a step has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.content().failed
    }

    /// What is read now, on a disk that works.
    pub(super) fn live(&self) -> Self {
        self.left(|count| count - 1)
    }

    /// What a crash may leave; what, `numbers` choose.
    pub(super) fn crash(&self, numbers: &mut Numbers) -> Self {
        // Nothing of what was not synced, nearly nothing, nearly all, or any part.
        let mode = numbers.below(4);
        self.left(|count| match mode {
            0 => 0,
            1 if numbers.below(8) > 0 => 0,
            2 if numbers.below(8) > 0 => count - 1,
            _ => numbers.below(count),
        })
    }

    fn left(&self, mut choose: impl FnMut(usize) -> usize) -> Self {
        let content = self.content();
        let len = content.lens[choose(content.lens.len())];
        let mut sectors = BTreeMap::new();
        for (index, versions) in &content.sectors {
            // What is beyond the end is gone for good.
            if index * SECTOR < len {
                sectors.insert(*index, vec![versions[choose(versions.len())]]);
            }
        }
        Self(Arc::new(Mutex::new(Content { sectors, lens: vec![len], ..Content::default() })))
    }

    /// Counts a step, does it unless it fails, and calls the hook.
    fn step(&self, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        let hook = {
            let mut content = self.content();
            content.steps += 1;
            if let Some((failing, errno)) = content.failing.clone()
                && failing.contains(&content.steps)
            {
                content.failed = true;
                return Err(io::Error::from_raw_os_error(errno));
            }
            change(&mut content);
            content.hook.clone()
        };
        if let Some(hook) = hook {
            hook(self);
        }
        Ok(())
    }
}

impl Content {
    fn len(&self) -> u64 {
        *self.lens.last().unwrap()
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= self.len(), "a write past the end");
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let start = usize::try_from(at % SECTOR).unwrap();
            let (part, after) = rest.split_at(rest.len().min(SECTOR_LEN - start));
            let versions = self.versions(at / SECTOR);
            let mut sector = *versions.last().unwrap();
            sector[start..start + part.len()].copy_from_slice(part);
            versions.push(sector);
            at += part.len() as u64;
            rest = after;
        }
    }

    fn versions(&mut self, index: u64) -> &mut Vec<Sector> {
        self.sectors.entry(index).or_insert_with(|| vec![[0; SECTOR_LEN]])
    }

    fn set_len(&mut self, len: u64) {
        let gone: Vec<u64> = self.sectors.range(len.div_ceil(SECTOR)..).map(|(index, _)| *index).collect();
        for index in gone {
            self.versions(index).push([0; SECTOR_LEN]);
        }
        if !len.is_multiple_of(SECTOR) && len < self.len() {
            let versions = self.versions(len / SECTOR);
            let mut sector = *versions.last().unwrap();
            sector[usize::try_from(len % SECTOR).unwrap()..].fill(0);
            versions.push(sector);
        }
        self.lens.push(len);
    }

    fn sync(&mut self) {
        self.syncs += 1;
        self.lens = vec![self.len()];
        for versions in self.sectors.values_mut() {
            versions.drain(..versions.len() - 1);
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content().len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.content();
        if offset + out.len() as u64 > content.len() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let start = usize::try_from(at % SECTOR).unwrap();
            let len = rest.len().min(SECTOR_LEN - start);
            let (part, after) = rest.split_at_mut(len);
            match content.sectors.get(&(at / SECTOR)) {
                Some(versions) => part.copy_from_slice(&versions.last().unwrap()[start..start + len]),
                None => part.fill(0),
            }
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step(|content| content.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(Content::sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step(|content| content.write(offset, data))
    }
}
