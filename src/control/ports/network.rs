//! Networks, as a host has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use types::{
    InstanceId, InternetGatewayId, NetworkAclId, RouteTableId, SecurityGroupId, SubnetId, VpcId,
    VpcPeeringConnectionId,
};

use super::{BoxFuture, HostError, InterfaceSpec};
use crate::records::{DhcpOptions, InstanceNotices, InterfaceOwner, NetworkAcl, RouteTable, SecurityGroup};

/// Who keeps the networks of VPCs: what may pass in them, where it goes, and what guests are told there. It keeps them when the
/// control plane is gone, and knows them when it is back.
///
/// All methods can be called again for what is done already: then they do nothing, and succeed.
pub trait Networks: Send + Sync {
    /// The VPCs that there is anything of.
    fn vpcs(&self) -> Vec<VpcId>;

    /// Has a VPC be so. When it returns, nothing passes by what was said before.
    fn apply(&self, spec: VpcSpec) -> BoxFuture<'_, Result<(), HostError>>;

    /// Removes what there is of a VPC in which nothing runs; while something does, it does nothing.
    fn remove(&self, id: VpcId) -> BoxFuture<'_, Result<(), HostError>>;

    /// How many packets were dropped in a VPC, by reason, since its rules were last made as a whole; none, if there is nothing of it.
    fn dropped(&self, id: VpcId) -> BoxFuture<'_, Result<Option<BTreeMap<&'static str, u64>>, HostError>>;
}

/// A VPC, with what of it matters to a host.
#[derive(Debug, Clone, PartialEq)]
pub struct VpcSpec {
    pub id: VpcId,
    /// What the names of its instances end in, such as `ec2.internal`.
    pub domain: String,
    /// The first is the one it was made with.
    pub ranges: Vec<Ipv4Net>,
    /// Names are resolved in it.
    pub has_resolver: bool,
    /// None: guests are told no name servers and no domain.
    pub dhcp_options: Option<Arc<DhcpOptions>>,
    pub subnets: Vec<SubnetSpec>,
    pub groups: Vec<Arc<SecurityGroup>>,
    pub acls: Vec<Arc<NetworkAcl>>,
    pub route_tables: Vec<Arc<RouteTable>>,
    pub internet_gateway: Option<InternetGatewayId>,
    /// Those that are active, each with the VPC at its other end.
    pub peerings: BTreeMap<VpcPeeringConnectionId, VpcId>,
    /// The addresses in groups of peers, as far as rules of groups here name those.
    pub peer_members: BTreeMap<SecurityGroupId, BTreeSet<Ipv4Addr>>,
    /// Names of peers' instances that lead to private addresses here, whatever they do elsewhere.
    pub peer_names: BTreeMap<String, Ipv4Addr>,
    /// Names of the load balancers in it.
    pub balancer_names: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Those of instances that are on a host, and of services.
    pub interfaces: Vec<PortSpec>,
    /// What its instances are told that is to become of them.
    pub notices: BTreeMap<InstanceId, Arc<InstanceNotices>>,
}

impl VpcSpec {
    /// Whether an instance or a load balancer in it is on a host, or about to be.
    pub fn is_in_use(&self) -> bool {
        self.interfaces.iter().any(|port| match port.owner {
            InterfaceOwner::User | InterfaceOwner::LoadBalancer(_) => true,
            // It is of use to others only.
            InterfaceOwner::NatGateway(_) => false,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubnetSpec {
    pub id: SubnetId,
    pub range: Ipv4Net,
    pub acl: NetworkAclId,
    /// Its own, or the VPC's main one.
    pub route_table: RouteTableId,
}

/// An interface in a VPC, and what the VPC must know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    pub interface: InterfaceSpec,
    /// Packets that are neither from nor to its addresses are dropped.
    pub checks_source_and_destination: bool,
    pub owner: InterfaceOwner,
}
