//! What goes over the control socket, as types: version 1. `docs/control-api.md` shows each with an example.
//!
//! Requests refuse members that they do not know, so that a misspelt one is an error and not a silent default.
//! Answers may gain members; a client ignores what it does not know.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use types::{ByteSize, MacAddress};

use crate::virtio::DeviceKind;
pub use crate::virtio::net::{CaptureStatus, Impairment, Impairments};

/// The id of a device, which its owner chose: 1 to 64 of `a-z A-Z 0-9 . _ -`, so that it stands in a path as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DeviceId(String);

/// A text that is not a [`DeviceId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a device id: expected 1 to 64 letters, digits, `.`, `_` or `-`")]
pub struct ParseDeviceIdError(String);

const DEVICE_ID_BYTES_MAX: usize = 64;

impl DeviceId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = ParseDeviceIdError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceIdError> {
        let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !letters || !(1..=DEVICE_ID_BYTES_MAX).contains(&text.len()) {
            return Err(ParseDeviceIdError(text.to_owned()));
        }
        Ok(DeviceId(text.to_owned()))
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `GET /v1/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The version of this interface, `v1`.
    pub api: Cow<'static, str>,
    /// The version of the program.
    pub program: Cow<'static, str>,
}

/// What the machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    Running,
    /// No vCPU runs and no device touches memory.
    Paused,
    /// The power is off; the process ends next.
    Off,
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MachineState::Running => "running",
            MachineState::Paused => "paused",
            MachineState::Off => "off",
        })
    }
}

/// `GET /v1/machine`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// What the machine was named when it was started.
    pub id: String,
    pub state: MachineState,
    pub vcpus: u8,
    pub memory_bytes: ByteSize,
    /// Since the process started.
    pub uptime_ms: u64,
    pub devices: Vec<DeviceStatus>,
}

/// How a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// In its slot; no driver has taken it.
    Plugged,
    /// A driver uses it.
    Active,
    /// Whoever serves it has ended; its requests wait for another.
    Disconnected,
    /// Its driver broke the protocol, or whoever serves it has ended, and it was not reset since.
    NeedsReset,
    /// The guest was asked to let go of it, and has not yet.
    Unplugging,
}

/// `GET /v1/devices/{id}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub id: DeviceId,
    #[serde(deserialize_with = "kind_by_name")]
    pub kind: DeviceKind,
    pub state: DeviceState,
    /// Where the guest sees it, such as `0000:00:04.0`.
    pub pci_address: String,
    /// Whether it can be unplugged.
    pub removable: bool,
}

fn kind_by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DeviceKind, D::Error> {
    use DeviceKind::{Balloon, Block, Net, Rng, Vsock};
    let name = String::deserialize(deserializer)?;
    let found = [Net, Block, Rng, Balloon, Vsock].into_iter().find(|kind| kind.to_string() == name);
    found.ok_or_else(|| serde::de::Error::custom(format_args!("{name:?} is no kind of device")))
}

/// `GET /v1/devices`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    pub devices: Vec<DeviceStatus>,
}

/// `POST /v1/disks`, with one descriptor: the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    pub id: DeviceId,
    /// What the guest reads as the disk's serial number, at most 20 bytes; the id's beginning if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub format: DiskFormat,
    /// How long requests wait for another server when the disk's has ended; not at all if it is not given. For disks that
    /// others serve.
    #[serde(default)]
    pub reconnect_ms: u64,
}

/// What the bytes behind the descriptor are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// Sector N stands at offset 512 N.
    #[default]
    Raw,
}

/// `POST /v1/interfaces`, with one descriptor for each pair of queues: a tap's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceSpec {
    pub id: DeviceId,
    pub mac: MacAddress,
    /// 68 to 65535, told to the guest; none leaves the choice to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// `GET /v1/interfaces`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    pub interfaces: Vec<InterfaceStatus>,
}

/// A network interface, and what is done to its frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub id: DeviceId,
    pub mac: MacAddress,
    pub captures: Vec<CaptureStatus>,
    pub impairments: Impairments,
}

/// `POST /v1/interfaces/{id}/captures`, with one descriptor: a Unix socket of packets, whose other end is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureSpec {
    /// How many bytes of each frame are of interest; all of them if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
}

/// `GET /v1/balloon`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStatus {
    /// How much the guest is asked to give up.
    pub target_bytes: ByteSize,
    /// How much it has given up.
    pub actual_bytes: ByteSize,
}

/// `PUT /v1/balloon`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonTarget {
    pub target_bytes: ByteSize,
}

/// `GET /v1/counters`. Counters only grow, from the start of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    pub uptime_ms: u64,
    pub vcpus: Vec<VcpuCounters>,
    pub devices: Vec<DeviceCounters>,
    pub process: ProcessMemory,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuCounters {
    pub index: u8,
    /// CPU time of the vCPU's thread, in the guest and on its behalf.
    pub cpu_ns: u64,
    /// How often the vCPU left the guest for this process, by why.
    pub exits: BTreeMap<Cow<'static, str>, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceCounters {
    pub id: DeviceId,
    #[serde(deserialize_with = "kind_by_name")]
    pub kind: DeviceKind,
    /// Bytes, operations, errors and latency, as the kind of device has them.
    pub counters: serde_json::Value,
}

/// The memory of this process, the guest's included, as the kernel counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMemory {
    pub resident_bytes: ByteSize,
    /// Resident in this process alone.
    pub private_bytes: ByteSize,
    pub swapped_bytes: ByteSize,
}

/// Something that happened to the machine, or that it did by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The vCPUs run for the first time.
    Started,
    Paused,
    Resumed,
    /// The guest, or a client, reset the machine; it begins anew.
    Reset,
    /// The guest turned the power off, or a client did; the process ends next.
    PoweredOff,
    DevicePlugged {
        device: DeviceId,
    },
    /// The guest let go of the device, or it was pulled: its id is free and its descriptors are closed.
    DeviceUnplugged {
        device: DeviceId,
    },
    /// A driver broke its device's protocol, or whoever serves the device has ended: its requests fail.
    DeviceNeedsReset {
        device: DeviceId,
    },
    /// Whoever serves the device has ended: its requests wait for another.
    DeviceDisconnected {
        device: DeviceId,
    },
    /// Another serves the device.
    DeviceReconnected {
        device: DeviceId,
    },
}

/// One event, with its place in the order of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1.
    pub sequence: u64,
    /// Milliseconds since 1970, by the host's clock.
    pub time_ms: u64,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// `GET /v1/events`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    pub events: Vec<Event>,
    /// What to ask with next: `?after=`.
    pub next: u64,
    /// How many events after the asked one are kept no more.
    pub lost: u64,
}

/// A request without members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Every answer whose status is 400 or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs.
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
}
