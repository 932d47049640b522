//! Notices that instances are given because who runs the region says so: AWS has no operation for them.
//!
//! A guest reads them in its metadata, and its owner in `DescribeInstanceStatus`. What they announce happens when its time has come:
//! [`reconcile::notice`](crate::reconcile::notice).

use aws::Error;
use jiff::Timestamp;
use types::{AccountId, InstanceId};

use crate::plane::Plane;
use crate::records::{
    EventCode, EventState, Instance, InstanceEvent, InstanceNotices, InstanceState, Interruption,
};
use crate::state::{Space, State, Transaction};

/// What an instance is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// In the place of an interruption that was announced before.
    Interruption(Interruption),
    /// That one is more likely now.
    Rebalance,
    Event {
        code: EventCode,
        not_before: Timestamp,
    },
}

/// What an instance has been told, as it stands now.
///
/// # Errors
/// When the account has no such instance.
pub async fn list(plane: &Plane, account: AccountId, id: InstanceId) -> Result<InstanceNotices, Error> {
    let (found, as_of) = plane.ledger.read(|state| {
        let space = space_of(state, account, id)?;
        let notices = state.space(space).and_then(|tables| tables.instance_notices.get(id));
        Ok(notices.map_or(InstanceNotices::none(id), |notices| InstanceNotices::clone(notices)))
    });
    plane.ledger.settled(as_of).await.map_err(|_| Error::internal())?;
    found
}

/// Tells a running instance of something, and what it has been told in all.
///
/// # Errors
/// When the account has no such instance, or it does not run.
pub async fn give(
    plane: &Plane,
    account: AccountId,
    id: InstanceId,
    notice: Notice,
) -> Result<InstanceNotices, Error> {
    let space = plane.ledger.read(|state| space_of(state, account, id)).0?;
    plane
        .write(space, |tx| {
            if tx.get::<Instance>(id).is_none_or(|instance| instance.state != InstanceState::Running) {
                let message = format!("The instance '{id}' is not running, so nobody is there to be told.");
                return Err(Error::new("IncorrectInstanceState", message));
            }
            let mut notices = notices(tx, id);
            match notice {
                Notice::Interruption(interruption) => notices.interruption = Some(interruption),
                Notice::Rebalance => notices.rebalance = Some(tx.now()),
                Notice::Event { code, not_before } => {
                    let (id, state) = (event_id(tx), EventState::Active);
                    notices.events.push(InstanceEvent { id, code, not_before, state });
                }
            }
            tx.put(notices.clone());
            Ok(notices)
        })
        .await
}

/// Takes back all that an instance was told, and that has not happened yet.
///
/// # Errors
/// When the account has no such instance.
pub async fn clear(plane: &Plane, account: AccountId, id: InstanceId) -> Result<InstanceNotices, Error> {
    let space = plane.ledger.read(|state| space_of(state, account, id)).0?;
    plane
        .write(space, |tx| {
            tx.update::<InstanceNotices>(id, |notices| notices.end(EventState::Canceled));
            Ok(notices(tx, id))
        })
        .await
}

fn notices(tx: &Transaction<'_>, id: InstanceId) -> InstanceNotices {
    tx.get::<InstanceNotices>(id).cloned().unwrap_or(InstanceNotices::none(id))
}

fn space_of(state: &State, account: AccountId, id: InstanceId) -> Result<Space, Error> {
    let mut own = state.spaces().filter(|(space, _)| space.account == account);
    let found = own.find(|(_, tables)| tables.instances.get(id).is_some());
    found.map(|(space, _)| space).ok_or_else(|| {
        Error::new("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
    })
}

fn event_id(tx: &mut Transaction<'_>) -> String {
    let mut bytes = [0; 9];
    tx.fill(&mut bytes);
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Seventeen, as ids of resources have.
    format!("instance-event-0{}", &digits[..16])
}
