//! Records of one kind: by id, by key, by what they link to, and those with work left.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;
use std::sync::Arc;

use super::{Counted, Key, Record};
use types::ResourceId;

/// Records of one kind of one account in one region.
pub struct Table<R: Record> {
    rows: BTreeMap<R::Id, Arc<R>>,
    /// Who links to it. What is linked to need not exist.
    linked: BTreeMap<ResourceId, BTreeSet<R::Id>>,
    keyed: BTreeMap<Key, R::Id>,
    /// What there is none of is left out.
    counted: BTreeMap<Counted, u64>,
    unsettled: BTreeSet<R::Id>,
}

impl<R: Record> Default for Table<R> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            linked: BTreeMap::new(),
            keyed: BTreeMap::new(),
            counted: BTreeMap::new(),
            unsettled: BTreeSet::new(),
        }
    }
}

impl<R: Record> Table<R> {
    pub fn get(&self, id: R::Id) -> Option<&Arc<R>> {
        self.rows.get(&id)
    }

    /// All of them, in the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<R>> {
        self.rows.values()
    }

    /// Those with ids in a range, in the order of their ids.
    pub fn range(&self, ids: impl RangeBounds<R::Id>) -> impl DoubleEndedIterator<Item = &Arc<R>> {
        self.rows.range(ids).map(|(_, row)| row)
    }

    /// Those that link to `target`, in the order of their ids.
    pub fn linked_to(&self, target: impl Into<ResourceId>) -> impl Iterator<Item = &Arc<R>> {
        self.linked.get(&target.into()).into_iter().flatten().filter_map(|id| self.rows.get(id))
    }

    /// The one that has this key.
    pub fn keyed(&self, key: &Key) -> Option<&Arc<R>> {
        self.keyed.get(key).and_then(|id| self.rows.get(id))
    }

    /// How much of it all of them have.
    pub fn counted(&self, what: Counted) -> u64 {
        self.counted.get(&what).copied().unwrap_or_default()
    }

    /// Whether it has the record of this resource.
    pub fn holds(&self, resource: ResourceId) -> bool {
        let id: Option<R::Id> = resource.to_string().parse().ok();
        id.is_some_and(|id| R::resource(id) == Some(resource) && self.rows.contains_key(&id))
    }

    /// Those with work left to do.
    pub fn unsettled(&self) -> impl Iterator<Item = &Arc<R>> {
        self.unsettled.iter().filter_map(|id| self.rows.get(id))
    }

    /// Puts a row in the place of the one with its id, or takes that one away; gives back what was there.
    pub(crate) fn set(&mut self, id: R::Id, row: Option<Arc<R>>) -> Option<Arc<R>> {
        let before = match &row {
            Some(row) => self.rows.insert(id, Arc::clone(row)),
            None => self.rows.remove(&id),
        };
        if let Some(before) = &before {
            before.links(&mut |target| self.unlink(target, id));
            before.keys(&mut |key| {
                self.keyed.remove(&key);
            });
            before.counts(&mut |what, much| self.discount(what, much));
            self.unsettled.remove(&id);
        }
        if let Some(row) = &row {
            row.links(&mut |target| {
                self.linked.entry(target).or_default().insert(id);
            });
            row.keys(&mut |key| {
                self.keyed.insert(key, id);
            });
            row.counts(&mut |what, much| *self.counted.entry(what).or_default() += much);
            if !row.is_settled() {
                self.unsettled.insert(id);
            }
        }
        before
    }

    fn discount(&mut self, what: Counted, much: u64) {
        if let Some(all) = self.counted.get_mut(&what) {
            *all -= much;
            if *all == 0 {
                self.counted.remove(&what);
            }
        }
    }

    fn unlink(&mut self, target: ResourceId, id: R::Id) {
        if let Some(ids) = self.linked.get_mut(&target) {
            ids.remove(&id);
            if ids.is_empty() {
                self.linked.remove(&target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::records::{Address, Cause, Instance, InstanceState};
    use types::{AllocationId, InstanceId, RandomId as _};

    fn address(number: u8, last: u8) -> Address {
        let id = AllocationId::from_random([number; 16]);
        Address { id, public_ip: Ipv4Addr::new(198, 18, 0, last), association: None }
    }

    #[test]
    fn a_record_is_found_by_the_key_that_it_has_now() {
        let mut table = Table::default();
        let key = |last| Key::PublicAddress(Ipv4Addr::new(198, 18, 0, last));
        let found = |table: &Table<Address>, last| table.keyed(&key(last)).map(|address| address.id);
        let record = address(1, 7);
        let id = record.id;
        table.set(id, Some(Arc::new(record)));
        assert_eq!(found(&table, 7), Some(id));
        let before = table.set(id, Some(Arc::new(address(1, 8))));
        assert_eq!((found(&table, 7), found(&table, 8)), (None, Some(id)));
        table.set(id, before);
        assert_eq!((found(&table, 7), found(&table, 8)), (Some(id), None));
        table.set(id, None);
        assert_eq!(found(&table, 7), None);
    }

    #[test]
    fn what_records_have_is_counted_as_they_come_change_and_go() {
        let mut table: Table<Instance> = Table::default();
        let id = InstanceId::from_random([1; 16]);
        let all =
            |table: &Table<Instance>| (table.counted(Counted::Vcpus), table.counted(Counted::MemoryMib));
        let now = jiff::Timestamp::UNIX_EPOCH;
        let row = |state| Some(Arc::new(crate::testing::instance(id, state, now)));
        let stopped = || InstanceState::Stopped { cause: Cause::User, since: now };
        table.set(id, row(InstanceState::Running));
        assert_eq!(all(&table), (2, 1024));
        let before = table.set(id, row(stopped()));
        assert_eq!(all(&table), (0, 0));
        table.set(id, before);
        assert_eq!(all(&table), (2, 1024));
        table.set(id, None);
        assert_eq!(all(&table), (0, 0));
    }

    #[test]
    fn a_table_holds_resources_of_its_own_kind_only() {
        let mut table = Table::default();
        let record = address(1, 7);
        let id = record.id;
        assert!(!table.holds(id.into()));
        table.set(id, Some(Arc::new(record)));
        assert!(table.holds(id.into()));
        assert!(!table.holds(types::VpcId::from_random([1; 16]).into()));
    }
}
