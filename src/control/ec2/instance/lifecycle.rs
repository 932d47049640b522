//! What a change of an instance's state means for what it has.

use aws::Error;
use types::{InstanceId, NetworkInterfaceId};

use crate::catalog::InstanceType;
use crate::ec2::interface::{self, publish, unpublish};
use crate::ec2::storage;
use crate::ports::{HostError, InterfaceSpec, MachineSpec};
use crate::records::{Instance, InstanceState, NetworkInterface};
use crate::state::{Transaction, View};

/// What is to be started for an instance.
///
/// # Errors
/// When no microVM can be so.
pub(crate) fn machine(view: View<'_>, instance: &Instance) -> Result<MachineSpec, HostError> {
    let kind = InstanceType::find(&instance.instance_type)
        .ok_or_else(|| HostError::Failed(format!("there is no instance type {}", instance.instance_type)))?;
    let interfaces = interfaces(view, instance.id).into_iter();
    Ok(MachineSpec {
        id: instance.id,
        instance_type: instance.instance_type.clone(),
        vcpus: kind.vcpus,
        memory: kind.memory(),
        interfaces: interfaces
            .map(|interface| InterfaceSpec { id: interface.id, mac: interface.mac })
            .collect(),
    })
}

/// An instance's interfaces, in the order of their places in it.
pub(super) fn interfaces(view: View<'_>, id: InstanceId) -> Vec<&NetworkInterface> {
    let mut interfaces: Vec<_> = view.tables().network_interfaces.linked_to(id).map(AsRef::as_ref).collect();
    interfaces
        .sort_by_key(|interface| interface.attachment.as_ref().map(|attachment| attachment.device_index));
    interfaces
}

/// Puts an instance into another state.
pub(crate) fn enter(tx: &mut Transaction<'_>, id: InstanceId, next: InstanceState) {
    let is_over = matches!(next, InstanceState::Terminated { .. });
    let gives_up_addresses = is_over || matches!(next, InstanceState::Stopped { .. });
    tx.update::<Instance>(id, |instance| instance.state = next);
    if gives_up_addresses {
        // A public address that is not an Elastic one lasts from a start to the next stop.
        interface_ids(tx, id).into_iter().for_each(|interface| unpublish(tx, interface));
    }
    if is_over {
        release_interfaces(tx, id);
        let volumes: Vec<_> = tx.tables().volumes.linked_to(id).map(|volume| volume.id).collect();
        volumes.into_iter().for_each(|volume| storage::release(tx, volume, id));
    }
}

/// An instance that starts again gets public addresses where it had some.
///
/// # Errors
/// When there is none left.
pub(super) fn publish_interfaces(tx: &mut Transaction<'_>, id: InstanceId) -> Result<(), Error> {
    interface_ids(tx, id).into_iter().try_for_each(|interface| publish(tx, interface))
}

/// Interfaces go with the instance, or are free for another.
fn release_interfaces(tx: &mut Transaction<'_>, id: InstanceId) {
    for interface in interface_ids(tx, id) {
        let attachment = tx.get::<NetworkInterface>(interface).and_then(|found| found.attachment.as_ref());
        if attachment.is_some_and(|attachment| attachment.delete_on_termination) {
            interface::remove(tx, interface);
        } else {
            interface::detach(tx, interface);
        }
    }
}

fn interface_ids(tx: &Transaction<'_>, id: InstanceId) -> Vec<NetworkInterfaceId> {
    tx.tables().network_interfaces.linked_to(id).map(|interface| interface.id).collect()
}
