//! Networks, their subnets, and where packets go in them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use types::{
    DhcpOptionsId, InternetGatewayId, NatGatewayId, NetworkInterfaceId, RouteTableAssociationId,
    RouteTableId, SubnetId, VpcCidrAssociationId, VpcId, VpcPeeringConnectionId, Zone,
};

use super::resource;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vpc {
    pub id: VpcId,
    /// The first is the one it was made with.
    pub ranges: Vec<VpcRange>,
    pub is_default: bool,
    /// None: `default`, which tells instances no name servers and no domain.
    pub dhcp_options: Option<DhcpOptionsId>,
    pub dns_support: bool,
    pub dns_hostnames: bool,
}

/// A range of addresses that subnets can be made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VpcRange {
    pub id: VpcCidrAssociationId,
    pub cidr: Ipv4Net,
}

resource!(Vpc, VpcId, "vpc", |this, link| {
    if let Some(options) = this.dhcp_options {
        link(options.into());
    }
});

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: SubnetId,
    pub vpc: VpcId,
    pub zone: Zone,
    pub cidr: Ipv4Net,
    pub is_default_for_zone: bool,
    pub maps_public_addresses: bool,
}

resource!(Subnet, SubnetId, "subnet", |this, link| { link(this.vpc.into()) });

/// What DHCP tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DhcpOptions {
    pub id: DhcpOptionsId,
    pub domain_name: Option<String>,
    /// At most four of each.
    pub domain_name_servers: Vec<NameServer>,
    pub ntp_servers: Vec<Ipv4Addr>,
    pub netbios_name_servers: Vec<Ipv4Addr>,
    pub netbios_node_type: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameServer {
    /// `AmazonProvidedDNS`: the VPC's own.
    Provided,
    At(Ipv4Addr),
}

resource!(DhcpOptions, DhcpOptionsId, "dhcp_options", |_this, _link| {});

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteTable {
    pub id: RouteTableId,
    pub vpc: VpcId,
    /// What the VPC's own ranges need is not among them: it is always there.
    pub routes: Vec<Route>,
    pub associations: Vec<RouteTableAssociation>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub destination: Ipv4Net,
    pub target: RouteTarget,
}

/// Where packets go. What is named may be gone: then they go nowhere (`blackhole`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteTarget {
    InternetGateway(InternetGatewayId),
    NatGateway(NatGatewayId),
    NetworkInterface(NetworkInterfaceId),
    PeeringConnection(VpcPeeringConnectionId),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteTableAssociation {
    pub id: RouteTableAssociationId,
    /// None: every subnet of the VPC that has no other table.
    pub subnet: Option<SubnetId>,
}

impl RouteTable {
    /// Whether it is for the subnets that have no other.
    pub fn is_main(&self) -> bool {
        self.associations.iter().any(|association| association.subnet.is_none())
    }
}

resource!(RouteTable, RouteTableId, "route_table", |this, link| {
    link(this.vpc.into());
    for route in &this.routes {
        link(match route.target {
            RouteTarget::InternetGateway(id) => id.into(),
            RouteTarget::NatGateway(id) => id.into(),
            RouteTarget::NetworkInterface(id) => id.into(),
            RouteTarget::PeeringConnection(id) => id.into(),
        });
    }
    for association in &this.associations {
        link(association.id.into());
        if let Some(subnet) = association.subnet {
            link(subnet.into());
        }
    }
});
