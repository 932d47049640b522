//! The way of a packet, and of the answer to it, through all VPCs and gateways that they pass: [`Vpc::verdict`] in each VPC, and between them what
//! peering connections, internet gateways and NAT gateways do.
//!
//! ```text
//! interface ─▶ VPC ─▶ peering connection ─▶ VPC ─▶ interface
//!               │ ▲
//!               │ └─ NAT gateway, or a guest that routes
//!               └─▶ internet gateway ─▶ outside, or the internet gateway of another VPC
//! ```
//!
//! All of it is a pure function of values. What was translated on the way there is translated back on the way back, as conntrack does it.
//!
//! It deliberately does not: know what guests do. One that routes for others is taken to send on what it gets, as it came. Nor does it know
//! what is outside: whatever leaves by an internet gateway and is for no VPC arrives there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use types::{InternetGatewayId, NetworkInterfaceId, VpcId, VpcPeeringConnectionId};

use crate::internet_gateway::{STAND_IN, Translation};
use crate::policy::{Flow, Gateway, LINK_LOCAL, Outcome, Packet, Place, Step, Stop, Vpc};

/// More than any way has that ends: who routes in a circle would go on for ever.
const LEGS_MAX: usize = 32;

/// A VPC, with what its gateways do.
#[derive(Debug, Clone)]
pub struct Site {
    pub policy: Vpc,
    /// Of its internet gateway.
    pub translation: Translation,
    /// The VPC at the other end of each connection.
    pub peers: BTreeMap<VpcPeeringConnectionId, VpcId>,
    /// The interfaces of its NAT gateways, each with the address that it sends from.
    pub nat_gateways: BTreeMap<NetworkInterfaceId, Ipv4Addr>,
}

/// Where a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spot {
    Vpc(VpcId, Place),
    /// Beyond all internet gateways.
    Outside,
}

/// Something that a packet passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    Step(VpcId, Step),
    Peering {
        id: VpcPeeringConnectionId,
        to: VpcId,
    },
    /// An internet gateway has replaced an address.
    Internet {
        vpc: VpcId,
        id: InternetGatewayId,
        was: Ipv4Addr,
        is: Ipv4Addr,
    },
    /// A NAT gateway has.
    Nat {
        vpc: VpcId,
        interface: NetworkInterfaceId,
        was: Ipv4Addr,
        is: Ipv4Addr,
    },
    /// A guest that routes for others was handed the packet, and sends it on.
    Router {
        vpc: VpcId,
        interface: NetworkInterfaceId,
    },
}

/// Why a packet comes no further, and what it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halt {
    /// Where it was sent, or sent on, last.
    pub at: Spot,
    pub packet: Packet,
    pub why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// What the policy of the VPC says that it was in.
    Policy(Stop),
    /// The source has no public address, so the internet gateway does not let it out.
    NoPublicAddress { gateway: InternetGatewayId },
    /// Nobody has the public address.
    NobodyHas,
    /// It is had in a VPC without an internet gateway.
    NoInternetGateway { vpc: VpcId },
    /// A NAT gateway is sent something that nobody behind it has asked for.
    Unsolicited { interface: NetworkInterfaceId },
    /// It is for the machine that all this runs on, which instances do not reach.
    Host,
    /// The VPC at the other end is not there.
    NoPeer { id: VpcPeeringConnectionId },
    /// Routers send it to each other.
    Circle,
}

/// How far a packet comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// In this order.
    pub passed: Vec<Passed>,
    /// Where it arrives.
    pub end: Result<Spot, Halt>,
}

/// A packet that begins a flow, and the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub request: Path,
    /// None: there is none, for the request does not arrive.
    pub answer: Option<Path>,
}

impl Exchange {
    /// What becomes of `packet`, sent at `from`, and of the answer. `sites` has all VPCs that it may come through, `host` is the machine's own
    /// address outside.
    pub fn of(sites: &BTreeMap<VpcId, Site>, host: Ipv4Addr, from: Spot, packet: Packet) -> Self {
        let outsider = (from == Spot::Outside).then_some(packet.source);
        let mut walk =
            Walk { sites, host, outsider, is_answer: false, flows: Vec::new(), translated: Vec::new() };
        let (request, arrived) = walk.send(from, packet);
        let answer = request.end.ok().map(|end| match end {
            // What the VPC itself answers passes no rule.
            Spot::Vpc(_, Place::Router) => Path { passed: Vec::new(), end: Ok(from) },
            end => {
                walk.is_answer = true;
                walk.send(end, arrived.answer()).0
            }
        });
        Self { request, answer }
    }

    /// Whether both arrive.
    pub fn passes(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.end.is_ok())
    }
}

struct Walk<'a> {
    sites: &'a BTreeMap<VpcId, Site>,
    host: Ipv4Addr,
    /// Who began it, if that was from outside.
    outsider: Option<Ipv4Addr>,
    is_answer: bool,
    /// What began a flow in each VPC that the request passed.
    flows: Vec<(VpcId, Packet)>,
    translated: Vec<Translated>,
}

/// A request's packet before and after a gateway.
struct Translated {
    vpc: VpcId,
    /// Of a NAT gateway. None: the internet gateway.
    nat: Option<NetworkInterfaceId>,
    before: Packet,
    after: Packet,
}

enum Next {
    On(Spot),
    Arrived(Spot),
}

impl Walk<'_> {
    /// How far it comes, and what it is there.
    fn send(&mut self, from: Spot, packet: Packet) -> (Path, Packet) {
        let (mut at, mut packet, mut passed) = (from, packet, Vec::new());
        for _ in 0..LEGS_MAX {
            let next = match at {
                Spot::Vpc(vpc, place) => self.cross(vpc, place, &mut packet, &mut passed),
                Spot::Outside => self.enter(&mut packet, &mut passed),
            };
            match next {
                Ok(Next::On(spot)) => at = spot,
                Ok(Next::Arrived(spot)) => return (Path { passed, end: Ok(spot) }, packet),
                Err(halt) => return (Path { passed, end: Err(halt) }, packet),
            }
        }
        (Path { passed, end: Err(Halt { at, packet, why: Why::Circle }) }, packet)
    }

    /// Through one VPC.
    fn cross(
        &mut self,
        vpc: VpcId,
        from: Place,
        packet: &mut Packet,
        passed: &mut Vec<Passed>,
    ) -> Result<Next, Halt> {
        let (came, sites) = (*packet, self.sites);
        let halt = |why| Halt { at: Spot::Vpc(vpc, from), packet: came, why };
        let site = sites.get(&vpc).ok_or_else(|| halt(Why::Policy(Stop::NoSender)))?;
        let flow = self.flow(vpc, came).ok_or_else(|| halt(Why::Policy(Stop::NoFlow)))?;
        let verdict = site.policy.verdict(from, None, &came, flow);
        passed.extend(verdict.steps.into_iter().map(|step| Passed::Step(vpc, step)));
        match verdict.outcome {
            Outcome::Stopped(stop) => Err(halt(Why::Policy(stop))),
            Outcome::Arrives(Place::Router) => Ok(Next::Arrived(Spot::Vpc(vpc, Place::Router))),
            Outcome::Arrives(Place::Interface(id)) => self.hand_over(vpc, id, packet, passed).map_err(halt),
            Outcome::Arrives(Place::Gateway(gateway @ Gateway::Peering(id))) => {
                let peer = site.peers.get(&id).filter(|peer| sites.contains_key(peer));
                let to = *peer.ok_or_else(|| halt(Why::NoPeer { id }))?;
                passed.push(Passed::Peering { id, to });
                Ok(Next::On(Spot::Vpc(to, Place::Gateway(gateway))))
            }
            Outcome::Arrives(Place::Gateway(Gateway::Internet(id))) => {
                let was = came.source;
                self.leave(vpc, id, packet).map_err(halt)?;
                passed.push(Passed::Internet { vpc, id, was, is: packet.source });
                Ok(Next::On(Spot::Outside))
            }
        }
    }

    /// What a packet has to do with those before it. None: it answers nothing that the VPC has seen.
    fn flow(&mut self, vpc: VpcId, packet: Packet) -> Option<Flow> {
        if !self.is_answer {
            self.flows.push((vpc, packet));
            return Some(Flow::Begins);
        }
        let answered = |(at, first): &&(VpcId, Packet)| *at == vpc && first.answer() == packet;
        self.flows.iter().find(answered).map(|(_, first)| Flow::Answers(*first))
    }

    /// To an interface: its own, a NAT gateway's, or one of who routes for others.
    fn hand_over(
        &mut self,
        vpc: VpcId,
        id: NetworkInterfaceId,
        packet: &mut Packet,
        passed: &mut Vec<Passed>,
    ) -> Result<Next, Why> {
        let spot = Spot::Vpc(vpc, Place::Interface(id));
        let sites = self.sites;
        let site = sites.get(&vpc);
        if let Some(own) = site.and_then(|site| site.nat_gateways.get(&id)) {
            let (was, is) = if self.is_answer {
                let before = self.restored(vpc, Some(id), packet).ok_or(Why::Policy(Stop::NoFlow))?;
                let was = std::mem::replace(packet, before).destination;
                (was, packet.destination)
            } else if packet.destination == *own {
                return Err(Why::Unsolicited { interface: id });
            } else {
                let was = packet.source;
                self.translate(vpc, Some(id), packet, Packet { source: *own, ..*packet });
                (was, *own)
            };
            passed.push(Passed::Nat { vpc, interface: id, was, is });
            return Ok(Next::On(spot));
        }
        let interface = site.and_then(|site| site.policy.interfaces.get(&id));
        if interface.is_some_and(|interface| interface.addresses.contains(&packet.destination)) {
            return Ok(Next::Arrived(spot));
        }
        passed.push(Passed::Router { vpc, interface: id });
        Ok(Next::On(spot))
    }

    /// Out of a VPC by its internet gateway.
    fn leave(&mut self, vpc: VpcId, gateway: InternetGatewayId, packet: &mut Packet) -> Result<(), Why> {
        if self.is_answer {
            *packet = self.restored(vpc, None, packet).ok_or(Why::Policy(Stop::NoFlow))?;
            return Ok(());
        }
        if [self.host, STAND_IN].contains(&packet.destination) {
            return Err(Why::Host);
        }
        let sites = self.sites;
        let public = sites.get(&vpc).and_then(|site| site.translation.public.get(&packet.source));
        let source = *public.ok_or(Why::NoPublicAddress { gateway })?;
        self.translate(vpc, None, packet, Packet { source, ..*packet });
        Ok(())
    }

    /// Into the VPC that has the public address, if one has.
    fn enter(&mut self, packet: &mut Packet, passed: &mut Vec<Passed>) -> Result<Next, Halt> {
        let (was, sites) = (packet.destination, self.sites);
        if self.is_answer && self.outsider == Some(was) {
            return Ok(Next::Arrived(Spot::Outside));
        }
        let private = |site: &Site| {
            let mut pairs = site.translation.public.iter();
            pairs.find(|(_, public)| **public == was).map(|(private, _)| *private)
        };
        let halt = |at, why| Halt { at, packet: *packet, why };
        let owner = sites.iter().find_map(|(vpc, site)| Some((*vpc, site, private(site)?)));
        let Some((vpc, site, private)) = owner else {
            // What has left a VPC is for somebody outside.
            let has_left = self.is_answer || !self.translated.is_empty();
            let arrived = has_left.then_some(Next::Arrived(Spot::Outside));
            return arrived.ok_or_else(|| halt(Spot::Outside, Why::NobodyHas));
        };
        let gateway = site.policy.gateways.keys().find_map(|gateway| match gateway {
            Gateway::Internet(id) => Some(*id),
            Gateway::Peering(_) => None,
        });
        let id = gateway.ok_or_else(|| halt(Spot::Outside, Why::NoInternetGateway { vpc }))?;
        let spot = Spot::Vpc(vpc, Place::Gateway(Gateway::Internet(id)));
        if self.is_answer {
            let before = self.restored(vpc, None, packet);
            *packet = before.ok_or_else(|| halt(spot, Why::Policy(Stop::NoFlow)))?;
        } else {
            let translation = &site.translation;
            let mut strange = translation.ranges.iter().chain(&translation.elsewhere).chain([&LINK_LOCAL]);
            let is_stranger = strange.any(|range| range.contains(&packet.source));
            let source = if is_stranger { STAND_IN } else { packet.source };
            self.translate(vpc, None, packet, Packet { source, destination: private, ..*packet });
        }
        passed.push(Passed::Internet { vpc, id, was, is: packet.destination });
        Ok(Next::On(spot))
    }

    fn translate(&mut self, vpc: VpcId, nat: Option<NetworkInterfaceId>, packet: &mut Packet, after: Packet) {
        let before = std::mem::replace(packet, after);
        self.translated.push(Translated { vpc, nat, before, after });
    }

    /// What an answer is before a gateway that the request was translated by.
    fn restored(&self, vpc: VpcId, nat: Option<NetworkInterfaceId>, packet: &Packet) -> Option<Packet> {
        let is_it = |had: &&Translated| had.vpc == vpc && had.nat == nat && had.after.answer() == *packet;
        self.translated.iter().find(is_it).map(|had| had.before.answer())
    }
}

#[cfg(test)]
mod tests;
