//! The nftables rules of a VPC, as a function of it. Nothing here runs `nft`.
//!
//! ```text
//! prerouting  arrive      whose address is it: the map `bound` says so, and the packet's subnet
//! forward     ─┐
//! output      ─┴▶ leave   whose address does it go to: the set `receivers`
//! input       ─┐    │
//!              └────┴▶ admitted   ACLs of both subnets, where one of them is crossed and one of its ACLs stops anything
//!                       └▶ judge      the flow's mark; else the groups of its sender, those of its receiver, and then the mark
//!                           └▶ judge-hop   the same, packet by packet, where an interface takes what is not its own
//! ```
//!
//! Whose and which is found by sets and maps, so a packet costs the same whether there are ten interfaces or a thousand. The chain of some groups,
//! one for each set of groups that an interface has, looks into four sets for each group, and into as many for each other group
//! that its rules name. What it returns from has passed; what reaches its end is dropped.
//!
//! Conntrack's tuple of an ICMP echo has its type and code where TCP has the destination port, so they are numbers like ports here.

mod acls;
mod ends;
mod groups;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::rc::Rc;

use super::{Interface, Port, Subnet, Vpc, device_name};

/// The tables of a VPC's namespace, with the family of each.
pub(super) const INET: &str = "inet vpc";
pub(super) const ARP: &str = "arp vpc";

/// All rules of a VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pub(super) tables: BTreeMap<&'static str, Table>,
    generation: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) chains: BTreeMap<String, Chain>,
}

/// A set, or a map if its elements have values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    /// The types of its elements' keys, and of their values behind a colon.
    pub(super) kind: &'static str,
    pub(super) has_intervals: bool,
    pub(super) elements: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where the kernel enters it.
    pub(super) hook: Option<&'static str>,
    pub(super) rules: Vec<String>,
}

impl Ruleset {
    /// The rules that enforce what `vpc` says.
    pub fn of(vpc: &Vpc) -> Self {
        let devices = devices(vpc).into();
        let mut builder = Builder { vpc, devices, inet: Table::default(), arp: Table::default() };
        builder.arrivals();
        builder.departures();
        builder.acls();
        builder.groups();
        builder.hops();
        let mut ruleset =
            Self { tables: BTreeMap::from([(INET, builder.inet), (ARP, builder.arp)]), generation: 0 };
        ruleset.generation = generation_of(&ruleset.tables);
        ruleset.judge(builder.vpc.interfaces().any(|(_, interface)| interface.is_hop()));
        ruleset
    }

    /// What flows are marked with that passed by these rules. Never 0, which is no flow's mark. It is made of the rules alone: the same rules
    /// have the same, whenever and by whichever process they are made.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    fn judge(&mut self, has_hops: bool) {
        let mark = format!("0x{:08x}", self.generation);
        let mut rules = Vec::new();
        if has_hops {
            rules.push("iifname @hops goto judge-hop".to_owned());
            rules.push("oifname @hops goto judge-hop".to_owned());
        }
        rules.push(format!("ct mark {mark} accept"));
        rules.push("ct original ip saddr vmap @egress".to_owned());
        rules.push("ct original ip daddr vmap @ingress".to_owned());
        rules.push(format!("ct mark set {mark} accept"));
        if let Some(table) = self.tables.get_mut(INET) {
            table.chains.insert("judge".to_owned(), Chain { hook: None, rules });
        }
    }
}

/// FNV-1a of all words, folded. Two rulesets have the same by chance once in four thousand million times.
fn generation_of(tables: &BTreeMap<&'static str, Table>) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    // No word has this byte, which is in no UTF-8.
    let mut add = |word: &str| {
        for byte in word.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, table) in tables {
        add(name);
        for (name, set) in &table.sets {
            add(name);
            for (key, value) in &set.elements {
                add(key);
                add(value.as_deref().unwrap_or_default());
            }
        }
        for (name, chain) in &table.chains {
            add(name);
            chain.rules.iter().for_each(|rule| add(rule));
        }
    }
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h])).max(1)
}

/// An interface behind a device: the device's name, and the number of its subnet.
type Device<'a> = (String, &'a Interface, u32);

fn devices(vpc: &Vpc) -> Vec<Device<'_>> {
    let number = |interface: &Interface| vpc.subnets.get(&interface.subnet).map(Subnet::number);
    let has_device = |(_, interface): &(_, &Interface)| interface.port == Port::Device;
    let device = |(id, interface)| Some((device_name(id), interface, number(interface)?));
    vpc.interfaces().filter(has_device).filter_map(device).collect()
}

struct Builder<'a> {
    vpc: &'a Vpc,
    devices: Rc<[Device<'a>]>,
    inet: Table,
    arp: Table,
}

impl Table {
    fn set<E: Display>(
        &mut self,
        name: impl Into<String>,
        kind: &'static str,
        elements: impl IntoIterator<Item = E>,
    ) {
        self.add(name, kind, false, elements.into_iter().map(|element| (element, None::<&str>)));
    }

    fn intervals<E: Display>(
        &mut self,
        name: impl Into<String>,
        kind: &'static str,
        elements: impl IntoIterator<Item = E>,
    ) {
        self.add(name, kind, true, elements.into_iter().map(|element| (element, None::<&str>)));
    }

    fn map<K: Display, V: Display>(
        &mut self,
        name: &str,
        kind: &'static str,
        elements: impl IntoIterator<Item = (K, V)>,
    ) {
        self.add(name, kind, false, elements.into_iter().map(|(key, value)| (key, Some(value))));
    }

    /// A map of ranges.
    fn interval_map<K: Display, V: Display>(
        &mut self,
        name: &str,
        kind: &'static str,
        elements: impl IntoIterator<Item = (K, V)>,
    ) {
        self.add(name, kind, true, elements.into_iter().map(|(key, value)| (key, Some(value))));
    }

    fn add<K: Display, V: Display>(
        &mut self,
        name: impl Into<String>,
        kind: &'static str,
        has_intervals: bool,
        elements: impl Iterator<Item = (K, Option<V>)>,
    ) {
        let text = |(key, value): (K, Option<V>)| (key.to_string(), value.map(|value| value.to_string()));
        self.sets.insert(name.into(), Set { kind, has_intervals, elements: elements.map(text).collect() });
    }

    fn chain<R: Into<String>>(
        &mut self,
        name: impl Into<String>,
        hook: Option<&'static str>,
        rules: impl IntoIterator<Item = R>,
    ) {
        let rules = rules.into_iter().map(Into::into).collect();
        self.chains.insert(name.into(), Chain { hook, rules });
    }
}

impl Builder<'_> {
    /// The addresses of services of nimbo's own, with the number of the subnet of each.
    fn services(&self) -> Vec<(Ipv4Addr, u32)> {
        let local = self.vpc.interfaces().filter(|(_, interface)| interface.port == Port::Local);
        let addresses = local.filter_map(|(_, interface)| {
            let number = self.vpc.subnets.get(&interface.subnet)?.number();
            Some(interface.addresses.iter().map(move |address| (*address, number)))
        });
        addresses.flatten().collect()
    }
}

fn jump(chain: &str) -> String {
    format!("jump {chain}")
}

fn mark(number: u32) -> String {
    format!("0x{number:08x}")
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}
