//! What a load balancer is to be on a host, by what all its records say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use balancer::config::{self, Action, Protocol, Rule, Target};
use types::{LoadBalancerId, TargetGroupId};

use super::{attribute, target};
use crate::ports::{BalancerSpec, TargetPlace};
use crate::records::{
    LoadBalancer, LoadBalancerState, NetworkInterface, TargetGroup, TargetKey, target_groups,
};
use crate::state::View;

/// A load balancer as who brings it about sees it.
pub(crate) struct Outlook {
    pub(crate) spec: BalancerSpec,
    /// The targets that are asked, by where that is.
    pub(crate) targets: BTreeMap<TargetPlace, TargetKey>,
    /// Those of its groups that are registered, and are not asked.
    pub(crate) unused: Vec<TargetKey>,
}

/// The load balancers that use a group: one, or none.
pub(crate) fn users(view: View<'_>, group: TargetGroupId) -> BTreeSet<LoadBalancerId> {
    let tables = view.tables();
    let listeners = tables.listeners.linked_to(group).map(|listener| listener.load_balancer);
    listeners.chain(tables.listener_rules.linked_to(group).map(|rule| rule.load_balancer)).collect()
}

/// The groups that a load balancer uses.
pub(super) fn groups_of(view: View<'_>, balancer: LoadBalancerId) -> BTreeSet<TargetGroupId> {
    let tables = view.tables();
    let listeners = tables.listeners.linked_to(balancer).map(|listener| &listener.default_action);
    let rules = tables.listener_rules.linked_to(balancer).map(|rule| &rule.rule.action);
    listeners.chain(rules).flat_map(target_groups).collect()
}

/// None: there is no such load balancer, or it has failed.
pub(crate) fn outlook(view: View<'_>, id: LoadBalancerId) -> Option<Outlook> {
    let balancer = view.get::<LoadBalancer>(id)?;
    if matches!(balancer.state, LoadBalancerState::Failed { .. }) {
        return None;
    }
    let tables = view.tables();
    let interfaces = balancer.nodes.iter().filter_map(|node| view.get::<NetworkInterface>(node.interface));
    let nodes: Vec<Ipv4Addr> =
        interfaces.filter_map(|interface| interface.addresses.first()).map(|address| address.ip).collect();
    let listeners = tables.listeners.linked_to(id).flat_map(|listener| {
        let rules: Vec<Rule> =
            tables.listener_rules.linked_to(listener.id).map(|rule| rule.rule.clone()).collect();
        nodes.iter().map(move |address| config::Listener {
            address: SocketAddr::from((*address, listener.port)),
            protocol: listener.protocol,
            security_policy: None,
            certificates: Vec::new(),
            default_action: listener.default_action.clone(),
            rules: rules.clone(),
        })
    });
    let (mut targets, mut unused) = (BTreeMap::new(), Vec::new());
    let mut groups = BTreeMap::new();
    for group in groups_of(view, id).into_iter().filter_map(|group| view.get::<TargetGroup>(group)) {
        let mut asked = Vec::new();
        for found in tables.registered_targets.linked_to(group.id) {
            match target::standing(view, Some(balancer), found) {
                target::Standing::InUse { address, zone, .. } => {
                    targets.insert((group.id, address), found.id);
                    asked.push(Target {
                        id: found.id.target.to_string(),
                        ip: address.ip(),
                        port: address.port(),
                        zone: zone.map(|zone| zone.to_string()),
                    });
                }
                target::Standing::Unused { .. } | target::Standing::Down => unused.push(found.id),
                target::Standing::Draining | target::Standing::Gone => {}
            }
        }
        groups.insert(group.id.to_string(), group_config(group, asked));
    }
    let spec = BalancerSpec {
        id,
        vpc: balancer.vpc,
        interfaces: balancer.nodes.iter().map(|node| node.interface).collect(),
        config: config::LoadBalancer {
            listeners: listeners.collect(),
            target_groups: groups,
            attributes: attribute::of_load_balancer(&balancer.attributes),
            access_log: None,
            source: nodes.first().map(|address| (*address).into()),
        },
    };
    Some(Outlook { spec, targets, unused })
}

/// A target group with these targets.
pub(super) fn group_config(group: &TargetGroup, targets: Vec<Target>) -> config::TargetGroup {
    let attribute::Picking { algorithm, stickiness, slow_start_s } =
        attribute::of_target_group(&group.attributes);
    config::TargetGroup {
        protocol: group.protocol,
        protocol_version: config::ProtocolVersion::Http1,
        algorithm,
        targets,
        stickiness,
        slow_start_s,
        deregistration_delay_s: attribute::delay_s(&group.attributes),
        health_check: group.health_check.clone(),
    }
}

/// A load balancer that has nothing but a listener, to be checked.
pub(super) fn of_one_listener(
    view: View<'_>,
    port: u16,
    protocol: Protocol,
    default_action: Action,
    rules: Vec<Rule>,
    groups: &BTreeSet<TargetGroupId>,
) -> config::LoadBalancer {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let group =
        |id: &TargetGroupId| Some((id.to_string(), group_config(view.get::<TargetGroup>(*id)?, Vec::new())));
    let listener = config::Listener {
        address,
        protocol,
        security_policy: None,
        certificates: Vec::new(),
        default_action,
        rules,
    };
    config::LoadBalancer {
        listeners: vec![listener],
        target_groups: groups.iter().filter_map(group).collect(),
        attributes: config::Attributes::default(),
        access_log: None,
        source: None,
    }
}
