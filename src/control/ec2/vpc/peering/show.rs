//! Peering connections as one of their sides sees them.

use aws::ec2;
use aws::ec2::VpcPeeringConnectionStateReasonCode as Code;
use aws::filters::{Filtered, Values};
use types::VpcPeeringConnectionId;

use super::vpc_of;
use crate::ec2::row::Row;
use crate::ec2::tags;
use crate::records::{PeerVpc, PeeringState, Vpc, VpcPeeringConnection};
use crate::state::View;

pub(super) fn by_id(view: View<'_>, id: VpcPeeringConnectionId) -> Option<ec2::VpcPeeringConnection> {
    view.get::<VpcPeeringConnection>(id).map(|record| shown(&Row { view, record }))
}

pub(in crate::ec2) const fn status(state: &PeeringState) -> Code {
    match state {
        PeeringState::PendingAcceptance => Code::PendingAcceptance,
        PeeringState::Active => Code::Active,
        PeeringState::Rejected { .. } => Code::Rejected,
        PeeringState::Expired { .. } => Code::Expired,
        PeeringState::Deleted { .. } => Code::Deleted,
        PeeringState::Failed { .. } => Code::Failed,
    }
}

fn message(connection: &VpcPeeringConnection, state: &PeeringState) -> String {
    match state {
        PeeringState::PendingAcceptance => {
            format!("Pending Acceptance by {}", connection.accepter.account)
        }
        PeeringState::Active => "Active".to_owned(),
        PeeringState::Rejected { .. } => format!("Rejected by {}", connection.accepter.account),
        PeeringState::Expired { .. } => "Expired".to_owned(),
        PeeringState::Deleted { by, .. } => format!("Deleted by {by}"),
        PeeringState::Failed { why, .. } => format!("Failed due to {why}"),
    }
}

pub(super) fn shown(row: &Row<'_, VpcPeeringConnection>) -> ec2::VpcPeeringConnection {
    let Row { view, record: connection } = *row;
    let state = connection.state_at(view.now);
    let expiration_time = (state == PeeringState::PendingAcceptance).then(|| connection.expires());
    ec2::VpcPeeringConnection {
        accepter_vpc_info: Some(side(row, &connection.accepter)),
        expiration_time,
        requester_vpc_info: Some(side(row, &connection.requester)),
        status: Some(ec2::VpcPeeringConnectionStateReason {
            code: Some(status(&state)),
            message: Some(message(connection, &state)),
        }),
        tags: Some(tags::shown(&view, connection.id).unwrap_or_default()),
        vpc_peering_connection_id: Some(connection.id.to_string()),
        ..Default::default()
    }
}

/// The VPC of one side, where it may be seen: the accepter's is its own business until it accepts.
fn visible<'a>(row: &Row<'a, VpcPeeringConnection>, peer: &PeerVpc) -> Option<&'a Vpc> {
    let Row { view, record: connection } = *row;
    let is_seen = peer.space() == view.space
        || match connection.state {
            PeeringState::Active => true,
            PeeringState::PendingAcceptance => peer == &connection.requester,
            _ => false,
        };
    is_seen.then(|| vpc_of(view, peer)).flatten()
}

fn side(row: &Row<'_, VpcPeeringConnection>, peer: &PeerVpc) -> ec2::VpcPeeringConnectionVpcInfo {
    let vpc = visible(row, peer);
    let ranges = |vpc: &Vpc| {
        let range = |cidr: String| ec2::CidrBlock { cidr_block: Some(cidr) };
        vpc.ranges.iter().map(|each| range(each.cidr.to_string())).collect()
    };
    let options = ec2::VpcPeeringConnectionOptionsDescription {
        allow_dns_resolution_from_remote_vpc: Some(peer.resolves_names),
        allow_egress_from_local_classic_link_to_remote_vpc: Some(false),
        allow_egress_from_local_vpc_to_remote_classic_link: Some(false),
        ..Default::default()
    };
    ec2::VpcPeeringConnectionVpcInfo {
        cidr_block: vpc.and_then(|vpc| vpc.ranges.first()).map(|range| range.cidr.to_string()),
        cidr_block_set: vpc.map(ranges),
        owner_id: Some(peer.account.to_string()),
        peering_options: vpc.map(|_| options),
        vpc_id: Some(peer.vpc.to_string()),
        region: Some(peer.region.to_string()),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVpcPeeringConnections.html>.
impl Filtered for Row<'_, VpcPeeringConnection> {
    const NAMES: &'static [&'static str] = &[
        "accepter-vpc-info.cidr-block",
        "accepter-vpc-info.owner-id",
        "accepter-vpc-info.vpc-id",
        "expiration-time",
        "requester-vpc-info.cidr-block",
        "requester-vpc-info.owner-id",
        "requester-vpc-info.vpc-id",
        "status-code",
        "status-message",
        "vpc-peering-connection-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let connection = self.record;
        let mut of_side = |peer: &PeerVpc, field: &str| match field {
            "cidr-block" => {
                let range = visible(self, peer).and_then(|vpc| vpc.ranges.first());
                range.iter().for_each(|range| values.shown(range.cidr));
            }
            "owner-id" => values.shown(peer.account),
            _ => values.shown(peer.vpc),
        };
        if let Some(field) = name.strip_prefix("accepter-vpc-info.") {
            return of_side(&connection.accepter, field);
        }
        if let Some(field) = name.strip_prefix("requester-vpc-info.") {
            return of_side(&connection.requester, field);
        }
        let state = connection.state_at(self.view.now);
        match name {
            "expiration-time" if state == PeeringState::PendingAcceptance => {
                values.shown(format_args!("{:.3}", connection.expires()));
            }
            "expiration-time" => {}
            "status-code" => values.text(status(&state).as_str()),
            "status-message" => values.text(&message(connection, &state)),
            "vpc-peering-connection-id" => values.shown(connection.id),
            _ => unreachable!("{name} is no filter of peering connections"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
