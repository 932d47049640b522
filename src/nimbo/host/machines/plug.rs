//! Volumes given to microVMs that run, and taken from them.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use control::ports::{HostError, Machine};
use tokio::runtime::Handle;
use types::{InstanceId, VolumeId};
use vmm::control::api::{DeviceId, DeviceStatus, DiskFormat, DiskSpec, EventKind};
use vmm::control::client::ClientError;

use super::guest::Guest;
use super::{Machines, failed, interfaces};
use crate::microvm::reconnect::{self, Owner};
use crate::socket;

impl Machines {
    /// Gives a volume, which is served at `socket`, to a microVM that runs. `device` is what the instance's owner calls it; guests choose names of
    /// their own.
    ///
    /// # Errors
    /// When the microVM does not run or cannot take it.
    pub(crate) async fn plug(
        &self,
        instance: InstanceId,
        volume: VolumeId,
        socket: &Path,
        device: &str,
    ) -> Result<(), HostError> {
        let guest = self.running(instance)?;
        let told = guest.folder.add_volume(volume);
        told.map_err(|error| {
            failed(&error.context(format!("cannot give {volume} to {instance} as {device}")))
        })?;
        let is_new = guest.volumes().insert(volume, Some(socket.to_owned())).is_none();
        if !is_new {
            return Ok(());
        }
        let outcome = connect(&guest, volume, socket.to_owned()).await;
        if outcome.is_err() {
            guest.volumes().remove(&volume);
        }
        self.tell(instance);
        outcome.map_err(|error| {
            let message = format!("{instance} does not take {volume} as {device}: {error}");
            match error {
                ClientError::Refused { detail, .. } if detail.code == "no_slot" => HostError::Failed(message),
                // The process of the volume, or of the microVM, may have died meanwhile.
                _ => HostError::Unavailable(message),
            }
        })
    }

    /// Asks the guest to let go of a volume; forced: takes it away.
    ///
    /// # Errors
    /// When the microVM does not give it up: it has booted from it, say.
    pub(crate) async fn unplug(
        &self,
        instance: InstanceId,
        volume: VolumeId,
        is_forced: bool,
    ) -> Result<(), HostError> {
        let Ok(guest) = self.running(instance) else { return Ok(()) };
        let path = format!("/v1/disks/{volume}{}", if is_forced { "?force=true" } else { "" });
        let is_gone = match guest.try_talk(move |mut client| client.delete(&path)).await {
            Ok(reply) => reply.status == 204,
            Err(ClientError::Refused { detail, .. }) if detail.code == "no_device" => true,
            Err(error) => {
                return Err(HostError::Failed(format!("{instance} does not give up {volume}: {error}")));
            }
        };
        if is_gone {
            guest.volumes().remove(&volume);
            self.release(instance, [volume], &Handle::current());
            self.tell(instance);
        }
        Ok(())
    }

    /// The volumes that a microVM has. One that does not run has none.
    pub(crate) fn plugged(&self, instance: InstanceId) -> BTreeSet<VolumeId> {
        match self.running(instance) {
            Ok(guest) => guest.volumes().keys().copied().collect(),
            Err(_) => BTreeSet::new(),
        }
    }

    pub(super) fn running(&self, instance: InstanceId) -> Result<Arc<Guest>, HostError> {
        self.guest(instance)
            .filter(|guest| guest.state() == Some(Machine::Running))
            .ok_or_else(|| HostError::Unavailable(format!("{instance} does not run on this host")))
    }
}

async fn connect(guest: &Guest, volume: VolumeId, path: PathBuf) -> Result<(), ClientError> {
    let plug = move |mut client: vmm::control::client::Client| {
        let connected = socket::connect(&path);
        let stream = connected
            .map_err(|source| ClientError::Socket { operation: "connect to who serves it, not", source })?;
        let spec = DiskSpec {
            id: device(volume),
            serial: None,
            read_only: false,
            format: DiskFormat::default(),
            reconnect_ms: reconnect::TIME_MS,
        };
        client.post::<DeviceStatus>("/v1/disks", &spec, &[stream.as_fd()]).map(drop)
    };
    match guest.try_talk(plug).await {
        Err(ClientError::Refused { detail, .. }) if detail.code == "device_exists" => Ok(()),
        outcome => outcome,
    }
}

/// What a volume is called on the control socket.
fn device(volume: VolumeId) -> DeviceId {
    match volume.to_string().parse() {
        Ok(id) => id,
        Err(error) => unreachable!("ids of volumes are letters, digits and a dash: {error}"),
    }
}

/// Follows what happens to the disks of a microVM.
pub(super) struct Follower {
    machines: Weak<Machines>,
    guest: Arc<Guest>,
    /// It is told things on a thread of its own.
    runtime: Handle,
}

impl Follower {
    /// To be called in a runtime.
    pub(super) fn new(machines: &Arc<Machines>, guest: &Arc<Guest>) -> Self {
        let (machines, guest) = (Arc::downgrade(machines), Arc::clone(guest));
        Self { machines, guest, runtime: Handle::current() }
    }

    /// The guest has let go of volumes.
    fn release(&self, volumes: Vec<VolumeId>) {
        if let Some(machines) = self.machines.upgrade() {
            machines.release(self.guest.id, volumes, &self.runtime);
            machines.tell(self.guest.id);
        }
    }

    /// By who may change what it has: an event may be told of an interface that it was given again since.
    fn look_at_interfaces(&self) {
        let (machines, guest) = (Weak::clone(&self.machines), Arc::clone(&self.guest));
        self.runtime.spawn(async move {
            let _turn = guest.turn().await;
            if let Some(machines) = machines.upgrade() {
                machines.look_at_interfaces(&guest).await;
            }
        });
    }
}

impl Owner for Follower {
    fn server(&self, device: &str) -> Option<PathBuf> {
        self.guest.volumes().get(&device.parse().ok()?).cloned().flatten()
    }

    fn say(&self, message: &str) {
        tracing::warn!(id = %self.guest.id, "{message}");
    }

    /// What guests have let go of while nobody followed.
    fn devices(&self, devices: &[DeviceStatus]) {
        self.release(self.guest.keep(devices));
        if *self.guest.interfaces() != Some(interfaces::among(devices)) {
            self.look_at_interfaces();
        }
    }

    fn happened(&self, event: &EventKind) {
        let EventKind::DeviceUnplugged { device } = event else { return };
        if let Ok(volume) = device.as_str().parse() {
            self.guest.volumes().remove(&volume);
            self.release(vec![volume]);
        } else {
            self.look_at_interfaces();
        }
    }
}
