//! XDR (RFC 4506): numbers of four or eight bytes, big-endian, and bytes padded to a multiple of four.
//!
//! A [`Reader`] lends what it reads from where it lies: no bytes are copied, and no length is believed that the rest does not have.

/// What was to be decoded ends too early, is longer than it may be, or has no such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not what XDR says")]
pub struct Malformed;

/// Bytes that are decoded from the first to the last.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// `count` bytes, without padding.
    ///
    /// # Errors
    /// Here and below, [`Malformed`].
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.fixed().map(u32::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.fixed().map(u64::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// A length, which may be up to `max`.
    pub fn length(&mut self, max: usize) -> Result<usize, Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > max { Err(Malformed) } else { Ok(length) }
    }

    /// Up to `max` bytes with their length before them and padding behind them.
    pub fn opaque(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let length = self.length(max)?;
        let taken = self.bytes(length)?;
        self.bytes(padding(length))?;
        Ok(taken)
    }

    /// What `decode` makes of each of up to `max` items.
    pub fn list<T>(
        &mut self,
        max: usize,
        mut decode: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let length = self.length(max)?;
        (0..length).map(|_| decode(self)).collect()
    }
}

/// Bytes that are encoded one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what was written from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// Has no more memory than for so many bytes.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.bytes.shrink_to(capacity);
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Bytes as they are, whose length both sides know.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A number of things. There are never 2³² of them in memory that is bounded.
    pub fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    pub fn opaque(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.pad(bytes.len());
    }

    /// The padding of so many bytes.
    pub fn pad(&mut self, length: usize) {
        self.bytes.extend_from_slice(&[0; 3][..padding(length)]);
    }

    /// Writes `value` over what stands at `place`, where a number was written.
    pub fn patch(&mut self, place: usize, value: u32) {
        if let Some(old) = self.bytes.get_mut(place..place + 4) {
            old.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Has `fill` write up to `count` bytes here, and keeps as many as it says.
    ///
    /// # Errors
    /// Those of `fill`; then nothing was written.
    pub fn fill<E>(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let start = self.bytes.len();
        self.bytes.resize(start + count, 0);
        let filled = fill(&mut self.bytes[start..]);
        let kept = filled.as_ref().map_or(0, |filled| (*filled).min(count));
        self.bytes.truncate(start + kept);
        filled
    }
}

/// How many zeroes follow `length` bytes.
pub const fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_that_the_rest_does_not_have_is_refused() {
        assert_eq!(Reader::new(&[0, 0, 0, 5, 1, 2, 3, 4]).opaque(100), Err(Malformed));
        assert_eq!(Reader::new(&[0, 0, 0, 1, 1]).opaque(100), Err(Malformed), "padding is missing");
        assert_eq!(Reader::new(&[0, 0, 0, 4, 1, 2, 3, 4]).opaque(3), Err(Malformed), "more than may be");
        assert_eq!(Reader::new(&[0, 0, 0, 2]).bool(), Err(Malformed));
        assert_eq!(Reader::new(&[0xff; 4]).list(usize::MAX, Reader::u32), Err(Malformed));
    }

    #[test]
    fn what_fails_to_fill_leaves_nothing() {
        let mut writer = Writer::new();
        writer.u32(7);
        assert_eq!(writer.fill(1000, |_| Err::<usize, _>("no")), Err("no"));
        assert_eq!(writer.as_bytes(), [0, 0, 0, 7]);
        assert_eq!(
            writer.fill(4, |bytes| {
                bytes[0] = 9;
                Ok::<_, ()>(1)
            }),
            Ok(1)
        );
        assert_eq!(writer.as_bytes(), [0, 0, 0, 7, 9]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(number: u32, large: u64, flag: bool, bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut writer = Writer::new();
            writer.u32(number);
            writer.opaque(&bytes);
            writer.u64(large);
            writer.bool(flag);
            prop_assert_eq!(writer.len() % 4, 0);
            let mut reader = Reader::new(writer.as_bytes());
            prop_assert_eq!(reader.u32(), Ok(number));
            prop_assert_eq!(reader.opaque(20), Ok(bytes.as_slice()));
            prop_assert_eq!(reader.u64(), Ok(large));
            prop_assert_eq!(reader.bool(), Ok(flag));
            prop_assert_eq!(reader.remaining(), 0);
        }
    }
}
