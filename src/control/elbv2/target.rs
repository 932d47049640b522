//! Targets: who is in a group, and who of them is used.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use aws::{Error, Table, elbv2};
use ipnet::Ipv4Net;
use jiff::{SignedDuration, Timestamp};
use types::{InstanceId, TargetGroupId, Zone};

use super::errors::{too_many, validation};
use super::limits::{TARGETS_MAX, TARGETS_OF_GROUP_MAX};
use super::spec::{groups_of, users};
use super::{arn, attribute};
use crate::plane::{Plane, Serve as _};
use crate::records::{
    Instance, InstanceState, LoadBalancer, NetworkInterface, RegisteredTarget, Subnet, TargetGroup,
    TargetHealth, TargetId, TargetKey, TargetState, TargetType, Vpc,
};
use crate::state::{Transaction, View};

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<elbv2::RegisterTargets>(register_targets)
        .changes::<elbv2::DeregisterTargets>(deregister_targets)
}

/// What becomes of a target that is registered, or was.
pub(crate) enum Standing<'a> {
    /// It is asked here, if it is healthy.
    InUse {
        address: SocketAddr,
        zone: Option<Zone>,
        health: &'a TargetHealth,
    },
    /// It is not asked, with the reason's code and its description.
    Unused {
        reason: elbv2::TargetHealthReasonEnum,
        description: &'static str,
    },
    /// Its guest is known to be down: that is what checks would find.
    Down,
    Draining,
    /// It was drained, and is forgotten when somebody passes by.
    Gone,
}

/// How a target stands with the load balancer that uses its group.
pub(crate) fn standing<'a>(
    view: View<'_>,
    balancer: Option<&LoadBalancer>,
    target: &'a RegisteredTarget,
) -> Standing<'a> {
    use elbv2::TargetHealthReasonEnum::{TargetInvalidState, TargetNotInUse};
    let health = match &target.state {
        TargetState::Draining { until } if *until <= view.now => return Standing::Gone,
        TargetState::Draining { .. } => return Standing::Draining,
        TargetState::Registered(health) => health,
    };
    let unused = |reason, description| Standing::Unused { reason, description };
    let (address, zone) = match target.id.target {
        TargetId::Ip(address) => (address, zone_of(view, target.id.group, address)),
        TargetId::Instance(id) => match of_instance(view, id) {
            Ok((Some(address), zone)) => (address, Some(zone)),
            Ok((None, _)) => return Standing::Down,
            Err(description) => return unused(TargetInvalidState, description),
        },
    };
    let Some(balancer) = balancer else {
        return unused(
            TargetNotInUse,
            "Target group is not configured to receive traffic from the load balancer",
        );
    };
    let subnets = balancer.nodes.iter().filter_map(|node| view.get::<Subnet>(node.subnet));
    let is_near = |zone: Zone| subnets.clone().any(|subnet| subnet.zone == zone);
    if zone.is_some_and(|zone| !is_near(zone)) {
        return unused(
            TargetNotInUse,
            "Target is in an Availability Zone that is not enabled for the load balancer",
        );
    }
    Standing::InUse { address: SocketAddr::from((address, target.id.port)), zone, health }
}

/// Where an instance is asked, if its guest may answer; or why it is not used.
fn of_instance(view: View<'_>, id: InstanceId) -> Result<(Option<Ipv4Addr>, Zone), &'static str> {
    let instance = view.get::<Instance>(id).ok_or("Target is in the terminated state")?;
    match instance.state {
        InstanceState::Running => {}
        InstanceState::Pending => return Err("Target is in the pending state"),
        InstanceState::Stopping { .. } => return Err("Target is in the stopping state"),
        InstanceState::Stopped { .. } => return Err("Target is in the stopped state"),
        InstanceState::ShuttingDown { .. } => return Err("Target is in the shutting-down state"),
        InstanceState::Terminated { .. } => return Err("Target is in the terminated state"),
    }
    let mut interfaces = view.tables().network_interfaces.linked_to(id);
    let is_first = |interface: &&Arc<NetworkInterface>| {
        interface.attachment.as_ref().is_some_and(|attachment| attachment.device_index == 0)
    };
    let address = interfaces.find(is_first).and_then(|interface| interface.addresses.first());
    Ok((address.map(|address| address.ip).filter(|_| instance.is_up()), instance.zone))
}

/// The zone that an address of the group's VPC is in. None: it is elsewhere.
pub(super) fn zone_of(view: View<'_>, group: TargetGroupId, address: Ipv4Addr) -> Option<Zone> {
    let vpc = view.get::<TargetGroup>(group)?.vpc;
    let mut subnets = view.tables().subnets.linked_to(vpc);
    subnets.find(|subnet| subnet.cidr.contains(&address)).map(|subnet| subnet.zone)
}

/// A target as a request names it; its port is the group's if it names none.
///
/// # Errors
/// When the group can have no such target.
pub(super) fn key(group: &TargetGroup, target: &elbv2::TargetDescription) -> Result<TargetKey, Error> {
    let text = target.id.as_deref().unwrap_or_default();
    let invalid = |what: &str| invalid_target(format!("The target '{text}' is not a valid {what}"));
    let id = match group.target_type {
        TargetType::Instance => text.parse().map(TargetId::Instance).map_err(|_| invalid("instance ID"))?,
        TargetType::Ip => text.parse().map(TargetId::Ip).map_err(|_| invalid("IPv4 address"))?,
    };
    let port = match target.port {
        None => group.port,
        Some(port) => u16::try_from(port).map_err(|_| validation(format!("'{port}' is not a valid port")))?,
    };
    Ok(TargetKey { group: group.id, target: id, port })
}

pub(super) fn invalid_target(why: impl Into<String>) -> Error {
    Error::new("InvalidTarget", why)
}

fn register_targets(
    tx: &mut Transaction<'_>,
    input: elbv2::RegisterTargetsInput,
) -> Result<elbv2::RegisterTargetsOutput, Error> {
    let group = arn::target_group(tx.view(), &input.target_group_arn)?.clone();
    let mut keys = Vec::new();
    for target in &input.targets {
        let key = key(&group, target)?;
        if let TargetId::Ip(address) = key.target {
            check_address(tx.view(), &group, address, target.availability_zone.as_deref())?;
        }
        keys.push(key);
    }
    register(tx, &group, &keys)?;
    Ok(elbv2::RegisterTargetsOutput {})
}

fn deregister_targets(
    tx: &mut Transaction<'_>,
    input: elbv2::DeregisterTargetsInput,
) -> Result<elbv2::DeregisterTargetsOutput, Error> {
    let group = arn::target_group(tx.view(), &input.target_group_arn)?.clone();
    for target in &input.targets {
        deregister(tx, key(&group, target)?);
    }
    Ok(elbv2::DeregisterTargetsOutput {})
}

/// Puts targets into a group. Those that are in it stay as they are, and those that are on the way out come back.
///
/// # Errors
/// When an instance cannot be a target, or there would be too many.
pub(crate) fn register(
    tx: &mut Transaction<'_>,
    group: &TargetGroup,
    targets: &[TargetKey],
) -> Result<(), Error> {
    for key in targets {
        if let TargetId::Instance(instance) = key.target {
            check_instance(tx.view(), group, instance)?;
        }
        let is_in = |target: &RegisteredTarget| matches!(target.state, TargetState::Registered(_));
        if !tx.get::<RegisteredTarget>(*key).is_some_and(is_in) {
            tx.put(RegisteredTarget { id: *key, state: TargetState::Registered(TargetHealth::NEW) });
        }
    }
    let view = tx.view();
    let count = |group: TargetGroupId| view.tables().registered_targets.linked_to(group).count();
    if count(group.id) > TARGETS_OF_GROUP_MAX {
        return Err(too_many("TooManyTargets", "targets of a target group", TARGETS_OF_GROUP_MAX));
    }
    for balancer in users(view, group.id) {
        if groups_of(view, balancer).into_iter().map(count).sum::<usize>() > TARGETS_MAX {
            return Err(too_many("TooManyTargets", "targets of a load balancer", TARGETS_MAX));
        }
    }
    Ok(())
}

/// Takes a target out of its group: it gets nothing new, and may answer for as long as the group says. What is not in it is no error.
pub(crate) fn deregister(tx: &mut Transaction<'_>, key: TargetKey) {
    let view = tx.view();
    let Some(target) = view.get::<RegisteredTarget>(key) else { return };
    let balancer = user(view, key.group);
    let delay = view.get::<TargetGroup>(key.group).map_or(0, |group| attribute::delay_s(&group.attributes));
    match standing(view, balancer, target) {
        Standing::InUse { .. } if delay > 0 => {
            let until = view.now.saturating_add(SignedDuration::from_secs(delay.into()));
            let until = until.unwrap_or(Timestamp::MAX);
            tx.put(RegisteredTarget { id: key, state: TargetState::Draining { until } });
        }
        Standing::Draining => {}
        Standing::InUse { .. } | Standing::Unused { .. } | Standing::Down | Standing::Gone => {
            tx.remove::<RegisteredTarget>(key);
        }
    }
}

/// The load balancer that uses a group.
pub(crate) fn user(view: View<'_>, group: TargetGroupId) -> Option<&LoadBalancer> {
    users(view, group).into_iter().find_map(|id| view.get::<LoadBalancer>(id))
}

fn check_instance(view: View<'_>, group: &TargetGroup, id: InstanceId) -> Result<(), Error> {
    let instance = view
        .get::<Instance>(id)
        .ok_or_else(|| invalid_target(format!("The following targets are not valid instances: '{id}'")))?;
    if !matches!(instance.state, InstanceState::Running) {
        let message =
            format!("The following targets are not in a running state and cannot be registered: '{id}'");
        return Err(invalid_target(message));
    }
    let mut interfaces = view.tables().network_interfaces.linked_to(id);
    if interfaces.any(|interface| interface.vpc == group.vpc) {
        return Ok(());
    }
    let message = format!("The following targets are not in the target group VPC '{}': '{id}'", group.vpc);
    Err(invalid_target(message))
}

/// Beside those of its VPC a group can have private addresses that are reached from there, in all zones.
///
/// Source: <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-target-groups.html#target-type>.
fn check_address(
    view: View<'_>,
    group: &TargetGroup,
    address: Ipv4Addr,
    zone: Option<&str>,
) -> Result<(), Error> {
    const ELSEWHERE: [Ipv4Net; 4] = [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
        Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
        Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
        Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    ];
    let ranges = view.get::<Vpc>(group.vpc).map(|vpc| vpc.ranges.as_slice()).unwrap_or_default();
    if ranges.iter().any(|range| range.cidr.contains(&address)) {
        let own = zone_of(view, group.id, address);
        return match zone {
            None => Ok(()),
            Some(zone) if own.is_some_and(|own| own.to_string() == zone) => Ok(()),
            Some(zone) => Err(invalid_target(format!(
                "The target '{address}' is not in the Availability Zone '{zone}'"
            ))),
        };
    }
    if !ELSEWHERE.iter().any(|range| range.contains(&address)) {
        let message =
            format!("The IP address '{address}' is not within the VPC's ranges, and is not private");
        return Err(invalid_target(message));
    }
    match zone {
        Some("all") => Ok(()),
        _ => {
            let message = format!(
                "You must specify the Availability Zone value 'all' for the target '{address}', which is outside of the VPC"
            );
            Err(invalid_target(message))
        }
    }
}
