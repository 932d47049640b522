//! Networks: VPCs in which something runs are on the host as their records say, and for a while after; others are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{InstanceId, ResourceId, VpcId};

use super::agenda::Agenda;
use super::{CHANGES_MAX, sleep_until};
use crate::ec2::{fabric, onlookers};
use crate::ledger::{AsOf, Stopped, Written};
use crate::plane::Plane;
use crate::ports::Networks;
use crate::records::{
    Address, Attachment, AttachmentState, Former, Instance, NetworkInterface, Tables, VpcPeeringConnection,
};
use crate::state::{Space, State, View};

/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a VPC stays on the host after its last instance. Instances that come and go need not wait for it to be made, which takes as long as all else
/// that they wait for.
const IDLE_MAX: Duration = Duration::from_secs(60);

type Subject = (Space, VpcId);

/// Works until the store takes no more.
///
/// # Errors
/// [`Stopped`].
pub async fn run(plane: Arc<Plane>, networks: Arc<dyn Networks>) -> Result<(), Stopped> {
    let mut feed = plane.ledger.follow();
    let mut agenda = Agenda::new();
    let (mut work, mut changes, mut expiries) = (JoinSet::new(), Vec::new(), BTreeMap::new());
    remove_unknown(&plane, networks.as_ref()).await?;
    let (all, as_of) = plane.ledger.read(all);
    all.into_iter().for_each(|subject| agenda.changed(subject, as_of));
    loop {
        while let Some(subject) = agenda.begin() {
            let expiry = expiries.remove(&subject);
            work.spawn(advance(Arc::clone(&plane), Arc::clone(&networks), subject, expiry));
        }
        let next = agenda.next();
        tokio::select! {
            _ = feed.recv_many(&mut changes, CHANGES_MAX) => {
                let _ = plane.ledger.read(|state| note_changes(state, &mut agenda, &mut changes));
            }
            Some(Ok(halt)) = work.join_next() => {
                let Halt { subject, seen, until, expiry } = halt?;
                expiries.extend(expiry.map(|expiry| (subject, expiry)));
                agenda.halted(subject, seen, until);
            }
            () = sleep_until(next) => {}
        }
    }
}

fn all(state: &State) -> Vec<Subject> {
    let of =
        |(space, tables): (Space, &Tables)| tables.vpcs.iter().map(|vpc| (space, vpc.id)).collect::<Vec<_>>();
    state.spaces().flat_map(of).collect()
}

/// Of VPCs without a record something may have been left.
async fn remove_unknown(plane: &Plane, networks: &dyn Networks) -> Result<(), Stopped> {
    let (known, as_of) = plane.ledger.read(all);
    plane.ledger.settled(as_of).await?;
    let known: BTreeSet<_> = known.into_iter().map(|(_, vpc)| vpc).collect();
    for id in networks.vpcs().into_iter().filter(|id| !known.contains(id)) {
        if let Err(error) = networks.remove(id).await {
            tracing::warn!(%id, "{error}");
        }
    }
    Ok(())
}

/// What came of work on a VPC.
struct Halt {
    subject: Subject,
    seen: AsOf,
    until: Option<Instant>,
    /// When what there is of it goes, if nothing runs in it until then.
    expiry: Option<Instant>,
}

async fn advance(
    plane: Arc<Plane>,
    networks: Arc<dyn Networks>,
    subject: Subject,
    expiry: Option<Instant>,
) -> Result<Halt, Stopped> {
    let (space, id) = subject;
    let time = plane.ledger.now();
    let (spec, seen) = plane.ledger.read(|state| fabric(View::new(state, space, time), id));
    plane.ledger.settled(seen).await?;
    let now = Instant::now();
    let expiry = match &spec {
        Some(spec) if spec.is_in_use() => None,
        Some(_) if networks.vpcs().contains(&id) => expiry.or(Some(now + IDLE_MAX)),
        _ => Some(now),
    };
    let stays = expiry.is_none_or(|expiry| expiry > now);
    let outcome = match spec.filter(|_| stays) {
        Some(spec) => networks.apply(spec).await,
        None => networks.remove(id).await,
    };
    let until = match outcome {
        Ok(()) => expiry.filter(|_| stays),
        Err(error) => {
            tracing::warn!(%id, "{error}");
            Some(Instant::now() + RETRY)
        }
    };
    Ok(Halt { subject, seen, until, expiry: until.and(expiry) })
}

fn note_changes(state: &State, agenda: &mut Agenda<Subject>, changes: &mut Vec<Written>) {
    for Written { as_of, former } in changes.drain(..) {
        for (space, former) in former.iter() {
            let Some(tables) = state.space(*space) else { continue };
            touched(tables, former, &mut |vpc| {
                let own = (*space, vpc);
                for subject in onlookers(state, *space, vpc).into_iter().chain([own]) {
                    agenda.changed(subject, as_of);
                }
            });
        }
    }
}

/// The VPCs that a change is about.
fn touched(tables: &Tables, former: &Former, touch: &mut dyn FnMut(VpcId)) {
    macro_rules! each {
        ($before:expr, $now:expr, |$row:ident| $vpcs:expr) => {
            for $row in $before.iter().chain($now).map(AsRef::as_ref) {
                $vpcs.into_iter().for_each(&mut *touch);
            }
        };
    }
    match former {
        Former::Vpc(id, _) => touch(*id),
        Former::Subnet(id, before) => each!(before, tables.subnets.get(*id), |row| [row.vpc]),
        Former::RouteTable(id, before) => each!(before, tables.route_tables.get(*id), |row| [row.vpc]),
        Former::NetworkAcl(id, before) => each!(before, tables.network_acls.get(*id), |row| [row.vpc]),
        Former::SecurityGroup(id, before) => each!(before, tables.security_groups.get(*id), |row| [row.vpc]),
        Former::NetworkInterface(id, before) => {
            let now = tables.network_interfaces.get(*id);
            if before.as_deref().map(wanted) != now.map(AsRef::as_ref).map(wanted) {
                each!(before, now, |row| [row.vpc]);
            }
        }
        Former::InternetGateway(id, before) => {
            each!(before, tables.internet_gateways.get(*id), |row| row.vpc)
        }
        Former::NatGateway(id, before) => each!(before, tables.nat_gateways.get(*id), |row| [row.vpc]),
        Former::VpcPeeringConnection(id, before) => {
            each!(before, tables.peering_connections.get(*id), |row| own_ends(tables, row));
        }
        Former::Address(id, before) => {
            each!(before, tables.addresses.get(*id), |row| of_address(tables, row));
        }
        Former::InstanceNotices(id, _) => of_instance(tables, *id).into_iter().for_each(touch),
        Former::DhcpOptions(id, _) => of(tables, (*id).into()).into_iter().for_each(touch),
        Former::Instance(id, before) => {
            let is_on_host = |row: Option<&Instance>| row.is_some_and(Instance::is_on_host);
            let now = tables.instances.get(*id).map(AsRef::as_ref);
            if is_on_host(before.as_deref()) != is_on_host(now) {
                of_instance(tables, *id).into_iter().for_each(touch);
            }
        }
        _ => {}
    }
}

fn of(tables: &Tables, options: ResourceId) -> Vec<VpcId> {
    tables.vpcs.linked_to(options).map(|vpc| vpc.id).collect()
}

/// An interface as its VPC has it: how far it is on its way into an instance or out of it is nothing to that.
fn wanted(interface: &NetworkInterface) -> NetworkInterface {
    let state = AttachmentState::default();
    let attachment = interface.attachment.clone().map(|attachment| Attachment { state, ..attachment });
    NetworkInterface { attachment, ..interface.clone() }
}

/// The other end may be another space's, whose own record of the connection tells of it.
fn own_ends(tables: &Tables, connection: &VpcPeeringConnection) -> Vec<VpcId> {
    let ends = [connection.requester.vpc, connection.accepter.vpc];
    ends.into_iter().filter(|vpc| tables.vpcs.get(*vpc).is_some()).collect()
}

fn of_address(tables: &Tables, address: &Address) -> Option<VpcId> {
    let interface = address.association.as_ref()?.interface;
    tables.network_interfaces.get(interface).map(|interface| interface.vpc)
}

fn of_instance(tables: &Tables, id: InstanceId) -> BTreeSet<VpcId> {
    tables.network_interfaces.linked_to(id).map(|interface| interface.vpc).collect()
}

#[cfg(test)]
mod tests;
