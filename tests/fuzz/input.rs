//! From a fuzzer's bytes to what a target does with them.

use arbitrary::{Arbitrary, Unstructured};

/// More steps only make a run slow.
const STEPS_MAX: usize = 4096;

/// As many bytes as the first one says.
#[derive(Debug)]
pub struct Bytes(pub Vec<u8>);

impl<'a> Arbitrary<'a> for Bytes {
    fn arbitrary(data: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let length = usize::from(u8::arbitrary(data)?).min(data.len());
        Ok(Bytes(data.bytes(length)?.to_vec()))
    }
}

/// Steps until the bytes end.
pub fn steps<'a, Step: Arbitrary<'a>>(data: &mut Unstructured<'a>) -> impl Iterator<Item = Step> {
    let next = || if data.is_empty() { None } else { data.arbitrary().ok() };
    std::iter::from_fn(next).take(STEPS_MAX)
}

/// Changes to `bytes` for as long as there are any: two bytes for the place, one for the length, then the new bytes. The place
/// is an index of `blocks`, the parts that are worth changing, times `block_bytes`, and an offset in that.
pub fn patch(bytes: &mut [u8], blocks: &[usize], block_bytes: usize, mut changes: &[u8]) {
    while let [low, high, length, rest @ ..] = changes {
        let place = usize::from(u16::from_le_bytes([*low, *high]));
        let (new, rest) = rest.split_at(usize::from(*length % 16).min(rest.len()));
        let block = blocks[place / block_bytes % blocks.len()];
        let start = block * block_bytes + place % block_bytes;
        bytes.iter_mut().skip(start).zip(new).for_each(|(byte, new)| *byte = *new);
        changes = rest;
    }
}
