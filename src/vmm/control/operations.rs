//! What the control socket can have done to a machine.

use std::os::fd::OwnedFd;

use super::api::{
    BalloonStatus, BalloonTarget, CaptureSpec, CaptureStatus, Counters, DeviceId, DeviceStatus, DiskSpec,
    Impairments, InterfaceSpec, InterfaceStatus, MachineState, MachineStatus,
};
use crate::virtio::DeviceKind;

/// The machine, as the control socket sees it. Called on the event loop's thread, so nothing here waits for the guest:
/// what the guest has to agree to is asked for, and its end is an event.
pub trait Operations {
    fn machine(&self) -> MachineStatus;

    /// Stops the vCPUs and the devices. A machine that is paused stays so.
    ///
    /// # Errors
    /// [`OperationError::WrongState`] when the power is off.
    fn pause(&mut self) -> Result<(), OperationError>;

    /// Goes on. A machine that runs does so.
    ///
    /// # Errors
    /// [`OperationError::WrongState`] when the power is off.
    fn resume(&mut self) -> Result<(), OperationError>;

    /// Asks the guest to shut down.
    ///
    /// # Errors
    /// [`OperationError::WrongState`] unless it runs.
    fn press_power_button(&mut self) -> Result<(), OperationError>;

    /// Asks the guest to shut down, and begins it anew when it has; as by the reset button, if it takes too long.
    ///
    /// # Errors
    /// [`OperationError::WrongState`] unless it runs.
    fn reboot(&mut self) -> Result<(), OperationError>;

    /// As by the reset button: memory is lost, devices stay plugged, the machine boots anew.
    ///
    /// # Errors
    /// [`OperationError::WrongState`] when the power is off.
    fn reset(&mut self) -> Result<(), OperationError>;

    /// As by pulling the plug: the guest learns nothing. The process ends afterwards.
    ///
    /// # Errors
    /// [`OperationError::Host`].
    fn power_off(&mut self) -> Result<(), OperationError>;

    /// # Errors
    /// [`OperationError::Host`] when the kernel's counters cannot be read.
    fn counters(&mut self) -> Result<Counters, OperationError>;

    fn devices(&self) -> Vec<DeviceStatus>;

    /// Plugs `disk` in.
    ///
    /// # Errors
    /// [`OperationError`]; the descriptor is closed then.
    fn add_disk(&mut self, spec: DiskSpec, disk: OwnedFd) -> Result<DeviceStatus, OperationError>;

    /// Has who is at the other end of `server` serve the disk `id`, now that whoever did has ended.
    ///
    /// # Errors
    /// [`OperationError::NoDevice`], [`OperationError::NotDisconnected`], [`OperationError::Invalid`] when it serves another disk.
    fn reconnect_disk(&mut self, id: &DeviceId, server: OwnedFd) -> Result<DeviceStatus, OperationError>;

    /// Plugs an interface in, with a tap's descriptor for each pair of queues.
    ///
    /// # Errors
    /// [`OperationError`]; the descriptors are closed then.
    fn add_interface(
        &mut self,
        spec: InterfaceSpec,
        taps: Vec<OwnedFd>,
    ) -> Result<DeviceStatus, OperationError>;

    /// The network interfaces, and what is done to their frames.
    fn interfaces(&self) -> Vec<InterfaceStatus>;

    /// Has the frames of an interface pass as over such a link, in the directions that are given. `impairments` are in their ranges.
    ///
    /// # Errors
    /// [`OperationError::NoDevice`].
    fn impair(&mut self, id: &DeviceId, impairments: Impairments) -> Result<InterfaceStatus, OperationError>;

    /// Has the frames of an interface shown to who is at the other end of `socket`.
    ///
    /// # Errors
    /// [`OperationError::NoDevice`], [`OperationError::TooManyCaptures`], [`OperationError::Invalid`] when it is no socket of
    /// packets.
    fn capture(
        &mut self,
        id: &DeviceId,
        spec: CaptureSpec,
        socket: OwnedFd,
    ) -> Result<CaptureStatus, OperationError>;

    /// Unplugs the device `id` if it is of `kind`. Asked twice, the guest is asked twice.
    ///
    /// # Errors
    /// [`OperationError::NoDevice`], [`OperationError::NotRemovable`], [`OperationError::WrongState`].
    fn remove_device(
        &mut self,
        kind: DeviceKind,
        id: &DeviceId,
        removal: Removal,
    ) -> Result<Removed, OperationError>;

    /// # Errors
    /// [`OperationError::NoBalloon`].
    fn balloon(&self) -> Result<BalloonStatus, OperationError>;

    /// Asks the guest to give memory up, or to take it back.
    ///
    /// # Errors
    /// [`OperationError::NoBalloon`], [`OperationError::Invalid`] when that is more than the machine has.
    fn set_balloon(&mut self, target: BalloonTarget) -> Result<BalloonStatus, OperationError>;
}

/// How a device is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The guest is asked and may take its time, or never answer.
    Ask,
    /// Pulled, as from a running machine: the guest sees its device fail.
    Force,
}

/// How far a removal came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The guest was asked; [`super::api::EventKind::DeviceUnplugged`] tells the end.
    Unplugging(DeviceStatus),
    Gone,
}

/// Why an operation was not done. The machine is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error("there is no such device: {id}")]
    NoDevice { id: DeviceId },
    #[error("the machine has no balloon")]
    NoBalloon,
    #[error("there is a device {id} already")]
    DeviceExists { id: DeviceId },
    #[error("device {id} is served, or not by another process")]
    NotDisconnected { id: DeviceId },
    #[error("device {id} was there at the start and stays until the end")]
    NotRemovable { id: DeviceId },
    #[error("all {slots} slots are in use: unplug a device first")]
    NoSlot { slots: usize },
    #[error("{max} captures of interface {id} are under way: end one first")]
    TooManyCaptures { id: DeviceId, max: usize },
    #[error("cannot {operation} a machine that is {state}")]
    WrongState { operation: &'static str, state: MachineState },
    #[error("{member}: {reason}")]
    Invalid { member: &'static str, reason: String },
    #[error("expected {expected} with the request, and {received} came")]
    Descriptors { expected: &'static str, received: usize },
    #[error("cannot {operation}")]
    Host { operation: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

impl OperationError {
    /// The HTTP status and the error code that a client sees: the one place that decides them.
    pub fn status(&self) -> (u16, &'static str) {
        match self {
            OperationError::NoDevice { .. } => (404, "no_device"),
            OperationError::NoBalloon => (404, "no_balloon"),
            OperationError::DeviceExists { .. } => (409, "device_exists"),
            OperationError::NotDisconnected { .. } => (409, "not_disconnected"),
            OperationError::NotRemovable { .. } => (409, "not_removable"),
            OperationError::NoSlot { .. } => (409, "no_slot"),
            OperationError::TooManyCaptures { .. } => (409, "too_many_captures"),
            OperationError::WrongState { .. } => (409, "wrong_state"),
            OperationError::Invalid { .. } => (400, "invalid"),
            OperationError::Descriptors { .. } => (400, "descriptors"),
            OperationError::Host { .. } => (500, "host"),
        }
    }
}
