//! Making a namespace what its [`Wiring`] says: what is there is listed, and what differs is changed, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use types::MacAddress;

use super::wiring::{Lead, Wiring};
use super::{MTU, Report};
use crate::error::Error;
use crate::netlink::tables::{RULES_OWN, Rule, Way};
use crate::netlink::{Index, Link, Netlink};
use crate::sysctl;

/// The rules of subnets come between the local table and the main one.
const PRIORITY: u32 = 1000;

/// Changes what differs, and says what that was.
pub(super) async fn settle(netlink: &Netlink, wiring: &Wiring) -> Result<Report, Error> {
    let links = netlink.links().await?;
    let links: BTreeMap<_, _> = links.iter().map(|link| (link.name.as_str(), link)).collect();
    let mut report = Report::default();
    for (id, wire) in &wiring.ports {
        match links.get(wire.device.as_str()) {
            Some(link) => raise(netlink, link, &mut report).await?,
            None => report.missing.push(*id),
        }
    }
    let missing = wiring.gateways.iter().filter(|(_, device)| !links.contains_key(device.as_str()));
    report.missing_gateways.extend(missing.map(|(gateway, _)| *gateway));
    addresses(netlink, wiring, &links, &mut report).await?;
    neighbours(netlink, wiring, &links, &mut report).await?;
    routes(netlink, wiring, &links, &mut report).await?;
    rules(netlink, wiring, &mut report).await?;
    Ok(report)
}

async fn raise(netlink: &Netlink, link: &Link, report: &mut Report) -> Result<(), Error> {
    // A proxied answer is held back for up to 0.8 s otherwise, to let the owner go first.
    let delay = format!("ipv4/neigh/{}/proxy_delay", link.name);
    if sysctl::is_on(&delay)? {
        sysctl::set(&delay, "0")?;
        report.changed += 1;
    }
    if link.mtu != MTU {
        netlink.set_mtu(link.index, MTU).await?;
        report.changed += 1;
    }
    if !link.is_up {
        netlink.set_up(link.index).await?;
        report.changed += 1;
    }
    Ok(())
}

type Links<'a> = BTreeMap<&'a str, &'a Link>;

/// On the loopback interface, which needs no driver and is in every namespace.
async fn addresses(
    netlink: &Netlink,
    wiring: &Wiring,
    links: &Links<'_>,
    report: &mut Report,
) -> Result<(), Error> {
    let Some(lo) = links.get("lo") else { return Ok(()) };
    if !lo.is_up {
        netlink.set_up(lo.index).await?;
        report.changed += 1;
    }
    let mut wanted: BTreeSet<_> = wiring.own.iter().map(|address| Ipv4Net::from(*address)).collect();
    for (address, message) in netlink.addresses(lo.index).await? {
        if !wanted.remove(&address) && !address.addr().is_loopback() {
            netlink.delete_address(message).await?;
            report.changed += 1;
        }
    }
    for address in wanted {
        netlink.add_address(lo.index, address).await?;
        report.changed += 1;
    }
    Ok(())
}

async fn neighbours(
    netlink: &Netlink,
    wiring: &Wiring,
    links: &Links<'_>,
    report: &mut Report,
) -> Result<(), Error> {
    let mut wanted: BTreeMap<(Index, Ipv4Addr), MacAddress> = BTreeMap::new();
    // Those of gateways are for who made their devices.
    let mut ports = BTreeSet::new();
    for wire in wiring.ports.values() {
        if let Some(link) = links.get(wire.device.as_str()) {
            ports.insert(link.index);
            wanted.extend(wire.addresses.iter().map(|address| ((link.index, *address), wire.mac)));
        }
    }
    for ((link, address, mac), message) in netlink.neighbours().await? {
        match wanted.get(&(link, address)) {
            Some(wanted_mac) if *wanted_mac == mac => {
                wanted.remove(&(link, address));
            }
            // It is replaced below.
            Some(_) => {}
            None if !ports.contains(&link) => {}
            None => {
                netlink.delete_neighbour(message).await?;
                report.changed += 1;
            }
        }
    }
    for ((link, address), mac) in wanted {
        netlink.put_neighbour(link, address, mac).await?;
        report.changed += 1;
    }
    Ok(())
}

async fn routes(
    netlink: &Netlink,
    wiring: &Wiring,
    links: &Links<'_>,
    report: &mut Report,
) -> Result<(), Error> {
    let way = |lead: &Lead| {
        let index = |device: &str| links.get(device).map(|link| link.index);
        match lead {
            Lead::Direct { device, source } => {
                index(device).map(|link| Way::Direct { link, source: *source })
            }
            // To fall through to a shorter route would lead elsewhere.
            Lead::Via { device, gateway } => Some(index(device).map_or(Way::Blackhole, |link| Way::Via {
                link,
                gateway: *gateway,
                source: None,
            })),
            Lead::Blackhole => Some(Way::Blackhole),
            Lead::Throw => Some(Way::Throw),
        }
    };
    let routes = wiring.routes.iter().filter_map(|(key, lead)| Some((*key, way(lead)?)));
    let mut wanted: BTreeMap<(u32, Ipv4Net), Way> = routes.collect();
    let mut surplus = Vec::new();
    for ((table, range, way), message) in netlink.table_routes().await? {
        if wanted.get(&(table, range)) == Some(&way) {
            wanted.remove(&(table, range));
        } else {
            surplus.push(message);
        }
    }
    report.changed += wanted.len() + surplus.len();
    // What leads elsewhere is replaced in one step, and is then not there any more to be deleted.
    for ((table, range), way) in wanted {
        netlink.put_route(table, range, way).await?;
    }
    for message in surplus {
        netlink.delete_route(message).await?;
    }
    Ok(())
}

async fn rules(netlink: &Netlink, wiring: &Wiring, report: &mut Report) -> Result<(), Error> {
    let of_subnet =
        |number: &u32| Rule { priority: PRIORITY, mark: Some(*number), source: None, table: *number };
    let of_service = |(source, number): (&Ipv4Addr, &u32)| Rule {
        priority: PRIORITY,
        mark: None,
        source: Some(*source),
        table: *number,
    };
    let subnets = wiring.tables.iter().map(of_subnet);
    let services = wiring.services.iter().map(of_service);
    let mut wanted: BTreeSet<_> = subnets.chain(services).chain(RULES_OWN).collect();
    let mut surplus = Vec::new();
    for (rule, message) in netlink.rules().await? {
        if !rule.is_some_and(|rule| wanted.remove(&rule)) {
            surplus.push(message);
        }
    }
    report.changed += wanted.len() + surplus.len();
    for rule in wanted {
        netlink.add_rule(rule).await?;
    }
    for message in surplus {
        netlink.delete_rule(message).await?;
    }
    Ok(())
}
