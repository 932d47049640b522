//! Volumes and snapshots that hold nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use types::{InstanceId, SnapshotId, VolumeId, VolumeSpec};

use super::plugs::Plugs;
use super::{Delays, Simulation, delays};
use crate::ports::{
    BoxFuture, Disk, DiskChange, DiskSpec, Disks, HostError, MachineVolume, OnDiskChange, SnapshotCopySpec,
    SnapshotProgress, SnapshotSpec,
};
use crate::records::{AttachmentState, SnapshotState, Tables, VolumeState};
use crate::state::State;

/// What there is.
#[derive(Default)]
pub(super) struct Shelf {
    delays: Delays,
    held: Mutex<Held>,
    on_change: Mutex<Option<OnDiskChange>>,
}

#[derive(Default)]
struct Held {
    disks: BTreeMap<VolumeId, Volume>,
    snapshots: BTreeMap<SnapshotId, Work>,
}

struct Volume {
    spec: VolumeSpec,
    made: Instant,
    optimized: Work,
    /// Into microVMs.
    plugs: Plugs<InstanceId>,
}

/// Something that goes on for a while.
#[derive(Clone, Copy)]
struct Work {
    begun: Instant,
    done: Instant,
}

impl Work {
    fn taking(time: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, done: begun + time }
    }

    fn percent(self) -> u8 {
        let now = Instant::now();
        if now >= self.done {
            return 100;
        }
        let parts = (now - self.begun).as_millis() * 100 / (self.done - self.begun).as_millis().max(1);
        u8::try_from(parts).unwrap_or(99).min(99)
    }
}

impl Volume {
    fn taking(time: Duration, spec: VolumeSpec) -> Self {
        let made = Instant::now() + time;
        Self { spec, made, optimized: Work::taking(Duration::ZERO), plugs: Plugs::default() }
    }
}

impl Shelf {
    pub(super) fn with(delays: Delays) -> Self {
        Self { delays, ..Self::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A microVM has what it is started with.
    pub(super) fn plug_all(&self, instance: InstanceId, volumes: &[MachineVolume]) {
        let mut held = self.held();
        for volume in volumes {
            if let Some(volume) = held.disks.get_mut(&volume.id) {
                volume.plugs.plug(instance, Duration::ZERO);
            }
        }
    }

    /// Keeps what the records of a space say is there.
    pub(super) fn adopt(&self, tables: &Tables, is_running: impl Fn(InstanceId) -> bool) {
        let mut held = self.held();
        for volume in tables.volumes.iter() {
            if !matches!(volume.state, VolumeState::Available | VolumeState::Deleting) {
                continue;
            }
            let has = volume.attachments.iter().filter(|attachment| {
                attachment.state != AttachmentState::Attaching && is_running(attachment.instance)
            });
            let mut kept = Volume::taking(Duration::ZERO, volume.spec);
            has.for_each(|attachment| kept.plugs.plug(attachment.instance, Duration::ZERO));
            held.disks.insert(volume.id, kept);
        }
        let complete = tables.snapshots.iter();
        let complete = complete.filter(|snapshot| matches!(snapshot.state, SnapshotState::Completed { .. }));
        held.snapshots.extend(complete.map(|snapshot| (snapshot.id, Work::taking(Duration::ZERO))));
    }

    /// Forgets what there are no records of.
    pub(super) fn forget_unknown(&self, state: &State) {
        let known = |is: &dyn Fn(&Tables) -> bool| state.spaces().any(|(_, tables)| is(tables));
        let mut held = self.held();
        held.disks.retain(|id, _| known(&|tables| tables.volumes.get(*id).is_some()));
        held.snapshots.retain(|id, _| {
            known(&|tables| {
                tables.snapshots.get(*id).is_some() || tables.deleted_snapshots.get(*id).is_some()
            })
        });
    }

    /// A microVM that has ended has no volumes.
    pub(super) fn unplug_all(&self, instance: InstanceId) {
        for volume in self.held().disks.values_mut() {
            volume.plugs.remove(instance);
        }
    }

    fn begin(&self, ids: impl IntoIterator<Item = SnapshotId>) -> BoxFuture<'_, Result<(), HostError>> {
        let time = self.delays.snapshot;
        for id in ids {
            self.change(DiskChange::Snapshot(id), time, |held| {
                held.snapshots.entry(id).or_insert_with(|| Work::taking(time));
            });
        }
        done()
    }

    /// Changes what there is, and tells when what begins now is done.
    fn change(&self, what: DiskChange, delay: Duration, change: impl FnOnce(&mut Held)) {
        change(&mut self.held());
        let call = self.on_change.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(call) = call {
            delays::after(delay, move || call(what));
        }
    }
}

fn done<'a>() -> BoxFuture<'a, Result<(), HostError>> {
    Box::pin(async { Ok(()) })
}

impl Disks for Simulation {
    fn disk(&self, id: VolumeId) -> Option<Disk> {
        let held = self.disks.held();
        let volume = held.disks.get(&id)?;
        if volume.made > Instant::now() {
            return Some(Disk::Making);
        }
        let optimized_percent = volume.optimized.percent();
        Some(Disk::Ready { spec: volume.spec, optimized_percent, plugged: volume.plugs.plugged() })
    }

    fn snapshot(&self, id: SnapshotId) -> Option<SnapshotProgress> {
        let percent = self.disks.held().snapshots.get(&id)?.percent();
        Some(if percent == 100 { SnapshotProgress::Complete } else { SnapshotProgress::Pending { percent } })
    }

    fn create(&self, spec: DiskSpec) -> BoxFuture<'_, Result<(), HostError>> {
        let time = self.delays.create;
        self.disks.change(DiskChange::Volume(spec.id), time, |held| {
            held.disks.entry(spec.id).or_insert_with(|| Volume::taking(time, spec.spec));
        });
        done()
    }

    fn modify(&self, id: VolumeId, spec: VolumeSpec) -> BoxFuture<'_, Result<(), HostError>> {
        let time = self.delays.optimize;
        self.disks.change(DiskChange::Volume(id), time, |held| {
            if let Some(volume) = held.disks.get_mut(&id).filter(|volume| volume.spec != spec) {
                (volume.spec, volume.optimized) = (spec, Work::taking(time));
            }
        });
        done()
    }

    fn delete(&self, id: VolumeId) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(DiskChange::Volume(id), Duration::ZERO, |held| {
            held.disks.remove(&id);
        });
        done()
    }

    fn plug<'a>(
        &'a self,
        id: VolumeId,
        instance: InstanceId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        let time = self.delays.plug;
        self.disks.change(DiskChange::Volume(id), time, |held| {
            if let Some(volume) = held.disks.get_mut(&id) {
                volume.plugs.plug(instance, time);
            }
        });
        done()
    }

    fn unplug(&self, id: VolumeId, instance: InstanceId, _: bool) -> BoxFuture<'_, Result<(), HostError>> {
        let time = self.delays.unplug;
        self.disks.change(DiskChange::Volume(id), time, |held| {
            if let Some(volume) = held.disks.get_mut(&id) {
                volume.plugs.unplug(instance, time);
            }
        });
        done()
    }

    fn begin_snapshots(&self, specs: Vec<SnapshotSpec>) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.begin(specs.into_iter().map(|spec| spec.id))
    }

    fn copy_snapshot(&self, spec: SnapshotCopySpec) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.begin([spec.id])
    }

    fn delete_snapshot(&self, id: SnapshotId) -> BoxFuture<'_, Result<(), HostError>> {
        self.disks.change(DiskChange::Snapshot(id), Duration::ZERO, |held| {
            held.snapshots.remove(&id);
        });
        done()
    }

    fn on_disk_change(&self, call: OnDiskChange) {
        *self.disks.on_change.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use types::{RandomId as _, VolumeKind};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_time_is_done_when_it_has_passed() {
        let host = Simulation::with(Delays::like_aws(1.0));
        let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&told);
        host.on_disk_change(Arc::new(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }));
        let (id, instance) = (VolumeId::from_random([1; 16]), InstanceId::from_random([2; 16]));
        let zone = "us-east-1a".parse().unwrap();
        let spec = VolumeSpec { kind: VolumeKind::Gp3, size_gib: 8, iops: None, throughput_mib_s: None };
        host.create(DiskSpec { id, zone, spec, snapshot: None, key: None }).await.unwrap();
        assert_eq!(host.disk(id), Some(Disk::Making));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let has = |instances: &[InstanceId]| {
            let plugged = instances.iter().copied().collect();
            Some(Disk::Ready { spec, optimized_percent: 100, plugged })
        };
        assert_eq!(host.disk(id), has(&[]));
        assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 1);
        for _ in 0..2 {
            host.plug(id, instance, "").await.unwrap();
            assert_eq!(host.disk(id), has(&[]));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(host.disk(id), has(&[instance]), "asked again, it does not begin again");
        host.unplug(id, instance, false).await.unwrap();
        assert_eq!(host.disk(id), has(&[instance]));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(host.disk(id), has(&[]));
        let snapshot = SnapshotId::from_random([3; 16]);
        host.begin_snapshots(vec![SnapshotSpec { id: snapshot, volume: id }]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(host.snapshot(snapshot), Some(SnapshotProgress::Pending { percent: 50 }));
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(host.snapshot(snapshot), Some(SnapshotProgress::Complete));
    }
}
