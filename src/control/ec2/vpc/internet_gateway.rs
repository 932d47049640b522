//! Internet gateways.

use std::sync::Arc;

use aws::filters::{Filtered, Values};
use aws::service::Empty;
use aws::{Call, Error, Table, ec2};
use types::{InternetGatewayId, VpcId};

use crate::ec2::errors::{dependency, id, not_found};
use crate::ec2::row::{Row, page, select};
use crate::ec2::tags;
use crate::plane::{Plane, Serve as _};
use crate::records::{InternetGateway, Vpc};
use crate::state::{Transaction, View};

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::AttachInternetGateway>(attach)
        .changes::<ec2::CreateInternetGateway>(create)
        .changes::<ec2::DeleteInternetGateway>(delete)
        .looks::<ec2::DescribeInternetGateways>(describe)
        .changes::<ec2::DetachInternetGateway>(detach)
}

fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateInternetGatewayRequest,
) -> Result<ec2::CreateInternetGatewayResult, Error> {
    let tags = tags::specified(&input.tag_specifications, "internet-gateway")?;
    let id: InternetGatewayId = tx.new_id();
    tx.put(InternetGateway { id, vpc: None });
    tags::add(tx, id, tags)?;
    let view = tx.view();
    let internet_gateway = view.get(id).map(|record| shown(&Row { view, record }));
    Ok(ec2::CreateInternetGatewayResult { internet_gateway })
}

fn delete(tx: &mut Transaction<'_>, input: ec2::DeleteInternetGatewayRequest) -> Result<Empty, Error> {
    let id: InternetGatewayId = id(&input.internet_gateway_id)?;
    let gateway = tx.get::<InternetGateway>(id).ok_or_else(|| not_found(id))?;
    if gateway.vpc.is_some() {
        return Err(dependency(format_args!("The internetGateway '{id}'")));
    }
    tx.remove::<InternetGateway>(id);
    Ok(Empty)
}

fn attach(tx: &mut Transaction<'_>, input: ec2::AttachInternetGatewayRequest) -> Result<Empty, Error> {
    let gateway: InternetGatewayId = id(&input.internet_gateway_id)?;
    let vpc: VpcId = id(&input.vpc_id)?;
    let found = tx.get::<InternetGateway>(gateway).ok_or_else(|| not_found(gateway))?;
    tx.get::<Vpc>(vpc).ok_or_else(|| not_found(vpc))?;
    if let Some(other) = found.vpc {
        let message = format!("resource {gateway} is already attached to network {other}");
        return Err(Error::new("Resource.AlreadyAssociated", message));
    }
    if is_in(tx.view(), vpc) {
        let message = format!("Network {vpc} already has an internet gateway attached");
        return Err(Error::new("InvalidParameterValue", message));
    }
    tx.update::<InternetGateway>(gateway, |gateway| gateway.vpc = Some(vpc));
    Ok(Empty)
}

pub(super) fn detach(
    tx: &mut Transaction<'_>,
    input: ec2::DetachInternetGatewayRequest,
) -> Result<Empty, Error> {
    let gateway: InternetGatewayId = id(&input.internet_gateway_id)?;
    let vpc: VpcId = id(&input.vpc_id)?;
    let found = tx.get::<InternetGateway>(gateway).ok_or_else(|| not_found(gateway))?;
    if found.vpc != Some(vpc) {
        let message = format!("resource {gateway} is not attached to network {vpc}");
        return Err(Error::new("Gateway.NotAttached", message));
    }
    if has_public_addresses(tx.view(), vpc) {
        let message = format!(
            "Network {vpc} has some mapped public address(es). Please unmap those public address(es) before detaching the gateway."
        );
        return Err(Error::new("DependencyViolation", message));
    }
    tx.update::<InternetGateway>(gateway, |gateway| gateway.vpc = None);
    Ok(Empty)
}

/// Whether a VPC has an internet gateway.
fn is_in(view: View<'_>, vpc: VpcId) -> bool {
    view.tables().internet_gateways.linked_to(vpc).next().is_some()
}

fn has_public_addresses(view: View<'_>, vpc: VpcId) -> bool {
    let tables = view.tables();
    tables.network_interfaces.linked_to(vpc).any(|interface| {
        interface.addresses.iter().any(|address| address.public_ip.is_some())
            || tables.addresses.linked_to(interface.id).next().is_some()
    })
}

fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeInternetGatewaysRequest>,
) -> Result<ec2::DescribeInternetGatewaysResult, Error> {
    let rows = select::<InternetGateway>(view, &call.input.internet_gateway_ids, &call.input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeInternetGateways, _>(call, rows)?;
    let internet_gateways = Some(rows.iter().map(shown).collect());
    Ok(ec2::DescribeInternetGatewaysResult { internet_gateways, next_token })
}

fn shown(row: &Row<'_, InternetGateway>) -> ec2::InternetGateway {
    let Row { view, record: gateway } = row;
    let attachment = |vpc: VpcId| ec2::InternetGatewayAttachment {
        state: Some(ec2::AttachmentStatus::Available),
        vpc_id: Some(vpc.to_string()),
    };
    ec2::InternetGateway {
        attachments: Some(gateway.vpc.into_iter().map(attachment).collect()),
        internet_gateway_id: Some(gateway.id.to_string()),
        owner_id: Some(view.space.account.to_string()),
        tags: Some(tags::shown(view, gateway.id).unwrap_or_default()),
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInternetGateways.html>.
impl Filtered for Row<'_, InternetGateway> {
    const NAMES: &'static [&'static str] =
        &["attachment.state", "attachment.vpc-id", "internet-gateway-id", "owner-id"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let gateway = self.record;
        match name {
            "attachment.state" => gateway.vpc.iter().for_each(|_| values.text("available")),
            "attachment.vpc-id" => gateway.vpc.iter().for_each(|vpc| values.shown(vpc)),
            "internet-gateway-id" => values.shown(gateway.id),
            "owner-id" => values.shown(self.view.space.account),
            _ => unreachable!("{name} is no filter of internet gateways"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
