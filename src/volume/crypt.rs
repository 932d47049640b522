//! Encryption of volumes: AES-256-XTS, with a data key for each volume that a named key has wrapped.
//!
//! ```text
//!   key store ── unwraps, by the name that the manifest has ──▶ data key ──▶ Cipher ──▶ queues, between guest and layer
//! ```
//!
//! **What is encrypted** is the data of blocks, sector by sector, wherever it stands: in layers, and in the chunks of snapshots, which are
//! made of the same bytes. Merging, recovery, snapshots and their copies move it as it is and need no key. Maps, logs and sizes are not
//! secret, and neither is which sectors were never written.
//!
//! **A sector of zero bytes** is not ciphertext: it reads as zeroes. So a hole that was punched a moment before a crash, or while somebody
//! reads, is what it is on a volume without a key. That ciphertext comes out as 512 zeroes is one chance in 2^4096.
//!
//! **What XTS does not do** (IEEE 1619, appendix D): who can write to the files can put an older sector in place of a newer one, or make
//! one into noise, unnoticed; who sees two versions of a sector sees which 16 bytes of it are the same. The data key is therefore one
//! volume's and its snapshots' alone.
//!
//! **Keys** are wiped from memory when who holds them is dropped, are in memory that core dumps leave out, and have no `Debug`.

mod key_file;
mod keys;
mod xts;

pub use key_file::KeyFile;
#[cfg(test)]
pub(crate) use keys::OpenKeys;
pub use keys::{DataKey, KeyError, KeyName, KeyStore, WrappedKey};

use crate::backend::SECTOR_BYTES;
use crate::sys::Secret;
use xts::{UNIT_LEN, Xts};

/// Encrypts and decrypts the sectors of one volume.
///
/// The data unit is a sector of 512 bytes, and its number in the volume the tweak: requests are of whole sectors, and storage tears
/// between them, so no unit is ever read or written in part. Units of 4 KiB would save one block of AES in 32 and cost a copy for each
/// request that is not of whole blocks.
pub(crate) struct Cipher(Secret<Xts>);

impl Cipher {
    /// # Errors
    /// When there is no memory for the key.
    pub(crate) fn new(key: &DataKey) -> std::io::Result<Self> {
        Ok(Self(Secret::new(Xts::new(key.bytes()))?))
    }

    /// Encrypts whole sectors, which stand from `offset` of the volume on, where they are.
    pub(crate) fn encrypt(&self, offset: u64, sectors: &mut [u8]) {
        self.0.encrypt(offset / SECTOR_BYTES, sectors);
    }

    /// Encrypts those sectors that are not of zeroes, so that what was never written needs no space.
    pub(crate) fn encrypt_data(&self, offset: u64, sectors: &mut [u8]) {
        for_data(offset, sectors, |unit, data| self.0.encrypt(unit, data));
    }

    /// Decrypts whole sectors, which stand from `offset` of the volume on, where they are.
    pub(crate) fn decrypt(&self, offset: u64, sectors: &mut [u8]) {
        for_data(offset, sectors, |unit, data| self.0.decrypt(unit, data));
    }
}

/// Calls `each` with the sectors between those of zeroes, and the number of the first of them.
fn for_data(offset: u64, sectors: &mut [u8], each: impl Fn(u64, &mut [u8])) {
    let is_zero = |sector: &&[u8]| sector.iter().all(|byte| *byte == 0);
    let (mut unit, mut rest) = (offset / SECTOR_BYTES, sectors);
    while !rest.is_empty() {
        let zeroes = rest.chunks_exact(UNIT_LEN).take_while(is_zero).count();
        let after = &mut rest[zeroes * UNIT_LEN..];
        let count = after.chunks_exact(UNIT_LEN).take_while(|sector| !is_zero(sector)).count();
        let (data, after) = after.split_at_mut(count * UNIT_LEN);
        each(unit + zeroes as u64, data);
        unit += (zeroes + count) as u64;
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sectors_of_zeroes_stay_and_others_come_back(
            first in 0u64..1 << 37,
            written in prop::collection::vec(any::<bool>(), 1..40),
        ) {
            let cipher = Cipher::new(&DataKey::random().unwrap()).unwrap();
            let plain: Vec<u8> = (0..written.len() * UNIT_LEN).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut bytes = vec![0; plain.len()];
            let sectors = || bytes_of(&written);
            for sector in sectors() {
                let (start, end) = (sector * UNIT_LEN, (sector + 1) * UNIT_LEN);
                bytes[start..end].copy_from_slice(&plain[start..end]);
                cipher.encrypt((first + sector as u64) * SECTOR_BYTES, &mut bytes[start..end]);
                prop_assert_ne!(&bytes[start..end], &plain[start..end]);
            }
            cipher.decrypt(first * SECTOR_BYTES, &mut bytes);
            for (sector, found) in bytes.chunks(UNIT_LEN).enumerate() {
                let expected = if written[sector] { &plain[sector * UNIT_LEN..][..UNIT_LEN] } else { &[0; UNIT_LEN] };
                prop_assert_eq!(found, expected);
            }
        }
    }

    fn bytes_of(written: &[bool]) -> impl Iterator<Item = usize> {
        written.iter().enumerate().filter(|(_, written)| **written).map(|(sector, _)| sector)
    }
}
