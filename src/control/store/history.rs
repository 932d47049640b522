//! What changed lately: what watches read.
//!
//! Every watch has its own place in the one history, so a slow one takes no memory and holds up nobody: it falls off the end.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Change, Changes, Revision, StoreError};

/// How many revisions are remembered, if they are not larger than [`HISTORY_BYTES_MAX`].
pub const HISTORY_REVISIONS_MAX: usize = 10_000;
/// How large the changes are that are remembered, keys and values, if they are more than one revision.
pub const HISTORY_BYTES_MAX: usize = 16 << 20;

/// The changes of the newest revisions, without a gap.
pub(super) struct History {
    /// The revision after which all is known: that of the last change forgotten.
    forgotten: Revision,
    changes: VecDeque<Arc<Changes>>,
    bytes: usize,
}

impl History {
    /// Of a store that is at this revision.
    pub(super) fn new(revision: Revision) -> Self {
        Self { forgotten: revision, changes: VecDeque::new(), bytes: 0 }
    }

    /// Remembers the next revision.
    pub(super) fn push(&mut self, changes: Arc<Changes>) {
        self.bytes += size(&changes);
        self.changes.push_back(changes);
        while self.changes.len() > HISTORY_REVISIONS_MAX
            || (self.bytes > HISTORY_BYTES_MAX && self.changes.len() > 1)
        {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.forgotten = oldest.revision;
            self.bytes -= size(&oldest);
        }
    }

    /// The first revision after one that changed something below a prefix, with those changes.
    pub(super) fn next(&self, prefix: &[u8], after: Revision) -> Result<Option<Changes>, StoreError> {
        if after < self.forgotten {
            return Err(StoreError::Compacted { after });
        }
        let known = usize::try_from(after.0 - self.forgotten.0).unwrap_or(usize::MAX);
        let unknown = self.changes.range(known.min(self.changes.len())..);
        Ok(unknown.filter_map(|changes| below(prefix, changes)).next())
    }
}

/// What of a revision's changes is below a prefix, if there is some.
fn below(prefix: &[u8], all: &Changes) -> Option<Changes> {
    let changes: Vec<Change> =
        all.changes.iter().filter(|change| change.key().starts_with(prefix)).cloned().collect();
    (!changes.is_empty()).then_some(Changes { revision: all.revision, changes })
}

fn size(changes: &Changes) -> usize {
    let size = |change: &Change| match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Delete(key) => key.len(),
    };
    changes.changes.iter().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Entry, Key, Value};

    fn put(revision: u64, key: &str, bytes: usize) -> Arc<Changes> {
        let revision = Revision(revision);
        let entry = Entry {
            key: Key::from(key),
            value: Value::from(vec![0; bytes]),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
        };
        Arc::new(Changes { revision, changes: vec![Change::Put(entry)] })
    }

    fn next(history: &History, prefix: &str, after: u64) -> Result<Option<u64>, &'static str> {
        match history.next(prefix.as_bytes(), Revision(after)) {
            Ok(changes) => Ok(changes.map(|changes| changes.revision.0)),
            Err(StoreError::Compacted { .. }) => Err("compacted"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn it_forgets_the_oldest_revisions_and_says_so() {
        let mut history = History::new(Revision(7));
        assert_eq!(next(&history, "", 6), Err("compacted"));
        assert_eq!(next(&history, "", 7), Ok(None));
        assert_eq!(next(&history, "", 100), Ok(None));
        let count = u64::try_from(HISTORY_REVISIONS_MAX).unwrap();
        for revision in 8..8 + count {
            history.push(put(revision, if revision == 20 { "b" } else { "a" }, 1));
        }
        assert_eq!(next(&history, "", 7), Ok(Some(8)));
        assert_eq!(next(&history, "b", 7), Ok(Some(20)));
        assert_eq!(next(&history, "b", 20), Ok(None));
        history.push(put(8 + count, "a", 1));
        assert_eq!(next(&history, "", 7), Err("compacted"));
        assert_eq!(next(&history, "", 8), Ok(Some(9)));
    }

    #[test]
    fn it_forgets_what_is_too_large_but_never_the_newest_revision() {
        let mut history = History::new(Revision::ZERO);
        history.push(put(1, "a", HISTORY_BYTES_MAX / 2));
        history.push(put(2, "a", HISTORY_BYTES_MAX / 2 - 2));
        assert_eq!(next(&history, "", 0), Ok(Some(1)));
        history.push(put(3, "a", 0));
        assert_eq!(next(&history, "", 0), Err("compacted"));
        assert_eq!(next(&history, "", 1), Ok(Some(2)));
        history.push(put(4, "a", 2 * HISTORY_BYTES_MAX));
        assert_eq!(next(&history, "", 2), Err("compacted"));
        assert_eq!(next(&history, "", 3), Ok(Some(4)));
        assert_eq!(history.bytes, 2 * HISTORY_BYTES_MAX + 1);
    }
}
