//! The time after a restart in which clients take back what they had, and nobody else may take it (RFC 8881, section 8.4.2).

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use types::Instant;

use crate::lock;

/// Ends when all clients that were written down have taken back what they had, or when its time is over.
#[derive(Debug)]
pub(crate) struct Grace {
    ends: Instant,
    awaited: Mutex<HashSet<Vec<u8>>>,
    is_over: AtomicBool,
}

impl Grace {
    pub(crate) fn new(ends: Instant, owners: Vec<Vec<u8>>) -> Self {
        let is_over = AtomicBool::new(owners.is_empty());
        Self { ends, awaited: Mutex::new(owners.into_iter().collect()), is_over }
    }

    pub(crate) fn is_on(&self, now: Instant) -> bool {
        if self.is_over.load(Ordering::Acquire) {
            return false;
        }
        let is_over = now >= self.ends || lock(&self.awaited).is_empty();
        if is_over {
            self.is_over.store(true, Ordering::Release);
        }
        !is_over
    }

    /// Whether a client has something to take back, and has not said that it has.
    pub(crate) fn awaits(&self, owner: &[u8]) -> bool {
        lock(&self.awaited).contains(owner)
    }

    /// It takes nothing back any more.
    pub(crate) fn is_done(&self, owner: &[u8]) {
        lock(&self.awaited).remove(owner);
    }

    /// Those that did not come in time; none before it is over.
    pub(crate) fn missing(&self, now: Instant) -> Vec<Vec<u8>> {
        if self.is_on(now) { Vec::new() } else { lock(&self.awaited).drain().collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_ends_with_the_last_client_or_with_its_time() {
        let at = |s| Instant(Duration::from_secs(s));
        assert!(!Grace::new(at(90), Vec::new()).is_on(at(0)), "there is nobody to wait for");
        let grace = Grace::new(at(90), vec![b"one".to_vec(), b"two".to_vec()]);
        assert!(grace.is_on(at(1)) && grace.awaits(b"one"));
        grace.is_done(b"one");
        assert!(grace.is_on(at(1)) && !grace.awaits(b"one") && grace.missing(at(1)).is_empty());
        grace.is_done(b"two");
        assert!(!grace.is_on(at(1)));
        let grace = Grace::new(at(90), vec![b"one".to_vec()]);
        assert!(grace.is_on(at(89)) && !grace.is_on(at(90)));
        assert_eq!(grace.missing(at(90)), [b"one".to_vec()]);
    }
}
