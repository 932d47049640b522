//! The head of a snapshot, and what keeps one from being removed.

use crate::crypt::WrappedKey;
use crate::layered::format::{Fields, KEY_RECORD_LEN, decode_key, encode_key, put};

use super::page::{put_entries, take_entries};
use super::{BLOCKS_MAX, Damage, Entry, SnapshotName, Uuid};

const NODES_AT: usize = 112;
const NODES_MAX: u64 = 128;
/// In place of 0: the data key follows the nodes.
const HAS_KEY: u32 = 1;
const PIN_LEN: usize = 48;

/// A snapshot: it is complete when this is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) name: SnapshotName,
    /// The snapshot of the same lineage that this one was made from, all zeroes for none; it may be gone.
    pub(crate) parent: Uuid,
    /// The size of the volume.
    pub(crate) blocks: u64,
    /// When it was begun, in seconds since 1970.
    pub(crate) created_s: u64,
    /// How many chunks are not all zeroes.
    pub(crate) chunks: u64,
    /// How many bytes in the store are this snapshot's own: those that it did not find in its parent.
    pub(crate) own_bytes: u64,
    pub(crate) nodes: Vec<Entry>,
    /// The data key, if the chunks are encrypted; wrapped for the lineage.
    pub(crate) key: Option<WrappedKey>,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; NODES_AT];
        let count = u32::try_from(self.nodes.len()).expect("at most NODES_MAX");
        put(&mut bytes, 0, self.name.lineage.0);
        put(&mut bytes, 16, self.name.id.0);
        put(&mut bytes, 32, self.parent.0);
        put(&mut bytes, 48, self.blocks.to_le_bytes());
        put(&mut bytes, 56, self.created_s.to_le_bytes());
        put(&mut bytes, 64, self.chunks.to_le_bytes());
        put(&mut bytes, 72, self.own_bytes.to_le_bytes());
        put(&mut bytes, 80, count.to_le_bytes());
        put_entries(&mut bytes, &self.nodes);
        if let Some(key) = &self.key {
            put(&mut bytes, 84, HAS_KEY.to_le_bytes());
            bytes.extend(encode_key(key));
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.len() < NODES_AT {
            return Err(Damage::at(bytes.len(), "the manifest ends too early"));
        }
        let fields = Fields(bytes);
        let blocks = fields.u64(48);
        if !(1..=BLOCKS_MAX).contains(&blocks) {
            return Err(Damage::at(48, "the size of the snapshot is out of range"));
        }
        let key = match fields.u32(84) {
            0 => None,
            HAS_KEY => {
                let at = bytes.len().checked_sub(KEY_RECORD_LEN).filter(|at| *at >= NODES_AT);
                let at = at.ok_or(Damage::at(bytes.len(), "the manifest ends before its key"))?;
                Some((at, decode_key(&fields, at)?))
            }
            _ => return Err(Damage::at(84, "the cipher is not one that this program knows")),
        };
        let (nodes_end, key) = key.map_or((bytes.len(), None), |(at, key)| (at, Some(key)));
        fields.expect_zero(88, NODES_AT)?;
        Ok(Self {
            name: SnapshotName { lineage: fields.uuid(0), id: fields.uuid(16) },
            parent: fields.uuid(32),
            blocks,
            created_s: fields.u64(56),
            chunks: fields.u64(64),
            own_bytes: fields.u64(72),
            nodes: take_entries(&bytes[..nodes_end], NODES_AT, fields.u32(80), NODES_MAX)?,
            key,
        })
    }
}

/// Somebody relies on what a snapshot names: one that is being made from it, or a volume that has not fetched all of it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pin {
    /// The lineage, and the id of who relies on it.
    pub(crate) holder: SnapshotName,
    /// The snapshot; all zeroes for none.
    pub(crate) snapshot: Uuid,
}

impl Pin {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; PIN_LEN];
        put(&mut bytes, 0, self.holder.lineage.0);
        put(&mut bytes, 16, self.holder.id.0);
        put(&mut bytes, 32, self.snapshot.0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.len() != PIN_LEN {
            return Err(Damage::at(bytes.len(), "the pin has another length"));
        }
        let fields = Fields(bytes);
        let holder = SnapshotName { lineage: fields.uuid(0), id: fields.uuid(16) };
        Ok(Self { holder, snapshot: fields.uuid(32) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::tests::any_entries;
    use super::*;
    use crate::layered::format::any_key;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            ids in any::<([u8; 16], [u8; 16], [u8; 16])>(),
            blocks in 1..=BLOCKS_MAX,
            (created_s, chunks, own_bytes) in any::<(u64, u64, u64)>(),
            nodes in any_entries(128),
            key in any_key(),
        ) {
            let name = SnapshotName { lineage: Uuid(ids.0), id: Uuid(ids.1) };
            let manifest = Manifest { name, parent: Uuid(ids.2), blocks, created_s, chunks, own_bytes, nodes, key };
            let bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
            prop_assert!(Manifest::decode(&bytes[..bytes.len() - 1]).is_err());
            let pin = Pin { holder: name, snapshot: Uuid(ids.2) };
            prop_assert_eq!(Pin::decode(&pin.encode()), Ok(pin));
        }
    }
}
