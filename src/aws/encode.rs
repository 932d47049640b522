//! Values to the wire: a value says what it is, and an [`Encoder`] writes that as its protocol does.
//!
//! Encoders write straight to the bytes of the answer. What they are told is well nested, because only generated code tells it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::member::Member;

/// Writes values in the form of one protocol.
pub trait Encoder {
    fn text(&mut self, member: &Member, value: &str);

    /// Text that needs no escapes in any protocol.
    fn word(&mut self, member: &Member, value: &'static str) {
        self.text(member, value);
    }

    fn boolean(&mut self, member: &Member, value: bool);
    fn integer(&mut self, member: &Member, value: i64);
    /// A finite number is written such that it is read as the same one.
    fn float(&mut self, member: &Member, value: f64);
    fn timestamp(&mut self, member: &Member, value: Timestamp);
    fn blob(&mut self, member: &Member, value: &[u8]);
    fn begin(&mut self, member: &Member, kind: Kind);
    fn end(&mut self, member: &Member, kind: Kind);
    /// Comes before each value of a map, and [`Encoder::end_entry`] after it.
    fn begin_entry(&mut self, key: &str);
    fn end_entry(&mut self);
}

/// What holds values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Structure,
    List,
    Map,
}

/// What can be written.
pub trait Encode {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member);
}

/// A structure, without what is around its members.
pub trait Members {
    fn put_members(&self, encoder: &mut dyn Encoder);
}

pub fn put_structure(structure: &dyn Members, encoder: &mut dyn Encoder, member: &Member) {
    encoder.begin(member, Kind::Structure);
    structure.put_members(encoder);
    encoder.end(member, Kind::Structure);
}

impl<T: Encode> Encode for Option<T> {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        if let Some(value) = self {
            value.put(encoder, member);
        }
    }
}

impl<T: Encode> Encode for Box<T> {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        T::put(self, encoder, member);
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.begin(member, Kind::List);
        for value in self {
            value.put(encoder, member.item());
        }
        encoder.end(member, Kind::List);
    }
}

impl<T: Encode> Encode for BTreeMap<String, T> {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.begin(member, Kind::Map);
        for (key, value) in self {
            encoder.begin_entry(key);
            value.put(encoder, member.item());
            encoder.end_entry();
        }
        encoder.end(member, Kind::Map);
    }
}

impl Encode for String {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.text(member, self);
    }
}

impl Encode for Vec<u8> {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.blob(member, self);
    }
}

impl Encode for bool {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.boolean(member, *self);
    }
}

impl Encode for i32 {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.integer(member, (*self).into());
    }
}

impl Encode for i64 {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.integer(member, *self);
    }
}

impl Encode for f32 {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.float(member, (*self).into());
    }
}

impl Encode for f64 {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.float(member, *self);
    }
}

impl Encode for Timestamp {
    fn put(&self, encoder: &mut dyn Encoder, member: &Member) {
        encoder.timestamp(member, *self);
    }
}
