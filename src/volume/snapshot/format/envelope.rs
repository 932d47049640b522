//! What is around the plain bytes of every object.

use crate::layered::format::{open, put, seal_with_checksum};

use super::{CHUNK_LEN, Damage, Hash, hash_of};

const MAGIC: &[u8; 8] = b"NIMBOSNP";
const VERSION: u32 = 1;
const PLAIN_AT: usize = 64;
/// The fastest of the levels that zstd numbers without a sign.
const LEVEL: i32 = 1;

/// What the plain bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Pin,
    Page,
    Chunk,
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Kind::Manifest => 1,
            Kind::Pin => 2,
            Kind::Page => 3,
            Kind::Chunk => 4,
        }
    }

    /// The most plain bytes that there can be.
    fn len_max(self) -> usize {
        match self {
            Kind::Manifest => 16 << 10,
            Kind::Pin => 4096,
            Kind::Page => 64 << 10,
            Kind::Chunk => CHUNK_LEN,
        }
    }
}

/// The object of some plain bytes.
pub(crate) fn encode(kind: Kind, plain: &[u8]) -> Vec<u8> {
    let packed = zstd::bulk::compress(plain, LEVEL).unwrap_or_default();
    // Compression that gains nothing, or fails, is left out.
    let is_packed = !packed.is_empty() && packed.len() < plain.len();
    let payload = if is_packed { &packed[..] } else { plain };
    let mut bytes = vec![0; PLAIN_AT];
    put(&mut bytes, 0, *MAGIC);
    put(&mut bytes, 12, VERSION.to_le_bytes());
    put(&mut bytes, 16, kind.code().to_le_bytes());
    put(&mut bytes, 20, u32::from(is_packed).to_le_bytes());
    put(&mut bytes, 24, (plain.len() as u64).to_le_bytes());
    put(&mut bytes, 32, hash_of(plain));
    bytes.extend_from_slice(payload);
    seal_with_checksum(&mut bytes);
    bytes
}

/// The plain bytes of an object, and their hash.
pub(crate) fn decode(kind: Kind, mut bytes: Vec<u8>) -> Result<(Vec<u8>, Hash), Damage> {
    if bytes.len() < PLAIN_AT {
        return Err(Damage::at(bytes.len(), "the object ends too early"));
    }
    let fields = open(&bytes, MAGIC)?;
    if fields.u32(12) != VERSION {
        return Err(Damage::at(12, "the version is not one that this program knows"));
    }
    if fields.u32(16) != kind.code() {
        return Err(Damage::at(16, "the object is of another kind"));
    }
    let len = usize::try_from(fields.u64(24)).unwrap_or(usize::MAX);
    if len > kind.len_max() {
        return Err(Damage::at(24, "the object is larger than one of its kind can be"));
    }
    let hash = fields.array(32);
    let plain = match fields.u32(20) {
        // In place: a chunk is large to be copied to memory that was never used.
        0 => {
            bytes.drain(..PLAIN_AT);
            bytes
        }
        1 => zstd::bulk::decompress(&bytes[PLAIN_AT..], len)
            .map_err(|_| Damage::at(PLAIN_AT, "the compressed bytes cannot be unpacked"))?,
        _ => return Err(Damage::at(20, "the bytes are packed in a way that this program does not know")),
    };
    if plain.len() != len {
        return Err(Damage::at(24, "the object has another length than it says"));
    }
    if hash_of(&plain) != hash {
        return Err(Damage::at(32, "the hash does not match"));
    }
    Ok((plain, hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_any_changed_bit_is_noticed(
            plain in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3000),
                (any::<u8>(), 0usize..4000).prop_map(|(byte, len)| vec![byte; len]),
            ],
            bit in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(Kind::Page, &plain);
            prop_assert!(bytes.len() <= plain.len() + PLAIN_AT);
            prop_assert_eq!(decode(Kind::Page, bytes.clone()), Ok((plain.clone(), hash_of(&plain))));
            prop_assert!(decode(Kind::Chunk, bytes.clone()).is_err());
            prop_assert!(decode(Kind::Page, bytes[..bytes.len() - 1].to_vec()).is_err());
            let bit = bit.index(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(Kind::Page, bytes).is_err());
        }
    }
}
