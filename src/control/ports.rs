//! What the control plane needs of the world: traits that a host implements, and [a simulation](crate::simulation).

mod balancer;
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{
    AccountId, ByteSize, ImageId, InstanceId, MacAddress, NetworkInterfaceId, Region, ReservationId,
    SecurityGroupId, SnapshotId, SubnetId, VolumeId, VolumeSpec, VpcId, Zone,
};

use crate::capacity::Capacity;
pub use crate::records::MetadataOptions;
pub use balancer::{BalancerSpec, Balancers, OnBalancerChange, TargetPlace};
pub use network::{Networks, PortSpec, SubnetSpec, VpcSpec};

/// What the methods of a trait object return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who runs microVMs. It keeps them running when the control plane is gone, and knows them when it is back.
///
/// All methods can be called again for what is done already: then they do nothing, and succeed.
pub trait Machines: Send + Sync {
    /// What has become of a microVM. None: it was never started, or was forgotten.
    fn observe(&self, id: InstanceId) -> Option<Machine>;

    /// All that are known.
    fn ids(&self) -> Vec<InstanceId>;

    /// Starts one. It is known by its id from before the first effect.
    fn start<'a>(&'a self, spec: MachineSpec) -> BoxFuture<'a, Result<(), HostError>>;

    /// Asks the guest to power off.
    fn press_power_button(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>>;

    /// Has the guest shut down and begin anew; as if by its reset button, if it does not in time.
    fn reset(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>>;

    /// Ends the guest where it stands.
    fn kill(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>>;

    /// Removes what is left of one that has ended, but what it wrote to its console.
    fn forget(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>>;

    /// Removes what [`Machines::forget`] leaves: the console. Nobody will ask for it any more.
    fn discard(&self, id: InstanceId) -> BoxFuture<'_, Result<(), HostError>>;

    /// The last 64 KiB that the guest wrote to its console, of this start or the last: nothing, if it has never said anything.
    fn console(&self, id: InstanceId) -> BoxFuture<'_, Result<Vec<u8>, HostError>>;

    /// The processors and the memory that microVMs can have. One that does not know says that there is no end to it.
    fn capacity(&self) -> Capacity {
        Capacity::default()
    }

    /// Asks a microVM's guest whether it is there.
    fn probe(&self, id: InstanceId) -> BoxFuture<'_, Probe> {
        let _ = id;
        Box::pin(async { Probe::Unknown })
    }

    /// How long the processors of a microVM have worked since it was started, all of them together. None: nobody measures it.
    fn cpu_time(&self, id: InstanceId) -> Option<Duration> {
        let _ = id;
        None
    }

    /// Has a microVM's processors work no more than so much of the time, all of them together; none: as much as they like.
    fn limit_cpu(&self, id: InstanceId, limit: Option<CpuLimit>) -> BoxFuture<'_, Result<(), HostError>> {
        let _ = (id, limit);
        Box::pin(async { Err(HostError::Failed("this host cannot limit processors".to_owned())) })
    }

    /// The interfaces that a microVM has. None: it does not run, or that is not known yet.
    fn interfaces(&self, id: InstanceId) -> Option<BTreeSet<NetworkInterfaceId>>;

    /// Gives an interface to a microVM that runs: its guest gets it when what passes it is what its VPC says. One that is started gets what it is
    /// started with.
    fn plug_interface<'a>(
        &'a self,
        id: InstanceId,
        spec: &'a InterfaceSpec,
    ) -> BoxFuture<'a, Result<(), HostError>>;

    /// Asks the guest to let go of an interface; forced: takes it away. Not the one that it boots with.
    fn unplug_interface(
        &self,
        id: InstanceId,
        interface: NetworkInterfaceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>>;

    /// Has `call`, and what others have asked for, called whenever [`Machines::observe`] or [`Machines::interfaces`] would say something new.
    fn on_change(&self, call: Arc<dyn Fn(InstanceId) + Send + Sync>);
}

/// Whether a guest is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Answers,
    /// It was asked, and did not answer.
    Silent,
    /// It cannot be asked: that its microVM runs is all that is known.
    Unknown,
}

/// Thousandths of the time of one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLimit {
    pub per_mille: u32,
}

/// A microVM on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    Running,
    /// It is not running any more.
    Ended(End),
}

/// How a microVM came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest powered itself off, asked to or not.
    PoweredOff,
    /// It was killed by [`Machines::kill`].
    Killed,
    /// Something else happened: what a person should know.
    Failed(String),
}

/// What a microVM is, and what its guest is told of itself: a host needs to know no more to start it, and to go on with it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    pub id: InstanceId,
    pub instance_type: String,
    pub vcpus: u8,
    pub memory: ByteSize,
    /// The one that it boots from, and then the others.
    pub volumes: Vec<MachineVolume>,
    /// By their place in the guest.
    pub interfaces: Vec<InterfaceSpec>,
    pub guest: GuestSpec,
}

impl MachineSpec {
    /// Gives it one more interface, in its place; of one that it has, this is known now.
    pub fn put_interface(&mut self, interface: InterfaceSpec) {
        self.interfaces.retain(|other| other.id != interface.id);
        self.interfaces.push(interface);
        self.interfaces.sort_by_key(|interface| interface.device_index);
    }
}

/// A volume that a microVM is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineVolume {
    pub id: VolumeId,
    /// As the instance's owner calls it: `/dev/sdf`.
    pub device: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSpec {
    pub id: NetworkInterfaceId,
    pub mac: MacAddress,
    pub device_index: u8,
    /// The first is the primary one; each with the public address that leads to it.
    pub addresses: Vec<(Ipv4Addr, Option<Ipv4Addr>)>,
    /// Of the primary address, such as `ip-10-0-0-4.ec2.internal`.
    pub host_name: String,
    pub public_host_name: Option<String>,
    pub subnet: SubnetId,
    pub subnet_range: Ipv4Net,
    pub vpc: VpcId,
    /// The first is the one it was made with.
    pub vpc_ranges: Vec<Ipv4Net>,
    /// Each with its name.
    pub groups: Vec<(SecurityGroupId, String)>,
}

/// What a guest can ask about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpec {
    pub account: AccountId,
    pub zone: Zone,
    pub image: ImageId,
    pub reservation: ReservationId,
    pub launch_index: u32,
    pub launched: Timestamp,
    pub key: Option<LoginKey>,
    /// As it was given; nothing, if it is empty.
    pub user_data: Vec<u8>,
    pub tags: BTreeMap<String, String>,
    pub metadata_options: MetadataOptions,
}

/// A key that the guest's owner may log in with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginKey {
    pub name: String,
    /// One line of `authorized_keys`.
    pub public_key: String,
}

/// Why a host did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Processors, memory or space: others have them. It is asked again.
    #[error("there is no room: {0}")]
    NoCapacity(String),
    /// Something came between that may be over soon: a process died, a disk was full, a store did not answer. It is asked again, until there is no
    /// more time for it; then the record tells this.
    #[error("{0}")]
    Unavailable(String),
    /// It cannot be done, however often it is asked: there is no such key, say. The record tells so at once.
    #[error("{0}")]
    Failed(String),
}

/// Who keeps volumes and snapshots. It keeps them when the control plane is gone, and knows them when it is back.
///
/// All methods can be called again for what is done or begun already: then they do nothing more, and succeed. They return when the work
/// is begun durably; how it goes on is observed.
pub trait Disks: Send + Sync {
    /// What has become of a volume. None: it was never made, or is deleted.
    fn disk(&self, id: VolumeId) -> Option<Disk>;

    /// What has become of a snapshot. None: it was never begun, or is deleted.
    fn snapshot(&self, id: SnapshotId) -> Option<SnapshotProgress>;

    /// Makes a volume: empty, or with what a snapshot holds, which may be deleted as soon as the volume is ready.
    fn create(&self, spec: DiskSpec) -> BoxFuture<'_, Result<(), HostError>>;

    /// Makes a volume as large and as fast as `spec` says.
    fn modify(&self, id: VolumeId, spec: VolumeSpec) -> BoxFuture<'_, Result<(), HostError>>;

    /// Removes a volume that no microVM has.
    fn delete(&self, id: VolumeId) -> BoxFuture<'_, Result<(), HostError>>;

    /// Gives a volume to a microVM that runs. One that is started gets what it is started with.
    fn plug<'a>(
        &'a self,
        id: VolumeId,
        instance: InstanceId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>>;

    /// Asks the guest to let go of a volume; forced: takes it away.
    fn unplug(
        &self,
        id: VolumeId,
        instance: InstanceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>>;

    /// Begins snapshots of what volumes hold, all of one moment.
    fn begin_snapshots(&self, specs: Vec<SnapshotSpec>) -> BoxFuture<'_, Result<(), HostError>>;

    /// Begins to copy a snapshot.
    fn copy_snapshot(&self, spec: SnapshotCopySpec) -> BoxFuture<'_, Result<(), HostError>>;

    /// Removes a snapshot, complete or not. What volumes made from it still need of it is kept for them.
    fn delete_snapshot(&self, id: SnapshotId) -> BoxFuture<'_, Result<(), HostError>>;

    /// Called whenever [`Disks::disk`] or [`Disks::snapshot`] would say something new.
    fn on_disk_change(&self, call: OnDiskChange);
}

/// Told what has changed.
pub type OnDiskChange = Arc<dyn Fn(DiskChange) + Send + Sync>;

/// Of what a host would say something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskChange {
    Volume(VolumeId),
    Snapshot(SnapshotId),
    /// Of which, nobody knows.
    Any,
}

/// A volume on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// It cannot be used yet.
    Making,
    Ready {
        spec: VolumeSpec,
        /// How much of it is as `spec` says: it can be used meanwhile.
        optimized_percent: u8,
        /// The running microVMs that were given it.
        plugged: BTreeSet<InstanceId>,
    },
    /// It never will be: what a person should know.
    Failed(String),
}

/// A snapshot on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotProgress {
    /// It is begun, and what it is of is not fixed yet.
    Beginning,
    /// What it is of is fixed, and is being kept.
    Pending {
        percent: u8,
    },
    Complete,
    /// It never will be: what a person should know.
    Failed(String),
}

/// What a volume begins as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    pub id: VolumeId,
    pub zone: Zone,
    pub spec: VolumeSpec,
    pub snapshot: Option<SnapshotId>,
    /// The ARN of the key it is encrypted by.
    pub key: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSpec {
    pub id: SnapshotId,
    pub volume: VolumeId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotCopySpec {
    pub id: SnapshotId,
    pub source: SnapshotId,
    pub source_region: Region,
    pub region: Region,
    /// The ARN of the key that the copy is encrypted by.
    pub key: Option<String>,
}
