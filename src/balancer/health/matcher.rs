//! Which codes of an answer are a success: `200`, `200,202`, `200-299` or several of these.

use std::ops::RangeInclusive;

/// What an Application Load Balancer takes for HTTP (<https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_Matcher.html>).
const HTTP: RangeInclusive<u16> = 200..=499;
/// And for gRPC.
const GRPC: RangeInclusive<u16> = 0..=99;

/// A list of codes and ranges of codes, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    ranges: Vec<RangeInclusive<u16>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    #[error("{0:?} is neither a code nor a range: write \"200\", \"200,202\" or \"200-299\"")]
    Form(String),
    #[error("{part:?} is not within {min} to {max}")]
    Range { part: String, min: u16, max: u16 },
    #[error("{0:?} ends before it begins")]
    Order(String),
}

impl Matcher {
    /// HTTP's statuses, 200 to 499.
    ///
    /// # Errors
    /// [`MatcherError`] names the part that is wrong.
    pub fn http(text: &str) -> Result<Self, MatcherError> {
        Self::parse(text, &HTTP)
    }

    /// gRPC's statuses, 0 to 99.
    ///
    /// # Errors
    /// [`MatcherError`] names the part that is wrong.
    pub fn grpc(text: &str) -> Result<Self, MatcherError> {
        Self::parse(text, &GRPC)
    }

    fn parse(text: &str, within: &RangeInclusive<u16>) -> Result<Self, MatcherError> {
        let ranges = text.split(',').map(|part| range(part, within)).collect::<Result<_, _>>()?;
        Ok(Self { ranges })
    }

    /// If an answer with `code` is a success.
    pub fn matches(&self, code: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&code))
    }
}

fn range(part: &str, within: &RangeInclusive<u16>) -> Result<RangeInclusive<u16>, MatcherError> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let code = |digits: &str| {
        // `parse` would take a sign.
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let code = is_number.then(|| digits.parse().ok()).flatten();
        code.ok_or_else(|| MatcherError::Form(part.to_owned()))
    };
    let (first, last) = (code(first)?, code(last)?);
    if !within.contains(&first) || !within.contains(&last) {
        let (min, max) = (*within.start(), *within.end());
        return Err(MatcherError::Range { part: part.to_owned(), min, max });
    }
    if last < first {
        return Err(MatcherError::Order(part.to_owned()));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_ranges_are_taken_and_nothing_beside_them() {
        for (text, yes, no) in [
            ("200", vec![200], vec![199, 201]),
            ("200,202", vec![200, 202], vec![201]),
            ("200-299", vec![200, 250, 299], vec![199, 300]),
            ("200-204,301,400-499", vec![204, 301, 400, 499], vec![205, 300, 302, 399]),
        ] {
            let matcher = Matcher::http(text).unwrap();
            assert!(yes.iter().all(|code| matcher.matches(*code)), "{text}");
            assert!(!no.iter().any(|code| matcher.matches(*code)), "{text}");
        }
        let grpc = Matcher::grpc("0-5,99").unwrap();
        assert!(grpc.matches(0) && grpc.matches(99) && !grpc.matches(12));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for text in ["", "200,", "2xx", "+200", "-200", "200-", "200-201-202", "200–299", "99999999"] {
            assert!(matches!(Matcher::http(text), Err(MatcherError::Form(_))), "{text}");
        }
        assert_eq!(Matcher::http("200,500").unwrap_err().to_string(), "\"500\" is not within 200 to 499");
        assert_eq!(
            Matcher::http("199-201"),
            Err(MatcherError::Range { part: "199-201".to_owned(), min: 200, max: 499 })
        );
        assert_eq!(Matcher::http("299-200"), Err(MatcherError::Order("299-200".to_owned())));
        assert_eq!(
            Matcher::grpc("100"),
            Err(MatcherError::Range { part: "100".to_owned(), min: 0, max: 99 })
        );
    }
}
