//! Services of which the tests alone make use, and the decoders of bytes for those who try them with all kinds of bytes.

pub use crate::cbor::parse as parse_cbor;
pub use crate::json::parse as parse_json;

/// CloudWatch.
pub mod cloudwatch {
    include!(concat!(env!("OUT_DIR"), "/cloudwatch.rs"));
}

/// Elastic File System.
pub mod efs {
    include!(concat!(env!("OUT_DIR"), "/efs.rs"));
}

pub use crate::kept::{from_json, to_json};

/// The tree of a query.
///
/// # Errors
/// As the parser of queries has them.
pub fn parse_query(query: &[u8]) -> Result<crate::node::Node<'_>, crate::node::NodeError> {
    let mut params = Vec::new();
    crate::query::parse(query, &mut params)?;
    crate::query::tree(params)
}
