//! Load balancers: where requests come to, what becomes of them, and whom they go to.
//!
//! ```text
//! LoadBalancer ◀── Listener ◀── ListenerRule
//!                     └──────────────┴──▶ TargetGroup ◀── RegisteredTarget
//!
//! a load balancer: Provisioning ──▶ Active
//!                       └─ not in time ─▶ Failed
//! a target:        Registered ──▶ Draining ──▶ gone
//!                       ▲─────────────┘
//! ```
//!
//! What a listener does is kept as [`balancer::config`] has it; actions call target groups by their ids.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use balancer::config::{Action, HealthCheck, Protocol, Rule};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use types::{
    InstanceId, ListenerId, ListenerRuleId, LoadBalancerId, NetworkInterfaceId, ResourceId, SecurityGroupId,
    SubnetId, TargetGroupId, VpcId,
};

use super::resource;
use crate::state::{Key, Record};

/// An Application Load Balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadBalancer {
    pub id: LoadBalancerId,
    /// Its account has no other of this name in the region.
    pub name: String,
    pub scheme: Scheme,
    pub vpc: VpcId,
    /// In two zones at least, and one in each.
    pub nodes: Vec<BalancerNode>,
    /// At most five.
    pub groups: Vec<SecurityGroupId>,
    /// Those that were set, by their names in the API.
    pub attributes: BTreeMap<String, String>,
    pub created: Timestamp,
    pub state: LoadBalancerState,
}

/// From where it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Its nodes have public addresses.
    InternetFacing,
    Internal,
}

/// Where it is in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerNode {
    pub subnet: SubnetId,
    pub interface: NetworkInterfaceId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancerState {
    Provisioning,
    Active,
    Failed { why: String },
}

resource!(
    LoadBalancer,
    LoadBalancerId,
    "load_balancer",
    |this, link| {
        link(this.vpc.into());
        for node in &this.nodes {
            link(node.subnet.into());
            link(node.interface.into());
        }
    },
    keys | this,
    key | { key(Key::Name(this.name.clone())) },
    settled | this | this.state == LoadBalancerState::Active
);

/// A port of a load balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub id: ListenerId,
    pub load_balancer: LoadBalancerId,
    /// No other of the load balancer has it.
    pub port: u16,
    pub protocol: Protocol,
    pub default_action: Action,
    /// By which the API knows what has no rule of its own.
    pub default_rule: ListenerRuleId,
}

resource!(Listener, ListenerId, "listener", |this, link| {
    link(this.load_balancer.into());
    target_groups(&this.default_action).into_iter().for_each(|group| link(group.into()));
});

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListenerRule {
    pub id: ListenerRuleId,
    pub listener: ListenerId,
    pub load_balancer: LoadBalancerId,
    /// No other of the listener has its priority.
    pub rule: Rule,
}

resource!(ListenerRule, ListenerRuleId, "listener_rule", |this, link| {
    link(this.listener.into());
    link(this.load_balancer.into());
    target_groups(&this.rule.action).into_iter().for_each(|group| link(group.into()));
});

/// The groups that an action forwards to.
pub fn target_groups(action: &Action) -> BTreeSet<TargetGroupId> {
    match action {
        Action::Forward(forward) => {
            forward.target_groups.iter().filter_map(|group| group.name.parse().ok()).collect()
        }
        Action::Redirect(_) | Action::FixedResponse(_) => BTreeSet::new(),
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetGroup {
    pub id: TargetGroupId,
    /// Its account has no other of this name in the region.
    pub name: String,
    pub vpc: VpcId,
    pub target_type: TargetType,
    pub protocol: Protocol,
    /// Of targets for which no other is named.
    pub port: u16,
    pub health_check: HealthCheck,
    /// Those that were set, by their names in the API.
    pub attributes: BTreeMap<String, String>,
    pub created: Timestamp,
}

/// By what targets are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetType {
    Instance,
    Ip,
}

resource!(
    TargetGroup,
    TargetGroupId,
    "target_group",
    |_this, _link| {},
    keys | this,
    key | { key(Key::Name(this.name.clone())) }
);

/// A target in a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisteredTarget {
    pub id: TargetKey,
    pub state: TargetState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// With what was seen of it last, by the load balancer that uses its group.
    Registered(TargetHealth),
    /// It gets nothing new, and is forgotten then.
    Draining { until: Timestamp },
}

/// What checks have found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetHealth {
    Initial {
        /// No check has begun.
        is_registering: bool,
    },
    Healthy,
    /// With the reason's code and its description.
    Unhealthy {
        reason: String,
        description: String,
    },
}

impl TargetHealth {
    pub const NEW: Self = Self::Initial { is_registering: true };
}

/// `elb-targets-…/i-…:80`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    pub group: TargetGroupId,
    pub target: TargetId,
    pub port: u16,
}

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetId {
    Instance(InstanceId),
    Ip(Ipv4Addr),
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => id.fmt(f),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl FromStr for TargetId {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let instance = text.parse().map(Self::Instance).ok();
        let target = instance.or_else(|| text.parse().map(Self::Ip).ok());
        target.ok_or_else(|| ParseTargetError(text.to_owned()))
    }
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.group, self.target, self.port)
    }
}

/// A text that names no target.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no target of a group")]
pub struct ParseTargetError(String);

impl FromStr for TargetKey {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let parts = || {
            let (group, rest) = text.split_once('/')?;
            let (target, port) = rest.split_once(':')?;
            Some(Self { group: group.parse().ok()?, target: target.parse().ok()?, port: port.parse().ok()? })
        };
        parts().ok_or_else(|| ParseTargetError(text.to_owned()))
    }
}

impl Serialize for TargetKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TargetKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Record for RegisteredTarget {
    type Id = TargetKey;

    const KIND: &'static str = "registered_target";

    fn id(&self) -> TargetKey {
        self.id
    }

    fn resource(_: TargetKey) -> Option<ResourceId> {
        None
    }

    fn links(&self, link: &mut dyn FnMut(ResourceId)) {
        link(self.id.group.into());
        if let TargetId::Instance(instance) = self.id.target {
            link(instance.into());
        }
    }
}
