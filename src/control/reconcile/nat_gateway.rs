//! What is to be done about NAT gateways.
//!
//! ```text
//! Pending ──▶ Available ──(asked)──▶ Deleting ──▶ Deleted ──▶ forgotten
//!    └──▶ Failed: no way to the Internet ───────────────────────▲
//! ```

use jiff::{SignedDuration, Timestamp};
use types::NatGatewayId;

use super::unhosted::STEPS_MAX;
use crate::records::{Address, NatGateway, NatGatewayState, NetworkInterface, Tables};
use crate::state::Transaction;

/// How long one can ask for a gateway that is gone. Source: <https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html>.
pub const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

/// The next step for a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// In the record.
    Enter(NatGatewayState),
    /// Its interface goes, and its address is free again; then as [`Step::Enter`].
    Release(NatGatewayState),
    /// The record is removed.
    Drop,
    /// Nothing, until something changes or it is this time.
    Wait(Option<Timestamp>),
}

/// The next step for a gateway; `has_internet` says that its VPC has an internet gateway.
pub fn plan(gateway: &NatGateway, has_internet: bool, now: Timestamp) -> Step {
    match &gateway.state {
        NatGatewayState::Pending if gateway.address.is_some() && !has_internet => {
            let message = format!("Network {} has no Internet gateway attached", gateway.vpc);
            let code = "Gateway.NotAttached".to_owned();
            Step::Release(NatGatewayState::Failed { code, message, at: now })
        }
        NatGatewayState::Pending => Step::Enter(NatGatewayState::Available),
        NatGatewayState::Available => Step::Wait(None),
        NatGatewayState::Deleting { .. } => Step::Release(NatGatewayState::Deleted { at: now }),
        NatGatewayState::Failed { at, .. } | NatGatewayState::Deleted { at } => {
            let end = at.saturating_add(REMEMBERED).unwrap_or(Timestamp::MAX);
            if now >= end { Step::Drop } else { Step::Wait(Some(end)) }
        }
    }
}

/// Whether a gateway of a space has a next step.
pub fn is_due(tables: &Tables, now: Timestamp) -> bool {
    steps(tables, now).next().is_some()
}

/// Takes the next step for the gateways of a space that have one.
pub fn pass(tx: &mut Transaction<'_>) {
    let steps: Vec<_> = steps(tx.tables(), tx.now()).take(STEPS_MAX).collect();
    for (id, step) in steps {
        match step {
            Step::Enter(state) => enter(tx, id, state),
            Step::Release(state) => {
                release(tx, id);
                enter(tx, id, state);
            }
            Step::Drop => tx.remove::<NatGateway>(id),
            Step::Wait(_) => {}
        }
    }
}

fn steps(tables: &Tables, now: Timestamp) -> impl Iterator<Item = (NatGatewayId, Step)> {
    let next = move |gateway: &NatGateway| {
        let has_internet = tables.internet_gateways.linked_to(gateway.vpc).next().is_some();
        (gateway.id, plan(gateway, has_internet, now))
    };
    let unsettled = tables.nat_gateways.unsettled().map(move |gateway| next(gateway));
    unsettled.filter(|(_, step)| !matches!(step, Step::Wait(_)))
}

fn enter(tx: &mut Transaction<'_>, id: NatGatewayId, state: NatGatewayState) {
    tx.update::<NatGateway>(id, |gateway| gateway.state = state);
}

fn release(tx: &mut Transaction<'_>, id: NatGatewayId) {
    let Some(gateway) = tx.get::<NatGateway>(id) else { return };
    let (interface, address) = (gateway.interface, gateway.address);
    tx.remove::<NetworkInterface>(interface);
    let Some(address) = address else { return };
    let is_its = |address: &Address| {
        address.association.as_ref().is_some_and(|association| association.interface == interface)
    };
    if tx.get::<Address>(address).is_some_and(is_its) {
        tx.update::<Address>(address, |address| address.association = None);
    }
}

#[cfg(test)]
mod tests;
