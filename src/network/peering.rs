//! A peering connection: a pair of devices between two VPCs' namespaces. What passes there is for each side's routes, ACLs and groups to say.

use types::VpcPeeringConnectionId;

use crate::error::Error;
use crate::fabric::MTU;
use crate::namespace::Namespace;
use crate::pair::{self, End};
use crate::policy::Gateway;

/// Has two VPCs be linked by a connection, each by a [device](Gateway::device_name) of the same name.
///
/// # Errors
/// What the kernel says.
pub fn peer(id: VpcPeeringConnectionId, one: &Namespace, other: &Namespace) -> Result<(), Error> {
    let device = Gateway::Peering(id).device_name();
    let end = |namespace| End { namespace, device: &device };
    pair::join(end(one), end(other), MTU)
}

/// Removes the devices, at both ends, of all connections that a VPC has and is not to have.
///
/// # Errors
/// What the kernel says.
pub fn part(vpc: &Namespace, wanted: impl IntoIterator<Item = VpcPeeringConnectionId>) -> Result<(), Error> {
    let wanted: Vec<_> = wanted.into_iter().map(|id| Gateway::Peering(id).device_name()).collect();
    vpc.netlink(async |netlink| {
        let is_surplus = |name: &str| name.starts_with(PREFIX) && !wanted.iter().any(|wanted| wanted == name);
        for link in netlink.links().await?.into_iter().filter(|link| is_surplus(&link.name)) {
            netlink.delete_link(link.index).await?;
        }
        Ok(())
    })
}

/// What the names of such devices begin with.
const PREFIX: &str = "pcx";
