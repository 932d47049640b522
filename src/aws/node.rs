//! What a client sent, as a tree: of query parameters, of JSON or of CBOR. It borrows from the request where nothing was escaped.
//!
//! A tree is at most [`DEPTH_MAX`] deep and has at most [`NODES_MAX`] nodes, whoever made it; so what reads it may recurse, and it
//! takes no more than some 40 bytes of memory for each byte of a request's.

use std::borrow::Cow;

use jiff::Timestamp;

/// Twice as deep as any input of a model is, with the words that queries have between.
pub const DEPTH_MAX: usize = 32;
/// A request that names a thousand things, each by a structure, has a tenth of them.
pub const NODES_MAX: usize = 1 << 16;

#[derive(Debug, Clone, PartialEq)]
pub enum Node<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Time(Timestamp),
    List(Vec<Node<'a>>),
    /// In the order that they came in; in a query, in that of the names.
    Map(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// Why bytes are no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("it is nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("it has more than {NODES_MAX} values")]
    TooMany,
    #[error("the parameter {0} is given twice")]
    Twice(String),
    #[error("the parameter {0} has a value and members")]
    Both(String),
    #[error("a parameter is not UTF-8 in percent-encoding")]
    NotText,
    #[error("it is no JSON: {0}")]
    Json(String),
    #[error("it is no CBOR at byte {at}: {what}")]
    Cbor { at: usize, what: &'static str },
}

impl Node<'_> {
    pub const EMPTY: Node<'static> = Node::Map(Vec::new());

    /// What an error tells of a value.
    pub(crate) fn shown(&self) -> String {
        match self {
            Node::Null => "null".to_owned(),
            Node::Boolean(value) => value.to_string(),
            Node::Integer(value) => value.to_string(),
            Node::Float(value) => value.to_string(),
            Node::Text(text) => text.clone().into_owned(),
            Node::Time(time) => time.to_string(),
            Node::Bytes(_) | Node::List(_) | Node::Map(_) => String::new(),
        }
    }

    /// Whether it says nothing, or nothing but `false`.
    pub(crate) fn asks_for_nothing(&self) -> bool {
        match self {
            Node::Null | Node::Boolean(false) => true,
            Node::Text(text) => text.is_empty() || text == "false",
            Node::List(values) => !values.is_empty() && values.iter().all(Node::asks_for_nothing),
            Node::Map(entries) => {
                !entries.is_empty() && entries.iter().all(|(_, value)| value.asks_for_nothing())
            }
            _ => false,
        }
    }
}
