//! The data key of an encrypted volume, as manifests of volumes and of snapshots have it.

use super::{Damage, Fields, put};
use crate::crypt::{KeyName, WrappedKey};

/// The length of the encoding.
pub(crate) const KEY_RECORD_LEN: usize = 512;

const NAME_AT: usize = 16;
const WRAPPED_AT: usize = NAME_AT + KeyName::LEN_MAX;
/// AES-256-XTS in units of 512 bytes, the number of the sector as the tweak.
const XTS_512: u32 = 1;

pub(crate) fn encode_key(key: &WrappedKey) -> [u8; KEY_RECORD_LEN] {
    let mut bytes = [0; KEY_RECORD_LEN];
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("at most the record").to_le_bytes();
    let name = key.name.as_str().as_bytes();
    put(&mut bytes, 0, XTS_512.to_le_bytes());
    put(&mut bytes, 4, len(name));
    put(&mut bytes, 8, len(&key.bytes));
    bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
    bytes[WRAPPED_AT..WRAPPED_AT + key.bytes.len()].copy_from_slice(&key.bytes);
    bytes
}

/// Decodes the record that begins at `at`, to which damage refers.
pub(crate) fn decode_key(fields: &Fields<'_>, at: usize) -> Result<WrappedKey, Damage> {
    if fields.u32(at) != XTS_512 {
        return Err(Damage::at(at, "the cipher is not one that this program knows"));
    }
    fields.expect_zero(at + 12, at + NAME_AT)?;
    let len = |at: usize| usize::try_from(fields.u32(at)).unwrap_or(usize::MAX);
    let (name_len, wrapped_len) = (len(at + 4), len(at + 8));
    let name = fields.0[at + NAME_AT..at + WRAPPED_AT].get(..name_len);
    let name = name.and_then(|name| std::str::from_utf8(name).ok()).and_then(|name| name.parse().ok());
    let name: KeyName = name.ok_or(Damage::at(at + NAME_AT, "the name of the key is no such name"))?;
    if !(1..=WrappedKey::LEN_MAX).contains(&wrapped_len) {
        return Err(Damage::at(at + 8, "the length of the wrapped key is out of range"));
    }
    fields.expect_zero(at + NAME_AT + name_len, at + WRAPPED_AT)?;
    fields.expect_zero(at + WRAPPED_AT + wrapped_len, at + KEY_RECORD_LEN)?;
    Ok(WrappedKey { name, bytes: fields.0[at + WRAPPED_AT..at + WRAPPED_AT + wrapped_len].to_vec() })
}

#[cfg(test)]
pub(crate) fn any_key() -> impl proptest::strategy::Strategy<Value = Option<WrappedKey>> {
    use proptest::prelude::*;
    let key = ("[a-zA-Z0-9._:/-]{1,128}", prop::collection::vec(any::<u8>(), 1..=WrappedKey::LEN_MAX));
    prop::option::of(key.prop_map(|(name, bytes)| WrappedKey { name: name.parse().unwrap(), bytes }))
}
