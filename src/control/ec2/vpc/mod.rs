//! VPCs and what is in them.

mod dhcp_options;
mod fabric;
mod internet_gateway;
mod make;
mod nat_gateway;
mod network;
mod network_acl;
mod network_acl_entry;
mod peering;
mod route;
mod route_table;
mod subnet;

use std::net::Ipv4Addr;
use std::sync::Arc;

use aws::{Error, Table, ec2};
use ipnet::Ipv4Net;

use super::errors::invalid_value;
use crate::plane::{Plane, Serve as _};
use crate::state::Transaction;

pub(crate) use fabric::{fabric, onlookers};
pub(super) use make::allow_all_out;
pub(super) use peering::status as peering_status;
pub(crate) use subnet::free_count;
pub(super) use subnet::usable_addresses;

/// What every account has from its beginning.
pub(super) fn begin(tx: &mut Transaction<'_>) {
    make::default_vpc(tx);
}

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    let table = dhcp_options::serve(table);
    let table = internet_gateway::serve(table);
    let table = nat_gateway::serve(table);
    let table = network_acl::serve(table);
    let table = network_acl_entry::serve(table);
    let table = peering::serve(table);
    let table = route::serve(table);
    let table = route_table::serve(table);
    table
        .changes::<ec2::AssociateVpcCidrBlock>(network::associate_range)
        .changes::<ec2::CreateDefaultVpc>(network::create_default)
        .changes::<ec2::CreateVpc>(network::create)
        .changes::<ec2::DeleteVpc>(network::delete)
        .looks::<ec2::DescribeVpcAttribute>(network::describe_attribute)
        .looks::<ec2::DescribeVpcs>(network::describe)
        .changes::<ec2::DisassociateVpcCidrBlock>(network::disassociate_range)
        .changes::<ec2::ModifyVpcAttribute>(network::modify_attribute)
        .changes::<ec2::CreateDefaultSubnet>(subnet::create_default)
        .changes::<ec2::CreateSubnet>(subnet::create)
        .changes::<ec2::DeleteSubnet>(subnet::delete)
        .looks::<ec2::DescribeSubnets>(subnet::describe)
        .changes::<ec2::ModifySubnetAttribute>(subnet::modify_attribute)
}

/// A range of addresses as a client wrote it; what is beyond the prefix is cut off, as EC2 does it.
///
/// # Errors
/// When it is none, or larger or smaller than a VPC's or a subnet's can be.
fn usable_range(text: &str, parameter: &str) -> Result<Ipv4Net, Error> {
    let range = range(text, parameter)?;
    // Source: https://docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html
    if !(16..=28).contains(&range.prefix_len()) {
        let code = if parameter == "cidrBlock" { "InvalidVpc.Range" } else { "InvalidSubnet.Range" };
        return Err(Error::new(code, format!("The CIDR '{text}' is invalid.")));
    }
    Ok(range)
}

/// A range of addresses as a client wrote it, of any size.
///
/// # Errors
/// When it is none.
fn range(text: &str, parameter: &str) -> Result<Ipv4Net, Error> {
    let parsed: Option<Ipv4Net> = text.parse().ok();
    parsed
        .map(|range| range.trunc())
        .ok_or_else(|| invalid_value(text, parameter, "This is not a valid CIDR block."))
}

fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    let contains = |range: &Ipv4Net, address: Ipv4Addr| range.contains(&address);
    contains(one, other.network()) || contains(other, one.network())
}
