//! Processes of groups that are suspended and resumed, and words that are always the same.

use std::collections::BTreeSet;

use aws::service::Empty;
use aws::{Call, Error, autoscaling as api};

use super::errors::invalid;
use super::observe::named;
use crate::records::{Process, ScalingGroup, TerminationPolicy};
use crate::state::{Transaction, View};

pub(super) fn suspend(tx: &mut Transaction<'_>, input: api::ScalingProcessQuery) -> Result<Empty, Error> {
    let processes = processes(&input.scaling_processes)?;
    let group = named(tx.view(), &input.auto_scaling_group_name)?.id;
    tx.update::<ScalingGroup>(group, |group| group.suspended.extend(processes));
    Ok(Empty)
}

/// What failed before may be tried at once.
pub(super) fn resume(tx: &mut Transaction<'_>, input: api::ScalingProcessQuery) -> Result<Empty, Error> {
    let processes = processes(&input.scaling_processes)?;
    let group = named(tx.view(), &input.auto_scaling_group_name)?.id;
    tx.update::<ScalingGroup>(group, |group| {
        if processes.contains(&Process::Launch) && group.is_suspended(Process::Launch) {
            group.failures.clear();
        }
        group.suspended.retain(|process| !processes.contains(process));
    });
    Ok(Empty)
}

/// Those that are named; all, if none is.
fn processes(words: &[String]) -> Result<BTreeSet<Process>, Error> {
    if words.is_empty() {
        return Ok(Process::ALL.iter().copied().collect());
    }
    let process = |word: &String| {
        Process::of(word)
            .ok_or_else(|| invalid(format!("Invalid scaling process: {word} is not one of {}", all())))
    };
    words.iter().map(process).collect()
}

fn all() -> String {
    Process::ALL.iter().map(|process| process.as_str()).collect::<Vec<_>>().join(", ")
}

pub(super) fn types(_: View<'_>, _: &Call<Empty>) -> Result<api::ProcessesType, Error> {
    let shown = |process: &Process| api::ProcessType { process_name: Some(process.as_str().to_owned()) };
    Ok(api::ProcessesType { processes: Some(Process::ALL.iter().map(shown).collect()) })
}

pub(super) fn termination_policies(
    _: View<'_>,
    _: &Call<Empty>,
) -> Result<api::DescribeTerminationPolicyTypesAnswer, Error> {
    let words = TerminationPolicy::ALL.iter().map(|policy| policy.as_str().to_owned());
    Ok(api::DescribeTerminationPolicyTypesAnswer { termination_policy_types: Some(words.collect()) })
}
