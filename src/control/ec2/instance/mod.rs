//! Instances: what clients ask of them and are told.

mod attribute;
mod capacity;
mod console;
mod credit;
mod describe;
mod launch;
pub(crate) mod lifecycle;
pub(crate) mod machine;
mod metadata;
mod monitoring;
mod placement;
mod show;
mod state;
mod status;
mod types;

use std::sync::Arc;

use ::types::InstanceId;
use aws::{Error, Table, ec2};

use super::errors::{id, not_found};
pub(crate) use launch::launch_one;

use crate::plane::{Plane, Serve as _};
use crate::records::Instance;
use crate::state::Transaction;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .looks::<ec2::DescribeInstanceAttribute>(attribute::describe)
        .looks::<ec2::DescribeInstanceCreditSpecifications>(credit::describe)
        .looks::<ec2::DescribeInstanceStatus>(status::describe)
        .looks::<ec2::DescribeInstanceTypeOfferings>(types::offerings)
        .looks::<ec2::DescribeInstanceTypes>(types::describe)
        .looks::<ec2::DescribeInstances>(describe::describe)
        .asks::<ec2::GetConsoleOutput, _>(console::question, console::ask)
        .looks::<ec2::GetDefaultCreditSpecification>(credit::get_default)
        .changes::<ec2::ModifyDefaultCreditSpecification>(credit::modify_default)
        .changes::<ec2::ModifyInstanceAttribute>(attribute::modify)
        .changes::<ec2::ModifyInstanceCreditSpecification>(credit::modify)
        .changes::<ec2::ModifyInstanceMetadataOptions>(metadata::modify)
        .changes::<ec2::ModifyInstancePlacement>(placement::modify)
        .changes::<ec2::MonitorInstances>(monitoring::monitor)
        .changes::<ec2::RebootInstances>(state::reboot)
        .changes::<ec2::ResetInstanceAttribute>(attribute::reset)
        .changes::<ec2::RunInstances>(launch::run)
        .changes::<ec2::StartInstances>(state::start)
        .changes::<ec2::StopInstances>(state::stop)
        .changes::<ec2::TerminateInstances>(state::terminate)
        .changes::<ec2::UnmonitorInstances>(monitoring::unmonitor)
}

/// The instance with the id that a client wrote.
///
/// # Errors
/// When it is no id, or nothing has it.
fn named<'a>(tx: &'a Transaction<'_>, text: &str) -> Result<&'a Instance, Error> {
    let id: InstanceId = id(text)?;
    tx.get(id).ok_or_else(|| not_found(id))
}

/// The ids that a client wrote, of instances that there are, each once; at least one.
///
/// # Errors
/// As [`named`], for the first of them.
fn all_named(tx: &Transaction<'_>, texts: &[String]) -> Result<Vec<InstanceId>, Error> {
    let mut ids = Vec::with_capacity(texts.len());
    for text in texts {
        let id = named(tx, text)?.id;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// That an instance is not in a state for this.
fn wrong_state(instance: &Instance, what: &str) -> Error {
    let state = show::state_name(&instance.state);
    let message = format!(
        "The instance '{}' is not in a state from which it can be {what}: it is {state}.",
        instance.id
    );
    Error::new("IncorrectInstanceState", message)
}
