//! What accounts let others use: snapshots by `createVolumePermission`, images by `launchPermission`.

use std::collections::BTreeSet;

use aws::Error;
use types::AccountId;

use crate::ec2::errors::{combination, invalid_value};
use crate::ec2::row::Row;
use crate::records::{Image, Sharing, Snapshot, Stored};
use crate::state::View;

/// A record that others can be let use.
pub(super) trait Shared: Stored {
    fn sharing(&self) -> &Sharing;
}

impl Shared for Image {
    fn sharing(&self) -> &Sharing {
        &self.sharing
    }
}

impl Shared for Snapshot {
    fn sharing(&self) -> &Sharing {
        &self.sharing
    }
}

/// A record as an account sees it that need not be its owner.
#[derive(Clone, Copy)]
pub(in crate::ec2) struct Seen<'a, R> {
    /// As its owner sees it.
    pub row: Row<'a, R>,
    pub caller: AccountId,
}

impl<'a, R> Seen<'a, R> {
    pub fn owner(&self) -> AccountId {
        self.row.view.space.account
    }

    pub fn is_own(&self) -> bool {
        self.owner() == self.caller
    }

    pub fn record(&self) -> &'a R {
        self.row.record
    }
}

/// Tags are the owner's affair.
pub(super) fn own_tags<'a, R: Stored>(
    seen: &Seen<'a, R>,
) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a, R> {
    seen.is_own().then(|| seen.row.tag_pairs()).flatten().into_iter().flatten()
}

/// The region as all accounts have it, the caller's first.
fn views(view: View<'_>) -> impl Iterator<Item = View<'_>> {
    let others = view.state.spaces().map(|(space, _)| space);
    let others = others.filter(move |space| space.region == view.space.region && *space != view.space);
    std::iter::once(view).chain(others.map(move |space| View::new(view.state, space, view.now)))
}

/// All that the caller may use of a kind, in the order of ids.
pub(super) fn all<R: Shared>(view: View<'_>) -> Vec<Seen<'_, R>> {
    let caller = view.space.account;
    let seen = views(view).flat_map(|owner| {
        let seen = R::table(owner.tables())
            .iter()
            .map(move |record| Seen { row: Row { view: owner, record: record.as_ref() }, caller });
        seen.filter(|seen: &Seen<'_, R>| seen.is_own() || seen.record().sharing().admits(caller))
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort_unstable_by_key(|seen| seen.record().id());
    seen
}

/// The one with that id, if the caller may use it.
pub(super) fn one<R: Shared>(view: View<'_>, id: R::Id) -> Option<Seen<'_, R>> {
    let caller = view.space.account;
    let mut found = views(view).filter_map(|owner| {
        let record = owner.get::<R>(id)?;
        Some(Seen { row: Row { view: owner, record }, caller })
    });
    found.find(|seen| seen.is_own() || seen.record().sharing().admits(caller))
}

/// Accounts that a request names, where `self` is the caller.
///
/// # Errors
/// When one is none.
pub(super) fn accounts(
    view: View<'_>,
    texts: &[String],
    parameter: &str,
) -> Result<BTreeSet<AccountId>, Error> {
    let account = |text: &String| match text.as_str() {
        "self" => Ok(view.space.account),
        text => text.parse().map_err(|_| invalid_value(text, parameter, "It is no account's id.")),
    };
    texts.iter().map(account).collect()
}

/// What a request changes.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub add: Sharing,
    pub remove: Sharing,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        let is_empty = |sharing: &Sharing| *sharing == Sharing::default();
        is_empty(&self.add) && is_empty(&self.remove)
    }

    pub fn apply(&self, sharing: &mut Sharing) {
        sharing.accounts.extend(&self.add.accounts);
        sharing.accounts.retain(|account| !self.remove.accounts.contains(account));
        sharing.is_public = (sharing.is_public || self.add.is_public) && !self.remove.is_public;
    }
}

/// Reads accounts and groups, of which there is `all`; `code` is that of the error.
///
/// # Errors
/// When one is none.
pub(super) fn read<'a, 'b>(
    accounts: impl Iterator<Item = &'a str>,
    groups: impl Iterator<Item = &'b str>,
    code: &'static str,
) -> Result<Sharing, Error> {
    let wrong = |text: &str, kind: &str| {
        Error::new(code, format!("Invalid attribute item value \"{text}\" for {kind} item type."))
    };
    let mut sharing = Sharing::default();
    for text in accounts {
        sharing.accounts.insert(text.parse().map_err(|_| wrong(text, "userId"))?);
    }
    for text in groups {
        if text != "all" {
            return Err(wrong(text, "group"));
        }
        sharing.is_public = true;
    }
    Ok(sharing)
}

/// What a request says the old way: an operation, and to whom it applies.
///
/// # Errors
/// When it says whom without saying what.
pub(super) fn by_operation(
    operation: Option<aws::ec2::OperationType>,
    whom: Sharing,
) -> Result<Change, Error> {
    match operation {
        Some(aws::ec2::OperationType::Add) => Ok(Change { add: whom, ..Default::default() }),
        Some(aws::ec2::OperationType::Remove) => Ok(Change { remove: whom, ..Default::default() }),
        None if whom == Sharing::default() => Ok(Change::default()),
        None => Err(combination("OperationType must be 'add' or 'remove'.")),
    }
}
