//! Doing the same to many things, several at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many operations of a store are under way at once: they mostly wait.
const THREADS: usize = 8;

/// Calls `work` with each item, in no order, and ends early with an error.
pub(crate) fn parallel<T: Sync, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    if let [item] = items {
        return work(item);
    }
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                failure.lock().expect("nothing panics here").get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(items.len()) {
            scope.spawn(run);
        }
    });
    failure.into_inner().expect("nothing panics here").map_or(Ok(()), Err)
}
