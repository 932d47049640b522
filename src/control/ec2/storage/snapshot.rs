//! Snapshots that are there.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::service::Empty;
use aws::{Call, Error, ec2};
use types::{AccountId, SnapshotId};

use super::sharing::{self, Seen};
use super::{encryption, shown_number, shown_time};
use crate::ec2::errors::{id, ids, missing, not_found, unsupported};
use crate::ec2::row::read_filters;
use crate::ec2::tags;
use crate::records::{DeletedSnapshot, Sharing, Snapshot, SnapshotSource, SnapshotState};
use crate::state::{Space, Transaction, View};

/// What AWS says where a snapshot is of no volume.
const NO_VOLUME: &str = "vol-ffffffff";

/// A snapshot that the caller may make volumes of.
///
/// # Errors
/// When there is none with that id.
pub(super) fn seen(view: View<'_>, id: SnapshotId) -> Result<Seen<'_, Snapshot>, Error> {
    sharing::one(view, id).ok_or_else(|| not_found(id))
}

/// A snapshot that the caller may make volumes of, and whose it is.
///
/// # Errors
/// When there is none with that id.
pub(in crate::ec2) fn usable(view: View<'_>, id: SnapshotId) -> Result<(AccountId, &Snapshot), Error> {
    seen(view, id).map(|seen| (seen.owner(), seen.record()))
}

/// A snapshot of an image that the caller may launch: it needs not be shared itself.
///
/// # Errors
/// When it is gone.
pub(in crate::ec2) fn of_account(
    view: View<'_>,
    account: AccountId,
    id: SnapshotId,
) -> Result<&Snapshot, Error> {
    let owner = View::new(view.state, Space { account, ..view.space }, view.now);
    owner.get::<Snapshot>(id).ok_or_else(|| not_found(id))
}

/// One that the caller owns.
pub(super) fn own(view: View<'_>, id: SnapshotId) -> Result<&Snapshot, Error> {
    view.get::<Snapshot>(id).ok_or_else(|| not_found(id))
}

pub(super) fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteSnapshotRequest) -> Result<Empty, Error> {
    let id: SnapshotId = id(&input.snapshot_id)?;
    own(tx.view(), id)?;
    if let Some(image) = tx.tables().images.linked_to(id).next() {
        let message = format!("The snapshot {id} is currently in use by {}", image.id);
        return Err(Error::new("InvalidSnapshot.InUse", message));
    }
    remove(tx, id);
    Ok(Empty)
}

/// Nobody sees it any more; its data go later.
pub(super) fn remove(tx: &mut Transaction<'_>, id: SnapshotId) {
    tx.remove::<Snapshot>(id);
    tx.put(DeletedSnapshot { id });
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeSnapshotsRequest>,
) -> Result<ec2::DescribeSnapshotsResult, Error> {
    let input = &call.input;
    let filters = read_filters::<Seen<'_, Snapshot>>(&input.filters)?;
    let is_seeded = |owner: &str| owner == "amazon" || owner == "aws-marketplace";
    let (aliases, owners): (Vec<_>, Vec<_>) =
        input.owner_ids.iter().cloned().partition(|owner| is_seeded(owner));
    let owners = sharing::accounts(view, &owners, "owner")?;
    let everybody = input.restorable_by_user_ids.iter().any(|user| user == "all");
    let users: Vec<_> = input.restorable_by_user_ids.iter().filter(|user| *user != "all").cloned().collect();
    let users = sharing::accounts(view, &users, "restorableBy")?;
    let mut all = if input.snapshot_ids.is_empty() {
        sharing::all(view)
    } else {
        let mut wanted: Vec<SnapshotId> = ids(&input.snapshot_ids)?;
        wanted.sort_unstable();
        wanted.dedup();
        wanted.into_iter().map(|id| seen(view, id)).collect::<Result<Vec<_>, Error>>()?
    };
    all.retain(|seen| {
        let is_owners = input.owner_ids.is_empty()
            || owners.contains(&seen.owner())
            || owner_alias(seen).is_some_and(|alias| aliases.iter().any(|wanted| wanted == alias));
        let can_use = |user| seen.owner() == user || seen.record().sharing.accounts.contains(&user);
        let is_users = input.restorable_by_user_ids.is_empty()
            || everybody && seen.record().sharing.is_public
            || users.iter().any(|user| can_use(*user));
        is_owners && is_users && filters.admit(seen)
    });
    let page = Page::of::<ec2::DescribeSnapshots>(call)?;
    let (all, next_token) = page.take(all, |seen| seen.record().id.to_string());
    Ok(ec2::DescribeSnapshotsResult { next_token, snapshots: Some(all.iter().map(shown).collect()) })
}

/// What was there before the first request is AWS's.
fn owner_alias(seen: &Seen<'_, Snapshot>) -> Option<&'static str> {
    matches!(seen.record().source, SnapshotSource::Seed { .. }).then_some("amazon")
}

fn volume(snapshot: &Snapshot) -> String {
    match snapshot.source {
        SnapshotSource::Volume { volume, .. } => volume.to_string(),
        SnapshotSource::Snapshot { .. } | SnapshotSource::Seed { .. } => NO_VOLUME.to_owned(),
    }
}

pub(super) fn state(snapshot: &Snapshot) -> ec2::SnapshotState {
    match snapshot.state {
        SnapshotState::Pending { .. } => ec2::SnapshotState::Pending,
        SnapshotState::Completed { .. } => ec2::SnapshotState::Completed,
        SnapshotState::Error { .. } => ec2::SnapshotState::Error,
    }
}

pub(super) fn progress(snapshot: &Snapshot) -> String {
    match snapshot.state {
        SnapshotState::Pending { percent } => format!("{percent}%"),
        SnapshotState::Completed { .. } => "100%".to_owned(),
        SnapshotState::Error { .. } => "0%".to_owned(),
    }
}

fn completed(snapshot: &Snapshot) -> Option<jiff::Timestamp> {
    match snapshot.state {
        SnapshotState::Completed { ended } => Some(ended),
        _ => None,
    }
}

pub(super) fn shown(seen: &Seen<'_, Snapshot>) -> ec2::Snapshot {
    let snapshot = seen.record();
    ec2::Snapshot {
        owner_alias: owner_alias(seen).map(str::to_owned),
        tags: seen.is_own().then(|| tags::shown(&seen.row.view, snapshot.id)).flatten(),
        storage_tier: Some(ec2::StorageTier::Standard),
        sse_type: encryption::sse(snapshot.key.as_ref()),
        transfer_type: matches!(snapshot.source, SnapshotSource::Snapshot { .. })
            .then_some(ec2::TransferType::Standard),
        completion_time: completed(snapshot),
        snapshot_id: Some(snapshot.id.to_string()),
        volume_id: Some(volume(snapshot)),
        state: Some(state(snapshot)),
        state_message: match &snapshot.state {
            SnapshotState::Error { message } => Some(message.clone()),
            _ => None,
        },
        start_time: Some(snapshot.started),
        progress: Some(progress(snapshot)),
        owner_id: Some(seen.owner().to_string()),
        description: Some(snapshot.description.clone()),
        volume_size: Some(shown_number(snapshot.size_gib)),
        encrypted: Some(snapshot.key.is_some()),
        kms_key_id: snapshot.key.clone(),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSnapshots.html>.
impl Filtered for Seen<'_, Snapshot> {
    const NAMES: &'static [&'static str] = &[
        "completion-time",
        "description",
        "encrypted",
        "owner-alias",
        "owner-id",
        "progress",
        "snapshot-id",
        "start-time",
        "status",
        "storage-tier",
        "transfer-type",
        "volume-id",
        "volume-size",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let snapshot = self.record();
        match name {
            "completion-time" => {
                completed(snapshot).iter().for_each(|time| values.text(&shown_time(*time)));
            }
            "description" => values.text(&snapshot.description),
            "encrypted" => values.flag(snapshot.key.is_some()),
            "owner-alias" => owner_alias(self).iter().for_each(|alias| values.text(alias)),
            "owner-id" => values.shown(self.owner()),
            "progress" => values.text(&progress(snapshot)),
            "snapshot-id" => values.shown(snapshot.id),
            "start-time" => values.text(&shown_time(snapshot.started)),
            "status" => values.text(state(snapshot).as_str()),
            "storage-tier" => values.text("standard"),
            "transfer-type" if matches!(snapshot.source, SnapshotSource::Snapshot { .. }) => {
                values.text("standard");
            }
            "transfer-type" => {}
            "volume-id" => values.text(&volume(snapshot)),
            "volume-size" => values.shown(snapshot.size_gib),
            _ => unreachable!("{name} is no filter of snapshots"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        Some(sharing::own_tags(self))
    }
}

pub(super) fn describe_attribute(
    view: View<'_>,
    call: &Call<ec2::DescribeSnapshotAttributeRequest>,
) -> Result<ec2::DescribeSnapshotAttributeResult, Error> {
    let id: SnapshotId = id(&call.input.snapshot_id)?;
    let snapshot = own(view, id)?;
    let answer =
        ec2::DescribeSnapshotAttributeResult { snapshot_id: Some(id.to_string()), ..Default::default() };
    Ok(match call.input.attribute {
        ec2::SnapshotAttributeName::ProductCodes => {
            ec2::DescribeSnapshotAttributeResult { product_codes: Some(Vec::new()), ..answer }
        }
        ec2::SnapshotAttributeName::CreateVolumePermission => {
            let permission = |user_id, group| ec2::CreateVolumePermission { user_id, group };
            let all = snapshot.sharing.is_public.then(|| permission(None, Some(ec2::PermissionGroup::All)));
            let accounts = snapshot.sharing.accounts.iter();
            let accounts = accounts.map(|account| permission(Some(account.to_string()), None));
            let permissions = all.into_iter().chain(accounts).collect();
            ec2::DescribeSnapshotAttributeResult { create_volume_permissions: Some(permissions), ..answer }
        }
    })
}

/// What a request says of who may make volumes.
fn permissions(permissions: &[ec2::CreateVolumePermission]) -> Result<Sharing, Error> {
    let users = permissions.iter().filter_map(|permission| permission.user_id.as_deref());
    let groups = permissions.iter().filter_map(|permission| permission.group);
    sharing::read(users, groups.map(ec2::PermissionGroup::as_str), "InvalidParameterValue")
}

pub(super) fn modify_attribute(
    tx: &mut Transaction<'_>,
    input: ec2::ModifySnapshotAttributeRequest,
) -> Result<Empty, Error> {
    let id: SnapshotId = id(&input.snapshot_id)?;
    let snapshot = own(tx.view(), id)?;
    if input.attribute == Some(ec2::SnapshotAttributeName::ProductCodes) {
        return Err(unsupported("nimbo has no product codes."));
    }
    let users = input.user_ids.iter().map(String::as_str);
    let groups = input.group_names.iter().map(String::as_str);
    let whom = sharing::read(users, groups, "InvalidParameterValue")?;
    let mut change = sharing::by_operation(input.operation_type, whom)?;
    if let Some(more) = &input.create_volume_permission {
        for (sharing, list) in [(&mut change.add, &more.add), (&mut change.remove, &more.remove)] {
            let more = permissions(list)?;
            sharing.is_public |= more.is_public;
            sharing.accounts.extend(more.accounts);
        }
    }
    if change.is_empty() {
        return Err(missing("createVolumePermission"));
    }
    check_sharing(tx.view(), snapshot.key.as_deref(), &change.add)?;
    tx.update::<Snapshot>(id, |snapshot| change.apply(&mut snapshot.sharing));
    Ok(Empty)
}

/// What is encrypted by `key` cannot be used by who cannot use the key.
///
/// # Errors
/// When somebody of `added` is one.
pub(super) fn check_sharing(view: View<'_>, key: Option<&str>, added: &Sharing) -> Result<(), Error> {
    let Some(key) = key else { return Ok(()) };
    if added.is_public {
        let message = "Encrypted snapshots cannot be shared with everybody.";
        return Err(Error::new("OperationNotPermitted", message));
    }
    if !added.accounts.is_empty() && key == encryption::own_key(view) {
        let message = "Encrypted snapshots with EBS default key cannot be shared";
        return Err(Error::new("OperationNotPermitted", message));
    }
    Ok(())
}

pub(super) fn reset_attribute(
    tx: &mut Transaction<'_>,
    input: ec2::ResetSnapshotAttributeRequest,
) -> Result<Empty, Error> {
    let id: SnapshotId = id(&input.snapshot_id)?;
    own(tx.view(), id)?;
    if input.attribute == ec2::SnapshotAttributeName::ProductCodes {
        return Err(unsupported("nimbo has no product codes."));
    }
    tx.update::<Snapshot>(id, |snapshot| snapshot.sharing = Sharing::default());
    Ok(Empty)
}
