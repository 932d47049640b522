//! When peering connections that came to nothing, or to their end, are forgotten: by each side for itself.
//!
//! Source: <https://docs.aws.amazon.com/vpc/latest/peering/vpc-peering-basics.html#vpc-peering-lifecycle>.

use jiff::{SignedDuration, Timestamp};
use types::VpcPeeringConnectionId;

use super::unhosted::STEPS_MAX;
use crate::records::{PeeringState, Tables, VpcPeeringConnection};
use crate::state::{Space, Transaction};

const SHORT: SignedDuration = SignedDuration::from_hours(2);
const LONG: SignedDuration = SignedDuration::from_hours(48);

/// When `side` is not told of a connection any more. None: nothing says that it ends.
pub fn forgotten(connection: &VpcPeeringConnection, side: Space, now: Timestamp) -> Option<Timestamp> {
    let is_requester = connection.requester.space() == side;
    let is_within_account = connection.requester.account == connection.accepter.account;
    let (at, how_long) = match connection.state_at(now) {
        PeeringState::PendingAcceptance | PeeringState::Active => return None,
        PeeringState::Failed { at, .. } => (at, SHORT),
        PeeringState::Expired { at } => (at, LONG),
        PeeringState::Rejected { at } => (at, if is_requester && !is_within_account { LONG } else { SHORT }),
        PeeringState::Deleted { at, by } => {
            (at, if is_within_account || by == side.account { SHORT } else { LONG })
        }
    };
    Some(at.saturating_add(how_long).unwrap_or(Timestamp::MAX))
}

/// Whether there is something to forget in a space.
pub fn is_due(tables: &Tables, space: Space, now: Timestamp) -> bool {
    over(tables, space, now).next().is_some()
}

/// Forgets in one space what its account is not told of any more.
pub fn pass(tx: &mut Transaction<'_>) {
    let over: Vec<_> = over(tx.tables(), tx.space(), tx.now()).take(STEPS_MAX).collect();
    over.into_iter().for_each(|id| tx.remove::<VpcPeeringConnection>(id));
}

fn over(tables: &Tables, space: Space, now: Timestamp) -> impl Iterator<Item = VpcPeeringConnectionId> {
    let is_over = move |connection: &VpcPeeringConnection| {
        forgotten(connection, space, now).is_some_and(|forgotten| now >= forgotten)
    };
    let unsettled = tables.peering_connections.unsettled();
    unsettled.filter(move |connection| is_over(connection)).map(|connection| connection.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::PeerVpc;
    use types::RandomId as _;

    const START: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn peer(account: &str, region: &str) -> PeerVpc {
        PeerVpc {
            account: account.parse().unwrap(),
            region: region.parse().unwrap(),
            vpc: types::VpcId::from_random([1; 16]),
            resolves_names: false,
        }
    }

    fn connection(accepter: &str, state: PeeringState) -> VpcPeeringConnection {
        VpcPeeringConnection {
            id: types::VpcPeeringConnectionId::from_random([2; 16]),
            requester: peer("000000000000", "us-east-1"),
            accepter: peer(accepter, "eu-west-1"),
            created: at(START),
            state,
        }
    }

    /// Hours after its end for which the requester and the accepter are told of it.
    fn hours(connection: &VpcPeeringConnection, end: i64) -> (i64, i64) {
        let of = |side: &PeerVpc| {
            let forgotten = forgotten(connection, side.space(), at(end)).unwrap();
            (forgotten.as_second() - end) / 3600
        };
        (of(&connection.requester), of(&connection.accepter))
    }

    #[test]
    fn each_side_is_told_for_as_long_as_the_life_cycle_says() {
        let (same, other) = ("000000000000", "111111111111");
        let (end, by) = (at(START), same.parse().unwrap());
        for (accepter, state, expected) in [
            (other, PeeringState::Rejected { at: end }, (48, 2)),
            (same, PeeringState::Rejected { at: end }, (2, 2)),
            (other, PeeringState::Deleted { at: end, by }, (2, 48)),
            (same, PeeringState::Deleted { at: end, by }, (2, 2)),
            (other, PeeringState::Failed { at: end, why: String::new() }, (2, 2)),
        ] {
            let connection = connection(accepter, state);
            assert_eq!(hours(&connection, START), expected, "{connection:?}");
        }
        assert_eq!(
            forgotten(&connection(other, PeeringState::Active), peer(same, "us-east-1").space(), end),
            None
        );
    }

    #[test]
    fn what_nobody_accepts_expires_in_a_week() {
        let connection = connection("111111111111", PeeringState::PendingAcceptance);
        let week = START + 7 * 24 * 3600;
        assert_eq!(connection.state_at(at(week - 1)), PeeringState::PendingAcceptance);
        assert_eq!(connection.state_at(at(week)), PeeringState::Expired { at: at(week) });
        assert_eq!(hours(&connection, week), (48, 48));
    }
}
