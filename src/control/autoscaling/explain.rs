//! What is to be done about a group and why, for people: the inputs of the decision, its steps with their rules, what is held up, and what was done.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{InstanceId, Zone};

use super::activity;
use super::decide::{Action, Condition, Seen, Situation, condition, decide};
use super::group::lifecycle_word;
use super::observe::named_situation;
use crate::state::View;

/// So many activities are told, the newest.
const ACTIVITIES: usize = 10;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub group: String,
    pub min: u32,
    pub max: u32,
    pub desired: u32,
    pub is_deleting: bool,
    pub failed_zones: Vec<Zone>,
    pub members: Vec<MemberTold>,
    /// What is done now, and the rule behind each.
    pub steps: Vec<StepTold>,
    /// What is not done though it should be.
    pub holds: Vec<String>,
    /// When it is decided anew though nothing changes.
    pub next: Option<Timestamp>,
    /// The newest first.
    pub activities: Vec<ActivityTold>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberTold {
    pub instance: InstanceId,
    pub zone: Zone,
    /// As the API has it: `InService`.
    pub state: String,
    /// How it is, and by which rule.
    pub condition: String,
    pub is_protected: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTold {
    pub what: String,
    pub rule: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ActivityTold {
    pub at: Timestamp,
    pub what: String,
    pub status: String,
    pub cause: String,
}

/// The group with this name; none, if there is none.
pub fn explain(view: View<'_>, name: &str) -> Option<Explanation> {
    let situation = named_situation(view, name)?;
    let (group, decision) = (situation.group, decide(&situation));
    let step = |step: &super::decide::Step| StepTold { what: told(step.action), rule: step.rule.to_string() };
    let activities = activity::all(view, group.id).rev().take(ACTIVITIES);
    Some(Explanation {
        group: group.name.clone(),
        min: group.min,
        max: group.max,
        desired: group.desired,
        is_deleting: group.is_deleting,
        failed_zones: situation.failed_zones.clone(),
        members: situation.members.iter().map(|seen| member(&situation, seen)).collect(),
        steps: decision.steps.iter().map(step).collect(),
        holds: decision.holds.iter().map(ToString::to_string).collect(),
        next: decision.next,
        activities: activities
            .map(|it| ActivityTold {
                at: it.start,
                what: activity::description(it),
                status: it.status.as_str().to_owned(),
                cause: it.cause.clone(),
            })
            .collect(),
    })
}

fn member(situation: &Situation<'_>, seen: &Seen<'_>) -> MemberTold {
    let condition = match condition(situation.group, seen, situation.now) {
        Condition::Healthy => "healthy".to_owned(),
        Condition::Unhealthy(rule) => format!("unhealthy: {rule}"),
        Condition::InGrace(until) => format!("not well, and in its grace period until {until}"),
    };
    MemberTold {
        instance: seen.member.id.instance,
        zone: seen.member.place.zone,
        state: lifecycle_word(seen.member).to_owned(),
        condition,
        is_protected: seen.member.is_protected,
    }
}

fn told(action: Action) -> String {
    match action {
        Action::Launch { place, .. } => format!("launch in {} ({})", place.subnet, place.zone),
        Action::Arrive(id) => format!("{id} has arrived"),
        Action::Admit(id) => format!("{id} comes into service"),
        Action::TimeOut { instance, .. } => format!("{instance} waits no more"),
        Action::Abandon(id) => format!("{id} is abandoned"),
        Action::Retire(id) => format!("{id} leaves"),
        Action::End(id) => format!("{id} is terminated"),
        Action::Remove(id) => format!("{id} has left"),
        Action::Happen { is_skipped: false, .. } => "the sizes change".to_owned(),
        Action::Happen { is_skipped: true, .. } => "the scheduled action passes".to_owned(),
        Action::RemoveGroup => "the group goes".to_owned(),
    }
}
