//! Where the control plane's records lie: a key-value store in the shape of etcd.
//!
//! ```text
//!   commit(if every compare holds: puts, deletes) ──▶ revision 7: [put a, delete b]
//!                                                          │
//!            get, range: the records as of the newest ◀────┼────▶ watches: each revision once, in order
//! ```
//!
//! A [`Store`] has one [`Revision`], which grows by one with every transaction that changes something. Each record knows the revision that
//! created it, the one that changed it last, and how often it was put since it was created. [`Memory`] forgets all when it goes,
//! [`Redb`] is a file; `conformance` is what both pass, and what a client of etcd (3.4 or newer) can.
//!
//! Invariants, which are etcd's too (its page "KV API guarantees"):
//! - Transactions are strictly serializable: they have one order, which is that of their revisions and that in which they were answered.
//! - What was answered, read, or told by a watch is durable.
//! - A watch tells every change after the revision that it was opened at, once, in order, a whole revision at a time; or it says
//!   [`StoreError::Compacted`], after which its user reads everything again. See [`read_and_watch`].
//!
//! Limits are the same in all stores, so that what works with one works with the others: [`OPERATIONS_MAX`] and [`TXN_BYTES_MAX`].
//!
//! What it deliberately does not do: reads of the past, leases, ranges that are no prefix, comparing values, and branches of a transaction for
//! when a compare fails. It knows nothing of what the records mean: keys are paths like `kind/id` by custom only.

pub mod durable;
mod entry;
mod history;
mod image;
mod json;
mod memory;
mod shared;
mod txn;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(test)]
mod model;

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

pub use durable::Redb;
pub use entry::{Change, Changes, Entry, Key, Revision, Snapshot, Value};
pub use history::{HISTORY_BYTES_MAX, HISTORY_REVISIONS_MAX};
pub use json::{DecodeError, EncodeError};
pub use memory::Memory;
pub use txn::{Compare, InvalidTxn, OPERATION_BYTES, OPERATIONS_MAX, Operation, Outcome, TXN_BYTES_MAX, Txn};

/// What the methods of a trait object return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A store; see the [module](self).
pub trait Store: fmt::Debug + Send + Sync {
    /// The record with this key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], of stores on other machines.
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// All records whose keys begin with `prefix`, sorted by key, as they were at one revision.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], of stores on other machines.
    fn range<'a>(&'a self, prefix: &'a [u8]) -> BoxFuture<'a, Result<Snapshot, StoreError>>;

    /// Does what the transaction says if all its compares hold, or else nothing, and returns when that is durable. That it was not
    /// done because of a compare is no error but [`Outcome::Conflict`].
    ///
    /// A future that is dropped before it is ready leaves open whether its transaction is done.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], and the store is as it was; [`StoreError::Uncertain`], [`StoreError::Stopped`].
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>>;

    /// The changes of records whose keys begin with `prefix` that come after a revision, which may be one to come.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if they are not all known any more; [`Watch::next`] may also be the one to say so.
    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, StoreError>>;
}

/// Changes as they come. It ends with its first error.
pub trait Watch: fmt::Debug + Send {
    /// Waits for the next revision that changed something of interest, and returns all that it changed. It can be cancelled: a future that is
    /// dropped before it is ready has taken nothing.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if this watch lags so far behind that the store has forgotten what comes next; [`StoreError::Closed`] if
    /// the store is gone.
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, StoreError>>;
}

/// Why a store did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("no store takes such a transaction")]
    Invalid(#[from] InvalidTxn),
    #[error("the changes after revision {after} are forgotten: read everything and watch from there")]
    Compacted { after: Revision },
    /// It may be there when the store is opened again, as a whole, or not.
    #[error("whether the transaction is done is not certain, because the store failed")]
    Uncertain { source: Failure },
    /// Since a transaction failed. Reads and watches go on.
    #[error("the transaction is not done: the store takes none since one failed; remedy that and start anew")]
    Stopped { source: Failure },
    #[error("the store does not answer")]
    Unavailable { source: Failure },
    #[error("the store is closed")]
    Closed,
}

/// What failed below; all that it failed for are told the same.
pub type Failure = Arc<dyn Error + Send + Sync>;

/// The records whose keys begin with `prefix`, and a watch of all that changes after.
///
/// # Errors
/// As [`Store::range`] and [`Store::watch`].
pub async fn read_and_watch(
    store: &dyn Store,
    prefix: &[u8],
) -> Result<(Snapshot, Box<dyn Watch>), StoreError> {
    loop {
        let snapshot = store.range(prefix).await?;
        match store.watch(prefix, snapshot.revision).await {
            // More has changed in between than the store remembers.
            Err(StoreError::Compacted { .. }) => {}
            watch => return Ok((snapshot, watch?)),
        }
    }
}
