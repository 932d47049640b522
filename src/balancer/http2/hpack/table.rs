//! What names and fields are called by numbers: the common ones (RFC 7541, appendix A), and those that a connection has had.

use std::collections::VecDeque;

/// The largest size of what is remembered, as long as nobody is told another one (RFC 9113, 6.5.2).
const SIZE_MAX: usize = 4096;

const COMMON: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// By the length of names: the numbers of such; 0 is none.
static BY_LENGTH: [[u8; 7]; 28] = {
    let mut places = [[0; 7]; 28];
    let (mut place, mut number) = (0, 1);
    while place < COMMON.len() {
        let name = COMMON[place].0;
        // Only the first of those with one name: the others have other values.
        if place == 0 || !same(name.as_bytes(), COMMON[place - 1].0.as_bytes()) {
            let mut at = 0;
            while places[name.len()][at] != 0 {
                at += 1;
            }
            places[name.len()][at] = number;
        }
        place += 1;
        number += 1;
    }
    places
};

const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The number of a common field, and whether its value is this one, too.
pub(super) fn place(name: &[u8], value: &[u8]) -> Option<(usize, bool)> {
    let places = BY_LENGTH.get(name.len())?;
    let is_it =
        |place: &&u8| **place > 0 && COMMON[usize::from(**place) - 1].0.as_bytes().eq_ignore_ascii_case(name);
    let first = usize::from(*places.iter().find(is_it)?);
    let named = COMMON[first - 1].0;
    let same_name = COMMON[first - 1..].iter().take_while(|(name, _)| *name == named);
    let exact =
        same_name.enumerate().find(|(_, (_, common))| !common.is_empty() && common.as_bytes() == value);
    Some(exact.map_or((first, false), |(further, _)| (first + further, true)))
}

/// What the other end of a connection may call by numbers.
#[derive(Debug)]
pub(in crate::http2) struct Table {
    /// The newest first: the name's length, and name and value.
    entries: VecDeque<(usize, Box<[u8]>)>,
    size: usize,
    size_max: usize,
}

/// It is larger than was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Table {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, size_max: SIZE_MAX }
    }

    pub(super) fn get(&self, number: usize) -> Option<(&[u8], &[u8])> {
        let place = number.checked_sub(1)?;
        match COMMON.get(place) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(place - COMMON.len()).map(|(name, text)| text.split_at(*name)),
        }
    }

    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = size(name.len() + value.len());
        self.shrink(self.size_max.saturating_sub(size));
        if size <= self.size_max {
            self.size += size;
            self.entries.push_front((name.len(), [name, value].concat().into()));
        }
    }

    pub(super) fn resize(&mut self, size_max: usize) -> Result<(), TooLarge> {
        if size_max > SIZE_MAX {
            return Err(TooLarge);
        }
        self.size_max = size_max;
        self.shrink(size_max);
        Ok(())
    }

    fn shrink(&mut self, to: usize) {
        while self.size > to {
            let Some((_, text)) = self.entries.pop_back() else { return };
            self.size -= size(text.len());
        }
    }
}

/// Of an entry (RFC 7541, 4.1).
fn size(text: usize) -> usize {
    text + 32
}
