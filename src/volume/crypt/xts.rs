//! XTS-AES-256 (IEEE 1619-2018) over data units of 512 bytes.
//!
//! A unit is 32 blocks, so ciphertext stealing never comes up. Each block is XORed with its mask before and after AES; a unit's first mask
//! is its number under the second key, and each further one the one before times α in GF(2^128). Eight units go together: AES then has
//! 256 blocks at once to keep its pipeline full, and the masks of eight units are eight chains that do not wait for each other.

use aes::Aes256;
use aes::Block;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

/// A data unit, in bytes.
pub(super) const UNIT_LEN: usize = 512;
/// Both keys, in bytes.
pub(super) const KEY_LEN: usize = 64;

const BLOCK_LEN: usize = 16;
const UNIT_BLOCKS: usize = UNIT_LEN / BLOCK_LEN;
/// How many units are done at a time.
const UNITS: usize = 8;
/// What x^128 is in the field: x^7 + x^2 + x + 1.
const FEEDBACK: u128 = 0x87;

/// The masks of some units, one for each of their blocks.
type Masks = [[u128; UNIT_BLOCKS]; UNITS];

/// The round keys of both keys; AES wipes them when it is dropped.
pub(super) struct Xts {
    data: Aes256,
    tweak: Aes256,
}

impl Xts {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        let (data, tweak) = key.split_at(KEY_LEN / 2);
        let aes = |key: &[u8]| Aes256::new_from_slice(key).expect("32 bytes are a key of AES-256");
        Self { data: aes(data), tweak: aes(tweak) }
    }

    /// Encrypts whole units, of which the first has the number `unit`, where they stand.
    pub(super) fn encrypt(&self, unit: u64, bytes: &mut [u8]) {
        self.for_units(unit, bytes, |blocks| self.data.encrypt_blocks(blocks));
    }

    /// Decrypts whole units, of which the first has the number `unit`, where they stand.
    pub(super) fn decrypt(&self, unit: u64, bytes: &mut [u8]) {
        self.for_units(unit, bytes, |blocks| self.data.decrypt_blocks(blocks));
    }

    fn for_units(&self, mut unit: u64, bytes: &mut [u8], aes: impl Fn(&mut [Block])) {
        assert!(bytes.len().is_multiple_of(UNIT_LEN), "units are whole");
        for units in bytes.chunks_mut(UNITS * UNIT_LEN) {
            let masks = self.masks(unit);
            let (blocks, _) = Block::slice_as_chunks_mut(units);
            mask(blocks, &masks);
            aes(blocks);
            mask(blocks, &masks);
            unit += UNITS as u64;
        }
    }

    fn masks(&self, unit: u64) -> Masks {
        let mut first = [Block::default(); UNITS];
        for (number, block) in (unit..).zip(&mut first) {
            block[..8].copy_from_slice(&number.to_le_bytes());
        }
        self.tweak.encrypt_blocks(&mut first);
        let mut next = first.map(|block| u128::from_le_bytes(block.into()));
        let mut masks = [[0; UNIT_BLOCKS]; UNITS];
        for block in 0..UNIT_BLOCKS {
            for (masks, next) in masks.iter_mut().zip(&mut next) {
                masks[block] = *next;
                *next = (*next << 1) ^ ((*next >> 127) * FEEDBACK);
            }
        }
        masks
    }
}

fn mask(blocks: &mut [Block], masks: &Masks) {
    for (block, mask) in blocks.iter_mut().zip(masks.as_flattened()) {
        let masked = u128::from_le_bytes((*block).into()) ^ mask;
        *block = masked.to_le_bytes().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// IEEE 1619-2018, appendix B, vectors 10 and 14: XTS-AES-256, units 0xff and 0xffffffffff of 512 bytes.
    #[test]
    fn the_vectors_of_the_standard_come_out() {
        let key = from_hex(
            "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592",
        );
        let plain: Vec<u8> = (0..UNIT_LEN).map(|at| u8::try_from(at % 256).unwrap()).collect();
        let xts = Xts::new(&key.try_into().unwrap());
        for (unit, cipher) in [(0xff, VECTOR_10), (0xff_ffff_ffff, VECTOR_14)] {
            let mut bytes = plain.clone();
            xts.encrypt(unit, &mut bytes);
            assert_eq!(bytes, from_hex(cipher), "unit {unit:x}");
            xts.decrypt(unit, &mut bytes);
            assert_eq!(bytes, plain);
        }
    }

    proptest! {
        #[test]
        fn many_units_at_once_are_as_one_at_a_time(
            key in prop::collection::vec(any::<u8>(), KEY_LEN),
            unit in 0u64..1 << 37,
            units in 1usize..20,
        ) {
            let xts = Xts::new(&key.try_into().unwrap());
            let plain: Vec<u8> = (0..units * UNIT_LEN).map(|at| u8::try_from(at % 253).unwrap()).collect();
            let mut together = plain.clone();
            xts.encrypt(unit, &mut together);
            let mut apart = plain.clone();
            for (index, bytes) in apart.chunks_mut(UNIT_LEN).enumerate() {
                xts.encrypt(unit + index as u64, bytes);
            }
            prop_assert_eq!(&together, &apart);
            xts.decrypt(unit, &mut together);
            prop_assert_eq!(together, plain);
        }
    }

    const VECTOR_10: &str = "\
1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd\
5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca\
2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f\
93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a\
84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae\
9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac\
6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385\
1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151";
    const VECTOR_14: &str = "\
64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed2350eae7e96087c8a0db51ad290bd00c1ac1620857635bf246c176ab463be30b80\
8da548081ac847b158e1264be25bb0910bbc92647108089415d45fab1b3d2604e8a8eff1ae4020cfa39936b66827b23f371b92200be90251e6d73c5f86de5fd4\
a950781933d79a28272b782a2ec313efdfcc0628f43d744c2dc2ff3dcb66999b50c7ca895b0c64791eeaa5f29499fb1c026f84ce5b5c72ba1083cddb5ce45434\
631665c333b60b11593fb253c5179a2c8db813782a004856a1653011e93fb6d876c18366dd8683f53412c0c180f9c848592d593f8609ca736317d356e13e2bff\
3a9f59cd9aeb19cd482593d8c46128bb32423b37a9adfb482b99453fbe25a41bf6feb4aa0bef5ed24bf73c762978025482c13115e4015aac992e5613a3b5c2f6\
85b84795cb6e9b2656d8c88157e52c42f978d8634c43d06fea928f2822e465aa6576e9bf419384506cc3ce3c54ac1a6f67dc66f3b30191e698380bc999b05abc\
e19dc0c6dcc2dd001ec535ba18deb2df1a101023108318c75dc98611a09dc48a0acdec676fabdf222f07e026f059b672b56e5cbc8e1d21bbd867dd9272120546\
81d70ea737134cdfce93b6f82ae22423274e58a0821cc5502e2d0ab4585e94de6975be5e0b4efce51cd3e70c25a1fbbbd609d273ad5b0d59631c531f6a0a57b9";
}
