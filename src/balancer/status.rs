//! How a load balancer stands, as it is told to whoever asks: metrics since its start, and the health of targets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::config::Protocol;
use crate::counters::Totals;
use crate::health::State;
use crate::routes::Plan;
use crate::targets::Member;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    pub listeners: Vec<ListenerStatus>,
    /// By the names of CloudWatch's metrics. All grow but `ActiveConnectionCount`, which is now's.
    pub metrics: BTreeMap<&'static str, u64>,
    /// Connections of HTTP/2 that were ended, by what there was too much of.
    pub http2_floods: BTreeMap<&'static str, u64>,
    pub target_groups: BTreeMap<String, GroupStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerStatus {
    pub address: SocketAddr,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// All grow but `HealthyHostCount` and `UnHealthyHostCount`, which are now's.
    pub metrics: BTreeMap<&'static str, u64>,
    pub targets: Vec<TargetStatus>,
}

/// As `DescribeTargetHealth` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    pub id: String,
    pub ip: IpAddr,
    pub port: u16,
    pub state: &'static str,
    /// None of a target that is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub outstanding_requests: u32,
}

impl Status {
    pub(crate) fn new(plan: &Plan, totals: &Totals, health: impl Fn(&str, SocketAddr) -> State) -> Self {
        let listeners = plan.config.listeners.iter();
        let listeners = listeners
            .map(|listener| ListenerStatus { address: listener.address, protocol: listener.protocol });
        let mut metrics = totals.all.clone();
        metrics.insert("ActiveConnectionCount", totals.active_connections);
        let group = |name: &String| {
            let group = &plan.groups()[name];
            let targets = group.members().iter().chain(group.leaving());
            let targets: Vec<_> =
                targets.map(|member| TargetStatus::new(member, |target| health(name, target))).collect();
            let count = |state: &str| targets.iter().filter(|target| target.state == state).count() as u64;
            let mut metrics = totals.groups.get(name).cloned().unwrap_or_default();
            metrics.insert("HealthyHostCount", count("healthy"));
            metrics.insert("UnHealthyHostCount", count("unhealthy"));
            GroupStatus { metrics, targets }
        };
        Self {
            listeners: listeners.collect(),
            metrics,
            http2_floods: totals.floods.clone(),
            target_groups: plan.groups().keys().map(|name| (name.clone(), group(name))).collect(),
        }
    }
}

impl TargetStatus {
    fn new(member: &Member, health: impl Fn(SocketAddr) -> State) -> Self {
        let target = &member.target;
        let state = health(SocketAddr::new(target.ip, target.port));
        let reason = state.reason();
        Self {
            id: target.id.clone(),
            ip: target.ip,
            port: target.port,
            state: state.name(),
            reason: reason.as_ref().map(|reason| reason.code),
            description: reason.map(|reason| reason.description),
            outstanding_requests: member.outstanding(),
        }
    }
}
