//! A host that can be had to refuse, to take its time and to hang.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use types::{InstanceId, SnapshotId, VolumeId, VolumeSpec};

use crate::ports::{
    BoxFuture, Disk, DiskSpec, Disks, HostError, OnDiskChange, SnapshotCopySpec, SnapshotProgress,
    SnapshotSpec,
};
use crate::simulation::Simulation;

/// A host that does as it is told in tests.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) host: Simulation,
    told: Mutex<Told>,
    /// Told when an effect hangs: the process is to be killed then.
    pub(super) hangs: Notify,
}

/// What it is told, and what it was asked.
#[derive(Default)]
pub(super) struct Told {
    pub(super) effects: Vec<String>,
    pub(super) refusal: Option<HostError>,
    /// After so many effects the next one does not return; and whether it is done nevertheless.
    pub(super) hang: Option<(usize, bool)>,
    /// What is said of every volume and snapshot that is there.
    pub(super) disk: Option<Disk>,
    pub(super) progress: Option<SnapshotProgress>,
}

impl Fake {
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    fn effect<'a>(
        &'a self,
        name: String,
        carry_out: impl FnOnce(&'a Simulation) -> BoxFuture<'a, Result<(), HostError>>,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        let mut told = self.told();
        told.effects.push(name);
        if let Some(refusal) = told.refusal.clone() {
            return Box::pin(async { Err(refusal) });
        }
        let Some((count, is_done)) = told.hang.filter(|(count, _)| told.effects.len() > *count) else {
            drop(told);
            return carry_out(&self.host);
        };
        // What others begin after the process is killed is not done.
        let is_last = told.effects.len() == count + 1;
        drop(told);
        if is_done && is_last {
            drop(carry_out(&self.host));
        }
        self.hangs.notify_one();
        Box::pin(std::future::pending())
    }
}

impl Disks for Fake {
    fn disk(&self, id: VolumeId) -> Option<Disk> {
        let says = self.told().disk.clone();
        self.host.disk(id).map(|disk| says.unwrap_or(disk))
    }

    fn snapshot(&self, id: SnapshotId) -> Option<SnapshotProgress> {
        let says = self.told().progress.clone();
        self.host.snapshot(id).map(|progress| says.unwrap_or(progress))
    }

    fn create(&self, spec: DiskSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("create".to_owned(), |host| host.create(spec))
    }

    fn modify(&self, id: VolumeId, spec: VolumeSpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("modify".to_owned(), move |host| host.modify(id, spec))
    }

    fn delete(&self, id: VolumeId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("delete".to_owned(), move |host| host.delete(id))
    }

    fn plug<'a>(
        &'a self,
        id: VolumeId,
        instance: InstanceId,
        device: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        self.effect(format!("plug {device}"), move |host| host.plug(id, instance, device))
    }

    fn unplug(
        &self,
        id: VolumeId,
        instance: InstanceId,
        is_forced: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(format!("unplug {is_forced}"), move |host| host.unplug(id, instance, is_forced))
    }

    fn begin_snapshots(&self, specs: Vec<SnapshotSpec>) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect(format!("snapshots {}", specs.len()), |host| host.begin_snapshots(specs))
    }

    fn copy_snapshot(&self, spec: SnapshotCopySpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("copy".to_owned(), |host| host.copy_snapshot(spec))
    }

    fn delete_snapshot(&self, id: SnapshotId) -> BoxFuture<'_, Result<(), HostError>> {
        self.effect("delete snapshot".to_owned(), move |host| host.delete_snapshot(id))
    }

    fn on_disk_change(&self, call: OnDiskChange) {
        self.host.on_disk_change(call);
    }
}
