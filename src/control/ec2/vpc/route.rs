//! Routes in a route table.
//!
//! The VPC's own ranges always have one (`local`), which is not kept. Another within them must be for the whole of a subnet, and lead to an
//! interface or a NAT gateway: so traffic between subnets can be looked at on its way.
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/userguide/RouteTables.html>.

use std::sync::Arc;

use aws::filters::Values;
use aws::service::Empty;
use aws::{Error, Table, ec2};
use ipnet::Ipv4Net;
use types::{InstanceId, NatGatewayId, NetworkInterfaceId, RouteTableId, VpcId, VpcPeeringConnectionId};

use super::range;
use crate::ec2::errors::{id, missing, not_found, other_network};
use crate::plane::{Plane, Serve as _};
use crate::records::{
    Instance, InternetGateway, NatGateway, NatGatewayState, NetworkInterface, PeeringState, Route,
    RouteTable, RouteTarget, Vpc, VpcPeeringConnection,
};
use crate::state::{Transaction, View};

/// In one table, without those that are always there.
/// Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const ROUTES_MAX: usize = 500;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CreateRoute>(create)
        .changes::<ec2::DeleteRoute>(delete)
        .changes::<ec2::ReplaceRoute>(replace)
}

/// Where a request wants packets to go: one of these.
struct Wanted {
    gateway: Option<String>,
    instance: Option<String>,
    interface: Option<String>,
    peering: Option<String>,
    nat: Option<String>,
}

fn create(tx: &mut Transaction<'_>, input: ec2::CreateRouteRequest) -> Result<ec2::CreateRouteResult, Error> {
    let wanted = Wanted {
        gateway: input.gateway_id,
        instance: input.instance_id,
        interface: input.network_interface_id,
        peering: input.vpc_peering_connection_id,
        nat: input.nat_gateway_id,
    };
    let (table, destination) = place(tx, &input.route_table_id, input.destination_cidr_block)?;
    if table.routes.iter().any(|route| route.destination == destination) || is_local(tx, table, destination) {
        let message = format!("The route identified by {destination} already exists.");
        return Err(Error::new("RouteAlreadyExists", message));
    }
    if table.routes.len() >= ROUTES_MAX {
        let message = format!("The route table '{}' has reached its limit of {ROUTES_MAX} routes.", table.id);
        return Err(Error::new("RouteLimitExceeded", message));
    }
    let (id, route) = (table.id, route(tx, table, destination, wanted)?);
    tx.update::<RouteTable>(id, |table| table.routes.push(route));
    Ok(ec2::CreateRouteResult { r#return: Some(true) })
}

fn replace(tx: &mut Transaction<'_>, input: ec2::ReplaceRouteRequest) -> Result<Empty, Error> {
    let wanted = Wanted {
        gateway: input.gateway_id,
        instance: input.instance_id,
        interface: input.network_interface_id,
        peering: input.vpc_peering_connection_id,
        nat: input.nat_gateway_id,
    };
    let (table, destination) = place(tx, &input.route_table_id, input.destination_cidr_block)?;
    if is_local(tx, table, destination) {
        let message = "nimbo reroutes no whole range of a VPC: make a route for the range of a subnet.";
        return Err(Error::new("UnsupportedOperation", message));
    }
    let place = table.routes.iter().position(|route| route.destination == destination);
    let place = place.ok_or_else(|| {
        let message = format!(
            "There is no route defined for '{destination}' in the route table. Use CreateRoute instead."
        );
        Error::new("InvalidParameterValue", message)
    })?;
    let (id, route) = (table.id, route(tx, table, destination, wanted)?);
    tx.update::<RouteTable>(id, |table| table.routes[place] = route);
    Ok(Empty)
}

fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteRouteRequest) -> Result<Empty, Error> {
    let (table, destination) = place(tx, &input.route_table_id, input.destination_cidr_block)?;
    let id = table.id;
    if is_local(tx, table, destination) {
        let message = format!("cannot remove local route {destination} in route table {id}");
        return Err(Error::new("InvalidParameterValue", message));
    }
    let place = table.routes.iter().position(|route| route.destination == destination);
    let place = place.ok_or_else(|| {
        let message = format!("no route with destination-cidr-block {destination} in route table {id}");
        Error::new("InvalidRoute.NotFound", message)
    })?;
    tx.update::<RouteTable>(id, |table| {
        table.routes.remove(place);
    });
    Ok(Empty)
}

/// The table and the destination that a request names.
fn place<'a>(
    tx: &'a Transaction<'_>,
    table: &str,
    destination: Option<String>,
) -> Result<(&'a RouteTable, Ipv4Net), Error> {
    let table: RouteTableId = id(table)?;
    let destination = destination.ok_or_else(|| missing("destinationCidrBlock"))?;
    let destination = range(&destination, "destinationCidrBlock")?;
    Ok((tx.get(table).ok_or_else(|| not_found(table))?, destination))
}

fn local_ranges(view: View<'_>, vpc: VpcId) -> impl Iterator<Item = Ipv4Net> {
    view.get::<Vpc>(vpc).into_iter().flat_map(|vpc| vpc.ranges.iter().map(|range| range.cidr))
}

fn is_local(tx: &Transaction<'_>, table: &RouteTable, destination: Ipv4Net) -> bool {
    local_ranges(tx.view(), table.vpc).any(|range| range == destination)
}

/// The route that a request asks for.
fn route(
    tx: &Transaction<'_>,
    table: &RouteTable,
    destination: Ipv4Net,
    wanted: Wanted,
) -> Result<Route, Error> {
    let target = target(tx, table, wanted)?;
    let mut local = local_ranges(tx.view(), table.vpc);
    if local.any(|range| range.contains(&destination)) {
        if !matches!(target, RouteTarget::NetworkInterface(_) | RouteTarget::NatGateway(_)) {
            let message = format!(
                "The destination CIDR block {destination} is equal to or more specific than one of this VPC's CIDR blocks. \
                 This route can target only a NAT gateway, a network interface or an instance."
            );
            return Err(Error::new("InvalidParameterValue", message));
        }
        if !tx.tables().subnets.linked_to(table.vpc).any(|subnet| subnet.cidr == destination) {
            let message = format!("Route destination {destination} doesn't match any subnet CIDR blocks.");
            return Err(Error::new("InvalidParameterValue", message));
        }
    }
    Ok(Route { destination, target })
}

fn target(tx: &Transaction<'_>, table: &RouteTable, wanted: Wanted) -> Result<RouteTarget, Error> {
    match wanted {
        Wanted { gateway: Some(gateway), instance: None, interface: None, peering: None, nat: None } => {
            internet_gateway(tx, table, &gateway)
        }
        Wanted { gateway: None, instance: Some(instance), interface: None, peering: None, nat: None } => {
            only_interface(tx, table, &instance)
        }
        Wanted { gateway: None, instance: None, interface: Some(interface), peering: None, nat: None } => {
            let interface: NetworkInterfaceId = id(&interface)?;
            let found = tx.get::<NetworkInterface>(interface).ok_or_else(|| not_found(interface))?;
            within(table, found.vpc, format_args!("interface {interface}"))?;
            Ok(RouteTarget::NetworkInterface(interface))
        }
        Wanted { gateway: None, instance: None, interface: None, peering: Some(peering), nat: None } => {
            peering_connection(tx, table, &peering)
        }
        Wanted { gateway: None, instance: None, interface: None, peering: None, nat: Some(nat) } => {
            nat_gateway(tx, table, &nat)
        }
        Wanted { gateway: None, instance: None, interface: None, peering: None, nat: None } => {
            Err(missing("gatewayId, natGatewayId, networkInterfaceId, instanceId or vpcPeeringConnectionId"))
        }
        _ => {
            let message = "A route has exactly one target: specify one of gatewayId, natGatewayId, networkInterfaceId, instanceId and \
                           vpcPeeringConnectionId";
            Err(Error::new("InvalidParameterCombination", message))
        }
    }
}

fn within(table: &RouteTable, vpc: VpcId, what: impl std::fmt::Display) -> Result<(), Error> {
    if table.vpc == vpc { Ok(()) } else { Err(other_network(format_args!("route table {}", table.id), what)) }
}

/// Gateways of other kinds have ids of their own, and there are none.
fn internet_gateway(tx: &Transaction<'_>, table: &RouteTable, text: &str) -> Result<RouteTarget, Error> {
    let found = text.parse().ok().and_then(|id| tx.get::<InternetGateway>(id));
    let gateway = found.ok_or_else(|| {
        Error::new("InvalidGatewayID.NotFound", format!("The gateway ID '{text}' does not exist"))
    })?;
    if gateway.vpc == Some(table.vpc) {
        Ok(RouteTarget::InternetGateway(gateway.id))
    } else {
        Err(other_network(
            format_args!("route table {}", table.id),
            format_args!("network gateway {}", gateway.id),
        ))
    }
}

fn nat_gateway(tx: &Transaction<'_>, table: &RouteTable, text: &str) -> Result<RouteTarget, Error> {
    let id: NatGatewayId = id(text)?;
    let gateway = tx.get::<NatGateway>(id).filter(|gateway| gateway.is_there()).ok_or_else(|| {
        Error::new("InvalidNatGatewayID.NotFound", format!("The natGateway ID '{id}' does not exist"))
    })?;
    within(table, gateway.vpc, format_args!("NAT gateway {id}"))?;
    Ok(RouteTarget::NatGateway(id))
}

fn peering_connection(tx: &Transaction<'_>, table: &RouteTable, text: &str) -> Result<RouteTarget, Error> {
    let id: VpcPeeringConnectionId = id(text)?;
    let connection = tx.get::<VpcPeeringConnection>(id).ok_or_else(|| not_found(id))?;
    if ![connection.requester.vpc, connection.accepter.vpc].contains(&table.vpc) {
        return Err(other_network(
            format_args!("route table {}", table.id),
            format_args!("VPC peering connection {id}"),
        ));
    }
    if !matches!(connection.state_at(tx.now()), PeeringState::PendingAcceptance | PeeringState::Active) {
        let message = format!("The VPC peering connection '{id}' is neither active nor pending acceptance");
        return Err(Error::new("InvalidStateTransition", message));
    }
    Ok(RouteTarget::PeeringConnection(id))
}

/// An instance is its only interface.
fn only_interface(tx: &Transaction<'_>, table: &RouteTable, text: &str) -> Result<RouteTarget, Error> {
    let id: InstanceId = id(text)?;
    tx.get::<Instance>(id).ok_or_else(|| not_found(id))?;
    let mut interfaces = tx.tables().network_interfaces.linked_to(id);
    let interface = interfaces.next().ok_or_else(|| {
        Error::new("InvalidInstanceID", format!("There is no interface attached to instance '{id}'."))
    })?;
    if interfaces.next().is_some() {
        let message = format!(
            "There are multiple interfaces attached to instance '{id}'. Please specify an interface ID for the operation instead."
        );
        return Err(Error::new("InvalidInstanceID", message));
    }
    within(table, interface.vpc, format_args!("instance {id}"))?;
    Ok(RouteTarget::NetworkInterface(interface.id))
}

/// All routes of a table: first those that are always there.
pub(super) fn shown(view: View<'_>, table: &RouteTable) -> Vec<ec2::Route> {
    let local = local_ranges(view, table.vpc).map(|range| ec2::Route {
        destination_cidr_block: Some(range.to_string()),
        gateway_id: Some("local".to_owned()),
        origin: Some(ec2::RouteOrigin::CreateRouteTable),
        state: Some(ec2::RouteState::Active),
        ..Default::default()
    });
    local.chain(table.routes.iter().map(|route| shown_route(view, table.vpc, route))).collect()
}

fn shown_route(view: View<'_>, vpc: VpcId, route: &Route) -> ec2::Route {
    let state = if leads_somewhere(view, vpc, route.target) {
        ec2::RouteState::Active
    } else {
        ec2::RouteState::Blackhole
    };
    let shown = ec2::Route {
        destination_cidr_block: Some(route.destination.to_string()),
        origin: Some(ec2::RouteOrigin::CreateRoute),
        state: Some(state),
        ..Default::default()
    };
    match route.target {
        RouteTarget::InternetGateway(id) => ec2::Route { gateway_id: Some(id.to_string()), ..shown },
        RouteTarget::NatGateway(id) => ec2::Route { nat_gateway_id: Some(id.to_string()), ..shown },
        RouteTarget::NetworkInterface(id) => {
            let attachment = view.get::<NetworkInterface>(id).and_then(|found| found.attachment.as_ref());
            let instance = attachment.map(|attachment| attachment.instance.to_string());
            ec2::Route {
                instance_owner_id: instance.as_ref().map(|_| view.space.account.to_string()),
                instance_id: instance,
                network_interface_id: Some(id.to_string()),
                ..shown
            }
        }
        RouteTarget::PeeringConnection(id) => {
            ec2::Route { vpc_peering_connection_id: Some(id.to_string()), ..shown }
        }
    }
}

/// Whether what a route of a VPC names is there for it.
fn leads_somewhere(view: View<'_>, vpc: VpcId, target: RouteTarget) -> bool {
    match target {
        RouteTarget::InternetGateway(id) => {
            view.get::<InternetGateway>(id).is_some_and(|gateway| gateway.vpc == Some(vpc))
        }
        RouteTarget::NatGateway(id) => view.get::<NatGateway>(id).is_some_and(|gateway| {
            matches!(gateway.state, NatGatewayState::Pending | NatGatewayState::Available)
        }),
        RouteTarget::NetworkInterface(id) => {
            view.get::<NetworkInterface>(id).is_some_and(|interface| interface.attachment.is_some())
        }
        RouteTarget::PeeringConnection(id) => view
            .get::<VpcPeeringConnection>(id)
            .is_some_and(|connection| connection.state == PeeringState::Active),
    }
}

/// What the routes of a table have for the filter `route.FIELD`. Nothing has the fields of what there are no targets of.
pub(super) fn filter_values(view: View<'_>, table: &RouteTable, field: &str, values: &mut Values<'_>) {
    for route in shown(view, table) {
        let value = match field {
            "destination-cidr-block" => route.destination_cidr_block,
            "gateway-id" => route.gateway_id,
            "instance-id" => route.instance_id,
            "nat-gateway-id" => route.nat_gateway_id,
            "origin" => route.origin.map(|origin| origin.to_string()),
            "state" => route.state.map(|state| state.to_string()),
            "vpc-peering-connection-id" => route.vpc_peering_connection_id,
            _ => None,
        };
        value.iter().for_each(|value| values.text(value));
    }
}
