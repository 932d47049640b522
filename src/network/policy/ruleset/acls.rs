//! Network ACLs: every packet that crosses the edge of a subnet with one that stops anything.

use std::collections::BTreeSet;

use types::NetworkAclId;

use super::{Builder, jump, mark, quoted};
use crate::policy::{Acl, AclEntry, Direction, DropReason, Interface, Subnet, Traffic, device_name};

impl Builder<'_> {
    pub(super) fn acls(&mut self) {
        let restricting = |direction| {
            let subnets = self.vpc.subnets.values().map(|subnet| (subnet.acl, subnet));
            subnets
                .filter(|(acl, _)| !self.vpc.acls.get(acl).is_some_and(|acl| acl.admits_all(direction)))
                .collect::<Vec<_>>()
        };
        let (inward, outward) = (restricting(Direction::Ingress), restricting(Direction::Egress));
        let has_acls = !inward.is_empty() || !outward.is_empty();
        let acls_of = |restricted: &[(NetworkAclId, &Subnet)]| {
            restricted.iter().map(|(acl, _)| *acl).collect::<BTreeSet<_>>()
        };
        for (direction, acls) in
            [(Direction::Ingress, acls_of(&inward)), (Direction::Egress, acls_of(&outward))]
        {
            for id in acls {
                let rules = acl_rules(self.vpc.acls.get(&id), direction);
                self.inet.chain(acl_chain(direction, id), None, rules);
            }
        }
        let out = outward
            .iter()
            .map(|(acl, subnet)| (mark(subnet.number()), jump(&acl_chain(Direction::Egress, *acl))));
        let look_outward = (!outward.is_empty()).then_some("meta mark vmap @acl-out");
        if look_outward.is_some() {
            self.inet.map("acl-out", "mark : verdict", out);
        }
        for subnet in self.vpc.subnets.values().filter(|_| has_acls) {
            let mut rules = vec![format!("meta mark {} return", mark(subnet.number()))];
            rules.extend(look_outward.map(str::to_owned));
            if let Some((acl, _)) = inward.iter().find(|(acl, _)| *acl == subnet.acl) {
                rules.push(format!("goto {}", acl_chain(Direction::Ingress, *acl)));
            }
            self.inet.chain(crossing(subnet), None, rules);
        }
        let crossings = self.vpc.subnets.values().map(|subnet| (subnet.range, jump(&crossing(subnet))));
        if has_acls {
            self.inet.interval_map("crossings", "ipv4_addr : verdict", crossings);
        }
        let admitted = has_acls.then_some("ip daddr vmap @crossings").into_iter().chain(["goto judge"]);
        self.inet.chain("admitted", None, admitted);
        if !self.vpc.gateways.is_empty() {
            self.inet.chain("outward", None, look_outward.into_iter().chain(["goto judge"]));
        }
        let hops: Vec<_> = self.vpc.interfaces().filter(|(_, interface)| interface.is_hop()).collect();
        if hops.is_empty() {
            return;
        }
        let crossed = |(id, interface): &(_, &Interface)| {
            let subnet = self.vpc.subnets.get(&interface.subnet)?;
            Some((quoted(&device_name(*id)), jump(&crossing(subnet))))
        };
        if has_acls {
            self.inet.map("hop-crossings", "ifname : verdict", hops.iter().filter_map(crossed));
        }
        let admitted = has_acls.then_some("oifname vmap @hop-crossings").into_iter().chain(["goto judge"]);
        self.inet.chain("admitted-hop", None, admitted);
    }
}

fn acl_rules(acl: Option<&Acl>, direction: Direction) -> Vec<String> {
    let entries = acl.into_iter().flat_map(|acl| acl.entries(direction));
    let side = match direction {
        Direction::Ingress => "saddr",
        Direction::Egress => "daddr",
    };
    let rule = |entry: &AclEntry| {
        let range = (entry.range.prefix_len() > 0).then(|| format!("ip {side} {}", entry.range));
        let traffic = match entry.traffic {
            Traffic::All => None,
            Traffic::Tcp(ports) => Some(format!("tcp dport {}-{}", ports.first, ports.last)),
            Traffic::Udp(ports) => Some(format!("udp dport {}-{}", ports.first, ports.last)),
            Traffic::Icmp { icmp_type: None, .. } => Some("meta l4proto icmp".to_owned()),
            Traffic::Icmp { icmp_type: Some(kind), code: None } => Some(format!("icmp type {kind}")),
            Traffic::Icmp { icmp_type: Some(kind), code: Some(code) } => {
                Some(format!("icmp type {kind} icmp code {code}"))
            }
            Traffic::Protocol(number) => Some(format!("meta l4proto {number}")),
        };
        let verdict = if entry.allows { "return".to_owned() } else { DropReason::Acl.rule() };
        let words: Vec<_> = range.into_iter().chain(traffic).chain([verdict]).collect();
        words.join(" ")
    };
    entries.map(rule).chain([DropReason::Acl.rule()]).collect()
}

fn acl_chain(direction: Direction, acl: NetworkAclId) -> String {
    match direction {
        Direction::Ingress => format!("acl-in/{acl}"),
        Direction::Egress => format!("acl-out/{acl}"),
    }
}

/// The chain of what comes into a subnet from elsewhere.
fn crossing(subnet: &Subnet) -> String {
    format!("to-{}", subnet.range.network())
}
