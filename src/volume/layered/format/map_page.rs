//! A page of a layer's map: two bits for each of 15,872 blocks.

use super::{BlockState, Damage, Fields, PAGE_LEN, Page, Uuid, open, put, seal_with_checksum};

const MAGIC: &[u8; 8] = b"NIMBOMAP";
const STATES_AT: usize = 128;

/// The content of one of the two slots of a map page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapPage {
    pub(crate) layer: Uuid,
    /// Which blocks it is about: [`BLOCKS`](Self::BLOCKS) from `index` × `BLOCKS` on.
    pub(crate) index: u64,
    /// The generation of the header that makes it count.
    pub(crate) generation: u64,
    states: Box<[u8; PAGE_LEN - STATES_AT]>,
}

impl MapPage {
    /// How many blocks a page is about: 31 chunks of 2 MiB.
    pub(crate) const BLOCKS: u64 = 15_872;

    /// A page that says that all of its blocks are absent.
    pub(crate) fn new(layer: Uuid, index: u64, generation: u64) -> Self {
        Self { layer, index, generation, states: Box::new([0; PAGE_LEN - STATES_AT]) }
    }

    /// The state of a block, counted from the page's first.
    pub(crate) fn state(&self, block: u64) -> BlockState {
        let (byte, shift) = place(block);
        BlockState::from_code(self.states[byte] >> shift & 3).expect("checked when it was decoded")
    }

    pub(crate) fn set(&mut self, block: u64, state: BlockState) {
        let (byte, shift) = place(block);
        self.states[byte] = self.states[byte] & !(3 << shift) | state.code() << shift;
    }

    /// The runs of blocks of one state, as (first block of the layer, how many, state); those that are absent are left out.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64, BlockState)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            while next < Self::BLOCKS {
                if next.is_multiple_of(4) && self.states[place(next).0] == 0 {
                    next += 4;
                    continue;
                }
                let (first, state) = (next, self.state(next));
                next += (first..Self::BLOCKS).take_while(|block| self.state(*block) == state).count() as u64;
                if state != BlockState::Absent {
                    return Some((self.index * Self::BLOCKS + first, next - first, state));
                }
            }
            None
        })
    }

    /// The page, and its part in the header's digest.
    pub(crate) fn encode(&self) -> (Box<Page>, u64) {
        let mut page = Box::new([0; PAGE_LEN]);
        let bytes = &mut page[..];
        put(bytes, 0, *MAGIC);
        put(bytes, 16, self.layer.0);
        put(bytes, 32, self.index.to_le_bytes());
        put(bytes, 40, self.generation.to_le_bytes());
        bytes[STATES_AT..].copy_from_slice(&self.states[..]);
        seal_with_checksum(bytes);
        let digest = digest(&Fields(&page[..]));
        (page, digest)
    }

    /// A page with its part in the header's digest: the digest is the exclusive or of those of all pages that count, so that none
    /// of them can be missing or be an older one without being missed.
    pub(crate) fn decode(page: &Page, layer: Uuid, index: u64) -> Result<(Self, u64), Damage> {
        let fields = open(page, MAGIC)?;
        fields.expect_zero(12, 16)?;
        if fields.uuid(16) != layer {
            return Err(Damage::at(16, "the map page belongs to another layer"));
        }
        if fields.u64(32) != index {
            return Err(Damage::at(32, "the map page belongs to another place"));
        }
        fields.expect_zero(48, STATES_AT)?;
        // Both bits of a state are set in none.
        if let Some(at) = page[STATES_AT..].iter().position(|byte| byte & byte >> 1 & 0x55 != 0) {
            return Err(Damage::at(STATES_AT + at, "a block has a state that there is not"));
        }
        let generation = fields.u64(40);
        let states = Box::new(fields.array(STATES_AT));
        Ok((Self { layer, index, generation, states }, digest(&fields)))
    }
}

fn place(block: u64) -> (usize, u32) {
    debug_assert!(block < MapPage::BLOCKS);
    let byte = usize::try_from(block / 4).expect("a page has 15,872 blocks");
    (byte, u32::try_from(block % 4).expect("less than four") * 2)
}

/// Mixes index, generation and checksum (the finaliser of MurmurHash3).
fn digest(fields: &Fields<'_>) -> u64 {
    let mix = |mut value: u64| {
        value ^= value >> 33;
        value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
        value ^= value >> 33;
        value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        value ^ value >> 33
    };
    let (index, generation) = (fields.u64(32), fields.u64(40));
    mix(mix(mix(index.wrapping_add(1)) ^ generation) ^ u64::from(fields.u32(8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = BlockState> {
        prop_oneof![Just(BlockState::Absent), Just(BlockState::Data), Just(BlockState::Zero)]
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_runs_say_the_same(
            sets in prop::collection::vec((0..MapPage::BLOCKS, 1u64..600, any_state()), 0..20),
            bit in 0usize..8 * PAGE_LEN,
        ) {
            let layer = Uuid([7; 16]);
            let mut page = MapPage::new(layer, 3, 9);
            for (first, count, state) in sets {
                (first..MapPage::BLOCKS.min(first + count)).for_each(|block| page.set(block, state));
            }
            let (mut bytes, digest) = page.encode();
            prop_assert_eq!(MapPage::decode(&bytes, layer, 3), Ok((page.clone(), digest)));
            let mut from_runs = MapPage::new(layer, 3, 9);
            for (first, count, state) in page.runs() {
                let first = first - 3 * MapPage::BLOCKS;
                (first..first + count).for_each(|block| from_runs.set(block, state));
            }
            prop_assert_eq!(&from_runs, &page);
            prop_assert!(MapPage::decode(&bytes, layer, 4).is_err());
            prop_assert!(MapPage::decode(&bytes, Uuid([8; 16]), 3).is_err());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(MapPage::decode(&bytes, layer, 3).is_err());
        }
    }
}
