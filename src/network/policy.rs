//! What passes in a VPC and where it goes: security groups, network ACLs, route tables, and who may send as whom.
//!
//! [`Vpc`] is a model of plain values. From it come, each a pure function of it:
//! - [`Ruleset`], the nftables rules that enforce it,
//! - [`Vpc::verdict`], a walk of the same model that names what passes or stops one packet,
//! - the routes and neighbours that the [fabric](crate::fabric) keeps.
//!
//! ```text
//! from a port ─▶ its own address? ─▶ route of its subnet ─▶ ACLs, if it leaves the subnet ─▶ groups ─▶ to a port
//!                (prerouting)         (by the mark)          (every packet)                  (once a flow)
//! ```
//!
//! A packet carries its subnet's [number](Subnet::number) as its mark, from its arrival on. ACLs look at every packet that crosses
//! a subnet's edge. Groups look at the packet that began the flow, as conntrack remembers it: the sender's rules for egress and the
//! receiver's for ingress. That both passed is kept in the flow's mark, as the ruleset's [generation](Ruleset::generation); a flow that has
//! another generation's mark is looked at again, by the rules that are in force now. So a rule that is removed cuts what only it
//! allowed with the very packet after its removal, and no flow that another rule allows notices.
//!
//! Interfaces that take what is not theirs (`checks_source_and_destination` is false) see packets of flows between others. What comes from such
//! an interface or goes to one is looked at packet by packet, and leaves no mark: one flow passes several interfaces there.
//!
//! Invariants: what is named and is not there admits nothing, and leads nowhere. Two interfaces never have the same address.
//!
//! What is dropped is counted by its [reason](DropReason), from the time that the rules were last made as a whole.
//!
//! It deliberately does not: carry IPv6, nor translate addresses, which gateways do beyond the VPC's namespace.

mod drops;
mod rectangle;
mod ruleset;
#[cfg(test)]
mod tests;
mod transaction;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use types::{
    InternetGatewayId, MacAddress, NetworkAclId, NetworkInterfaceId, RouteTableId, SecurityGroupId,
    SecurityGroupRuleId, SubnetId, VpcPeeringConnectionId,
};

use crate::plan::{METADATA, Plan, RESOLVER};
pub use drops::DropReason;
pub use ruleset::Ruleset;
pub use verdict::{Flow, Outcome, Packet, Place, Step, Stop, Transport, Verdict};

/// What no route leads to: each namespace has its own.
pub(crate) const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS_PORT: u16 = 53;
const DHCP_PORT: u16 = 67;
const HTTP_PORT: u16 = 80;

/// One VPC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vpc {
    /// The first is the one it was made with.
    pub ranges: Vec<Ipv4Net>,
    pub subnets: BTreeMap<SubnetId, Subnet>,
    pub interfaces: BTreeMap<NetworkInterfaceId, Interface>,
    pub groups: BTreeMap<SecurityGroupId, Group>,
    /// The addresses in groups of peers, as far as rules of groups here name those.
    pub peer_members: BTreeMap<SecurityGroupId, BTreeSet<Ipv4Addr>>,
    pub acls: BTreeMap<NetworkAclId, Acl>,
    pub route_tables: BTreeMap<RouteTableId, RouteTable>,
    /// The ways out that are there, each a device of the VPC's namespace, with the address of who takes packets at its other end.
    pub gateways: BTreeMap<Gateway, Ipv4Addr>,
}

/// A range of a VPC, of which no two have an address in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    pub range: Ipv4Net,
    pub acl: NetworkAclId,
    /// Its own, or the VPC's main one.
    pub route_table: RouteTableId,
}

/// An interface in a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub subnet: SubnetId,
    pub mac: MacAddress,
    /// The first is the primary one. At least one.
    pub addresses: Vec<Ipv4Addr>,
    /// At most five.
    pub groups: Vec<SecurityGroupId>,
    /// Packets that are neither from nor to its addresses are dropped. Not so where it routes for others, as a NAT gateway does.
    pub checks_source_and_destination: bool,
    pub port: Port,
}

/// Where an interface's packets come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// A device of the VPC's namespace, [named](device_name) after the interface, behind which is a guest.
    Device,
    /// Sockets in the VPC's namespace, of a service of nimbo's own: a balancer, a file system.
    Local,
}

/// A security group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    pub rules: Vec<GroupRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRule {
    pub id: SecurityGroupRuleId,
    pub direction: Direction,
    pub traffic: Traffic,
    pub peer: Peer,
}

/// As seen from an interface, or from a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    All,
    Tcp(Ports),
    Udp(Ports),
    /// None: all types, or all codes of the type.
    Icmp {
        icmp_type: Option<u8>,
        code: Option<u8>,
    },
    /// Another protocol, by its number.
    Protocol(u8),
}

/// Destination ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    /// Not below `first`.
    pub last: u16,
}

/// Where from, or where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Range(Ipv4Net),
    /// The addresses of the interfaces that are in a group, which may be a peer's.
    Group(SecurityGroupId),
}

/// A network ACL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// The first in a direction that matches decides; what none matches is denied.
    pub entries: Vec<AclEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclEntry {
    pub direction: Direction,
    pub number: u16,
    pub allows: bool,
    pub traffic: Traffic,
    pub range: Ipv4Net,
}

/// What a route table has beside the routes to the VPC's own ranges, which are always there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTable {
    pub routes: BTreeMap<Ipv4Net, Target>,
}

/// Where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Interface(NetworkInterfaceId),
    Gateway(Gateway),
    /// What was named is gone.
    Blackhole,
}

/// A way out of a VPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gateway {
    Internet(InternetGatewayId),
    Peering(VpcPeeringConnectionId),
}

impl Vpc {
    /// The interface that has an address.
    pub fn interface_at(&self, address: Ipv4Addr) -> Option<(NetworkInterfaceId, &Interface)> {
        self.interfaces().find(|(_, interface)| interface.addresses.contains(&address))
    }

    /// Those that are in a subnet.
    pub fn interfaces(&self) -> impl Iterator<Item = (NetworkInterfaceId, &Interface)> {
        let is_there = |(_, interface): &(_, &Interface)| self.subnets.contains_key(&interface.subnet);
        self.interfaces.iter().map(|(id, interface)| (*id, interface)).filter(is_there)
    }

    /// The addresses of the interfaces that are in a group, its own or a peer's.
    pub fn members(&self, group: SecurityGroupId) -> BTreeSet<Ipv4Addr> {
        let members = self.interfaces().filter(|(_, interface)| interface.groups.contains(&group));
        let own = members.flat_map(|(_, interface)| &interface.addresses);
        own.chain(self.peer_members.get(&group).into_iter().flatten()).copied().collect()
    }

    /// The addresses at which the VPC itself is spoken to: the router of each subnet, resolvers, metadata.
    pub(crate) fn own_addresses(&self) -> BTreeSet<Ipv4Addr> {
        let answered = self.answered().into_iter().map(|(address, ..)| address);
        answered.collect()
    }

    /// What interfaces may ask the VPC itself, whatever groups and ACLs say: address, protocol and port.
    fn answered(&self) -> BTreeSet<(Ipv4Addr, u8, u16)> {
        let leases = self.subnets.values().map(|subnet| (self.plan(subnet).router(), UDP, DHCP_PORT));
        let own = self.ranges.first().map(|range| Plan::of(*range, *range).resolver());
        let names = own.into_iter().chain([RESOLVER]);
        let names = names.flat_map(|at| [(at, UDP, DNS_PORT), (at, TCP, DNS_PORT)]);
        leases.chain(names).chain([(METADATA, TCP, HTTP_PORT)]).collect()
    }

    pub(crate) fn interface(&self, id: NetworkInterfaceId) -> Option<&Interface> {
        self.interfaces.get(&id).filter(|interface| self.subnets.contains_key(&interface.subnet))
    }

    pub(crate) fn plan(&self, subnet: &Subnet) -> Plan {
        Plan::of(self.ranges.first().copied().unwrap_or(subnet.range), subnet.range)
    }

    fn is_local(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }
}

impl Interface {
    /// Whether packets of others pass it.
    fn is_hop(&self) -> bool {
        self.port == Port::Device && !self.checks_source_and_destination
    }
}

impl Subnet {
    /// What packets from it are marked with, and the number of its routing table: its first address, which no other subnet of the VPC has.
    pub fn number(&self) -> u32 {
        self.range.network().into()
    }
}

impl Traffic {
    /// Whether it is all that there is.
    fn is_all(self) -> bool {
        self == Traffic::All
    }
}

impl Acl {
    /// The entries of one direction, in their order.
    pub fn entries(&self, direction: Direction) -> impl Iterator<Item = &AclEntry> {
        self.entries.iter().filter(move |entry| entry.direction == direction)
    }

    /// Whether it lets everything pass, so that nobody need look.
    fn admits_all(&self, direction: Direction) -> bool {
        let mut entries = self.entries(direction);
        let decides =
            |entry: &&AclEntry| !entry.allows || (entry.traffic.is_all() && entry.range.prefix_len() == 0);
        entries.find(decides).is_some_and(|entry| entry.allows)
    }
}

/// Hexadecimal digits of an id in a device's name, which has at most 15 bytes.
const DEVICE_DIGITS: usize = 12;

/// The name of an interface's device in the VPC's namespace.
pub fn device_name(interface: NetworkInterfaceId) -> String {
    short_name("tap", &interface)
}

impl Gateway {
    /// The name of its device in the VPC's namespace.
    pub fn device_name(self) -> String {
        match self {
            Gateway::Internet(id) => short_name("igw", &id),
            Gateway::Peering(id) => short_name("pcx", &id),
        }
    }
}

/// The last digits of an id, which are random in all of them.
fn short_name(kind: &str, id: &impl fmt::Display) -> String {
    let id = id.to_string();
    let digits = id.len().saturating_sub(DEVICE_DIGITS);
    format!("{kind}{}", &id[digits..])
}
