//! How targets stand.

use std::sync::Arc;

use aws::{Call, Error, Table, elbv2};

use super::arn;
use super::target::{Standing, key, standing, user, zone_of};
use crate::plane::{Plane, Serve as _};
use crate::records::{RegisteredTarget, TargetGroup, TargetHealth, TargetId, TargetKey};
use crate::state::View;

use elbv2::TargetHealthReasonEnum as Reason;
use elbv2::TargetHealthStateEnum as State;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table.looks::<elbv2::DescribeTargetHealth>(describe)
}

fn describe(
    view: View<'_>,
    call: &Call<elbv2::DescribeTargetHealthInput>,
) -> Result<elbv2::DescribeTargetHealthOutput, Error> {
    let group = arn::target_group(view, &call.input.target_group_arn)?;
    let keys: Vec<TargetKey> = if call.input.targets.is_empty() {
        let registered = view.tables().registered_targets.linked_to(group.id);
        registered.filter(|target| state(view, target).is_some()).map(|target| target.id).collect()
    } else {
        call.input.targets.iter().map(|target| key(group, target)).collect::<Result<_, _>>()?
    };
    let shown = |id: &TargetKey| elbv2::TargetHealthDescription {
        target: Some(described(view, *id)),
        health_check_port: Some(group.health_check.port.unwrap_or(id.port).to_string()),
        target_health: Some(health(view, *id)),
        ..Default::default()
    };
    let descriptions = Some(keys.iter().map(shown).collect());
    Ok(elbv2::DescribeTargetHealthOutput { target_health_descriptions: descriptions })
}

fn described(view: View<'_>, id: TargetKey) -> elbv2::TargetDescription {
    let zone = match id.target {
        TargetId::Instance(_) => None,
        TargetId::Ip(address) => {
            let zone = zone_of(view, id.group, address);
            Some(zone.map_or_else(|| "all".to_owned(), |zone| zone.to_string()))
        }
    };
    elbv2::TargetDescription {
        id: Some(id.target.to_string()),
        port: Some(id.port.into()),
        availability_zone: zone,
        ..Default::default()
    }
}

/// The health of a target of a group, as the API tells it: for who decides by it, too.
pub(crate) fn health(view: View<'_>, id: TargetKey) -> elbv2::TargetHealth {
    let found = view.get::<RegisteredTarget>(id).and_then(|target| state(view, target));
    let (state, reason, description) = found.unwrap_or_else(|| {
        let description = "Target is not registered to the target group".to_owned();
        (State::Unused, Some(Reason::TargetNotRegistered), description)
    });
    elbv2::TargetHealth {
        state: Some(state),
        reason,
        description: Some(description).filter(|description| !description.is_empty()),
    }
}

/// None: it is there no more.
///
/// Source: <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html>.
fn state(view: View<'_>, target: &RegisteredTarget) -> Option<(State, Option<Reason>, String)> {
    let because = |state, reason, text: &str| Some((state, Some(reason), text.to_owned()));
    view.get::<TargetGroup>(target.id.group)?;
    match standing(view, user(view, target.id.group), target) {
        Standing::Gone => None,
        Standing::Draining => because(
            State::Draining,
            Reason::TargetDeregistrationInProgress,
            "Target deregistration is in progress",
        ),
        Standing::Unused { reason, description } => because(State::Unused, reason, description),
        Standing::Down => because(State::Unhealthy, Reason::TargetFailedHealthChecks, "Health checks failed"),
        Standing::InUse { health, .. } => match health {
            TargetHealth::Healthy => Some((State::Healthy, None, String::new())),
            TargetHealth::Initial { is_registering: true } => because(
                State::Initial,
                Reason::ElbRegistrationInProgress,
                "Target registration is in progress",
            ),
            TargetHealth::Initial { is_registering: false } => {
                because(State::Initial, Reason::ElbInitialHealthChecking, "Initial health checks in progress")
            }
            TargetHealth::Unhealthy { reason, description } => {
                Some((State::Unhealthy, reason.parse().ok(), description.clone()))
            }
        },
    }
}
