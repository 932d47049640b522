//! Interfaces as parts of the instances that they are in.

use aws::ec2;

use super::show::shown;
use crate::ec2::row::Row;
use crate::records::NetworkInterface;

/// What `DescribeInstances` tells of an interface: less than `DescribeNetworkInterfaces` does.
pub(in crate::ec2) fn in_instance(row: &Row<'_, NetworkInterface>) -> ec2::InstanceNetworkInterface {
    let whole = shown(row);
    let addresses = whole.private_ip_addresses.into_iter().flatten();
    ec2::InstanceNetworkInterface {
        association: whole.association.map(association),
        attachment: whole.attachment.map(|attachment| ec2::InstanceNetworkInterfaceAttachment {
            attach_time: attachment.attach_time,
            attachment_id: attachment.attachment_id,
            delete_on_termination: attachment.delete_on_termination,
            device_index: attachment.device_index,
            status: attachment.status,
            network_card_index: attachment.network_card_index,
            ..Default::default()
        }),
        description: whole.description,
        groups: whole.groups,
        ipv6_addresses: Some(Vec::new()),
        mac_address: whole.mac_address,
        network_interface_id: whole.network_interface_id,
        owner_id: whole.owner_id,
        private_dns_name: whole.private_dns_name,
        private_ip_address: whole.private_ip_address,
        private_ip_addresses: Some(addresses.map(address).collect()),
        source_dest_check: whole.source_dest_check,
        status: whole.status,
        subnet_id: whole.subnet_id,
        vpc_id: whole.vpc_id,
        interface_type: whole.interface_type.map(|kind| kind.to_string()),
        operator: whole.operator,
        ..Default::default()
    }
}

fn association(whole: ec2::NetworkInterfaceAssociation) -> ec2::InstanceNetworkInterfaceAssociation {
    ec2::InstanceNetworkInterfaceAssociation {
        ip_owner_id: whole.ip_owner_id,
        public_dns_name: Some(whole.public_dns_name.unwrap_or_default()),
        public_ip: whole.public_ip,
        ..Default::default()
    }
}

fn address(whole: ec2::NetworkInterfacePrivateIpAddress) -> ec2::InstancePrivateIpAddress {
    ec2::InstancePrivateIpAddress {
        association: whole.association.map(association),
        primary: whole.primary,
        private_dns_name: whole.private_dns_name,
        private_ip_address: whole.private_ip_address,
    }
}
