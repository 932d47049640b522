//! Instances: made to run, to stop and to end, as their records say.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::InstanceId;

pub use plan::{GRACE, REMEMBERED};

use super::agenda::Agenda;
use super::rest;
use super::{CHANGES_MAX, sleep_until};
use crate::ec2::instance::lifecycle;
use crate::ec2::instance::machine::machine;
use crate::ledger::{AsOf, Stopped, Written};
use crate::plane::Plane;
use crate::ports::{HostError, Machines};
use crate::records::{Cause, Former, Health, Instance, InstanceState, Rest, Volume, VolumeState};
use crate::state::{Record as _, Space, State, Transaction};
use plan::{Around, Step, Volumes, may_start, not_started, plan};

/// How often all instances are looked at, whatever happened: what nobody told is found then.
const PERIOD: Duration = Duration::from_secs(60);
/// When a step that failed is taken again.
const RETRY: Duration = Duration::from_secs(1);

/// Works on all instances of a host.
pub struct InstanceReconciler {
    plane: Arc<Plane>,
    machines: Arc<dyn Machines>,
    /// Whose machines have changed since they were looked at.
    changed: Arc<Changed>,
    /// When whose power button was last pressed for the stop that is under way.
    pressed: Mutex<HashMap<InstanceId, Timestamp>>,
}

#[derive(Default)]
struct Changed {
    ids: Mutex<HashSet<InstanceId>>,
    nudge: Notify,
}

/// An instance, and what else matters for it.
struct Seen {
    record: Arc<Instance>,
    /// Until it is started.
    volumes: Vec<Arc<Volume>>,
    is_awaited: bool,
}

/// Where work on an instance came to a halt.
struct Halt {
    subject: Subject,
    seen: AsOf,
    until: Option<Instant>,
}

type Subject = (Space, InstanceId);

impl InstanceReconciler {
    pub fn new(plane: Arc<Plane>, machines: Arc<dyn Machines>) -> Arc<Self> {
        let changed = Arc::new(Changed::default());
        let told = Arc::downgrade(&changed);
        machines.on_change(Arc::new(move |id| {
            if let Some(changed) = told.upgrade() {
                changed.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                changed.nudge.notify_one();
            }
        }));
        Arc::new(Self { plane, machines, changed, pressed: Mutex::default() })
    }

    /// Works until the store takes no more.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn run(self: Arc<Self>) -> Result<(), Stopped> {
        let mut feed = self.plane.ledger.follow();
        let mut period = tokio::time::interval(PERIOD);
        let mut agenda = Agenda::new();
        let (mut work, mut changes) = (JoinSet::new(), Vec::new());
        loop {
            while let Some((space, id)) = agenda.begin() {
                work.spawn(Arc::clone(&self).advance(space, id));
            }
            let next = agenda.next();
            tokio::select! {
                _ = feed.recv_many(&mut changes, CHANGES_MAX) => self.note_changes(&mut agenda, &mut changes),
                () = self.changed.nudge.notified() => self.note_machines(&mut agenda),
                _ = period.tick() => self.note_all(&mut agenda),
                Some(first) = work.join_next() => {
                    for halt in std::iter::once(first).chain(std::iter::from_fn(|| work.try_join_next())) {
                        let Ok(halt) = halt else { continue };
                        let Halt { subject, seen, until } = halt?;
                        agenda.halted(subject, seen, until);
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// Instances that have changed and have work left, and those that waited for a volume.
    fn note_changes(&self, agenda: &mut Agenda<Subject>, changes: &mut Vec<Written>) {
        let look = |state: &State| {
            for Written { as_of, former } in changes.drain(..) {
                for (space, former) in former.iter() {
                    let Some(tables) = state.space(*space) else { continue };
                    let mut note = |id, has_work: fn(&Instance) -> bool| {
                        if tables.instances.get(id).is_some_and(|instance| has_work(instance)) {
                            agenda.changed((*space, id), as_of);
                        }
                    };
                    match former {
                        Former::Instance(id, _) => note(*id, |instance| !instance.is_settled()),
                        Former::Volume(id, _) => {
                            let attachments = tables.volumes.get(*id).map(|volume| &volume.attachments);
                            for attachment in attachments.into_iter().flatten() {
                                note(attachment.instance, |it| it.state == InstanceState::Pending);
                            }
                        }
                        Former::Snapshot(id, before) => {
                            let now = tables.snapshots.get(*id);
                            let both = before.iter().chain(now).map(AsRef::as_ref);
                            for awaited in both.filter_map(|snapshot| snapshot.awaits) {
                                note(awaited, |instance| !instance.is_settled());
                            }
                        }
                        _ => {}
                    }
                }
            }
        };
        // What they read themselves is durable before they act on it.
        let ((), _) = self.plane.ledger.read(look);
    }

    /// Instances whose machines have changed.
    fn note_machines(&self, agenda: &mut Agenda<Subject>) {
        let ids = std::mem::take(&mut *self.changed.ids.lock().unwrap_or_else(PoisonError::into_inner));
        let look = |state: &State| {
            for (space, tables) in state.spaces() {
                let known = ids.iter().filter(|id| tables.instances.get(**id).is_some());
                known.for_each(|id| agenda.nudged((space, *id)));
            }
        };
        let ((), _) = self.plane.ledger.read(look);
    }

    fn note_all(&self, agenda: &mut Agenda<Subject>) {
        let look = |state: &State| {
            for (space, tables) in state.spaces() {
                tables.instances.iter().for_each(|instance| agenda.nudged((space, instance.id)));
            }
        };
        let ((), _) = self.plane.ledger.read(look);
    }

    /// Takes steps for one instance until it has to wait.
    async fn advance(self: Arc<Self>, space: Space, id: InstanceId) -> Result<Halt, Stopped> {
        let ledger = &self.plane.ledger;
        loop {
            let (found, as_of) = ledger.read(|state| find(state, space, id));
            ledger.settled(as_of).await?;
            let halt = |until| Halt { subject: (space, id), seen: as_of, until };
            let Some(seen) = found else { return Ok(halt(None)) };
            let machine = self.machines.observe(id);
            let asked = self.pressed().get(&id).copied();
            let around = Around { volumes: readiness(&seen.volumes), is_awaited: seen.is_awaited, asked };
            let step = plan(&seen.record, machine.as_ref(), &around, ledger.now());
            tracing::debug!(%id, ?step, "instance");
            let record = &seen.record;
            let outcome = match step {
                Step::Wait(until) => return Ok(halt(until.map(|until| self.instant(until)))),
                Step::Start => match self.start(space, record).await {
                    Ok(()) => Ok(()),
                    // It is as unreachable as before, and its host is asked again.
                    Err(error) if record.outage.is_some() && record.state == InstanceState::Running => {
                        Err(error)
                    }
                    Err(error @ HostError::Unavailable(_)) if may_start(record, ledger.now()) => Err(error),
                    Err(error) => {
                        tracing::warn!(%id, "cannot be started: {error}");
                        let next = not_started(record, failed_to_start(&error), ledger.now());
                        self.enter(space, record, next).await.map(Ok)?
                    }
                },
                Step::PressPowerButton => {
                    self.pressed().insert(id, ledger.now());
                    self.machines.press_power_button(id).await
                }
                Step::Reset => match self.machines.reset(id).await {
                    Ok(()) => self.rebooted(space, record).await.map(Ok)?,
                    Err(error) => Err(error),
                },
                Step::Kill => self.machines.kill(id).await,
                Step::Forget => self.machines.forget(id).await,
                Step::Enter(next) => {
                    self.pressed().remove(&id);
                    self.enter(space, record, next).await.map(Ok)?
                }
                Step::Recover => self.recovered(space, record).await.map(Ok)?,
                Step::Rest(next) => {
                    self.pressed().remove(&id);
                    self.rest(space, &seen, next).await.map(Ok)?
                }
                Step::Wake => self.woke(space, record).await.map(Ok)?,
                Step::Drop => match self.machines.discard(id).await {
                    Ok(()) => self.write(space, |tx| tx.remove::<Instance>(id)).await.map(Ok)?,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = outcome {
                tracing::warn!(%id, "{error}");
                return Ok(halt(Some(Instant::now() + RETRY)));
            }
        }
    }

    async fn start(&self, space: Space, record: &Instance) -> Result<(), HostError> {
        if record.outage.is_some_and(|outage| !outage.is_over) {
            return Err(HostError::Failed(format!("the availability zone {} has failed", record.zone)));
        }
        let (spec, _) = self.plane.ledger.read(|state| {
            let view = crate::state::View::new(state, space, self.plane.ledger.now());
            machine(view, record)
        });
        self.machines.start(spec?).await
    }

    /// Writes that the instance is in another state, unless somebody changed its record meanwhile: then that is seen first.
    async fn enter(&self, space: Space, before: &Instance, next: InstanceState) -> Result<(), Stopped> {
        self.write(space, |tx| {
            if tx.get::<Instance>(before.id) == Some(before) {
                lifecycle::enter(tx, before.id, next);
            }
        })
        .await
    }

    async fn rebooted(&self, space: Space, before: &Instance) -> Result<(), Stopped> {
        self.write(space, |tx| {
            tx.update::<Instance>(before.id, |instance| {
                instance.reboots_done = before.reboots_wanted;
                instance.health = Health::Initializing;
            });
        })
        .await
    }

    /// It has booted again, and all reboots that were asked for meanwhile are done with that.
    async fn recovered(&self, space: Space, before: &Instance) -> Result<(), Stopped> {
        self.write(space, |tx| {
            tx.update::<Instance>(before.id, |instance| {
                if instance.outage == before.outage {
                    instance.outage = None;
                    instance.health = Health::Initializing;
                    instance.reboots_done = before.reboots_wanted;
                }
            });
        })
        .await
    }

    /// Writes how far its rest has come, unless it or what waits for it changed meanwhile.
    async fn rest(&self, space: Space, seen: &Seen, next: Option<Rest>) -> Result<(), Stopped> {
        let before = &*seen.record;
        self.write(space, |tx| {
            let is_same = tx.get::<Instance>(before.id) == Some(before);
            if is_same && rest::is_awaited(tx.tables(), before.id) == seen.is_awaited {
                tx.update::<Instance>(before.id, |instance| instance.rest = next);
            }
        })
        .await
    }

    /// It has booted again, as if by one more reboot. Snapshots that have come meanwhile have it rest again.
    async fn woke(&self, space: Space, before: &Instance) -> Result<(), Stopped> {
        self.write(space, |tx| {
            let is_awaited = rest::is_awaited(tx.tables(), before.id);
            tx.update::<Instance>(before.id, |instance| {
                if instance.rest == before.rest {
                    instance.rest = is_awaited.then_some(Rest::Wanted);
                    instance.health = Health::Initializing;
                    instance.reboots_wanted += 1;
                    instance.reboots_done = before.reboots_wanted + 1;
                }
            });
        })
        .await
    }

    async fn write(&self, space: Space, change: impl FnOnce(&mut Transaction<'_>)) -> Result<(), Stopped> {
        super::write(&self.plane, space, change).await
    }

    fn instant(&self, time: Timestamp) -> Instant {
        Instant::now() + time.duration_since(self.plane.ledger.now()).unsigned_abs()
    }

    fn pressed(&self) -> MutexGuard<'_, HashMap<InstanceId, Timestamp>> {
        self.pressed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(state: &State, space: Space, id: InstanceId) -> Option<Seen> {
    let tables = state.space(space)?;
    let record = Arc::clone(tables.instances.get(id)?);
    let volumes = match record.state {
        InstanceState::Pending => tables.volumes.linked_to(id).cloned().collect(),
        _ => Vec::new(),
    };
    Some(Seen { record, volumes, is_awaited: rest::is_awaited(tables, id) })
}

fn readiness(volumes: &[Arc<Volume>]) -> Volumes {
    let failure = volumes.iter().find_map(|volume| match &volume.state {
        VolumeState::Error { message } => Some(format!("the volume {} cannot be used: {message}", volume.id)),
        _ => None,
    });
    let is_making = || volumes.iter().any(|volume| volume.state == VolumeState::Creating);
    match failure {
        Some(message) => Volumes::Failed(message),
        None if is_making() => Volumes::Making,
        None => Volumes::Ready,
    }
}

fn failed_to_start(error: &HostError) -> Cause {
    let code = match error {
        HostError::NoCapacity(_) => "Server.InsufficientInstanceCapacity",
        HostError::Unavailable(_) | HostError::Failed(_) => "Server.InternalError",
    };
    Cause::Failure { code: code.to_owned(), message: error.to_string() }
}
