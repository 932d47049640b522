//! Links, addresses and routes through rtnetlink(7): the few messages that a DHCP client needs.
//!
//! ```text
//! message:    0 length  4 type  6 flags  8 sequence  12 port    then a header of the type, then attributes
//! attribute:  0 length  2 type  4 value, padded to 4 bytes
//! ```

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

/// An IPv4 network, or an address with its network's prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub address: Ipv4Addr,
    pub length: u8,
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Where packets for a network go; without a gateway, onto the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub to: Prefix,
    pub gateway: Option<Ipv4Addr>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
}

/// A message under construction.
struct Message(Vec<u8>);

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_RT_PRIORITY: u16 = 9;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_DHCP: u8 = 16;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
/// The gateway is on the link whatever the addresses say.
const ONLINK: u32 = 4;

const HEADER: usize = 16;

impl Message {
    fn new(kind: u16, flags: u16, sequence: u32, body: &[&[u8]]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        body.iter().for_each(|part| bytes.extend(*part));
        Message(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// The parts of a buffer of messages or of attributes: type and content, by the length that each begins with.
fn parts(mut rest: &[u8], is_message: bool) -> Vec<(u16, &[u8])> {
    let header = if is_message { HEADER } else { 4 };
    let mut parts = Vec::new();
    while rest.len() >= header {
        let (length, kind) = if is_message {
            (usize::try_from(u32_at(rest, 0)).unwrap_or(usize::MAX), u16_at(rest, 4))
        } else {
            (usize::from(u16_at(rest, 0)), u16_at(rest, 2))
        };
        let Some(content) = rest.get(header..length) else { break };
        parts.push((kind, content));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    parts
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&field| u16::from_ne_bytes(field))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&field| u32::from_ne_bytes(field))
}

/// Reads the content of an `RTM_NEWLINK`; nothing for what is not an Ethernet.
fn parse_link(content: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(content, 4), name: String::new(), mac: [0; 6] };
    let mut has_mac = false;
    for (kind, value) in parts(content.get(16..)?, false) {
        match kind {
            IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(value.split(|&b| b == 0).next()?).into_owned();
            }
            IFLA_ADDRESS if value.len() == 6 => {
                link.mac.copy_from_slice(value);
                has_mac = true;
            }
            _ => {}
        }
    }
    has_mac.then_some(link)
}

/// An open rtnetlink socket.
pub struct Rtnetlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Rtnetlink {
    pub fn open() -> Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .context("open an rtnetlink socket")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).context("bind an rtnetlink socket")?;
        Ok(Rtnetlink { socket, sequence: 0 })
    }

    /// All links with a MAC address.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let request = Message::new(RTM_GETLINK, DUMP, self.next(), &[&[0; 16]]);
        let answers = self.ask(request).context("list the network interfaces")?;
        Ok(answers.iter().filter_map(|content| parse_link(content)).collect())
    }

    /// Brings a link up.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        let (flags, change) = (IFF_UP.to_ne_bytes(), IFF_UP.to_ne_bytes());
        let body: [&[u8]; 4] = [&[0; 4], &index.to_ne_bytes(), &flags, &change];
        let request = Message::new(RTM_NEWLINK, ACK, self.next(), &body);
        self.ask(request).with_context(|| format!("bring interface {index} up"))?;
        Ok(())
    }

    pub fn set_mtu(&mut self, index: u32, mtu: u16) -> Result<()> {
        let body: [&[u8]; 3] = [&[0; 4], &index.to_ne_bytes(), &[0; 8]];
        let request = Message::new(RTM_NEWLINK, ACK, self.next(), &body)
            .attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        self.ask(request).with_context(|| format!("set the MTU of interface {index} to {mtu}"))?;
        Ok(())
    }

    /// The way to its network is preferred if the metric is lower: several interfaces may be in the same one.
    pub fn add_address(&mut self, index: u32, metric: u32, address: Prefix) -> Result<()> {
        self.address(RTM_NEWADDR, REPLACE | CREATE, index, metric, address)
            .with_context(|| format!("give interface {index} the address {address}"))
    }

    pub fn remove_address(&mut self, index: u32, metric: u32, address: Prefix) -> Result<()> {
        self.address(RTM_DELADDR, 0, index, metric, address)
            .with_context(|| format!("take the address {address} from interface {index}"))
    }

    fn address(&mut self, kind: u16, flags: u16, index: u32, metric: u32, address: Prefix) -> Result<()> {
        let header = [AF_INET, address.length, 0, SCOPE_UNIVERSE];
        let octets = address.address.octets();
        let request = Message::new(kind, ACK | flags, self.next(), &[&header, &index.to_ne_bytes()])
            .attribute(IFA_LOCAL, &octets)
            .attribute(IFA_ADDRESS, &octets)
            .attribute(IFA_RT_PRIORITY, &metric.to_ne_bytes());
        self.ask(request).map(drop)
    }

    /// A lower metric is preferred.
    pub fn add_route(&mut self, index: u32, metric: u32, route: Route) -> Result<()> {
        self.route(RTM_NEWROUTE, REPLACE | CREATE, index, metric, route)
            .with_context(|| format!("route {} through interface {index}", route.to))
    }

    pub fn remove_route(&mut self, index: u32, metric: u32, route: Route) -> Result<()> {
        self.route(RTM_DELROUTE, 0, index, metric, route)
            .with_context(|| format!("remove the route to {} through interface {index}", route.to))
    }

    fn route(&mut self, kind: u16, flags: u16, index: u32, metric: u32, route: Route) -> Result<()> {
        let scope = if route.gateway.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
        let header = [AF_INET, route.to.length, 0, 0, TABLE_MAIN, PROTOCOL_DHCP, scope, TYPE_UNICAST];
        // With an address of /32, and in the routed networks of clouds, no gateway is in our network.
        let next_hop = if route.gateway.is_some() { ONLINK } else { 0 };
        let mut request = Message::new(kind, ACK | flags, self.next(), &[&header, &next_hop.to_ne_bytes()])
            .attribute(RTA_OIF, &index.to_ne_bytes())
            .attribute(RTA_PRIORITY, &metric.to_ne_bytes());
        if route.to.length > 0 {
            request = request.attribute(RTA_DST, &route.to.address.octets());
        }
        if let Some(gateway) = route.gateway {
            request = request.attribute(RTA_GATEWAY, &gateway.octets());
        }
        self.ask(request).map(drop)
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends a request and collects the contents of its answers, up to the acknowledgement or the end of the dump.
    fn ask(&mut self, request: Message) -> Result<Vec<Vec<u8>>> {
        send(self.socket.as_raw_fd(), &request.finish(), MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => bail!("the kernel closed the rtnetlink socket"),
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for (kind, content) in parts(&buffer[..length], true) {
                match kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => match u32_at(content, 0).wrapping_neg() {
                        0 => return Ok(answers),
                        code => return Err(Errno::from_raw(i32::try_from(code)?).into()),
                    },
                    _ => answers.push(content.to_vec()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_padded_and_messages_know_their_length() {
        let message =
            Message::new(RTM_NEWLINK, ACK, 7, &[&[1; 16]]).attribute(IFLA_IFNAME, b"eth0\0").finish();
        assert_eq!(message.len(), 16 + 16 + 12);
        assert_eq!(u32_at(&message, 0), 44);
        assert_eq!(parts(&message, true), [(RTM_NEWLINK, &message[16..])]);
        assert_eq!(parts(&message[32..], false), [(IFLA_IFNAME, b"eth0\0".as_slice())]);
    }

    #[test]
    fn the_kernel_understands_us() {
        // Loopback has a MAC of zeroes and the index 1, in every namespace.
        let links = Rtnetlink::open().unwrap().links().unwrap();
        assert!(links.iter().any(|link| link.name == "lo" && link.index == 1), "{links:?}");
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parts(&bytes, true), parts(&bytes, false), parse_link(&bytes));
        }
    }
}
