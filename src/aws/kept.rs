//! Shapes in JSON by the names of their model, for who keeps them.

use crate::decode::{Decode, Wire};
use crate::encode::Encode;
use crate::member::ANY;

/// `value` as JSON, by the names of the model.
pub fn to_json(value: &impl Encode) -> Vec<u8> {
    let mut out = Vec::new();
    value.put(&mut crate::json::Json::new(&mut out), ANY);
    out
}

/// A value out of JSON, by the names of the model.
///
/// # Errors
/// What is wrong with it.
pub fn from_json<T: Decode>(text: &[u8]) -> Result<T, String> {
    let node = crate::json::parse(text).map_err(|error| error.to_string())?;
    T::decode(&node, ANY, Wire::Json).map_err(|malformed| malformed.error(Wire::Json).to_string())
}
