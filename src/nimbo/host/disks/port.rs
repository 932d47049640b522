//! Volumes and snapshots as the control plane sees them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use control::ports::{
    BoxFuture, Disk, DiskChange, DiskSpec, Disks, HostError, OnDiskChange, SnapshotCopySpec,
    SnapshotProgress, SnapshotSpec,
};
use types::{InstanceId, SnapshotId, VolumeId, VolumeSpec};

use super::record::{SnapshotRecord, VolumeStage};
use super::{Volumes, lock};

/// Who plugs volumes into microVMs that run.
pub(crate) trait Plugs: Send + Sync {
    /// The microVMs that run.
    fn instances(&self) -> Vec<InstanceId>;

    /// The volumes that a running microVM has.
    fn plugged(&self, instance: InstanceId) -> BTreeSet<VolumeId>;

    /// Gives a microVM the volume that is served at `socket`; if it has it, nothing is done.
    fn plug<'a>(
        &'a self,
        instance: InstanceId,
        volume: VolumeId,
        socket: &'a Path,
        device: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>>;

    /// Asks the guest to let go of it; forced: takes it away. As soon as it has it no more, the volume is [released](Volumes::release).
    fn unplug(
        &self,
        instance: InstanceId,
        volume: VolumeId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>>;
}

/// The volumes of this host, and its microVMs that they are plugged into.
pub(crate) struct HostDisks {
    volumes: Volumes,
    plugs: Arc<dyn Plugs>,
}

impl HostDisks {
    pub(crate) fn new(volumes: Volumes, plugs: Arc<dyn Plugs>) -> Self {
        Self { volumes, plugs }
    }
}

impl Disks for HostDisks {
    fn disk(&self, id: VolumeId) -> Option<Disk> {
        let slot = lock(&self.volumes.0.slots).get(&id).cloned()?;
        let record = slot.record()?;
        Some(match record.stage {
            VolumeStage::Making | VolumeStage::Deleting => Disk::Making,
            VolumeStage::Failed(message) => Disk::Failed(message),
            VolumeStage::Ready { .. } => {
                let instances = self.plugs.instances().into_iter();
                let plugged =
                    instances.filter(|instance| self.plugs.plugged(*instance).contains(&id)).collect();
                Disk::Ready { spec: record.spec, optimized_percent: 100, plugged }
            }
        })
    }

    fn snapshot(&self, id: SnapshotId) -> Option<SnapshotProgress> {
        let known = lock(&self.volumes.0.known).get(&id).cloned()?;
        Some(match known.record {
            SnapshotRecord::Complete { .. } => SnapshotProgress::Complete,
            SnapshotRecord::Failed(message) => SnapshotProgress::Failed(message),
            // A moment that was not sealed as a whole goes before it is begun again.
            SnapshotRecord::Sealing { .. } | SnapshotRecord::Deleting { .. } => SnapshotProgress::Beginning,
            SnapshotRecord::Keeping { .. } | SnapshotRecord::Copying { .. } => {
                SnapshotProgress::Pending { percent: known.percent.min(99) }
            }
        })
    }

    fn create(&self, spec: DiskSpec) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.volumes.create(spec))
    }

    fn modify(&self, id: VolumeId, spec: VolumeSpec) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.volumes.modify(id, spec))
    }

    fn delete(&self, id: VolumeId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.volumes.delete(id))
    }

    fn plug<'a>(
        &'a self,
        id: VolumeId,
        instance: InstanceId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let socket = self.volumes.serve(id, instance).await?;
            let plugged = self.plugs.plug(instance, id, &socket, device).await;
            if plugged.is_err() {
                self.volumes.release(id, instance).await;
            }
            self.volumes.tell(DiskChange::Volume(id));
            plugged
        })
    }

    fn unplug(
        &self,
        id: VolumeId,
        instance: InstanceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        self.plugs.unplug(instance, id, is_forced)
    }

    fn begin_snapshots(&self, specs: Vec<SnapshotSpec>) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.volumes.begin_snapshots(specs))
    }

    fn copy_snapshot(&self, spec: SnapshotCopySpec) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.volumes.copy_snapshot(spec))
    }

    fn delete_snapshot(&self, id: SnapshotId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.volumes.delete_snapshot(id))
    }

    fn on_disk_change(&self, call: OnDiskChange) {
        *lock(&self.volumes.0.on_change) = Some(call);
    }
}
