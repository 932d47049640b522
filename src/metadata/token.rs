//! Session tokens of version 2.
//!
//! A token is when it ends, and a keyed hash of that; nothing is stored for one. Its text is 56
//! characters of base64, as on AWS.
//!
//! ```text
//! byte  0         8                              40
//!       │ ends at │ BLAKE3 keyed hash of ends at │     nanoseconds on the service's clock, big-endian
//! ```

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE as BASE64;
use types::Instant;

/// How long a token holds: 1 second to 6 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u32);

impl Ttl {
    const MAX_S: u32 = 21_600;

    /// `None` when it is out of range.
    pub fn from_secs(secs: u32) -> Option<Self> {
        (1..=Self::MAX_S).contains(&secs).then_some(Self(secs))
    }

    pub fn as_secs(self) -> u32 {
        self.0
    }
}

/// What tokens are made and checked with. A new key makes all earlier tokens invalid.
#[derive(Clone)]
pub struct TokenKey([u8; 32]);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// A key from 32 bytes of `source`, which should be `/dev/urandom` outside tests.
    ///
    /// # Errors
    /// Those of reading `source`.
    pub fn generate(source: &mut impl Read) -> io::Result<Self> {
        let mut key = [0; 32];
        source.read_exact(&mut key)?;
        Ok(Self(key))
    }

    pub(crate) fn issue(&self, now: Instant, ttl: Ttl) -> String {
        let ends = now.after(Duration::from_secs(u64::from(ttl.as_secs()))).0;
        let ends = u64::try_from(ends.as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
        BASE64.encode([ends.as_slice(), self.hash(ends).as_bytes()].concat())
    }

    /// How long `token` still holds, rounded up; `None` if it does not, or is not of this key.
    pub(crate) fn check(&self, token: &[u8], now: Instant) -> Option<Ttl> {
        let bytes = BASE64.decode(token).ok()?;
        let (ends, hash) = bytes.split_first_chunk::<8>()?;
        let hash = blake3::Hash::from_slice(hash).ok()?;
        // This comparison takes the same time wherever the two differ.
        if self.hash(*ends) != hash {
            return None;
        }
        let ends = Instant(Duration::from_nanos(u64::from_be_bytes(*ends)));
        let left = ends.since(now);
        let secs = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        u32::try_from(secs).ok().and_then(Ttl::from_secs)
    }

    fn hash(&self, ends: [u8; 8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0, &ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u8) -> TokenKey {
        TokenKey::generate(&mut [seed; 32].as_slice()).unwrap()
    }

    fn at(ms: u64) -> Instant {
        Instant(Duration::from_millis(ms))
    }

    #[test]
    fn a_token_holds_for_its_time_and_no_longer() {
        let ttl = Ttl::from_secs(60).unwrap();
        let token = key(1).issue(at(5_000), ttl);
        assert_eq!(token.len(), 56);
        assert_eq!(key(1).check(token.as_bytes(), at(5_000)), Some(ttl));
        assert_eq!(key(1).check(token.as_bytes(), at(64_500)), Ttl::from_secs(1));
        assert_eq!(key(1).check(token.as_bytes(), at(65_000)), None);
    }

    #[test]
    fn a_token_of_another_key_is_none() {
        let token = key(1).issue(at(0), Ttl::from_secs(60).unwrap());
        assert_eq!(key(2).check(token.as_bytes(), at(0)), None);
    }

    #[test]
    fn times_out_of_range_are_refused() {
        assert_eq!(Ttl::from_secs(0), None);
        assert_eq!(Ttl::from_secs(21_601), None);
        assert!(Ttl::from_secs(21_600).is_some());
    }

    proptest! {
        #[test]
        fn a_token_with_any_bit_changed_is_none(byte in 0usize..40, bit in 0u8..8) {
            let token = key(1).issue(at(0), Ttl::from_secs(60).unwrap());
            let mut bytes = BASE64.decode(&token).unwrap();
            bytes[byte] ^= 1 << bit;
            prop_assert_eq!(key(1).check(BASE64.encode(bytes).as_bytes(), at(0)), None);
        }

        #[test]
        fn any_text_is_checked_without_a_panic(text: Vec<u8>) {
            prop_assert_eq!(key(1).check(&text, at(0)), None);
        }
    }
}
