//! Moments as the protocols write them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `2006-01-02T15:04:05.000Z`, which is 24 bytes in all years that have four digits.
pub fn push_iso(time: Timestamp, out: &mut Vec<u8>) {
    let date = TimeZone::UTC.to_datetime(time);
    let digits = |out: &mut Vec<u8>, value: i32, count: u32| {
        for place in (0..count).rev() {
            out.push(b"0123456789"[usize::try_from(value.max(0) / 10_i32.pow(place) % 10).unwrap_or(0)]);
        }
    };
    digits(out, date.year().into(), 4);
    out.push(b'-');
    digits(out, date.month().into(), 2);
    out.push(b'-');
    digits(out, date.day().into(), 2);
    out.push(b'T');
    digits(out, date.hour().into(), 2);
    out.push(b':');
    digits(out, date.minute().into(), 2);
    out.push(b':');
    digits(out, date.second().into(), 2);
    out.push(b'.');
    digits(out, date.millisecond().into(), 3);
    out.push(b'Z');
}

/// Seconds since 1970, with a fraction down to milliseconds: what JSON and CBOR have.
pub fn to_seconds(time: Timestamp) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "exact for the next 200,000 years")]
    let milliseconds = time.as_millisecond() as f64;
    milliseconds / 1000.0
}

/// `None` for what no calendar has.
pub fn from_seconds(seconds: f64) -> Option<Timestamp> {
    let milliseconds = (seconds * 1000.0).round();
    #[allow(
        clippy::cast_possible_truncation,
        reason = "what is out of range becomes the nearest, which jiff refuses"
    )]
    let whole = milliseconds as i64;
    milliseconds.is_finite().then(|| Timestamp::from_millisecond(whole).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_forms_keep_milliseconds(milliseconds in 0i64..4_000_000_000_000) {
            let time = Timestamp::from_millisecond(milliseconds).unwrap();
            prop_assert_eq!(from_seconds(to_seconds(time)), Some(time));
            let mut iso = Vec::new();
            push_iso(time, &mut iso);
            let iso = String::from_utf8(iso).unwrap();
            prop_assert_eq!(iso.len(), 24);
            prop_assert_eq!(iso.parse::<Timestamp>().unwrap(), time);
        }
    }

    #[test]
    fn seconds_beyond_the_calendar_are_none() {
        for seconds in [f64::NAN, f64::INFINITY, -1e300, 1e18] {
            assert_eq!(from_seconds(seconds), None, "{seconds}");
        }
    }
}
