//! The locations of the 512 blocks of 2 MiB, as codes.

/// How many blocks a chunk has.
pub(super) const CHUNK_BLOCKS: u64 = 512;
const BLOCKS: usize = 512;

/// A place of the palette that nothing chooses.
const UNUSED: u32 = u32::MAX;

/// The cells are the palette, then the choices of the blocks, in order, from each word's low bits on.
pub(super) enum Chunk {
    Uniform(u32),
    Mixed(Box<[u32]>),
}

/// How a chunk with a palette of some size is laid out.
#[derive(Clone, Copy)]
struct Width {
    bits: usize,
}

impl Width {
    const ALL: [Width; 4] = [Width { bits: 1 }, Width { bits: 2 }, Width { bits: 4 }, Width { bits: 8 }];

    fn palette(self) -> usize {
        1 << self.bits
    }

    fn cells(self) -> usize {
        self.palette() + BLOCKS * self.bits / 32
    }

    fn of(cells: &[u32]) -> Self {
        let fits = |width: &Width| width.cells() == cells.len();
        Self::ALL.into_iter().find(fits).expect("chunks are made in these sizes only")
    }

    fn for_locations(count: usize) -> Self {
        let fits = |width: &Width| width.palette() >= count;
        Self::ALL.into_iter().find(fits).expect("a stack has at most 200 layers")
    }

    /// The word and the shift of a block's choice.
    fn place(self, block: usize) -> (usize, usize) {
        let bit = block * self.bits;
        (self.palette() + bit / 32, bit % 32)
    }

    fn mask(self) -> u32 {
        (1 << self.bits) - 1
    }

    fn choice(self, cells: &[u32], block: usize) -> usize {
        let (word, shift) = self.place(block);
        usize::try_from(cells[word] >> shift & self.mask()).expect("at most eight bits")
    }

    fn choose(self, cells: &mut [u32], block: usize, choice: usize) {
        let (word, shift) = self.place(block);
        let choice = u32::try_from(choice).expect("at most eight bits");
        cells[word] = cells[word] & !(self.mask() << shift) | choice << shift;
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Chunk::Uniform(0)
    }
}

impl Chunk {
    /// The code of a block, and for how many, at most `count`, it is the same.
    pub(super) fn run(&self, first: u64, count: u64) -> (u32, u64) {
        let cells = match self {
            Chunk::Uniform(code) => return (*code, count),
            Chunk::Mixed(cells) => cells,
        };
        let width = Width::of(cells);
        let (start, end) = (index(first), index(first + count));
        let code = cells[width.choice(cells, start)];
        let same = |block: &usize| cells[width.choice(cells, *block)] == code;
        (code, (start..end).take_while(same).count() as u64)
    }

    pub(super) fn set(&mut self, first: u64, count: u64, code: u32) {
        if count == CHUNK_BLOCKS {
            *self = Chunk::Uniform(code);
            return;
        }
        if let Chunk::Uniform(old) = *self {
            if old == code {
                return;
            }
            *self = Chunk::mixed(&[old]);
        }
        let choice = self.choice_for(code);
        let Chunk::Mixed(cells) = self else { return };
        let width = Width::of(cells);
        for block in index(first)..index(first + count) {
            width.choose(cells, block, choice);
        }
        if self.is_uniform() {
            *self = Chunk::Uniform(code);
        }
    }

    pub(super) fn replace(&mut self, from: u32, to: u32) {
        match self {
            Chunk::Uniform(code) if *code == from => *code = to,
            Chunk::Uniform(_) => {}
            Chunk::Mixed(cells) => {
                let palette = Width::of(cells).palette();
                cells[..palette].iter_mut().filter(|code| **code == from).for_each(|code| *code = to);
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Chunk::Uniform(_) => 0,
            Chunk::Mixed(cells) => size_of_val(&**cells),
        }
    }

    /// Cells for these locations and at least one more; all blocks choose the first.
    fn mixed(palette: &[u32]) -> Self {
        let width = Width::for_locations(palette.len() + 1);
        let mut cells = vec![0; width.cells()].into_boxed_slice();
        cells[..width.palette()].fill(UNUSED);
        cells[..palette.len()].copy_from_slice(palette);
        Chunk::Mixed(cells)
    }

    /// The place of a code in the palette, which gets it if it has it not.
    fn choice_for(&mut self, code: u32) -> usize {
        let Chunk::Mixed(cells) = self else { return 0 };
        let width = Width::of(cells);
        let palette = &mut cells[..width.palette()];
        if let Some(choice) = palette.iter().position(|other| *other == code) {
            return choice;
        }
        if let Some(choice) = palette.iter().position(|other| *other == UNUSED) {
            palette[choice] = code;
            return choice;
        }
        self.repack();
        self.choice_for(code)
    }

    /// Lays the chunk out anew, for the locations that it has and one more.
    fn repack(&mut self) {
        let Chunk::Mixed(old) = self else { return };
        let width = Width::of(old);
        let mut palette: Vec<u32> = Vec::new();
        let choices: Vec<usize> = (0..BLOCKS)
            .map(|block| {
                let code = old[width.choice(old, block)];
                palette.iter().position(|other| *other == code).unwrap_or_else(|| {
                    palette.push(code);
                    palette.len() - 1
                })
            })
            .collect();
        let mut new = Chunk::mixed(&palette);
        if let Chunk::Mixed(cells) = &mut new {
            let width = Width::of(cells);
            for (block, choice) in choices.into_iter().enumerate() {
                width.choose(cells, block, choice);
            }
        }
        *self = new;
    }

    fn is_uniform(&self) -> bool {
        let Chunk::Mixed(cells) = self else { return true };
        let width = Width::of(cells);
        let choices = &cells[width.palette()..];
        let pattern =
            u32::try_from(width.choice(cells, 0)).expect("at most eight bits") * (u32::MAX / width.mask());
        choices.iter().all(|word| *word == pattern)
    }
}

fn index(block: u64) -> usize {
    usize::try_from(block).expect("a chunk has 512 blocks")
}
