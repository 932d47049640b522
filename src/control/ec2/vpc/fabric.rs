//! What a VPC is to be on a host, by what all its records say, and those of its peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use types::{InstanceId, SecurityGroupId, VpcId, VpcPeeringConnectionId};

use crate::ec2::instance::machine;
use crate::ec2::interface::names;
use crate::elbv2;
use crate::ports::{PortSpec, SubnetSpec, VpcSpec};
use crate::records::{
    Instance, InstanceNotices, InterfaceOwner, LoadBalancer, NatGateway, NetworkInterface, Peer, PeerVpc,
    PeeringState, RouteTable, SecurityGroup, Subnet, Vpc,
};
use crate::state::{Space, State, View};

/// None: there is no such VPC.
pub(crate) fn fabric(view: View<'_>, id: VpcId) -> Option<VpcSpec> {
    let vpc = view.get::<Vpc>(id)?;
    let tables = view.tables();
    let there = tables.network_interfaces.linked_to(id).filter(|found| is_there(view, found));
    let port = |found: &NetworkInterface| {
        Some(PortSpec {
            interface: machine::interface(view, found).ok()?,
            checks_source_and_destination: found.checks_source_and_destination,
            owner: found.owner,
        })
    };
    let main = tables.route_tables.linked_to(id).find(|table| table.is_main());
    let options = vpc.dhcp_options.and_then(|options| tables.dhcp_options.get(options));
    let groups: Vec<_> = tables.security_groups.linked_to(id).cloned().collect();
    let peers = peers(view, id);
    Some(VpcSpec {
        id,
        domain: names::domain(view.space.region),
        ranges: vpc.ranges.iter().map(|range| range.cidr).collect(),
        has_resolver: vpc.dns_support,
        dhcp_options: options.cloned(),
        subnets: tables.subnets.linked_to(id).filter_map(|found| subnet(view, found, main?)).collect(),
        acls: tables.network_acls.linked_to(id).cloned().collect(),
        route_tables: tables.route_tables.linked_to(id).cloned().collect(),
        internet_gateway: tables.internet_gateways.linked_to(id).next().map(|gateway| gateway.id),
        peerings: peers.iter().map(|(connection, peer)| (*connection, peer.vpc)).collect(),
        peer_members: peer_members(view, &groups, &peers),
        peer_names: peer_names(view, vpc, &peers),
        balancer_names: tables.load_balancers.linked_to(id).map(|found| names_of(view, found)).collect(),
        groups,
        interfaces: there.filter_map(|found| port(found)).collect(),
        notices: notices(view, id),
    })
}

/// The peers of a VPC that look at what is in it: their rules name its groups, or they resolve its names.
pub(crate) fn onlookers(state: &State, space: Space, id: VpcId) -> Vec<(Space, VpcId)> {
    let Some(tables) = state.space(space) else { return Vec::new() };
    let mut onlookers = Vec::new();
    for connection in tables.peering_connections.linked_to(id) {
        let Some((own, peer)) = connection.seen_from(id).filter(|_| connection.state == PeeringState::Active)
        else {
            continue;
        };
        let names_groups = || {
            let theirs = state.space(peer.space()).map(|tables| &tables.security_groups);
            let mut naming = tables
                .security_groups
                .linked_to(id)
                .flat_map(|group| theirs.into_iter().flat_map(|theirs| theirs.linked_to(group.id)));
            naming.any(|group| group.vpc == peer.vpc)
        };
        if own.resolves_names || names_groups() {
            onlookers.push((peer.space(), peer.vpc));
        }
    }
    onlookers
}

/// Whether something has the interface, or is about to.
fn is_there(view: View<'_>, interface: &NetworkInterface) -> bool {
    match (&interface.attachment, interface.owner) {
        (Some(attachment), _) => view.get::<Instance>(attachment.instance).is_some_and(Instance::is_on_host),
        (None, InterfaceOwner::NatGateway(gateway)) => {
            view.get::<NatGateway>(gateway).is_some_and(NatGateway::is_there)
        }
        (None, InterfaceOwner::LoadBalancer(balancer)) => view.get::<LoadBalancer>(balancer).is_some(),
        (None, InterfaceOwner::User) => false,
    }
}

/// The VPCs at the other ends of connections that are active.
fn peers(view: View<'_>, id: VpcId) -> BTreeMap<VpcPeeringConnectionId, PeerVpc> {
    let connections = view.tables().peering_connections.linked_to(id);
    let active = connections.filter(|connection| connection.state == PeeringState::Active);
    active.filter_map(|connection| Some((connection.id, *connection.seen_from(id)?.1))).collect()
}

/// A peer's group can be named in its own region only.
/// Source: <https://docs.aws.amazon.com/vpc/latest/peering/vpc-peering-security-groups.html>.
fn peer_members(
    view: View<'_>,
    groups: &[Arc<SecurityGroup>],
    peers: &BTreeMap<VpcPeeringConnectionId, PeerVpc>,
) -> BTreeMap<SecurityGroupId, BTreeSet<Ipv4Addr>> {
    let rules = groups.iter().flat_map(|group| &group.rules);
    let named: BTreeSet<_> = rules
        .filter_map(|rule| match rule.peer {
            Peer::Group(group) => Some(group),
            Peer::Range(_) | Peer::Range6(_) => None,
        })
        .collect();
    let mut members = BTreeMap::new();
    for peer in peers.values().filter(|peer| peer.region == view.space.region) {
        let theirs = View::new(view.state, peer.space(), view.now);
        let is_its = |group: &SecurityGroupId| {
            theirs.get::<SecurityGroup>(*group).is_some_and(|group| group.vpc == peer.vpc)
        };
        for group in named.iter().copied().filter(is_its) {
            let interfaces = theirs.tables().network_interfaces.linked_to(group);
            let there = interfaces.filter(|interface| is_there(theirs, interface));
            let addresses = there.flat_map(|interface| interface.addresses.iter().map(|address| address.ip));
            members.insert(group, addresses.collect());
        }
    }
    members
}

/// Of peers that let their names be resolved. Both VPCs must have DNS support and host names.
/// Source: <https://docs.aws.amazon.com/vpc/latest/peering/vpc-peering-dns.html>.
fn peer_names(
    view: View<'_>,
    vpc: &Vpc,
    peers: &BTreeMap<VpcPeeringConnectionId, PeerVpc>,
) -> BTreeMap<String, Ipv4Addr> {
    let mut names = BTreeMap::new();
    if !(vpc.dns_support && vpc.dns_hostnames) {
        return names;
    }
    for peer in peers.values().filter(|peer| peer.resolves_names) {
        let theirs = View::new(view.state, peer.space(), view.now);
        let interfaces = theirs.tables().network_interfaces.linked_to(peer.vpc);
        for found in interfaces.filter(|found| is_there(theirs, found)) {
            let Ok(interface) = machine::interface(theirs, found) else { continue };
            let address = interface.addresses.first().map(|(address, _)| *address);
            names.extend(interface.public_host_name.zip(address));
        }
    }
    names
}

fn names_of(view: View<'_>, balancer: &LoadBalancer) -> (String, Vec<Ipv4Addr>) {
    (elbv2::dns_name(view.space.region, balancer), elbv2::addresses(view, balancer))
}

fn notices(view: View<'_>, id: VpcId) -> BTreeMap<InstanceId, Arc<InstanceNotices>> {
    let tables = view.tables();
    let is_in = |instance| tables.network_interfaces.linked_to(instance).any(|found| found.vpc == id);
    let notices = tables.instance_notices.iter().filter(|notices| is_in(notices.id));
    notices.map(|notices| (notices.id, Arc::clone(notices))).collect()
}

fn subnet(view: View<'_>, subnet: &Subnet, main: &RouteTable) -> Option<SubnetSpec> {
    let tables = view.tables();
    let own = tables.route_tables.linked_to(subnet.id).next().map(|table| table.id);
    let acl = tables.network_acls.linked_to(subnet.id).next()?.id;
    Some(SubnetSpec { id: subnet.id, range: subnet.cidr, acl, route_table: own.unwrap_or(main.id) })
}
