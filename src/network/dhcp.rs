//! DHCP for a guest whose address was decided before it was started.
//!
//! There is no pool and no table of leases: an interface has one [`Lease`], which is known by the
//! interface that a request arrived on and by the client's hardware address. [`reply`] is the whole
//! protocol, a function of the lease and a message; [`Server`] only carries packets.
//!
//! ```text
//! DISCOVER ──────────────────────────────────────▶ OFFER
//! REQUEST  of this address (chosen, remembered,
//!          renewed or rebound) ──────────────────▶ ACK
//!          of another address ───────────────────▶ NAK
//!          of another server's offer ────────────▶ nothing
//! INFORM ────────────────────────────────────────▶ ACK without an address or a duration
//! DECLINE, RELEASE, anything else ───────────────▶ nothing: the address stays this guest's
//! ```
//!
//! Relays are not served: a guest is always on the other end of the tap. Sources: RFC 2131 (tables 3
//! to 5 and section 4.3), RFC 2132, RFC 3442 (classless routes). Which options there are follows what
//! an instance gets on AWS: router, resolvers, names, MTU and a lease of an hour, and no option 121,
//! unless [`Lease::routes`] has any.

mod server;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, NodeType, Opcode, OptionCode};
use ipnet::Ipv4Net;
use types::MacAddress;

pub use server::{Server, handle};

/// For how long AWS gives an address.
pub const LEASE_TIME: Duration = Duration::from_secs(3600);

/// What a guest is told about its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The client that this is for.
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    pub subnet: Ipv4Net,
    /// The way out, and the name under which this server is known.
    pub router: Ipv4Addr,
    /// None, if there are none to be told of.
    pub resolvers: Vec<Ipv4Addr>,
    /// Without the domain.
    pub host_name: String,
    /// Empty: none is told.
    pub domain: String,
    pub ntp_servers: Vec<Ipv4Addr>,
    pub netbios_name_servers: Vec<Ipv4Addr>,
    pub netbios_node_type: Option<u8>,
    pub mtu: u16,
    pub duration: Duration,
    /// Further ranges and their gateways; the unspecified address as a gateway means on the link.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

impl Lease {
    /// One that tells of nothing that a guest could do without. `host_name` is without the domain.
    pub fn new(
        mac: MacAddress,
        address: Ipv4Addr,
        subnet: Ipv4Net,
        router: Ipv4Addr,
        host_name: String,
        mtu: u16,
    ) -> Self {
        Self {
            mac,
            address,
            subnet,
            router,
            resolvers: Vec::new(),
            host_name,
            domain: String::new(),
            ntp_servers: Vec::new(),
            netbios_name_servers: Vec::new(),
            netbios_node_type: None,
            mtu,
            duration: LEASE_TIME,
            routes: Vec::new(),
        }
    }
}

/// What to answer to `request`, which arrived on the interface that `lease` is for.
pub fn reply(lease: &Lease, request: &Message) -> Option<Message> {
    let is_from_guest = request.opcode() == Opcode::BootRequest
        && request.htype() == HType::Eth
        && request.hlen() == 6
        && request.chaddr() == lease.mac.octets()
        && request.giaddr().is_unspecified();
    if !is_from_guest {
        return None;
    }
    match request.opts().msg_type()? {
        MessageType::Discover => Some(grant(lease, request, MessageType::Offer)),
        MessageType::Request => answer_request(lease, request),
        MessageType::Inform => (request.ciaddr() == lease.address).then(|| inform(lease, request)),
        MessageType::Decline => {
            tracing::warn!(address = %lease.address, "the guest says that its address is in use already");
            None
        }
        _ => None,
    }
}

/// RFC 2131, 4.3.2: which of a client's states a REQUEST comes from shows in the fields that it fills.
fn answer_request(lease: &Lease, request: &Message) -> Option<Message> {
    if server_id(request).is_some_and(|server| server != lease.router) {
        return None;
    }
    // A client that has an address names it in the header, one that wants an address in an option.
    let wanted = if request.ciaddr().is_unspecified() { requested(request)? } else { request.ciaddr() };
    if wanted == lease.address {
        return Some(grant(lease, request, MessageType::Ack));
    }
    let mut nak = answer(lease, request, MessageType::Nak);
    nak.opts_mut().insert(DhcpOption::Message(format!("the address here is {}", lease.address)));
    Some(nak)
}

fn server_id(request: &Message) -> Option<Ipv4Addr> {
    match request.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(address)) => Some(*address),
        _ => None,
    }
}

fn requested(request: &Message) -> Option<Ipv4Addr> {
    match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    }
}

/// An OFFER or an ACK of the lease.
fn grant(lease: &Lease, request: &Message, kind: MessageType) -> Message {
    let mut message = answer(lease, request, kind);
    message.set_yiaddr(lease.address);
    configure(lease, &mut message);
    let seconds = u32::try_from(lease.duration.as_secs()).unwrap_or(u32::MAX);
    message.opts_mut().insert(DhcpOption::AddressLeaseTime(seconds));
    message
}

fn inform(lease: &Lease, request: &Message) -> Message {
    let mut message = answer(lease, request, MessageType::Ack);
    configure(lease, &mut message);
    message
}

/// What every answer has.
fn answer(lease: &Lease, request: &Message, kind: MessageType) -> Message {
    let unset = Ipv4Addr::UNSPECIFIED;
    let ciaddr = if kind == MessageType::Ack { request.ciaddr() } else { unset };
    let mut message = Message::new_with_id(request.xid(), ciaddr, unset, unset, unset, request.chaddr());
    message.set_opcode(Opcode::BootReply).set_flags(request.flags());
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(lease.router));
    // RFC 6842: by this a client that shares its hardware address knows its answer.
    if let Some(id) = request.opts().get(OptionCode::ClientIdentifier) {
        options.insert(id.clone());
    }
    message
}

fn configure(lease: &Lease, message: &mut Message) {
    let options = message.opts_mut();
    options.insert(DhcpOption::SubnetMask(lease.subnet.netmask()));
    options.insert(DhcpOption::BroadcastAddr(lease.subnet.broadcast()));
    options.insert(DhcpOption::Router(vec![lease.router]));
    options.insert(DhcpOption::Hostname(lease.host_name.clone()));
    options.insert(DhcpOption::InterfaceMtu(lease.mtu));
    let mut servers = |servers: &Vec<Ipv4Addr>, option: fn(Vec<Ipv4Addr>) -> DhcpOption| {
        if !servers.is_empty() {
            options.insert(option(servers.clone()));
        }
    };
    servers(&lease.resolvers, DhcpOption::DomainNameServer);
    servers(&lease.ntp_servers, DhcpOption::NtpServers);
    servers(&lease.netbios_name_servers, DhcpOption::NetBiosNameServers);
    if let Some(kind) = lease.netbios_node_type {
        options.insert(DhcpOption::NetBiosNodeType(NodeType::from(kind)));
    }
    if !lease.domain.is_empty() {
        options.insert(DhcpOption::DomainName(lease.domain.clone()));
    }
    if !lease.routes.is_empty() {
        // RFC 3442: a client that knows this option does not look at the router's.
        let default = (Ipv4Net::default(), lease.router);
        let routes = std::iter::once(default).chain(lease.routes.iter().copied()).collect();
        options.insert(DhcpOption::ClasslessStaticRoute(routes));
    }
}
