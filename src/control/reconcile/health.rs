//! Whether guests answer: found out by asking, and noted where it has changed.
//!
//! A guest that has just started is asked often, until it answers; all others every minute, as AWS does. One answer says that
//! all is well; that it is not takes two silences, for a packet may be lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::InstanceId;

use super::sleep_until;
use crate::ledger::Stopped;
use crate::plane::Plane;
use crate::ports::{Machines, Probe};
use crate::records::{Health, Instance, InstanceState};
use crate::state::{Space, State, Transaction};

/// Between two questions to a guest that has answered before.
const PERIOD: Duration = Duration::from_secs(60);
/// Between two questions to one that has not.
const SOON: Duration = Duration::from_secs(5);
/// After a change, for others that come with it.
const PAUSE: Duration = Duration::from_millis(20);
/// For an answer.
const TIME: Duration = Duration::from_secs(5);
/// How long a guest may take to boot before it is said to be impaired.
pub const BOOT_TIME: SignedDuration = SignedDuration::from_mins(10);
/// How many are asked at once.
const AT_ONCE: usize = 64;

/// Which boot of which instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Boot {
    launched: Timestamp,
    reboots: u64,
}

/// A guest that did not answer. Of one that does nothing need be remembered.
struct Silent {
    space: Space,
    boot: Boot,
    /// When it was asked for the first time, and the last.
    first: Timestamp,
    at: Instant,
    /// In a row.
    silences: u32,
}

impl Silent {
    /// When it is asked again.
    fn next(&self) -> Instant {
        self.at + SOON
    }
}

/// Works until the store takes no more.
///
/// # Errors
/// [`Stopped`].
pub async fn run(plane: Arc<Plane>, machines: Arc<dyn Machines>) -> Result<(), Stopped> {
    let mut records = plane.ledger.changes();
    let mut period = tokio::time::interval(PERIOD);
    let mut silent: HashMap<InstanceId, Silent> = HashMap::new();
    let mut looks_at_all = true;
    loop {
        let due = due(&plane, &mut silent, std::mem::take(&mut looks_at_all));
        for some in due.chunks(AT_ONCE) {
            ask(&plane, &machines, &mut silent, some).await?;
        }
        let next = silent.values().map(Silent::next).min();
        tokio::select! {
            // What happens at the same time is asked for at once.
            Ok(()) = records.changed() => tokio::time::sleep(PAUSE).await,
            _ = period.tick() => looks_at_all = true,
            () = sleep_until(next) => {}
        }
    }
}

type Due = (Space, Arc<Instance>);

/// Who is to be asked now. Whoever runs no more is forgotten.
fn due(plane: &Plane, silent: &mut HashMap<InstanceId, Silent>, looks_at_all: bool) -> Vec<Due> {
    let now = Instant::now();
    let look = |state: &State| {
        let mut due: Vec<Due> = Vec::new();
        let mut gone = Vec::new();
        for (id, known) in silent.iter().filter(|(_, known)| looks_at_all || known.next() <= now) {
            let found = state.space(known.space).and_then(|tables| tables.instances.get(*id));
            match found.filter(|instance| can_be_asked(instance)) {
                Some(instance) => due.push((known.space, Arc::clone(instance))),
                None => gone.push(*id),
            }
        }
        for (space, tables) in state.spaces() {
            let is_new = |instance: &&Arc<Instance>| {
                can_be_asked(instance)
                    && (looks_at_all || instance.health == Health::Initializing)
                    && silent.get(&instance.id).is_none_or(|known| known.boot != boot(instance))
            };
            let mut add = |instance: &Arc<Instance>| due.push((space, Arc::clone(instance)));
            if looks_at_all {
                tables.instances.iter().filter(is_new).for_each(&mut add);
            } else {
                tables.instances.unsettled().filter(is_new).for_each(&mut add);
            }
        }
        (due, gone)
    };
    let ((mut due, gone), _) = plane.ledger.read(look);
    silent.retain(|id, _| !gone.contains(id));
    due.sort_by_key(|(_, instance)| instance.id);
    due.dedup_by_key(|(_, instance)| instance.id);
    due
}

fn can_be_asked(instance: &Instance) -> bool {
    instance.is_up()
}

fn boot(instance: &Instance) -> Boot {
    Boot { launched: instance.launched, reboots: instance.reboots_done }
}

async fn ask(
    plane: &Plane,
    machines: &Arc<dyn Machines>,
    silent: &mut HashMap<InstanceId, Silent>,
    due: &[Due],
) -> Result<(), Stopped> {
    let mut questions = JoinSet::new();
    for (index, (_, instance)) in due.iter().enumerate() {
        let (machines, id) = (Arc::clone(machines), instance.id);
        questions.spawn(async move {
            let probe = tokio::time::timeout(TIME, machines.probe(id)).await;
            (index, probe.unwrap_or(Probe::Silent))
        });
    }
    let mut changes: HashMap<Space, Vec<(Arc<Instance>, Health)>> = HashMap::new();
    while let Some(answer) = questions.join_next().await {
        let Ok((index, probe)) = answer else { continue };
        let (space, instance) = &due[index];
        if let Some(health) = note(silent, *space, instance, probe, plane.ledger.now()) {
            changes.entry(*space).or_default().push((Arc::clone(instance), health));
        }
    }
    for (space, changes) in changes {
        super::write(plane, space, |tx| enter(tx, &changes)).await?;
    }
    Ok(())
}

/// Takes note of an answer; gives back what its guest's health becomes, if it changes.
fn note(
    silent: &mut HashMap<InstanceId, Silent>,
    space: Space,
    instance: &Instance,
    probe: Probe,
    now: Timestamp,
) -> Option<Health> {
    let next = if probe == Probe::Silent {
        let (boot, at) = (boot(instance), Instant::now());
        let new = || Silent { space, boot, first: now, at, silences: 0 };
        let known = silent.entry(instance.id).or_insert_with(new);
        if known.boot != boot {
            *known = new();
        }
        (known.at, known.silences) = (at, known.silences.saturating_add(1));
        next(instance.health, known.silences, now.duration_since(known.first), now)
    } else {
        silent.remove(&instance.id);
        Health::Well
    };
    (next != instance.health).then_some(next)
}

/// What a guest's health becomes after so many silences in a row, so long after it was asked first.
fn next(health: Health, silences: u32, age: SignedDuration, now: Timestamp) -> Health {
    match (health, silences) {
        (Health::Initializing, _) if age >= BOOT_TIME => Health::Impaired { since: now },
        (Health::Well, 2..) => Health::Impaired { since: now },
        (same, _) => same,
    }
}

fn enter(tx: &mut Transaction<'_>, changes: &[(Arc<Instance>, Health)]) {
    for (before, health) in changes {
        tx.update::<Instance>(before.id, |instance| {
            let is_same = boot(instance) == boot(before) && instance.outage == before.outage;
            if is_same && instance.state == InstanceState::Running {
                instance.health = *health;
            }
        });
    }
}

#[cfg(test)]
mod tests;
