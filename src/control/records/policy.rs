//! What may pass: security groups and network ACLs.

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use types::{NetworkAclAssociationId, NetworkAclId, SecurityGroupId, SecurityGroupRuleId, SubnetId, VpcId};

use super::resource;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub id: SecurityGroupId,
    pub vpc: VpcId,
    pub name: String,
    pub description: String,
    pub rules: Vec<SecurityGroupRule>,
}

impl SecurityGroup {
    /// The one that each VPC has from its beginning to its end.
    pub const DEFAULT_NAME: &str = "default";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroupRule {
    pub id: SecurityGroupRuleId,
    pub direction: Direction,
    pub traffic: Traffic,
    pub peer: Peer,
    pub description: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Ingress,
    Egress,
}

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    All,
    Tcp {
        ports: PortRange,
    },
    Udp {
        ports: PortRange,
    },
    /// None: all types, or all codes of the type.
    Icmp {
        icmp_type: Option<u8>,
        code: Option<u8>,
    },
    /// Another protocol, by its number.
    Protocol(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    /// Not below `first`.
    pub last: u16,
}

/// Where from, or where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    Range(Ipv4Net),
    /// No VPC has such addresses: it is kept for who asked for it, and no packet matches it.
    Range6(Ipv6Net),
    /// The interfaces that are in a group.
    Group(SecurityGroupId),
}

resource!(SecurityGroup, SecurityGroupId, "security_group", |this, link| {
    link(this.vpc.into());
    for rule in &this.rules {
        link(rule.id.into());
        if let Peer::Group(group) = rule.peer
            && group != this.id
        {
            link(group.into());
        }
    }
});

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkAcl {
    pub id: NetworkAclId,
    pub vpc: VpcId,
    pub is_default: bool,
    /// In the order of direction and number. What none of them matches is denied.
    pub entries: Vec<NetworkAclEntry>,
    pub associations: Vec<NetworkAclAssociation>,
}

impl NetworkAcl {
    /// Where the entry with this direction and number is, or, as an error, where it would have its place.
    pub fn place(&self, direction: Direction, number: u16) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&(direction, number), |entry| (entry.direction, entry.number))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkAclEntry {
    pub direction: Direction,
    /// 1 to 32766; the lowest that matches decides.
    pub number: u16,
    pub allows: bool,
    pub traffic: Traffic,
    pub range: Ipv4Net,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkAclAssociation {
    pub id: NetworkAclAssociationId,
    pub subnet: SubnetId,
}

resource!(NetworkAcl, NetworkAclId, "network_acl", |this, link| {
    link(this.vpc.into());
    for association in &this.associations {
        link(association.id.into());
        link(association.subnet.into());
    }
});
