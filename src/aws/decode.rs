//! Trees to typed inputs. What does not fit is told with its place, [`Malformed`].
//!
//! A member that the model does not know is an error on every wire, and one that nimbo does not serve is one unless all that it
//! says is `false`: nothing that was asked for is dropped in silence.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::malformed::{Malformed, Problem};
use crate::member::{Member, Place};
use crate::node::Node;

/// The rules by which a tree is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Queries of EC2.
    Ec2,
    /// Queries of other services.
    Query,
    Json,
    Cbor,
}

impl Wire {
    fn is_query(self) -> bool {
        matches!(self, Wire::Ec2 | Wire::Query)
    }
}

/// What can be read.
pub trait Decode: Sized {
    /// # Errors
    /// When `node` is not such a value; the path begins at the value.
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed>;
}

/// Gives `set` each member that `node` has, by its index in `members`, and checks that none is missing, unknown, twice there or not served.
///
/// # Errors
/// The first thing that is wrong, or what `set` says.
pub fn structure(
    node: &Node<'_>,
    wire: Wire,
    members: &'static [Member],
    unserved: &[&str],
    set: &mut dyn FnMut(usize, &Node<'_>, &'static Member) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let none = Vec::new();
    let entries = match node {
        Node::Map(entries) => entries,
        // An empty structure in a query.
        Node::Text(text) if wire.is_query() && text.is_empty() => &none,
        other => return Err(Malformed::new(Problem::NotA("a structure"), &other.shown())),
    };
    let mut seen = vec![false; members.len()];
    for (name, value) in entries {
        let is_named =
            |member: &&Member| if wire.is_query() { member.query() == name } else { member.name() == name };
        if unserved.contains(&name.as_ref()) {
            if value.asks_for_nothing() {
                continue;
            }
            return Err(Malformed::new(Problem::NotServed, "").in_name(name));
        }
        let Some((at, member)) = members.iter().enumerate().find(|(_, member)| is_named(member)) else {
            return Err(Malformed::new(Problem::Unknown, "").in_name(name));
        };
        if std::mem::replace(&mut seen[at], true) {
            return Err(Malformed::new(Problem::Twice, &value.shown()).in_member(member));
        }
        if *value == Node::Null {
            seen[at] = false;
            continue;
        }
        set(at, value, member).map_err(|malformed| malformed.in_member(member))?;
    }
    match members.iter().zip(seen).find(|(member, seen)| member.is_required && !seen) {
        Some((missing, _)) => Err(Malformed::new(Problem::Missing, "").in_member(missing)),
        None => Ok(()),
    }
}

/// The text that a node is.
pub(crate) fn text<'n>(node: &'n Node<'_>) -> Result<&'n str, Malformed> {
    match node {
        Node::Text(text) => Ok(text),
        other => Err(not_a("text", other)),
    }
}

fn not_a(what: &'static str, node: &Node<'_>) -> Malformed {
    Malformed::new(Problem::NotA(what), &node.shown())
}

/// Text is read as a value where the wire has nothing but text.
fn is_text_only(member: &Member, wire: Wire) -> bool {
    wire.is_query() || member.place != Place::Body
}

/// Sizes and lengths are far below where these differ from their floats.
fn is_within(count: usize, member: &Member) -> bool {
    let count = u32::try_from(count).map_or(f64::INFINITY, f64::from);
    (member.min..=member.max).contains(&count)
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        T::decode(node, member, wire).map(Some)
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        T::decode(node, member, wire).map(Box::new)
    }
}

impl Decode for String {
    fn decode(node: &Node<'_>, member: &'static Member, _: Wire) -> Result<Self, Malformed> {
        let text = text(node)?;
        if !is_within(text.chars().count(), member) {
            return Err(Malformed::new(Problem::Length { min: member.min, max: member.max }, text));
        }
        Ok(text.to_owned())
    }
}

impl Decode for Vec<u8> {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        let bytes = match node {
            Node::Bytes(bytes) => bytes.to_vec(),
            Node::Text(text) if wire != Wire::Cbor => {
                STANDARD.decode(text.as_bytes()).map_err(|_| not_a("base64", node))?
            }
            other => return Err(not_a("bytes", other)),
        };
        if !is_within(bytes.len(), member) {
            return Err(Malformed::new(Problem::Length { min: member.min, max: member.max }, ""));
        }
        Ok(bytes)
    }
}

impl Decode for bool {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        match node {
            Node::Boolean(value) => Ok(*value),
            Node::Text(text) if is_text_only(member, wire) && text == "true" => Ok(true),
            Node::Text(text) if is_text_only(member, wire) && text == "false" => Ok(false),
            other => Err(not_a("true or false", other)),
        }
    }
}

impl Decode for i64 {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        let value = match node {
            Node::Integer(value) => Some(*value),
            Node::Text(text) if is_text_only(member, wire) && !text.starts_with('+') => text.parse().ok(),
            _ => None,
        };
        let value = value.ok_or_else(|| not_a("a whole number", node))?;
        #[allow(
            clippy::cast_precision_loss,
            reason = "bounds in the models are far below where floats are no longer exact"
        )]
        if !(member.min..=member.max).contains(&(value as f64)) {
            return Err(Malformed::new(
                Problem::OutOfRange { min: member.min, max: member.max },
                &node.shown(),
            ));
        }
        Ok(value)
    }
}

impl Decode for i32 {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        i64::decode(node, member, wire)?.try_into().map_err(|_| {
            let (min, max) = (i32::MIN.into(), i32::MAX.into());
            Malformed::new(Problem::OutOfRange { min, max }, &node.shown())
        })
    }
}

impl Decode for f64 {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        let value = match node {
            Node::Float(value) => Some(*value),
            #[allow(
                clippy::cast_precision_loss,
                reason = "the member is a float: what is sent as a whole number is the nearest one"
            )]
            Node::Integer(value) => Some(*value as f64),
            Node::Text(text) if is_text_only(member, wire) => text.parse().ok(),
            _ => None,
        };
        let value = value.filter(|value| value.is_finite()).ok_or_else(|| not_a("a number", node))?;
        if !(member.min..=member.max).contains(&value) {
            return Err(Malformed::new(
                Problem::OutOfRange { min: member.min, max: member.max },
                &node.shown(),
            ));
        }
        Ok(value)
    }
}

impl Decode for f32 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the member is a small float: the nearest one is meant"
    )]
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        f64::decode(node, member, wire).map(|value| value as f32)
    }
}

impl Decode for Timestamp {
    fn decode(node: &Node<'_>, _: &'static Member, _: Wire) -> Result<Self, Malformed> {
        let time = match node {
            Node::Time(time) => Some(*time),
            Node::Text(text) => text.parse().ok(),
            Node::Integer(seconds) => Timestamp::from_second(*seconds).ok(),
            Node::Float(seconds) => crate::time::from_seconds(*seconds),
            _ => None,
        };
        time.ok_or_else(|| not_a("a time such as 2006-01-02T15:04:05Z", node))
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        let values = values(node, member, wire)?;
        if !is_within(values.len(), member) {
            return Err(Malformed::new(Problem::Count { min: member.min, max: member.max }, ""));
        }
        values
            .into_iter()
            .map(|(number, value)| {
                T::decode(value, member.item(), wire).map_err(|malformed| malformed.in_number(number))
            })
            .collect()
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    fn decode(node: &Node<'_>, member: &'static Member, wire: Wire) -> Result<Self, Malformed> {
        let mut map = Self::new();
        let mut insert = |key: &str, value: &Node<'_>| {
            let value = T::decode(value, member.item(), wire).map_err(|malformed| malformed.in_name(key))?;
            match map.insert(key.to_owned(), value) {
                Some(_) => Err(Malformed::new(Problem::Twice, "").in_name(key)),
                None => Ok(()),
            }
        };
        match node {
            Node::Map(entries) if !wire.is_query() => {
                entries.iter().try_for_each(|(key, value)| insert(key, value))?;
            }
            _ if wire.is_query() => {
                for (number, entry) in values(node, member, wire)? {
                    let (key, value) = query_entry(entry).map_err(|malformed| malformed.in_number(number))?;
                    insert(key, value)?;
                }
            }
            other => return Err(not_a("a map", other)),
        }
        if !is_within(map.len(), member) {
            return Err(Malformed::new(Problem::Count { min: member.min, max: member.max }, ""));
        }
        Ok(map)
    }
}

/// An entry of a map in a query is a structure of a key and a value.
fn query_entry<'n, 'a>(node: &'n Node<'a>) -> Result<(&'n str, &'n Node<'a>), Malformed> {
    let Node::Map(entries) = node else { return Err(not_a("a key and a value", node)) };
    match entries.as_slice() {
        [(key_name, key), (value_name, value)] if key_name == "key" && value_name == "value" => {
            Ok((text(key).map_err(|malformed| malformed.in_name("key"))?, value))
        }
        _ => Err(not_a("a key and a value", node)),
    }
}

/// The elements of a list with their numbers. In a query they may leave numbers out, and their order is that of the numbers.
fn values<'n, 'a>(
    node: &'n Node<'a>,
    member: &'static Member,
    wire: Wire,
) -> Result<Vec<(u32, &'n Node<'a>)>, Malformed> {
    if !wire.is_query() {
        let Node::List(values) = node else { return Err(not_a("a list", node)) };
        return Ok((1..).zip(values).collect());
    }
    let between = member.item().query();
    let entries = match node {
        Node::Text(text) if text.is_empty() => return Ok(Vec::new()),
        Node::Map(entries) if between.is_empty() => entries,
        Node::Map(entries) => match entries.as_slice() {
            [(name, Node::Map(entries))] if name == between => entries,
            [(name, _), ..] if name != between => {
                return Err(Malformed::new(Problem::Unknown, "").in_name(name));
            }
            _ => return Err(not_a("a list", node)),
        },
        other => return Err(not_a("a list", other)),
    };
    let mut values = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let number = number(name).ok_or_else(|| Malformed::new(Problem::Unknown, "").in_name(name))?;
        values.push((number, value));
    }
    values.sort_unstable_by_key(|(number, _)| *number);
    Ok(values)
}

/// A number of an element: from 1, and with one text for each, so that no two names are the same element.
fn number(name: &str) -> Option<u32> {
    let is_plain = matches!(name.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    if is_plain { name.parse().ok() } else { None }
}
