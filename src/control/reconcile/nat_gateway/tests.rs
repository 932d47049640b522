use std::net::Ipv4Addr;

use types::{AllocationId, InternetGatewayId, NetworkInterfaceId};

use super::*;
use crate::records::{AddressAssociation, InterfaceOwner, InternetGateway, PrivateAddress};
use crate::state::{State, View};
use crate::testing::{Seeded, space};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A state with a public gateway in a VPC with or without an internet gateway.
struct World {
    state: State,
    entropy: Seeded,
    gateway: NatGatewayId,
    address: AllocationId,
    interface: NetworkInterfaceId,
}

impl World {
    fn new(has_internet: bool) -> Self {
        let (mut state, mut entropy) = (State::default(), Seeded::new(0));
        let mut tx = Transaction::begin(&mut state, space(), at(0), &mut entropy);
        let (gateway, address, interface) = (tx.new_id(), tx.new_id(), tx.new_id());
        let (vpc, subnet, ip) = (tx.new_id(), tx.new_id(), Ipv4Addr::new(10, 0, 0, 4));
        if has_internet {
            let id: InternetGatewayId = tx.new_id();
            tx.put(InternetGateway { id, vpc: Some(vpc) });
        }
        let association = AddressAssociation { id: tx.new_id(), interface, private_ip: ip };
        let public_ip = Ipv4Addr::new(198, 51, 100, 1);
        tx.put(Address { id: address, public_ip, association: Some(association) });
        tx.put(NetworkInterface {
            id: interface,
            vpc,
            subnet,
            mac: types::MacAddress::new([2; 6]),
            addresses: vec![PrivateAddress { ip, public_ip: None }],
            groups: Vec::new(),
            description: String::new(),
            checks_source_and_destination: false,
            attachment: None,
            owner: InterfaceOwner::NatGateway(gateway),
            wants_public_address: false,
        });
        tx.put(NatGateway {
            id: gateway,
            vpc,
            subnet,
            interface,
            address: Some(address),
            created: at(0),
            state: NatGatewayState::Pending,
        });
        tx.finish();
        Self { state, entropy, gateway, address, interface }
    }

    fn pass(&mut self, second: i64) -> Option<NatGatewayState> {
        self.write(second, pass);
        let view = View::new(&self.state, space(), at(second));
        view.get::<NatGateway>(self.gateway).map(|gateway| gateway.state.clone())
    }

    fn write(&mut self, second: i64, change: impl FnOnce(&mut Transaction<'_>)) {
        let mut tx = Transaction::begin(&mut self.state, space(), at(second), &mut self.entropy);
        change(&mut tx);
        tx.finish();
    }

    /// Whether it has its interface, and its address.
    fn has(&self) -> (bool, bool) {
        let view = View::new(&self.state, space(), at(0));
        let address = view.get::<Address>(self.address).unwrap();
        (view.get::<NetworkInterface>(self.interface).is_some(), address.association.is_some())
    }

    fn is_settled(&self) -> bool {
        self.state.space(space()).unwrap().nat_gateways.unsettled().next().is_none()
    }
}

#[test]
fn a_gateway_becomes_available_and_stays_so() {
    let mut world = World::new(true);
    assert!(!world.is_settled());
    assert_eq!(world.pass(1), Some(NatGatewayState::Available));
    assert!(world.is_settled());
    assert_eq!(world.pass(1_000_000), Some(NatGatewayState::Available));
    assert_eq!(world.has(), (true, true));
}

#[test]
fn a_public_gateway_without_a_way_out_fails_and_gives_back_what_it_took() {
    let mut world = World::new(false);
    let Some(NatGatewayState::Failed { code, .. }) = world.pass(1) else { panic!("it did not fail") };
    assert_eq!(code, "Gateway.NotAttached");
    assert_eq!(world.has(), (false, false));
    assert!(world.pass(3600).is_some());
    assert_eq!(world.pass(3601), None);
}

#[test]
fn what_is_deleted_is_told_of_for_an_hour() {
    let mut world = World::new(true);
    world.pass(1);
    let id = world.gateway;
    world.write(10, |tx| enter(tx, id, NatGatewayState::Deleting { since: at(10) }));
    assert_eq!(world.pass(11), Some(NatGatewayState::Deleted { at: at(11) }));
    assert_eq!(world.has(), (false, false));
    assert!(!world.is_settled(), "nobody would forget it");
    assert!(world.pass(3610).is_some());
    assert_eq!(world.pass(3611), None);
    assert!(world.is_settled());
}

#[test]
fn an_address_that_has_moved_on_is_left_alone() {
    let mut world = World::new(true);
    let (id, address) = (world.gateway, world.address);
    world.write(10, |tx| {
        let other = AddressAssociation {
            id: tx.new_id(),
            interface: tx.new_id(),
            private_ip: Ipv4Addr::new(10, 0, 0, 9),
        };
        tx.update::<Address>(address, |address| address.association = Some(other));
        enter(tx, id, NatGatewayState::Deleting { since: at(10) });
    });
    world.pass(11);
    assert_eq!(world.has(), (false, true));
}
