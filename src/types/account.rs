//! Accounts: who resources belong to.

use std::fmt;
use std::str::FromStr;

use crate::text::as_text;

/// Twelve decimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(u64);

/// One more than the largest.
const END: u64 = 1_000_000_000_000;

impl AccountId {
    /// None beyond twelve digits.
    pub const fn new(number: u64) -> Option<Self> {
        if number < END { Some(Self(number)) } else { None }
    }
}

/// A text that is not an account's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the id of an account: expected 12 digits")]
pub struct ParseAccountIdError {
    text: String,
}

impl FromStr for AccountId {
    type Err = ParseAccountIdError;

    fn from_str(text: &str) -> Result<Self, ParseAccountIdError> {
        let well_formed = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if well_formed { text.parse().ok() } else { None };
        number.map(Self).ok_or_else(|| ParseAccountIdError { text: text.to_owned() })
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}", self.0)
    }
}

as_text! { AccountId }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_twelve_digits_and_zeros_count() {
        let account: AccountId = "000000000042".parse().unwrap();
        assert_eq!(account.to_string(), "000000000042");
        for bad in ["", "42", "0000000000042", "00000000004x", "+00000000042"] {
            assert!(bad.parse::<AccountId>().is_err(), "{bad:?} was accepted");
        }
        assert!(AccountId::new(999_999_999_999).is_some());
        assert!(AccountId::new(1_000_000_000_000).is_none());
    }
}
