//! What becomes of one packet, by the model alone: the same answer as the kernel's with the [`Ruleset`](super::Ruleset), and with the names of
//! what gave it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use types::{MacAddress, NetworkAclId, NetworkInterfaceId, SecurityGroupId, SecurityGroupRuleId, SubnetId};

use super::{
    Acl, Direction, Gateway, ICMP, Interface, LINK_LOCAL, Peer, Port, Ports, TCP, Target, Traffic, UDP, Vpc,
};

/// What is looked at of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub transport: Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        source: u16,
        destination: u16,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    Icmp {
        icmp_type: u8,
        code: u8,
    },
    /// Another protocol, by its number.
    Other(u8),
}

/// Where packets come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Interface(NetworkInterfaceId),
    Gateway(Gateway),
    /// The VPC itself, which answers DHCP, DNS and metadata.
    Router,
}

/// What a packet has to do with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It is the first.
    Begins,
    /// It goes the way of the one that began the flow.
    Continues(Packet),
    /// It goes the other way.
    Answers(Packet),
}

/// What becomes of a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What it passed, in this order.
    pub steps: Vec<Step>,
    pub outcome: Outcome,
}

/// Something that let a packet pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A route of its subnet's table. None: to the VPC's own addresses.
    Route { subnet: SubnetId, route: Option<(Ipv4Net, Target)> },
    /// An entry of a network ACL. None: it lets everything pass.
    Acl { subnet: SubnetId, acl: NetworkAclId, direction: Direction, number: u16 },
    /// A rule of a group of an interface, for the packet that began the flow.
    Rule {
        interface: NetworkInterfaceId,
        direction: Direction,
        group: SecurityGroupId,
        rule: SecurityGroupRuleId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is handed over there.
    Arrives(Place),
    Stopped(Stop),
}

/// What stopped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There is no such interface or gateway.
    NoSender,
    /// Its source is not an address of the interface, or is one of the VPC's at a gateway.
    Spoofed {
        source: Ipv4Addr,
    },
    /// It comes from another hardware address than the interface's.
    SpoofedMac {
        mac: MacAddress,
    },
    /// Of the VPC's addresses, and no interface has it.
    NobodyThere,
    /// The VPC itself has the address, and does not answer such packets there.
    NotAnswered,
    NoRoute,
    /// A route whose target is gone.
    Blackhole {
        destination: Ipv4Net,
    },
    /// An interface that takes only what is for its own addresses.
    NotForInterface {
        interface: NetworkInterfaceId,
    },
    /// An entry of a network ACL. None: no entry matches.
    Acl {
        subnet: SubnetId,
        acl: NetworkAclId,
        direction: Direction,
        number: Option<u16>,
    },
    /// No rule of the interface's groups matches the packet that began the flow.
    NoRule {
        interface: NetworkInterfaceId,
        direction: Direction,
    },
    /// It answers nothing, and begins nothing: an ICMP error of no flow, an echo's reply that nobody asked for.
    NoFlow,
}

impl Vpc {
    /// What becomes of `packet`, sent at `from`. `mac` is the hardware address that it comes from; none: the interface's own.
    pub fn verdict(&self, from: Place, mac: Option<MacAddress>, packet: &Packet, flow: Flow) -> Verdict {
        let mut steps = Vec::new();
        let outcome = match self.walk(from, mac, packet, flow, &mut steps) {
            Ok(place) => Outcome::Arrives(place),
            Err(stop) => Outcome::Stopped(stop),
        };
        Verdict { steps, outcome }
    }

    fn walk(
        &self,
        from: Place,
        mac: Option<MacAddress>,
        packet: &Packet,
        flow: Flow,
        steps: &mut Vec<Step>,
    ) -> Result<Place, Stop> {
        self.accept(from, mac, packet)?;
        if flow == Flow::Begins && !packet.transport.begins_flows() {
            return Err(Stop::NoFlow);
        }
        if self.own_addresses().contains(&packet.destination) {
            return self.ask_router(from, packet, flow);
        }
        let to = self.route(from, packet, steps)?;
        self.pass_acls(from, to, packet, steps)?;
        let (first, sender, receiver) = match flow {
            Flow::Begins => (*packet, from, to),
            Flow::Continues(first) => (first, from, to),
            Flow::Answers(first) => (first, to, from),
        };
        // Where neither takes what is not its own, the flow's ends are who has its addresses.
        let is_between = self.is_hop(from) || self.is_hop(to);
        let end = |place, address| match place {
            Place::Interface(id) if is_between => Some(id),
            _ if is_between => None,
            _ => self.interface_at(address).map(|(id, _)| id),
        };
        let (sender, receiver) = (end(sender, first.source), end(receiver, first.destination));
        self.pass_groups(sender, Direction::Egress, first.destination, first.transport, steps)?;
        self.pass_groups(receiver, Direction::Ingress, first.source, first.transport, steps)?;
        Ok(to)
    }

    /// Whether it may be sent there.
    fn accept(&self, from: Place, mac: Option<MacAddress>, packet: &Packet) -> Result<(), Stop> {
        let source = packet.source;
        match from {
            Place::Gateway(gateway) if !self.gateways.contains_key(&gateway) => Err(Stop::NoSender),
            Place::Gateway(_) if self.is_local(source) => Err(Stop::Spoofed { source }),
            // What it sends passes no rule.
            Place::Gateway(_) | Place::Router => Ok(()),
            Place::Interface(id) => {
                let interface = self.interface(id).ok_or(Stop::NoSender)?;
                if let Some(mac) = mac.filter(|mac| *mac != interface.mac) {
                    return Err(Stop::SpoofedMac { mac });
                }
                let is_own = interface.addresses.contains(&source);
                let may = is_own || !interface.checks_source_and_destination;
                may.then_some(()).ok_or(Stop::Spoofed { source })
            }
        }
    }

    /// What the VPC itself is asked passes no group and no ACL.
    fn ask_router(&self, from: Place, packet: &Packet, flow: Flow) -> Result<Place, Stop> {
        let asked = match packet.transport {
            Transport::Tcp { destination, .. } | Transport::Udp { destination, .. } => Some(destination),
            Transport::Icmp { .. } | Transport::Other(_) => None,
        };
        let key = asked.map(|port| (packet.destination, packet.transport.protocol(), port));
        let is_answered = key.is_some_and(|key| self.answered().contains(&key));
        let is_answer = matches!(flow, Flow::Answers(_));
        let is_inside = matches!(from, Place::Interface(_));
        (is_inside && (is_answered || is_answer)).then_some(Place::Router).ok_or(Stop::NotAnswered)
    }

    fn is_hop(&self, place: Place) -> bool {
        matches!(place, Place::Interface(id) if self.interface(id).is_some_and(Interface::is_hop))
    }

    fn subnet_of(&self, place: Place) -> Option<SubnetId> {
        match place {
            Place::Interface(id) => self.interface(id).map(|interface| interface.subnet),
            Place::Gateway(_) | Place::Router => None,
        }
    }

    /// Where it goes: by the route of its subnet's table with the longest prefix, or, if that is shorter than a range of the VPC, to
    /// whoever has the address.
    fn route(&self, from: Place, packet: &Packet, steps: &mut Vec<Step>) -> Result<Place, Stop> {
        let destination = packet.destination;
        if LINK_LOCAL.contains(&destination) {
            return Err(Stop::NoRoute);
        }
        let subnet = self.subnet_of(from);
        let route = subnet.and_then(|id| {
            let table = self.route_tables.get(&self.subnets.get(&id)?.route_table)?;
            let routes = table.routes.iter().filter(|(range, _)| range.contains(&destination));
            routes.map(|(range, target)| (*range, *target)).max_by_key(|(range, _)| range.prefix_len())
        });
        let local =
            self.ranges.iter().filter(|range| range.contains(&destination)).map(Ipv4Net::prefix_len).max();
        let route = route.filter(|(range, _)| local.is_none_or(|local| range.prefix_len() > local));
        if let Some(subnet) = subnet.filter(|_| route.is_some() || local.is_some()) {
            steps.push(Step::Route { subnet, route });
        }
        let Some((range, target)) = route else {
            local.ok_or(Stop::NoRoute)?;
            let (id, _) = self.interface_at(destination).ok_or(Stop::NobodyThere)?;
            return Ok(Place::Interface(id));
        };
        let blackhole = Stop::Blackhole { destination: range };
        match target {
            Target::Blackhole => Err(blackhole),
            Target::Gateway(gateway) => {
                self.gateways.contains_key(&gateway).then_some(Place::Gateway(gateway)).ok_or(blackhole)
            }
            Target::Interface(id) => {
                let interface = self.interface(id).filter(|found| found.port == Port::Device);
                let interface = interface.ok_or(blackhole)?;
                let takes =
                    interface.addresses.contains(&destination) || !interface.checks_source_and_destination;
                takes.then_some(Place::Interface(id)).ok_or(Stop::NotForInterface { interface: id })
            }
        }
    }

    fn pass_acls(&self, from: Place, to: Place, packet: &Packet, steps: &mut Vec<Step>) -> Result<(), Stop> {
        let (leaves, enters) = (self.subnet_of(from), self.subnet_of(to));
        if leaves == enters {
            return Ok(());
        }
        if let Some(subnet) = leaves {
            self.pass_acl(subnet, Direction::Egress, packet.destination, packet.transport, steps)?;
        }
        if let Some(subnet) = enters {
            self.pass_acl(subnet, Direction::Ingress, packet.source, packet.transport, steps)?;
        }
        Ok(())
    }

    fn pass_acl(
        &self,
        subnet: SubnetId,
        direction: Direction,
        peer: Ipv4Addr,
        transport: Transport,
        steps: &mut Vec<Step>,
    ) -> Result<(), Stop> {
        let Some(acl) = self.subnets.get(&subnet).map(|subnet| subnet.acl) else { return Ok(()) };
        let entries = self.acls.get(&acl).into_iter().flat_map(|acl: &Acl| acl.entries(direction));
        let mut matching =
            entries.filter(|entry| entry.range.contains(&peer) && entry.traffic.matches(transport));
        match matching.next() {
            Some(entry) if entry.allows => {
                steps.push(Step::Acl { subnet, acl, direction, number: entry.number });
                Ok(())
            }
            denied => Err(Stop::Acl { subnet, acl, direction, number: denied.map(|entry| entry.number) }),
        }
    }

    /// What an interface's groups say to a packet that begins a flow with `peer`.
    fn pass_groups(
        &self,
        interface: Option<NetworkInterfaceId>,
        direction: Direction,
        peer: Ipv4Addr,
        transport: Transport,
        steps: &mut Vec<Step>,
    ) -> Result<(), Stop> {
        let Some(id) = interface else { return Ok(()) };
        let no_rule = Stop::NoRule { interface: id, direction };
        let interface = self.interface(id).ok_or(no_rule)?;
        let rules = interface.groups.iter().flat_map(|group| {
            let rules = self.groups.get(group).into_iter().flat_map(|found| &found.rules);
            rules.map(|rule| (*group, rule))
        });
        let is_peer = |rule_peer: Peer| match rule_peer {
            Peer::Range(range) => range.contains(&peer),
            Peer::Group(group) => self.members(group).contains(&peer),
        };
        let mut matching = rules.filter(|(_, rule)| {
            rule.direction == direction && rule.traffic.matches(transport) && is_peer(rule.peer)
        });
        let (group, rule) = matching.next().ok_or(no_rule)?;
        steps.push(Step::Rule { interface: id, direction, group, rule: rule.id });
        Ok(())
    }
}

impl Packet {
    /// What answers it, if it begins a flow.
    pub fn answer(&self) -> Self {
        let transport = match self.transport {
            Transport::Tcp { source, destination } => {
                Transport::Tcp { source: destination, destination: source }
            }
            Transport::Udp { source, destination } => {
                Transport::Udp { source: destination, destination: source }
            }
            Transport::Icmp { icmp_type: 8, code } => Transport::Icmp { icmp_type: 0, code },
            // Of the other requests, the reply has the next number.
            Transport::Icmp { icmp_type, code } => {
                Transport::Icmp { icmp_type: icmp_type.saturating_add(1), code }
            }
            other @ Transport::Other(_) => other,
        };
        Self { source: self.destination, destination: self.source, transport }
    }
}

impl Transport {
    /// Its protocol's number.
    pub fn protocol(self) -> u8 {
        match self {
            Transport::Icmp { .. } => ICMP,
            Transport::Tcp { .. } => TCP,
            Transport::Udp { .. } => UDP,
            Transport::Other(number) => number,
        }
    }

    /// Whether conntrack begins a flow with it. Of ICMP, what asks for an answer does: echo, timestamp, information and mask requests.
    fn begins_flows(self) -> bool {
        !matches!(self, Transport::Icmp { icmp_type, .. } if !matches!(icmp_type, 8 | 13 | 15 | 17))
    }
}

impl Traffic {
    /// Whether it is about such a packet.
    pub fn matches(self, transport: Transport) -> bool {
        let is_in = |ports: Ports, port: u16| (ports.first..=ports.last).contains(&port);
        match (self, transport) {
            (Traffic::All, _) => true,
            (Traffic::Tcp(ports), Transport::Tcp { destination, .. })
            | (Traffic::Udp(ports), Transport::Udp { destination, .. }) => is_in(ports, destination),
            (Traffic::Icmp { icmp_type: wanted, code: wanted_code }, Transport::Icmp { icmp_type, code }) => {
                wanted.is_none_or(|wanted| {
                    wanted == icmp_type && wanted_code.is_none_or(|wanted| wanted == code)
                })
            }
            (Traffic::Protocol(number), transport) => number == transport.protocol(),
            _ => false,
        }
    }
}
