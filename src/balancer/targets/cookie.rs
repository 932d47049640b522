//! The load balancer's own cookies
//! (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/sticky-sessions.html>).
//!
//! A value is a tag, which stands for a target or a group, and until when the client stays with it. A tag is a keyed hash: nobody
//! without the key learns a target's name or address from it, or can make one; whoever has one can only show it, and it is looked up
//! among those that may be picked. The time has no guard, for a client that asks in time stays for as long as it likes anyway.
//!
//! `Expires` is a week away, whatever the duration, as AWS has it: the duration is inside.

use std::time::{Duration, SystemTime};

use crate::config::Target;

/// Of `Expires`.
const WEEK: Duration = Duration::from_secs(604_800);

/// What tags are made with: a secret of the load balancer's, the same for all its workers and over restarts. Another one ends all
/// stickiness.
pub struct TagKey([u8; 32]);

impl TagKey {
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    pub(super) fn group(&self, name: &str) -> u128 {
        self.tag(&[name])
    }

    pub(super) fn member(&self, group: &str, target: &Target) -> u128 {
        self.tag(&[group, &target.id, &target.ip.to_string(), &target.port.to_string()])
    }

    fn tag(&self, parts: &[&str]) -> u128 {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            // With their lengths, so that parts cannot pass for others.
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let mut tag = [0; 16];
        hasher.finalize_xof().fill(&mut tag);
        u128::from_be_bytes(tag)
    }
}

/// A cookie's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub tag: u128,
    /// Seconds since 1970.
    until: u64,
}

impl Value {
    /// For a stay of `duration` from `wall` on.
    pub fn new(tag: u128, duration: Duration, wall: SystemTime) -> Self {
        Self { tag, until: unix_seconds(wall) + duration.as_secs() }
    }

    /// None for what is not one.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok().filter(|text| text.len() == 48)?;
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let (tag, until) = text.split_at(32);
        Some(Self { tag: u128::from_str_radix(tag, 16).ok()?, until: u64::from_str_radix(until, 16).ok()? })
    }

    pub fn is_over(self, wall: SystemTime) -> bool {
        unix_seconds(wall) >= self.until
    }

    /// The value of a `Set-Cookie` field for the cookie `name`.
    pub fn set_cookie(self, name: &str, is_cross_site: bool, wall: SystemTime) -> String {
        let Self { tag, until } = self;
        let expires = httpdate::fmt_http_date(wall + WEEK);
        let cross_site = if is_cross_site { "; SameSite=None; Secure" } else { "" };
        format!("{name}={tag:032x}{until:016x}; Expires={expires}; Path=/{cross_site}")
    }
}

fn unix_seconds(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The cookies in a request's header fields.
#[derive(Debug, Clone)]
pub struct Cookies<H> {
    headers: H,
}

impl<'a, H: Iterator<Item = (&'a [u8], &'a [u8])> + Clone> Cookies<H> {
    /// Of `headers`, names and values. They are looked through anew for every cookie.
    pub fn new(headers: H) -> Self {
        Self { headers }
    }

    /// The value of the first cookie `name`.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.headers
            .clone()
            .filter(|(field, _)| field.eq_ignore_ascii_case(b"cookie"))
            .flat_map(|(_, value)| value.split(|byte| *byte == b';'))
            .find_map(|pair| value_of(pair, name))
    }

    pub(super) fn value(&self, names: &[&str]) -> Option<Value> {
        names.iter().filter_map(|name| self.get(name)).find_map(Value::parse)
    }
}

/// If `set_cookie`, the value of a `Set-Cookie` field, sets the cookie `name`.
pub fn sets(set_cookie: &[u8], name: &str) -> bool {
    set_cookie.split(|byte| *byte == b';').next().is_some_and(|pair| value_of(pair, name).is_some())
}

/// In `name=value`.
fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
    Some(value)
}

/// If a browser that calls itself so needs `SameSite=None` to send a cookie to another site: Chromium does, from version 80 on.
pub fn is_cross_site_aware(user_agent: &[u8]) -> bool {
    let agent = String::from_utf8_lossy(user_agent);
    let version = agent.split_once("Chrome/").or_else(|| agent.split_once("Chromium/"));
    version.is_some_and(|(_, version)| {
        let major = version.split(|char: char| !char.is_ascii_digit()).next();
        major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 80)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds)
    }

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let value = Value::new(0xfeed, Duration::from_secs(60), at(784_111_777));
        let field = value.set_cookie("AWSALBCORS", true, at(784_111_777));
        let (cookie, attributes) = field.split_once("; ").unwrap();
        assert_eq!(attributes, "Expires=Sun, 13 Nov 1994 08:49:37 GMT; Path=/; SameSite=None; Secure");
        let headers: [(&[u8], &[u8]); 2] = [(b"x", b"AWSALBCORS=1"), (b"COOKIE", cookie.as_bytes())];
        let cookies = Cookies::new(headers.into_iter());
        assert_eq!(cookies.value(&["AWSALB", "AWSALBCORS"]), Some(value));
        assert!(!value.is_over(at(784_111_836)));
        assert!(value.is_over(at(784_111_837)));
    }

    #[test]
    fn what_is_no_value_is_none() {
        let right = format!("{:048x}", 1);
        assert!(Value::parse(right.as_bytes()).is_some());
        let longer = format!("{right}0");
        for wrong in
            ["", "_remove_", &right[1..], &longer, &right.replacen('0', "+", 1), &right.replace('1', "g")]
        {
            assert_eq!(Value::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Value::parse(&[0xff; 48]), None);
    }

    #[test]
    fn cookies_are_found_by_their_whole_names() {
        let headers: [(&[u8], &[u8]); 2] = [(b"cookie", b"ab=1; a=2;b=x=y"), (b"Cookie", b"a=3; c=")];
        let cookies = Cookies::new(headers.into_iter());
        assert_eq!(cookies.get("a"), Some(b"2".as_slice()));
        assert_eq!(cookies.get("b"), Some(b"x=y".as_slice()));
        assert_eq!(cookies.get("c"), Some(b"".as_slice()));
        assert_eq!(cookies.get("d"), None);
        assert!(sets(b"a=1; Path=/; b=2", "a"));
        assert!(!sets(b"a=1; Path=/; b=2", "b"));
    }

    #[test]
    fn parts_of_a_tag_do_not_pass_for_others() {
        let key = TagKey::new([7; 32]);
        assert_ne!(key.tag(&["ab", "c"]), key.tag(&["a", "bc"]));
        assert_ne!(key.tag(&["a"]), TagKey::new([8; 32]).tag(&["a"]));
        assert_eq!(key.tag(&["a"]), TagKey::new([7; 32]).tag(&["a"]));
    }

    #[test]
    fn chromium_is_known_by_its_version() {
        for (agent, is_aware) in [
            ("Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36", true),
            ("Mozilla/5.0 Chromium/80.0", true),
            ("Mozilla/5.0 Chrome/79.0", false),
            ("Mozilla/5.0 (X11; rv:128.0) Gecko/20100101 Firefox/128.0", false),
            ("Chrome/", false),
        ] {
            assert_eq!(is_cross_site_aware(agent.as_bytes()), is_aware, "{agent}");
        }
    }
}
