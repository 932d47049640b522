//! A store in a file of redb's, for one process at a time.
//!
//! ```text
//!   commit ──▶ queue ──▶ the writer: judges what waits, in order ──▶ one commit of redb ──▶ readers and watches see it ──▶ answers
//! ```
//!
//! Group commit: while redb's commit of some transactions waits for the disk, those that come queue up, and the next commit has all of
//! them. A lone writer waits for nobody. Nothing is answered before the commit that it depends on is durable: a conflict neither, since it
//! says that another transaction is done.
//!
//! All records are in memory too, and reads never touch the file. So a store takes what its records take, twice: in memory, with
//! some 200 bytes for each record, and on disk, with what redb needs to never overwrite what is in use.
//!
//! A commit is redb's `Durability::Immediate` in one phase: pages go where no page is in use, then the header that names the new
//! root, then one sync; growing the file is one more. What a crash leaves is judged by checksums (XXH3), and the commit before stands if
//! they are wrong, in whatever order blocks reached the disk: the test `crash` tries that. Two phases would be two syncs, and would also
//! withstand who chooses records whose checksums collide and decides which blocks reach the disk before a crash; who decides that
//! needs no collisions.
//!
//! When a commit fails (the disk is full, or broken) the store takes no more transactions: after a sync that failed nobody knows what is
//! durable, and the system may have forgotten what was not. Reads go on with what was durable before.
//!
//! Measured by `examples/store_bench` on two processors and an ext4 whose fdatasync(2) takes 0.03 ms, in transactions a second:
//!
//! | writers | 1 | 16 | 64 |
//! | --- | --- | --- | --- |
//! | put a record of 100 bytes again | 4,500 | 31,000 | 82,000 |
//! | create one of 2 KiB and one of 100 bytes | 3,500 | 15,000 | 26,000 |
//!
//! A lone put takes 0.17 ms: what redb does for a commit, some eight writes of pages, takes longer than the sync does here. Where a sync takes
//! 1 ms, a writer waits for two at most. A log file before redb would leave one write and one sync of that, and would be a second
//! format, to be recovered and folded into the first; these figures do not ask for it. A store of 50,000 records of 2 KiB
//! opens in 0.2 s, with the page cache or without, and in 0.5 s after its process was killed, when redb checks all pages; the process
//! then has 178 MiB. Both grow with the file: it has 272 MiB, since such records lie one on a page of 4 KiB, and never shrinks.
//!
//! The file has mode 0600, since records hold secrets. It carries the version of the records' [`Schema`], and is migrated when it is opened; the
//! file as it was is kept beside it.

mod file;
mod schema;
mod tables;
mod writer;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::Database;
use tokio::sync::{mpsc, oneshot, watch};

use super::shared::{Cursor, Shared};
use super::{BoxFuture, Entry, Outcome, Revision, Snapshot, Store, StoreError, Txn, Watch};
use file::LockedFile;
pub use schema::{Migration, Rewrite, Schema};
use writer::{QUEUE_LENGTH, Request, Writer};

/// The store. While it is dropped it waits for what is being written.
#[derive(Debug)]
pub struct Redb {
    shared: Arc<Shared>,
    newest: watch::Receiver<Revision>,
    /// Taken when the store is dropped, which ends the writer.
    queue: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    /// Let go of when the writer has closed the database.
    file: Option<LockedFile>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the store {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("the store {path} is in use by {holder}; one process at a time can use it")]
    InUse { path: PathBuf, holder: Holder },
    #[error("the store {path} cannot be read")]
    Database { path: PathBuf, source: Box<redb::Error> },
    #[error(
        "the store {path} has schema version {found}, and this program knows none after {known}: use the newer \
         program, or the copy that it kept of the older store, if there is one"
    )]
    Newer { path: PathBuf, found: u64, known: u64 },
    #[error("nothing migrates the store {path} from its schema version {from}")]
    NoMigration { path: PathBuf, from: u64 },
    #[error("cannot migrate the store {path} from schema version {from}; it is as it was")]
    Migration { path: PathBuf, from: u64, source: Box<dyn Error + Send + Sync> },
    #[error("cannot keep the copy {copy} of the store, which is needed before it is migrated")]
    Copy { copy: PathBuf, source: io::Error },
    #[error("cannot start the thread that writes the store {path}")]
    Thread { path: PathBuf, source: io::Error },
}

/// Which process uses a store, if the system says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(process) => write!(f, "process {process}"),
            None => f.write_str("another process"),
        }
    }
}

impl Redb {
    /// Opens the store in a file, which is made if there is none, and migrates it if it is of an older schema. It waits for the disk: a
    /// program that serves already calls it on a thread of its own.
    ///
    /// # Errors
    /// [`OpenError`]; the store is as it was.
    pub fn open(path: &Path, schema: &Schema) -> Result<Self, OpenError> {
        let file = LockedFile::open(path, schema)?;
        let mut database = file.database()?;
        if let Some(from) = schema.migrates(path, &database)? {
            // So that the copy is of a file that was closed well.
            drop(database);
            file.copy(from)?;
            database = file.database()?;
        }
        let mut store = Self::start(path, database, schema)?;
        store.file = Some(file);
        Ok(store)
    }

    /// A store in a database, which is migrated if it has to be, and initialised if it is new.
    fn start(path: &Path, database: Database, schema: &Schema) -> Result<Self, OpenError> {
        let image = schema.load(path, &database)?;
        let (queue, requests) = mpsc::channel(QUEUE_LENGTH);
        let (newest, receiver) = watch::channel(image.revision());
        let shared = Shared::new(image);
        let writer = Writer::new(Arc::clone(&shared), newest, database);
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(requests))
            .map_err(|source| OpenError::Thread { path: path.to_owned(), source })?;
        Ok(Self { shared, newest: receiver, queue: Some(queue), writer: Some(writer), file: None })
    }

    async fn commit_queued(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.validate()?;
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(Request { txn, answer }).await.map_err(|_| StoreError::Closed)?;
        let ended = |_| StoreError::Uncertain { source: Arc::new(io::Error::other("its writer has ended")) };
        answered.await.map_err(ended)?
    }
}

impl Drop for Redb {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // If it panicked, it has said so.
            let _ = writer.join();
        }
    }
}

impl Store for Redb {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(async move { Ok(self.shared.get(key)) })
    }

    fn range<'a>(&'a self, prefix: &'a [u8]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        Box::pin(async move { Ok(self.shared.range(prefix)) })
    }

    /// Transactions whose futures were polled first one after the other are done in this order, as long as the queue has room.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(self.commit_queued(txn))
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move { Cursor::open(&self.shared, self.newest.clone(), prefix, after) })
    }
}
