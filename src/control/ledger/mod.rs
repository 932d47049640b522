//! The ledger: the state, and its way into the store.
//!
//! ```text
//!  write ──▶ transaction on the state ──▶ queue ──▶ committer: all that wait, in one of the store's ──▶ durable
//!               number n                                                                                  │
//!  read ──▶ state as of number n ─────────────────── settled(n) ◀─────────────────────────────────────────┘
//! ```
//!
//! Transactions have numbers, one after the other, in the order in which they were done on the state and go to the store. What was read
//! is as of a number; it may be told to others once that number is durable. So nobody waits for a disk but who must, one wait of
//! the disk is for many writers, and nobody is told what a crash could take back.
//!
//! The state is ahead of the store, never behind: only one process writes a store. It says so there, with an epoch that is
//! the next one's to overtake, and each transaction is done only if that is still its own. After a transaction that
//! the store did not take, the state is not the truth any more: the ledger refuses everything from then on, and its process is to be
//! started again.

mod durability;
mod feed;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use types::Clock;

pub use feed::{Feed, Written};

use durability::Durability;
use feed::Followers;

use crate::capacity::Capacity;
use crate::public_pool::PublicPool;
use crate::state::{ChangeSet, Entropy, LoadError, Space, State, Transaction};
use crate::store::{
    OPERATION_BYTES, OPERATIONS_MAX, Outcome, Revision, Store, StoreError, TXN_BYTES_MAX, Txn,
};

/// Who writes: changed by each that opens the store.
const EPOCH_KEY: &[u8] = b"control/epoch";
/// What all records' keys begin with.
const RECORDS: &str = "records/";
/// There while all records are being taken away, which may be more than one transaction of the store's.
const ERASING_KEY: &[u8] = b"control/erasing";
/// How many records one of these takes away.
const ERASED_AT_ONCE: usize = 1024;

/// The state and its way into the store; see the [module](self).
pub struct Ledger {
    state: RwLock<State>,
    /// Number of the last transaction; it grows with `state` locked for writing.
    written: watch::Sender<u64>,
    durable: Arc<Durability>,
    queue: mpsc::UnboundedSender<(u64, Work)>,
    followers: Followers,
    clock: Arc<dyn Clock>,
    entropy: Mutex<Box<dyn Entropy + Send>>,
}

/// What the store is to be sent.
enum Work {
    Change(ChangeSet),
    /// All records go.
    Erase,
}

/// The state as of some transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "what was read may be told when it is durable"]
pub struct AsOf(u64);

#[cfg(test)]
impl AsOf {
    pub(crate) const fn of(number: u64) -> Self {
        Self(number)
    }
}

/// Nothing is written any more, because the store did not take a transaction.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Stopped {
    #[error("the control plane's store failed; start again when that is remedied")]
    Failed { source: Arc<StoreError> },
    #[error("another process writes the control plane's store now")]
    Overtaken,
}

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot read the control plane's store")]
    Store(#[from] StoreError),
    #[error("the control plane's store is not understood")]
    Record(#[from] LoadError),
    #[error("another process opened the control plane's store at the same time")]
    Overtaken,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E> {
    /// The operation's own reason.
    #[error(transparent)]
    Refused(E),
    #[error("this would change {records} records of {bytes} bytes at once, which the store does not take")]
    TooLarge { records: usize, bytes: usize },
    #[error(transparent)]
    Stopped(Stopped),
}

impl Ledger {
    /// Reads all that the store has, and becomes the one that writes it. A task of the current runtime does that until the ledger is dropped.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Box<dyn Entropy + Send>,
    ) -> Result<Self, OpenError> {
        let epoch = begin_epoch(store.as_ref()).await?;
        if store.get(ERASING_KEY).await?.is_some()
            && erase(store.as_ref(), epoch).await?.committed().is_none()
        {
            return Err(OpenError::Overtaken);
        }
        let mut state = State::default();
        for entry in store.range(RECORDS.as_bytes()).await?.entries {
            let key = String::from_utf8_lossy(&entry.key[RECORDS.len()..]);
            state.load(&key, &entry.value)?;
        }
        let (queue, waiting) = mpsc::unbounded_channel();
        let durable = Arc::new(Durability::new());
        tokio::spawn(commit_all(store, epoch, waiting, Arc::clone(&durable)));
        Ok(Self {
            state: RwLock::new(state),
            written: watch::channel(0).0,
            durable,
            queue,
            followers: Followers::default(),
            clock,
            entropy: Mutex::new(entropy),
        })
    }

    /// Says what instances can have in all; until then it is without end.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).capacity = capacity;
    }

    /// Says what new public addresses are taken from; until then it is the default.
    pub fn set_public_pool(&self, pool: PublicPool) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).public_pool = pool;
    }

    /// The time that records are given.
    pub fn now(&self) -> Timestamp {
        Timestamp::try_from(self.clock.wall()).unwrap_or(Timestamp::MAX)
    }

    /// Looks at the state. What is seen may be told to others after [`Self::settled`].
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> (T, AsOf) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (look(&state), AsOf(*self.written.borrow()))
    }

    /// Waits until all that was written before is durable.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn settled(&self, as_of: AsOf) -> Result<(), Stopped> {
        self.durable.wait(as_of.0).await
    }

    /// Changes the state by an operation, all of it or nothing, and returns when that is durable.
    ///
    /// # Errors
    /// [`WriteError`]: by what the operation says, nothing has changed; after [`Stopped`] nobody knows before the store is opened again.
    pub async fn write<T, E>(
        &self,
        space: Space,
        operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, WriteError<E>> {
        let (answer, as_of) = self.apply(space, operation)?;
        self.settled(as_of).await.map_err(WriteError::Stopped)?;
        Ok(answer)
    }

    /// The part of [`Self::write`] that does not wait.
    fn apply<T, E>(
        &self,
        space: Space,
        operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<(T, AsOf), WriteError<E>> {
        let now = self.now();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(stopped) = self.durable.failure() {
            return Err(WriteError::Stopped(stopped));
        }
        let mut entropy = self.entropy();
        let mut transaction = Transaction::begin(&mut state, space, now, entropy.as_mut());
        let answer = operation(&mut transaction).map_err(WriteError::Refused)?;
        let changes = transaction.changes();
        if bytes_in_store(&changes) > TXN_BYTES_MAX || changes.len() > OPERATIONS_MAX {
            return Err(WriteError::TooLarge { records: changes.len(), bytes: changes.bytes() });
        }
        let former = transaction.finish();
        if changes.is_empty() {
            return Ok((answer, AsOf(*self.written.borrow())));
        }
        let as_of = self.enqueue(Work::Change(changes));
        self.followers.tell(as_of, former);
        Ok((answer, as_of))
    }

    /// Takes all records of all spaces away, and returns when that is durable.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn erase(&self) -> Result<(), Stopped> {
        let as_of = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(stopped) = self.durable.failure() {
                return Err(stopped);
            }
            let (capacity, public_pool) = (state.capacity, state.public_pool);
            *state = State::default();
            (state.capacity, state.public_pool) = (capacity, public_pool);
            self.enqueue(Work::Erase)
        };
        self.settled(as_of).await
    }

    /// Numbers what was done on the state, which is locked for writing, and has it sent to the store.
    fn enqueue(&self, work: Work) -> AsOf {
        let number = *self.written.borrow() + 1;
        // The committer is there as long as the ledger; and if it is not, nothing becomes durable, which is what is waited for.
        let _ = self.queue.send((number, work));
        self.written.send_replace(number);
        AsOf(number)
    }

    /// Waits until nothing is written any more, and says why.
    pub async fn stopped(&self) -> Stopped {
        self.durable.failed().await
    }

    /// The number of the last transaction, as it grows: for who looks at everything when something has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// What each transaction from now on changes: for who works on that. [`Self::erase`] is none.
    pub fn follow(&self) -> Feed {
        self.followers.follow()
    }

    fn entropy(&self) -> MutexGuard<'_, Box<dyn Entropy + Send>> {
        self.entropy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes this process the one that writes; gives back what says so.
async fn begin_epoch(store: &dyn Store) -> Result<Revision, OpenError> {
    let before = store.get(EPOCH_KEY).await?;
    let (revision, count) = match before {
        Some(entry) => (entry.mod_revision, entry.version),
        None => (Revision::ZERO, 0),
    };
    let txn =
        Txn::new().if_unchanged(EPOCH_KEY, revision).put(EPOCH_KEY, (count + 1).to_string().into_bytes());
    store.commit(txn).await?.committed().ok_or(OpenError::Overtaken)
}

/// Sends what waits to the store, in order, as much at a time as it takes.
async fn commit_all(
    store: Arc<dyn Store>,
    epoch: Revision,
    mut waiting: mpsc::UnboundedReceiver<(u64, Work)>,
    durable: Arc<Durability>,
) {
    let mut next = waiting.recv().await;
    while let Some((mut number, work)) = next.take() {
        let committed = match work {
            Work::Erase => erase(store.as_ref(), epoch).await,
            Work::Change(mut changes) => {
                next = loop {
                    match waiting.try_recv() {
                        Ok((later, Work::Change(more))) if fits(&changes, &more) => {
                            changes.merge(more);
                            number = later;
                        }
                        Ok(other) => break Some(other),
                        Err(_) => break None,
                    }
                };
                store.commit(transaction(epoch, changes)).await
            }
        };
        match committed {
            Ok(Outcome::Committed(_)) => durable.reach(number),
            Ok(Outcome::Conflict(_)) => return durable.fail(Stopped::Overtaken),
            Err(error) => return durable.fail(Stopped::Failed { source: Arc::new(error) }),
        }
        if next.is_none() {
            next = waiting.recv().await;
        }
    }
}

/// Takes all records out of the store. Whatever ends it in between, the next one that opens the store goes on with it.
async fn erase(store: &dyn Store, epoch: Revision) -> Result<Outcome, StoreError> {
    let own = || Txn::new().if_unchanged(EPOCH_KEY, epoch);
    let begun = store.commit(own().put(ERASING_KEY, b"".as_slice())).await?;
    if begun.committed().is_none() {
        return Ok(begun);
    }
    let entries = store.range(RECORDS.as_bytes()).await?.entries;
    for some in entries.chunks(ERASED_AT_ONCE) {
        let outcome =
            store.commit(some.iter().fold(own(), |txn, entry| txn.delete(entry.key.clone()))).await?;
        if outcome.committed().is_none() {
            return Ok(outcome);
        }
    }
    store.commit(own().delete(ERASING_KEY)).await
}

fn transaction(epoch: Revision, changes: ChangeSet) -> Txn {
    let txn = Txn::new().if_unchanged(EPOCH_KEY, epoch);
    changes.into_iter().fold(txn, |txn, (key, value)| {
        let key = format!("{RECORDS}{key}");
        match value {
            Some(value) => txn.put(key.as_bytes(), value),
            None => txn.delete(key.as_bytes()),
        }
    })
}

/// Whether the store takes both at once.
fn fits(one: &ChangeSet, other: &ChangeSet) -> bool {
    one.len() + other.len() <= OPERATIONS_MAX && bytes_in_store(one) + bytes_in_store(other) <= TXN_BYTES_MAX
}

/// With what the store counts beside keys and records, at most.
fn bytes_in_store(changes: &ChangeSet) -> usize {
    changes.bytes() + changes.len() * (RECORDS.len() + OPERATION_BYTES) + 1024
}
