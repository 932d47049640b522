//! Times, shares and rates, as they are written on the command line.

use std::fmt;
use std::time::Duration;

const DECIMALS_MAX: usize = 6;

/// The number before its unit, in units of which the unit has as many as `units` say: `1.5ms` is 1500 of `[("ms", 1000)]`.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let (_, unit) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if decimals.len() > DECIMALS_MAX {
        return None;
    }
    let parts = 10u64.pow(u32::try_from(decimals.len()).ok()?);
    let whole = whole.parse::<u64>().ok()?.checked_mul(*unit)?;
    let decimals = decimals.parse::<u64>().ok()?.checked_mul(*unit)?;
    decimals.is_multiple_of(parts).then(|| whole.checked_add(decimals / parts))?
}

/// A time: a number and `us`, `ms`, `s`, `m` or `h`.
///
/// # Errors
/// What was expected.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const SECOND: u64 = 1_000_000;
    let units = [("us", 1), ("ms", 1_000), ("s", SECOND), ("m", 60 * SECOND), ("h", 3600 * SECOND)];
    let microseconds = scaled(text, &units);
    let microseconds = microseconds.ok_or("expected a time such as 50ms, 1.5s or 10m")?;
    Ok(Duration::from_micros(microseconds))
}

/// A share of all, in millionths: a percentage.
///
/// # Errors
/// What was expected.
pub(crate) fn share_ppm(text: &str) -> Result<u32, String> {
    let ppm = scaled(text, &[("%", 10_000)]).and_then(|ppm| u32::try_from(ppm).ok());
    ppm.filter(|ppm| *ppm <= 1_000_000).ok_or_else(|| "expected a percentage such as 1% or 0.05%".to_owned())
}

const RATES: [(&str, u64); 4] = [("bit", 1), ("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];

/// Bits in a second: a number and `bit`, `kbit`, `mbit` or `gbit`.
///
/// # Errors
/// What was expected.
pub(crate) fn rate_bps(text: &str) -> Result<u64, String> {
    scaled(text, &RATES).ok_or_else(|| "expected a rate such as 10mbit, 512kbit or 1.5gbit".to_owned())
}

/// Microseconds, as [`duration`] reads them.
pub(crate) struct Microseconds(pub(crate) u64);

impl fmt::Display for Microseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds > 0 && seconds.is_multiple_of(1_000_000) => {
                write!(f, "{}s", seconds / 1_000_000)
            }
            ms if ms.is_multiple_of(1_000) => write!(f, "{}ms", ms / 1_000),
            us => write!(f, "{us}us"),
        }
    }
}

/// Millionths, as [`share_ppm`] reads them.
pub(crate) struct Percent(pub(crate) u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.0 / 10_000, format!("{:04}", self.0 % 10_000));
        match decimals.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            decimals => write!(f, "{whole}.{decimals}%"),
        }
    }
}

/// Bits in a second, as [`rate_bps`] reads them.
pub(crate) struct Rate(pub(crate) u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: u64| self.0 >= unit && self.0.is_multiple_of(unit);
        let (name, unit) = RATES.into_iter().rev().find(|(_, unit)| fits(*unit)).unwrap_or(RATES[0]);
        write!(f, "{}{name}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let us = |text| duration(text).map(|time| time.as_micros());
        assert_eq!(us("50ms"), Ok(50_000));
        assert_eq!(us("1.5s"), Ok(1_500_000));
        assert_eq!((us("7us"), us("2m"), us("1H")), (Ok(7), Ok(120_000_000), Ok(3_600_000_000)));
        assert_eq!(
            (share_ppm("1%"), share_ppm("0.1%"), share_ppm("100%")),
            (Ok(10_000), Ok(1_000), Ok(1_000_000))
        );
        assert_eq!((rate_bps("10mbit"), rate_bps("1.5Gbit")), (Ok(10_000_000), Ok(1_500_000_000)));
        for wrong in [
            "",
            "50",
            "ms",
            "-1ms",
            "1..5ms",
            "1e3ms",
            "5 ms",
            "0.5us",
            "1.0000001s",
            "99999999999999999999s",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(share_ppm("101%").is_err() && share_ppm("0.5").is_err() && rate_bps("10").is_err());
    }

    #[test]
    fn what_is_told_is_what_can_be_written() {
        for text in ["50ms", "7us", "3s", "0ms"] {
            let time = duration(text).unwrap();
            assert_eq!(Microseconds(u64::try_from(time.as_micros()).unwrap()).to_string(), text);
        }
        for text in ["1%", "0.1%", "12.3456%", "100%", "0%"] {
            assert_eq!(Percent(share_ppm(text).unwrap()).to_string(), text);
        }
        for text in ["10mbit", "1500kbit", "1gbit", "1234bit"] {
            assert_eq!(Rate(rate_bps(text).unwrap()).to_string(), text);
        }
    }
}
