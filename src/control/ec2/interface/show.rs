//! Interfaces as they are shown and found.

use std::net::Ipv4Addr;

use aws::ec2;
use aws::filters::{Filtered, Values};
use types::{InstanceId, SecurityGroupId};

use super::{LOAD_BALANCING, elastic, names};
use crate::ec2::row::{Row, time};
use crate::ec2::tags;
use crate::records::{
    Attachment, AttachmentState, InterfaceOwner, NetworkInterface, PrivateAddress, SecurityGroup, Subnet,
};
use crate::state::View;

/// Whose public addresses are that go with an instance.
const AMAZON: &str = "amazon";

pub(super) fn shown(row: &Row<'_, NetworkInterface>) -> ec2::NetworkInterface {
    let Row { view, record: interface } = *row;
    let addresses = interface.addresses.iter().enumerate();
    let shown = addresses.map(|(place, address)| shown_address(view, interface, address, place == 0));
    let shown: Vec<_> = shown.collect();
    let zone = view.get::<Subnet>(interface.subnet).map(|subnet| subnet.zone);
    let primary = shown.first().cloned().unwrap_or_default();
    let public_dns_name =
        primary.association.as_ref().and_then(|association| association.public_dns_name.clone());
    let attachment = interface.attachment.as_ref().map(|attachment| shown_attachment(view, attachment));
    ec2::NetworkInterface {
        association: primary.association,
        attachment: attachment.or_else(|| of_load_balancer(interface)),
        availability_zone: zone.map(|zone| zone.to_string()),
        availability_zone_id: zone.map(|zone| zone.id()),
        description: Some(interface.description.clone()),
        groups: Some(shown_groups(view, &interface.groups)),
        interface_type: Some(interface_type(interface)),
        ipv6_addresses: Some(Vec::new()),
        mac_address: Some(interface.mac.to_string()),
        network_interface_id: Some(interface.id.to_string()),
        owner_id: Some(view.space.account.to_string()),
        private_dns_name: primary.private_dns_name,
        public_dns_name,
        private_ip_address: primary.private_ip_address,
        private_ip_addresses: Some(shown),
        requester_id: requester(view, interface),
        requester_managed: Some(interface.owner != InterfaceOwner::User),
        source_dest_check: Some(interface.checks_source_and_destination),
        status: Some(status(interface)),
        subnet_id: Some(interface.subnet.to_string()),
        tag_set: Some(tags::shown(&view, interface.id).unwrap_or_default()),
        vpc_id: Some(interface.vpc.to_string()),
        deny_all_igw_traffic: Some(false),
        operator: Some(ec2::OperatorResponse { managed: Some(false), ..Default::default() }),
        ..Default::default()
    }
}

fn interface_type(interface: &NetworkInterface) -> ec2::NetworkInterfaceType {
    match interface.owner {
        InterfaceOwner::User | InterfaceOwner::LoadBalancer(_) => ec2::NetworkInterfaceType::Interface,
        InterfaceOwner::NatGateway(_) => ec2::NetworkInterfaceType::NatGateway,
    }
}

fn status(interface: &NetworkInterface) -> ec2::NetworkInterfaceStatus {
    if interface.attachment.is_some() || interface.owner != InterfaceOwner::User {
        ec2::NetworkInterfaceStatus::InUse
    } else {
        ec2::NetworkInterfaceStatus::Available
    }
}

fn shown_address(
    view: View<'_>,
    interface: &NetworkInterface,
    address: &PrivateAddress,
    is_primary: bool,
) -> ec2::NetworkInterfacePrivateIpAddress {
    ec2::NetworkInterfacePrivateIpAddress {
        association: association(view, interface, address),
        primary: Some(is_primary),
        private_dns_name: Some(names::private(view.space.region, address.ip)),
        private_ip_address: Some(address.ip.to_string()),
    }
}

/// The public address that leads to a private one.
fn association(
    view: View<'_>,
    interface: &NetworkInterface,
    address: &PrivateAddress,
) -> Option<ec2::NetworkInterfaceAssociation> {
    let public = |public: Ipv4Addr, owner: String| ec2::NetworkInterfaceAssociation {
        ip_owner_id: Some(owner),
        public_dns_name: names::public(view, interface.vpc, public),
        public_ip: Some(public.to_string()),
        ..Default::default()
    };
    if let Some((elastic, association)) = elastic(view, interface.id, address.ip) {
        return Some(ec2::NetworkInterfaceAssociation {
            allocation_id: Some(elastic.id.to_string()),
            association_id: Some(association.to_string()),
            ..public(elastic.public_ip, view.space.account.to_string())
        });
    }
    let owner = match interface.owner {
        InterfaceOwner::LoadBalancer(_) => LOAD_BALANCING,
        InterfaceOwner::User | InterfaceOwner::NatGateway(_) => AMAZON,
    };
    address.public_ip.map(|address| public(address, owner.to_owned()))
}

/// Who has asked for it, if that was a service.
fn requester(view: View<'_>, interface: &NetworkInterface) -> Option<String> {
    match interface.owner {
        InterfaceOwner::User => None,
        InterfaceOwner::NatGateway(_) => Some(view.space.account.to_string()),
        InterfaceOwner::LoadBalancer(_) => Some(LOAD_BALANCING.to_owned()),
    }
}

/// Load balancers are attached to something of the service's own, of which no more is told.
fn of_load_balancer(interface: &NetworkInterface) -> Option<ec2::NetworkInterfaceAttachment> {
    let is_its = matches!(interface.owner, InterfaceOwner::LoadBalancer(_));
    is_its.then(|| ec2::NetworkInterfaceAttachment {
        delete_on_termination: Some(false),
        device_index: Some(1),
        instance_owner_id: Some(LOAD_BALANCING.to_owned()),
        network_card_index: Some(0),
        status: Some(ec2::AttachmentStatus::Attached),
        ..Default::default()
    })
}

pub(super) fn shown_attachment(view: View<'_>, attachment: &Attachment) -> ec2::NetworkInterfaceAttachment {
    ec2::NetworkInterfaceAttachment {
        attach_time: Some(attachment.attached),
        attachment_id: Some(attachment.id.to_string()),
        delete_on_termination: Some(attachment.delete_on_termination),
        device_index: Some(attachment.device_index.into()),
        network_card_index: Some(0),
        instance_id: Some(attachment.instance.to_string()),
        instance_owner_id: Some(view.space.account.to_string()),
        status: Some(attachment_status(attachment)),
        ..Default::default()
    }
}

fn attachment_status(attachment: &Attachment) -> ec2::AttachmentStatus {
    match attachment.state {
        AttachmentState::Attaching => ec2::AttachmentStatus::Attaching,
        AttachmentState::Attached => ec2::AttachmentStatus::Attached,
        AttachmentState::Detaching { .. } => ec2::AttachmentStatus::Detaching,
    }
}

pub(in crate::ec2) fn shown_groups(view: View<'_>, groups: &[SecurityGroupId]) -> Vec<ec2::GroupIdentifier> {
    let shown = |id: &SecurityGroupId| ec2::GroupIdentifier {
        group_id: Some(id.to_string()),
        group_name: view.get::<SecurityGroup>(*id).map(|group| group.name.clone()),
    };
    groups.iter().map(shown).collect()
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeNetworkInterfaces.html>.
impl Filtered for Row<'_, NetworkInterface> {
    const NAMES: &'static [&'static str] = &[
        "addresses.association.owner-id",
        "addresses.association.public-ip",
        "addresses.primary",
        "addresses.private-ip-address",
        "association.allocation-id",
        "association.association-id",
        "association.ip-owner-id",
        "association.public-dns-name",
        "association.public-ip",
        "attachment.attach-time",
        "attachment.attachment-id",
        "attachment.delete-on-termination",
        "attachment.device-index",
        "attachment.instance-id",
        "attachment.instance-owner-id",
        "attachment.status",
        "availability-zone",
        "availability-zone-id",
        "description",
        "group-id",
        "group-name",
        "interface-type",
        "ipv6-addresses.ipv6-address",
        "mac-address",
        "network-interface-id",
        "operator.managed",
        "owner-id",
        "private-dns-name",
        "private-ip-address",
        "requester-id",
        "requester-managed",
        "source-dest-check",
        "status",
        "subnet-id",
        "vpc-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let Row { view, record: interface } = *self;
        let primary = interface.addresses.first();
        if let Some(name) = name.strip_prefix("attachment.") {
            interface.attachment.iter().for_each(|attachment| of_attachment(view, attachment, name, values));
            return;
        }
        if let Some(name) = name.strip_prefix("association.") {
            let found = primary.and_then(|address| association(view, interface, address));
            found.iter().for_each(|association| of_association(association, name, values));
            return;
        }
        if let Some(name) = name.strip_prefix("addresses.") {
            of_addresses(self, name, values);
            return;
        }
        let zone = || view.get::<Subnet>(interface.subnet).map(|subnet| subnet.zone);
        match name {
            "availability-zone" => zone().iter().for_each(|zone| values.shown(zone)),
            "availability-zone-id" => zone().iter().for_each(|zone| values.text(&zone.id())),
            "description" => values.text(&interface.description),
            "group-id" => interface.groups.iter().for_each(|group| values.shown(group)),
            "group-name" => {
                let names = interface.groups.iter().filter_map(|group| view.get::<SecurityGroup>(*group));
                names.for_each(|group| values.text(&group.name));
            }
            "interface-type" => values.shown(interface_type(interface)),
            // No interface has one.
            "ipv6-addresses.ipv6-address" => {}
            "mac-address" => values.shown(interface.mac),
            "network-interface-id" => values.shown(interface.id),
            "operator.managed" => values.flag(false),
            "owner-id" => values.shown(view.space.account),
            "private-dns-name" => {
                primary
                    .iter()
                    .for_each(|address| values.text(&names::private(view.space.region, address.ip)));
            }
            "private-ip-address" => primary.iter().for_each(|address| values.shown(address.ip)),
            "requester-id" => requester(view, interface).iter().for_each(|id| values.text(id)),
            "requester-managed" => values.flag(interface.owner != InterfaceOwner::User),
            "source-dest-check" => values.flag(interface.checks_source_and_destination),
            "status" => values.text(status(interface).as_str()),
            "subnet-id" => values.shown(interface.subnet),
            "vpc-id" => values.shown(interface.vpc),
            _ => unreachable!("{name} is no filter of network interfaces"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}

fn of_attachment(view: View<'_>, attachment: &Attachment, name: &str, values: &mut Values<'_>) {
    let instance: InstanceId = attachment.instance;
    match name {
        "attach-time" => values.text(&time(attachment.attached)),
        "attachment-id" => values.shown(attachment.id),
        "delete-on-termination" => values.flag(attachment.delete_on_termination),
        "device-index" => values.shown(attachment.device_index),
        "instance-id" => values.shown(instance),
        "instance-owner-id" => values.shown(view.space.account),
        "status" => values.text(attachment_status(attachment).as_str()),
        _ => unreachable!("{name} is no filter of attachments"),
    }
}

fn of_association(association: &ec2::NetworkInterfaceAssociation, name: &str, values: &mut Values<'_>) {
    let value = match name {
        "allocation-id" => &association.allocation_id,
        "association-id" => &association.association_id,
        "ip-owner-id" | "owner-id" => &association.ip_owner_id,
        "public-dns-name" => &association.public_dns_name,
        "public-ip" => &association.public_ip,
        _ => unreachable!("{name} is no filter of associations"),
    };
    value.iter().for_each(|value| values.text(value));
}

fn of_addresses(row: &Row<'_, NetworkInterface>, name: &str, values: &mut Values<'_>) {
    let Row { view, record: interface } = *row;
    for (place, address) in interface.addresses.iter().enumerate() {
        match (name, name.strip_prefix("association.")) {
            (_, Some(name)) => {
                let found = association(view, interface, address);
                found.iter().for_each(|association| of_association(association, name, values));
            }
            ("primary", _) => values.flag(place == 0),
            ("private-ip-address", _) => values.shown(address.ip),
            _ => unreachable!("{name} is no filter of addresses"),
        }
    }
}
