//! The protocol, without its transport: a request in, an answer out.
//!
//! ```text
//! /                                  the versions
//! /VERSION/                          dynamic, meta-data, user-data
//! /VERSION/user-data                 as it was given, or 404
//! /VERSION/meta-data/…  /dynamic/…   the tree; a slash at the end makes no difference
//! PUT /latest/api/token              a session token
//! ```
//!
//! All versions show the same: what a client finds under the date that it was written for has the
//! meaning that it had then, and newer categories do not disturb it.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

use types::Clock;

use crate::instance::{HttpTokens, InstanceMetadata};
use crate::token::{TokenKey, Ttl};
use crate::tree::{Found, Tree};

/// The versions that AWS lists, in its order.
const VERSIONS: [&str; 29] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    "2024-04-11",
    "latest",
];

/// Methods that the service tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Also HEAD, whose answer is the same without its body.
    Get,
    Put,
    Other,
}

/// What of a request matters here.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: Method,
    /// As it was sent, without a query.
    pub path: &'a str,
    /// `X-aws-ec2-metadata-token`.
    pub token: Option<&'a [u8]>,
    /// `X-aws-ec2-metadata-token-ttl-seconds`.
    pub ttl: Option<&'a [u8]>,
    /// Whether there is an `X-Forwarded-For`: a proxy that passes requests on without being asked to
    /// must not be able to get a token for who sits before it.
    pub is_forwarded: bool,
}

/// What to send back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Text {
        body: String,
        token_ttl: Option<Ttl>,
    },
    UserData {
        body: Vec<u8>,
        token_ttl: Option<Ttl>,
    },
    /// A new token. Its packets may pass no more than `hop_limit` routers.
    Token {
        token: String,
        ttl: Ttl,
        hop_limit: u8,
    },
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
}

/// The metadata service of one instance.
pub struct Service {
    known: RwLock<Arc<Known>>,
    key: TokenKey,
    clock: Arc<dyn Clock>,
}

/// What is known of the instance at a time.
struct Known {
    instance: InstanceMetadata,
    meta_data: Tree,
    dynamic: Tree,
}

impl Known {
    fn of(instance: InstanceMetadata) -> Arc<Self> {
        let (meta_data, dynamic) = (Tree::meta_data(&instance), Tree::dynamic(&instance));
        Arc::new(Self { instance, meta_data, dynamic })
    }
}

impl Service {
    pub fn new(instance: InstanceMetadata, key: TokenKey, clock: Arc<dyn Clock>) -> Self {
        Self { known: RwLock::new(Known::of(instance)), key, clock }
    }

    /// From now on, this is known. Tokens stay good.
    pub fn update(&self, instance: InstanceMetadata) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Known::of(instance);
    }

    pub fn answer(&self, request: Request<'_>) -> Answer {
        let known = Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner));
        match request.method {
            Method::Put => self.put(&known, request),
            Method::Get => self.get(&known, request),
            Method::Other => Answer::MethodNotAllowed,
        }
    }

    fn put(&self, known: &Known, request: Request<'_>) -> Answer {
        if segments(request.path).as_deref() != Some(&["latest".into(), "api".into(), "token".into()]) {
            return Answer::MethodNotAllowed;
        }
        if request.is_forwarded {
            return Answer::Forbidden;
        }
        let ttl = request.ttl.and_then(parse_ttl);
        ttl.map_or(Answer::BadRequest, |ttl| Answer::Token {
            token: self.key.issue(self.clock.now(), ttl),
            ttl,
            hop_limit: known.instance.options.put_response_hop_limit,
        })
    }

    fn get(&self, known: &Known, request: Request<'_>) -> Answer {
        let token_ttl = match request.token {
            Some(token) => match self.key.check(token, self.clock.now()) {
                Some(ttl) => Some(ttl),
                None => return Answer::Unauthorized,
            },
            None if known.instance.options.http_tokens == HttpTokens::Required => {
                return Answer::Unauthorized;
            }
            None => None,
        };
        let Some(path) = segments(request.path) else { return Answer::BadRequest };
        let text = |body| Answer::Text { body, token_ttl };
        let Some((version, path)) = path.split_first() else { return text(VERSIONS.join("\n")) };
        if !VERSIONS.contains(&version.as_ref()) {
            return Answer::NotFound;
        }
        let Some((category, path)) = path.split_first() else { return text(known.categories()) };
        let tree = match (category.as_ref(), &known.instance.user_data) {
            ("user-data", Some(body)) if path.is_empty() => {
                return Answer::UserData { body: body.clone(), token_ttl };
            }
            ("meta-data", _) => &known.meta_data,
            ("dynamic", _) => &known.dynamic,
            _ => return Answer::NotFound,
        };
        match tree.find(path.iter().map(Cow::as_ref)) {
            Some(Found::Folder(folder)) => text(folder.listing()),
            Some(Found::Value(value)) => text(value.to_owned()),
            None => Answer::NotFound,
        }
    }
}

impl Known {
    fn categories(&self) -> String {
        let user_data = self.instance.user_data.as_ref().map(|_| "user-data");
        ["dynamic", "meta-data"].into_iter().chain(user_data).collect::<Vec<_>>().join("\n")
    }
}

fn parse_ttl(header: &[u8]) -> Option<Ttl> {
    let text = std::str::from_utf8(header).ok()?.trim();
    let is_plain = text.bytes().all(|b| b.is_ascii_digit());
    if is_plain { Ttl::from_secs(text.parse().ok()?) } else { None }
}

/// The segments of a path, decoded, without empty ones. `None` if it is not well-formed.
fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let path = path.strip_prefix('/')?;
    path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect()
}

/// Undoes percent-encoding (RFC 3986, 2.1). `None` if it is broken or not UTF-8.
fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' { nibble(bytes.next()?)? << 4 | nibble(bytes.next()?)? } else { byte });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn nibble(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests;
