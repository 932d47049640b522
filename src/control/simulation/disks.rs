//! Volumes and snapshots that hold nothing, and are ready as soon as they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use types::{InstanceId, SnapshotId, VolumeId, VolumeSpec};

use super::Simulation;
use crate::ports::{
    BoxFuture, Disk, DiskSpec, Disks, HostError, SnapshotCopySpec, SnapshotProgress, SnapshotSpec,
};

type Call = Arc<dyn Fn() + Send + Sync>;

/// What there is.
#[derive(Default)]
pub(super) struct Shelf {
    held: Mutex<Held>,
    on_change: Mutex<Option<Call>>,
}

#[derive(Default)]
struct Held {
    disks: BTreeMap<VolumeId, (VolumeSpec, BTreeSet<InstanceId>)>,
    snapshots: BTreeSet<SnapshotId>,
}

impl Shelf {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A microVM that has ended has no volumes.
    pub(super) fn unplug_all(&self, instance: InstanceId) {
        for (_, plugged) in self.held().disks.values_mut() {
            plugged.remove(&instance);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Held)) -> BoxFuture<'_, Result<(), HostError>> {
        change(&mut self.held());
        let call = self.on_change.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(call) = call {
            call();
        }
        Box::pin(async { Ok(()) })
    }
}

impl Disks for Simulation {
    fn disk(&self, id: VolumeId) -> Option<Disk> {
        let held = self.disks.held();
        let (spec, plugged) = held.disks.get(&id)?;
        Some(Disk::Ready { spec: *spec, optimized_percent: 100, plugged: plugged.clone() })
    }

    fn snapshot(&self, id: SnapshotId) -> Option<SnapshotProgress> {
        self.disks.held().snapshots.contains(&id).then_some(SnapshotProgress::Complete)
    }

    fn create(&self, spec: DiskSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(|held| {
            held.disks.entry(spec.id).or_insert_with(|| (spec.spec, BTreeSet::new()));
        })
    }

    fn modify(&self, id: VolumeId, spec: VolumeSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(|held| {
            held.disks.entry(id).and_modify(|(now, _)| *now = spec);
        })
    }

    fn delete(&self, id: VolumeId) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(|held| {
            held.disks.remove(&id);
        })
    }

    fn plug<'a>(
        &'a self,
        id: VolumeId,
        instance: InstanceId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        self.disks.change(|held| {
            held.disks.entry(id).and_modify(|(_, plugged)| {
                plugged.insert(instance);
            });
        })
    }

    fn unplug(&self, id: VolumeId, instance: InstanceId, _: bool) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(|held| {
            held.disks.entry(id).and_modify(|(_, plugged)| {
                plugged.remove(&instance);
            });
        })
    }

    fn begin_snapshots(&self, specs: Vec<SnapshotSpec>) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(|held| held.snapshots.extend(specs.into_iter().map(|spec| spec.id)))
    }

    fn copy_snapshot(&self, spec: SnapshotCopySpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(|held| {
            held.snapshots.insert(spec.id);
        })
    }

    fn delete_snapshot(&self, id: SnapshotId) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(|held| {
            held.snapshots.remove(&id);
        })
    }

    fn on_disk_change(&self, call: Call) {
        *self.disks.on_change.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }
}
