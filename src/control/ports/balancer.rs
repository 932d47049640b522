//! Load balancers, as a host has them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use balancer::config::LoadBalancer;
use types::{LoadBalancerId, NetworkInterfaceId, TargetGroupId, VpcId};

use super::{BoxFuture, HostError};
use crate::records::TargetHealth;

/// Who runs load balancers, and checks their targets. It keeps them running when the control plane is gone, and knows them when it is back.
///
/// All methods can be called again for what is done already: then they do nothing, and succeed.
pub trait Balancers: Send + Sync {
    /// Those that there is anything of.
    fn balancers(&self) -> Vec<LoadBalancerId>;

    /// How the targets of one stand, as far as they were told of. None: it does not run.
    fn target_health(&self, id: LoadBalancerId) -> Option<BTreeMap<TargetPlace, TargetHealth>>;

    /// Has one be so. When it returns, requests that come are served so, and those that came before end as they began.
    fn apply_balancer(&self, spec: BalancerSpec) -> BoxFuture<'_, Result<(), HostError>>;

    /// Ends one, and removes what there is of it.
    fn remove_balancer(&self, id: LoadBalancerId) -> BoxFuture<'_, Result<(), HostError>>;

    /// Has `call` called whenever [`Balancers::target_health`] would say something new.
    fn on_balancer_change(&self, call: OnBalancerChange);
}

/// Told of which load balancer there is something new.
pub type OnBalancerChange = Arc<dyn Fn(LoadBalancerId) + Send + Sync>;

/// Where a target of a group is asked.
pub type TargetPlace = (TargetGroupId, SocketAddr);

/// A load balancer, with what of it matters to a host.
#[derive(Debug, Clone, PartialEq)]
pub struct BalancerSpec {
    pub id: LoadBalancerId,
    pub vpc: VpcId,
    /// Those that have its addresses.
    pub interfaces: Vec<NetworkInterfaceId>,
    /// Target groups are called by their ids.
    pub config: LoadBalancer,
}
