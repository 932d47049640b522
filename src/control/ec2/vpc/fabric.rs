//! What a VPC is to be on a host, by what all its records say.

use types::{VpcId, VpcPeeringConnectionId};

use crate::ec2::instance::machine;
use crate::ec2::interface::names;
use crate::ports::{PortSpec, SubnetSpec, VpcSpec};
use crate::records::{
    Instance, InterfaceOwner, NatGateway, NetworkInterface, PeeringState, RouteTable, Subnet, Vpc,
    VpcPeeringConnection,
};
use crate::state::View;

/// None: there is no such VPC.
pub(crate) fn fabric(view: View<'_>, id: VpcId) -> Option<VpcSpec> {
    let vpc = view.get::<Vpc>(id)?;
    let tables = view.tables();
    let is_there = |found: &&std::sync::Arc<NetworkInterface>| is_there(view, found);
    let there: Vec<_> = tables.network_interfaces.linked_to(id).filter(is_there).collect();
    let port = |found: &NetworkInterface| {
        Some(PortSpec {
            interface: machine::interface(view, found).ok()?,
            checks_source_and_destination: found.checks_source_and_destination,
            owner: found.owner,
        })
    };
    let main = tables.route_tables.linked_to(id).find(|table| table.is_main());
    let options = vpc.dhcp_options.and_then(|options| tables.dhcp_options.get(options));
    Some(VpcSpec {
        id,
        domain: names::domain(view.space.region),
        ranges: vpc.ranges.iter().map(|range| range.cidr).collect(),
        has_resolver: vpc.dns_support,
        dhcp_options: options.cloned(),
        subnets: tables.subnets.linked_to(id).filter_map(|found| subnet(view, found, main?)).collect(),
        groups: tables.security_groups.linked_to(id).cloned().collect(),
        acls: tables.network_acls.linked_to(id).cloned().collect(),
        route_tables: tables.route_tables.linked_to(id).cloned().collect(),
        internet_gateway: tables.internet_gateways.linked_to(id).next().map(|gateway| gateway.id),
        peerings: tables.peering_connections.linked_to(id).filter_map(|found| peer(found, id)).collect(),
        interfaces: there.into_iter().filter_map(|found| port(found)).collect(),
    })
}

/// Whether something has the interface, or is about to.
fn is_there(view: View<'_>, interface: &NetworkInterface) -> bool {
    match (&interface.attachment, interface.owner) {
        (Some(attachment), _) => view.get::<Instance>(attachment.instance).is_some_and(Instance::is_on_host),
        (None, InterfaceOwner::NatGateway(gateway)) => {
            view.get::<NatGateway>(gateway).is_some_and(NatGateway::is_there)
        }
        (None, InterfaceOwner::User) => false,
    }
}

/// The VPC at the other end of a connection that is active.
fn peer(connection: &VpcPeeringConnection, id: VpcId) -> Option<(VpcPeeringConnectionId, VpcId)> {
    let ends = [connection.requester.vpc, connection.accepter.vpc];
    let other = ends.into_iter().find(|vpc| *vpc != id)?;
    (connection.state == PeeringState::Active).then_some((connection.id, other))
}

fn subnet(view: View<'_>, subnet: &Subnet, main: &RouteTable) -> Option<SubnetSpec> {
    let tables = view.tables();
    let own = tables.route_tables.linked_to(subnet.id).next().map(|table| table.id);
    let acl = tables.network_acls.linked_to(subnet.id).next()?.id;
    Some(SubnetSpec { id: subnet.id, range: subnet.cidr, acl, route_table: own.unwrap_or(main.id) })
}
