//! Instances as clients are told of them.

use aws::ec2;
use types::VolumeId;

use super::lifecycle::interfaces;
use crate::catalog::InstanceType;
use crate::ec2::interface::{in_instance, shown_groups};
use crate::ec2::row::Row;
use crate::ec2::tags;
use crate::records::{
    AttachmentState, Cause, Instance, InstanceState, MetadataOptions, PlacementGroup, VolumeAttachment,
};
use crate::state::View;

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html>.
pub(super) fn state(state: &InstanceState) -> ec2::InstanceState {
    let code = match state {
        InstanceState::Pending => 0,
        InstanceState::Running => 16,
        InstanceState::ShuttingDown { .. } => 32,
        InstanceState::Terminated { .. } => 48,
        InstanceState::Stopping { .. } => 64,
        InstanceState::Stopped { .. } => 80,
    };
    ec2::InstanceState { code: Some(code), name: Some(state_name(state)) }
}

pub(super) fn state_name(state: &InstanceState) -> ec2::InstanceStateName {
    match state {
        InstanceState::Pending => ec2::InstanceStateName::Pending,
        InstanceState::Running => ec2::InstanceStateName::Running,
        InstanceState::ShuttingDown { .. } => ec2::InstanceStateName::ShuttingDown,
        InstanceState::Terminated { .. } => ec2::InstanceStateName::Terminated,
        InstanceState::Stopping { .. } => ec2::InstanceStateName::Stopping,
        InstanceState::Stopped { .. } => ec2::InstanceStateName::Stopped,
    }
}

/// Why it is in its state: the code and the message of `StateReason`, and the text of `StateTransitionReason`.
pub(super) fn reason(state: &InstanceState) -> (Option<ec2::StateReason>, String) {
    let (cause, since) = match state {
        InstanceState::Pending | InstanceState::Running => return (None, String::new()),
        InstanceState::Stopping { cause, since, .. }
        | InstanceState::Stopped { cause, since }
        | InstanceState::ShuttingDown { cause, since }
        | InstanceState::Terminated { cause, since } => (cause, since),
    };
    let (code, why) = match cause {
        Cause::User => ("Client.UserInitiatedShutdown", "User initiated shutdown"),
        Cause::Guest => ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown"),
        Cause::Failure { code, message } => (code.as_str(), message.as_str()),
    };
    let transition = match cause {
        Cause::User => format!("User initiated ({})", since.strftime("%Y-%m-%d %H:%M:%S GMT")),
        Cause::Guest => String::new(),
        Cause::Failure { code, message } => format!("{code}: {message}"),
    };
    let message = Some(format!("{code}: {why}"));
    (Some(ec2::StateReason { code: Some(code.to_owned()), message }), transition)
}

pub(super) fn metadata_options(options: &MetadataOptions) -> ec2::InstanceMetadataOptionsResponse {
    let tokens =
        if options.requires_token { ec2::HttpTokensState::Required } else { ec2::HttpTokensState::Optional };
    let endpoint = if options.is_enabled {
        ec2::InstanceMetadataEndpointState::Enabled
    } else {
        ec2::InstanceMetadataEndpointState::Disabled
    };
    let tags = if options.shows_tags {
        ec2::InstanceMetadataTagsState::Enabled
    } else {
        ec2::InstanceMetadataTagsState::Disabled
    };
    ec2::InstanceMetadataOptionsResponse {
        state: Some(ec2::InstanceMetadataOptionsState::Applied),
        http_tokens: Some(tokens),
        http_put_response_hop_limit: Some(i32::from(options.token_hop_limit)),
        http_endpoint: Some(endpoint),
        http_protocol_ipv6: Some(ec2::InstanceMetadataProtocolState::Disabled),
        instance_metadata_tags: Some(tags),
    }
}

pub(super) fn monitoring(is_monitored: bool) -> ec2::Monitoring {
    let state = if is_monitored { ec2::MonitoringState::Enabled } else { ec2::MonitoringState::Disabled };
    ec2::Monitoring { state: Some(state), ..Default::default() }
}

pub(super) fn instance(row: &Row<'_, Instance>) -> ec2::Instance {
    let Row { view, record } = *row;
    let interfaces = interfaces(view, record.id);
    let primary = interfaces.first();
    let network_interfaces: Vec<_> =
        interfaces.iter().map(|record| in_instance(&Row { view, record: *record })).collect();
    let first = network_interfaces.first().cloned().unwrap_or_default();
    let public = first.association.unwrap_or_default();
    let (state_reason, state_transition_reason) = reason(&record.state);
    let kind = InstanceType::find(&record.instance_type);
    let group = record.placement_group.and_then(|group| view.get::<PlacementGroup>(group));
    ec2::Instance {
        architecture: Some(ec2::ArchitectureValues::X8664),
        block_device_mappings: Some(block_devices(view, record)),
        client_token: Some(record.client_token.clone().unwrap_or_default()),
        ebs_optimized: Some(record.is_ebs_optimized),
        network_interfaces: Some(network_interfaces),
        ena_support: Some(true),
        hypervisor: Some(ec2::HypervisorType::Xen),
        root_device_name: Some(record.root_device_name.clone()),
        root_device_type: Some(ec2::DeviceType::Ebs),
        security_groups: Some(
            primary.map(|interface| shown_groups(view, &interface.groups)).unwrap_or_default(),
        ),
        source_dest_check: primary.map(|interface| interface.checks_source_and_destination),
        state_reason,
        tags: tags::shown(&view, record.id),
        virtualization_type: Some(ec2::VirtualizationType::Hvm),
        cpu_options: kind.map(|kind| ec2::CpuOptions {
            core_count: Some(i32::from(kind.vcpus.div_ceil(2))),
            threads_per_core: Some(i32::from(kind.vcpus.min(2))),
            ..Default::default()
        }),
        capacity_reservation_specification: Some(ec2::CapacityReservationSpecificationResponse {
            capacity_reservation_preference: Some(ec2::CapacityReservationPreference::Open),
            ..Default::default()
        }),
        hibernation_options: Some(ec2::HibernationOptions { configured: Some(false) }),
        metadata_options: Some(metadata_options(&record.metadata_options)),
        enclave_options: Some(ec2::EnclaveOptions { enabled: Some(false) }),
        platform_details: Some("Linux/UNIX".to_owned()),
        usage_operation: Some("RunInstances".to_owned()),
        private_dns_name_options: Some(ec2::PrivateDnsNameOptionsResponse {
            hostname_type: Some(ec2::HostnameType::IpName),
            enable_resource_name_dns_a_record: Some(false),
            enable_resource_name_dns_aaaa_record: Some(false),
        }),
        maintenance_options: Some(ec2::InstanceMaintenanceOptions {
            auto_recovery: Some(ec2::InstanceAutoRecoveryState::Default),
            ..Default::default()
        }),
        instance_id: Some(record.id.to_string()),
        image_id: Some(record.image.to_string()),
        state: Some(state(&record.state)),
        state_transition_reason: Some(state_transition_reason),
        key_name: record.key_name.clone(),
        ami_launch_index: Some(i32::try_from(record.launch_index).unwrap_or(i32::MAX)),
        product_codes: Some(Vec::new()),
        instance_type: Some(record.instance_type.clone()),
        launch_time: Some(record.launched),
        placement: Some(ec2::Placement {
            availability_zone_id: Some(record.zone.id()),
            availability_zone: Some(record.zone.to_string()),
            group_name: Some(group.map(|group| group.name.clone()).unwrap_or_default()),
            group_id: group.map(|group| group.id.to_string()),
            partition_number: record.partition.map(i32::from),
            tenancy: Some(ec2::Tenancy::Default),
            ..Default::default()
        }),
        monitoring: Some(monitoring(record.is_monitored)),
        subnet_id: primary.map(|interface| interface.subnet.to_string()),
        vpc_id: primary.map(|interface| interface.vpc.to_string()),
        private_dns_name: Some(first.private_dns_name.unwrap_or_default()),
        private_ip_address: first.private_ip_address,
        public_dns_name: Some(public.public_dns_name.unwrap_or_default()),
        public_ip_address: public.public_ip,
        ..Default::default()
    }
}

/// The disks that an instance has, the root device first, then by their names.
pub(super) fn block_devices(view: View<'_>, instance: &Instance) -> Vec<ec2::InstanceBlockDeviceMapping> {
    let volumes = view.tables().volumes.linked_to(instance.id);
    let mut attachments: Vec<_> = volumes
        .filter_map(|volume| volume.attachment(instance.id).map(|attachment| (volume.id, attachment)))
        .collect();
    attachments.sort_by_key(|(_, attachment)| {
        (attachment.device != instance.root_device_name, attachment.device.clone())
    });
    let mapping = |(id, attachment): (VolumeId, &VolumeAttachment)| ec2::InstanceBlockDeviceMapping {
        device_name: Some(attachment.device.clone()),
        ebs: Some(ec2::EbsInstanceBlockDevice {
            attach_time: Some(attachment.since),
            delete_on_termination: Some(attachment.delete_on_termination),
            status: Some(match attachment.state {
                AttachmentState::Attaching => ec2::AttachmentStatus::Attaching,
                AttachmentState::Attached => ec2::AttachmentStatus::Attached,
                AttachmentState::Detaching { .. } => ec2::AttachmentStatus::Detaching,
            }),
            volume_id: Some(id.to_string()),
            ..Default::default()
        }),
    };
    attachments.into_iter().map(mapping).collect()
}
