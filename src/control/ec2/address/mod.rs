//! Public addresses: those that accounts keep (Elastic), and those that instances have while they run.

mod associate;
mod elastic;
mod pool;

use std::net::Ipv4Addr;
use std::sync::Arc;

use aws::{Error, Table, ec2};
use types::AllocationId;

use super::errors::{id, invalid_value, missing, not_found};
use crate::plane::{Plane, Serve as _};
use crate::records::Address;
use crate::state::{Key, View};

pub(super) use elastic::ADDRESSES_MAX;
pub(crate) use pool::take_public;
pub(super) use pool::{any_free, random};

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::AllocateAddress>(elastic::allocate)
        .changes::<ec2::ReleaseAddress>(elastic::release)
        .looks::<ec2::DescribeAddresses>(elastic::describe)
        .looks::<ec2::DescribeAddressesAttribute>(elastic::describe_attribute)
        .changes::<ec2::AssociateAddress>(associate::associate)
        .changes::<ec2::DisassociateAddress>(associate::disassociate)
}

/// The address that a request names by its id, or by itself.
///
/// # Errors
/// When it names none, or both, or the account has no such address.
fn named<'a>(view: View<'a>, allocation: Option<&str>, public: Option<&str>) -> Result<&'a Address, Error> {
    match (allocation, public) {
        (Some(allocation), None) => {
            let allocation: AllocationId = id(allocation)?;
            view.get(allocation).ok_or_else(|| not_found(allocation))
        }
        (None, Some(public)) => by_public(view, public),
        (Some(_), Some(_)) => {
            let message = "You may specify public IP or allocation id, but not both in the same call";
            Err(Error::new("InvalidParameterCombination", message))
        }
        (None, None) => Err(missing("AllocationId")),
    }
}

fn by_public<'a>(view: View<'a>, text: &str) -> Result<&'a Address, Error> {
    let public: Ipv4Addr =
        text.parse().map_err(|_| invalid_value(text, "publicIp", "Invalid IPv4 address."))?;
    let found = view.tables().addresses.keyed(&Key::PublicAddress(public)).map(AsRef::as_ref);
    found.ok_or_else(|| Error::new("InvalidAddress.NotFound", format!("Address '{public}' not found.")))
}
