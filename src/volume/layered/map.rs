//! Where every block of a volume stands: the maps of all layers, flattened, in memory.
//!
//! ```text
//!   regions         256 GiB each, made when something in it is first set
//!   └ groups        1 GiB each, likewise, and each behind a lock of its own
//!     └ chunks      2 MiB each: one location for all of its blocks, or
//!       └ cells     a palette of locations, and 1, 2, 4 or 8 bits for each block that choose one of them
//! ```
//!
//! So a look-up takes the same time however deep the stack is, and what was never touched takes next to nothing. A chunk whose
//! blocks differ takes 72 bytes with two locations, 144 with four. Room is left in the numbers of locations for blocks that are yet to be
//! fetched from elsewhere.

mod chunk;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::format::BLOCKS_MAX;
use chunk::{CHUNK_BLOCKS, Chunk};

const GROUP_CHUNKS: u64 = 512;
const GROUP_BLOCKS: u64 = GROUP_CHUNKS * CHUNK_BLOCKS;
const REGION_GROUPS: u64 = 256;
const REGION_BLOCKS: u64 = REGION_GROUPS * GROUP_BLOCKS;

/// The number of a layer: larger than those of the layers below it, never used twice in a volume, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub(crate) u32);

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    /// In no layer: it reads as zeroes.
    Absent,
    /// Some layer says that it reads as zeroes.
    Zero,
    Layer(LayerId),
}

impl Location {
    /// Two codes are not used: room for blocks that stand elsewhere.
    fn code(self) -> u32 {
        match self {
            Location::Absent => 0,
            Location::Zero => 1,
            Location::Layer(LayerId(id)) => id + 3,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            0 => Location::Absent,
            1 => Location::Zero,
            _ => Location::Layer(LayerId(code.saturating_sub(3))),
        }
    }
}

impl std::fmt::Display for LayerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

type Group = Mutex<Box<[Chunk]>>;

/// What is not there is absent as a whole.
type Region = Box<[OnceLock<Box<Group>>]>;

/// The locations of all blocks that a volume can have.
pub(crate) struct Map {
    regions: Box<[OnceLock<Region>]>,
}

impl Map {
    /// A map of blocks that are all absent.
    pub(crate) fn new() -> Self {
        Self { regions: (0..BLOCKS_MAX / REGION_BLOCKS).map(|_| OnceLock::new()).collect() }
    }

    pub(crate) fn get(&self, block: u64) -> Location {
        self.run(block, 1).0
    }

    /// Where `first` stands, and for how many blocks, at most `count` and at least one, the answer is the same. It may say less
    /// than there are.
    pub(crate) fn run(&self, first: u64, count: u64) -> (Location, u64) {
        let end = (first / GROUP_BLOCKS + 1) * GROUP_BLOCKS;
        let count = count.min(end - first);
        let Some(chunks) = self.group(first) else { return (Location::Absent, count) };
        let mut next = first;
        let mut found = None;
        while next < first + count {
            let within = next % CHUNK_BLOCKS;
            let most = (first + count - next).min(CHUNK_BLOCKS - within);
            let (code, run) = chunks[index(next % GROUP_BLOCKS / CHUNK_BLOCKS)].run(within, most);
            if *found.get_or_insert(code) != code {
                break;
            }
            next += run;
            if run < most {
                break;
            }
        }
        (Location::from_code(found.unwrap_or(0)), next - first)
    }

    /// Calls `each` with all runs of a range: first block, how many, where.
    pub(crate) fn for_runs(&self, first: u64, end: u64, mut each: impl FnMut(u64, u64, Location)) {
        let mut next = first;
        while next < end {
            let (location, count) = self.run(next, end - next);
            each(next, count, location);
            next += count;
        }
    }

    pub(crate) fn set(&self, first: u64, count: u64, location: Location) {
        let (mut next, end) = (first, first + count);
        while next < end {
            let mut chunks = self.made_group(next);
            let group_end = ((next / GROUP_BLOCKS + 1) * GROUP_BLOCKS).min(end);
            while next < group_end {
                let within = next % CHUNK_BLOCKS;
                let run = (group_end - next).min(CHUNK_BLOCKS - within);
                chunks[index(next % GROUP_BLOCKS / CHUNK_BLOCKS)].set(within, run, location.code());
                next += run;
            }
        }
    }

    /// What stood in one place stands in another from now on.
    pub(crate) fn replace(&self, from: Location, to: Location) {
        for group in self.groups() {
            lock(group).iter_mut().for_each(|chunk| chunk.replace(from.code(), to.code()));
        }
    }

    /// How many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let groups = self.groups().map(|group| {
            let chunks = lock(group);
            size_of::<Group>()
                + chunks.iter().map(|chunk| size_of::<Chunk>() + chunk.heap_bytes()).sum::<usize>()
        });
        let regions = self.regions.iter().filter_map(OnceLock::get).map(|region| size_of_val(&**region));
        size_of_val(&*self.regions) + regions.sum::<usize>() + groups.sum::<usize>()
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        let regions = self.regions.iter().filter_map(OnceLock::get);
        regions.flat_map(|region| region.iter().filter_map(OnceLock::get).map(|group| &**group))
    }

    fn group(&self, block: u64) -> Option<MutexGuard<'_, Box<[Chunk]>>> {
        let region = self.regions.get(index(block / REGION_BLOCKS))?.get()?;
        region[index(block % REGION_BLOCKS / GROUP_BLOCKS)].get().map(|group| lock(group))
    }

    fn made_group(&self, block: u64) -> MutexGuard<'_, Box<[Chunk]>> {
        let region = self.regions[index(block / REGION_BLOCKS)]
            .get_or_init(|| (0..REGION_GROUPS).map(|_| OnceLock::new()).collect());
        let group = region[index(block % REGION_BLOCKS / GROUP_BLOCKS)]
            .get_or_init(|| Box::new(Mutex::new((0..GROUP_CHUNKS).map(|_| Chunk::default()).collect())));
        lock(group)
    }
}

/// No chunk is left half changed by a panic.
fn lock(group: &Group) -> MutexGuard<'_, Box<[Chunk]>> {
    group.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("64-bit addresses")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIB_BLOCKS: u64 = 1 << 28;

    #[test]
    fn a_map_takes_nothing_for_what_was_not_touched_and_at_most_64_mib_for_each_tib() {
        let map = Map::new();
        assert!(map.bytes() <= 8192, "{} bytes", map.bytes());
        // Every chunk of a TiB in part: the dearest there is with one layer.
        for chunk in 0..TIB_BLOCKS / CHUNK_BLOCKS {
            map.set(chunk * CHUNK_BLOCKS + chunk % 500, 7, Location::Layer(LayerId(1)));
        }
        assert!(map.bytes() <= 64 << 20, "{} bytes", map.bytes());
        map.set(0, TIB_BLOCKS, Location::Layer(LayerId(2)));
        assert!(map.bytes() <= 12 << 20, "{} bytes", map.bytes());
    }

    fn any_location() -> impl Strategy<Value = Location> {
        let layer = (1u32..40).prop_map(|id| Location::Layer(LayerId(id)));
        prop_oneof![1 => Just(Location::Absent), 1 => Just(Location::Zero), 3 => layer]
    }

    proptest! {
        #[test]
        fn runs_agree_with_a_plain_list(
            start in prop_oneof![Just(0), Just(GROUP_BLOCKS - 700), Just(REGION_BLOCKS - 700)],
            sets in prop::collection::vec((0u64..1400, 1u64..700, any_location()), 0..60),
            replaced in (any_location(), any_location()),
        ) {
            let map = Map::new();
            let mut plain = vec![Location::Absent; 1400];
            for (first, count, location) in sets {
                let count = count.min(1400 - first);
                map.set(start + first, count, location);
                plain[index(first)..index(first + count)].fill(location);
            }
            if let (Location::Layer(_), Location::Layer(_)) = replaced {
                map.replace(replaced.0, replaced.1);
                plain.iter_mut().filter(|place| **place == replaced.0).for_each(|place| *place = replaced.1);
            }
            let mut found = Vec::new();
            map.for_runs(start, start + 1400, |_, count, location| found.extend((0..count).map(|_| location)));
            prop_assert_eq!(found, plain);
        }
    }
}
