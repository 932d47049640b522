//! CBOR (RFC 8949) to trees, and values to CBOR, as the protocol `smithy-rpc-v2-cbor` has it.
//!
//! Read is all that the protocol allows: definite and indefinite lengths, floats of 16, 32 and 64 bits, tag 1 for moments; other tags say
//! nothing here. Written are structures and lists of indefinite length, because what is in them is only known at their end.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::encode::{Encoder, Kind};
use crate::member::Member;
use crate::node::{DEPTH_MAX, NODES_MAX, Node, NodeError};
use crate::time::{from_seconds, to_seconds};

/// Major types (section 3.1), in the upper three bits of an item's first byte.
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

const INDEFINITE: u8 = 31;
const BREAK: u8 = 0xff;
const TAG_EPOCH: u64 = 1;

/// The tree of one CBOR item; of no bytes at all, an empty map.
///
/// # Errors
/// [`NodeError::Cbor`], [`NodeError::TooDeep`] and [`NodeError::TooMany`].
pub fn parse(bytes: &[u8]) -> Result<Node<'_>, NodeError> {
    if bytes.is_empty() {
        return Ok(Node::EMPTY);
    }
    let mut reader = Reader { bytes, at: 0, left: NODES_MAX };
    let tree = reader.node(0)?;
    if reader.at < bytes.len() {
        return Err(reader.error("more follows after the item"));
    }
    Ok(tree)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// How many more nodes there may be.
    left: usize,
}

/// The first bytes of an item.
struct Head {
    major: u8,
    /// The lower five bits.
    info: u8,
    /// The number that they or the bytes after them are; `None` if the length is indefinite.
    argument: Option<u64>,
}

impl<'a> Reader<'a> {
    fn error(&self, what: &'static str) -> NodeError {
        NodeError::Cbor { at: self.at, what }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], NodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or_else(|| self.error("it ends too early"))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head, NodeError> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let argument = match info {
            0..=23 => Some(info.into()),
            24..=27 => {
                let bytes = self.take(1 << (info - 24))?;
                Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            }
            INDEFINITE if matches!(major, BYTES..=MAP) => None,
            _ => return Err(self.error("there is no such item")),
        };
        Ok(Head { major, info, argument })
    }

    /// Whether the item of indefinite length ends here.
    fn takes_break(&mut self) -> bool {
        let is_break = self.bytes.get(self.at) == Some(&BREAK);
        self.at += usize::from(is_break);
        is_break
    }

    fn node(&mut self, depth: usize) -> Result<Node<'a>, NodeError> {
        if depth > DEPTH_MAX {
            return Err(NodeError::TooDeep);
        }
        self.left = self.left.checked_sub(1).ok_or(NodeError::TooMany)?;
        let head = self.head()?;
        match (head.major, head.argument) {
            (UNSIGNED, Some(value)) => self.integer(value).map(Node::Integer),
            (NEGATIVE, Some(value)) => self.integer(value).map(|value| Node::Integer(-1 - value)),
            (BYTES, length) => self.string(BYTES, length).map(Node::Bytes),
            (TEXT, length) => self.text(length).map(Node::Text),
            (ARRAY, length) => self.array(length, depth),
            (MAP, length) => self.map(length, depth),
            (TAG, Some(tag)) => {
                let value = self.node(depth + 1)?;
                if tag == TAG_EPOCH { self.moment(&value) } else { Ok(value) }
            }
            (SIMPLE, Some(value)) => self.simple(head.info, value),
            _ => Err(self.error("there is no such item")),
        }
    }

    fn integer(&self, value: u64) -> Result<i64, NodeError> {
        i64::try_from(value).map_err(|_| self.error("the number has more than 64 bits"))
    }

    fn moment(&self, value: &Node<'_>) -> Result<Node<'a>, NodeError> {
        let time = match value {
            Node::Integer(seconds) => Timestamp::from_second(*seconds).ok(),
            Node::Float(seconds) => from_seconds(*seconds),
            _ => None,
        };
        time.map(Node::Time).ok_or_else(|| self.error("tag 1 is before no time"))
    }

    fn simple(&self, info: u8, value: u64) -> Result<Node<'a>, NodeError> {
        let low = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
        match (info, value) {
            (20, _) => Ok(Node::Boolean(false)),
            (21, _) => Ok(Node::Boolean(true)),
            (22 | 23, _) => Ok(Node::Null),
            (25, bits) => Ok(Node::Float(half(low(bits)))),
            (26, bits) => Ok(Node::Float(f32::from_bits(low(bits)).into())),
            (27, bits) => Ok(Node::Float(f64::from_bits(bits))),
            _ => Err(self.error("there is no such simple value")),
        }
    }

    /// The bytes of a string, which are in chunks if its length is indefinite.
    fn string(&mut self, major: u8, length: Option<u64>) -> Result<Cow<'a, [u8]>, NodeError> {
        if let Some(length) = length {
            return self.take(length).map(Cow::Borrowed);
        }
        let mut whole = Vec::new();
        while !self.takes_break() {
            let head = self.head()?;
            match head.argument {
                Some(length) if head.major == major => whole.extend_from_slice(self.take(length)?),
                _ => return Err(self.error("a chunk of a string is another item")),
            }
        }
        Ok(Cow::Owned(whole))
    }

    fn text(&mut self, length: Option<u64>) -> Result<Cow<'a, str>, NodeError> {
        let text = match self.string(TEXT, length)? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
        };
        text.ok_or_else(|| self.error("a text is not UTF-8"))
    }

    fn array(&mut self, length: Option<u64>, depth: usize) -> Result<Node<'a>, NodeError> {
        // No room is made for a length that is only told.
        let mut values = Vec::new();
        let mut left = length;
        while self.has_next(&mut left) {
            values.push(self.node(depth + 1)?);
        }
        Ok(Node::List(values))
    }

    fn map(&mut self, length: Option<u64>, depth: usize) -> Result<Node<'a>, NodeError> {
        let mut entries = Vec::new();
        let mut left = length;
        while self.has_next(&mut left) {
            let key = self.head()?;
            if key.major != TEXT {
                return Err(self.error("a key is no text"));
            }
            entries.push((self.text(key.argument)?, self.node(depth + 1)?));
        }
        Ok(Node::Map(entries))
    }

    fn has_next(&mut self, left: &mut Option<u64>) -> bool {
        match left {
            None => !self.takes_break(),
            Some(0) => false,
            Some(count) => {
                *count -= 1;
                true
            }
        }
    }
}

/// A float of 16 bits: a sign, 5 bits of exponent, 10 of fraction.
fn half(bits: u32) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match bits >> 10 & 31 {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * 2_f64.powi(i32::try_from(exponent).unwrap_or(0) - 25),
    };
    if bits >> 15 & 1 == 1 { -magnitude } else { magnitude }
}

#[derive(Debug)]
pub struct Cbor<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Cbor<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    fn head(&mut self, major: u8, argument: u64) {
        let major = major << 5;
        let bytes = argument.to_be_bytes();
        match argument {
            0..=23 => self.out.push(major | bytes[7]),
            24..=0xff => self.out.extend_from_slice(&[major | 24, bytes[7]]),
            0x100..=0xffff => {
                self.out.push(major | 25);
                self.out.extend_from_slice(&bytes[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.out.push(major | 26);
                self.out.extend_from_slice(&bytes[4..]);
            }
            _ => {
                self.out.push(major | 27);
                self.out.extend_from_slice(&bytes);
            }
        }
    }

    fn string(&mut self, major: u8, bytes: &[u8]) {
        self.head(major, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// The key, unless the value is an element.
    fn key(&mut self, member: &Member) {
        if !member.name().is_empty() {
            self.string(TEXT, member.name().as_bytes());
        }
    }

    fn double(&mut self, value: f64) {
        self.out.push(SIMPLE << 5 | 27);
        self.out.extend_from_slice(&value.to_bits().to_be_bytes());
    }
}

impl Encoder for Cbor<'_> {
    fn text(&mut self, member: &Member, value: &str) {
        self.key(member);
        self.string(TEXT, value.as_bytes());
    }

    fn boolean(&mut self, member: &Member, value: bool) {
        self.key(member);
        self.out.push(SIMPLE << 5 | if value { 21 } else { 20 });
    }

    fn integer(&mut self, member: &Member, value: i64) {
        self.key(member);
        if value < 0 {
            self.head(NEGATIVE, (-1 - value).unsigned_abs());
        } else {
            self.head(UNSIGNED, value.unsigned_abs());
        }
    }

    fn float(&mut self, member: &Member, value: f64) {
        self.key(member);
        self.double(value);
    }

    fn timestamp(&mut self, member: &Member, value: Timestamp) {
        self.key(member);
        self.head(TAG, TAG_EPOCH);
        self.double(to_seconds(value));
    }

    fn blob(&mut self, member: &Member, value: &[u8]) {
        self.key(member);
        self.string(BYTES, value);
    }

    fn begin(&mut self, member: &Member, kind: Kind) {
        self.key(member);
        let major = if kind == Kind::List { ARRAY } else { MAP };
        self.out.push(major << 5 | INDEFINITE);
    }

    fn end(&mut self, _: &Member, _: Kind) {
        self.out.push(BREAK);
    }

    fn begin_entry(&mut self, key: &str) {
        self.string(TEXT, key.as_bytes());
    }

    fn end_entry(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 8949, appendix A.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let list = |values: &[i64]| Node::List(values.iter().map(|value| Node::Integer(*value)).collect());
        let examples: Vec<(&[u8], Node<'_>)> = vec![
            (b"\x18\x64", Node::Integer(100)),
            (b"\x1b\x00\x00\x00\xe8\xd4\xa5\x10\x00", Node::Integer(1_000_000_000_000)),
            (b"\x39\x03\xe7", Node::Integer(-1000)),
            (b"\xf9\x3c\x00", Node::Float(1.0)),
            (b"\xf9\x7b\xff", Node::Float(65504.0)),
            (b"\xf9\x00\x01", Node::Float(5.960_464_477_539_063e-8)),
            (b"\xf9\xc4\x00", Node::Float(-4.0)),
            (b"\xfa\x47\xc3\x50\x00", Node::Float(100_000.0)),
            (b"\xfb\x3f\xf1\x99\x99\x99\x99\x99\x9a", Node::Float(1.1)),
            (b"\xf4", Node::Boolean(false)),
            (b"\xf7", Node::Null),
            (b"\xc1\x1a\x51\x4b\x67\xb0", Node::Time("2013-03-21T20:04:00Z".parse().unwrap())),
            (
                b"\xc1\xfb\x41\xd4\x52\xd9\xec\x20\x00\x00",
                Node::Time("2013-03-21T20:04:00.5Z".parse().unwrap()),
            ),
            (b"\x44\x01\x02\x03\x04", Node::Bytes(vec![1, 2, 3, 4].into())),
            (b"\x63\xc3\xbc\x61", Node::Text("üa".into())),
            (b"\x7f\x65strea\x64ming\xff", Node::Text("streaming".into())),
            (b"\x9f\x01\x82\x02\x03\xff", Node::List(vec![Node::Integer(1), list(&[2, 3])])),
            (b"\xbf\x61a\x01\x61b\x9f\x02\x03\xff\xff", {
                Node::Map(vec![("a".into(), Node::Integer(1)), ("b".into(), list(&[2, 3]))])
            }),
        ];
        for (bytes, node) in examples {
            assert_eq!(parse(bytes), Ok(node), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_no_item_is_refused_with_its_place() {
        for bytes in [
            b"\x18".as_slice(),
            b"\x1c",
            b"\xff",
            b"\x5f\x61a\xff",
            b"\x9f\x01",
            b"\x62a",
            b"\x61\xff",
            b"\xa1\x01\x02",
            b"\x01\x01",
            b"\xc1\x61a",
            b"\xf8\x20",
            b"\x3f",
            b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(matches!(parse(bytes), Err(NodeError::Cbor { .. })), "{bytes:02x?}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        for first in [0x81, 0x9f, 0xc0] {
            assert_eq!(parse(&[first; 1000]), Err(NodeError::TooDeep));
        }
        let mut many = vec![0; NODES_MAX + 1];
        many[0] = 0x9f;
        assert_eq!(parse(&many), Err(NodeError::TooMany));
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_were_written(integer: i64, float: f64) {
            let mut out = Vec::new();
            let mut cbor = Cbor::new(&mut out);
            cbor.begin(crate::member::ANY, Kind::List);
            cbor.integer(crate::member::ANY, integer);
            cbor.float(crate::member::ANY, float);
            cbor.end(crate::member::ANY, Kind::List);
            prop_assert_eq!(parse(&out), Ok(Node::List(vec![Node::Integer(integer), Node::Float(float)])));
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
