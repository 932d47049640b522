//! On a network that is not there, which keeps what it was told last.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use types::{AddressAssociationId, AllocationId, AttachmentId, SecurityGroupId, VpcPeeringConnectionId};

use super::*;
use crate::ports::{BoxFuture, HostError, VpcSpec};
use crate::records::{
    AddressAssociation, Attachment, AttachmentState, Cause, InstanceState, NetworkInterface, Peer, PeerVpc,
    PeeringState, SecurityGroup, Stored, Vpc,
};
use crate::state::Transaction;
use crate::store::Memory;
use crate::testing::{plane, space};

#[derive(Default)]
struct Told {
    vpcs: Mutex<BTreeMap<VpcId, Option<VpcSpec>>>,
    refuses: Mutex<bool>,
}

impl Told {
    fn vpcs(&self) -> std::sync::MutexGuard<'_, BTreeMap<VpcId, Option<VpcSpec>>> {
        self.vpcs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of it was told last; none: it is not to be there.
    fn last(&self, id: VpcId) -> Option<VpcSpec> {
        self.vpcs().get(&id).cloned().flatten()
    }
}

impl Networks for Told {
    fn vpcs(&self) -> Vec<VpcId> {
        self.vpcs().keys().copied().collect()
    }

    fn apply(&self, spec: VpcSpec) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async move {
            if *self.refuses.lock().unwrap() {
                return Err(HostError::Unavailable("not now".to_owned()));
            }
            self.vpcs().insert(spec.id, Some(spec));
            Ok(())
        })
    }

    fn remove(&self, id: VpcId) -> BoxFuture<'_, Result<(), HostError>> {
        self.vpcs().remove(&id);
        Box::pin(async { Ok(()) })
    }

    fn dropped(&self, _: VpcId) -> BoxFuture<'_, Result<Option<BTreeMap<&'static str, u64>>, HostError>> {
        Box::pin(async { Ok(None) })
    }
}

fn id<Id: types::RandomId>(number: u8) -> Id {
    Id::from_random([number; 16])
}

const PRIVATE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 9);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);

/// An instance with an interface in the default VPC.
fn launch(tx: &mut Transaction<'_>) {
    let attachment = Attachment {
        id: id::<AttachmentId>(1),
        instance: id(1),
        device_index: 0,
        attached: tx.now(),
        delete_on_termination: true,
        state: AttachmentState::Attached,
    };
    tx.put(crate::testing::instance(id(1), InstanceState::Pending, tx.now()));
    tx.put(crate::testing::interface(tx.tables(), id(1), PRIVATE, Some(attachment)));
}

fn default_vpc(tables: &Tables) -> VpcId {
    tables.vpcs.iter().next().unwrap().id
}

struct Lab {
    plane: Arc<Plane>,
    told: Arc<Told>,
    vpc: VpcId,
}

impl Lab {
    async fn new() -> Self {
        let plane = plane(Arc::new(Memory::new()), 1).await;
        plane.begin(space()).await.unwrap();
        let (vpc, _) = plane.ledger.read(|state| default_vpc(state.space(space()).unwrap()));
        let told = Arc::new(Told::default());
        // Of a VPC that was deleted while nobody looked.
        told.vpcs().insert(id(99), None);
        tokio::spawn(run(Arc::clone(&plane), told.clone()));
        Self { plane, told, vpc }
    }

    async fn write(&self, change: impl FnOnce(&mut Transaction<'_>)) {
        self.write_in(space(), change).await;
    }

    async fn write_in(&self, space: Space, change: impl FnOnce(&mut Transaction<'_>)) {
        super::super::write(&self.plane, space, change).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn update<R: Stored>(&self, id: R::Id, change: impl FnOnce(&mut R)) {
        self.write(|tx| assert!(tx.update(id, change))).await;
    }

    fn last(&self) -> Option<VpcSpec> {
        self.told.last(self.vpc)
    }
}

#[tokio::test(start_paused = true)]
async fn a_vpc_is_there_while_something_runs_in_it_and_a_while_after() {
    let lab = Lab::new().await;
    lab.write(|_| {}).await;
    assert!(lab.told.vpcs().is_empty(), "{:?}", lab.told.vpcs());
    lab.write(launch).await;
    let spec = lab.last().unwrap();
    assert_eq!((spec.domain.as_str(), spec.has_resolver, spec.interfaces.len()), ("ec2.internal", true, 1));
    let port = &spec.interfaces[0];
    assert_eq!(port.interface.addresses, [(PRIVATE, None)]);
    assert_eq!(port.interface.host_name, "ip-172-31-0-9.ec2.internal");
    // Each subnet has its ACL and a route table, which the spec has too.
    assert!(spec.internet_gateway.is_some() && spec.dhcp_options.is_some() && !spec.subnets.is_empty());
    for subnet in &spec.subnets {
        assert!(spec.acls.iter().any(|acl| acl.id == subnet.acl));
        assert!(spec.route_tables.iter().any(|table| table.id == subnet.route_table));
    }
    let stopped = InstanceState::Stopped { cause: Cause::User, since: jiff::Timestamp::UNIX_EPOCH };
    let set = async |state: InstanceState| lab.update::<Instance>(id(1), |it| it.state = state).await;
    set(stopped.clone()).await;
    assert_eq!(lab.last(), Some(VpcSpec { interfaces: Vec::new(), ..spec.clone() }));
    tokio::time::sleep(IDLE_MAX / 2).await;
    set(InstanceState::Pending).await;
    assert_eq!(lab.last(), Some(spec.clone()));
    // The time begins anew, and what changes meanwhile does not begin it anew.
    set(stopped).await;
    tokio::time::sleep(IDLE_MAX * 3 / 4).await;
    lab.update::<Vpc>(lab.vpc, |vpc| vpc.dns_support = false).await;
    assert!(!lab.last().unwrap().has_resolver);
    tokio::time::sleep(IDLE_MAX / 4).await;
    assert_eq!(lab.last(), None);
    lab.update::<Vpc>(lab.vpc, |vpc| vpc.dns_support = true).await;
    assert_eq!(lab.last(), None, "nothing is made for a VPC in which nothing runs");
    set(InstanceState::Pending).await;
    assert_eq!(lab.last(), Some(spec));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_idle_vpc_when_this_begins_goes_in_time() {
    let plane = plane(Arc::new(Memory::new()), 1).await;
    plane.begin(space()).await.unwrap();
    let (vpc, _) = plane.ledger.read(|state| default_vpc(state.space(space()).unwrap()));
    let told = Arc::new(Told::default());
    told.vpcs().insert(vpc, None);
    tokio::spawn(run(plane, told.clone()));
    tokio::time::sleep(IDLE_MAX / 2).await;
    assert!(told.vpcs().contains_key(&vpc));
    tokio::time::sleep(IDLE_MAX).await;
    assert!(told.vpcs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_changes_in_a_vpc_is_told() {
    let lab = Lab::new().await;
    lab.write(launch).await;
    let group: SecurityGroupId = lab.last().unwrap().groups[0].id;
    lab.update::<SecurityGroup>(group, |group| group.rules.clear()).await;
    assert!(lab.last().unwrap().groups[0].rules.is_empty());
    let association =
        AddressAssociation { id: id::<AddressAssociationId>(1), interface: id(1), private_ip: PRIVATE };
    let allocation: AllocationId = id(1);
    lab.write(|tx| tx.put(Address { id: allocation, public_ip: PUBLIC, association: Some(association) }))
        .await;
    let public = |lab: &Lab| lab.last().unwrap().interfaces[0].interface.addresses[0].1;
    assert_eq!(public(&lab), Some(PUBLIC));
    lab.update::<Address>(allocation, |address| address.association = None).await;
    assert_eq!(public(&lab), None);
    lab.update::<Vpc>(lab.vpc, |vpc| vpc.dns_support = false).await;
    assert!(!lab.last().unwrap().has_resolver);
    lab.update::<NetworkInterface>(id(1), |it| it.checks_source_and_destination = false).await;
    assert!(!lab.last().unwrap().interfaces[0].checks_source_and_destination);
}

#[tokio::test(start_paused = true)]
async fn what_a_host_cannot_do_now_is_asked_of_it_again() {
    let lab = Lab::new().await;
    *lab.told.refuses.lock().unwrap() = true;
    lab.write(launch).await;
    assert_eq!(lab.last(), None);
    *lab.told.refuses.lock().unwrap() = false;
    tokio::time::sleep(RETRY * 2).await;
    assert!(lab.last().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_peer_in_another_space_is_left_to_that() {
    let lab = Lab::new().await;
    lab.write(launch).await;
    // What the other account's work has made.
    let foreign: VpcId = id(50);
    lab.told.vpcs().insert(foreign, None);
    let side = |vpc| PeerVpc { account: space().account, region: space().region, vpc, resolves_names: false };
    let connection: VpcPeeringConnectionId = id(1);
    let (requester, accepter) = (side(lab.vpc), side(foreign));
    lab.write(|tx| {
        let (created, state) = (tx.now(), PeeringState::Active);
        tx.put(VpcPeeringConnection { id: connection, requester, accepter, created, state });
    })
    .await;
    assert_eq!(lab.last().unwrap().peerings, [(connection, foreign)].into());
    assert!(lab.told.vpcs().contains_key(&foreign));
}

/// A peer of the default VPC: that of another account, which has a rule's group.
struct PeerLab {
    lab: Lab,
    theirs: Space,
    group: SecurityGroupId,
}

impl PeerLab {
    /// With an instance in the first VPC, one of whose rules names the other's default group.
    async fn new() -> Self {
        let lab = Lab::new().await;
        let theirs = Space { account: types::AccountId::new(222_222_222_222).unwrap(), ..space() };
        lab.plane.begin(theirs).await.unwrap();
        let ((vpc, group), _) = lab.plane.ledger.read(|state| {
            let tables = state.space(theirs).unwrap();
            let vpc = default_vpc(tables);
            (vpc, tables.security_groups.linked_to(vpc).next().unwrap().id)
        });
        let side = |space: Space, vpc| {
            let Space { account, region } = space;
            PeerVpc { account, region, vpc, resolves_names: false }
        };
        let (requester, accepter) = (side(space(), lab.vpc), side(theirs, vpc));
        let connect = |tx: &mut Transaction<'_>| {
            let (created, state) = (tx.now(), PeeringState::Active);
            tx.put(VpcPeeringConnection { id: id(1), requester, accepter, created, state });
        };
        lab.write(|tx| {
            launch(tx);
            connect(tx);
        })
        .await;
        lab.write_in(theirs, connect).await;
        let own: SecurityGroupId = lab.last().unwrap().groups[0].id;
        lab.update::<SecurityGroup>(own, |own| {
            own.rules[0].peer = Peer::Group(group);
        })
        .await;
        Self { lab, theirs, group }
    }

    async fn write(&self, change: impl FnOnce(&mut Transaction<'_>)) {
        self.lab.write_in(self.theirs, change).await;
    }

    /// The addresses that the first VPC is told are in the other's group.
    fn members(&self) -> Vec<Ipv4Addr> {
        self.lab.last().unwrap().peer_members[&self.group].iter().copied().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_in_a_peers_group_is_told_as_it_changes() {
    let peers = PeerLab::new().await;
    assert!(peers.members().is_empty());
    peers.write(launch).await;
    assert_eq!(peers.members(), [PRIVATE]);
    let groups = |tx: &mut Transaction<'_>, groups: Vec<SecurityGroupId>| {
        assert!(tx.update::<NetworkInterface>(id(1), |interface| interface.groups = groups));
    };
    peers.write(|tx| groups(tx, vec![])).await;
    assert!(peers.members().is_empty());
    peers.write(|tx| groups(tx, vec![peers.group])).await;
    assert_eq!(peers.members(), [PRIVATE]);
    let stopped = InstanceState::Stopped { cause: Cause::User, since: jiff::Timestamp::UNIX_EPOCH };
    peers.write(|tx| assert!(tx.update::<Instance>(id(1), |it| it.state = stopped))).await;
    assert!(peers.members().is_empty());
    peers.write(|tx| assert!(tx.update::<Instance>(id(1), |it| it.state = InstanceState::Running))).await;
    assert_eq!(peers.members(), [PRIVATE]);
    // Without the connection it is nobody's business.
    let over = |connection: &mut VpcPeeringConnection| {
        let (at, by) = (jiff::Timestamp::UNIX_EPOCH, space().account);
        connection.state = PeeringState::Deleted { at, by };
    };
    peers.lab.update::<VpcPeeringConnection>(id(1), over).await;
    let spec = peers.lab.last().unwrap();
    assert!(spec.peer_members.is_empty() && spec.peerings.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peers_names_lead_to_private_addresses_if_it_says_so() {
    let peers = PeerLab::new().await;
    let names = || peers.lab.last().unwrap().peer_names;
    peers.write(launch).await;
    let publish = |tx: &mut Transaction<'_>, public: Option<Ipv4Addr>| {
        let publish = |interface: &mut NetworkInterface| interface.addresses[0].public_ip = public;
        assert!(tx.update::<NetworkInterface>(id(1), publish));
    };
    peers.write(|tx| publish(tx, Some(PUBLIC))).await;
    assert!(names().is_empty());
    let allow = |connection: &mut VpcPeeringConnection| connection.accepter.resolves_names = true;
    peers.write(|tx| assert!(tx.update::<VpcPeeringConnection>(id(1), allow))).await;
    peers.lab.update::<VpcPeeringConnection>(id(1), allow).await;
    let name = "ec2-198-18-0-9.compute-1.amazonaws.com".to_owned();
    assert_eq!(names(), [(name.clone(), PRIVATE)].into());
    // An address that comes and goes, and VPCs without names.
    peers.write(|tx| publish(tx, None)).await;
    assert!(names().is_empty());
    peers.write(|tx| publish(tx, Some(PUBLIC))).await;
    assert_eq!(names().len(), 1);
    let theirs: VpcId = peers.lab.last().unwrap().peerings[&id(1)];
    peers.write(|tx| assert!(tx.update::<Vpc>(theirs, |vpc| vpc.dns_hostnames = false))).await;
    assert!(names().is_empty());
    peers.write(|tx| assert!(tx.update::<Vpc>(theirs, |vpc| vpc.dns_hostnames = true))).await;
    assert_eq!(names(), [(name, PRIVATE)].into());
    peers.lab.update::<Vpc>(peers.lab.vpc, |vpc| vpc.dns_hostnames = false).await;
    assert!(names().is_empty());
}
