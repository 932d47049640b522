//! Queries (`application/x-www-form-urlencoded`) to trees: `Filter.1.Name=vpc-id` is a map in a map in a map.
//!
//! Dots part names. Whether numbers are those of a list's elements is for who reads the tree to say. A parameter that is given twice
//! is an error, because whichever is taken, a client may have meant the other.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::node::{DEPTH_MAX, NODES_MAX, Node, NodeError};
use crate::percent::{self, Plus};

/// A parameter, no longer encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param<'a> {
    pub name: Cow<'a, str>,
    pub value: Cow<'a, str>,
}

/// Appends the parameters of a query string or a form.
///
/// # Errors
/// [`NodeError::NotText`] and [`NodeError::TooMany`].
pub fn parse<'a>(query: &'a [u8], params: &mut Vec<Param<'a>>) -> Result<(), NodeError> {
    for pair in query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        if params.len() == NODES_MAX {
            return Err(NodeError::TooMany);
        }
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let (name, value) = (&pair[..end], pair.get(end + 1..).unwrap_or_default());
        let decode = |text| percent::decode(text, Plus::Space).ok_or(NodeError::NotText);
        params.push(Param { name: decode(name)?, value: decode(value)? });
    }
    Ok(())
}

/// The tree of parameters.
///
/// # Errors
/// All of [`NodeError`] but those of JSON and CBOR.
pub fn tree(mut params: Vec<Param<'_>>) -> Result<Node<'_>, NodeError> {
    params.sort_by(|a, b| by_segments(&a.name, &b.name));
    if let Some([twice, _]) = params.array_windows().find(|[a, b]| a.name == b.name) {
        return Err(NodeError::Twice(shown(&twice.name)));
    }
    map(&mut params, 0, 0)
}

/// The order in which all names that begin with the same segments stand together: as if a dot came before every character.
fn by_segments(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if byte == b'.' { 0 } else { u16::from(byte) + 1 };
    a.bytes().map(rank).cmp(b.bytes().map(rank))
}

/// The map of parameters whose names are the same before `start`.
fn map<'a>(mut params: &mut [Param<'a>], start: usize, depth: usize) -> Result<Node<'a>, NodeError> {
    if depth == DEPTH_MAX {
        return Err(NodeError::TooDeep);
    }
    let mut entries = Vec::new();
    while let Some(first) = params.first() {
        let name = segment(&first.name, start);
        let end = start + name.len();
        let count = params.iter().take_while(|param| segment(&param.name, start) == name).count();
        let (group, rest) = std::mem::take(&mut params).split_at_mut(count);
        params = rest;
        let value = match group {
            [only] if only.name.len() == end => Node::Text(std::mem::take(&mut only.value)),
            // The shortest name stands first.
            [both, ..] if both.name.len() == end => {
                return Err(NodeError::Both(shown(&both.name)));
            }
            group => map(group, end + 1, depth + 1)?,
        };
        entries.push((name, value));
    }
    Ok(Node::Map(entries))
}

/// As much of a name as an error repeats.
fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}

fn segment<'a>(name: &Cow<'a, str>, start: usize) -> Cow<'a, str> {
    let until_dot =
        |text: &str| start + memchr::memchr(b'.', &text.as_bytes()[start..]).unwrap_or(text.len() - start);
    match name {
        Cow::Borrowed(name) => Cow::Borrowed(&name[start..until_dot(name)]),
        Cow::Owned(name) => Cow::Owned(name[start..until_dot(name)].to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(query: &str) -> Result<Node<'_>, NodeError> {
        let mut params = Vec::new();
        parse(query.as_bytes(), &mut params)?;
        tree(params)
    }

    fn text(text: &str) -> Node<'_> {
        Node::Text(text.into())
    }

    #[test]
    fn dots_part_names() {
        let tree = read("Filter.1.Name=a+b&Action=Do&Filter.1.Value.2=%26&Filter.10.Name=&Filter.1.Value.1")
            .unwrap();
        let values = Node::Map(vec![("1".into(), text("")), ("2".into(), text("&"))]);
        let first = Node::Map(vec![("Name".into(), text("a b")), ("Value".into(), values)]);
        let tenth = Node::Map(vec![("Name".into(), text(""))]);
        let filter = Node::Map(vec![("1".into(), first), ("10".into(), tenth)]);
        assert_eq!(tree, Node::Map(vec![("Action".into(), text("Do")), ("Filter".into(), filter)]));
    }

    #[test]
    fn names_that_begin_alike_are_different() {
        let tree = read("A-B=1&A.C=2&AB=3").unwrap();
        let a = Node::Map(vec![("C".into(), text("2"))]);
        assert_eq!(
            tree,
            Node::Map(vec![("A".into(), a), ("A-B".into(), text("1")), ("AB".into(), text("3"))])
        );
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        assert_eq!(read("A=1&B=2&A=1"), Err(NodeError::Twice("A".into())));
        assert_eq!(read("A.B=1&A=2"), Err(NodeError::Both("A".into())));
        assert_eq!(read("A=%e4"), Err(NodeError::NotText));
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let deep = "A.".repeat(DEPTH_MAX + 1);
        assert_eq!(read(&deep), Err(NodeError::TooDeep));
        let many = "a&".repeat(NODES_MAX + 1);
        assert_eq!(read(&many), Err(NodeError::TooMany));
    }

    proptest! {
        #[test]
        fn each_parameter_is_found_again(names in prop::collection::btree_set("[a-c]{1,2}(\\.[a-c]{1,2}){0,3}", 0..12)) {
            let query: Vec<String> = names.iter().map(|name| format!("{name}={name}")).collect();
            let is_prefix = names.iter().any(|a| names.iter().any(|b| b.starts_with(&format!("{a}."))));
            match read(&query.join("&")) {
                Err(error) => prop_assert!(is_prefix, "{error}"),
                Ok(tree) => for name in &names {
                    let found = name.split('.').try_fold(&tree, |node, segment| match node {
                        Node::Map(entries) => entries.iter().find(|(name, _)| name == segment).map(|(_, node)| node),
                        _ => None,
                    });
                    prop_assert_eq!(found, Some(&text(name)));
                }
            }
        }
    }
}
