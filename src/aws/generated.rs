//! What generated code calls by the name `g`. Which of it the models need depends on what is served.
#![allow(unused_imports)]

pub use std::collections::BTreeMap;

pub use jiff::Timestamp;

pub use crate::decode::{Decode, Wire, structure};
pub use crate::encode::{Encode, Encoder, Members, put_structure};
pub use crate::malformed::Malformed;
pub use crate::member::{Member, Place, Text};
pub use crate::node::Node;
pub use crate::service::{
    Empty, ErrorShape, Idempotent, Info, Operation, Paginated, Protocol, Service, Visitor,
};
pub(crate) use crate::words::words;

/// What all modules share.
pub(crate) mod tables {
    include!(concat!(env!("OUT_DIR"), "/tables.rs"));
}
