//! What packets pass and what stops them, in words and by the names that its owner knows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use control::ports::VpcSpec;
use control::records::InterfaceOwner;
use control::state::Space;
use network::Ipv4Net;
use network::path::{Halt, Passed, Path, Site, Spot, Why};
use network::policy::{
    Direction, Gateway, Packet, Peer, Place, Ports, Step, Stop, Target, Traffic, Transport,
};
use types::{AccountId, NetworkInterfaceId, SubnetId, VpcId};

use crate::why::{By, PathTold, StepTold, StopTold};

/// Knows what things are called, and tells an account of its own only.
pub(super) struct Teller<'a> {
    pub(super) account: AccountId,
    pub(super) specs: &'a BTreeMap<VpcId, (Space, VpcSpec)>,
    pub(super) sites: &'a BTreeMap<VpcId, Site>,
}

impl Teller<'_> {
    pub(super) fn path(&self, path: &Path) -> PathTold {
        let passed = path.passed.iter().filter_map(|passed| self.passed(passed)).collect();
        PathTold { passed, stopped: path.end.as_ref().err().map(|halt| self.stopped(halt)) }
    }

    fn is_own(&self, vpc: VpcId) -> bool {
        self.specs.get(&vpc).is_some_and(|(space, _)| space.account == self.account)
    }

    fn passed(&self, passed: &Passed) -> Option<StepTold> {
        match *passed {
            Passed::Step(vpc, step) => self.is_own(vpc).then(|| self.step(vpc, step)).flatten(),
            Passed::Peering { id, to } => {
                let says = format!("leads to {to}");
                Some(told(By::PeeringConnection, id.to_string(), None, to.to_string(), says))
            }
            Passed::Internet { vpc, id, was, is } => self.is_own(vpc).then(|| {
                told(
                    By::InternetGateway,
                    id.to_string(),
                    None,
                    vpc.to_string(),
                    format!("makes {is} of {was}"),
                )
            }),
            Passed::Nat { vpc, interface, was, is } => self.is_own(vpc).then(|| {
                let id = self.name(vpc, interface);
                told(By::NatGateway, id, None, interface.to_string(), format!("makes {is} of {was}"))
            }),
            Passed::Router { vpc, interface } => self.is_own(vpc).then(|| {
                let says = "routes for others, and is taken to send it on".to_owned();
                told(By::NetworkInterface, interface.to_string(), None, vpc.to_string(), says)
            }),
        }
    }

    /// None: a NAT gateway's group, which it has for nimbo alone.
    fn step(&self, vpc: VpcId, step: Step) -> Option<StepTold> {
        let site = self.sites.get(&vpc)?;
        Some(match step {
            Step::Route { subnet, route } => {
                let (part, says) = match route {
                    None => ("local".to_owned(), "the VPC's own addresses are local".to_owned()),
                    Some((range, target)) => {
                        (range.to_string(), format!("leads to {}", self.target(vpc, target)))
                    }
                };
                told(By::RouteTable, self.route_table(vpc, subnet), Some(part), subnet.to_string(), says)
            }
            Step::Acl { subnet, acl, direction, number } => {
                let says = self.entry(vpc, acl, direction, number);
                told(By::NetworkAcl, acl.to_string(), Some(number.to_string()), subnet.to_string(), says)
            }
            Step::Rule { interface, .. } if site.nat_gateways.contains_key(&interface) => return None,
            Step::Rule { interface, direction, group, rule } => {
                let rules = site.policy.groups.get(&group).into_iter().flat_map(|group| &group.rules);
                let says = rules.into_iter().find(|found| found.id == rule).map(|rule| {
                    let peer = match rule.peer {
                        Peer::Range(range) => range.to_string(),
                        Peer::Group(group) => group.to_string(),
                    };
                    lets(true, &words(rule.traffic), direction, &peer)
                });
                let (id, part) = (group.to_string(), Some(rule.to_string()));
                told(By::SecurityGroup, id, part, interface.to_string(), says.unwrap_or_default())
            }
        })
    }

    fn stopped(&self, halt: &Halt) -> StopTold {
        let Halt { at, packet, why } = *halt;
        let vpc = match (at, why) {
            (Spot::Vpc(vpc, _), _) | (Spot::Outside, Why::NoInternetGateway { vpc }) => Some(vpc),
            (Spot::Outside, _) => None,
        };
        if let Some(vpc) = vpc.filter(|vpc| !self.is_own(*vpc)) {
            return foreign(vpc, self.specs.get(&vpc).map(|(space, _)| space.account));
        }
        let name = vpc.map(|vpc| vpc.to_string()).unwrap_or_default();
        let place = match at {
            Spot::Vpc(_, place) => place,
            Spot::Outside => Place::Router,
        };
        let (reason, step) = match (why, vpc) {
            (Why::Policy(stop), Some(vpc)) => self.policy(vpc, place, packet, stop),
            (Why::NoPublicAddress { gateway }, _) => {
                let says = format!("{} has no public address, so it does not get out", packet.source);
                ("no_public_address", told(By::InternetGateway, gateway.to_string(), None, name, says))
            }
            (Why::NoInternetGateway { .. }, _) => {
                let says =
                    format!("{name} has no internet gateway, so nobody reaches {}", packet.destination);
                ("no_internet_gateway", told(By::Vpc, name.clone(), None, name, says))
            }
            (Why::Unsolicited { interface }, Some(vpc)) => {
                let id = self.name(vpc, interface);
                let says = "a NAT gateway takes nothing but answers to what is behind it".to_owned();
                ("unsolicited", told(By::NatGateway, id, None, interface.to_string(), says))
            }
            (Why::Host, _) => {
                let says =
                    format!("{} is the machine itself, which instances do not reach", packet.destination);
                ("host", told(By::Vpc, name.clone(), None, name, says))
            }
            (Why::NoPeer { id }, _) => {
                let says = "the VPC at its other end is not there".to_owned();
                ("no_peer", told(By::PeeringConnection, id.to_string(), None, name, says))
            }
            (Why::Circle, _) => {
                let says = "routes lead in a circle".to_owned();
                ("circle", told(By::Vpc, name.clone(), None, name, says))
            }
            (Why::NobodyHas | Why::Policy(_) | Why::Unsolicited { .. }, _) => {
                let says = format!("no instance has the public address {}", packet.destination);
                ("nobody_there", told(By::Vpc, name.clone(), None, name, says))
            }
        };
        StopTold { reason: reason.to_owned(), step }
    }

    /// What the policy of a VPC says of a packet that came in at `from`.
    fn policy(&self, vpc: VpcId, from: Place, packet: Packet, stop: Stop) -> (&'static str, StepTold) {
        let of_vpc = |says| told(By::Vpc, vpc.to_string(), None, vpc.to_string(), says);
        let Packet { source, destination, .. } = packet;
        let subnet = match from {
            Place::Interface(id) => self.subnet(vpc, id),
            Place::Gateway(_) | Place::Router => None,
        };
        match stop {
            Stop::NoSender => ("no_sender", of_vpc(format!("nothing is there that could send as {source}"))),
            Stop::Spoofed { source } => {
                ("spoofed", of_vpc(format!("{source} is not an address of who sends it there")))
            }
            Stop::SpoofedMac { mac } => ("spoofed", of_vpc(format!("{mac} is not the sender's"))),
            Stop::NobodyThere => {
                ("nobody_there", of_vpc(format!("no interface that is there has {destination}")))
            }
            Stop::NotAnswered => {
                let asked = transport_words(packet.transport);
                (
                    "not_answered",
                    of_vpc(format!("{destination} is the VPC's own, and does not answer {asked}")),
                )
            }
            Stop::NoFlow => {
                let says = "the answer comes by another way than the request, and answers nothing there";
                ("no_flow", of_vpc(says.to_owned()))
            }
            Stop::NoRoute => (
                "no_route",
                match subnet {
                    Some(subnet) => {
                        let says = format!("no route leads to {destination}");
                        told(By::RouteTable, self.route_table(vpc, subnet), None, subnet.to_string(), says)
                    }
                    None => of_vpc(format!(
                        "{destination} is not the VPC's own, and it leads nobody else's packets on"
                    )),
                },
            ),
            Stop::Blackhole { destination: range } => {
                let table = subnet.map(|subnet| self.route_table(vpc, subnet)).unwrap_or_default();
                let at = subnet.map(|subnet| subnet.to_string()).unwrap_or_default();
                let says = match subnet.and_then(|subnet| self.led(vpc, subnet, range)) {
                    None | Some(Target::Blackhole) => "leads to what is gone".to_owned(),
                    Some(target) => format!("leads to {}, which is not there", self.target(vpc, target)),
                };
                ("blackhole", told(By::RouteTable, table, Some(range.to_string()), at, says))
            }
            Stop::NotForInterface { interface } => {
                let says = format!(
                    "checks source and destination, and has no address {destination}: it does not route for others"
                );
                let id = interface.to_string();
                ("source_destination_check", told(By::NetworkInterface, id, None, vpc.to_string(), says))
            }
            Stop::Acl { subnet, acl, direction, number } => {
                let part = number.map(|number| number.to_string());
                let says = match number {
                    Some(number) => self.entry(vpc, acl, direction, number),
                    None => denied(packet, direction, "no entry"),
                };
                ("acl_denies", told(By::NetworkAcl, acl.to_string(), part, subnet.to_string(), says))
            }
            Stop::NoRule { interface, direction } => {
                let says = denied(packet, direction, "no rule");
                (
                    "no_rule",
                    told(By::SecurityGroup, self.groups(vpc, interface), None, interface.to_string(), says),
                )
            }
        }
    }

    fn subnet(&self, vpc: VpcId, interface: NetworkInterfaceId) -> Option<SubnetId> {
        let site = self.sites.get(&vpc)?;
        site.policy.interfaces.get(&interface).map(|interface| interface.subnet)
    }

    fn route_table(&self, vpc: VpcId, subnet: SubnetId) -> String {
        let subnet = self.sites.get(&vpc).and_then(|site| site.policy.subnets.get(&subnet));
        subnet.map(|subnet| subnet.route_table.to_string()).unwrap_or_default()
    }

    /// Where a route of a subnet leads.
    fn led(&self, vpc: VpcId, subnet: SubnetId, range: Ipv4Net) -> Option<Target> {
        let policy = &self.sites.get(&vpc)?.policy;
        let table = policy.route_tables.get(&policy.subnets.get(&subnet)?.route_table)?;
        table.routes.get(&range).copied()
    }

    fn groups(&self, vpc: VpcId, interface: NetworkInterfaceId) -> String {
        let interface = self.sites.get(&vpc).and_then(|site| site.policy.interfaces.get(&interface));
        let groups = interface.into_iter().flat_map(|interface| &interface.groups);
        groups.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    fn entry(&self, vpc: VpcId, acl: types::NetworkAclId, direction: Direction, number: u16) -> String {
        let acl = self.sites.get(&vpc).and_then(|site| site.policy.acls.get(&acl));
        let mut entries = acl.into_iter().flat_map(|acl| acl.entries(direction));
        let entry = entries.find(|entry| entry.number == number);
        let says =
            entry.map(|entry| lets(entry.allows, &words(entry.traffic), direction, &entry.range.to_string()));
        says.unwrap_or_default()
    }

    /// What a route leads to, as its owner has named it.
    fn target(&self, vpc: VpcId, target: Target) -> String {
        match target {
            Target::Interface(id) => self.name(vpc, id),
            Target::Gateway(Gateway::Internet(id)) => id.to_string(),
            Target::Gateway(Gateway::Peering(id)) => id.to_string(),
            Target::Blackhole => "nothing".to_owned(),
        }
    }

    /// Of an interface that is a NAT gateway's or a load balancer's, that one's.
    fn name(&self, vpc: VpcId, interface: NetworkInterfaceId) -> String {
        let mut ports = self.specs.get(&vpc).into_iter().flat_map(|(_, spec)| &spec.interfaces);
        match ports.find(|port| port.interface.id == interface).map(|port| port.owner) {
            Some(InterfaceOwner::NatGateway(id)) => id.to_string(),
            Some(InterfaceOwner::LoadBalancer(id)) => id.to_string(),
            _ => interface.to_string(),
        }
    }
}

fn told(by: By, id: String, part: Option<String>, at: String, says: String) -> StepTold {
    StepTold { by, id, part, at, says }
}

/// What another account's network does is its own business.
fn foreign(vpc: VpcId, account: Option<AccountId>) -> StopTold {
    let whose = account.map(|account| format!(" of the account {account}")).unwrap_or_default();
    let says = format!("{vpc}{whose} lets it not pass: why, that account is told");
    StopTold {
        reason: "foreign".to_owned(),
        step: told(By::Vpc, vpc.to_string(), None, vpc.to_string(), says),
    }
}

fn lets(allows: bool, traffic: &str, direction: Direction, peer: &str) -> String {
    let verb = if allows { "lets" } else { "stops" };
    match (direction, allows) {
        (Direction::Ingress, true) => format!("{verb} {traffic} in from {peer}"),
        (Direction::Egress, true) => format!("{verb} {traffic} out to {peer}"),
        (Direction::Ingress, false) => format!("{verb} {traffic} from {peer}"),
        (Direction::Egress, false) => format!("{verb} {traffic} to {peer}"),
    }
}

fn denied(packet: Packet, direction: Direction, who: &str) -> String {
    let peer: Ipv4Addr = match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    };
    format!("{who} {}", lets(true, &transport_words(packet.transport), direction, &peer.to_string()))
}

fn words(traffic: Traffic) -> String {
    let ports = |name: &str, Ports { first, last }: Ports| match (first, last) {
        (0, u16::MAX) => name.to_owned(),
        (first, last) if first == last => format!("{name} {first}"),
        (first, last) => format!("{name} {first}-{last}"),
    };
    match traffic {
        Traffic::All => "all traffic".to_owned(),
        Traffic::Tcp(range) => ports("tcp", range),
        Traffic::Udp(range) => ports("udp", range),
        Traffic::Icmp { icmp_type: None, .. } => "icmp".to_owned(),
        Traffic::Icmp { icmp_type: Some(number), code: None } => format!("icmp type {number}"),
        Traffic::Icmp { icmp_type: Some(number), code: Some(code) } => {
            format!("icmp type {number} code {code}")
        }
        Traffic::Protocol(number) => format!("protocol {number}"),
    }
}

fn transport_words(transport: Transport) -> String {
    match transport {
        Transport::Tcp { destination, .. } => format!("tcp {destination}"),
        Transport::Udp { destination, .. } => format!("udp {destination}"),
        Transport::Icmp { icmp_type, .. } => format!("icmp type {icmp_type}"),
        Transport::Other(number) => format!("protocol {number}"),
    }
}
