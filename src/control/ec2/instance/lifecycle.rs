//! What a change of an instance's state means for what it has.

use aws::Error;
use types::{InstanceId, NetworkInterfaceId};

use crate::ec2::interface::{self, publish, unpublish};
use crate::ec2::storage;
use crate::records::{
    AttachmentState, CpuCredits, EventState, Health, Instance, InstanceNotices, InstanceState,
    NetworkInterface,
};
use crate::state::{Transaction, View};

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
    let is_running = matches!(next, InstanceState::Running);
    let gives_up_addresses = is_over || matches!(next, InstanceState::Stopped { .. });
    tx.update::<Instance>(id, |instance| {
        instance.state = next;
        instance.has_run |= is_running;
        if is_running {
            instance.health = Health::Initializing;
        }
        if !instance.is_on_host() {
            (instance.outage, instance.rest) = (None, None);
        }
    });
    if is_running {
        // What it was given before it began to start, it is started with.
        attach_interfaces(tx, id);
    }
    if gives_up_addresses {
        // When it starts again it is as if elsewhere, where nothing of this is to come.
        tx.update::<InstanceNotices>(id, |notices| notices.end(EventState::Completed));
        // A public address that is not an Elastic one lasts from a start to the next stop.
        interface_ids(tx, id).into_iter().for_each(|interface| unpublish(tx, interface));
    }
    if is_over {
        tx.remove::<CpuCredits>(id);
        tx.remove::<InstanceNotices>(id);
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

fn attach_interfaces(tx: &mut Transaction<'_>, id: InstanceId) {
    for interface in interface_ids(tx, id) {
        let state = tx.get(interface).and_then(NetworkInterface::attachment_state);
        if state == Some(AttachmentState::Attaching) {
            tx.update::<NetworkInterface>(interface, |it| it.set_attachment_state(AttachmentState::Attached));
        }
    }
}

/// Interfaces go with the instance, or are free for another.
fn release_interfaces(tx: &mut Transaction<'_>, id: InstanceId) {
    for interface in interface_ids(tx, id) {
        let attachment = tx.get::<NetworkInterface>(interface).and_then(|found| found.attachment.as_ref());
        if attachment.is_some_and(|attachment| attachment.delete_on_termination) {
            interface::remove(tx, interface);
        } else {
            interface::release(tx, interface);
        }
    }
}

fn interface_ids(tx: &Transaction<'_>, id: InstanceId) -> Vec<NetworkInterfaceId> {
    tx.tables().network_interfaces.linked_to(id).map(|interface| interface.id).collect()
}
