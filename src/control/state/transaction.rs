//! Transactions: what an operation changes, all of it or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use types::RandomId;

use super::{Space, State, View, key};
use crate::records::{Former, Stored, Tables, TagSet};

/// Where random bytes come from: the kernel, or a test's seed.
pub trait Entropy {
    fn fill(&mut self, bytes: &mut [u8]);
}

/// A change of the state that is under way. It is seen by who makes it as if it were done; if it is dropped, it never was.
pub struct Transaction<'a> {
    state: &'a mut State,
    space: Space,
    now: Timestamp,
    entropy: &'a mut dyn Entropy,
    /// What stood where something was changed, the latest last.
    former: Vec<(Space, Former)>,
    /// There was no such space before.
    is_first: bool,
}

/// What transactions changed, as the store is to have it: keys, each with its record or none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    changes: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
}

impl ChangeSet {
    fn new(changes: BTreeMap<String, Option<Vec<u8>>>) -> Self {
        let bytes = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        Self { changes, bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Of keys and records, at most.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds what was changed later.
    pub fn merge(&mut self, later: Self) {
        self.changes.extend(later.changes);
        self.bytes += later.bytes;
    }
}

impl IntoIterator for ChangeSet {
    type Item = (String, Option<Vec<u8>>);
    type IntoIter = std::collections::btree_map::IntoIter<String, Option<Vec<u8>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.changes.into_iter()
    }
}

impl<'a> Transaction<'a> {
    /// In a space that is made if it is new, and if something is put there.
    pub fn begin(state: &'a mut State, space: Space, now: Timestamp, entropy: &'a mut dyn Entropy) -> Self {
        let is_first = !state.spaces.contains_key(&space);
        state.spaces.entry(space).or_default();
        Self { state, space, now, entropy, former: Vec::new(), is_first }
    }

    /// Whether it is the first in its space.
    pub const fn is_first(&self) -> bool {
        self.is_first
    }

    /// Whose transaction it is, and where.
    pub const fn space(&self) -> Space {
        self.space
    }

    /// The time of all of it.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The records of its own space.
    pub fn tables(&self) -> &Tables {
        &self.state.spaces[&self.space]
    }

    /// What it would leave behind.
    pub fn view(&self) -> View<'_> {
        View::new(self.state, self.space, self.now)
    }

    pub fn get<R: Stored>(&self, id: R::Id) -> Option<&R> {
        R::table(self.tables()).get(id).map(AsRef::as_ref)
    }

    /// An id that nothing has.
    pub fn new_id<Id: RandomId>(&mut self) -> Id {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        Id::from_random(bytes)
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.entropy.fill(bytes);
    }

    /// Puts a record in the place of the one with its id, if there is one.
    pub fn put<R: Stored>(&mut self, record: R) {
        self.set::<R>(record.id(), Some(Arc::new(record)));
    }

    /// Puts a record that is shared with another space into that one, which must be known.
    pub fn put_in<R: Stored>(&mut self, space: Space, record: R) {
        self.set_in::<R>(space, record.id(), Some(Arc::new(record)));
    }

    /// Changes a record; says whether there is one.
    pub fn update<R: Stored>(&mut self, id: R::Id, change: impl FnOnce(&mut R)) -> bool {
        let Some(mut record) = R::table(self.tables()).get(id).map(|row| R::clone(row)) else { return false };
        change(&mut record);
        self.put(record);
        true
    }

    /// Takes a record away, and its tags.
    pub fn remove<R: Stored>(&mut self, id: R::Id) {
        if self.get::<R>(id).is_none() {
            return;
        }
        self.set::<R>(id, None);
        if let Some(resource) = R::resource(id) {
            self.remove::<TagSet>(resource);
        }
    }

    fn set<R: Stored>(&mut self, id: R::Id, row: Option<Arc<R>>) {
        self.set_in::<R>(self.space, id, row);
    }

    fn set_in<R: Stored>(&mut self, space: Space, id: R::Id, row: Option<Arc<R>>) {
        if let Some(tables) = self.state.spaces.get_mut(&space) {
            let before = R::table_mut(tables).set(id, row);
            self.former.push((space, R::former(id, before)));
        }
    }

    /// Does a part of it, all of that or nothing.
    ///
    /// # Errors
    /// Those of the part, and then it never was.
    pub fn attempt<T, E>(&mut self, part: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let before = self.former.len();
        let outcome = part(self);
        if outcome.is_err() {
            self.undo_to(before);
        }
        outcome
    }

    fn undo_to(&mut self, before: usize) {
        for (space, former) in self.former.drain(before..).rev() {
            if let Some(tables) = self.state.spaces.get_mut(&space) {
                former.restore(tables);
            }
        }
    }

    /// What it has changed so far.
    pub fn changes(&self) -> ChangeSet {
        let mut changes = BTreeMap::new();
        for (space, former) in &self.former {
            let (kind, id) = former.place();
            changes.entry(key(*space, kind, id)).or_insert_with(|| former.present(&self.state.spaces[space]));
        }
        ChangeSet::new(changes)
    }

    /// Ends it: the changes are the state's from now on. Gives back what stood where something was changed.
    pub fn finish(mut self) -> Vec<(Space, Former)> {
        self.is_first &= self.former.is_empty();
        std::mem::take(&mut self.former)
    }
}

/// Undoes what was not finished.
impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.undo_to(0);
        if self.is_first {
            self.state.spaces.remove(&self.space);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::InternetGateway;
    use crate::testing::Seeded;
    use types::InternetGatewayId;

    #[test]
    fn what_is_put_into_another_space_is_kept_and_undone_with_all_else() {
        let (mut state, mut entropy) = (State::default(), Seeded::new(0));
        let space =
            |account: &str| Space { account: account.parse().unwrap(), region: "us-east-1".parse().unwrap() };
        let (own, other) = (space("000000000000"), space("111111111111"));
        let mut tx = Transaction::begin(&mut state, other, Timestamp::UNIX_EPOCH, &mut entropy);
        let first: InternetGatewayId = tx.new_id();
        tx.put(InternetGateway { id: first, vpc: None });
        tx.remove::<InternetGateway>(first);
        tx.finish();
        let count = |state: &State, space| {
            state.space(space).map_or(0, |tables| tables.internet_gateways.iter().len())
        };
        for is_finished in [false, true] {
            let mut tx = Transaction::begin(&mut state, own, Timestamp::UNIX_EPOCH, &mut entropy);
            let id: InternetGatewayId = tx.new_id();
            tx.put(InternetGateway { id, vpc: None });
            tx.put_in(other, InternetGateway { id, vpc: None });
            let keys: Vec<String> = tx.changes().into_iter().map(|(key, _)| key).collect();
            let key = |account| format!("us-east-1/{account}/internet_gateway/{id}");
            assert_eq!(keys, [key("000000000000"), key("111111111111")]);
            if is_finished {
                tx.finish();
            } else {
                drop(tx);
            }
            let expected = usize::from(is_finished);
            assert_eq!((count(&state, own), count(&state, other)), (expected, expected));
        }
    }

    #[test]
    fn a_space_in_which_nothing_is_put_is_not_made() {
        let (mut state, mut entropy) = (State::default(), Seeded::new(0));
        let (account, region) = ("000000000000".parse().unwrap(), "us-east-1".parse().unwrap());
        let space = Space { account, region };
        for does_put in [false, true] {
            for is_finished in [false, true] {
                let mut tx = Transaction::begin(&mut state, space, Timestamp::UNIX_EPOCH, &mut entropy);
                assert!(tx.is_first());
                if does_put {
                    let id: InternetGatewayId = tx.new_id();
                    tx.put(InternetGateway { id, vpc: None });
                }
                if is_finished {
                    tx.finish();
                } else {
                    drop(tx);
                }
                assert_eq!(state.space(space).is_some(), does_put && is_finished);
            }
        }
        assert!(!Transaction::begin(&mut state, space, Timestamp::UNIX_EPOCH, &mut entropy).is_first());
        assert!(state.space(space).is_some());
    }
}
