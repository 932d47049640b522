//! Where snapshots live: a few operations that every object store has.
//!
//! The port is synchronous, because whoever calls it is a thread that has nothing else to do; an implementation over an asynchronous
//! client keeps its runtime to itself. What one promises, and no more:
//!
//! - an object is put as a whole or not at all, and it is durable when `put` returns;
//! - what a `put` or `delete` that has returned changed is seen by every `get` and `list` that begins later;
//! - every call ends within a bounded time, with [`StoreErrorKind::Unavailable`] if need be.
//!
//! There is no "put if absent" and nothing is ever locked: each key has one writer, and none is used again after it was deleted.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
mod retry;

use std::error::Error;

pub use retry::Retrying;

/// A store of objects under keys: relative paths of `a-z`, `0-9`, `-`, with `/` between their parts.
pub trait ObjectStore: Send + Sync {
    /// Puts an object, in place of what has the key, if anything has.
    ///
    /// # Errors
    /// When the store fails; then the object may be there or not.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// The bytes of an object.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`], or when the store fails.
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError>;

    /// Calls `each` with the keys that begin with `prefix`, which ends in `/`, in any order.
    ///
    /// # Errors
    /// When the store fails; then `each` was told some of them.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(&str)) -> Result<(), StoreError>;

    /// Removes an object; that there is none is fine.
    ///
    /// # Errors
    /// When the store fails; then the object may be there or not.
    fn delete(&self, key: &str) -> Result<(), StoreError>;
}

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// There is no such object.
    NotFound,
    /// It may go better at another time: no connection, too many requests, a time-out.
    Unavailable,
    /// It will not go better by itself: no permission, no space, no such bucket.
    Refused,
}

/// An operation of a store that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {key} in the object store")]
pub struct StoreError {
    pub operation: &'static str,
    pub key: String,
    pub kind: StoreErrorKind,
    pub source: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    pub fn new(
        operation: &'static str,
        key: &str,
        kind: StoreErrorKind,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { operation, key: key.to_owned(), kind, source: source.into() }
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == StoreErrorKind::NotFound
    }
}

/// What is there, or nothing.
pub(crate) fn find(store: &dyn ObjectStore, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    match store.get(key) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last parts of all keys with a prefix, in order.
pub(crate) fn names(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    store.list(prefix, &mut |key| names.extend(key.strip_prefix(prefix).map(str::to_owned)))?;
    names.sort_unstable();
    Ok(names)
}
