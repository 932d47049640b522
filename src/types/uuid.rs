//! Ids that are 128 bits in groups of hexadecimal digits (RFC 9562).

use std::fmt;
use std::str::FromStr;

use crate::RandomId;
use crate::text::as_text;

/// A random UUID, version 4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(u128);

/// A text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no UUID: expected 8, 4, 4, 4 and 12 lower-case hexadecimal digits with hyphens between them"
)]
pub struct ParseUuidError(String);

/// Where groups of digits end, from the first on.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

impl RandomId for Uuid {
    fn from_random(bytes: [u8; 16]) -> Self {
        let mut bytes = bytes;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (mut rest, mut separator) = (digits.as_str(), "");
        for group in GROUPS {
            let (its, after) = rest.split_at(group);
            write!(f, "{separator}{its}")?;
            (rest, separator) = (after, "-");
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, ParseUuidError> {
        let number = u128::from_str_radix(&text.replace('-', ""), 16).map(Self);
        // Whatever else was read so is written otherwise.
        number.ok().filter(|uuid| uuid.to_string() == text).ok_or_else(|| ParseUuidError(text.to_owned()))
    }
}

as_text! { Uuid }

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_written_as_the_rfc_has_it() {
        let uuid = Uuid::from_random([0xff; 16]);
        assert_eq!(uuid.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        for text in
            ["", "ffffffff", "FFFFFFFF-ffff-4fff-bfff-ffffffffffff", "ffffffffffff4fffbfffffffffffffff"]
        {
            assert!(text.parse::<Uuid>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn its_text_gives_it_back(bytes: [u8; 16]) {
            let uuid = Uuid::from_random(bytes);
            prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
        }
    }
}
