//! What a guest is told about itself and about its network.

use std::net::Ipv4Addr;

use control::ports::{InterfaceSpec, MachineSpec, MetadataOptions, VpcSpec};
use control::records::{EventState, InstanceEvent, InstanceNotices, NameServer};
use metadata::{
    BlockDevice, Event, HttpTokens, InstanceMetadata, Interruption, NetworkInterface, Notices, Placement,
    PublicKey,
};
use network::dhcp::Lease;
use network::{Plan, dns, fabric};

/// What DHCP tells on an interface of a VPC. None: it has no address.
pub(super) fn lease(vpc: &VpcSpec, interface: &InterfaceSpec) -> Option<Lease> {
    let (address, _) = interface.addresses.first()?;
    let plan = Plan::of(*vpc.ranges.first()?, interface.subnet_range);
    let host_name = interface.host_name.split('.').next().unwrap_or_default().to_owned();
    let plain = Lease::new(interface.mac, *address, plan.subnet(), plan.router(), host_name, fabric::MTU);
    let Some(options) = &vpc.dhcp_options else { return Some(plain) };
    let server = |server: &NameServer| match server {
        NameServer::Provided => plan.resolver(),
        NameServer::At(address) => *address,
    };
    Some(Lease {
        resolvers: options.domain_name_servers.iter().map(server).collect(),
        domain: options.domain_name.clone().unwrap_or_default(),
        ntp_servers: options.ntp_servers.clone(),
        netbios_name_servers: options.netbios_name_servers.clone(),
        netbios_node_type: options.netbios_node_type,
        ..plain
    })
}

/// The names that are resolved in a VPC.
///
/// # Errors
/// When one of them is none.
pub(super) fn names(vpc: &VpcSpec) -> Result<dns::Zone, dns::NameError> {
    let mut zone = dns::Zone::new(&vpc.domain, &vpc.ranges)?;
    for port in &vpc.interfaces {
        let interface = &port.interface;
        let Some((address, _)) = interface.addresses.first() else { continue };
        if let Some(host) = interface.host_name.strip_suffix(&format!(".{}", vpc.domain)) {
            zone.add(host, *address)?;
        }
        // From within, a public name leads to the private address.
        if let Some(name) = &interface.public_host_name {
            zone.add_other(name, *address)?;
        }
    }
    for (name, address) in &vpc.peer_names {
        zone.add_other(name, *address)?;
    }
    for (name, addresses) in &vpc.balancer_names {
        zone.add_several(name, addresses)?;
    }
    Ok(zone)
}

/// Where names are resolved in a VPC.
pub(super) fn resolvers(vpc: &VpcSpec) -> Vec<Ipv4Addr> {
    let own = vpc.ranges.first().map(|range| Plan::of(*range, *range).resolver());
    own.into_iter().chain([network::RESOLVER]).collect()
}

/// All that the guest can ask about itself.
pub(super) fn known(spec: &MachineSpec, notices: Option<&InstanceNotices>) -> InstanceMetadata {
    let guest = &spec.guest;
    let public_key = |key: &control::ports::LoginKey| PublicKey {
        name: key.name.clone(),
        openssh: key.public_key.clone(),
    };
    InstanceMetadata {
        instance_id: spec.id,
        image_id: guest.image,
        reservation_id: guest.reservation,
        launch_index: guest.launch_index,
        instance_type: spec.instance_type.clone(),
        account_id: guest.account.to_string(),
        pending_time: guest.launched.into(),
        placement: Placement {
            region: guest.zone.region().to_string(),
            availability_zone: guest.zone.to_string(),
            availability_zone_id: guest.zone.id(),
        },
        interfaces: spec.interfaces.iter().map(known_interface).collect(),
        block_devices: block_devices(spec),
        public_keys: guest.key.iter().map(public_key).collect(),
        user_data: (!guest.user_data.is_empty()).then(|| guest.user_data.clone()),
        tags: guest.tags.clone(),
        notices: notices.map(known_notices).unwrap_or_default(),
        options: options(guest.metadata_options),
    }
}

pub(super) fn known_notices(notices: &InstanceNotices) -> Notices {
    let interruption = notices.interruption.map(|interruption| Interruption {
        action: interruption.action.word(),
        time: interruption.at.into(),
    });
    let event = |event: &InstanceEvent| Event {
        id: event.id.clone(),
        code: event.code.word(),
        description: event.description(),
        not_before: event.not_before.into(),
        state: event.state.word(),
    };
    let (scheduled, history): (Vec<_>, Vec<_>) =
        notices.events.iter().partition(|event| event.state == EventState::Active);
    let [scheduled, history] = [scheduled, history].map(|events| events.into_iter().map(event).collect());
    Notices { interruption, rebalance: notices.rebalance.map(Into::into), scheduled, history }
}

fn known_interface(interface: &InterfaceSpec) -> NetworkInterface {
    let public = interface.addresses.iter().filter_map(|(address, public)| Some((*address, (*public)?)));
    NetworkInterface {
        id: interface.id,
        mac: interface.mac,
        device_number: interface.device_index.into(),
        addresses: interface.addresses.iter().map(|(address, _)| *address).collect(),
        public_addresses: public.collect(),
        host_name: interface.host_name.clone(),
        public_host_name: interface.public_host_name.clone(),
        subnet_id: interface.subnet,
        subnet_range: interface.subnet_range,
        vpc_id: interface.vpc,
        vpc_ranges: interface.vpc_ranges.clone(),
        security_groups: interface.groups.clone(),
    }
}

/// As the instance's owner calls them.
fn block_devices(spec: &MachineSpec) -> Vec<BlockDevice> {
    let Some((root, others)) = spec.volumes.split_first() else { return Vec::new() };
    let device = |role: String, device: &str| BlockDevice { role, device: device.to_owned() };
    let short = root.device.strip_prefix("/dev/").unwrap_or(&root.device);
    let mut devices = vec![device("ami".to_owned(), short), device("root".to_owned(), &root.device)];
    let others = (1..).zip(others).map(|(number, volume)| device(format!("ebs{number}"), &volume.device));
    devices.extend(others);
    devices
}

fn options(options: MetadataOptions) -> metadata::MetadataOptions {
    metadata::MetadataOptions {
        http_tokens: if options.requires_token { HttpTokens::Required } else { HttpTokens::Optional },
        put_response_hop_limit: options.token_hop_limit,
        instance_tags: options.shows_tags,
    }
}
