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

pub(crate) use make::release;
pub(super) use make::{GROUPS_MAX, NewInterface, attach, elastic, make, publish, remove, unpublish};
pub(crate) use names::all_public;
pub(super) use part::in_instance;
pub(super) use show::shown_groups;

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
fn check_owner(interface: &NetworkInterface) -> Result<(), Error> {
    match interface.owner {
        InterfaceOwner::User => Ok(()),
        InterfaceOwner::NatGateway(gateway) => {
            let message = format!("The network interface '{}' is managed by '{gateway}'.", interface.id);
            Err(Error::new("OperationNotPermitted", message))
        }
    }
}
