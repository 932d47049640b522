//! The names by which instances and load balancers of all accounts in all regions are found, for who resolves them outside of any VPC.
//!
//! Those of instances lead to their public addresses, and from there back. Those of load balancers lead to one address for each zone, as everywhere:
//! private ones if they are internal.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;

use crate::ec2::all_public;
use crate::elbv2;
use crate::ledger::Stopped;
use crate::plane::Plane;
use crate::state::{State, View};

/// After a change, for others that come with it: they are told of together.
const PAUSE: Duration = Duration::from_millis(20);

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicNames {
    pub instances: BTreeMap<String, Ipv4Addr>,
    pub load_balancers: BTreeMap<String, Vec<Ipv4Addr>>,
}

/// Tells of all names whenever there are others, once that is durable.
///
/// # Errors
/// Always, in the end: why nothing is durable any more.
pub async fn follow(plane: &Plane, mut tell: impl FnMut(&PublicNames)) -> Result<(), Stopped> {
    let mut records = plane.ledger.changes();
    let mut told = None;
    loop {
        let (names, as_of) = plane.ledger.read(|state| all(state, plane.ledger.now()));
        plane.ledger.settled(as_of).await?;
        if told.as_ref() != Some(&names) {
            tell(&names);
            told = Some(names);
        }
        // The ledger, which is there, tells them.
        let _ = records.changed().await;
        tokio::time::sleep(PAUSE).await;
    }
}

fn all(state: &State, now: Timestamp) -> PublicNames {
    let mut names = PublicNames::default();
    for (space, tables) in state.spaces() {
        let view = View::new(state, space, now);
        for interface in tables.network_interfaces.iter() {
            names.instances.extend(all_public(view, interface));
        }
        let balancers = tables.load_balancers.iter();
        names.load_balancers.extend(
            balancers
                .map(|balancer| (elbv2::dns_name(space.region, balancer), elbv2::addresses(view, balancer))),
        );
    }
    names
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use types::{MacAddress, NetworkInterfaceId, RandomId as _};

    use super::*;
    use crate::records::{InterfaceOwner, NetworkInterface, PrivateAddress, Vpc};
    use crate::state::Transaction;
    use crate::store::Memory;
    use crate::testing::{plane, space};

    #[tokio::test(start_paused = true)]
    async fn names_are_told_as_they_come_and_go() {
        let plane = plane(Arc::new(Memory::new()), 1).await;
        plane.begin(space()).await.unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (follower, tell) = (Arc::clone(&plane), Arc::clone(&told));
        tokio::spawn(
            async move { follow(&follower, |names| tell.lock().unwrap().push(names.clone())).await },
        );
        let change = async |public: Option<Ipv4Addr>| {
            let put = |tx: &mut Transaction<'_>| {
                let subnet = tx.tables().subnets.iter().next().unwrap().clone();
                tx.put(NetworkInterface {
                    id: NetworkInterfaceId::from_random([1; 16]),
                    vpc: subnet.vpc,
                    subnet: subnet.id,
                    mac: MacAddress::new([6, 0, 0, 0, 0, 1]),
                    addresses: vec![PrivateAddress { ip: Ipv4Addr::new(172, 31, 0, 9), public_ip: public }],
                    groups: Vec::new(),
                    description: String::new(),
                    checks_source_and_destination: true,
                    attachment: None,
                    owner: InterfaceOwner::User,
                    wants_public_address: true,
                });
                Ok(subnet.vpc)
            };
            let vpc = plane.write(space(), put).await.unwrap();
            tokio::time::sleep(2 * PAUSE).await;
            vpc
        };
        let last = || told.lock().unwrap().last().cloned().unwrap_or_default();
        let address = Ipv4Addr::new(198, 18, 0, 5);
        let vpc = change(Some(address)).await;
        let name = "ec2-198-18-0-5.compute-1.amazonaws.com".to_owned();
        assert_eq!(last().instances, BTreeMap::from([(name, address)]));
        let count = told.lock().unwrap().len();
        change(Some(address)).await;
        assert_eq!(told.lock().unwrap().len(), count, "nothing is new");
        change(None).await;
        assert_eq!(last(), PublicNames::default());
        // A VPC without such names.
        let quiet = |tx: &mut Transaction<'_>| {
            tx.update::<Vpc>(vpc, |vpc| vpc.dns_hostnames = false);
            Ok(())
        };
        plane.write(space(), quiet).await.unwrap();
        change(Some(address)).await;
        assert_eq!(last(), PublicNames::default());
    }
}
