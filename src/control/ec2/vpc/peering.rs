//! VPC peering connections, between VPCs of any accounts and regions.
//!
//! ```text
//! PendingAcceptance ──▶ Active ──▶ Deleted
//!     ├──▶ Rejected, Expired, Deleted
//! Failed: there is no such VPC, or packets could not tell one from the other
//! ```
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/peering/vpc-peering-basics.html>.

mod show;

use std::sync::Arc;

use aws::{Call, Error, Table, ec2};
use types::{AccountId, Region, VpcId, VpcPeeringConnectionId};

pub(in crate::ec2) use show::status;

use super::overlap;
use crate::ec2::errors::{id, invalid_value, missing, not_found};
use crate::ec2::row::{page, select};
use crate::ec2::tags;
use crate::plane::{Plane, Serve as _};
use crate::records::{PeerVpc, PeeringState, Vpc, VpcPeeringConnection};
use crate::state::{Transaction, View};

/// Of one VPC. Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const ACTIVE_MAX: usize = 50;
const PENDING_MAX: usize = 25;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::AcceptVpcPeeringConnection>(accept)
        .changes::<ec2::CreateVpcPeeringConnection>(create)
        .changes::<ec2::DeleteVpcPeeringConnection>(delete)
        .looks::<ec2::DescribeVpcPeeringConnections>(describe)
        .changes::<ec2::ModifyVpcPeeringConnectionOptions>(modify_options)
        .changes::<ec2::RejectVpcPeeringConnection>(reject)
}

fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateVpcPeeringConnectionRequest,
) -> Result<ec2::CreateVpcPeeringConnectionResult, Error> {
    let space = tx.space();
    let vpc: VpcId = id(&input.vpc_id)?;
    let requester = PeerVpc { account: space.account, region: space.region, vpc, resolves_names: false };
    let accepter = PeerVpc {
        vpc: id(&input.peer_vpc_id.ok_or_else(|| missing("peerVpcId"))?)?,
        account: input.peer_owner_id.map_or(Ok(space.account), |text| read_account(&text))?,
        region: input.peer_region.map_or(Ok(space.region), |text| read_region(&text))?,
        resolves_names: false,
    };
    let tags = tags::specified(&input.tag_specifications, "vpc-peering-connection")?;
    if accepter == requester {
        return Err(invalid_value(vpc, "peerVpcId", "A VPC is no peer of itself."));
    }
    tx.get::<Vpc>(vpc).ok_or_else(|| not_found(vpc))?;
    let accepters = vpc_of(tx.view(), &accepter);
    if accepters.is_none() && accepter.space() == space {
        return Err(not_found(accepter.vpc));
    }
    check_others(tx, &requester, &accepter)?;
    // What is not the caller's own is not told apart: neither its ranges nor whether it exists.
    let can_be =
        accepters.is_some_and(|theirs| tx.get::<Vpc>(vpc).is_some_and(|ours| are_apart(ours, theirs)));
    let state = if can_be {
        PeeringState::PendingAcceptance
    } else {
        let why = "incorrect VPC-ID, Account ID, or overlapping CIDR range".to_owned();
        PeeringState::Failed { at: tx.now(), why }
    };
    let id: VpcPeeringConnectionId = tx.new_id();
    let connection = VpcPeeringConnection { id, requester, accepter, created: tx.now(), state };
    if can_be {
        put(tx, connection);
    } else {
        tx.put(connection);
    }
    tags::add(tx, id, tags)?;
    Ok(ec2::CreateVpcPeeringConnectionResult { vpc_peering_connection: show::by_id(tx.view(), id) })
}

fn read_account(text: &str) -> Result<AccountId, Error> {
    text.parse().map_err(|_| invalid_value(text, "peerOwnerId", "This is no account: expected 12 digits."))
}

fn read_region(text: &str) -> Result<Region, Error> {
    text.parse().map_err(|_| invalid_value(text, "peerRegion", "There is no such region."))
}

fn vpc_of<'a>(view: View<'a>, peer: &PeerVpc) -> Option<&'a Vpc> {
    view.state.space(peer.space()).and_then(|tables| tables.vpcs.get(peer.vpc)).map(AsRef::as_ref)
}

fn are_apart(one: &Vpc, other: &Vpc) -> bool {
    !one.ranges.iter().any(|range| other.ranges.iter().any(|theirs| overlap(&range.cidr, &theirs.cidr)))
}

/// That two VPCs are not connected already, and that the one that asks has not asked too much.
fn check_others(tx: &Transaction<'_>, requester: &PeerVpc, accepter: &PeerVpc) -> Result<(), Error> {
    let mut pending = 0;
    for other in tx.tables().peering_connections.linked_to(requester.vpc) {
        let state = other.state_at(tx.now());
        if !matches!(state, PeeringState::Active | PeeringState::PendingAcceptance) {
            continue;
        }
        let are_connected = |one: &PeerVpc, two: &PeerVpc| {
            (one.space(), one.vpc, two.space(), two.vpc)
                == (requester.space(), requester.vpc, accepter.space(), accepter.vpc)
        };
        if are_connected(&other.requester, &other.accepter)
            || are_connected(&other.accepter, &other.requester)
        {
            let message = format!(
                "The VPC peering connection '{}' between {} and {} already exists",
                other.id, requester.vpc, accepter.vpc
            );
            return Err(Error::new("VpcPeeringConnectionAlreadyExists", message));
        }
        if state == PeeringState::PendingAcceptance && other.requester.vpc == requester.vpc {
            pending += 1;
        }
    }
    if pending >= PENDING_MAX {
        let message =
            format!("The vpc '{}' has {PENDING_MAX} requests that are not accepted.", requester.vpc);
        return Err(Error::new("OutstandingVpcPeeringConnectionLimitExceeded", message));
    }
    Ok(())
}

fn accept(
    tx: &mut Transaction<'_>,
    input: ec2::AcceptVpcPeeringConnectionRequest,
) -> Result<ec2::AcceptVpcPeeringConnectionResult, Error> {
    let connection = find(tx, &input.vpc_peering_connection_id)?;
    check_accepter(tx, &connection, "accept")?;
    check_pending(tx, &connection, "active")?;
    for side in [&connection.requester, &connection.accepter] {
        let tables = tx.view().state.space(side.space());
        let others = tables.into_iter().flat_map(|tables| tables.peering_connections.linked_to(side.vpc));
        if others.filter(|other| other.state == PeeringState::Active).count() >= ACTIVE_MAX {
            let message = format!("The vpc '{}' has {ACTIVE_MAX} active peering connections.", side.vpc);
            return Err(Error::new("ActiveVpcPeeringConnectionPerVpcLimitExceeded", message));
        }
    }
    let ours = vpc_of(tx.view(), &connection.accepter).ok_or_else(|| not_found(connection.accepter.vpc))?;
    // Either side may have changed since it was asked for.
    let can_be = vpc_of(tx.view(), &connection.requester).is_some_and(|theirs| are_apart(ours, theirs));
    if !can_be {
        let message = "The VPCs have overlapping ranges, or the requester's is gone.";
        return Err(Error::new("OperationNotPermitted", message));
    }
    let id = connection.id;
    put(tx, VpcPeeringConnection { state: PeeringState::Active, ..connection });
    Ok(ec2::AcceptVpcPeeringConnectionResult { vpc_peering_connection: show::by_id(tx.view(), id) })
}

fn reject(
    tx: &mut Transaction<'_>,
    input: ec2::RejectVpcPeeringConnectionRequest,
) -> Result<ec2::RejectVpcPeeringConnectionResult, Error> {
    let connection = find(tx, &input.vpc_peering_connection_id)?;
    check_accepter(tx, &connection, "reject")?;
    check_pending(tx, &connection, "rejected")?;
    let at = tx.now();
    put(tx, VpcPeeringConnection { state: PeeringState::Rejected { at }, ..connection });
    Ok(ec2::RejectVpcPeeringConnectionResult { r#return: Some(true) })
}

/// Either side ends what is active, and who asked takes back what is pending.
fn delete(
    tx: &mut Transaction<'_>,
    input: ec2::DeleteVpcPeeringConnectionRequest,
) -> Result<ec2::DeleteVpcPeeringConnectionResult, Error> {
    let connection = find(tx, &input.vpc_peering_connection_id)?;
    match connection.state_at(tx.now()) {
        PeeringState::Active => {}
        PeeringState::PendingAcceptance if connection.requester.space() == tx.space() => {}
        state => return Err(no_transition(connection.id, &state, "deleting")),
    }
    let state = PeeringState::Deleted { at: tx.now(), by: tx.space().account };
    put(tx, VpcPeeringConnection { state, ..connection });
    Ok(ec2::DeleteVpcPeeringConnectionResult { r#return: Some(true) })
}

fn modify_options(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyVpcPeeringConnectionOptionsRequest,
) -> Result<ec2::ModifyVpcPeeringConnectionOptionsResult, Error> {
    let mut connection = find(tx, &input.vpc_peering_connection_id)?;
    let (requesters, accepters) =
        (input.requester_peering_connection_options, input.accepter_peering_connection_options);
    if requesters.is_none() && accepters.is_none() {
        return Err(missing("RequesterPeeringConnectionOptions or AccepterPeeringConnectionOptions"));
    }
    if connection.state != PeeringState::Active {
        let message = format!(
            "Peering {} is not active. Peering options can be added only to active peerings.",
            connection.id
        );
        return Err(Error::new("OperationNotPermitted", message));
    }
    let space = tx.space();
    for (side, options, name) in [
        (&mut connection.requester, &requesters, "requester"),
        (&mut connection.accepter, &accepters, "accepter"),
    ] {
        let Some(options) = options else { continue };
        if side.space() != space {
            let message = format!("The account {} in {} is not the {name}.", space.account, space.region);
            return Err(Error::new("OperationNotPermitted", message));
        }
        side.resolves_names = options.allow_dns_resolution_from_remote_vpc.unwrap_or(side.resolves_names);
    }
    let shown = |side: &PeerVpc| ec2::PeeringConnectionOptions {
        allow_dns_resolution_from_remote_vpc: Some(side.resolves_names),
        allow_egress_from_local_classic_link_to_remote_vpc: Some(false),
        allow_egress_from_local_vpc_to_remote_classic_link: Some(false),
        ..Default::default()
    };
    let answer = ec2::ModifyVpcPeeringConnectionOptionsResult {
        requester_peering_connection_options: requesters.map(|_| shown(&connection.requester)),
        accepter_peering_connection_options: accepters.map(|_| shown(&connection.accepter)),
    };
    put(tx, connection);
    Ok(answer)
}

fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeVpcPeeringConnectionsRequest>,
) -> Result<ec2::DescribeVpcPeeringConnectionsResult, Error> {
    let rows = select(view, &call.input.vpc_peering_connection_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeVpcPeeringConnections, _>(call, rows)?;
    let vpc_peering_connections = Some(rows.iter().map(show::shown).collect());
    Ok(ec2::DescribeVpcPeeringConnectionsResult { vpc_peering_connections, next_token })
}

fn find(tx: &Transaction<'_>, text: &str) -> Result<VpcPeeringConnection, Error> {
    let id: VpcPeeringConnectionId = id(text)?;
    tx.get::<VpcPeeringConnection>(id).cloned().ok_or_else(|| not_found(id))
}

/// Puts a connection where both sides see it.
fn put(tx: &mut Transaction<'_>, connection: VpcPeeringConnection) {
    let (requester, accepter) = (connection.requester.space(), connection.accepter.space());
    if requester != accepter {
        tx.put_in(requester, connection.clone());
    }
    tx.put_in(accepter, connection);
}

/// That it is asked by who was asked.
fn check_accepter(tx: &Transaction<'_>, connection: &VpcPeeringConnection, verb: &str) -> Result<(), Error> {
    let (space, accepter, id) = (tx.space(), &connection.accepter, connection.id);
    if accepter.account != space.account {
        let message = format!("User ({}) cannot {verb} peering {id}", space.account);
        return Err(Error::new("OperationNotPermitted", message));
    }
    if accepter.region != space.region {
        let message = format!(
            "Incorrect region ({}) specified for this request. VPC peering connection {id} must be {verb}ed in region {}",
            space.region, accepter.region
        );
        return Err(Error::new("OperationNotPermitted", message));
    }
    Ok(())
}

fn check_pending(tx: &Transaction<'_>, connection: &VpcPeeringConnection, to: &str) -> Result<(), Error> {
    match connection.state_at(tx.now()) {
        PeeringState::PendingAcceptance => Ok(()),
        state => Err(no_transition(connection.id, &state, to)),
    }
}

fn no_transition(id: VpcPeeringConnectionId, from: &PeeringState, to: &str) -> Error {
    let from = status(from);
    let message = format!("Invalid state transition for {id}, attempted to transition from {from} to {to}");
    Error::new("InvalidStateTransition", message)
}
