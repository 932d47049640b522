//! The manifest of a volume: its size and its layers.

use super::{BLOCKS_MAX, Damage, Uuid, VERSION, open, put, seal_with_checksum};

const MAGIC: &[u8; 8] = b"NIMBOVOL";
const LAYERS_AT: usize = 64;
const LAYER_LEN: usize = 32;

/// One layer of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerEntry {
    /// Larger than that of every layer below; never used twice.
    pub(crate) id: u32,
    pub(crate) uuid: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) volume: Uuid,
    pub(crate) blocks: u64,
    /// The smallest id that no layer had yet.
    pub(crate) next_layer: u32,
    /// The layers, the lowest first; the last one is the top, which is written to. At least one.
    pub(crate) layers: Vec<LayerEntry>,
}

impl Manifest {
    /// How deep a stack may be.
    pub(crate) const LAYERS_MAX: usize = 200;
    /// The longest encoding.
    pub(crate) const LEN_MAX: usize = LAYERS_AT + Self::LAYERS_MAX * LAYER_LEN;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; LAYERS_AT + self.layers.len() * LAYER_LEN];
        let count = u32::try_from(self.layers.len()).expect("at most LAYERS_MAX");
        put(&mut bytes, 0, *MAGIC);
        put(&mut bytes, 12, VERSION.to_le_bytes());
        put(&mut bytes, 16, self.volume.0);
        put(&mut bytes, 32, self.blocks.to_le_bytes());
        put(&mut bytes, 40, self.next_layer.to_le_bytes());
        put(&mut bytes, 44, count.to_le_bytes());
        for (index, layer) in self.layers.iter().enumerate() {
            let at = LAYERS_AT + index * LAYER_LEN;
            put(&mut bytes, at, layer.id.to_le_bytes());
            put(&mut bytes, at + 8, layer.uuid.0);
        }
        seal_with_checksum(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.len() < LAYERS_AT {
            return Err(Damage::at(bytes.len(), "the manifest ends too early"));
        }
        let fields = open(bytes, MAGIC)?;
        if fields.u32(12) != VERSION {
            return Err(Damage::at(12, "the version is not one that this program knows"));
        }
        let blocks = fields.u64(32);
        if !(1..=BLOCKS_MAX).contains(&blocks) {
            return Err(Damage::at(32, "the size of the volume is out of range"));
        }
        let count = usize::try_from(fields.u32(44)).unwrap_or(usize::MAX);
        if !(1..=Self::LAYERS_MAX).contains(&count) || bytes.len() != LAYERS_AT + count * LAYER_LEN {
            return Err(Damage::at(44, "the number of layers is wrong"));
        }
        fields.expect_zero(48, LAYERS_AT)?;
        let (next_layer, mut layers, mut below) = (fields.u32(40), Vec::with_capacity(count), 0);
        for at in (LAYERS_AT..bytes.len()).step_by(LAYER_LEN) {
            let id = fields.u32(at);
            if id <= below || id >= next_layer {
                return Err(Damage::at(at, "the layers are out of order"));
            }
            fields.expect_zero(at + 4, at + 8)?;
            fields.expect_zero(at + 24, at + 32)?;
            layers.push(LayerEntry { id, uuid: fields.uuid(at + 8) });
            below = id;
        }
        Ok(Self { volume: fields.uuid(16), blocks, next_layer, layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_any_changed_bit_is_noticed(
            blocks in 1..=BLOCKS_MAX,
            steps in prop::collection::vec((1u32..1000, any::<[u8; 16]>()), 1..Manifest::LAYERS_MAX),
            bit in any::<prop::sample::Index>(),
        ) {
            let mut next_layer = 0;
            let layers = steps.into_iter().map(|(step, uuid)| {
                next_layer += step;
                LayerEntry { id: next_layer, uuid: Uuid(uuid) }
            });
            let layers = layers.collect();
            let manifest = Manifest { volume: Uuid([9; 16]), blocks, next_layer: next_layer + 1, layers };
            let mut bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
            let bit = bit.index(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Manifest::decode(&bytes).is_err());
            prop_assert!(Manifest::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
