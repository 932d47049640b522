//! Records that hold JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Entry, Key, Txn};

/// A record does not hold what its reader expects.
#[derive(Debug, thiserror::Error)]
#[error("the record {key} does not hold what belongs there")]
pub struct DecodeError {
    pub key: Key,
    pub source: serde_json::Error,
}

/// A value cannot be written as JSON.
#[derive(Debug, thiserror::Error)]
#[error("what belongs into the record {key} cannot be written as JSON")]
pub struct EncodeError {
    pub key: Key,
    pub source: serde_json::Error,
}

impl Entry {
    /// What the record says.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        serde_json::from_slice(&self.value).map_err(|source| DecodeError { key: self.key.clone(), source })
    }
}

impl Txn {
    /// Puts a record that says this.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn put_json(self, key: impl Into<Key>, value: &impl Serialize) -> Result<Self, EncodeError> {
        let key = key.into();
        match serde_json::to_vec(value) {
            Ok(json) => Ok(self.put(key, json)),
            Err(source) => Err(EncodeError { key, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::error::Error as _;

    use super::*;
    use crate::store::{Memory, Store as _};

    #[tokio::test]
    async fn what_was_put_is_read_and_what_cannot_be_says_which_record() {
        let store = Memory::new();
        let txn = Txn::new().put_json("numbers/1", &vec![1, 2, 3]).unwrap();
        assert!(store.commit(txn).await.unwrap().committed().is_some());
        let entry = store.get(b"numbers/1").await.unwrap().unwrap();
        assert_eq!(entry.json::<Vec<u8>>().unwrap(), [1, 2, 3]);
        let error = entry.json::<String>().unwrap_err();
        assert!(error.to_string().contains("numbers/1"), "{error}");
        assert!(error.source().is_some());
        let no_json = BTreeMap::from([(vec![1], 2)]);
        let error = Txn::new().put_json("numbers/2", &no_json).unwrap_err();
        assert!(error.to_string().contains("numbers/2"), "{error}");
    }
}
