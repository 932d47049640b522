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
use types::InstanceId;

pub use plan::{GRACE, REMEMBERED};

use crate::ec2::instance::lifecycle;
use crate::ec2::instance::machine::machine;
use crate::ledger::{Stopped, WriteError};
use crate::plane::Plane;
use crate::ports::{HostError, Machines};
use crate::records::{Cause, Health, Instance, InstanceState, Tables, Volume, VolumeState};
use crate::state::{Space, State};
use plan::{Step, Volumes, not_started, plan};

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

/// What an instance waits for.
struct Waiting {
    /// The record as it was; a changed one is another.
    record: Arc<Instance>,
    /// Its volumes as they were while some were being made.
    volumes: Vec<Arc<Volume>>,
    until: Option<tokio::time::Instant>,
}

impl Waiting {
    fn is_over(&self, record: &Arc<Instance>, tables: &Tables, now: tokio::time::Instant) -> bool {
        let is_other = |volume: &Arc<Volume>| {
            tables.volumes.get(volume.id).is_none_or(|current| !Arc::ptr_eq(current, volume))
        };
        !Arc::ptr_eq(&self.record, record)
            || self.volumes.iter().any(is_other)
            || self.until.is_some_and(|until| until <= now)
    }
}

/// Where work on an instance came to a halt.
struct Halt {
    id: InstanceId,
    waiting: Option<Waiting>,
}

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
        let mut records = self.plane.ledger.changes();
        let mut period = tokio::time::interval(PERIOD);
        let mut busy = HashSet::new();
        let mut waiting: HashMap<InstanceId, Waiting> = HashMap::new();
        let mut work = JoinSet::new();
        let mut looks_at_all = true;
        loop {
            let began = tokio::time::Instant::now();
            let changed =
                std::mem::take(&mut *self.changed.ids.lock().unwrap_or_else(PoisonError::into_inner));
            for (space, id) in self.candidates(&changed, &waiting, std::mem::take(&mut looks_at_all)) {
                if busy.insert(id) {
                    waiting.remove(&id);
                    work.spawn(Arc::clone(&self).advance(space, id));
                } else if changed.contains(&id) {
                    // It is looked at again when the work on it has come to a halt.
                    self.changed.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                }
            }
            let next = waiting.values().filter_map(|waiting| waiting.until).min();
            super::rest(began).await;
            tokio::select! {
                Ok(()) = records.changed() => {}
                () = self.changed.nudge.notified() => {}
                _ = period.tick() => {
                    looks_at_all = true;
                    // Of whom there is no record any more, nothing stays either.
                    waiting.clear();
                }
                Some(first) = work.join_next() => {
                    for halt in std::iter::once(first).chain(std::iter::from_fn(|| work.try_join_next())) {
                        let Ok(halt) = halt else { continue };
                        let Halt { id, waiting: wait } = halt?;
                        busy.remove(&id);
                        waiting.extend(wait.map(|wait| (id, wait)));
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// Whom to work on: who has work left and waits for nothing, and who has changed.
    fn candidates(
        &self,
        changed: &HashSet<InstanceId>,
        waiting: &HashMap<InstanceId, Waiting>,
        looks_at_all: bool,
    ) -> Vec<(Space, InstanceId)> {
        let now = tokio::time::Instant::now();
        let is_due = |tables: &Tables, record: &Arc<Instance>| {
            changed.contains(&record.id)
                || waiting.get(&record.id).is_none_or(|waiting| waiting.is_over(record, tables, now))
        };
        let (mut candidates, _) = self.plane.ledger.read(|state| {
            let mut candidates = Vec::new();
            for (space, tables) in state.spaces() {
                let named = changed.iter().filter_map(|id| tables.instances.get(*id));
                let due = tables.instances.unsettled().filter(|record| is_due(tables, record)).chain(named);
                candidates.extend(due.map(|record| (space, record.id)));
                if looks_at_all {
                    candidates.extend(tables.instances.iter().map(|record| (space, record.id)));
                }
            }
            candidates
        });
        // One that is named twice would be taken for one that has changed again.
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }

    /// Takes steps for one instance until it has to wait.
    async fn advance(self: Arc<Self>, space: Space, id: InstanceId) -> Result<Halt, Stopped> {
        let ledger = &self.plane.ledger;
        loop {
            let (found, as_of) = ledger.read(|state| find(state, space, id));
            ledger.settled(as_of).await?;
            let Some((record, volumes)) = found else { return Ok(Halt { id, waiting: None }) };
            let machine = self.machines.observe(id);
            let asked = self.pressed().get(&id).copied();
            let step = plan(&record, machine.as_ref(), &readiness(&volumes), asked, ledger.now());
            tracing::debug!(%id, ?step, "instance");
            let outcome = match step {
                Step::Wait(until) => return Ok(self.halt(record, volumes, until)),
                Step::Start => match self.start(space, &record).await {
                    Ok(()) => Ok(()),
                    // It is as unreachable as before, and its host is asked again.
                    Err(error) if record.state == InstanceState::Running => Err(error),
                    Err(error) => {
                        tracing::warn!(%id, "cannot be started: {error}");
                        let next = not_started(&record, failed_to_start(&error), ledger.now());
                        self.enter(space, &record, next).await.map(Ok)?
                    }
                },
                Step::PressPowerButton => {
                    self.pressed().insert(id, ledger.now());
                    self.machines.press_power_button(id).await
                }
                Step::Reset => match self.machines.reset(id).await {
                    Ok(()) => self.rebooted(space, &record).await.map(Ok)?,
                    Err(error) => Err(error),
                },
                Step::Kill => self.machines.kill(id).await,
                Step::Forget => self.machines.forget(id).await,
                Step::Enter(next) => {
                    self.pressed().remove(&id);
                    self.enter(space, &record, next).await.map(Ok)?
                }
                Step::Recover => self.recovered(space, &record).await.map(Ok)?,
                Step::Drop => match self.machines.discard(id).await {
                    Ok(()) => self.write(space, |tx| tx.remove::<Instance>(id)).await.map(Ok)?,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = outcome {
                tracing::warn!(%id, "{error}");
                let until = tokio::time::Instant::now() + RETRY;
                let waiting = Waiting { record, volumes: Vec::new(), until: Some(until) };
                return Ok(Halt { id, waiting: Some(waiting) });
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

    async fn write(
        &self,
        space: Space,
        change: impl FnOnce(&mut crate::state::Transaction<'_>),
    ) -> Result<(), Stopped> {
        let outcome = self.plane.ledger.write(space, |tx| {
            change(tx);
            Ok::<_, std::convert::Infallible>(())
        });
        match outcome.await {
            Ok(()) => Ok(()),
            Err(WriteError::Stopped(stopped)) => Err(stopped),
            Err(WriteError::Refused(never)) => match never {},
            Err(error @ WriteError::TooLarge { .. }) => unreachable!("one instance is small: {error}"),
        }
    }

    fn halt(&self, record: Arc<Instance>, volumes: Vec<Arc<Volume>>, until: Option<Timestamp>) -> Halt {
        let left = until.map(|until| until.duration_since(self.plane.ledger.now()).unsigned_abs());
        let until = left.map(|left| tokio::time::Instant::now() + left);
        Halt { id: record.id, waiting: Some(Waiting { record, volumes, until }) }
    }

    fn pressed(&self) -> MutexGuard<'_, HashMap<InstanceId, Timestamp>> {
        self.pressed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instance, and its volumes as long as they matter: until it is started.
fn find(state: &State, space: Space, id: InstanceId) -> Option<(Arc<Instance>, Vec<Arc<Volume>>)> {
    let tables = state.space(space)?;
    let instance = tables.instances.get(id)?;
    let volumes = match instance.state {
        InstanceState::Pending => tables.volumes.linked_to(id).cloned().collect(),
        _ => Vec::new(),
    };
    Some((Arc::clone(instance), volumes))
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
        HostError::Failed(_) => "Server.InternalError",
    };
    Cause::Failure { code: code.to_owned(), message: error.to_string() }
}

async fn sleep_until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
