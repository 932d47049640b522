//! Interfaces given to microVMs that run, and taken from them.
//!
//! ```text
//!   plug ──▶ interfaces.json ─▶ tap ─▶ rules, DHCP, metadata in force ─▶ the microVM's process has it
//!   its process has it no more ─▶ nobody answers there any more
//! ```
//!
//! What a microVM has is what its process says: it is asked after each change, whoever made it, with the guest's turn taken. So a change that was begun and not
//! seen to its end, by this process or by one before it, is found out and not guessed.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd};

use control::ports::{HostError, InterfaceSpec};
use network::fabric;
use tokio::task::spawn_blocking;
use types::{InstanceId, NetworkInterfaceId};
use vmm::control::api::{self, DeviceId, DeviceStatus, Devices};
use vmm::control::client::ClientError;

use super::Machines;
use super::guest::Guest;

impl Machines {
    /// Those that a microVM has. None: it does not run, or that is not known yet.
    pub(crate) fn interfaces(&self, instance: InstanceId) -> Option<BTreeSet<NetworkInterfaceId>> {
        self.running(instance).ok()?.interfaces().clone()
    }

    /// Gives an interface to a microVM that runs, as soon as what passes it is what its VPC says and it is answered there.
    ///
    /// # Errors
    /// When the microVM does not run, the host cannot have it, or the process does not take it.
    pub(crate) async fn plug_interface(
        &self,
        instance: InstanceId,
        spec: &InterfaceSpec,
    ) -> Result<(), HostError> {
        let guest = self.running(instance)?;
        // Who forgets it waits for this, and leaves nothing of it.
        let _turn = guest.turn().await;
        self.running(instance)?;
        if guest.interfaces().as_ref().is_some_and(|has| has.contains(&spec.id)) {
            return Ok(());
        }
        let about = |why: &str| format!("cannot give {} to {instance}: {why}", spec.id);
        let noted = guest.folder.add_interface(spec);
        noted.map_err(|error| HostError::Unavailable(about(&format!("{error:#}"))))?;
        let outcome = self.bring(&guest, spec).await;
        self.look_at_interfaces(&guest).await;
        outcome.map_err(|error| match error {
            HostError::Failed(why) => HostError::Failed(about(&why)),
            HostError::Unavailable(why) | HostError::NoCapacity(why) => HostError::Unavailable(about(&why)),
        })
    }

    async fn bring(&self, guest: &Guest, spec: &InterfaceSpec) -> Result<(), HostError> {
        let (networks, id, interface) = (self.networks(), guest.id, spec.clone());
        let made = spawn_blocking(move || networks.plug_one(id, &interface)).await;
        let made = made.unwrap_or_else(|panic| Err(panic.into()));
        let queues = made.map_err(|error| HostError::Unavailable(format!("{error:#}")))?;
        self.networks.in_force(id, std::slice::from_ref(spec)).await?;
        let spec = api::InterfaceSpec { id: device(spec.id), mac: spec.mac, mtu: Some(fabric::MTU) };
        let plug = move |mut client: vmm::control::client::Client| {
            let queues: Vec<BorrowedFd<'_>> = queues.iter().map(|queue| queue.as_fd()).collect();
            client.post::<DeviceStatus>("/v1/interfaces", &spec, &queues).map(drop)
        };
        guest.try_talk(plug).await.map_err(|error| match error {
            ClientError::Refused { detail, .. } if detail.code == "no_slot" => {
                HostError::Failed(detail.message)
            }
            // Its process may have died meanwhile.
            error => HostError::Unavailable(error.to_string()),
        })
    }

    /// Asks the guest to let go of an interface; forced: takes it away.
    ///
    /// # Errors
    /// When the process does not do as it is asked: the guest has booted with it, say.
    pub(crate) async fn unplug_interface(
        &self,
        instance: InstanceId,
        interface: NetworkInterfaceId,
        is_forced: bool,
    ) -> Result<(), HostError> {
        let Ok(guest) = self.running(instance) else { return Ok(()) };
        let _turn = guest.turn().await;
        let path = format!("/v1/interfaces/{interface}{}", if is_forced { "?force=true" } else { "" });
        let outcome = guest.try_talk(move |mut client| client.delete(&path)).await;
        self.look_at_interfaces(&guest).await;
        match outcome {
            Ok(_) => Ok(()),
            Err(ClientError::Refused { detail, .. }) if detail.code == "no_device" => Ok(()),
            Err(error) => Err(HostError::Failed(format!("{instance} does not give up {interface}: {error}"))),
        }
    }

    /// Asks a microVM's process which interfaces it has. Whoever does has the guest's turn.
    pub(super) async fn look_at_interfaces(&self, guest: &Guest) {
        if self.running(guest.id).is_err() {
            return;
        }
        match guest.talk(|mut client| client.get::<Devices>("/v1/devices")).await {
            Ok(found) => self.keep_interfaces(guest, &found.devices).await,
            Err(error) => tracing::warn!(id = %guest.id, "{error}"),
        }
    }

    /// A microVM has those interfaces that are among its devices. Whoever says so has the guest's turn.
    pub(super) async fn keep_interfaces(&self, guest: &Guest, devices: &[DeviceStatus]) {
        let (networks, id, has) = (self.networks(), guest.id, among(devices));
        let kept = has.clone();
        if let Err(panic) = spawn_blocking(move || networks.keep(id, &kept)).await {
            tracing::error!(%id, "its network does not let go of an interface: {panic}");
        }
        let before = guest.interfaces().replace(has.clone());
        if before != Some(has) {
            self.tell(id);
        }
    }
}

/// The interfaces among a microVM's devices.
pub(super) fn among(devices: &[DeviceStatus]) -> BTreeSet<NetworkInterfaceId> {
    devices.iter().filter_map(|device| device.id.as_str().parse().ok()).collect()
}

/// What an interface is called on the control socket.
fn device(interface: NetworkInterfaceId) -> DeviceId {
    match interface.to_string().parse() {
        Ok(id) => id,
        Err(error) => unreachable!("ids of interfaces are letters, digits and a dash: {error}"),
    }
}
