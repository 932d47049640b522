//! What the namespace of a VPC has beside its rules, as a function of the VPC.
//!
//! ```text
//! table of a subnet   its routes; throw: the VPC's own ranges       only of subnets with routes of their own, by their mark, or a service's address
//! main table          each address by its device; blackhole: the rest of the VPC, and all else
//! ```
//!
//! A subnet's table comes first. What lies in the VPC's ranges it leaves to the main table, but for routes that are longer than the range.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use types::{MacAddress, NetworkInterfaceId};

use crate::netlink::tables::TABLE_MAIN;
use crate::policy::{Gateway, LINK_LOCAL, Port, Subnet, Target, Vpc, device_name};

/// What there is to be in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wiring {
    /// Addresses of the namespace itself: the router's and those of services.
    pub(super) own: BTreeSet<Ipv4Addr>,
    pub(super) ports: BTreeMap<NetworkInterfaceId, Wire>,
    pub(super) gateways: BTreeMap<Gateway, String>,
    pub(super) routes: BTreeMap<(u32, Ipv4Net), Lead>,
    /// The numbers of the subnets that have a table, which is also the mark of their packets.
    pub(super) tables: BTreeSet<u32>,
    /// The addresses of services in these subnets, with the number of each one's. What they send has no mark when the kernel looks for its way first.
    pub(super) services: BTreeMap<Ipv4Addr, u32>,
}

/// An interface's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) device: String,
    pub(super) mac: MacAddress,
    pub(super) addresses: Vec<Ipv4Addr>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lead {
    Direct { device: String, source: Ipv4Addr },
    Via { device: String, gateway: Ipv4Addr },
    Blackhole,
    Throw,
}

impl Wiring {
    pub(super) fn of(vpc: &Vpc) -> Self {
        let mut wiring = Self { own: vpc.own_addresses(), ..Self::default() };
        wiring.gateways = vpc.gateways.keys().map(|gateway| (*gateway, gateway.device_name())).collect();
        for range in vpc.ranges.iter().copied().chain([Ipv4Net::default(), LINK_LOCAL]) {
            wiring.routes.insert((TABLE_MAIN, range), Lead::Blackhole);
        }
        for (id, interface) in vpc.interfaces() {
            let Some(subnet) = vpc.subnets.get(&interface.subnet) else { continue };
            if interface.port == Port::Local {
                wiring.own.extend(&interface.addresses);
                continue;
            }
            let (device, source) = (device_name(id), vpc.plan(subnet).router());
            for address in &interface.addresses {
                let lead = Lead::Direct { device: device.clone(), source };
                wiring.routes.insert((TABLE_MAIN, Ipv4Net::from(*address)), lead);
            }
            let wire = Wire { device, mac: interface.mac, addresses: interface.addresses.clone() };
            wiring.ports.insert(id, wire);
        }
        for subnet in vpc.subnets.values() {
            wiring.add_table(vpc, subnet);
        }
        for (_, interface) in vpc.interfaces().filter(|(_, interface)| interface.port == Port::Local) {
            let number = vpc.subnets.get(&interface.subnet).map(Subnet::number);
            let number = number.filter(|number| wiring.tables.contains(number));
            wiring.services.extend(
                number.into_iter().flat_map(|number| interface.addresses.iter().map(move |at| (*at, number))),
            );
        }
        wiring
    }

    fn add_table(&mut self, vpc: &Vpc, subnet: &Subnet) {
        let Some(table) = vpc.route_tables.get(&subnet.route_table) else { return };
        if table.routes.is_empty() {
            return;
        }
        let number = subnet.number();
        let routes = table.routes.iter().map(|(range, target)| (*range, lead(vpc, *target)));
        // These come last: no route of the table overrules them.
        let local = vpc.ranges.iter().map(|range| (*range, Lead::Throw));
        let link_local = [(LINK_LOCAL, Lead::Blackhole)];
        self.routes
            .extend(routes.chain(local).chain(link_local).map(|(range, lead)| ((number, range), lead)));
        self.tables.insert(number);
    }
}

fn lead(vpc: &Vpc, target: Target) -> Lead {
    let found = match target {
        Target::Blackhole => None,
        Target::Gateway(gateway) => to_gateway(vpc, gateway),
        Target::Interface(id) => {
            let interface = vpc.interface(id).filter(|interface| interface.port == Port::Device);
            let gateway = interface.and_then(|interface| interface.addresses.first());
            gateway.map(|gateway| Lead::Via { device: device_name(id), gateway: *gateway })
        }
    };
    found.unwrap_or(Lead::Blackhole)
}

fn to_gateway(vpc: &Vpc, gateway: Gateway) -> Option<Lead> {
    let at = vpc.gateways.get(&gateway)?;
    Some(Lead::Via { device: gateway.device_name(), gateway: *at })
}
