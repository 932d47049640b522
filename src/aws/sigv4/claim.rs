//! What a request says of its own signature.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::Denied;
use crate::percent::{self, Plus, hex_digit};
use crate::request::Request;

pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
pub const TERMINATOR: &str = "aws4_request";
/// A week.
const EXPIRES_MAX_S: u64 = 604_800;

/// The parts of a signature, not yet verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// `AKID/20150830/us-east-1/iam/aws4_request`: five parts.
    pub(super) credential: Cow<'a, str>,
    /// Where its parts end.
    ends: [usize; 4],
    /// `host;x-amz-date`, in lower case and sorted.
    pub(super) signed_headers: Cow<'a, str>,
    pub(super) signature: [u8; 32],
    /// `20150830T123600Z`.
    pub(super) time: Cow<'a, str>,
    pub(super) seconds: u64,
    /// Of a presigned request.
    pub(super) expires_s: Option<u64>,
    pub(super) token: Option<Cow<'a, str>>,
}

/// The texts that a claim is made of.
#[derive(Default)]
struct Parts<'a> {
    credential: Option<Cow<'a, str>>,
    signed_headers: Option<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    expires: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
}

impl<'a> Claim<'a> {
    /// Reads what `request` says, in its header or, without that one, in its query.
    ///
    /// # Errors
    /// [`Denied::Missing`] and [`Denied::Incomplete`].
    pub fn of(request: &Request<'a>) -> Result<Self, Denied> {
        let mut authorizations = request.headers.get_all("authorization").iter();
        let Some(authorization) = authorizations.next() else { return presigned(request) };
        if authorizations.next().is_some() {
            return Err(Denied::Incomplete("There is more than one Authorization header.".to_owned()));
        }
        let authorization = std::str::from_utf8(authorization.as_bytes())
            .map_err(|_| Denied::Incomplete("The Authorization header is not text.".to_owned()))?;
        let mut parts = of_header(authorization)?;
        parts.time = request.header("x-amz-date").map(Cow::Borrowed);
        parts.token = request.header("x-amz-security-token").map(Cow::Borrowed);
        Self::of_parts(parts)
    }

    fn of_parts(parts: Parts<'a>) -> Result<Self, Denied> {
        let needed = |part: Option<Cow<'a, str>>, name: &str| {
            part.ok_or_else(|| Denied::Incomplete(format!("Authorization requires '{name}'.")))
        };
        let wrong = |what: &str, value: &str| Denied::Incomplete(format!("{what}: '{}'", shown(value)));
        let credential = needed(parts.credential, "Credential")?;
        let signature = needed(parts.signature, "Signature")?;
        let time = needed(parts.time, "X-Amz-Date")?;
        let ends = ends(&credential)
            .ok_or_else(|| wrong("Credential must be KEY/DATE/REGION/SERVICE/aws4_request", &credential))?;
        let claim = Self {
            ends,
            signed_headers: needed(parts.signed_headers, "SignedHeaders")?,
            signature: digits(&signature)
                .ok_or_else(|| wrong("Signature must be 64 hexadecimal digits", &signature))?,
            seconds: seconds(&time)
                .ok_or_else(|| wrong("X-Amz-Date must be like 20060102T150405Z", &time))?,
            expires_s: parts.expires.map(|expires| expires_s(&expires)).transpose()?,
            token: parts.token,
            credential,
            time,
        };
        if claim.time.get(..8) != Some(claim.date()) {
            return Err(wrong("The date in Credential must be that of X-Amz-Date", claim.date()));
        }
        if !claim.signs("host") {
            return Err(wrong("'host' must be one of SignedHeaders", &claim.signed_headers));
        }
        // So each of them is there once, and no header is hashed a thousand times.
        let names = claim.signed_headers.split(';');
        if !names.clone().zip(names.skip(1)).all(|(a, b)| a < b) {
            return Err(wrong("SignedHeaders must be sorted", &claim.signed_headers));
        }
        Ok(claim)
    }

    /// Whether it is of the header `name`, in lower case, too.
    pub(super) fn signs(&self, name: &str) -> bool {
        self.signed_headers.split(';').any(|signed| signed == name)
    }

    fn part(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.credential[start..self.ends.get(number).copied().unwrap_or(self.credential.len())]
    }

    pub fn access_key(&self) -> &str {
        self.part(0)
    }

    pub(super) fn date(&self) -> &str {
        self.part(1)
    }

    pub fn region(&self) -> &str {
        self.part(2)
    }

    pub fn service(&self) -> &str {
        self.part(3)
    }

    /// All but the access key.
    pub(super) fn scope(&self) -> &str {
        &self.credential[self.ends[0] + 1..]
    }
}

/// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`
fn of_header(authorization: &str) -> Result<Parts<'_>, Denied> {
    let fields = authorization.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with([' ', '\t']));
    let fields = fields.ok_or_else(|| {
        Denied::Incomplete(format!("Authorization must begin with {ALGORITHM}: '{}'", shown(authorization)))
    })?;
    let mut parts = Parts::default();
    for field in fields.split(',').map(str::trim).filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let part = match name {
            "Credential" => &mut parts.credential,
            "SignedHeaders" => &mut parts.signed_headers,
            "Signature" => &mut parts.signature,
            _ => return Err(Denied::Incomplete(format!("'{}' is no part of Authorization.", shown(name)))),
        };
        if part.replace(Cow::Borrowed(value)).is_some() {
            return Err(Denied::Incomplete(format!("Authorization has two parts '{name}'.")));
        }
    }
    Ok(parts)
}

fn presigned<'a>(request: &Request<'a>) -> Result<Claim<'a>, Denied> {
    let mut parts = Parts::default();
    let mut algorithm = None;
    for pair in request.query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let part = match name {
            "X-Amz-Algorithm" => &mut algorithm,
            "X-Amz-Credential" => &mut parts.credential,
            "X-Amz-SignedHeaders" => &mut parts.signed_headers,
            "X-Amz-Signature" => &mut parts.signature,
            "X-Amz-Date" => &mut parts.time,
            "X-Amz-Expires" => &mut parts.expires,
            "X-Amz-Security-Token" => &mut parts.token,
            _ => continue,
        };
        let value = percent::decode(value.as_bytes(), Plus::Space)
            .ok_or_else(|| Denied::Incomplete(format!("'{name}' is not text in percent-encoding.")))?;
        if part.replace(value).is_some() {
            return Err(Denied::Incomplete(format!("The query has '{name}' twice.")));
        }
    }
    match algorithm {
        None if parts.signature.is_none() => return Err(Denied::Missing),
        Some(algorithm) if algorithm == ALGORITHM => {}
        _ => return Err(Denied::Incomplete(format!("X-Amz-Algorithm must be {ALGORITHM}."))),
    }
    if parts.expires.is_none() {
        return Err(Denied::Incomplete("The query requires 'X-Amz-Expires'.".to_owned()));
    }
    Claim::of_parts(parts)
}

/// Where the first four of five parts end. None of them is empty.
fn ends(credential: &str) -> Option<[usize; 4]> {
    let mut slashes = credential.match_indices('/').map(|(at, _)| at);
    let ends = [slashes.next()?, slashes.next()?, slashes.next()?, slashes.next()?];
    let is_whole = slashes.next().is_none()
        && ends[0] > 0
        && ends.array_windows().all(|[a, b]| a + 1 < *b)
        && &credential[ends[3] + 1..] == TERMINATOR;
    is_whole.then_some(ends)
}

fn digits(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(text.as_bytes().as_chunks().0) {
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(bytes)
}

/// Seconds since 1970 of a time in the basic format of ISO 8601.
fn seconds(time: &str) -> Option<u64> {
    let [y @ .., b'T', h1, h2, m1, m2, s1, s2, b'Z'] = time.as_bytes() else { return None };
    let [y1, y2, y3, y4, o1, o2, d1, d2] = y else { return None };
    let number = |digits: &[&u8]| -> Option<i16> {
        digits.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i16::from(**digit - b'0'))
        })
    };
    let small = |digits: &[&u8]| number(digits).and_then(|number| i8::try_from(number).ok());
    let date = DateTime::new(
        number(&[y1, y2, y3, y4])?,
        small(&[o1, o2])?,
        small(&[d1, d2])?,
        small(&[h1, h2])?,
        small(&[m1, m2])?,
        small(&[s1, s2])?,
        0,
    );
    u64::try_from(TimeZone::UTC.to_timestamp(date.ok()?).ok()?.as_second()).ok()
}

/// Seconds since 1970 in the basic format.
pub fn basic_time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(String::new, |time| time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

fn expires_s(text: &str) -> Result<u64, Denied> {
    text.parse().ok().filter(|seconds| (1..=EXPIRES_MAX_S).contains(seconds)).ok_or_else(|| {
        Denied::Incomplete(format!(
            "X-Amz-Expires must be between 1 and {EXPIRES_MAX_S} seconds: '{}'",
            shown(text)
        ))
    })
}

/// As much of a client's text as an error repeats.
fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}
