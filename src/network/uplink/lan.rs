//! Public addresses on the host's LAN: the host answers ARP there for those that lead to uplinks, one by one, and sends on what then comes.
//!
//! Nothing is bridged, so it works on a Wi-Fi too, where an access point takes frames from one hardware address alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::rules;
use crate::error::Error;
use crate::netlink::Netlink;
use crate::netlink::tables::{TABLE_MAIN, Way};

/// Has the host answer for `own` on the interface `lan`, if that is there, and nowhere else. For others it goes on to answer as long as they lead to an
/// uplink. Needs a turn.
///
/// # Errors
/// What the kernel says.
pub(super) async fn answer(
    netlink: &Netlink,
    lan: Option<&str>,
    own: &BTreeSet<Ipv4Addr>,
) -> Result<(), Error> {
    let known = netlink.proxies().await?;
    if lan.is_none() && known.is_empty() {
        return Ok(());
    }
    let links = netlink.links().await?;
    let lan = links.iter().find(|link| Some(link.name.as_str()) == lan).map(|link| link.index);
    let is_uplink = |way: Way| match way {
        Way::Via { link, .. } => links.iter().any(|it| it.index == link && rules::is_uplink(&it.name)),
        _ => false,
    };
    let routes = netlink.table_routes().await?;
    let leads = |address: Ipv4Addr| {
        routes.iter().any(|((table, range, way), _)| {
            *table == TABLE_MAIN && *range == address.into() && is_uplink(*way)
        })
    };
    let mut wanted = own.clone();
    for ((link, address), message) in known {
        let is_kept = match own.contains(&address) {
            true => Some(link) == lan && wanted.remove(&address),
            false => leads(address),
        };
        if !is_kept {
            netlink.delete_neighbour(message).await?;
        }
    }
    let Some(lan) = lan else { return Ok(()) };
    for address in wanted {
        netlink.put_proxy(lan, address).await?;
    }
    Ok(())
}
