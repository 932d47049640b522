//! Auto Scaling groups: kept at their sizes, as soon as anything changes that they depend on.
//!
//! What is decided and done is [`autoscaling`]'s; here is when: a group is looked at when its record changes, a member's, an instance's that is in
//! it, or a zone's, and when a time comes that it waits for.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use types::Uuid;

use super::agenda::Agenda;
use super::{CHANGES_MAX, sleep_until};
use crate::autoscaling::{self, decide::decide};
use crate::ledger::{AsOf, Stopped, Written};
use crate::plane::Plane;
use crate::records::Former;
use crate::state::{Key, Space, State, View};

/// How often all groups are looked at, whatever happened: clocks are set.
const PERIOD: Duration = Duration::from_secs(60);

type Subject = (Space, Uuid);

/// Where work on a group came to a halt.
struct Halt {
    subject: Subject,
    seen: AsOf,
    until: Option<Instant>,
}

/// Works until the store takes no more.
///
/// # Errors
/// [`Stopped`].
pub async fn run(plane: Arc<Plane>) -> Result<(), Stopped> {
    let mut feed = plane.ledger.follow();
    let mut period = tokio::time::interval(PERIOD);
    let mut agenda = Agenda::new();
    let (mut work, mut changes) = (JoinSet::new(), Vec::new());
    loop {
        while let Some(subject) = agenda.begin() {
            work.spawn(advance(Arc::clone(&plane), subject));
        }
        let next = agenda.next();
        tokio::select! {
            _ = feed.recv_many(&mut changes, CHANGES_MAX) => note_changes(&plane, &mut agenda, &mut changes),
            _ = period.tick() => note_all(&plane, &mut agenda),
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

fn note_changes(plane: &Plane, agenda: &mut Agenda<Subject>, changes: &mut Vec<Written>) {
    let look = |state: &State| {
        for Written { as_of, former } in changes.drain(..) {
            for (space, former) in former.iter() {
                let Some(tables) = state.space(*space) else { continue };
                match former {
                    Former::ScalingGroup(id, _) => agenda.changed((*space, *id), as_of),
                    Former::ScalingMember(id, _) => agenda.changed((*space, id.group), as_of),
                    Former::Instance(id, _) => {
                        if let Some(member) = tables.scaling_members.keyed(&Key::Instance(*id)) {
                            agenda.changed((*space, member.id.group), as_of);
                        }
                    }
                    Former::FailedZone(zone, _) => {
                        let near = state.spaces().filter(|(space, _)| space.region == zone.region());
                        for (space, tables) in near {
                            let groups = tables.scaling_groups.iter();
                            groups.for_each(|group| agenda.changed((space, group.id), as_of));
                        }
                    }
                    _ => {}
                }
            }
        }
    };
    // What is written after this becomes durable after it.
    let ((), _) = plane.ledger.read(look);
}

fn note_all(plane: &Plane, agenda: &mut Agenda<Subject>) {
    let look = |state: &State| {
        for (space, tables) in state.spaces() {
            tables.scaling_groups.iter().for_each(|group| agenda.nudged((space, group.id)));
        }
    };
    let ((), _) = plane.ledger.read(look);
}

/// Does what is to be done about one group, if anything is.
async fn advance(plane: Arc<Plane>, subject: Subject) -> Result<Halt, Stopped> {
    let (space, group) = subject;
    let ledger = &plane.ledger;
    let look = |state: &State| {
        let view = View::new(state, space, ledger.now());
        autoscaling::situation(view, group).map(|situation| decide(&situation))
    };
    let (decision, seen) = ledger.read(look);
    let mut next = decision.as_ref().and_then(|decision| decision.next);
    if decision.is_some_and(|decision| !decision.steps.is_empty()) {
        // What is decided is what is so when it is done.
        super::write(&plane, space, |tx| next = autoscaling::pass(tx, group)).await?;
    }
    let now = ledger.now();
    let until =
        next.map(|next| Instant::now() + Duration::try_from(next.duration_since(now)).unwrap_or_default());
    Ok(Halt { subject, seen, until })
}
