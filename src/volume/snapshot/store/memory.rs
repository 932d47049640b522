//! A store in memory that fails, lies and dies on demand: for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{ObjectStore, StoreError, StoreErrorKind};

/// What happens instead of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Unavailable,
    Refused,
    /// The call is done, and nobody hears of it.
    LostAnswer,
    /// A `get` gives other bytes than were put.
    WrongBytes,
}

/// The store; its clones are the same one.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Arc<[u8]>>,
    calls: u64,
    faults: Vec<(Range<u64>, Fault)>,
    held: bool,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// The calls of these numbers, from 1 on, go wrong. One that goes wrong from some number on for ever is a process that stopped there.
    pub fn fault_at(&self, calls: Range<u64>, fault: Fault) {
        self.state().faults.push((calls, fault));
    }

    /// From now on all goes well, and calls are counted from 1 again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        (state.calls, state.held) = (0, false);
    }

    /// Lets every call wait until [`heal`](Self::heal).
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Another store that holds the same now.
    pub fn copy(&self) -> Self {
        let objects = self.state().objects.clone();
        Self(Arc::new(Mutex::new(State { objects, ..State::default() })))
    }

    /// Changes an object as a bad disk would.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let mut bytes = state.objects[key].to_vec();
        change(&mut bytes);
        state.objects.insert(key.to_owned(), bytes.into());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the store")
    }

    /// Counts a call and does it, as far as it is to be done.
    fn call<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&mut State, bool) -> Option<T>,
    ) -> Result<T, StoreError> {
        while self.state().held {
            std::thread::yield_now();
        }
        let mut state = self.state();
        state.calls += 1;
        let call = state.calls;
        let fault = state.faults.iter().find(|(calls, _)| calls.contains(&call)).map(|(_, fault)| *fault);
        let error = |kind| StoreError::new(operation, key, kind, "as it was told to");
        match fault {
            Some(Fault::Unavailable) => return Err(error(StoreErrorKind::Unavailable)),
            Some(Fault::Refused) => return Err(error(StoreErrorKind::Refused)),
            _ => {}
        }
        let result = work(&mut state, fault == Some(Fault::WrongBytes));
        match fault {
            Some(Fault::LostAnswer) => Err(error(StoreErrorKind::Unavailable)),
            _ => result.ok_or_else(|| error(StoreErrorKind::NotFound)),
        }
    }
}

impl ObjectStore for MemoryStore {
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.call("put", key, |state, _| {
            state.objects.insert(key.to_owned(), bytes.into());
            Some(())
        })
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.call("get", key, |state, is_wrong| {
            let mut bytes = state.objects.get(key)?.to_vec();
            if is_wrong {
                let middle = bytes.len() / 2;
                bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
            }
            Some(bytes)
        })
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(&str)) -> Result<(), StoreError> {
        let keys = self.call("list", prefix, |state, _| {
            let from = state.objects.range(prefix.to_owned()..);
            let keys = from.map(|(key, _)| key.clone()).take_while(|key| key.starts_with(prefix));
            Some(keys.collect::<Vec<_>>())
        })?;
        keys.iter().for_each(|key| each(key));
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.call("delete", key, |state, _| {
            state.objects.remove(key);
            Some(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_store() {
        super::super::conformance::check(&MemoryStore::new());
    }

    #[test]
    fn it_fails_where_it_is_told_to() {
        let store = MemoryStore::new();
        store.put("a/x", &[7; 9]).unwrap();
        store.heal();
        store.fault_at(1..2, Fault::WrongBytes);
        store.fault_at(2..3, Fault::LostAnswer);
        assert_ne!(store.get("a/x").unwrap(), [7; 9]);
        assert!(store.put("a/y", &[]).is_err());
        assert_eq!(store.get("a/y").unwrap(), [0; 0]);
    }
}
