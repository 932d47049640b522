//! How much of a host instances can have.
//!
//! Zones and regions are on one host, and share what it has. What instances have is counted with their records
//! ([`Counted`]), so whether another one fits is decided in the transaction that launches or starts it, and no two are given the same room.

use std::fmt;
use std::str::FromStr;

use types::ByteSize;

use crate::catalog::InstanceType;
use crate::state::{Counted, State};

/// Processors and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub vcpus: u64,
    pub memory: ByteSize,
}

/// Of a host that does not say what it has.
impl Default for Capacity {
    fn default() -> Self {
        Self { vcpus: u64::MAX, memory: ByteSize::from_bytes(u64::MAX) }
    }
}

/// How many times what a host has is given to instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    pub cpus: Factor,
    pub memory: Factor,
}

/// Processors are shared by time, and few guests use theirs all the time; memory that is not there ends in swapping or worse.
impl Default for Overcommit {
    fn default() -> Self {
        Self { cpus: Factor { per_mille: 8000 }, memory: Factor { per_mille: 1000 } }
    }
}

/// At least 0.001 and at most 1,000, in thousandths: `1.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    per_mille: u32,
}

/// A text that is no factor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a factor: expected a number from 0.001 to 1000 with at most three decimals, such as 1.5"
)]
pub struct ParseFactorError(String);

const PER_MILLE_MAX: u32 = 1_000_000;

impl Factor {
    fn of(self, amount: u64) -> u64 {
        let product = u128::from(amount) * u128::from(self.per_mille) / 1000;
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}

impl FromStr for Factor {
    type Err = ParseFactorError;

    fn from_str(text: &str) -> Result<Self, ParseFactorError> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let per_mille = || {
            let decimals: u32 = format!("{decimals:0<3}").parse().ok()?;
            whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(decimals)
        };
        let is_well_formed = is_number(whole) && is_number(decimals) && decimals.len() <= 3;
        let per_mille = if is_well_formed { per_mille() } else { None };
        let per_mille = per_mille.filter(|per_mille| (1..=PER_MILLE_MAX).contains(per_mille));
        per_mille.map(|per_mille| Self { per_mille }).ok_or_else(|| ParseFactorError(text.to_owned()))
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per_mille % 1000 {
            0 => write!(f, "{}", self.per_mille / 1000),
            rest => write!(f, "{}.{}", self.per_mille / 1000, format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

impl Capacity {
    #[must_use]
    pub fn overcommitted(self, by: Overcommit) -> Self {
        Self {
            vcpus: by.cpus.of(self.vcpus),
            memory: ByteSize::from_bytes(by.memory.of(self.memory.bytes())),
        }
    }

    /// How many more of a type fit beside what there is.
    pub(crate) fn room(self, state: &State, kind: &InstanceType) -> u64 {
        let used = |what| -> u64 { state.spaces().map(|(_, tables)| tables.instances.counted(what)).sum() };
        let vcpus = self.vcpus.saturating_sub(used(Counted::Vcpus)) / u64::from(kind.vcpus);
        let memory = self.memory.mib().saturating_sub(used(Counted::MemoryMib)) / u64::from(kind.memory_mib);
        vcpus.min(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_factor_is_refused() {
        for bad in
            ["", "0", "0.0", "-1", "1.", ".5", "1.0001", "1e3", "1000.001", "+1", "1.5x", "99999999999"]
        {
            assert!(bad.parse::<Factor>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("1.5".parse::<Factor>().unwrap().of(3), 4);
        assert_eq!("0.001".parse::<Factor>().unwrap().of(999), 0);
        assert_eq!("1000".parse::<Factor>().unwrap().of(u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn a_factor_is_read_as_it_is_written(per_mille in 1..=PER_MILLE_MAX) {
            let factor = Factor { per_mille };
            prop_assert_eq!(factor.to_string().parse(), Ok(factor));
        }
    }
}
