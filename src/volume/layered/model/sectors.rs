//! The model: what each sector may be.
//!
//! Only some sectors of the volume are used: around its start, and around the end of the first map page, where for some histories a
//! file of the layer ends too. Each write has a number, and its sectors say which it was and where they belong.
//!
//! A write *replaces* another if it was pushed after that one had ended. At a moment a sector may be what any write made of it that was
//! not replaced by one that had ended by then: for a read the moment is when it was pushed; for a crash it is when the last flush that
//! was acknowledged was pushed.

use crate::layered::format::MapPage;

pub(super) const SECTOR: usize = 512;
pub(super) const REGIONS: usize = 2;
pub(super) const REGION_SECTORS: usize = 12 * 8;
pub(super) const SECTORS: usize = REGIONS * REGION_SECTORS;
const REGION_STARTS: [u64; REGIONS] = [0, MapPage::BLOCKS - 6];
/// Where the second file of a layer begins, if it has two.
pub(super) const SPLIT_BLOCK: u64 = MapPage::BLOCKS - 2;
pub(super) const VOLUME_BLOCKS: u64 = MapPage::BLOCKS + 8;

/// Where a sector of the model stands in the volume, in bytes.
pub(super) fn offset(sector: usize) -> u64 {
    REGION_STARTS[sector / REGION_SECTORS] * 4096 + (sector % REGION_SECTORS * SECTOR) as u64
}

/// What write number `write` makes of a sector.
pub(super) fn content(write: u32, sector: usize) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let word = u64::from(write) << 32 | sector as u64;
    bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&word.to_le_bytes()));
    bytes
}

/// Which write made a sector what it is; 0 is none.
pub(super) fn writer_of(bytes: &[u8], sector: usize) -> u32 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let write = u32::try_from(word >> 32).unwrap();
    assert_eq!(bytes, content(write, sector), "sector {sector} is torn, or stood elsewhere");
    write
}

#[derive(Debug, Clone, Copy)]
struct Write {
    /// What it left: its number, or 0 for zeroes.
    content: u32,
    number: u32,
    pushed: u64,
    ended: Option<u64>,
}

pub(super) struct Model {
    sectors: Vec<Vec<Write>>,
    clock: u64,
    next_write: u32,
    durable: u64,
}

impl Model {
    pub(super) fn new() -> Self {
        let zero = Write { content: 0, number: 0, pushed: 0, ended: Some(0) };
        Self { sectors: vec![vec![zero]; SECTORS], clock: 1, next_write: 1, durable: 0 }
    }

    pub(super) fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A write was pushed; says its number.
    pub(super) fn push_write(&mut self, sectors: impl Iterator<Item = usize>, zeroes: bool) -> u32 {
        let (number, pushed) = (self.next_write, self.now());
        self.next_write += 1;
        let content = if zeroes { 0 } else { number };
        for sector in sectors {
            self.sectors[sector].push(Write { content, number, pushed, ended: None });
        }
        number
    }

    pub(super) fn end_write(&mut self, number: u32) {
        let now = self.now();
        let writes = self.sectors.iter_mut().flatten().filter(|write| write.number == number);
        writes.for_each(|write| write.ended = Some(now));
    }

    /// A flush that was pushed at this moment was acknowledged.
    pub(super) fn end_flush(&mut self, pushed: u64) {
        self.durable = self.durable.max(pushed);
    }

    fn possible(&self, sector: usize, at: u64) -> impl Iterator<Item = Write> {
        let writes = &self.sectors[sector];
        let is_replaced = move |write: &Write| {
            let Some(ended) = write.ended else { return false };
            writes.iter().any(|other| other.pushed > ended && other.ended.is_some_and(|other| other < at))
        };
        writes.iter().copied().filter(move |write| !is_replaced(write))
    }

    /// Checks what a sector was found to be, by a read that was pushed at this moment.
    pub(super) fn check_read(&self, sector: usize, bytes: &[u8], pushed: u64) {
        self.check(sector, bytes, pushed, "a read");
    }

    /// Checks what a sector is after a crash.
    pub(super) fn check_crash(&self, sector: usize, bytes: &[u8]) {
        self.check(sector, bytes, self.durable, "a crash");
    }

    /// The process ended, and this is what a sector is now: as after a crash, and it stays so until it is written again. Of the storage
    /// it may be told still, for nothing says that it is durable.
    pub(super) fn reopened(&mut self, sector: usize, bytes: &[u8]) {
        self.check(sector, bytes, self.durable, "opening it again");
        let now = self.now();
        let write = Write { content: writer_of(bytes, sector), number: 0, pushed: now, ended: Some(now) };
        self.sectors[sector].push(write);
    }

    fn check(&self, sector: usize, bytes: &[u8], at: u64, what: &str) {
        let found = writer_of(bytes, sector);
        let possible: Vec<u32> = self.possible(sector, at).map(|write| write.content).collect();
        assert!(
            possible.contains(&found),
            "after {what} sector {sector} has what write {found} left, but only {possible:?} may be there"
        );
    }
}
