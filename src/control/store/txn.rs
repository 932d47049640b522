//! Transactions, and what all stores demand of them.
//!
//! ```text
//!   Txn::new().if_unchanged("instance/i-1", revision).put("instance/i-1", stopped).delete("address/eni-1")
//! ```
//!
//! The limits are those of an etcd with `--max-txn-ops 8192` and `--max-request-bytes 8388608`: with its defaults, 128 and 1572864, a request to launch
//! a thousand instances could not be done as a whole. The rule that a transaction names a key once is etcd's too.

use std::collections::HashSet;

use super::{Key, Revision, Value};

/// How many compares a transaction can have, and how many puts and deletes.
pub const OPERATIONS_MAX: usize = 8192;
/// How large a transaction can be: keys and values, and [`OPERATION_BYTES`] for each compare, put and delete.
pub const TXN_BYTES_MAX: usize = 8 << 20;
/// What a compare or an operation takes on the wire beside keys and values, at most.
pub const OPERATION_BYTES: usize = 64;

/// What must hold for a transaction to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The record was put last at this revision; [`Revision::ZERO`]: there is none.
    ModRevision { key: Key, is: Revision },
    /// The record was created at this revision; [`Revision::ZERO`]: there is none.
    CreateRevision { key: Key, is: Revision },
}

/// What a transaction does to a record. To delete what is not there changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Put { key: Key, value: Value },
    Delete { key: Key },
}

/// Compares, and what is done if all of them hold. One that changes nothing takes no revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    compares: Vec<Compare>,
    operations: Vec<Operation>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a conflict is not an error"]
pub enum Outcome {
    /// It is done, and this is its revision; if it changed nothing, the revision of the last one that did.
    Committed(Revision),
    /// It is not, because a compare did not hold at this revision.
    Conflict(Revision),
}

/// Why no store takes a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTxn {
    #[error("a key is empty")]
    EmptyKey,
    #[error("the transaction puts or deletes {key} twice")]
    DuplicateKey { key: Key },
    #[error("the transaction has {count} compares or operations, and {OPERATIONS_MAX} of each are the most")]
    TooMany { count: usize },
    #[error("the transaction has {bytes} bytes, and {TXN_BYTES_MAX} are the most")]
    TooLarge { bytes: usize },
}

impl Txn {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if there is no such record.
    #[must_use]
    pub fn if_absent(self, key: impl Into<Key>) -> Self {
        self.if_unchanged(key, Revision::ZERO)
    }

    /// Only if the record was put last at this revision.
    #[must_use]
    pub fn if_unchanged(mut self, key: impl Into<Key>, mod_revision: Revision) -> Self {
        self.compares.push(Compare::ModRevision { key: key.into(), is: mod_revision });
        self
    }

    /// Only if the record is still the one created at this revision, however it changed since.
    #[must_use]
    pub fn if_not_replaced(mut self, key: impl Into<Key>, create_revision: Revision) -> Self {
        self.compares.push(Compare::CreateRevision { key: key.into(), is: create_revision });
        self
    }

    #[must_use]
    pub fn put(mut self, key: impl Into<Key>, value: impl Into<Value>) -> Self {
        self.operations.push(Operation::Put { key: key.into(), value: value.into() });
        self
    }

    #[must_use]
    pub fn delete(mut self, key: impl Into<Key>) -> Self {
        self.operations.push(Operation::Delete { key: key.into() });
        self
    }

    pub(super) fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    pub fn compares(&self) -> &[Compare] {
        &self.compares
    }

    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What every store asks first.
    ///
    /// # Errors
    /// [`InvalidTxn`].
    pub fn validate(&self) -> Result<(), InvalidTxn> {
        let count = self.compares.len().max(self.operations.len());
        if count > OPERATIONS_MAX {
            return Err(InvalidTxn::TooMany { count });
        }
        let mut bytes = OPERATION_BYTES * (self.compares.len() + self.operations.len());
        for key in self.compares.iter().map(Compare::key).chain(self.operations.iter().map(Operation::key)) {
            if key.is_empty() {
                return Err(InvalidTxn::EmptyKey);
            }
            bytes += key.len();
        }
        let mut keys = HashSet::with_capacity(self.operations.len());
        for operation in &self.operations {
            if !keys.insert(operation.key()) {
                return Err(InvalidTxn::DuplicateKey { key: operation.key().clone() });
            }
            if let Operation::Put { value, .. } = operation {
                bytes += value.len();
            }
        }
        if bytes > TXN_BYTES_MAX { Err(InvalidTxn::TooLarge { bytes }) } else { Ok(()) }
    }
}

impl Compare {
    pub fn key(&self) -> &Key {
        match self {
            Self::ModRevision { key, .. } | Self::CreateRevision { key, .. } => key,
        }
    }
}

impl Operation {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

impl Outcome {
    /// The revision, if the transaction is done.
    pub fn committed(self) -> Option<Revision> {
        match self {
            Self::Committed(revision) => Some(revision),
            Self::Conflict(_) => None,
        }
    }
}
