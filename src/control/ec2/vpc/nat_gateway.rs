//! NAT gateways: asked for and given up here, made and taken away by their [reconciler](crate::reconcile::nat_gateway).
//!
//! What nobody else has is taken at once: an address of the subnet, with an interface, and the Elastic address.

use std::net::Ipv4Addr;
use std::sync::Arc;

use aws::filters::{Filtered, Values};
use aws::{Call, Error, Table, ec2};
use types::{AllocationId, NatGatewayId, NetworkInterfaceId, SubnetId};

use crate::ec2::errors::{id, invalid_value, missing, not_found};
use crate::ec2::interface::{self, NewInterface};
use crate::ec2::once::once;
use crate::ec2::row::{Row, page, select};
use crate::ec2::tags;
use crate::plane::{Plane, Serve as _};
use crate::records::{
    Address, AddressAssociation, InterfaceOwner, NatGateway, NatGatewayState, NetworkInterface, Subnet,
};
use crate::state::{Transaction, View};

/// In one zone. Source: <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>.
const GATEWAYS_MAX: usize = 5;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CreateNatGateway>(create)
        .changes::<ec2::DeleteNatGateway>(delete)
        .looks::<ec2::DescribeNatGateways>(describe)
}

fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateNatGatewayRequest,
) -> Result<ec2::CreateNatGatewayResult, Error> {
    let client_token = input.client_token.clone();
    let id = once::<ec2::CreateNatGateway, NatGatewayId>(tx, input, make)?;
    let nat_gateway = Some(shown_by_id(tx, id).ok_or_else(|| not_found(id))?);
    Ok(ec2::CreateNatGatewayResult { client_token, nat_gateway })
}

fn make(tx: &mut Transaction<'_>, input: ec2::CreateNatGatewayRequest) -> Result<NatGatewayId, Error> {
    let subnet: SubnetId = id(&input.subnet_id.ok_or_else(|| missing("SubnetId"))?)?;
    let address = wanted_address(tx, input.connectivity_type, input.allocation_id.as_deref())?;
    let tags = tags::specified(&input.tag_specifications, "natgateway")?;
    let found = tx.get::<Subnet>(subnet).ok_or_else(|| not_found(subnet))?.clone();
    check_limit(tx, &found)?;
    let wanted = input.private_ip_address.as_deref().map(address_of).transpose()?;
    let id: NatGatewayId = tx.new_id();
    let interface = make_interface(tx, id, &found, wanted)?;
    if let Some(address) = address {
        let made = tx.get::<NetworkInterface>(interface).and_then(|interface| interface.addresses.first());
        let private_ip = made.map(|address| address.ip).ok_or_else(Error::internal)?;
        let association = AddressAssociation { id: tx.new_id(), interface, private_ip };
        tx.update::<Address>(address, |address| address.association = Some(association));
    }
    tx.put(NatGateway {
        id,
        vpc: found.vpc,
        subnet,
        interface,
        address,
        created: tx.now(),
        state: NatGatewayState::Pending,
    });
    tags::add(tx, id, tags)?;
    Ok(id)
}

/// The Elastic address that the gateway will send from, if it is a public one.
fn wanted_address(
    tx: &Transaction<'_>,
    kind: Option<ec2::ConnectivityType>,
    allocation: Option<&str>,
) -> Result<Option<AllocationId>, Error> {
    match (kind.unwrap_or(ec2::ConnectivityType::Public), allocation) {
        (ec2::ConnectivityType::Private, None) => Ok(None),
        (ec2::ConnectivityType::Private, Some(_)) => {
            let message =
                "The parameter AllocationId cannot be specified for a NAT gateway with private connectivity";
            Err(Error::new("InvalidParameterCombination", message))
        }
        (ec2::ConnectivityType::Public, None) => Err(missing("AllocationId")),
        (ec2::ConnectivityType::Public, Some(allocation)) => {
            let allocation: AllocationId = id(allocation)?;
            let address = tx.get::<Address>(allocation).ok_or_else(|| not_found(allocation))?;
            if address.association.is_some() {
                let message = format!("Elastic IP address [{allocation}] is already associated");
                return Err(Error::new("Resource.AlreadyAssociated", message));
            }
            Ok(Some(allocation))
        }
    }
}

fn check_limit(tx: &Transaction<'_>, subnet: &Subnet) -> Result<(), Error> {
    let tables = tx.tables();
    let zone_of = |gateway: &NatGateway| tables.subnets.get(gateway.subnet).map(|subnet| subnet.zone);
    let gateways = tables.nat_gateways.iter().filter(|gateway| gateway.is_there());
    if gateways.filter(|gateway| zone_of(gateway) == Some(subnet.zone)).count() < GATEWAYS_MAX {
        return Ok(());
    }
    let message = format!(
        "Performing this operation would exceed the limit of {GATEWAYS_MAX} NAT gateways in {}",
        subnet.zone
    );
    Err(Error::new("NatGatewayLimitExceeded", message))
}

fn address_of(text: &str) -> Result<Ipv4Addr, Error> {
    text.parse().map_err(|_| invalid_value(text, "PrivateIpAddress", "This is no IPv4 address."))
}

/// In no group, as all interfaces of gateways.
fn make_interface(
    tx: &mut Transaction<'_>,
    gateway: NatGatewayId,
    subnet: &Subnet,
    primary: Option<Ipv4Addr>,
) -> Result<NetworkInterfaceId, Error> {
    let new = NewInterface {
        primary,
        description: format!("Interface for NAT Gateway {gateway}"),
        owner: InterfaceOwner::NatGateway(gateway),
        ..NewInterface::of(subnet.id)
    };
    let id = interface::make(tx, new)?;
    tx.update::<NetworkInterface>(id, |interface| {
        interface.groups.clear();
        interface.checks_source_and_destination = false;
    });
    Ok(id)
}

fn delete(
    tx: &mut Transaction<'_>,
    input: ec2::DeleteNatGatewayRequest,
) -> Result<ec2::DeleteNatGatewayResult, Error> {
    let id: NatGatewayId = id(&input.nat_gateway_id)?;
    let now = tx.now();
    let state = match &tx.get::<NatGateway>(id).ok_or_else(|| not_found(id))?.state {
        NatGatewayState::Pending | NatGatewayState::Available => NatGatewayState::Deleting { since: now },
        NatGatewayState::Failed { .. } => NatGatewayState::Deleted { at: now },
        state @ NatGatewayState::Deleting { .. } => state.clone(),
        NatGatewayState::Deleted { .. } => return Err(not_found(id)),
    };
    tx.update::<NatGateway>(id, |gateway| gateway.state = state);
    Ok(ec2::DeleteNatGatewayResult { nat_gateway_id: Some(id.to_string()) })
}

fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeNatGatewaysRequest>,
) -> Result<ec2::DescribeNatGatewaysResult, Error> {
    let rows = select::<NatGateway>(view, &call.input.nat_gateway_ids, &call.input.filter)?;
    let (rows, next_token) = page::<ec2::DescribeNatGateways, _>(call, rows)?;
    Ok(ec2::DescribeNatGatewaysResult { nat_gateways: Some(rows.iter().map(shown).collect()), next_token })
}

fn shown_by_id(tx: &Transaction<'_>, id: NatGatewayId) -> Option<ec2::NatGateway> {
    let view = tx.view();
    view.get::<NatGateway>(id).map(|record| shown(&Row { view, record }))
}

fn state(gateway: &NatGateway) -> ec2::NatGatewayState {
    match gateway.state {
        NatGatewayState::Pending => ec2::NatGatewayState::Pending,
        NatGatewayState::Available => ec2::NatGatewayState::Available,
        NatGatewayState::Failed { .. } => ec2::NatGatewayState::Failed,
        NatGatewayState::Deleting { .. } => ec2::NatGatewayState::Deleting,
        NatGatewayState::Deleted { .. } => ec2::NatGatewayState::Deleted,
    }
}

fn shown(row: &Row<'_, NatGateway>) -> ec2::NatGateway {
    let Row { view, record: gateway } = *row;
    let connectivity = match gateway.address {
        Some(_) => ec2::ConnectivityType::Public,
        None => ec2::ConnectivityType::Private,
    };
    let shown = ec2::NatGateway {
        create_time: Some(gateway.created),
        nat_gateway_addresses: Some(vec![shown_address(view, gateway)]),
        nat_gateway_id: Some(gateway.id.to_string()),
        state: Some(state(gateway)),
        subnet_id: Some(gateway.subnet.to_string()),
        vpc_id: Some(gateway.vpc.to_string()),
        tags: tags::shown(&view, gateway.id),
        connectivity_type: Some(connectivity),
        ..Default::default()
    };
    match &gateway.state {
        NatGatewayState::Pending | NatGatewayState::Available => shown,
        NatGatewayState::Failed { code, message, at } => ec2::NatGateway {
            failure_code: Some(code.clone()),
            failure_message: Some(message.clone()),
            delete_time: Some(*at),
            ..shown
        },
        NatGatewayState::Deleting { since: at } | NatGatewayState::Deleted { at } => {
            ec2::NatGateway { delete_time: Some(*at), ..shown }
        }
    }
}

fn shown_address(view: View<'_>, gateway: &NatGateway) -> ec2::NatGatewayAddress {
    let interface = view.get::<NetworkInterface>(gateway.interface);
    let address = gateway.address.filter(|_| gateway.is_there()).and_then(|id| view.get::<Address>(id));
    let association = address.and_then(|address| address.association.as_ref());
    let status = match gateway.state {
        NatGatewayState::Pending => ec2::NatGatewayAddressStatus::Associating,
        NatGatewayState::Available => ec2::NatGatewayAddressStatus::Succeeded,
        NatGatewayState::Failed { .. } => ec2::NatGatewayAddressStatus::Failed,
        NatGatewayState::Deleting { .. } | NatGatewayState::Deleted { .. } => {
            ec2::NatGatewayAddressStatus::Disassociating
        }
    };
    ec2::NatGatewayAddress {
        allocation_id: gateway.address.map(|id| id.to_string()),
        network_interface_id: Some(gateway.interface.to_string()),
        private_ip: interface.and_then(|found| found.addresses.first()).map(|first| first.ip.to_string()),
        public_ip: address.map(|address| address.public_ip.to_string()),
        association_id: association.map(|association| association.id.to_string()),
        is_primary: Some(true),
        status: Some(status),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeNatGateways.html>.
impl Filtered for Row<'_, NatGateway> {
    const NAMES: &'static [&'static str] = &["nat-gateway-id", "state", "subnet-id", "vpc-id"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let gateway = self.record;
        match name {
            "nat-gateway-id" => values.shown(gateway.id),
            "state" => values.text(state(gateway).as_str()),
            "subnet-id" => values.shown(gateway.subnet),
            "vpc-id" => values.shown(gateway.vpc),
            _ => unreachable!("{name} is no filter of NAT gateways"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::vpc::{internet_gateway, make};
    use crate::reconcile::nat_gateway::pass;
    use crate::records::InternetGateway;
    use crate::state::State;
    use crate::testing::{Seeded, space};
    use jiff::Timestamp;
    use types::VpcId;

    fn request(subnet: SubnetId, address: AllocationId) -> ec2::CreateNatGatewayRequest {
        ec2::CreateNatGatewayRequest {
            subnet_id: Some(subnet.to_string()),
            allocation_id: Some(address.to_string()),
            ..Default::default()
        }
    }

    #[test]
    fn a_public_gateway_has_its_elastic_address_and_keeps_the_way_to_the_internet_open() {
        let (mut state, mut entropy) = (State::default(), Seeded::new(0));
        let mut tx = Transaction::begin(&mut state, space(), Timestamp::UNIX_EPOCH, &mut entropy);
        let vpc: VpcId = make::default_vpc(&mut tx);
        let subnet = tx.tables().subnets.linked_to(vpc).next().unwrap().id;
        let internet = tx.tables().internet_gateways.linked_to(vpc).next().unwrap().id;
        let (address, public_ip) = (tx.new_id(), Ipv4Addr::new(198, 51, 100, 7));
        tx.put(Address { id: address, public_ip, association: None });
        let made = create(&mut tx, request(subnet, address)).unwrap().nat_gateway.unwrap();
        assert_eq!(made.state, Some(ec2::NatGatewayState::Pending));
        pass(&mut tx);
        let id: NatGatewayId = made.nat_gateway_id.unwrap().parse().unwrap();
        let shown = shown_by_id(&tx, id).unwrap();
        assert_eq!(shown.state, Some(ec2::NatGatewayState::Available));
        let [its] = shown.nat_gateway_addresses.as_deref().unwrap() else { panic!("{shown:?}") };
        assert_eq!(its.public_ip.as_deref(), Some("198.51.100.7"));
        assert_eq!(its.allocation_id, Some(address.to_string()));
        assert!(its.association_id.is_some() && its.private_ip.is_some());

        let other = create(&mut tx, request(subnet, address)).unwrap_err();
        assert_eq!(other.code, "Resource.AlreadyAssociated");
        let detach = ec2::DetachInternetGatewayRequest {
            internet_gateway_id: internet.to_string(),
            vpc_id: vpc.to_string(),
            ..Default::default()
        };
        let refused = internet_gateway::detach(&mut tx, detach.clone()).unwrap_err();
        assert_eq!(refused.code, "DependencyViolation");
        let gone = ec2::DeleteNatGatewayRequest { nat_gateway_id: id.to_string(), ..Default::default() };
        delete(&mut tx, gone).unwrap();
        pass(&mut tx);
        internet_gateway::detach(&mut tx, detach).unwrap();
        assert_eq!(tx.get::<InternetGateway>(internet).unwrap().vpc, None);
        assert_eq!(tx.get::<Address>(address).unwrap().association, None);
    }
}
