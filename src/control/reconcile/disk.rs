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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{ImageId, SnapshotId, VolumeId};

pub use plan::{Around, Change, DEADLINE, Effect, Plan, SNAPSHOT_DEADLINE, SnapshotStep, Step};
pub use plan::{image, snapshot, volume};

use crate::ledger::Stopped;
use crate::plane::Plane;
use crate::ports::Disks;
use crate::records::{Image, Snapshot, SnapshotSource, Volume};
use crate::state::{Space, State};

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
    host: Arc<Host>,
}

/// How often the host has said that it has something new to say.
#[derive(Default)]
struct Host {
    count: AtomicU64,
    nudge: Notify,
}

/// What is worked on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Volume(VolumeId),
    /// All snapshots of a moment, or a copy.
    Snapshots(SnapshotId),
    Image(ImageId),
    Deleted(SnapshotId),
}

/// What the plan for a subject follows from beside the host: with the same there is nothing new to be done.
enum Seen {
    Volume(Arc<Volume>, Around),
    Snapshots(Vec<Arc<Snapshot>>),
    /// It has its snapshots.
    Image(Arc<Image>),
    Deleted {
        is_needed: bool,
    },
}

/// What a subject waits for.
struct Waiting {
    seen: Seen,
    /// What the host had said by then.
    host: u64,
    held: Held,
    until: Option<Instant>,
}

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
    subject: Subject,
    waiting: Option<Waiting>,
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

impl PartialEq for Seen {
    /// A record that was changed is another.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Volume(one, around), Self::Volume(other, its)) => Arc::ptr_eq(one, other) && around == its,
            (Self::Snapshots(some), Self::Snapshots(others)) => {
                some.len() == others.len()
                    && some.iter().zip(others).all(|(one, other)| Arc::ptr_eq(one, other))
            }
            (Self::Image(one), Self::Image(other)) => Arc::ptr_eq(one, other),
            (Self::Deleted { is_needed }, Self::Deleted { is_needed: its }) => is_needed == its,
            _ => false,
        }
    }
}

impl Host {
    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

impl Reconciler {
    fn new(plane: Arc<Plane>, disks: Arc<dyn Disks>) -> Arc<Self> {
        let host = Arc::new(Host::default());
        let told = Arc::downgrade(&host);
        disks.on_disk_change(Arc::new(move || {
            if let Some(host) = told.upgrade() {
                host.count.fetch_add(1, Ordering::Release);
                host.nudge.notify_one();
            }
        }));
        Arc::new(Self { plane, disks, host })
    }

    async fn run(self: Arc<Self>) -> Result<(), Stopped> {
        let mut records = self.plane.ledger.changes();
        let mut busy = HashSet::new();
        let mut waiting: HashMap<Subject, Waiting> = HashMap::new();
        let mut work = JoinSet::new();
        loop {
            let began = Instant::now();
            records.mark_unchanged();
            self.begin(&mut busy, &mut waiting, &mut work);
            super::rest(began).await;
            let next = waiting.values().filter_map(|waiting| waiting.until).min();
            let mut halted = tokio::select! {
                Ok(()) = records.changed() => None,
                () = self.host.nudge.notified() => None,
                () = sleep_until(next) => None,
                halted = work.join_next(), if !work.is_empty() => halted,
            };
            while let Some(halt) = halted {
                if let Ok(halt) = halt {
                    let Halt { subject, waiting: wait } = halt?;
                    busy.remove(&subject);
                    waiting.extend(wait.map(|wait| (subject, wait)));
                }
                halted = work.try_join_next();
            }
        }
    }

    /// Begins work on all that have work left and do not wait.
    fn begin(
        self: &Arc<Self>,
        busy: &mut HashSet<Subject>,
        waiting: &mut HashMap<Subject, Waiting>,
        work: &mut JoinSet<Result<Halt, Stopped>>,
    ) {
        let (now, host) = (Instant::now(), self.host.count());
        // Nobody is told of them before they are looked at again.
        let (all, _) = self.plane.ledger.read(unsettled);
        let mut before = std::mem::take(waiting);
        for (space, subject, seen) in all {
            if busy.contains(&subject) {
                continue;
            }
            let last = before.remove(&subject).filter(|last| last.seen == seen);
            let is_due = last
                .as_ref()
                .is_none_or(|last| last.host != host || last.until.is_some_and(|until| until <= now));
            if is_due {
                busy.insert(subject);
                let held = last.map(|last| last.held).unwrap_or_default();
                work.spawn(Arc::clone(self).advance(space, subject, held));
            } else if let Some(last) = last {
                waiting.insert(subject, last);
            }
        }
    }

    async fn advance(self: Arc<Self>, space: Space, subject: Subject, held: Held) -> Result<Halt, Stopped> {
        let waiting = match subject {
            Subject::Volume(id) => self.volume(space, id, held).await?,
            Subject::Snapshots(id) => self.snapshots(space, id, held).await?,
            Subject::Image(id) => self.image(space, id).await?,
            Subject::Deleted(id) => self.deleted(space, id, held).await?,
        };
        Ok(Halt { subject, waiting })
    }
}

/// All that have work left.
fn unsettled(state: &State) -> Vec<(Space, Subject, Seen)> {
    let mut all = Vec::new();
    let in_use = work::in_use(state);
    for (space, tables) in state.spaces() {
        for volume in tables.volumes.unsettled() {
            let seen = Seen::Volume(Arc::clone(volume), work::around(tables, volume));
            all.push((space, Subject::Volume(volume.id), seen));
        }
        let mut moments: BTreeMap<SnapshotId, Vec<Arc<Snapshot>>> = BTreeMap::new();
        for snapshot in tables.snapshots.unsettled() {
            moments.entry(moment(snapshot)).or_default().push(Arc::clone(snapshot));
        }
        let moments = moments.into_iter();
        all.extend(moments.map(|(moment, of)| (space, Subject::Snapshots(moment), Seen::Snapshots(of))));
        for image in tables.images.unsettled() {
            // As long as there is nothing to be done about it, nobody has to.
            if work::next_of_image(tables, image).is_some() {
                all.push((space, Subject::Image(image.id), Seen::Image(Arc::clone(image))));
            }
        }
        for deleted in tables.deleted_snapshots.unsettled() {
            let seen = Seen::Deleted { is_needed: in_use.contains(&deleted.id) };
            all.push((space, Subject::Deleted(deleted.id), seen));
        }
    }
    all
}

/// What those have in common that are of one moment. A copy is by itself.
fn moment(snapshot: &Snapshot) -> SnapshotId {
    match snapshot.source {
        SnapshotSource::Volume { moment, .. } => moment,
        SnapshotSource::Snapshot { .. } | SnapshotSource::Seed { .. } => snapshot.id,
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
