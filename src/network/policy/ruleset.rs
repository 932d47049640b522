//! The nftables rules of a VPC, as a function of it. Nothing here runs `nft`.
//!
//! ```text
//! prerouting  arrive      whose address is it: the map `bound` says so, and the packet's subnet
//! forward     ─┐
//! output      ─┴▶ leave   whose address does it go to: the set `receivers`
//! input       ─┐    │
//!              └────┴▶ admitted   the flow's mark; else the ACLs of both subnets, where one of them is crossed and one of its ACLs stops anything
//!                       └▶ judge      the flow's mark; else the groups of its sender, those of its receiver, and then the mark
//!                           └▶ judge-hop   the same, packet by packet, where an interface takes what is not its own
//! ```
//!
//! Whose and which is found by sets and maps, so a packet costs the same whether there are ten interfaces or a thousand. The chain of some groups,
//! one for each set of groups that an interface has, looks into four sets for each group, and into as many for each other group
//! that its rules name. What it returns from has passed; what reaches its end is dropped. What is dropped is counted, by its [reason](DropReason).
//!
//! All packets that a flow has in one direction are the same to ACLs, which know no state: addresses, protocol, and ports or ICMP's type. So once a packet
//! has passed in each direction, the mark says so with one bit more and ACLs are not asked again. ICMP errors about a flow are not its own packets
//! (`related`, not `established`), and what comes from an interface that takes what is not its own may be anybody's: these are always looked at.
//!
//! Sets of single elements have a size: the kernel's hash table for those is twice as fast as the one that grows.
//!
//! Conntrack's tuple of an ICMP echo has its type and code where TCP has the destination port, so they are numbers like ports here.

mod acls;
mod ends;
mod groups;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::rc::Rc;

use super::{DropReason, Interface, Port, Subnet, Vpc, device_name};

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
    pub(super) counters: &'static [DropReason],
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
        let inet = Table { counters: &DropReason::ALL, ..Table::default() };
        let arp = Table { counters: &[DropReason::Spoofed], ..Table::default() };
        let mut builder = Builder { vpc, devices, inet, arp };
        builder.arrivals();
        builder.departures();
        builder.acls();
        builder.groups();
        builder.hops();
        let Builder { mut inet, arp, .. } = builder;
        let generation = generation_of([(INET, &inet), (ARP, &arp)]);
        inet.judge(generation);
        Self { tables: BTreeMap::from([(INET, inet), (ARP, arp)]), generation }
    }

    /// What flows are marked with that passed by these rules, in 31 bits; the highest is set when ACLs have let both directions pass. Never 0,
    /// which is no flow's mark. It is made of the rules alone: the same rules have the same, whenever and by whichever process they are made.
    pub fn generation(&self) -> u32 {
        self.generation
    }
}

impl Table {
    /// The chains that know flows by their mark.
    fn judge(&mut self, generation: u32) {
        let (once, both_ways) = (mark(generation), mark(generation | BOTH_WAYS));
        let has_hops = self.sets.contains_key("hops");
        let mut rules = Vec::new();
        if has_hops {
            rules.push("iifname @hops goto judge-hop".to_owned());
            rules.push("oifname @hops goto judge-hop".to_owned());
        }
        if self.has_acls() {
            let not_from_hop = if has_hops { "iifname != @hops " } else { "" };
            for chain in ["admitted", "outward"] {
                if let Some(chain) = self.chains.get_mut(chain) {
                    let known = format!("{not_from_hop}ct mark {both_ways} ct state established accept");
                    chain.rules.insert(0, known);
                }
            }
            // The packet is an answer to one that had passed, and ACLs let it pass as well.
            let answer = "ct direction reply ct state established";
            rules.push(format!("ct mark {once} {answer} ct mark set {both_ways} accept"));
            rules.push(format!("ct mark {both_ways} accept"));
        }
        rules.push(format!("ct mark {once} accept"));
        // It is of no flow, so it had no mark.
        rules.push(no_flow());
        rules.push("ct original ip saddr vmap @egress".to_owned());
        rules.push("ct original ip daddr vmap @ingress".to_owned());
        rules.push(format!("ct mark set {once} accept"));
        self.chains.insert("judge".to_owned(), Chain { hook: None, rules });
    }

    /// Whether any packet is shown to an ACL.
    fn has_acls(&self) -> bool {
        self.sets.contains_key("crossings")
    }
}

/// The bit of a flow's mark that says that ACLs have let packets pass in both directions.
const BOTH_WAYS: u32 = 1 << 31;

/// FNV-1a of all words, folded into 31 bits. Two rulesets have the same by chance once in two thousand million times.
fn generation_of<const N: usize>(tables: [(&str, &Table); N]) -> u32 {
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
    let folded = u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h]);
    (folded & !BOTH_WAYS).max(1)
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

/// Drops what begins no flow and is of none.
fn no_flow() -> String {
    format!("ct state invalid {}", DropReason::NoFlow.rule())
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
