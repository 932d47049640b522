//! What passes in a VPC, as `network` has it, from the records of the control plane: a pure function.

use std::collections::BTreeMap;

use control::ports::{PortSpec, VpcSpec};
use control::records::{self, InterfaceOwner};
use network::path::Site;
use network::policy::{
    Acl, AclEntry, Direction, Gateway, Group, GroupRule, Interface, Peer, Port, Ports, RouteTable, Subnet,
    Target, Traffic, Vpc, device_name,
};
use network::{Ipv4Net, NEXT_HOP, NatGatewaySpec, Plan, Translation};
use types::{NatGatewayId, RandomId as _, SecurityGroupId, SecurityGroupRuleId};

/// The VPC that is to be enforced.
pub(super) fn policy(spec: &VpcSpec) -> Vpc {
    let subnet = |subnet: &control::ports::SubnetSpec| {
        let made = Subnet { range: subnet.range, acl: subnet.acl, route_table: subnet.route_table };
        (subnet.id, made)
    };
    let groups = spec.groups.iter().map(|found| (found.id, group(found)));
    let internet = spec.internet_gateway.iter().map(|id| Gateway::Internet(*id));
    let peerings = spec.peerings.keys().map(|id| Gateway::Peering(*id));
    Vpc {
        ranges: spec.ranges.clone(),
        subnets: spec.subnets.iter().map(subnet).collect(),
        interfaces: spec.interfaces.iter().map(|port| (port.interface.id, interface(port))).collect(),
        groups: groups.chain([(no_group(), everything())]).collect(),
        peer_members: spec.peer_members.clone(),
        acls: spec.acls.iter().map(|found| (found.id, acl(found))).collect(),
        route_tables: spec.route_tables.iter().map(|found| (found.id, route_table(spec, found))).collect(),
        gateways: internet.chain(peerings).map(|gateway| (gateway, NEXT_HOP)).collect(),
    }
}

/// The VPC as [`network::path`] walks it.
pub(crate) fn site(spec: &VpcSpec) -> Site {
    let nat = |port: &PortSpec| {
        let is_nat = matches!(port.owner, InterfaceOwner::NatGateway(_));
        let (address, _) = *port.interface.addresses.first().filter(|_| is_nat)?;
        Some((port.interface.id, address))
    };
    Site {
        policy: policy(spec),
        translation: translation(spec),
        peers: spec.peerings.clone(),
        nat_gateways: spec.interfaces.iter().filter_map(nat).collect(),
    }
}

/// The addresses that its internet gateway translates.
pub(super) fn translation(spec: &VpcSpec) -> Translation {
    let addresses = spec.interfaces.iter().flat_map(|port| &port.interface.addresses);
    let public = addresses.filter_map(|(private, public)| Some((*private, (*public)?)));
    let routes = spec.route_tables.iter().flat_map(|table| &table.routes);
    let is_elsewhere = |route: &&records::Route| {
        let is_outward = matches!(route.target, records::RouteTarget::InternetGateway(_));
        !is_outward && route.destination != Ipv4Net::default()
    };
    let elsewhere = routes.filter(is_elsewhere).map(|route| route.destination).collect();
    Translation { ranges: spec.ranges.clone(), elsewhere, public: public.collect() }
}

/// Its NAT gateways.
pub(super) fn nat_gateways(spec: &VpcSpec) -> BTreeMap<NatGatewayId, NatGatewaySpec> {
    let gateway = |port: &PortSpec| {
        let InterfaceOwner::NatGateway(id) = port.owner else { return None };
        let interface = &port.interface;
        let (address, _) = *interface.addresses.first()?;
        let router = Plan::of(*spec.ranges.first()?, interface.subnet_range).router();
        Some((id, NatGatewaySpec { device: device_name(interface.id), mac: interface.mac, address, router }))
    };
    spec.interfaces.iter().filter_map(gateway).collect()
}

fn interface(port: &PortSpec) -> Interface {
    let spec = &port.interface;
    let own = || spec.groups.iter().map(|(group, _)| *group).collect();
    let (groups, checks_source_and_destination, place) = match port.owner {
        InterfaceOwner::User => (own(), port.checks_source_and_destination, Port::Device),
        // It routes for others, and what passes it is for the ACLs of its subnet to say.
        InterfaceOwner::NatGateway(_) => (vec![no_group()], false, Port::Device),
        InterfaceOwner::LoadBalancer(_) => (own(), true, Port::Local),
    };
    Interface {
        subnet: spec.subnet,
        mac: spec.mac,
        addresses: spec.addresses.iter().map(|(address, _)| *address).collect(),
        groups,
        checks_source_and_destination,
        port: place,
    }
}

fn group(found: &records::SecurityGroup) -> Group {
    let rule = |rule: &records::SecurityGroupRule| {
        let peer = match rule.peer {
            records::Peer::Range(range) => Peer::Range(range),
            records::Peer::Group(group) => Peer::Group(group),
            // No packet here has such an address.
            records::Peer::Range6(_) => return None,
        };
        let (direction, traffic) = (direction(rule.direction), traffic(rule.traffic));
        Some(GroupRule { id: rule.id, direction, traffic, peer })
    };
    Group { rules: found.rules.iter().filter_map(rule).collect() }
}

fn acl(found: &records::NetworkAcl) -> Acl {
    let entry = |entry: &records::NetworkAclEntry| AclEntry {
        direction: direction(entry.direction),
        number: entry.number,
        allows: entry.allows,
        traffic: traffic(entry.traffic),
        range: entry.range,
    };
    Acl { entries: found.entries.iter().map(entry).collect() }
}

/// The group of what has none. No other has this id but by a chance that does not come.
fn no_group() -> SecurityGroupId {
    SecurityGroupId::from_random([0; 16])
}

/// Lets everything in and out.
fn everything() -> Group {
    let rule = |direction| GroupRule {
        id: SecurityGroupRuleId::from_random([0; 16]),
        direction,
        traffic: Traffic::All,
        peer: Peer::Range(Ipv4Net::default()),
    };
    Group { rules: [Direction::Ingress, Direction::Egress].map(rule).into() }
}

fn route_table(spec: &VpcSpec, found: &records::RouteTable) -> RouteTable {
    let nat = |id| {
        let port = spec.interfaces.iter().find(|port| port.owner == InterfaceOwner::NatGateway(id));
        port.map_or(Target::Blackhole, |port| Target::Interface(port.interface.id))
    };
    let target = |target| match target {
        records::RouteTarget::InternetGateway(id) => Target::Gateway(Gateway::Internet(id)),
        records::RouteTarget::NatGateway(id) => nat(id),
        records::RouteTarget::NetworkInterface(id) => Target::Interface(id),
        records::RouteTarget::PeeringConnection(id) => Target::Gateway(Gateway::Peering(id)),
    };
    RouteTable {
        routes: found.routes.iter().map(|route| (route.destination, target(route.target))).collect(),
    }
}

fn direction(direction: records::Direction) -> Direction {
    match direction {
        records::Direction::Ingress => Direction::Ingress,
        records::Direction::Egress => Direction::Egress,
    }
}

fn traffic(traffic: records::Traffic) -> Traffic {
    let ports = |ports: records::PortRange| Ports { first: ports.first, last: ports.last };
    match traffic {
        records::Traffic::All => Traffic::All,
        records::Traffic::Tcp { ports: range } => Traffic::Tcp(ports(range)),
        records::Traffic::Udp { ports: range } => Traffic::Udp(ports(range)),
        records::Traffic::Icmp { icmp_type, code } => Traffic::Icmp { icmp_type, code },
        records::Traffic::Protocol(number) => Traffic::Protocol(number),
    }
}
