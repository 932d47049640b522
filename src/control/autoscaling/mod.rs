//! Amazon EC2 Auto Scaling: groups of instances that are kept at a size.
//!
//! ```text
//! operation ─▶ group, members          ┌─▶ steps ─▶ act: instances are launched and terminated, members move, activities tell of it
//!                     │                │
//! EC2's records ──────┴─▶ situation ─▶ decide
//! ```
//!
//! [`decide`] says what is to be done and why; it is a pure function. [`act::pass`] does it, in one transaction with what tells of it: an instance that is
//! launched, its membership and its activity are there together or not at all, so nothing is lost, doubled or forgotten wherever a process
//! ends. [`reconcile::scaling`](crate::reconcile) says when.

mod act;
mod activity;
mod capacity;
mod cause;
pub mod decide;
mod errors;
mod explain;
mod group;
mod hook;
mod instance;
mod launch;
mod observe;
mod page;
mod process;
mod schedule;
mod standby;
mod tag;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aws::{Table, autoscaling as api};

pub(crate) use act::pass;
pub use explain::{ActivityTold, Explanation, MemberTold, StepTold, explain};
pub(crate) use observe::situation;

use crate::plane::{Plane, Serve as _};

/// The operations of Auto Scaling that are served.
pub(crate) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<api::AttachInstances>(instance::attach)
        .changes::<api::BatchDeleteScheduledAction>(schedule::delete_all)
        .changes::<api::BatchPutScheduledUpdateGroupAction>(schedule::put_all)
        .changes::<api::CompleteLifecycleAction>(hook::complete)
        .changes::<api::CreateAutoScalingGroup>(group::create)
        .changes::<api::CreateOrUpdateTags>(tag::create)
        .changes::<api::DeleteAutoScalingGroup>(group::delete)
        .changes::<api::DeleteLifecycleHook>(hook::delete)
        .changes::<api::DeleteScheduledAction>(schedule::delete)
        .changes::<api::DeleteTags>(tag::delete)
        .looks::<api::DescribeAutoScalingGroups>(group::describe)
        .looks::<api::DescribeAutoScalingInstances>(instance::describe)
        .looks::<api::DescribeLifecycleHookTypes>(hook::types)
        .looks::<api::DescribeLifecycleHooks>(hook::describe)
        .looks::<api::DescribeScalingActivities>(activity::describe)
        .looks::<api::DescribeScalingProcessTypes>(process::types)
        .looks::<api::DescribeScheduledActions>(schedule::describe)
        .looks::<api::DescribeTags>(tag::describe)
        .looks::<api::DescribeTerminationPolicyTypes>(process::termination_policies)
        .changes::<api::DetachInstances>(instance::detach)
        .changes::<api::EnterStandby>(standby::enter)
        .changes::<api::ExitStandby>(standby::exit)
        .changes::<api::PutLifecycleHook>(hook::put)
        .changes::<api::PutScheduledUpdateGroupAction>(schedule::put)
        .changes::<api::RecordLifecycleActionHeartbeat>(hook::heartbeat)
        .changes::<api::ResumeProcesses>(process::resume)
        .changes::<api::SetDesiredCapacity>(capacity::set)
        .changes::<api::SetInstanceHealth>(instance::set_health)
        .changes::<api::SetInstanceProtection>(instance::set_protection)
        .changes::<api::SuspendProcesses>(process::suspend)
        .changes::<api::TerminateInstanceInAutoScalingGroup>(instance::terminate)
        .changes::<api::UpdateAutoScalingGroup>(group::update)
}
