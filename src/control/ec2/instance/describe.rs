//! `DescribeInstances`: instances by the launch that they were part of.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aws::filters::{Filtered, Values};
use aws::{Call, Error, ec2};
use types::ReservationId;

use super::lifecycle::interfaces;
use super::show;
use crate::ec2::interface::{elastic, names};
use crate::ec2::row::{Row, page, select};
use crate::records::{Address, Instance, NetworkInterface, PlacementGroup, SecurityGroup};
use crate::state::View;

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeInstancesRequest>,
) -> Result<ec2::DescribeInstancesResult, Error> {
    let input = &call.input;
    if !input.instance_ids.is_empty() && input.max_results.is_some() {
        let message = "The parameter instancesSet cannot be used with the parameter maxResults";
        return Err(Error::new("InvalidParameterCombination", message));
    }
    let rows = select::<Instance>(view, &input.instance_ids, &input.filters)?;
    let (rows, next_token) = page::<ec2::DescribeInstances, _>(call, rows)?;
    let mut reservations: BTreeMap<ReservationId, Vec<Row<'_, Instance>>> = BTreeMap::new();
    for row in rows {
        reservations.entry(row.record.reservation).or_default().push(row);
    }
    let reservations = reservations.into_iter().map(|(id, rows)| reservation(view, id, rows)).collect();
    Ok(ec2::DescribeInstancesResult { next_token, reservations: Some(reservations) })
}

/// A launch, with these of its instances.
pub(super) fn reservation(
    view: View<'_>,
    id: ReservationId,
    mut rows: Vec<Row<'_, Instance>>,
) -> ec2::Reservation {
    rows.sort_by_key(|row| row.record.launch_index);
    ec2::Reservation {
        reservation_id: Some(id.to_string()),
        owner_id: Some(view.space.account.to_string()),
        groups: Some(Vec::new()),
        instances: Some(rows.iter().map(show::instance).collect()),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>.
impl Filtered for Row<'_, Instance> {
    const NAMES: &'static [&'static str] = &[
        "architecture",
        "availability-zone",
        "availability-zone-id",
        "block-device-mapping.attach-time",
        "block-device-mapping.delete-on-termination",
        "block-device-mapping.device-name",
        "block-device-mapping.status",
        "block-device-mapping.volume-id",
        "client-token",
        "current-instance-boot-mode",
        "dns-name",
        "hypervisor",
        "image-id",
        "instance-id",
        "instance-state-code",
        "instance-state-name",
        "instance-type",
        "instance.group-id",
        "instance.group-name",
        "ip-address",
        "key-name",
        "launch-index",
        "launch-time",
        "metadata-options.http-endpoint",
        "metadata-options.http-put-response-hop-limit",
        "metadata-options.http-tokens",
        "metadata-options.instance-metadata-tags",
        "monitoring-state",
        "network-interface.addresses.association.allocation-id",
        "network-interface.addresses.association.association-id",
        "network-interface.addresses.association.public-ip",
        "network-interface.addresses.primary",
        "network-interface.addresses.private-ip-address",
        "network-interface.attachment.attachment-id",
        "network-interface.attachment.delete-on-termination",
        "network-interface.attachment.device-index",
        "network-interface.attachment.instance-id",
        "network-interface.availability-zone",
        "network-interface.description",
        "network-interface.group-id",
        "network-interface.group-name",
        "network-interface.mac-address",
        "network-interface.network-interface-id",
        "network-interface.owner-id",
        "network-interface.source-dest-check",
        "network-interface.subnet-id",
        "network-interface.vpc-id",
        "owner-id",
        "placement-group-name",
        "placement-partition-number",
        "platform-details",
        "private-dns-name",
        "private-ip-address",
        "reason",
        "reservation-id",
        "root-device-name",
        "root-device-type",
        "source-dest-check",
        "state-reason-code",
        "state-reason-message",
        "subnet-id",
        "tenancy",
        "usage-operation",
        "virtualization-type",
        "vpc-id",
    ];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        if let Some(field) = name.strip_prefix("network-interface.") {
            return self.interface_values(field, values);
        }
        if let Some(field) = name.strip_prefix("block-device-mapping.") {
            return disk_values(*self, field, values);
        }
        let Row { view, record } = *self;
        match name {
            "architecture" => values.text("x86_64"),
            "availability-zone" => values.shown(record.zone),
            "availability-zone-id" => values.text(&record.zone.id()),
            "client-token" => record.client_token.iter().for_each(|token| values.text(token)),
            "current-instance-boot-mode" => values.text("legacy-bios"),
            "hypervisor" => values.text("xen"),
            "image-id" => values.shown(record.image),
            "instance-id" => values.shown(record.id),
            "instance-state-code" => {
                show::state(&record.state).code.into_iter().for_each(|code| values.shown(code))
            }
            "instance-state-name" => values.shown(show::state_name(&record.state)),
            "instance-type" => values.text(&record.instance_type),
            "key-name" => record.key_name.iter().for_each(|name| values.text(name)),
            "launch-index" => values.shown(record.launch_index),
            "launch-time" => values.text(&record.launched.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()),
            "metadata-options.http-endpoint" => {
                values.text(if record.metadata_options.is_enabled { "enabled" } else { "disabled" });
            }
            "metadata-options.http-put-response-hop-limit" => {
                values.shown(record.metadata_options.token_hop_limit)
            }
            "metadata-options.http-tokens" => {
                values.text(if record.metadata_options.requires_token { "required" } else { "optional" });
            }
            "metadata-options.instance-metadata-tags" => {
                values.text(if record.metadata_options.shows_tags { "enabled" } else { "disabled" });
            }
            "monitoring-state" => values.text(if record.is_monitored { "enabled" } else { "disabled" }),
            "owner-id" => values.shown(view.space.account),
            "placement-group-name" => {
                let group = record.placement_group.and_then(|group| view.get::<PlacementGroup>(group));
                group.into_iter().for_each(|group| values.text(&group.name));
            }
            "placement-partition-number" => {
                record.partition.into_iter().for_each(|number| values.shown(number))
            }
            "platform-details" => values.text("Linux/UNIX"),
            "reason" => values.text(&show::reason(&record.state).1),
            "reservation-id" => values.shown(record.reservation),
            "root-device-name" => values.text(&record.root_device_name),
            "root-device-type" => values.text("ebs"),
            "state-reason-code" | "state-reason-message" => {
                let Some(reason) = show::reason(&record.state).0 else { return };
                let text = if name == "state-reason-code" { reason.code } else { reason.message };
                text.iter().for_each(|text| values.text(text));
            }
            "tenancy" => values.text("default"),
            "usage-operation" => values.text("RunInstances"),
            "virtualization-type" => values.text("hvm"),
            _ => self.primary_values(name, values),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}

impl Row<'_, Instance> {
    /// What an instance has by its primary interface.
    fn primary_values(&self, name: &str, values: &mut Values<'_>) {
        let Row { view, record } = *self;
        let all = interfaces(view, record.id);
        let Some(primary) = all.first() else { return };
        let address = primary.addresses.first();
        match name {
            "instance.group-id" => primary.groups.iter().for_each(|group| values.shown(group)),
            "instance.group-name" => group_names(view, &primary.groups, values),
            "ip-address" => public_ip(view, primary).iter().for_each(|ip| values.shown(ip)),
            "dns-name" => {
                let name = public_ip(view, primary).and_then(|ip| names::public(view, primary.vpc, ip));
                name.iter().for_each(|name| values.text(name));
            }
            "private-dns-name" => {
                address
                    .iter()
                    .for_each(|address| values.text(&names::private(view.space.region, address.ip)));
            }
            "private-ip-address" => address.iter().for_each(|address| values.shown(address.ip)),
            "source-dest-check" => values.flag(primary.checks_source_and_destination),
            "subnet-id" => values.shown(primary.subnet),
            "vpc-id" => values.shown(primary.vpc),
            _ => unreachable!("{name} is no filter of instances"),
        }
    }

    fn interface_values(&self, field: &str, values: &mut Values<'_>) {
        let Row { view, record } = *self;
        for interface in interfaces(view, record.id) {
            let attachment = interface.attachment.as_ref();
            match field {
                "addresses.association.allocation-id"
                | "addresses.association.association-id"
                | "addresses.association.public-ip" => {
                    let elastic = view.tables().addresses.linked_to(interface.id);
                    elastic.for_each(|address| association_value(address, field, values));
                    if field.ends_with("public-ip") {
                        interface
                            .addresses
                            .iter()
                            .filter_map(|address| address.public_ip)
                            .for_each(|ip| values.shown(ip));
                    }
                }
                "addresses.primary" => {
                    (0..interface.addresses.len()).for_each(|place| values.flag(place == 0))
                }
                "addresses.private-ip-address" => {
                    interface.addresses.iter().for_each(|address| values.shown(address.ip))
                }
                "attachment.attachment-id" => {
                    attachment.iter().for_each(|attachment| values.shown(attachment.id))
                }
                "attachment.delete-on-termination" => {
                    attachment.iter().for_each(|attachment| values.flag(attachment.delete_on_termination));
                }
                "attachment.device-index" => {
                    attachment.iter().for_each(|attachment| values.shown(attachment.device_index))
                }
                "attachment.instance-id" => values.shown(record.id),
                "availability-zone" => values.shown(record.zone),
                "description" => values.text(&interface.description),
                "group-id" => interface.groups.iter().for_each(|group| values.shown(group)),
                "group-name" => group_names(view, &interface.groups, values),
                "mac-address" => values.shown(interface.mac),
                "network-interface-id" => values.shown(interface.id),
                "owner-id" => values.shown(view.space.account),
                "source-dest-check" => values.flag(interface.checks_source_and_destination),
                "subnet-id" => values.shown(interface.subnet),
                "vpc-id" => values.shown(interface.vpc),
                _ => unreachable!("{field} is no filter of interfaces of instances"),
            }
        }
    }
}

/// The public address that leads to an interface's first one.
fn public_ip(view: View<'_>, interface: &NetworkInterface) -> Option<Ipv4Addr> {
    let address = interface.addresses.first()?;
    elastic(view, interface.id, address.ip).map(|(elastic, _)| elastic.public_ip).or(address.public_ip)
}

fn disk_values(row: Row<'_, Instance>, field: &str, values: &mut Values<'_>) {
    for mapping in show::block_devices(row.view, row.record) {
        let ebs = mapping.ebs.unwrap_or_default();
        match field {
            "attach-time" => {
                let text = ebs.attach_time.map(|time| time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string());
                text.iter().for_each(|text| values.text(text));
            }
            "delete-on-termination" => {
                ebs.delete_on_termination.into_iter().for_each(|goes| values.flag(goes))
            }
            "device-name" => mapping.device_name.iter().for_each(|name| values.text(name)),
            "status" => ebs.status.into_iter().for_each(|status| values.shown(status)),
            "volume-id" => ebs.volume_id.iter().for_each(|id| values.text(id)),
            _ => unreachable!("{field} is no filter of disks of instances"),
        }
    }
}

fn association_value(address: &Address, field: &str, values: &mut Values<'_>) {
    match field {
        "addresses.association.allocation-id" => values.shown(address.id),
        "addresses.association.public-ip" => values.shown(address.public_ip),
        _ => address.association.iter().for_each(|association| values.shown(association.id)),
    }
}

fn group_names(view: View<'_>, ids: &[types::SecurityGroupId], values: &mut Values<'_>) {
    let groups = ids.iter().filter_map(|id| view.get::<SecurityGroup>(*id));
    groups.for_each(|group| values.text(&group.name));
}
