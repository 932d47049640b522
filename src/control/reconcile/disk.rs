//! What is made true of volumes, snapshots and images.
//!
//! Each volume, each moment that snapshots are of, and each copy is worked on by itself: a host that takes its time for one holds up no other. A step is an
//! effect on the host, begun when its record is durable, or a change of the record by what the host says. A host that refuses something, or does not
//! get on with it, is asked again after a pause, unless the record has changed. A process that ends anywhere, killed or not, leaves what the next one can go
//! on from: all effects can be repeated, and a record goes only when the host has nothing of it.

mod plan;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{ImageId, SnapshotId, VolumeId};

pub use plan::{Around, Change, DEADLINE, Effect, Plan, SNAPSHOT_DEADLINE, SnapshotStep, Step};
pub use plan::{image, snapshot, volume};

use super::agenda::Agenda;
use super::{CHANGES_MAX, sleep_until};
use crate::ledger::{AsOf, Stopped, Written};
use crate::plane::Plane;
use crate::ports::{DiskChange, Disks};
use crate::records::{Former, Image, Snapshot, SnapshotSource, Volume};
use crate::state::{Record as _, Space, State};

/// What a host did not do, or has not got on with, is asked of it again after so long.
pub const RETRY: Duration = Duration::from_secs(1);

/// Works on all volumes, snapshots and images until the ledger takes no more changes.
///
/// # Errors
/// Always, in the end: why it takes none.
pub async fn run(plane: Arc<Plane>, disks: Arc<dyn Disks>) -> Result<(), Stopped> {
    Reconciler::new(plane, disks).run().await
}

struct Reconciler {
    plane: Arc<Plane>,
    disks: Arc<dyn Disks>,
    /// What of the host has changed since it was looked at.
    changed: Arc<Changed>,
}

#[derive(Default)]
struct Changed {
    what: Mutex<Vec<DiskChange>>,
    nudge: Notify,
}

/// What is worked on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Work {
    Volume(VolumeId),
    /// All snapshots of a moment, or a copy.
    Snapshots(SnapshotId),
    Image(ImageId),
    Deleted(SnapshotId),
}

type Subject = (Space, Work);

/// What was asked of the host, and may not be asked again before a time.
#[derive(Default)]
struct Held(Vec<(Ask, Instant)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Of(Effect),
    BeginSnapshots,
    DeleteSnapshot,
}

/// Where work on a subject came to a halt.
struct Halt {
    seen: AsOf,
    until: Option<Instant>,
    held: Held,
}

impl Halt {
    /// There is nothing to be done any more, if nothing changes.
    fn for_good(seen: AsOf) -> Self {
        Self { seen, until: None, held: Held::default() }
    }
}

impl Held {
    fn admits(&self, ask: Ask) -> bool {
        let now = Instant::now();
        !self.0.iter().any(|(other, until)| *other == ask && *until > now)
    }

    fn note(&mut self, ask: Ask) {
        let now = Instant::now();
        self.0.retain(|(other, until)| *other != ask && *until > now);
        self.0.push((ask, now + RETRY));
    }

    /// When the first of them may be asked again.
    fn until(&self) -> Option<Instant> {
        let now = Instant::now();
        self.0.iter().map(|(_, until)| *until).filter(|until| *until > now).min()
    }
}

impl Reconciler {
    fn new(plane: Arc<Plane>, disks: Arc<dyn Disks>) -> Arc<Self> {
        let changed = Arc::new(Changed::default());
        let told = Arc::downgrade(&changed);
        disks.on_disk_change(Arc::new(move |what| {
            if let Some(changed) = told.upgrade() {
                changed.what.lock().unwrap_or_else(PoisonError::into_inner).push(what);
                changed.nudge.notify_one();
            }
        }));
        Arc::new(Self { plane, disks, changed })
    }

    async fn run(self: Arc<Self>) -> Result<(), Stopped> {
        let mut feed = self.plane.ledger.follow();
        let mut agenda = Agenda::new();
        let (mut held, mut work, mut changes) = (HashMap::new(), JoinSet::new(), Vec::new());
        self.look(|state| unsettled(state, &mut |subject| agenda.nudged(subject)));
        loop {
            while let Some(subject) = agenda.begin() {
                let held = held.remove(&subject).unwrap_or_default();
                work.spawn(Arc::clone(&self).advance(subject, held));
            }
            let next = agenda.next();
            tokio::select! {
                _ = feed.recv_many(&mut changes, CHANGES_MAX) => self.look(|state| {
                    for Written { as_of, former } in changes.drain(..) {
                        for (space, former) in former.iter() {
                            touched(state, *space, former, &mut |subject| {
                                // What was refused may be something else now.
                                held.remove(&subject);
                                agenda.changed(subject, as_of);
                            });
                        }
                    }
                }),
                () = self.changed.nudge.notified() => self.look(|state| {
                    let what = std::mem::take(&mut *self.changed.what.lock().unwrap_or_else(PoisonError::into_inner));
                    what.into_iter().for_each(|what| told(state, what, &mut |subject| agenda.nudged(subject)));
                }),
                Some(first) = work.join_next() => {
                    for halt in std::iter::once(first).chain(std::iter::from_fn(|| work.try_join_next())) {
                        let Ok(halt) = halt else { continue };
                        let (subject, halt) = halt?;
                        let is_behind = agenda.halted(subject, halt.seen, halt.until);
                        // What has nothing more to be done about has nothing to be asked either.
                        if !is_behind && halt.until.is_some() {
                            held.insert(subject, halt.held);
                        }
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// Looks at what need not be durable yet: what work reads itself is, before it acts on it.
    fn look(&self, look: impl FnOnce(&State)) {
        let ((), _) = self.plane.ledger.read(look);
    }

    async fn advance(self: Arc<Self>, subject: Subject, held: Held) -> Result<(Subject, Halt), Stopped> {
        let (space, work) = subject;
        let halt = match work {
            Work::Volume(id) => self.volume(space, id, held).await?,
            Work::Snapshots(id) => self.snapshots(space, id, held).await?,
            Work::Image(id) => self.image(space, id).await?,
            Work::Deleted(id) => self.deleted(space, id, held).await?,
        };
        Ok((subject, halt))
    }
}

/// Notes all that have work left.
fn unsettled(state: &State, note: &mut dyn FnMut(Subject)) {
    for (space, tables) in state.spaces() {
        tables.volumes.unsettled().for_each(|volume| note((space, Work::Volume(volume.id))));
        let moments: BTreeSet<_> = tables.snapshots.unsettled().map(|snapshot| snapshot.moment()).collect();
        moments.into_iter().for_each(|moment| note((space, Work::Snapshots(moment))));
        tables.images.unsettled().for_each(|image| note((space, Work::Image(image.id))));
        tables.deleted_snapshots.unsettled().for_each(|it| note((space, Work::Deleted(it.id))));
    }
}

/// Notes those that have work left which depends on a record that changed.
fn touched(state: &State, space: Space, former: &Former, note: &mut dyn FnMut(Subject)) {
    let Some(tables) = state.space(space) else { return };
    match former {
        Former::Volume(id, before) => {
            volume_of(space, tables.volumes.get(*id), note);
            deleted(state, before.as_ref().and_then(|volume| volume.snapshot), note);
        }
        // Its volumes are attached when it runs, and let go when it does not; snapshots may await that it does not.
        Former::Instance(id, _) => {
            tables.volumes.linked_to(*id).for_each(|volume| volume_of(space, Some(volume), note));
            tables.snapshots.linked_to(*id).for_each(|snapshot| snapshot_of(space, snapshot, note));
        }
        Former::Snapshot(id, before) => {
            tables.snapshots.get(*id).iter().for_each(|snapshot| snapshot_of(space, snapshot, note));
            match before.as_ref().map(|snapshot| &snapshot.source) {
                // It was kept for it, and the next snapshot may have waited for this one.
                Some(SnapshotSource::Volume { volume, .. }) => {
                    volume_of(space, tables.volumes.get(*volume), note);
                    tables
                        .snapshots
                        .linked_to(*volume)
                        .for_each(|snapshot| snapshot_of(space, snapshot, note));
                }
                Some(SnapshotSource::Snapshot { snapshot, .. }) => deleted(state, Some(*snapshot), note),
                Some(SnapshotSource::Seed { .. }) | None => {}
            }
            tables.images.linked_to(*id).for_each(|image| image_of(space, image, note));
        }
        Former::Image(id, _) => tables.images.get(*id).iter().for_each(|image| image_of(space, image, note)),
        Former::DeletedSnapshot(id, _) => deleted(state, Some(*id), note),
        _ => {}
    }
}

/// Notes those that have work left which depends on what a host has changed.
fn told(state: &State, change: DiskChange, note: &mut dyn FnMut(Subject)) {
    match change {
        DiskChange::Volume(id) => {
            for (space, tables) in state.spaces() {
                volume_of(space, tables.volumes.get(id), note);
            }
        }
        DiskChange::Snapshot(id) => {
            for (space, tables) in state.spaces() {
                tables.snapshots.get(id).iter().for_each(|snapshot| snapshot_of(space, snapshot, note));
            }
            deleted(state, Some(id), note);
        }
        DiskChange::Any => unsettled(state, note),
    }
}

fn volume_of(space: Space, volume: Option<&Arc<Volume>>, note: &mut dyn FnMut(Subject)) {
    if let Some(volume) = volume.filter(|volume| !volume.is_settled()) {
        note((space, Work::Volume(volume.id)));
    }
}

fn snapshot_of(space: Space, snapshot: &Snapshot, note: &mut dyn FnMut(Subject)) {
    if !snapshot.is_settled() {
        note((space, Work::Snapshots(snapshot.moment())));
    }
}

fn image_of(space: Space, image: &Image, note: &mut dyn FnMut(Subject)) {
    if !image.is_settled() {
        note((space, Work::Image(image.id)));
    }
}

/// A snapshot that is to go, wherever it is: in other spaces it may be shared.
fn deleted(state: &State, id: Option<SnapshotId>, note: &mut dyn FnMut(Subject)) {
    let Some(id) = id else { return };
    for (space, tables) in state.spaces() {
        if tables.deleted_snapshots.get(id).is_some() {
            note((space, Work::Deleted(id)));
        }
    }
}
