//! What is plugged into what, and from when to when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// Each by its key.
pub(super) struct Plugs<K>(BTreeMap<K, Plug>);

#[derive(Clone, Copy)]
struct Plug {
    from: Instant,
    until: Option<Instant>,
}

impl<K> Default for Plugs<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Copy + Ord> Plugs<K> {
    /// Plugs one in that takes so long to be there, unless it is already, or about to be.
    pub(super) fn plug(&mut self, key: K, time: Duration) {
        let from = Instant::now() + time;
        let has = self.0.get(&key).is_some_and(|plug| plug.until.is_none_or(|until| until > from));
        if !has {
            self.0.insert(key, Plug { from, until: None });
        }
    }

    /// Unplugs one that takes so long to be gone.
    pub(super) fn unplug(&mut self, key: K, time: Duration) {
        if let Some(plug) = self.0.get_mut(&key) {
            plug.until.get_or_insert(Instant::now() + time);
        }
    }

    pub(super) fn remove(&mut self, key: K) {
        self.0.remove(&key);
    }

    /// Those that are there now.
    pub(super) fn plugged(&self) -> BTreeSet<K> {
        let now = Instant::now();
        let is_there = |plug: &Plug| plug.from <= now && plug.until.is_none_or(|until| until > now);
        self.0.iter().filter(|(_, plug)| is_there(plug)).map(|(key, _)| *key).collect()
    }
}
