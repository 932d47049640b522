//! A host's own network, as far as public addresses may get in its way.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::netlink::{Index, Link, Route};
use crate::plan::overlap;
use crate::uplink::is_uplink;

/// The interfaces of a host, but those that nimbo has made and the loopback one; its addresses and routes.
#[derive(Debug, Clone)]
pub struct Surroundings {
    links: Vec<Link>,
    addresses: Vec<(Index, Ipv4Addr)>,
    routes: Vec<Route>,
}

/// What speaks against a range of public addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// An address in it is the host's own, or that of a router that it sends by.
    Taken { address: Ipv4Addr, device: String },
    /// The host sends what is for some of it there already.
    Routed { range: Ipv4Net, device: String },
}

impl Surroundings {
    /// Those of `host`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(host: &Namespace) -> Result<Self, Error> {
        host.netlink(async |netlink| {
            let mut links = netlink.links().await?;
            links.retain(|link| link.name != "lo" && !is_uplink(&link.name));
            let mut addresses = Vec::new();
            for link in &links {
                let found = netlink.addresses(link.index).await?;
                addresses.extend(found.into_iter().map(|(address, _)| (link.index, address.addr())));
            }
            Ok(Self { links, addresses, routes: netlink.routes().await? })
        })
    }

    /// The names of its interfaces.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|link| link.name.as_str())
    }

    /// What speaks against public addresses from `range`. That it is on the interface `lan`, if one is named, does not.
    pub fn conflicts(&self, range: Ipv4Net, lan: Option<&str>) -> Vec<Conflict> {
        let name = |index| self.links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let routers = self.routes.iter().filter_map(|route| Some((route.device?, route.gateway?)));
        let taken = self.addresses.iter().copied().chain(routers).filter(|(_, it)| range.contains(it));
        let taken =
            taken.filter_map(|(link, address)| Some(Conflict::Taken { address, device: name(link)? }));
        let mut found: Vec<_> = taken.collect();
        // The kernel has routes of its own to each address; those to networks say it all.
        let networks = self.routes.iter().filter(|route| (1..32).contains(&route.range.prefix_len()));
        for route in networks.filter(|route| overlap(&route.range, &range)) {
            let Some(device) = route.device.and_then(name) else { continue };
            let conflict = Conflict::Routed { range: route.range, device };
            let is_lan = matches!(&conflict, Conflict::Routed { device, .. } if Some(device.as_str()) == lan);
            if !is_lan && !found.contains(&conflict) {
                found.push(conflict);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_in_the_way_of_something_is_told_of_what() {
        let link = |index, name: &str| Link {
            index: Index(index),
            name: name.to_owned(),
            mtu: 1500,
            mac: None,
            is_up: true,
            peer: None,
        };
        let route = |range: &str, index, gateway| Route {
            range: range.parse().unwrap(),
            device: Some(Index(index)),
            gateway,
        };
        let router = Ipv4Addr::new(192, 168, 1, 1);
        let own = Ipv4Addr::new(192, 168, 1, 10);
        let surroundings = Surroundings {
            links: vec![link(2, "eth0"), link(3, "tun0")],
            addresses: vec![(Index(2), own)],
            routes: vec![
                route("0.0.0.0/0", 2, Some(router)),
                route("192.168.1.0/24", 2, None),
                route("192.168.1.255/32", 2, None),
                route("198.18.0.0/30", 3, None),
                // An uplink's.
                route("198.18.0.7/32", 9, None),
            ],
        };
        assert_eq!(surroundings.interfaces().collect::<Vec<_>>(), ["eth0", "tun0"]);
        let conflicts = |range: &str, lan| surroundings.conflicts(range.parse().unwrap(), lan);
        let taken = |address| Conflict::Taken { address, device: "eth0".to_owned() };
        let routed = |range: &str, device: &str| Conflict::Routed {
            range: range.parse().unwrap(),
            device: device.into(),
        };
        assert_eq!(conflicts("198.18.0.0/16", None), [routed("198.18.0.0/30", "tun0")]);
        assert_eq!(conflicts("198.18.128.0/17", None), []);
        assert_eq!(conflicts("192.168.1.192/27", None), [routed("192.168.1.0/24", "eth0")]);
        assert_eq!(conflicts("192.168.1.192/27", Some("eth0")), []);
        assert_eq!(conflicts("192.168.1.0/27", Some("eth0")), [taken(own), taken(router)]);
    }
}
