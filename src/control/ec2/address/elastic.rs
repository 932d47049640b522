//! Elastic addresses: an account's own, until it releases them.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::service::Empty;
use aws::{Call, Error, ec2};
use types::AllocationId;

use super::pool::take_this;
use super::{by_public, named, take_public};
use crate::ec2::errors::invalid_value;
use crate::ec2::row::{Row, select};
use crate::ec2::tags;
use crate::records::{Address, NetworkInterface};
use crate::state::{Transaction, View};

/// Of an account in a region. AWS begins with 5 and gives more to who asks: here nobody is there to be asked.
pub(in crate::ec2) const ADDRESSES_MAX: usize = 100;

/// What AWS calls the pool that its own addresses come from.
const POOL_NAME: &str = "amazon";

pub(super) fn allocate(
    tx: &mut Transaction<'_>,
    input: ec2::AllocateAddressRequest,
) -> Result<ec2::AllocateAddressResult, Error> {
    if input.domain == Some(ec2::DomainType::Standard) {
        return Err(invalid_value("standard", "domain", "There are no addresses outside VPCs."));
    }
    check_border_group(tx.view(), input.network_border_group.as_deref())?;
    let tags = tags::specified(&input.tag_specifications, "elastic-ip")?;
    if tx.tables().addresses.iter().len() >= ADDRESSES_MAX {
        let message = "The maximum number of addresses has been reached.";
        return Err(Error::new("AddressLimitExceeded", message));
    }
    let public_ip = match &input.address {
        Some(text) => {
            let wanted = text.parse().map_err(|_| invalid_value(text, "address", "Invalid IPv4 address."))?;
            take_this(tx, wanted)?
        }
        None => take_public(tx)?,
    };
    let id: AllocationId = tx.new_id();
    tx.put(Address { id, public_ip, association: None });
    tags::add(tx, id, tags)?;
    Ok(ec2::AllocateAddressResult {
        allocation_id: Some(id.to_string()),
        public_ipv4_pool: Some(POOL_NAME.to_owned()),
        network_border_group: Some(tx.space().region.to_string()),
        domain: Some(ec2::DomainType::Vpc),
        public_ip: Some(public_ip.to_string()),
        ..Default::default()
    })
}

/// A region is one border group.
fn check_border_group(view: View<'_>, named: Option<&str>) -> Result<(), Error> {
    match named.filter(|group| *group != view.space.region.name()) {
        Some(group) => {
            let why = format!("The network border group of this region is '{}'.", view.space.region);
            Err(invalid_value(group, "networkBorderGroup", why))
        }
        None => Ok(()),
    }
}

pub(super) fn release(tx: &mut Transaction<'_>, input: ec2::ReleaseAddressRequest) -> Result<Empty, Error> {
    check_border_group(tx.view(), input.network_border_group.as_deref())?;
    let address = named(tx.view(), input.allocation_id.as_deref(), input.public_ip.as_deref())?;
    if address.association.is_some() || tx.tables().nat_gateways.linked_to(address.id).next().is_some() {
        let message = format!("Address {} is in use.", address.public_ip);
        return Err(Error::new("InvalidIPAddress.InUse", message));
    }
    let id = address.id;
    tx.remove::<Address>(id);
    Ok(Empty)
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeAddressesRequest>,
) -> Result<ec2::DescribeAddressesResult, Error> {
    let mut ids = call.input.allocation_ids.clone();
    for public in &call.input.public_ips {
        ids.push(by_public(view, public)?.id.to_string());
    }
    let rows = select::<Address>(view, &ids, &call.input.filters)?;
    Ok(ec2::DescribeAddressesResult { addresses: Some(rows.iter().map(shown).collect()) })
}

/// Addresses with the names that ask DNS for them gives: nobody can give them any.
pub(super) fn describe_attribute(
    view: View<'_>,
    call: &Call<ec2::DescribeAddressesAttributeRequest>,
) -> Result<ec2::DescribeAddressesAttributeResult, Error> {
    let rows = select::<Address>(view, &call.input.allocation_ids, &[])?;
    let page = Page::of::<ec2::DescribeAddressesAttribute>(call)?;
    let (rows, next_token) = page.take(rows, |row| row.record.id.to_string());
    let shown = |row: &Row<'_, Address>| ec2::AddressAttribute {
        public_ip: Some(row.record.public_ip.to_string()),
        allocation_id: Some(row.record.id.to_string()),
        ..Default::default()
    };
    let addresses = Some(rows.iter().map(shown).collect());
    Ok(ec2::DescribeAddressesAttributeResult { addresses, next_token })
}

fn interface<'a>(row: &Row<'a, Address>) -> Option<&'a NetworkInterface> {
    let association = row.record.association.as_ref()?;
    row.view.get::<NetworkInterface>(association.interface)
}

fn shown(row: &Row<'_, Address>) -> ec2::Address {
    let Row { view, record: address } = *row;
    let association = address.association.as_ref();
    let interface = interface(row);
    let attachment = interface.and_then(|interface| interface.attachment.as_ref());
    ec2::Address {
        allocation_id: Some(address.id.to_string()),
        association_id: association.map(|association| association.id.to_string()),
        domain: Some(ec2::DomainType::Vpc),
        network_interface_id: association.map(|association| association.interface.to_string()),
        network_interface_owner_id: association.map(|_| view.space.account.to_string()),
        private_ip_address: association.map(|association| association.private_ip.to_string()),
        tags: tags::shown(&view, address.id),
        public_ipv4_pool: Some(POOL_NAME.to_owned()),
        network_border_group: Some(view.space.region.to_string()),
        subnet_id: interface.map(|interface| interface.subnet.to_string()),
        instance_id: attachment.map(|attachment| attachment.instance.to_string()),
        public_ip: Some(address.public_ip.to_string()),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeAddresses.html>.
impl Filtered for Row<'_, Address> {
    const NAMES: &'static [&'static str] = &[
        "allocation-id",
        "association-id",
        "domain",
        "instance-id",
        "network-border-group",
        "network-interface-id",
        "network-interface-owner-id",
        "private-ip-address",
        "public-ip",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let Row { view, record: address } = *self;
        let association = address.association.iter();
        match name {
            "allocation-id" => values.shown(address.id),
            "association-id" => association.for_each(|association| values.shown(association.id)),
            "domain" => values.text("vpc"),
            "instance-id" => {
                let attachment = interface(self).and_then(|interface| interface.attachment.as_ref());
                attachment.iter().for_each(|attachment| values.shown(attachment.instance));
            }
            "network-border-group" => values.shown(view.space.region),
            "network-interface-id" => association.for_each(|association| values.shown(association.interface)),
            "network-interface-owner-id" => association.for_each(|_| values.shown(view.space.account)),
            "private-ip-address" => association.for_each(|association| values.shown(association.private_ip)),
            "public-ip" => values.shown(address.public_ip),
            _ => unreachable!("{name} is no filter of addresses"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
