//! Network interfaces.

mod addresses;
mod attach;
mod attribute;
mod make;
pub(super) mod names;
mod operations;
mod part;
mod show;

use std::net::Ipv4Addr;
use std::sync::Arc;

use aws::{Error, Table, ec2};

use super::errors::invalid_value;
use crate::plane::{Plane, Serve as _};
use crate::records::{InterfaceOwner, NetworkInterface};

pub(super) use make::{GROUPS_MAX, attach, elastic, publish, unpublish};
pub(crate) use make::{NewInterface, make, release, remove};
pub(crate) use names::all_public;
pub(super) use part::in_instance;
pub(super) use show::shown_groups;

/// Who has made interfaces for load balancers, as EC2 tells.
const LOAD_BALANCING: &str = "amazon-elb";

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::AssignPrivateIpAddresses>(addresses::assign)
        .changes::<ec2::UnassignPrivateIpAddresses>(addresses::unassign)
        .changes::<ec2::AttachNetworkInterface>(attach::attach)
        .changes::<ec2::DetachNetworkInterface>(attach::detach)
        .changes::<ec2::CreateNetworkInterface>(operations::create)
        .changes::<ec2::DeleteNetworkInterface>(operations::delete)
        .looks::<ec2::DescribeNetworkInterfaces>(operations::describe)
        .looks::<ec2::DescribeNetworkInterfaceAttribute>(attribute::describe)
        .changes::<ec2::ModifyNetworkInterfaceAttribute>(attribute::modify)
        .changes::<ec2::ResetNetworkInterfaceAttribute>(attribute::reset)
}

fn address(text: &str, parameter: &str) -> Result<Ipv4Addr, Error> {
    text.parse().map_err(|_| invalid_value(text, parameter, "This is not an IPv4 address."))
}

/// Refuses what clients do not do with interfaces that a service made for itself.
///
/// # Errors
/// When it is one of these.
pub(super) fn check_owner(interface: &NetworkInterface) -> Result<(), Error> {
    let owner = match interface.owner {
        InterfaceOwner::User => return Ok(()),
        InterfaceOwner::NatGateway(gateway) => gateway.to_string(),
        InterfaceOwner::LoadBalancer(_) => LOAD_BALANCING.to_owned(),
    };
    let message = format!("The network interface '{}' is managed by '{owner}'.", interface.id);
    Err(Error::new("OperationNotPermitted", message))
}
