//! Interfaces on their way into instances that run, and out of them.
//!
//! Of an instance that is up its host says which it has, and is asked to change that until it is what records say. One that is stopped has none, and
//! is started with what records say. Between the two nothing is done: what it has is known when it is up. What cannot be brought in, or not before
//! [`DEADLINE`], is taken out by force, so that nothing is left of it. A guest that does not let go is asked again and again, as long as its owner
//! does not force it.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{InstanceId, NetworkInterfaceId};

use super::agenda::Agenda;
use super::{CHANGES_MAX, sleep_until};
use crate::ec2::instance::machine;
use crate::ec2::interface::release;
use crate::ledger::{AsOf, Stopped, Written};
use crate::plane::Plane;
use crate::ports::{HostError, Machines};
use crate::records::{
    Attachment, AttachmentState, Former, Instance, InstanceState, NetworkInterface, Tables,
};
use crate::state::{Record as _, Space, State, View};

/// How long a host may take to bring an interface into an instance.
pub const DEADLINE: SignedDuration = SignedDuration::from_mins(10);
/// What a host did not do, or a guest does not let go of, is asked for again after so long.
pub const RETRY: Duration = Duration::from_secs(1);

/// What can be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Do(Effect),
    Note(Change),
    /// Nothing, until something changes.
    Wait,
}

/// On the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Plug,
    Unplug { is_forced: bool },
}

/// In the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Enter(AttachmentState),
    /// It is in no instance any more.
    Release,
}

impl Change {
    /// It cannot be brought in.
    const GIVE_UP: Self = Self::Enter(AttachmentState::Detaching { is_forced: true });
}

/// The next step for an interface of an instance; `has_it` is what the host says, of one that is up.
pub fn plan(attachment: &Attachment, instance: &Instance, has_it: Option<bool>, now: Timestamp) -> Step {
    let attached = Step::Note(Change::Enter(AttachmentState::Attached));
    if matches!(instance.state, InstanceState::Stopped { .. }) {
        return match attachment.state {
            AttachmentState::Attaching => attached,
            AttachmentState::Attached => Step::Wait,
            AttachmentState::Detaching { .. } => Step::Note(Change::Release),
        };
    }
    let Some(has_it) = has_it.filter(|_| instance.is_up()) else { return Step::Wait };
    let deadline = attachment.attached.saturating_add(DEADLINE).unwrap_or(Timestamp::MAX);
    match attachment.state {
        AttachmentState::Attached => Step::Wait,
        AttachmentState::Attaching if has_it => attached,
        AttachmentState::Attaching if now >= deadline => Step::Note(Change::GIVE_UP),
        AttachmentState::Attaching => Step::Do(Effect::Plug),
        AttachmentState::Detaching { is_forced } if has_it => Step::Do(Effect::Unplug { is_forced }),
        AttachmentState::Detaching { .. } => Step::Note(Change::Release),
    }
}

/// Works on all interfaces until the ledger takes no more changes.
///
/// # Errors
/// Always, in the end: why it takes none.
pub async fn run(plane: Arc<Plane>, machines: Arc<dyn Machines>) -> Result<(), Stopped> {
    let changed = Arc::new(Changed::default());
    let told = Arc::downgrade(&changed);
    machines.on_change(Arc::new(move |id| {
        if let Some(changed) = told.upgrade() {
            changed.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
            changed.nudge.notify_one();
        }
    }));
    let mut feed = plane.ledger.follow();
    let mut agenda = Agenda::new();
    let (mut work, mut changes) = (JoinSet::new(), Vec::new());
    let look = |look: &mut dyn FnMut(&State)| {
        // What work reads itself is durable, before it acts on it.
        let ((), _) = plane.ledger.read(look);
    };
    look(&mut |state| {
        for (space, tables) in state.spaces() {
            tables.network_interfaces.unsettled().for_each(|found| agenda.nudged((space, found.id)));
        }
    });
    loop {
        while let Some(subject) = agenda.begin() {
            work.spawn(advance(Arc::clone(&plane), Arc::clone(&machines), subject));
        }
        let next = agenda.next();
        tokio::select! {
            _ = feed.recv_many(&mut changes, CHANGES_MAX) => look(&mut |state| {
                for Written { as_of, former } in changes.drain(..) {
                    for (space, former) in former.iter() {
                        let Some(tables) = state.space(*space) else { continue };
                        touched(tables, former, &mut |id| agenda.changed((*space, id), as_of));
                    }
                }
            }),
            () = changed.nudge.notified() => {
                let ids = std::mem::take(&mut *changed.ids.lock().unwrap_or_else(PoisonError::into_inner));
                look(&mut |state| {
                    for (space, tables) in state.spaces() {
                        ids.iter().for_each(|id| of_instance(tables, *id, &mut |id| agenda.nudged((space, id))));
                    }
                });
            }
            Some(Ok(halt)) = work.join_next() => {
                let (subject, seen, until) = halt?;
                agenda.halted(subject, seen, until);
            }
            () = sleep_until(next) => {}
        }
    }
}

/// Whose microVMs have changed since they were looked at.
#[derive(Default)]
struct Changed {
    ids: Mutex<Vec<InstanceId>>,
    nudge: Notify,
}

type Subject = (Space, NetworkInterfaceId);

/// Notes those that have work left which depends on a record that changed.
fn touched(tables: &Tables, former: &Former, note: &mut dyn FnMut(NetworkInterfaceId)) {
    match former {
        Former::NetworkInterface(id, _) => {
            let now = tables.network_interfaces.get(*id).filter(|found| !found.is_settled());
            now.iter().for_each(|found| note(found.id));
        }
        Former::Instance(id, _) => of_instance(tables, *id, note),
        _ => {}
    }
}

fn of_instance(tables: &Tables, id: InstanceId, note: &mut dyn FnMut(NetworkInterfaceId)) {
    let its = tables.network_interfaces.linked_to(id).filter(|found| !found.is_settled());
    its.for_each(|found| note(found.id));
}

/// Takes steps for one interface until it has to wait.
async fn advance(
    plane: Arc<Plane>,
    machines: Arc<dyn Machines>,
    subject: Subject,
) -> Result<(Subject, AsOf, Option<Instant>), Stopped> {
    let (space, id) = subject;
    let mut asked = None;
    loop {
        let (found, seen) = plane.ledger.read(|state| find(state, space, id));
        plane.ledger.settled(seen).await?;
        let Some(Found { interface, attachment, instance }) = found else { return Ok((subject, seen, None)) };
        let has_it = machines.interfaces(instance.id).map(|its| its.contains(&id));
        let change = match plan(&attachment, &instance, has_it, plane.ledger.now()) {
            Step::Wait => return Ok((subject, seen, None)),
            Step::Do(effect) if asked == Some(effect) => {
                return Ok((subject, seen, Some(Instant::now() + RETRY)));
            }
            Step::Do(effect) => {
                asked = Some(effect);
                let outcome = carry_out(&plane, machines.as_ref(), space, &interface, instance.id, effect);
                let Err(error) = outcome.await else { continue };
                tracing::warn!("{effect:?} of {id} in {}: {error}", instance.id);
                match (effect, error) {
                    // However often it is asked for.
                    (Effect::Plug, HostError::Failed(_)) => Change::GIVE_UP,
                    _ => continue,
                }
            }
            Step::Note(change) => change,
        };
        write(&plane, space, &interface, change).await?;
    }
}

struct Found {
    interface: Arc<NetworkInterface>,
    attachment: Attachment,
    instance: Arc<Instance>,
}

/// One that is on its way.
fn find(state: &State, space: Space, id: NetworkInterfaceId) -> Option<Found> {
    let tables = state.space(space)?;
    let interface = tables.network_interfaces.get(id).filter(|found| !found.is_settled())?;
    let attachment = interface.attachment.clone()?;
    let instance = Arc::clone(tables.instances.get(attachment.instance)?);
    Some(Found { interface: Arc::clone(interface), attachment, instance })
}

async fn carry_out(
    plane: &Plane,
    machines: &dyn Machines,
    space: Space,
    interface: &NetworkInterface,
    instance: InstanceId,
    effect: Effect,
) -> Result<(), HostError> {
    match effect {
        Effect::Plug => {
            let now = plane.ledger.now();
            let spec = |state: &State| machine::interface(View::new(state, space, now), interface);
            machines.plug_interface(instance, &plane.ledger.read(spec).0?).await
        }
        Effect::Unplug { is_forced } => machines.unplug_interface(instance, interface.id, is_forced).await,
    }
}

/// Writes what has become of an interface, unless somebody wants something else of it by now.
async fn write(
    plane: &Plane,
    space: Space,
    before: &NetworkInterface,
    change: Change,
) -> Result<(), Stopped> {
    let id = before.id;
    super::write(plane, space, |tx| {
        let is_same = |now: &NetworkInterface| now.attachment == before.attachment;
        match change {
            _ if !tx.get(id).is_some_and(is_same) => {}
            Change::Release => release(tx, id),
            Change::Enter(state) => {
                tx.update::<NetworkInterface>(id, |interface| interface.set_attachment_state(state));
            }
        }
    })
    .await
}
