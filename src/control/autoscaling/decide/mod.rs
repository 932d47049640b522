//! What is to be done about a group: a pure function of the group, who is in it, how they are, what failed before, and the time.
//!
//! It is asked whenever one of these changes, and once more after what it said was done, until it says nothing. Each step has the rule that made it; what
//! is not done though it should be has what holds it up. People are shown both.
//!
//! | who | is so | becomes |
//! | --- | --- | --- |
//! | on its way in | runs | hooks are called, or it is in service |
//! | | stopped, or ended | abandoned |
//! | in service | stopped, ended, impaired or said to be unhealthy | retired |
//! | | too old, while nothing else goes on | retired |
//! | on its way out | hooks are over | ended |
//! | | terminated | removed |
//! | the group | has a scheduled action whose time has come | of the sizes that it says |
//! | | too small | launches, where there are the fewest |
//! | | too large | retires, by its termination policies |
//! | | unbalanced, while nothing else goes on | launches one more where there are the fewest |

mod balance;
mod rule;
#[cfg(test)]
mod tests;
mod victim;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use types::{InstanceId, Uuid, Zone};

pub use balance::{BACK_OFF_MAX, backs_off};
pub use rule::{Hold, Rule};

use crate::records::{
    Health, HookResult, Instance, InstanceState, LifecycleAction, MemberState, Place, Process, ScalingGroup,
    ScalingMember,
};

/// All that a decision depends on.
pub struct Situation<'a> {
    pub group: &'a ScalingGroup,
    /// In the order of their instances' ids.
    pub members: Vec<Seen<'a>>,
    pub failed_zones: Vec<Zone>,
    pub now: Timestamp,
}

/// A member, and its instance if there is one still.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub member: &'a ScalingMember,
    pub instance: Option<&'a Instance>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    pub steps: Vec<Step>,
    pub holds: Vec<Hold>,
    /// When it is to be asked again though nothing has changed.
    pub next: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub action: Action,
    pub rule: Rule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// One more instance.
    Launch { place: Place, is_spare: bool },
    /// It runs: its hooks are called, or it is in service.
    Arrive(InstanceId),
    /// Its hooks are over: it is in service.
    Admit(InstanceId),
    /// Nobody was heard of in time.
    TimeOut { instance: InstanceId, token: Uuid, result: HookResult },
    /// It never came into service, and is terminated.
    Abandon(InstanceId),
    /// It leaves: its hooks are called, or it is terminated.
    Retire(InstanceId),
    /// Its hooks are over: it is terminated.
    End(InstanceId),
    /// It is terminated: it is in the group no more.
    Remove(InstanceId),
    /// A scheduled action's time has come.
    Happen { scheduled: Uuid, is_skipped: bool },
    /// Nobody is in it any more.
    RemoveGroup,
}

/// How a member is.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    Healthy,
    Unhealthy(Rule),
    /// It is not well, and has until then to become so.
    InGrace(Timestamp),
}

/// What becomes of one member, whatever becomes of the group.
enum Fate {
    Stays(Option<Timestamp>),
    Moves(Action, Rule),
    Held(Hold),
}

pub fn decide(situation: &Situation<'_>) -> Decision {
    let mut decision = Decision::default();
    let mut counted = Vec::new();
    let mut is_quiet = true;
    for seen in &situation.members {
        let id = seen.member.id.instance;
        let fate = fate(situation, seen);
        let leaves = matches!(fate, Fate::Moves(Action::Retire(_) | Action::Abandon(_), _));
        match fate {
            Fate::Stays(until) => decision.ask_at(until),
            Fate::Held(hold) => decision.holds.push(hold),
            Fate::Moves(action, rule) => {
                tracing::trace!(%id, ?action, "member");
                decision.steps.push(Step { action, rule });
                is_quiet = false;
            }
        }
        match seen.member.state {
            _ if leaves => {}
            MemberState::Pending { .. } | MemberState::PendingWait { .. } => {
                is_quiet = false;
                // It is none of those that there are to be, yet.
                if !seen.member.is_spare {
                    counted.push(*seen);
                }
            }
            MemberState::InService { .. } => counted.push(*seen),
            MemberState::Standby => {}
            MemberState::TerminatingWait { .. } | MemberState::Terminating { .. } => is_quiet = false,
        }
    }
    if situation.group.is_deleting && situation.members.is_empty() {
        decision.steps.push(Step { action: Action::RemoveGroup, rule: Rule::Deleting { actual: 0 } });
        return decision;
    }
    // What happens by its time changes what there are to be.
    if !schedule(situation, &mut decision) {
        resize(situation, &counted, is_quiet, &mut decision);
    }
    decision
}

/// Has scheduled actions happen whose time has come, in the order of their times; while they are suspended they pass. Says whether any has.
fn schedule(situation: &Situation<'_>, decision: &mut Decision) -> bool {
    let (group, now) = (situation.group, situation.now);
    let mut due: Vec<_> = group.schedule.iter().filter(|action| action.next <= now).collect();
    due.sort_by_key(|action| (action.next, action.id));
    let is_skipped = group.is_suspended(Process::ScheduledActions) || group.is_deleting;
    for action in &due {
        let (scheduled, name) = (action.id, action.name.clone());
        decision
            .steps
            .push(Step { action: Action::Happen { scheduled, is_skipped }, rule: Rule::Due { name } });
    }
    decision.ask_at(group.schedule.iter().map(|action| action.next).filter(|next| *next > now).min());
    !due.is_empty()
}

impl Decision {
    fn ask_at(&mut self, time: Option<Timestamp>) {
        self.next = [self.next, time].into_iter().flatten().min();
    }
}

/// Has there be as many as there are to be, and in the right places.
fn resize(situation: &Situation<'_>, counted: &[Seen<'_>], is_quiet: bool, decision: &mut Decision) {
    let group = situation.group;
    let (actual, wanted) = (number(counted.len()), group.wanted());
    if actual < wanted {
        balance::grow(situation, counted, wanted - actual, decision);
    } else if actual > wanted && group.is_suspended(Process::Terminate) {
        decision.holds.push(Hold::Suspended(Process::Terminate));
    } else if actual > wanted {
        let rule = Rule::Above { actual, wanted };
        let victims = victim::choose(situation, counted, actual - wanted);
        if number(victims.len()) < actual - wanted {
            decision.holds.push(Hold::Protected);
        }
        let retire = |id| Step { action: Action::Retire(id), rule: rule.clone() };
        decision.steps.extend(victims.into_iter().map(retire));
    } else if is_quiet && !balance::rebalance(situation, counted, decision) {
        renew(situation, counted, decision);
    }
}

/// Replaces the one that has been in service for longest, if that is too long.
fn renew(situation: &Situation<'_>, counted: &[Seen<'_>], decision: &mut Decision) {
    let Some(seconds) = situation.group.lifetime_max_s else { return };
    let in_service = counted.iter().filter_map(|seen| match seen.member.state {
        MemberState::InService { since } => Some((since, seen.member.id.instance)),
        _ => None,
    });
    let Some((since, oldest)) = in_service.min() else { return };
    let end = after(since, seconds);
    if situation.now < end {
        decision.ask_at(Some(end));
    } else if situation.group.is_suspended(Process::Terminate) {
        decision.holds.push(Hold::Suspended(Process::Terminate));
    } else {
        decision.steps.push(Step { action: Action::Retire(oldest), rule: Rule::TooOld { seconds } });
    }
}

fn fate(situation: &Situation<'_>, seen: &Seen<'_>) -> Fate {
    let id = seen.member.id.instance;
    if situation.group.is_deleting && !matches!(seen.member.state, MemberState::Terminating { .. }) {
        return Fate::Moves(Action::Retire(id), Rule::Deleting { actual: number(situation.members.len()) });
    }
    let state = seen.instance.map(|instance| &instance.state);
    let is_ending = seen.is_ending();
    match &seen.member.state {
        MemberState::Pending { .. } => match state {
            Some(InstanceState::Pending) => Fate::Stays(None),
            Some(InstanceState::Running) => Fate::Moves(Action::Arrive(id), Rule::Runs),
            _ => Fate::Moves(Action::Abandon(id), Rule::NeverInService),
        },
        MemberState::PendingWait { action, .. } => {
            if state != Some(&InstanceState::Running) {
                Fate::Moves(Action::Abandon(id), Rule::NeverInService)
            } else if let Some(token) = action.abandoned {
                Fate::Moves(Action::Abandon(id), Rule::Abandoned { token })
            } else if action.is_over() {
                Fate::Moves(Action::Admit(id), Rule::HooksOver)
            } else {
                waiting(id, action, situation.now)
            }
        }
        MemberState::InService { .. } => match condition(situation.group, seen, situation.now) {
            Condition::Healthy => Fate::Stays(None),
            Condition::InGrace(until) => Fate::Stays(Some(until)),
            Condition::Unhealthy(rule) => {
                let needed: &[Process] = match is_ending {
                    // There is nothing to terminate.
                    true => &[Process::ReplaceUnhealthy],
                    false => &[Process::ReplaceUnhealthy, Process::Terminate],
                };
                match needed.iter().find(|process| situation.group.is_suspended(**process)) {
                    Some(process) => Fate::Held(Hold::Suspended(*process)),
                    None => Fate::Moves(Action::Retire(id), rule),
                }
            }
        },
        MemberState::Standby if is_ending => Fate::Moves(Action::Retire(id), Rule::StoppedOrTerminated),
        MemberState::Standby => Fate::Stays(None),
        MemberState::TerminatingWait { action, .. } if is_ending || action.is_over() => {
            Fate::Moves(Action::End(id), Rule::HooksOver)
        }
        MemberState::TerminatingWait { action, .. } => waiting(id, action, situation.now),
        MemberState::Terminating { .. } => match state {
            None | Some(InstanceState::Terminated { .. }) => Fate::Moves(Action::Remove(id), Rule::Gone),
            Some(InstanceState::ShuttingDown { .. }) => Fate::Stays(None),
            // Somebody started it, or it was never told.
            Some(_) => Fate::Moves(Action::End(id), Rule::HooksOver),
        },
    }
}

/// Whose hooks have been called.
fn waiting(instance: InstanceId, action: &LifecycleAction, now: Timestamp) -> Fate {
    let first = action.waits.iter().map(|wait| (wait.until.min(wait.until_max), wait));
    match first.min_by_key(|(until, wait)| (*until, wait.token)) {
        Some((until, wait)) if until <= now => {
            let (token, result) = (wait.token, wait.default_result);
            Fate::Moves(Action::TimeOut { instance, token, result }, Rule::HookTimedOut { result })
        }
        Some((until, _)) => Fate::Stays(Some(until)),
        None => Fate::Stays(None),
    }
}

/// How a member in service is: by what EC2 says of its instance, and by what was said of it. What load balancers say of their targets comes in here.
///
/// Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-health-checks.html>.
pub fn condition(group: &ScalingGroup, seen: &Seen<'_>, now: Timestamp) -> Condition {
    let MemberState::InService { since } = seen.member.state else { return Condition::Healthy };
    let is_checked = !group.is_suspended(Process::HealthCheck);
    // What does not run needs no time to begin to.
    if is_checked && !seen.is_up() {
        return Condition::Unhealthy(Rule::StoppedOrTerminated);
    }
    let grace_end = after(since, group.grace_s);
    let is_over = now >= grace_end;
    let is_impaired = is_checked && seen.is_impaired();
    match seen.member.unhealthy {
        Some(said) if is_over || !said.respects_grace => Condition::Unhealthy(Rule::SaidUnhealthy),
        None if is_impaired && is_over => Condition::Unhealthy(Rule::Impaired),
        Some(_) => Condition::InGrace(grace_end),
        None if is_impaired => Condition::InGrace(grace_end),
        None => Condition::Healthy,
    }
}

impl Seen<'_> {
    fn is_up(&self) -> bool {
        self.instance
            .is_some_and(|instance| matches!(instance.state, InstanceState::Pending | InstanceState::Running))
    }

    /// It is terminated, or about to be.
    pub fn is_ending(&self) -> bool {
        self.instance.is_none_or(|instance| {
            matches!(instance.state, InstanceState::ShuttingDown { .. } | InstanceState::Terminated { .. })
        })
    }

    /// Its status checks fail, and nobody is about to remedy that.
    fn is_impaired(&self) -> bool {
        self.instance.is_some_and(|instance| {
            let is_cut_off = instance.outage.is_some_and(|outage| !outage.is_over);
            is_cut_off || matches!(instance.health, Health::Impaired { .. })
        })
    }
}

/// How many are in each zone.
fn per_zone(counted: &[Seen<'_>]) -> BTreeMap<Zone, u32> {
    let mut counts = BTreeMap::new();
    counted.iter().for_each(|seen| *counts.entry(seen.member.place.zone).or_default() += 1);
    counts
}

pub fn after(time: Timestamp, seconds: u32) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MAX)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
