//! Route tables, and which subnets they are for.

use std::sync::Arc;

use aws::filters::{Filtered, Values};
use aws::service::Empty;
use aws::{Call, Error, Table, ec2};
use types::{RouteTableAssociationId, RouteTableId, SubnetId, VpcId};

use super::route;
use crate::ec2::errors::{dependency, id, missing, not_found, other_network};
use crate::ec2::once::once;
use crate::ec2::row::{Row, page, select};
use crate::ec2::tags;
use crate::plane::{Plane, Serve as _};
use crate::records::{RouteTable, RouteTableAssociation, Subnet, Vpc};
use crate::state::{Transaction, View};

/// In one VPC. Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const TABLES_MAX: usize = 200;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::AssociateRouteTable>(associate)
        .changes::<ec2::CreateRouteTable>(create)
        .changes::<ec2::DeleteRouteTable>(delete)
        .looks::<ec2::DescribeRouteTables>(describe)
        .changes::<ec2::DisassociateRouteTable>(disassociate)
        .changes::<ec2::ReplaceRouteTableAssociation>(replace_association)
}

fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateRouteTableRequest,
) -> Result<ec2::CreateRouteTableResult, Error> {
    let client_token = input.client_token.clone();
    let id = once::<ec2::CreateRouteTable, RouteTableId>(tx, input, make)?;
    let route_table = Some(shown_by_id(tx, id).ok_or_else(|| not_found(id))?);
    Ok(ec2::CreateRouteTableResult { route_table, client_token })
}

fn make(tx: &mut Transaction<'_>, input: ec2::CreateRouteTableRequest) -> Result<RouteTableId, Error> {
    let vpc: VpcId = id(&input.vpc_id)?;
    let tags = tags::specified(&input.tag_specifications, "route-table")?;
    tx.get::<Vpc>(vpc).ok_or_else(|| not_found(vpc))?;
    if tx.tables().route_tables.linked_to(vpc).count() >= TABLES_MAX {
        let message = format!("The vpc '{vpc}' has reached its limit of {TABLES_MAX} route tables.");
        return Err(Error::new("RouteTableLimitExceeded", message));
    }
    let id = tx.new_id();
    tx.put(RouteTable { id, vpc, routes: Vec::new(), associations: Vec::new() });
    tags::add(tx, id, tags)?;
    Ok(id)
}

fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteRouteTableRequest) -> Result<Empty, Error> {
    let id: RouteTableId = id(&input.route_table_id)?;
    let table = tx.get::<RouteTable>(id).ok_or_else(|| not_found(id))?;
    if !table.associations.is_empty() {
        return Err(dependency(format_args!("The routeTable '{id}'")));
    }
    tx.remove::<RouteTable>(id);
    Ok(Empty)
}

fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeRouteTablesRequest>,
) -> Result<ec2::DescribeRouteTablesResult, Error> {
    let rows = select::<RouteTable>(view, &call.input.route_table_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeRouteTables, _>(call, rows)?;
    Ok(ec2::DescribeRouteTablesResult { next_token, route_tables: Some(rows.iter().map(shown).collect()) })
}

fn associate(
    tx: &mut Transaction<'_>,
    input: ec2::AssociateRouteTableRequest,
) -> Result<ec2::AssociateRouteTableResult, Error> {
    let id_of_table: RouteTableId = id(&input.route_table_id)?;
    let subnet: SubnetId = id(&input.subnet_id.ok_or_else(|| missing("subnetId"))?)?;
    let table = tx.get::<RouteTable>(id_of_table).ok_or_else(|| not_found(id_of_table))?;
    let vpc = tx.get::<Subnet>(subnet).ok_or_else(|| not_found(subnet))?.vpc;
    if table.vpc != vpc {
        return Err(other_network(
            format_args!("route table {id_of_table}"),
            format_args!("network {subnet}"),
        ));
    }
    let before = tx.tables().route_tables.linked_to(subnet).next();
    let association = match before {
        Some(before) if before.id == id_of_table => before
            .associations
            .iter()
            .find(|association| association.subnet == Some(subnet))
            .map(|association| association.id)
            .ok_or_else(Error::internal)?,
        Some(_) => {
            let message = format!(
                "the specified association for route table {id_of_table} conflicts with an existing association"
            );
            return Err(Error::new("Resource.AlreadyAssociated", message));
        }
        None => add_association(tx, id_of_table, Some(subnet)),
    };
    Ok(ec2::AssociateRouteTableResult {
        association_id: Some(association.to_string()),
        association_state: Some(associated()),
    })
}

fn disassociate(tx: &mut Transaction<'_>, input: ec2::DisassociateRouteTableRequest) -> Result<Empty, Error> {
    let association: RouteTableAssociationId = id(&input.association_id)?;
    let (table, subnet) = find_association(tx, association)?;
    if subnet.is_none() {
        let message = format!("cannot disassociate the main route table association {association}");
        return Err(Error::new("InvalidParameterValue", message));
    }
    remove_association(tx, table, association);
    Ok(Empty)
}

/// Gives a subnet another table, or a VPC another main one.
fn replace_association(
    tx: &mut Transaction<'_>,
    input: ec2::ReplaceRouteTableAssociationRequest,
) -> Result<ec2::ReplaceRouteTableAssociationResult, Error> {
    let association: RouteTableAssociationId = id(&input.association_id)?;
    let wanted: RouteTableId = id(&input.route_table_id)?;
    let (current, subnet) = find_association(tx, association)?;
    let vpc = tx.get::<RouteTable>(current).ok_or_else(|| not_found(current))?.vpc;
    if tx.get::<RouteTable>(wanted).ok_or_else(|| not_found(wanted))?.vpc != vpc {
        return Err(other_network(
            format_args!("route table {wanted}"),
            format_args!("route table {current}"),
        ));
    }
    let replaced = if wanted == current {
        association
    } else {
        remove_association(tx, current, association);
        add_association(tx, wanted, subnet)
    };
    Ok(ec2::ReplaceRouteTableAssociationResult {
        new_association_id: Some(replaced.to_string()),
        association_state: Some(associated()),
    })
}

/// The table that has an association, and whose it is.
fn find_association(
    tx: &Transaction<'_>,
    association: RouteTableAssociationId,
) -> Result<(RouteTableId, Option<SubnetId>), Error> {
    let table = tx.tables().route_tables.linked_to(association).next();
    let found = table.and_then(|table| {
        let it = table.associations.iter().find(|each| each.id == association);
        it.map(|it| (table.id, it.subnet))
    });
    found.ok_or_else(|| not_found(association))
}

fn add_association(
    tx: &mut Transaction<'_>,
    table: RouteTableId,
    subnet: Option<SubnetId>,
) -> RouteTableAssociationId {
    let id = tx.new_id();
    tx.update::<RouteTable>(table, |table| table.associations.push(RouteTableAssociation { id, subnet }));
    id
}

fn remove_association(tx: &mut Transaction<'_>, table: RouteTableId, association: RouteTableAssociationId) {
    tx.update::<RouteTable>(table, |table| table.associations.retain(|each| each.id != association));
}

fn associated() -> ec2::RouteTableAssociationState {
    ec2::RouteTableAssociationState {
        state: Some(ec2::RouteTableAssociationStateCode::Associated),
        ..Default::default()
    }
}

fn shown_by_id(tx: &Transaction<'_>, id: RouteTableId) -> Option<ec2::RouteTable> {
    let view = tx.view();
    view.get::<RouteTable>(id).map(|record| shown(&Row { view, record }))
}

fn shown(row: &Row<'_, RouteTable>) -> ec2::RouteTable {
    let Row { view, record: table } = *row;
    let association = |association: &RouteTableAssociation| ec2::RouteTableAssociation {
        main: Some(association.subnet.is_none()),
        route_table_association_id: Some(association.id.to_string()),
        route_table_id: Some(table.id.to_string()),
        subnet_id: association.subnet.map(|subnet| subnet.to_string()),
        association_state: Some(associated()),
        ..Default::default()
    };
    ec2::RouteTable {
        associations: Some(table.associations.iter().map(association).collect()),
        propagating_vgws: Some(Vec::new()),
        route_table_id: Some(table.id.to_string()),
        routes: Some(route::shown(view, table)),
        tags: Some(tags::shown(&view, table.id).unwrap_or_default()),
        vpc_id: Some(table.vpc.to_string()),
        owner_id: Some(view.space.account.to_string()),
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeRouteTables.html>.
impl Filtered for Row<'_, RouteTable> {
    const NAMES: &'static [&'static str] = &[
        "association.gateway-id",
        "association.main",
        "association.route-table-association-id",
        "association.route-table-id",
        "association.subnet-id",
        "owner-id",
        "route-table-id",
        "route.destination-cidr-block",
        "route.destination-ipv6-cidr-block",
        "route.destination-prefix-list-id",
        "route.egress-only-internet-gateway-id",
        "route.gateway-id",
        "route.instance-id",
        "route.nat-gateway-id",
        "route.origin",
        "route.state",
        "route.transit-gateway-id",
        "route.vpc-peering-connection-id",
        "vpc-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let Row { view, record: table } = *self;
        let associations = table.associations.iter();
        match name {
            "association.main" => {
                associations.for_each(|association| values.flag(association.subnet.is_none()));
            }
            "association.route-table-association-id" => {
                associations.for_each(|association| values.shown(association.id));
            }
            "association.route-table-id" => associations.for_each(|_| values.shown(table.id)),
            "association.subnet-id" => {
                associations.filter_map(|association| association.subnet).for_each(|id| values.shown(id));
            }
            "owner-id" => values.shown(view.space.account),
            "route-table-id" => values.shown(table.id),
            "vpc-id" => values.shown(table.vpc),
            // No table is a gateway's.
            "association.gateway-id" => {}
            _ => route::filter_values(view, table, name.trim_start_matches("route."), values),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
