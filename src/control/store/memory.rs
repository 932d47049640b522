//! A store that is gone when it is dropped: for tests, and for a control plane that keeps nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::image::Image;
use super::shared::{Cursor, Shared};
use super::{BoxFuture, Entry, Outcome, Revision, Snapshot, Store, StoreError, Txn, Watch};

/// The store.
#[derive(Debug)]
pub struct Memory {
    shared: Arc<Shared>,
    /// Whoever has it is the one writer.
    newest: Mutex<watch::Sender<Revision>>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        let newest = Mutex::new(watch::Sender::new(Revision::ZERO));
        Self { shared: Shared::new(Image::new(Revision::ZERO, BTreeMap::new())), newest }
    }

    fn commit_now(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.validate()?;
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, batch) = self.shared.draft(|draft| draft.judge(txn));
        if !batch.changes.is_empty() {
            newest.send_replace(self.shared.apply(batch));
        }
        Ok(outcome)
    }

    fn subscribe(&self) -> watch::Receiver<Revision> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).subscribe()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(async move { Ok(self.shared.get(key)) })
    }

    fn range<'a>(&'a self, prefix: &'a [u8]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        Box::pin(async move { Ok(self.shared.range(prefix)) })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(async move { self.commit_now(txn) })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move { Cursor::open(&self.shared, self.subscribe(), prefix, after) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{HISTORY_REVISIONS_MAX, conformance};

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_is_a_store() {
        conformance::check(Arc::new(Memory::new())).await;
    }

    #[tokio::test]
    async fn a_watch_that_lags_too_far_behind_is_told_so() {
        let store = Memory::new();
        let mut lagging = store.watch(b"", Revision::ZERO).await.unwrap();
        let put = || Txn::new().put("key", *b"value");
        let first = store.commit(put()).await.unwrap().committed().unwrap();
        assert_eq!(lagging.next().await.unwrap().revision, first);
        for _ in 0..=HISTORY_REVISIONS_MAX {
            assert!(store.commit(put()).await.unwrap().committed().is_some());
        }
        assert!(matches!(lagging.next().await, Err(StoreError::Compacted { after }) if after == first));
        assert!(matches!(store.watch(b"", first).await, Err(StoreError::Compacted { .. })));
        let mut watch = store.watch(b"", first.next()).await.unwrap();
        assert_eq!(watch.next().await.unwrap().revision, first.next().next());
        // What is of no interest is not missed.
        let mut other = store.watch(b"other", first.next()).await.unwrap();
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), other.next());
        assert!(waiting.await.is_err());
        for _ in 1..HISTORY_REVISIONS_MAX {
            assert!(store.commit(put()).await.unwrap().committed().is_some());
        }
        let last = store.commit(Txn::new().put("other", *b"")).await.unwrap().committed();
        assert_eq!(Some(other.next().await.unwrap().revision), last);
    }

    #[tokio::test]
    async fn a_watch_ends_with_its_store() {
        let store = Memory::new();
        let mut watch = store.watch(b"", Revision::ZERO).await.unwrap();
        drop(store);
        assert!(matches!(watch.next().await, Err(StoreError::Closed)));
    }
}
