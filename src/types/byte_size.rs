//! Amounts of bytes, as people write them for memory and disks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Units from the largest; the powers of two that a memory or a disk is counted in.
const UNITS: [(u64, &str); 4] = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];

/// An amount of bytes.
///
/// Its text is a whole number and a unit, `K`, `M`, `G` or `T`, all powers of 1024: `512M`, `1G`.
/// When read, a following `iB` or `B` and lower case are accepted, and no unit means bytes. Text is
/// exact: the largest unit that divides the amount is used. In JSON it is the number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

/// A text that is not an amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseByteSizeError {
    #[error("{0:?} is not an amount of bytes: expected a whole number and K, M, G or T, such as 512M")]
    Malformed(String),
    #[error("{0:?} is more than the 16 EiB that can be counted")]
    TooLarge(String),
}

impl ByteSize {
    pub const ZERO: Self = Self(0);

    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// `None` when the amount does not fit.
    pub const fn from_mib(mib: u64) -> Option<Self> {
        match mib.checked_mul(1 << 20) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// `None` when the amount does not fit.
    pub const fn from_gib(gib: u64) -> Option<Self> {
        match gib.checked_mul(1 << 30) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whole mebibytes, rounded down.
    pub const fn mib(self) -> u64 {
        self.0 >> 20
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS.iter().find(|(size, _)| self.0 != 0 && self.0.is_multiple_of(*size));
        match exact {
            Some((size, unit)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, ParseByteSizeError> {
        let malformed = || ParseByteSizeError::Malformed(text.to_owned());
        let too_large = || ParseByteSizeError::TooLarge(text.to_owned());
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        if digits.is_empty() {
            return Err(malformed());
        }
        let unit_bytes = match unit.to_ascii_uppercase().as_str() {
            "" | "B" => 1,
            "K" | "KB" | "KIB" => 1 << 10,
            "M" | "MB" | "MIB" => 1 << 20,
            "G" | "GB" | "GIB" => 1 << 30,
            "T" | "TB" | "TIB" => 1 << 40,
            _ => return Err(malformed()),
        };
        let number: u64 = digits.parse().map_err(|_| too_large())?;
        number.checked_mul(unit_bytes).map(Self).ok_or_else(too_large)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_powers_of_1024_in_either_case() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("4k", 4096),
            ("512M", 512 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("2tb", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn text_uses_the_largest_exact_unit() {
        for (bytes, text) in
            [(0, "0"), (1, "1"), (1536 << 20, "1536M"), (1 << 30, "1G"), ((1 << 30) + 1, "1073741825")]
        {
            assert_eq!(ByteSize::from_bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "M", "-1", "1.5G", "1 G", "1X", "1GG", "+1"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ParseByteSizeError::Malformed(_))), "{text:?}");
        }
        for text in ["18446744073709551616", "99999999999T"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ParseByteSizeError::TooLarge(_))), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_gives_the_amount_back(bytes: u64) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = text.parse::<ByteSize>();
        }
    }
}
