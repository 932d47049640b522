//! The manifest of a volume: its size, its layers, the snapshots that are being made, and its data key if it is encrypted.

use std::iter;
use std::ops::Range;

use super::{
    BLOCKS_MAX, Damage, KEY_RECORD_LEN, Uuid, decode_key, encode_key, open, put, seal_with_checksum,
};
use crate::crypt::WrappedKey;

const MAGIC: &[u8; 8] = b"NIMBOVOL";
const LAYERS_AT: usize = 160;
/// Of the manifest alone: version 1 knew nothing of snapshots.
const VERSION: u32 = 2;
/// Added to the version of an encrypted volume, which a program that knows nothing of keys must not open.
const KEY: u32 = 1;
/// Added where several snapshots are being made, of which older programs know one.
const QUEUE: u32 = 2;
const LAYER_LEN: usize = 32;
const COVERED_LEN: usize = 32;
const PENDING_AT: usize = 96;
/// How many snapshots wait behind the first; their records follow the layers.
const QUEUE_LEN_AT: usize = 152;

/// One layer of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerEntry {
    /// Larger than that of every layer below; never used twice.
    pub(crate) id: u32,
    pub(crate) uuid: Uuid,
}

/// A snapshot of the volume: what the layers up to one, and that one, held when it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) snapshot: Uuid,
    /// The layer, which may have been merged into a lower one since.
    pub(crate) layer: u32,
    /// When it was begun, in seconds since 1970.
    pub(crate) created_s: u64,
}

/// The snapshot that the volume was made from. The lowest layer is what was fetched of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) snapshot: Uuid,
    /// Its size; 0 when all of it was fetched, and its pin alone is left to be removed.
    pub(crate) blocks: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) volume: Uuid,
    pub(crate) blocks: u64,
    /// Of its snapshots.
    pub(crate) lineage: Uuid,
    /// The last snapshot that is complete.
    pub(crate) last: Option<Covered>,
    /// Those that are being made, the oldest first; each of a later layer than the one before, and than the last that is complete.
    pub(crate) pending: Vec<Covered>,
    pub(crate) base: Option<Base>,
    /// The smallest id that no layer had yet.
    pub(crate) next_layer: u32,
    /// The layers, the lowest first; the last one is the top, which is written to. At least one.
    pub(crate) layers: Vec<LayerEntry>,
    /// The data key, if the volume is encrypted; wrapped for this lineage, for all of that has the same.
    pub(crate) key: Option<WrappedKey>,
}

impl Manifest {
    /// How deep a stack may be.
    pub(crate) const LAYERS_MAX: usize = 200;
    /// How many snapshots can be made at a time; EBS makes five.
    pub(crate) const PENDING_MAX: usize = 16;
    /// The longest encoding.
    pub(crate) const LEN_MAX: usize =
        LAYERS_AT + Self::LAYERS_MAX * LAYER_LEN + Self::PENDING_MAX * COVERED_LEN + KEY_RECORD_LEN;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let queue_at = LAYERS_AT + self.layers.len() * LAYER_LEN;
        let queue = self.pending.get(1..).unwrap_or_default();
        let mut bytes = vec![0; queue_at + queue.len() * COVERED_LEN];
        let count = u32::try_from(self.layers.len()).expect("at most LAYERS_MAX");
        let queue_len = u32::try_from(queue.len()).expect("at most PENDING_MAX");
        put(&mut bytes, 0, *MAGIC);
        let version =
            VERSION + if self.key.is_some() { KEY } else { 0 } + if queue.is_empty() { 0 } else { QUEUE };
        put(&mut bytes, 12, version.to_le_bytes());
        put(&mut bytes, 16, self.volume.0);
        put(&mut bytes, 32, self.blocks.to_le_bytes());
        put(&mut bytes, 40, self.next_layer.to_le_bytes());
        put(&mut bytes, 44, count.to_le_bytes());
        put(&mut bytes, 48, self.lineage.0);
        put(&mut bytes, QUEUE_LEN_AT, queue_len.to_le_bytes());
        let first = [(64, self.last.as_ref()), (PENDING_AT, self.pending.first())];
        let queue = (queue_at..).step_by(COVERED_LEN).zip(queue.iter().map(Some));
        for (at, covered) in first.into_iter().chain(queue) {
            if let Some(covered) = covered {
                put(&mut bytes, at, covered.snapshot.0);
                put(&mut bytes, at + 16, covered.layer.to_le_bytes());
                put(&mut bytes, at + 24, covered.created_s.to_le_bytes());
            }
        }
        if let Some(base) = self.base {
            put(&mut bytes, 128, base.snapshot.0);
            put(&mut bytes, 144, base.blocks.to_le_bytes());
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let at = LAYERS_AT + index * LAYER_LEN;
            put(&mut bytes, at, layer.id.to_le_bytes());
            put(&mut bytes, at + 8, layer.uuid.0);
        }
        bytes.extend(self.key.iter().flat_map(encode_key));
        seal_with_checksum(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.len() < LAYERS_AT {
            return Err(Damage::at(bytes.len(), "the manifest ends too early"));
        }
        let fields = open(bytes, MAGIC)?;
        let version = fields.u32(12).wrapping_sub(VERSION);
        if version > KEY + QUEUE {
            return Err(Damage::at(12, "the version is not one that this program knows"));
        }
        let key_len = if version & KEY == 0 { 0 } else { KEY_RECORD_LEN };
        let blocks = fields.u64(32);
        if !(1..=BLOCKS_MAX).contains(&blocks) {
            return Err(Damage::at(32, "the size of the volume is out of range"));
        }
        let count = usize::try_from(fields.u32(44)).unwrap_or(usize::MAX);
        let queue_len = usize::try_from(fields.u32(QUEUE_LEN_AT)).unwrap_or(usize::MAX);
        if queue_len >= Self::PENDING_MAX || (queue_len > 0) != (version & QUEUE != 0) {
            return Err(Damage::at(QUEUE_LEN_AT, "the number of snapshots that are being made is wrong"));
        }
        let queue_at = LAYERS_AT + count.min(Self::LAYERS_MAX) * LAYER_LEN;
        let key_at = queue_at + queue_len * COVERED_LEN;
        if !(1..=Self::LAYERS_MAX).contains(&count) || bytes.len() != key_at + key_len {
            return Err(Damage::at(44, "the number of layers is wrong"));
        }
        let next_layer = fields.u32(40);
        let covered = |at: usize| {
            let (snapshot, layer) = (fields.uuid(at), fields.u32(at + 16));
            fields.expect_zero(at + 20, at + 24)?;
            if snapshot == Uuid::NONE {
                fields.expect_zero(at, at + 32)?;
                return Ok(None);
            }
            if !(1..next_layer).contains(&layer) {
                return Err(Damage::at(at + 16, "a snapshot is of a layer that there never was"));
            }
            Ok(Some(Covered { snapshot, layer, created_s: fields.u64(at + 24) }))
        };
        let base = Base { snapshot: fields.uuid(128), blocks: fields.u64(144) };
        if base.blocks > blocks || base.snapshot == Uuid::NONE && base.blocks != 0 {
            return Err(Damage::at(144, "the size of the snapshot that the volume was made from is wrong"));
        }
        let base = Some(base).filter(|base| base.snapshot != Uuid::NONE);
        fields.expect_zero(QUEUE_LEN_AT + 4, LAYERS_AT)?;
        let (mut layers, mut below) = (Vec::with_capacity(count), 0);
        for at in (LAYERS_AT..queue_at).step_by(LAYER_LEN) {
            let id = fields.u32(at);
            if id <= below || id >= next_layer {
                return Err(Damage::at(at, "the layers are out of order"));
            }
            fields.expect_zero(at + 4, at + 8)?;
            fields.expect_zero(at + 24, at + 32)?;
            layers.push(LayerEntry { id, uuid: fields.uuid(at + 8) });
            below = id;
        }
        if base.is_some_and(|base: Base| base.blocks > 0) && layers.len() < 2 {
            return Err(Damage::at(144, "there is no layer for what is fetched from a snapshot"));
        }
        let (volume, lineage, last) = (fields.uuid(16), fields.uuid(48), covered(64)?);
        let pending = pending(covered, queue_at..key_at)?;
        Ok(Self {
            volume,
            blocks,
            lineage,
            last,
            pending,
            base,
            next_layer,
            layers,
            key: if key_len == 0 { None } else { Some(decode_key(&fields, key_at)?) },
        })
    }

    /// Whether two neighbouring sealed layers may become one. Not if one of them is part of a snapshot and the other is not: from that it
    /// is known what changed. Not while a snapshot that has the lower one is being made, for it would see what was hidden since as missing.
    /// And not the lowest while it is being filled.
    pub(crate) fn may_merge(&self, lower: u32, upper: u32) -> bool {
        let is_between = |covered: Covered| (lower..upper).contains(&covered.layer);
        let is_filled = self.base.is_none_or(|base| base.blocks == 0);
        !self.last.is_some_and(is_between)
            && self.pending.iter().all(|pending| pending.layer < lower)
            && (is_filled || self.layers.first().is_none_or(|lowest| lowest.id != lower))
    }
}

/// The snapshots that are being made: the first, and those that wait behind it.
fn pending(
    covered: impl Fn(usize) -> Result<Option<Covered>, Damage>,
    queue: Range<usize>,
) -> Result<Vec<Covered>, Damage> {
    let mut pending: Vec<Covered> = Vec::new();
    let has_queue = !queue.is_empty();
    for at in iter::once(PENDING_AT).chain(queue.step_by(COVERED_LEN)) {
        match covered(at)? {
            Some(next) if pending.last().is_none_or(|last| last.layer < next.layer) => pending.push(next),
            None if !has_queue => {}
            _ => return Err(Damage::at(at, "the snapshots that are being made are out of order")),
        }
    }
    Ok(pending)
}

#[cfg(test)]
mod tests {
    use super::super::any_key;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_any_changed_bit_is_noticed(
            blocks in 1..=BLOCKS_MAX,
            steps in prop::collection::vec((1u32..1000, any::<[u8; 16]>()), 1..Manifest::LAYERS_MAX),
            snapshots in any::<(Option<[u8; 16]>, Option<[u8; 16]>)>(),
            pending in prop::collection::vec(any::<[u8; 16]>(), 0..=Manifest::PENDING_MAX),
            key in any_key(),
            bit in any::<prop::sample::Index>(),
        ) {
            let mut next_layer = 0;
            let layers = steps.into_iter().map(|(step, uuid)| {
                next_layer += step;
                LayerEntry { id: next_layer, uuid: Uuid(uuid) }
            });
            let layers: Vec<_> = layers.collect();
            let uuid = |bytes: [u8; 16]| Uuid(bytes.map(|byte| byte | 1));
            let covered = |bytes| Covered { snapshot: uuid(bytes), layer: next_layer, created_s: 77 };
            let pending = pending.into_iter().zip(next_layer + 1..);
            let pending = pending.map(|(bytes, layer)| Covered { layer, ..covered(bytes) });
            let manifest = Manifest {
                volume: Uuid([9; 16]),
                blocks,
                lineage: Uuid([8; 16]),
                last: snapshots.0.map(covered),
                pending: pending.collect(),
                base: snapshots.1.map(|bytes| Base {
                    snapshot: uuid(bytes),
                    blocks: if layers.len() < 2 { 0 } else { blocks / 2 },
                }),
                next_layer: next_layer + 20,
                layers,
                key,
            };
            let mut bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
            let bit = bit.index(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Manifest::decode(&bytes).is_err());
            prop_assert!(Manifest::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
