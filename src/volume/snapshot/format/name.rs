//! What snapshots and objects are called, and under which keys they lie.
//!
//! ```text
//!   snapshots/LINEAGE/SNAPSHOT     the manifest of a snapshot that is complete
//!   deleted/LINEAGE/SNAPSHOT       the same of one that is being deleted
//!   pins/LINEAGE/HOLDER            who relies on a snapshot that may be deleted meanwhile
//!   data/LINEAGE/ORIGIN/PLACE-HASH chunks and pages: ORIGIN is the snapshot that put it there, PLACE what it is of
//! ```
//!
//! So a key is written by one snapshot only, always with the same bytes, and never again after it was removed: what nothing needs can be
//! removed at any time, however late. What two places of a table have in common is nevertheless two objects: otherwise nobody could tell
//! from a place alone whether it is needed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Level, Uuid};

pub(crate) type Hash = [u8; 32];

/// The hash by which objects are named.
pub(crate) fn hash_of(plain: &[u8]) -> Hash {
    *blake3::hash(plain).as_bytes()
}

/// Which snapshot it is: its lineage, which it has in common with those that it shares chunks with, and its own id. Written as both in
/// hexadecimal, with `-` between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName {
    pub(crate) lineage: Uuid,
    pub(crate) id: Uuid,
}

/// What an object is of: a page, or a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Chunk(u64),
    Page(Level, u64),
}

/// Which snapshot put an object into the store, and the hash of its plain bytes. With its place that says which object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectName {
    pub(crate) origin: Uuid,
    pub(crate) hash: Hash,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Chunk(index) => write!(f, "c{index}"),
            Place::Page(Level::Leaf, index) => write!(f, "l{index}"),
            Place::Page(Level::Node, index) => write!(f, "n{index}"),
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    if text.len() != 2 * N || !text.bytes().all(is_hex) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", Hex(&self.lineage.0), Hex(&self.id.0))
    }
}

/// A text that names no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no snapshot: that is two numbers of 32 hexadecimal digits with - between them")]
pub struct BadName {
    text: String,
}

impl FromStr for SnapshotName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let parse = || {
            let (lineage, id) = text.split_once('-')?;
            Some(Self { lineage: Uuid(from_hex(lineage)?), id: Uuid(from_hex(id)?) })
        };
        parse().ok_or_else(|| BadName { text: text.to_owned() })
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.to_string()
    }
}

impl SnapshotName {
    pub(crate) fn with_id(self, id: Uuid) -> Self {
        Self { id, ..self }
    }

    pub(crate) fn manifest_key(self) -> String {
        format!("{}{}", Self::manifests(self.lineage), Hex(&self.id.0))
    }

    pub(crate) fn deleted_key(self) -> String {
        format!("{}{}", Self::deleted(self.lineage), Hex(&self.id.0))
    }

    /// Where the pin of who has this id lies.
    pub(crate) fn pin_key(self) -> String {
        format!("{}{}", Self::pins(self.lineage), Hex(&self.id.0))
    }

    pub(crate) fn object_key(self, place: Place, object: &ObjectName) -> String {
        format!("{}{place}-{}", self.with_id(object.origin).data(), Hex(&object.hash))
    }

    pub(crate) fn manifests(lineage: Uuid) -> String {
        format!("snapshots/{}/", Hex(&lineage.0))
    }

    pub(crate) fn deleted(lineage: Uuid) -> String {
        format!("deleted/{}/", Hex(&lineage.0))
    }

    pub(crate) fn pins(lineage: Uuid) -> String {
        format!("pins/{}/", Hex(&lineage.0))
    }

    /// Where everything lies that this snapshot put there.
    pub(crate) fn data(self) -> String {
        format!("data/{}/{}/", Hex(&self.lineage.0), Hex(&self.id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_is_read_as_it_is_written(lineage: [u8; 16], id: [u8; 16], text: String) {
            let name = SnapshotName { lineage: Uuid(lineage), id: Uuid(id) };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            prop_assert!(text.parse::<SnapshotName>().is_err());
        }
    }
}
