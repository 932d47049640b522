//! Trying again what a store could not do just now.

use std::time::Duration;

use super::{ObjectStore, StoreError, StoreErrorKind};

/// A store whose failures that may pass are waited out, twice as long each time.
#[derive(Debug, Clone)]
pub struct Retrying<S> {
    store: S,
    /// How often an operation is tried, and how long it is waited before the second time, and at most.
    tries: u32,
    delay: Duration,
    delay_max: Duration,
}

impl<S: ObjectStore> Retrying<S> {
    /// Tries for about half a minute.
    pub fn new(store: S) -> Self {
        Self::with(store, 9, Duration::from_millis(100))
    }

    /// Tries so often, and waits so long before the second time.
    pub fn with(store: S, tries: u32, delay: Duration) -> Self {
        Self { store, tries, delay, delay_max: Duration::from_secs(8) }
    }

    fn retry<T>(&self, mut operation: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut delay = self.delay;
        for _ in 1..self.tries {
            match operation() {
                Err(error) if error.kind == StoreErrorKind::Unavailable => std::thread::sleep(delay),
                result => return result,
            }
            delay = (delay * 2).min(self.delay_max);
        }
        operation()
    }
}

impl<S: ObjectStore> ObjectStore for Retrying<S> {
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.retry(|| self.store.put(key, bytes))
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.retry(|| self.store.get(key))
    }

    /// What was listed before a failure is listed again, so it is told only when all of it is there.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(&str)) -> Result<(), StoreError> {
        let keys = self.retry(|| {
            let mut keys = Vec::new();
            self.store.list(prefix, &mut |key| keys.push(key.to_owned()))?;
            Ok(keys)
        })?;
        keys.iter().for_each(|key| each(key));
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.retry(|| self.store.delete(key))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Fault, MemoryStore};
    use super::*;

    #[test]
    fn what_passes_is_waited_out_and_what_does_not_is_told() {
        let store = MemoryStore::new();
        let retrying = Retrying::with(store.clone(), 4, Duration::ZERO);
        store.fault_at(1..4, Fault::Unavailable);
        retrying.put("a/b", b"x").unwrap();
        assert_eq!(store.calls(), 4);
        store.fault_at(5..9, Fault::Unavailable);
        assert_eq!(retrying.get("a/b").unwrap_err().kind, StoreErrorKind::Unavailable);
        assert_eq!(store.calls(), 8, "four tries and no more");
        store.fault_at(9..10, Fault::Refused);
        assert_eq!(retrying.delete("a/b").unwrap_err().kind, StoreErrorKind::Refused);
        assert_eq!(store.calls(), 9, "tried once");
    }
}
