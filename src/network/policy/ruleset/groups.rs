//! Security groups: the packet that began a flow, as conntrack remembers it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::rc::Rc;

use types::SecurityGroupId;

use super::{Builder, Device, jump, no_flow, quoted};
use crate::policy::rectangle::{Rectangle, disjoint};
use crate::policy::{Direction, DropReason, Interface, Peer, Ports, Traffic};

impl Builder<'_> {
    /// The chains of what groups interfaces have, and the sets that those look into.
    pub(super) fn groups(&mut self) {
        for direction in [Direction::Egress, Direction::Ingress] {
            let mut chains: BTreeMap<Vec<SecurityGroupId>, String> = BTreeMap::new();
            let mut verdicts = Vec::new();
            for (_, interface) in self.vpc.interfaces() {
                let of_groups = |groups: &Vec<_>| groups_chain(direction, groups);
                let chain = chains.entry(groups_of(interface)).or_insert_with_key(of_groups);
                verdicts.extend(interface.addresses.iter().map(|address| (*address, jump(chain))));
            }
            self.inet.map(word(direction), "ipv4_addr : verdict", verdicts);
            for (groups, name) in chains {
                let mut rules: Vec<_> =
                    groups.into_iter().flat_map(|group| self.group(group, direction)).collect();
                rules.push(DropReason::Group.rule());
                self.inet.chain(name, None, rules);
            }
        }
    }

    /// The rules that pass what a group admits in a direction. Their sets are the group's: chains share them.
    fn group(&mut self, id: SecurityGroupId, direction: Direction) -> Vec<String> {
        let Some(group) = self.vpc.groups.get(&id) else { return Vec::new() };
        let mut by_range: BTreeMap<Class, Vec<Rectangle>> = BTreeMap::new();
        let mut by_group: BTreeMap<(SecurityGroupId, Class), Vec<Rectangle>> = BTreeMap::new();
        for rule in group.rules.iter().filter(|rule| rule.direction == direction) {
            let (class, x) = Class::of(rule.traffic);
            match rule.peer {
                Peer::Range(range) => {
                    let y = (range.network().into(), range.broadcast().into());
                    by_range.entry(class).or_default().push(Rectangle { x, y });
                }
                Peer::Group(peer) => {
                    by_group.entry((peer, class)).or_default().push(Rectangle { x, y: (0, 0) });
                }
            }
        }
        let direction_word = word(direction);
        let peer = match direction {
            Direction::Ingress => "ct original ip saddr",
            Direction::Egress => "ct original ip daddr",
        };
        let mut rules = Vec::new();
        for (class, rectangles) in by_range {
            let rectangles = disjoint(rectangles);
            if class == Class::Any && rectangles == [EVERYTHING] {
                return vec!["return".to_owned()];
            }
            let name = format!("{direction_word}-{}/{id}", class.word());
            rules.push(format!("{}{} . {peer} @{name} return", class.condition(), class.key()));
            let element = |piece: &Rectangle| format!("{} . {}", numbers(piece.x), addresses(piece.y));
            self.inet.intervals(name, class.kind_with_address(), rectangles.iter().map(element));
        }
        for ((other, class), rectangles) in by_group {
            let rectangles = disjoint(rectangles);
            let members = format!("members/{other}");
            let whose = format!("{peer} @{members}");
            if !self.inet.sets.contains_key(&members) {
                self.inet.set(members, "ipv4_addr", self.vpc.members(other));
            }
            if class == Class::Any && rectangles.iter().any(|piece| piece.x == ALL_PROTOCOLS) {
                rules.push(format!("{whose} return"));
                continue;
            }
            let name = format!("{direction_word}-{}/{id}/{other}", class.word());
            rules.push(format!("{whose} {}{} @{name} return", class.condition(), class.key()));
            self.inet.intervals(name, class.kind(), rectangles.iter().map(|piece| numbers(piece.x)));
        }
        rules
    }

    /// Flows that pass an interface which is neither of their ends: its groups look at them, whatever other hops have found.
    pub(super) fn hops(&mut self) {
        let devices = Rc::clone(&self.devices);
        let hops: Vec<_> = devices
            .iter()
            .filter(|(_, interface, _)| interface.is_hop())
            .map(|(name, ..)| quoted(name))
            .collect();
        if hops.is_empty() {
            return;
        }
        let of = |direction| {
            let chain = |(name, interface, _): &Device<'_>| {
                (quoted(name), jump(&groups_chain(direction, &groups_of(interface))))
            };
            devices.iter().map(chain).collect::<Vec<_>>()
        };
        let (egress, ingress) = (of(Direction::Egress), of(Direction::Ingress));
        self.inet.map("hop-egress", "ifname : verdict", egress);
        self.inet.map("hop-ingress", "ifname : verdict", ingress);
        self.inet.set("hops", "ifname", hops);
        let no_flow = no_flow();
        let mut rules = vec![
            no_flow.as_str(),
            "ct direction original iifname vmap @hop-egress",
            "ct direction original oifname vmap @hop-ingress",
            "ct direction reply oifname vmap @hop-egress",
            "ct direction reply iifname vmap @hop-ingress",
        ];
        if !self.services().is_empty() {
            // What a service of nimbo's own has at its end, where there is no device.
            rules.push("iif 0 ct direction original ct original ip saddr vmap @egress");
            rules.push("iif 0 ct direction reply ct original ip daddr vmap @ingress");
            rules.push("oif 0 ct direction original ct original ip daddr vmap @ingress");
            rules.push("oif 0 ct direction reply ct original ip saddr vmap @egress");
        }
        rules.push("accept");
        self.inet.chain("judge-hop", None, rules);
    }
}

/// What rules of groups are sorted by: where the numbers lie that they are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Protocols, with all that they have.
    Any,
    Tcp,
    Udp,
    Icmp,
}

const ALL_PROTOCOLS: (u32, u32) = (0, u8::MAX as u32);
const EVERYTHING: Rectangle = Rectangle { x: ALL_PROTOCOLS, y: (0, u32::MAX) };

impl Class {
    fn of(traffic: Traffic) -> (Self, (u32, u32)) {
        let ports = |ports: Ports| (u32::from(ports.first), u32::from(ports.last));
        match traffic {
            Traffic::All => (Class::Any, ALL_PROTOCOLS),
            Traffic::Protocol(number) => (Class::Any, (number.into(), number.into())),
            Traffic::Tcp(range) => (Class::Tcp, ports(range)),
            Traffic::Udp(range) => (Class::Udp, ports(range)),
            Traffic::Icmp { icmp_type: None, .. } => (Class::Icmp, (0, u16::MAX.into())),
            Traffic::Icmp { icmp_type: Some(icmp_type), code } => {
                let number = |code| u32::from(u16::from_be_bytes([icmp_type, code]));
                (Class::Icmp, (number(code.unwrap_or(0)), number(code.unwrap_or(u8::MAX))))
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Class::Any => "any",
            Class::Tcp => "tcp",
            Class::Udp => "udp",
            Class::Icmp => "icmp",
        }
    }

    fn condition(self) -> &'static str {
        match self {
            Class::Any => "",
            Class::Tcp => "meta l4proto tcp ",
            Class::Udp => "meta l4proto udp ",
            Class::Icmp => "meta l4proto icmp ",
        }
    }

    fn key(self) -> &'static str {
        if self == Class::Any { "meta l4proto" } else { "ct original proto-dst" }
    }

    fn kind(self) -> &'static str {
        if self == Class::Any { "inet_proto" } else { "inet_service" }
    }

    fn kind_with_address(self) -> &'static str {
        if self == Class::Any { "inet_proto . ipv4_addr" } else { "inet_service . ipv4_addr" }
    }
}

/// Each once, and in the order that all interfaces have them in.
fn groups_of(interface: &Interface) -> Vec<SecurityGroupId> {
    let groups: BTreeSet<_> = interface.groups.iter().copied().collect();
    groups.into_iter().collect()
}

/// The chain of all interfaces that have these groups.
fn groups_chain(direction: Direction, groups: &[SecurityGroupId]) -> String {
    let groups: Vec<_> = groups.iter().map(SecurityGroupId::to_string).collect();
    format!("{}/{}", word(direction), if groups.is_empty() { "none".to_owned() } else { groups.join("/") })
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn numbers((first, last): (u32, u32)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn addresses((first, last): (u32, u32)) -> String {
    let (first, last) = (Ipv4Addr::from(first), Ipv4Addr::from(last));
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
