//! Ports whose guest is the test itself: frames in and out, one at a time.
//!
//! The kernel takes a frame that is written to a tap all the way to where it goes before the write returns, so what has not arrived by then
//! never will: nothing need wait.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use network::policy::{Packet, Transport};
use network::tap::VNET_HEADER_BYTES;
use network::{Namespace, Tap};
use types::MacAddress;

const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];

/// The guest's end of a port.
pub struct Wire {
    queue: File,
    pub mac: MacAddress,
}

impl Wire {
    pub fn new(namespace: &Namespace, device: &str, mac: MacAddress) -> Self {
        let queue: OwnedFd = Tap::create(namespace, device, 1).unwrap().into_queues().remove(0);
        Self { queue: queue.into(), mac }
    }

    pub fn send_from(&mut self, mac: MacAddress, kind: [u8; 2], payload: &[u8]) {
        let mut frame = vec![0; VNET_HEADER_BYTES];
        frame.extend(MacAddress::BROADCAST.octets());
        frame.extend(mac.octets());
        frame.extend(kind);
        frame.extend(payload);
        self.queue.write_all(&frame).unwrap();
    }

    /// To the router: it listens to what is for nobody else.
    pub fn send(&mut self, router: MacAddress, packet: &[u8]) {
        let mut frame = vec![0; VNET_HEADER_BYTES];
        frame.extend(router.octets());
        frame.extend(self.mac.octets());
        frame.extend(IPV4);
        frame.extend(packet);
        self.queue.write_all(&frame).unwrap();
    }

    /// The payloads of the frames of a kind that have arrived.
    pub fn received(&mut self, kind: [u8; 2]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut frame = vec![0; 1 << 16];
        loop {
            let length = match self.queue.read(&mut frame) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return found,
                Err(error) => panic!("cannot read from the tap: {error}"),
            };
            let frame = &frame[VNET_HEADER_BYTES..length];
            if frame[12..ETHERNET] == kind {
                found.push(frame[ETHERNET..].to_vec());
            }
        }
    }

    pub fn packets(&mut self) -> Vec<Vec<u8>> {
        self.received(IPV4)
    }
}

/// A packet's bytes, with `number` in its header's identification: by it a test knows what it sent. `echo` is by what an ICMP echo's answer
/// is known.
pub fn bytes_of(packet: &Packet, number: u16, echo: u16) -> Vec<u8> {
    let body = match packet.transport {
        Transport::Tcp { source, destination } => tcp(source, destination),
        Transport::Udp { source, destination } => {
            let length = 8u16 + 4;
            let head = [source, destination, length, 0].map(u16::to_be_bytes).concat();
            [head, b"word".to_vec()].concat()
        }
        Transport::Icmp { icmp_type, code } => {
            let [high, low] = echo.to_be_bytes();
            let mut body = vec![icmp_type, code, 0, 0, high, low, 0, 1];
            let sum = checksum(&body).to_be_bytes();
            body[2..4].copy_from_slice(&sum);
            body
        }
        Transport::Other(_) => b"anything".to_vec(),
    };
    let mut header =
        header(packet.source, packet.destination, packet.transport.protocol(), number, body.len());
    if packet.transport.protocol() == 6 {
        header.extend(with_tcp_checksum(packet, body));
    } else {
        header.extend(body);
    }
    header
}

/// A header without options, complete.
pub fn header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, number: u16, body: usize) -> Vec<u8> {
    let length = u16::try_from(20 + body).unwrap().to_be_bytes();
    let [high, low] = number.to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], high, low, 0, 0, 64, protocol, 0, 0];
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header
}

/// The first of the ports that the tests' clients have.
pub const CLIENT_PORTS: u16 = 40_000;

/// A SYN, or its answer if it comes from a server's port.
fn tcp(source: u16, destination: u16) -> Vec<u8> {
    let (is_answer, numbers) = (source < CLIENT_PORTS && destination >= CLIENT_PORTS, [0, 0, 0, 1]);
    let flags = if is_answer { 0x12 } else { 0x02 };
    let mut body = [source, destination].map(u16::to_be_bytes).concat();
    body.extend(if is_answer { [0, 0, 0, 9] } else { numbers });
    body.extend(if is_answer { [0, 0, 0, 2] } else { [0; 4] });
    body.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    body
}

fn with_tcp_checksum(packet: &Packet, mut body: Vec<u8>) -> Vec<u8> {
    let mut pseudo = packet.source.octets().to_vec();
    pseudo.extend(packet.destination.octets());
    pseudo.extend([0, 6]);
    pseudo.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    pseudo.extend(&body);
    let sum = checksum(&pseudo).to_be_bytes();
    body[16..18].copy_from_slice(&sum);
    body
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// The number that [`bytes_of`] wrote into a packet.
pub fn number_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[4], packet[5]])
}
