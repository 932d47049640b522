//! JSON to trees, and values to JSON.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use crate::encode::{Encoder, Kind};
use crate::member::Member;
use crate::node::{DEPTH_MAX, NODES_MAX, Node, NodeError};
use crate::time::to_seconds;

/// The tree of a JSON text; of no bytes at all, an empty map.
///
/// # Errors
/// [`NodeError::Json`] says what is wrong, also if it is the depth or the number of values.
pub fn parse(text: &[u8]) -> Result<Node<'_>, NodeError> {
    if text.is_empty() {
        return Ok(Node::EMPTY);
    }
    let json = |error: serde_json::Error| NodeError::Json(error.to_string());
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let left = Cell::new(NODES_MAX);
    let tree = Tree { depth: 0, left: &left }.deserialize(&mut deserializer).map_err(json)?;
    deserializer.end().map_err(json)?;
    Ok(tree)
}

/// Makes a tree of what serde_json finds.
#[derive(Clone, Copy)]
struct Tree<'c> {
    depth: usize,
    /// How many more nodes there may be.
    left: &'c Cell<usize>,
}

impl Tree<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(NodeError::TooDeep));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Node<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| D::Error::custom(NodeError::TooMany))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node<'de>, E> {
        Ok(Node::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node<'de>, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node<'de>, E> {
        #[allow(
            clippy::cast_precision_loss,
            reason = "beyond what any member may be; as a float it is told to be that"
        )]
        Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node<'de>, E> {
        Ok(Node::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Text(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node<'de>, E> {
        Ok(Node::Text(value.to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node<'de>, A::Error> {
        let deeper = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(deeper)? {
            values.push(value);
        }
        Ok(Node::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let deeper = self.deeper()?;
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(Key)? {
            entries.push((key, map.next_value_seed(deeper)?));
        }
        Ok(Node::Map(entries))
    }
}

/// A key, borrowed where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

#[derive(Debug)]
pub struct Json<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Json<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// The comma that parts a value from the one before, and its key if it has one.
    fn key(&mut self, name: &str) {
        if !matches!(self.out.last(), None | Some(b'{' | b'[' | b':')) {
            self.out.push(b',');
        }
        if !name.is_empty() {
            push_text(name, self.out);
            self.out.push(b':');
        }
    }

    fn raw(&mut self, member: &Member, value: &[u8]) {
        self.key(member.name());
        self.out.extend_from_slice(value);
    }
}

/// Appends a JSON string.
pub fn push_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut done = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[done..at]);
        done = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&text.as_bytes()[done..]);
    out.push(b'"');
}

impl Encoder for Json<'_> {
    fn text(&mut self, member: &Member, value: &str) {
        self.key(member.name());
        push_text(value, self.out);
    }

    fn boolean(&mut self, member: &Member, value: bool) {
        self.raw(member, if value { b"true" } else { b"false" });
    }

    fn integer(&mut self, member: &Member, value: i64) {
        self.raw(member, itoa::Buffer::new().format(value).as_bytes());
    }

    fn float(&mut self, member: &Member, value: f64) {
        // JSON has no word for what is not finite; AWS writes these as text.
        if value.is_finite() {
            self.raw(member, format!("{value:?}").as_bytes());
        } else {
            let word = if value.is_nan() {
                "NaN"
            } else if value > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            };
            self.text(member, word);
        }
    }

    fn timestamp(&mut self, member: &Member, value: Timestamp) {
        self.float(member, to_seconds(value));
    }

    fn blob(&mut self, member: &Member, value: &[u8]) {
        self.text(member, &STANDARD.encode(value));
    }

    fn begin(&mut self, member: &Member, kind: Kind) {
        self.key(member.name());
        self.out.push(if kind == Kind::List { b'[' } else { b'{' });
    }

    fn end(&mut self, _: &Member, kind: Kind) {
        self.out.push(if kind == Kind::List { b']' } else { b'}' });
    }

    fn begin_entry(&mut self, key: &str) {
        self.key("");
        push_text(key, self.out);
        self.out.push(b':');
    }

    fn end_entry(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn depth_and_number_are_bounded() {
        assert!(parse("[".repeat(DEPTH_MAX + 1).as_bytes()).unwrap_err().to_string().contains("deep"));
        let many = format!("[{}0]", "0,".repeat(NODES_MAX));
        assert!(parse(many.as_bytes()).unwrap_err().to_string().contains("more than"));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["{", "{}x", "nul", "\"\\ud800\"", "{1:2}", "[1,]"] {
            assert!(matches!(parse(text.as_bytes()), Err(NodeError::Json(_))), "{text}");
        }
        assert_eq!(parse(b""), Ok(Node::EMPTY));
    }

    proptest! {
        #[test]
        fn texts_are_read_as_they_were_written(text: String) {
            let mut out = Vec::new();
            push_text(&text, &mut out);
            prop_assert_eq!(parse(&out), Ok(Node::Text(text.into())));
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
