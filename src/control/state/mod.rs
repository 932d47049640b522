//! The state: every record of every account in every region, in memory.
//!
//! It is what the store has, and what has been sent there and is not durable yet. Reading it touches no disk. Whoever tells others what
//! they read here (an answer to a client, an effect on the host) first waits until what they read is durable: see
//! [`Ledger::settled`](crate::ledger::Ledger::settled).

mod table;
mod transaction;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use types::{AccountId, InstanceId, Region, ResourceId, SubnetId};

pub use table::Table;
pub use transaction::{ChangeSet, Entropy, Transaction};

use crate::capacity::Capacity;
use crate::public_pool::PublicPool;
use crate::records::{Stored, Tables};

/// What the state consists of.
pub trait Record:
    Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    type Id: Copy + Ord + fmt::Debug + fmt::Display + FromStr + Send + Sync + 'static;

    /// The part of its key that says what it is.
    const KIND: &'static str;

    fn id(&self) -> Self::Id;

    /// The resource that it is, if it is one: its tags go with it.
    fn resource(id: Self::Id) -> Option<ResourceId>;

    /// Calls `link` for each resource that this one says it has to do with; it is found by them
    /// ([`Table::linked_to`]). The same may be named more than once.
    fn links(&self, link: &mut dyn FnMut(ResourceId)) {
        let _ = link;
    }

    /// Calls `key` for each key that no other record of its kind in its space has; it is found by them
    /// ([`Table::keyed`]).
    fn keys(&self, key: &mut dyn FnMut(Key)) {
        let _ = key;
    }

    /// Calls `count` for what records of its kind are counted by, with how much of it this one has ([`Table::counted`]).
    fn counts(&self, count: &mut dyn FnMut(Counted, u64)) {
        let _ = count;
    }

    /// Whether nothing is left to be done about it on a host.
    fn is_settled(&self) -> bool {
        true
    }
}

/// By what a record is found besides its id: nothing else of its kind has the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Instance(InstanceId),
    Name(String),
    PrivateAddress(SubnetId, Ipv4Addr),
    PublicAddress(Ipv4Addr),
}

/// What is counted over all records of a kind in a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// Private addresses that a subnet's interfaces have.
    Addresses(SubnetId),
    /// Processors that instances have on a host.
    Vcpus,
    MemoryMib,
}

/// Whose records, and where: nobody sees another space's but what was shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space {
    pub account: AccountId,
    pub region: Region,
}

impl Space {
    /// Where records are that are nobody's: those of a region itself.
    pub const fn of_region(region: Region) -> Self {
        match AccountId::new(999_999_999_999) {
            Some(account) => Self { account, region },
            None => panic!("it has twelve digits"),
        }
    }
}

/// All spaces.
#[derive(Default)]
pub struct State {
    spaces: BTreeMap<Space, Tables>,
    /// What instances can have in all: no record, for the host says it anew at each start.
    pub capacity: Capacity,
    /// What new public addresses are taken from: no record either.
    pub public_pool: PublicPool,
}

/// The state as one account sees one region.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub state: &'a State,
    pub space: Space,
    pub now: Timestamp,
    tables: &'a Tables,
}

impl<'a> View<'a> {
    pub fn new(state: &'a State, space: Space, now: Timestamp) -> Self {
        static NOTHING: LazyLock<Tables> = LazyLock::new(Tables::default);
        Self { state, space, now, tables: state.space(space).unwrap_or(&NOTHING) }
    }

    /// The records of its own space.
    pub const fn tables(&self) -> &'a Tables {
        self.tables
    }

    pub fn get<R: Stored>(&self, id: R::Id) -> Option<&'a R> {
        R::table(self.tables).get(id).map(AsRef::as_ref)
    }
}

/// A record of the store that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{key:?} is the key of no record")]
    Key { key: String },
    #[error("the record at {key:?} is not what it should be")]
    Value { key: String, source: serde_json::Error },
}

impl State {
    /// None if nothing was ever made there.
    pub fn space(&self, space: Space) -> Option<&Tables> {
        self.spaces.get(&space)
    }

    pub fn spaces(&self) -> impl Iterator<Item = (Space, &Tables)> {
        self.spaces.iter().map(|(space, tables)| (*space, tables))
    }

    /// Takes in a record as the store has it.
    ///
    /// # Errors
    /// [`LoadError`] names the key. Nothing has changed then.
    pub fn load(&mut self, key: &str, value: &[u8]) -> Result<(), LoadError> {
        let (space, kind, id) = parse_key(key).ok_or_else(|| LoadError::Key { key: key.to_owned() })?;
        let tables = self.spaces.entry(space).or_default();
        let known = tables
            .load(kind, id, value)
            .map_err(|source| LoadError::Value { key: key.to_owned(), source })?;
        if known { Ok(()) } else { Err(LoadError::Key { key: key.to_owned() }) }
    }
}

/// `REGION/ACCOUNT/KIND/ID`; an id may have slashes.
fn key(space: Space, kind: &str, id: impl fmt::Display) -> String {
    format!("{}/{}/{kind}/{id}", space.region, space.account)
}

fn parse_key(key: &str) -> Option<(Space, &str, &str)> {
    let mut parts = key.splitn(4, '/');
    let region = parts.next()?.parse().ok()?;
    let account = parts.next()?.parse().ok()?;
    Some((Space { account, region }, parts.next()?, parts.next()?))
}
