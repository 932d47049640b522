//! What is started for an instance, by what all its records say.

use types::InstanceId;

use super::lifecycle::interfaces;
use crate::catalog::InstanceType;
use crate::ec2::interface::{self, names};
use crate::ports::{GuestSpec, HostError, InterfaceSpec, LoginKey, MachineSpec, MachineVolume};
use crate::records::{AttachmentState, Instance, NetworkInterface, SecurityGroup, Subnet, TagSet, Vpc};
use crate::state::View;

/// # Errors
/// When no microVM can be so.
pub(crate) fn machine(view: View<'_>, instance: &Instance) -> Result<MachineSpec, HostError> {
    let kind = InstanceType::find(&instance.instance_type)
        .ok_or_else(|| HostError::Failed(format!("there is no instance type {}", instance.instance_type)))?;
    let interfaces = interfaces(view, instance.id).into_iter();
    let interfaces = interfaces.filter(|found| found.attachment_state().is_some_and(stays));
    let interfaces = interfaces.map(|found| interface(view, found));
    Ok(MachineSpec {
        id: instance.id,
        instance_type: instance.instance_type.clone(),
        vcpus: kind.vcpus,
        memory: kind.memory(),
        volumes: volumes(view, instance)?,
        interfaces: interfaces.collect::<Result<_, _>>()?,
        guest: guest(view, instance),
    })
}

/// The root device's first, the others by their devices.
fn volumes(view: View<'_>, instance: &Instance) -> Result<Vec<MachineVolume>, HostError> {
    let attached = view.tables().volumes.linked_to(instance.id).filter_map(|volume| {
        let attachment = volume.attachment(instance.id).filter(|attachment| stays(attachment.state))?;
        Some(MachineVolume { id: volume.id, device: attachment.device.clone() })
    });
    let mut volumes: Vec<_> = attached.collect();
    let root = &instance.root_device_name;
    volumes.sort_by(|one, other| {
        (one.device != *root, &one.device).cmp(&(other.device != *root, &other.device))
    });
    if volumes.first().is_none_or(|volume| volume.device != *root) {
        let message = format!("the instance {} has no volume attached at root ({root})", instance.id);
        return Err(HostError::Failed(message));
    }
    Ok(volumes)
}

fn stays(state: AttachmentState) -> bool {
    !matches!(state, AttachmentState::Detaching { .. })
}

/// What is known of an interface.
///
/// # Errors
/// When it is in nothing.
pub(crate) fn interface(view: View<'_>, found: &NetworkInterface) -> Result<InterfaceSpec, HostError> {
    let lacks = |what: &str| HostError::Failed(format!("the interface {} has no {what}", found.id));
    let subnet = view.get::<Subnet>(found.subnet).ok_or_else(|| lacks("subnet"))?;
    let vpc = view.get::<Vpc>(found.vpc).ok_or_else(|| lacks("VPC"))?;
    let primary = found.addresses.first().ok_or_else(|| lacks("address"))?;
    let addresses = found.addresses.iter().map(|address| {
        let elastic = interface::elastic(view, found.id, address.ip).map(|(elastic, _)| elastic.public_ip);
        (address.ip, elastic.or(address.public_ip))
    });
    let addresses: Vec<_> = addresses.collect();
    let public = addresses.first().and_then(|(_, public)| *public);
    let group = |id| view.get::<SecurityGroup>(id).map(|group| (id, group.name.clone()));
    Ok(InterfaceSpec {
        id: found.id,
        mac: found.mac,
        device_index: found.attachment.as_ref().map_or(0, |attachment| attachment.device_index),
        host_name: names::private(view.space.region, primary.ip),
        public_host_name: public.and_then(|public| names::public(view, found.vpc, public)),
        addresses,
        subnet: subnet.id,
        subnet_range: subnet.cidr,
        vpc: vpc.id,
        vpc_ranges: vpc.ranges.iter().map(|range| range.cidr).collect(),
        groups: found.groups.iter().filter_map(|id| group(*id)).collect(),
    })
}

fn guest(view: View<'_>, instance: &Instance) -> GuestSpec {
    let key = instance.key_name.as_ref().zip(instance.public_key.as_ref());
    GuestSpec {
        account: view.space.account,
        zone: instance.zone,
        image: instance.image,
        reservation: instance.reservation,
        launch_index: instance.launch_index,
        launched: instance.launched,
        key: key.map(|(name, key)| LoginKey { name: name.clone(), public_key: key.clone() }),
        user_data: instance.user_data.clone(),
        tags: tags(view, instance.id),
        metadata_options: instance.metadata_options,
    }
}

fn tags(view: View<'_>, id: InstanceId) -> std::collections::BTreeMap<String, String> {
    view.get::<TagSet>(id.into()).map(|set| set.tags.clone()).unwrap_or_default()
}
