//! What a frame is, as far as it is understood.
//!
//! Ethernet II with or without a VLAN tag, ARP, IPv4, IPv6 without extension headers, TCP, UDP, ICMP. Of a frame that is cut, or of none of
//! these forms, is told what could be read.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IEEE 802's EtherTypes.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const IPV6: u16 = 0x86dd;

/// IANA's protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Arp(Arp),
    Ip {
        source: IpAddr,
        destination: IpAddr,
        transport: Transport,
    },
    /// Of another EtherType, or cut before it can be told what it is.
    Other {
        ethertype: Option<u16>,
    },
}

/// ARP for IPv4 (RFC 826).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub is_reply: bool,
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `flags` are the header's byte 13 (RFC 9293, 3.1).
    Tcp {
        source: u16,
        destination: u16,
        flags: u8,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    /// `echo` are identifier and sequence number of an echo (RFC 792).
    Icmp {
        kind: u8,
        code: u8,
        echo: Option<(u16, u16)>,
    },
    Icmpv6 {
        kind: u8,
        code: u8,
    },
    /// A later piece of a packet: its ports are in the first.
    Fragment {
        protocol: u8,
    },
    /// Another protocol, or one whose header is cut.
    Other {
        protocol: u8,
    },
}

/// A frame, and how long all of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub network: Network,
    /// In bytes, from the Ethernet header on.
    pub length: u32,
}

impl Packet {
    /// Reads a frame of `length` bytes, of which `frame` is all or the beginning.
    pub fn parse(frame: &[u8], length: u32) -> Self {
        Packet { network: parse_frame(frame).unwrap_or(Network::Other { ethertype: None }), length }
    }
}

/// Takes the next `N` bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

fn parse_frame(mut rest: &[u8]) -> Option<Network> {
    take::<12>(&mut rest)?;
    let mut ethertype = u16::from_be_bytes(take(&mut rest)?);
    if ethertype == VLAN {
        take::<2>(&mut rest)?;
        ethertype = u16::from_be_bytes(take(&mut rest)?);
    }
    let network = match ethertype {
        ARP => parse_arp(rest),
        IPV4 => parse_ipv4(rest),
        IPV6 => parse_ipv6(rest),
        _ => None,
    };
    Some(network.unwrap_or(Network::Other { ethertype: Some(ethertype) }))
}

fn parse_arp(mut rest: &[u8]) -> Option<Network> {
    // Ethernet's addresses and IPv4's, of their lengths.
    if take(&mut rest)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let is_reply = match take(&mut rest)? {
        [0, 1] => false,
        [0, 2] => true,
        _ => return None,
    };
    take::<6>(&mut rest)?;
    let sender = Ipv4Addr::from(take::<4>(&mut rest)?);
    take::<6>(&mut rest)?;
    let target = Ipv4Addr::from(take::<4>(&mut rest)?);
    Some(Network::Arp(Arp { is_reply, sender, target }))
}

/// RFC 791, 3.1.
fn parse_ipv4(packet: &[u8]) -> Option<Network> {
    let mut rest = packet;
    let head: [u8; 20] = take(&mut rest)?;
    let header_bytes = 4 * usize::from(head[0] & 0xf);
    if head[0] >> 4 != 4 || header_bytes < head.len() {
        return None;
    }
    let [source, destination] =
        [12, 16].map(|at| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]));
    let offset = u16::from_be_bytes([head[6], head[7]]) & 0x1fff;
    let protocol = head[9];
    let transport = match offset {
        0 => parse_transport(protocol, packet.get(header_bytes..).unwrap_or_default()),
        _ => Transport::Fragment { protocol },
    };
    Some(Network::Ip { source: source.into(), destination: destination.into(), transport })
}

/// RFC 8200, 3.
fn parse_ipv6(mut rest: &[u8]) -> Option<Network> {
    let head: [u8; 8] = take(&mut rest)?;
    if head[0] >> 4 != 6 {
        return None;
    }
    let source = Ipv6Addr::from(take::<16>(&mut rest)?);
    let destination = Ipv6Addr::from(take::<16>(&mut rest)?);
    let transport = parse_transport(head[6], rest);
    Some(Network::Ip { source: source.into(), destination: destination.into(), transport })
}

fn parse_transport(protocol: u8, rest: &[u8]) -> Transport {
    let known = match protocol {
        TCP => parse_tcp(rest),
        UDP => parse_udp(rest),
        ICMP => parse_icmp(rest),
        ICMPV6 => rest.first_chunk().map(|&[kind, code]| Transport::Icmpv6 { kind, code }),
        _ => None,
    };
    known.unwrap_or(Transport::Other { protocol })
}

fn parse_tcp(mut rest: &[u8]) -> Option<Transport> {
    let [source, destination] = [u16::from_be_bytes(take(&mut rest)?), u16::from_be_bytes(take(&mut rest)?)];
    take::<9>(&mut rest)?;
    let [flags] = take(&mut rest)?;
    Some(Transport::Tcp { source, destination, flags })
}

fn parse_udp(mut rest: &[u8]) -> Option<Transport> {
    let [source, destination] = [u16::from_be_bytes(take(&mut rest)?), u16::from_be_bytes(take(&mut rest)?)];
    Some(Transport::Udp { source, destination })
}

fn parse_icmp(mut rest: &[u8]) -> Option<Transport> {
    let [kind, code] = take(&mut rest)?;
    take::<2>(&mut rest)?;
    let mut numbers = || Some((u16::from_be_bytes(take(&mut rest)?), u16::from_be_bytes(take(&mut rest)?)));
    let echo = if matches!(kind, 0 | 8) { numbers() } else { None };
    Some(Transport::Icmp { kind, code, echo })
}

/// In one line.
impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network {
            Network::Arp(Arp { is_reply: false, sender, target }) => {
                write!(f, "arp who has {target}, tell {sender}")?;
            }
            Network::Arp(Arp { is_reply: true, sender, target }) => {
                write!(f, "arp {sender} is here, to {target}")?;
            }
            Network::Ip { source, destination, transport } => {
                fmt_ip(f, source, destination, transport)?;
            }
            Network::Other { ethertype: Some(ethertype) } => write!(f, "ethertype {ethertype:#06x}")?,
            Network::Other { ethertype: None } => write!(f, "no Ethernet")?,
        }
        write!(f, ", {} bytes", self.length)
    }
}

fn fmt_ip(f: &mut fmt::Formatter<'_>, from: IpAddr, to: IpAddr, transport: Transport) -> fmt::Result {
    // An IPv6 address before a port is in brackets.
    let at = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port);
    match transport {
        Transport::Tcp { source, destination, flags } => {
            write!(f, "{} > {} tcp{}", at(from, source), at(to, destination), TcpFlags(flags))
        }
        Transport::Udp { source, destination } => {
            write!(f, "{} > {} udp", at(from, source), at(to, destination))
        }
        Transport::Icmp { kind, code, echo: None } => write!(f, "{from} > {to} icmp type {kind} code {code}"),
        Transport::Icmp { kind, echo: Some((id, sequence)), .. } => {
            let what = if kind == 8 { "request" } else { "reply" };
            write!(f, "{from} > {to} icmp echo {what} id {id} seq {sequence}")
        }
        Transport::Icmpv6 { kind, code } => write!(f, "{from} > {to} icmpv6 type {kind} code {code}"),
        Transport::Fragment { protocol } => {
            write!(f, "{from} > {to} a later fragment of protocol {protocol}")
        }
        Transport::Other { protocol } => write!(f, "{from} > {to} protocol {protocol}"),
    }
}

/// The flags of a TCP segment, by name.
struct TcpFlags(u8);

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        names
            .iter()
            .enumerate()
            .filter(|(bit, _)| self.0 & 1 << bit != 0)
            .try_for_each(|(_, name)| write!(f, " {name}"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of this EtherType.
    pub(crate) fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ethertype.to_be_bytes()[..], payload].concat()
    }

    /// An IPv4 packet from 10.0.0.4 to 10.0.0.5.
    pub(crate) fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let [high, low] = fragment.to_be_bytes();
        let length = u8::try_from(20 + payload.len()).unwrap();
        let head = [0x45, 0, 0, length, 0, 0, high, low, 64, protocol, 0, 0, 10, 0, 0, 4, 10, 0, 0, 5];
        frame(IPV4, &[&head[..], payload].concat())
    }

    pub(crate) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
        let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        ipv4(TCP, 0x4000, &[&ports[..], &[0; 8], &[0x50, flags, 0, 0, 0, 0, 0, 0]].concat())
    }

    fn shown(frame: &[u8]) -> String {
        Packet::parse(frame, u32::try_from(frame.len()).unwrap()).to_string()
    }

    #[test]
    fn frames_are_told_in_a_line() {
        assert_eq!(shown(&tcp(51514, 80, 0x12)), "10.0.0.4:51514 > 10.0.0.5:80 tcp SYN ACK, 54 bytes");
        assert_eq!(
            shown(&ipv4(UDP, 0, &[0, 68, 0, 67, 0, 8, 0, 0])),
            "10.0.0.4:68 > 10.0.0.5:67 udp, 42 bytes"
        );
        let echo = [8, 0, 0, 0, 0, 7, 0, 1];
        assert_eq!(
            shown(&ipv4(ICMP, 0, &echo)),
            "10.0.0.4 > 10.0.0.5 icmp echo request id 7 seq 1, 42 bytes"
        );
        assert_eq!(shown(&ipv4(ICMP, 0, &[3, 1, 0, 0])), "10.0.0.4 > 10.0.0.5 icmp type 3 code 1, 38 bytes");
        assert_eq!(
            shown(&ipv4(UDP, 5, &echo)),
            "10.0.0.4 > 10.0.0.5 a later fragment of protocol 17, 42 bytes"
        );
        assert_eq!(shown(&ipv4(47, 0, &[])), "10.0.0.4 > 10.0.0.5 protocol 47, 34 bytes");
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend([2, 0, 0, 0, 0, 2, 10, 0, 0, 4, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        assert_eq!(shown(&frame(ARP, &arp)), "arp who has 10.0.0.1, tell 10.0.0.4, 42 bytes");
        arp[7] = 2;
        assert_eq!(shown(&frame(ARP, &arp)), "arp 10.0.0.4 is here, to 10.0.0.1, 42 bytes");
        assert_eq!(shown(&frame(0x88cc, &[])), "ethertype 0x88cc, 14 bytes");
        assert_eq!(shown(&[1, 2, 3]), "no Ethernet, 3 bytes");
    }

    #[test]
    fn vlan_tags_and_ipv6_are_understood() {
        let mut tagged = frame(VLAN, &[0, 7]);
        tagged.extend_from_slice(&tcp(1, 2, 0)[12..]);
        assert_eq!(shown(&tagged), "10.0.0.4:1 > 10.0.0.5:2 tcp, 58 bytes");
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, UDP, 64];
        packet.extend([Ipv6Addr::LOCALHOST.octets(), Ipv6Addr::UNSPECIFIED.octets()].concat());
        packet.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        assert_eq!(shown(&frame(IPV6, &packet)), "[::1]:1 > [::]:2 udp, 62 bytes");
    }

    #[test]
    fn options_are_passed_over_and_of_what_is_cut_is_told_what_there_is() {
        let mut with_options = ipv4(TCP, 0, &[1, 1, 1, 1]);
        with_options[14] = 0x46;
        with_options.extend_from_slice(&tcp(3, 4, 2)[34..]);
        assert_eq!(shown(&with_options), "10.0.0.4:3 > 10.0.0.5:4 tcp SYN, 58 bytes");
        let whole = tcp(1, 2, 2);
        let cut = |bytes: usize| Packet::parse(&whole[..bytes], 54).to_string();
        assert_eq!(cut(40), "10.0.0.4 > 10.0.0.5 protocol 6, 54 bytes");
        assert_eq!(cut(30), "ethertype 0x0800, 54 bytes");
        assert_eq!(cut(13), "no Ethernet, 54 bytes");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0..4usize) {
            let _ = shown(&bytes);
            let _ = shown(&frame([IPV4, IPV6, ARP, VLAN][kind], &bytes));
        }
    }
}
