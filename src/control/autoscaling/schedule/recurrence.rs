//! When something happens that happens again and again.

use aws::Error;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::autoscaling::errors::invalid;
use crate::records::Recurrence;

/// The first time after `time`, or at it if it is inclusive; none, if there is none any more.
///
/// # Errors
/// When it is no recurrence, or in no time zone.
pub(super) fn next(
    recurrence: &Recurrence,
    time: Timestamp,
    is_inclusive: bool,
) -> Result<Option<Timestamp>, Error> {
    let Recurrence { text, zone } = recurrence;
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = parser
        .parse(text)
        .map_err(|why| invalid(format!("Given recurrence string: {text} is invalid: {why}")))?;
    let zone = match zone {
        None => TimeZone::UTC,
        Some(name) => {
            TimeZone::get(name).map_err(|_| invalid(format!("Given time zone: {name} is invalid")))?
        }
    };
    let next = cron.find_next_occurrence(&time.to_zoned(zone), is_inclusive);
    Ok(next.ok().map(|next| next.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str, zone: Option<&str>, time: &str) -> Option<String> {
        let recurrence = Recurrence { text: text.to_owned(), zone: zone.map(str::to_owned) };
        next(&recurrence, time.parse().unwrap(), false).unwrap().map(|next| next.to_string())
    }

    #[test]
    fn it_happens_by_the_clock_of_its_place() {
        let new_year = "2027-01-01T00:00:00Z";
        for (text, zone, time, expected) in [
            ("30 6 * * *", None, new_year, "2027-01-01T06:30:00Z"),
            ("30 6 * * *", Some("Europe/Berlin"), new_year, "2027-01-01T05:30:00Z"),
            ("30 6 * * *", Some("Europe/Berlin"), "2027-07-01T00:00:00Z", "2027-07-01T04:30:00Z"),
            // The very moment is over.
            ("0 0 * * *", None, new_year, "2027-01-02T00:00:00Z"),
            ("*/15 * * * *", None, "2027-01-01T00:14:59Z", "2027-01-01T00:15:00Z"),
            ("0 9 * * 1-5", None, new_year, "2027-01-01T09:00:00Z"),
            ("0 9 * * MON", None, new_year, "2027-01-04T09:00:00Z"),
            ("0 9 * * 0", None, new_year, "2027-01-03T09:00:00Z"),
            ("0 0 29 2 *", None, new_year, "2028-02-29T00:00:00Z"),
            // Clocks are set forward past it in the night: it happens when there is such a time again.
            ("0 12 28 3 *", Some("Europe/Berlin"), new_year, "2027-03-28T10:00:00Z"),
        ] {
            assert_eq!(after(text, zone, time).as_deref(), Some(expected), "{text} {zone:?} {time}");
        }
    }

    #[test]
    fn what_is_no_recurrence_is_refused() {
        for (text, zone) in [
            ("", None),
            ("hourly", None),
            ("* * * *", None),
            ("0 * * * * *", None),
            ("61 * * * *", None),
            ("* * * * *", Some("Moon/Tycho")),
        ] {
            let recurrence = Recurrence { text: text.to_owned(), zone: zone.map(str::to_owned) };
            let error = next(&recurrence, Timestamp::UNIX_EPOCH, false).unwrap_err();
            assert!(error.message.starts_with("Given "), "{error}");
        }
    }
}
