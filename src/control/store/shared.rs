//! What the readers and watches of a store in this process share with whoever changes it.
//!
//! The lock is held for as long as it takes to look up, to collect what a range has (values are shared, not copied), or to apply a batch; never
//! across I/O or an `await`.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::history::History;
use super::image::{Batch, Draft, Image};
use super::{BoxFuture, Changes, Entry, Key, Revision, Snapshot, StoreError, Watch};

/// The records and the newest changes, for readers and for one writer.
pub(super) struct Shared(RwLock<State>);

struct State {
    image: Image,
    history: History,
}

impl Shared {
    pub(super) fn new(image: Image) -> Arc<Self> {
        let history = History::new(image.revision());
        Arc::new(Self(RwLock::new(State { image, history })))
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Entry> {
        self.read(|state| state.image.get(key).cloned())
    }

    pub(super) fn range(&self, prefix: &[u8]) -> Snapshot {
        self.read(|state| Snapshot {
            revision: state.image.revision(),
            entries: state.image.range(prefix).cloned().collect(),
        })
    }

    /// Judges transactions. Only the one writer may, which then applies what they do.
    pub(super) fn draft<T>(&self, judge: impl FnOnce(&mut Draft<'_>) -> T) -> (T, Batch) {
        self.read(|state| {
            let mut draft = Draft::new(&state.image);
            let judged = judge(&mut draft);
            (judged, draft.into_batch())
        })
    }

    /// Shows readers and watches what transactions did; returns the revision that there is to tell watches of.
    pub(super) fn apply(&self, mut batch: Batch) -> Revision {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for changes in batch.changes.drain(..) {
            state.history.push(changes);
        }
        state.image.apply(batch);
        state.image.revision()
    }

    fn next(&self, prefix: &[u8], after: Revision) -> Result<Option<Changes>, StoreError> {
        self.read(|state| state.history.next(prefix, after))
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self.read(|state| state.image.revision());
        f.debug_struct("Shared").field("revision", &revision).finish_non_exhaustive()
    }
}

/// A place in the history.
#[derive(Debug)]
pub(super) struct Cursor {
    shared: Arc<Shared>,
    /// The store's revision, as often as there is a new one; closed when the store is.
    newest: watch::Receiver<Revision>,
    prefix: Key,
    seen: Revision,
}

impl Cursor {
    /// Opens a watch.
    pub(super) fn open(
        shared: &Arc<Shared>,
        newest: watch::Receiver<Revision>,
        prefix: &[u8],
        after: Revision,
    ) -> Result<Box<dyn Watch>, StoreError> {
        shared.next(prefix, after)?;
        Ok(Box::new(Self { shared: Arc::clone(shared), newest, prefix: Key::from(prefix), seen: after }))
    }

    async fn wait(&mut self) -> Result<Changes, StoreError> {
        loop {
            // First, so that what comes while we look is not waited for.
            let newest = *self.newest.borrow_and_update();
            if let Some(changes) = self.shared.next(&self.prefix, self.seen)? {
                self.seen = changes.revision;
                return Ok(changes);
            }
            // None of those was of interest; more may be there by now, but not less.
            self.seen = self.seen.max(newest);
            self.newest.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }
}

impl Watch for Cursor {
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, StoreError>> {
        Box::pin(self.wait())
    }
}
