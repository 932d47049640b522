//! Up to where the store has all, and those who wait for that.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use super::Stopped;

/// Wakes those alone whose transaction is reached: a commit of some is no business of all others that wait.
pub(super) struct Durability {
    reached: Mutex<Reached>,
    failure: watch::Sender<Option<Stopped>>,
}

#[derive(Default)]
struct Reached {
    number: u64,
    waiting: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
}

impl Durability {
    pub(super) fn new() -> Self {
        Self { reached: Mutex::default(), failure: watch::channel(None).0 }
    }

    /// The store has all transactions up to this one.
    pub(super) fn reach(&self, number: u64) {
        let mut reached = self.reached();
        reached.number = number;
        let later = reached.waiting.split_off(&(number + 1));
        let over = std::mem::replace(&mut reached.waiting, later);
        drop(reached);
        wake(over);
    }

    /// The store did not take one, and has none of those after it.
    pub(super) fn fail(&self, stopped: Stopped) {
        let mut reached = self.reached();
        // Under the lock: who comes to wait after this sees it.
        self.failure.send_replace(Some(stopped));
        let waiting = std::mem::take(&mut reached.waiting);
        drop(reached);
        wake(waiting);
    }

    pub(super) fn failure(&self) -> Option<Stopped> {
        self.failure.borrow().clone()
    }

    /// Waits until the store has this one.
    pub(super) async fn wait(&self, number: u64) -> Result<(), Stopped> {
        let Some(woken) = self.enter(number)? else { return Ok(()) };
        let _ = woken.await;
        if self.reached().number >= number {
            return Ok(());
        }
        match self.failure() {
            Some(stopped) => Err(stopped),
            None => unreachable!("nobody is woken before its time"),
        }
    }

    /// Nothing to wait for: it is there already.
    fn enter(&self, number: u64) -> Result<Option<oneshot::Receiver<()>>, Stopped> {
        let mut reached = self.reached();
        if reached.number >= number {
            return Ok(None);
        }
        if let Some(stopped) = self.failure() {
            return Err(stopped);
        }
        let (sender, woken) = oneshot::channel();
        reached.waiting.entry(number).or_default().push(sender);
        Ok(Some(woken))
    }

    /// Waits until there is a failure.
    pub(super) async fn failed(&self) -> Stopped {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(stopped)) => stopped.clone(),
            _ => unreachable!("the sender is here"),
        }
    }

    fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waiting: BTreeMap<u64, Vec<oneshot::Sender<()>>>) {
    for sender in waiting.into_values().flatten() {
        // Who waits no more needs not be told.
        let _ = sender.send(());
    }
}
