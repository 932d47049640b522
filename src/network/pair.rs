//! A pair of devices by which two namespaces route to each other.
//!
//! ```text
//! one namespace                                        another
//! 10.0.0.0/16 via NEXT_HOP ─── near ═══ far ─── default via NEXT_HOP
//! ```
//!
//! Neither end has an address. [`NEXT_HOP`] stands for the other end, whichever namespace one is in: its hardware address is written down for
//! good, and nobody is asked for it.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use types::MacAddress;

use crate::error::Error;
use crate::namespace::Namespace;

/// Who takes packets at the other end of a pair. Nobody has this address.
pub const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 64, 1);

const NEAR: MacAddress = MacAddress::new([0x0a, 0, 0, 0, 0, 1]);
const FAR: MacAddress = MacAddress::new([0x0a, 0, 0, 0, 0, 2]);

/// A device, by its name in a namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) device: &'a str,
}

/// Has `near` and `far` be the ends of a pair, which are up. If there are devices of these names, they are.
///
/// # Errors
/// What the kernel says.
pub(crate) fn join(near: End<'_>, far: End<'_>, mtu: u16) -> Result<(), Error> {
    near.namespace.netlink(async |netlink| {
        netlink.add_veth(near.device, far.device, far.namespace, mtu).await.map(drop)
    })?;
    for (end, own, other) in [(near, NEAR, FAR), (far, FAR, NEAR)] {
        end.namespace.netlink(async |netlink| {
            let links = netlink.links().await?;
            let Some(link) = links.iter().find(|link| link.name == end.device) else {
                return Err(Error::io(
                    format_args!("find interface {}", end.device),
                    ErrorKind::NotFound.into(),
                ));
            };
            // What is so already is left alone: the kernel forgets neighbours for every new address.
            if link.mac != Some(own) {
                netlink.set_mac(link.index, own).await?;
            }
            if link.mtu != mtu {
                netlink.set_mtu(link.index, mtu).await?;
            }
            if !link.is_up {
                netlink.set_up(link.index).await?;
            }
            netlink.put_neighbour(link.index, NEXT_HOP, other).await
        })?;
    }
    Ok(())
}
