//! The thread that writes: it takes what waits, judges it, makes it durable at once, and answers.

use std::sync::Arc;

use redb::Database;
use tokio::sync::{mpsc, oneshot, watch};

use super::tables;
use crate::store::shared::Shared;
use crate::store::{Failure, Outcome, Revision, StoreError, Txn};

/// How many transactions wait before those who bring more do, and how many one commit has at most.
pub(super) const QUEUE_LENGTH: usize = 256;

type Answer = oneshot::Sender<Result<Outcome, StoreError>>;

/// A valid transaction, and who waits for what becomes of it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) answer: Answer,
}

/// The one that changes the file.
pub(super) struct Writer {
    shared: Arc<Shared>,
    newest: watch::Sender<Revision>,
    database: Database,
    /// Why no more transactions are taken.
    stopped: Option<Failure>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, newest: watch::Sender<Revision>, database: Database) -> Self {
        Self { shared, newest, database, stopped: None }
    }

    /// Works until the store is dropped.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(QUEUE_LENGTH);
        while queue.blocking_recv_many(&mut requests, QUEUE_LENGTH) > 0 {
            self.commit(requests.drain(..));
        }
    }

    fn commit(&mut self, requests: impl Iterator<Item = Request>) {
        if let Some(source) = &self.stopped {
            let error = StoreError::Stopped { source: Arc::clone(source) };
            return requests.for_each(|request| answer(request.answer, Err(error.clone())));
        }
        let (outcomes, batch) = self.shared.draft(|draft| {
            requests.map(|Request { txn, answer }| (answer, draft.judge(txn))).collect::<Vec<_>>()
        });
        if batch.changes.is_empty() {
            return outcomes.into_iter().for_each(|(to, outcome)| answer(to, Ok(outcome)));
        }
        if let Err(error) = tables::save(&self.database, &batch, None) {
            let source: Failure = Arc::new(error);
            self.stopped = Some(Arc::clone(&source));
            let error = StoreError::Uncertain { source };
            return outcomes.into_iter().for_each(|(to, _)| answer(to, Err(error.clone())));
        }
        self.newest.send_replace(self.shared.apply(batch));
        outcomes.into_iter().for_each(|(to, outcome)| answer(to, Ok(outcome)));
    }
}

/// Nobody may be waiting any more.
fn answer(to: Answer, result: Result<Outcome, StoreError>) {
    let _ = to.send(result);
}
