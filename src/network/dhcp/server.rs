//! The socket of a DHCP server, on one interface.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use dhcproto::v4::{Decodable, Decoder, Encodable, Encoder, Message, MessageType, OptionCode};
use nix::sys::socket::{ControlMessage, MsgFlags, SockType, SockaddrIn, bind, sendmsg, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::sync::watch;

use super::{Lease, reply};
use crate::bound;
use crate::error::Error;
use crate::namespace::Namespace;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// The header, up to and with the cookie that says that options follow (RFC 2131, figure 1).
const HEADER_BYTES: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The options that [`reply`] looks at.
const OPTIONS: [OptionCode; 4] = [
    OptionCode::MessageType,
    OptionCode::RequestedIpAddress,
    OptionCode::ServerIdentifier,
    OptionCode::ClientIdentifier,
];
/// BOOTP's smallest message, which some clients still insist on (RFC 951, RFC 1542 section 2.1).
const MESSAGE_BYTES_MIN: usize = 300;
/// A pause after an error of the socket, so that one which lasts does not take a core.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A DHCP server for the guest behind one interface.
#[derive(Debug)]
pub struct Server {
    socket: UdpSocket,
    lease: watch::Receiver<Lease>,
}

impl Server {
    /// Listens on `device` in `namespace`. Nothing is answered before [`Server::serve`], and then by what `lease` is at the time.
    ///
    /// # Errors
    /// When there is no such interface, or it has a DHCP server.
    pub fn bind(namespace: &Namespace, device: &str, lease: watch::Receiver<Lease>) -> Result<Self, Error> {
        let socket = namespace
            .run(|| listen(device))?
            .map_err(Error::while_doing(format_args!("answer DHCP on {device}")))?;
        Ok(Self { socket, lease })
    }

    /// Answers until it is dropped.
    pub async fn serve(self) {
        let socket = match tokio::net::UdpSocket::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, "DHCP cannot be served"),
        };
        let mut packet = [0; 1500];
        loop {
            let received = socket.recv(&mut packet).await;
            let lease = self.lease.borrow().clone();
            let outcome = match received.map(|length| handle(&lease, &packet[..length])) {
                Ok(Some((message, to))) => send(&socket, lease.router, &message, to).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, address = %lease.address, "DHCP failed");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// The answer to a packet, encoded, and where it goes.
pub fn handle(lease: &Lease, packet: &[u8]) -> Option<(Vec<u8>, Ipv4Addr)> {
    let request = parse(packet)?;
    let answer = reply(lease, &request)?;
    let mut bytes = Vec::with_capacity(MESSAGE_BYTES_MIN);
    if let Err(error) = answer.encode(&mut Encoder::new(&mut bytes)) {
        tracing::warn!(%error, "a DHCP answer cannot be encoded");
        return None;
    }
    bytes.resize(bytes.len().max(MESSAGE_BYTES_MIN), 0);
    tracing::debug!(address = %lease.address, asked = ?request.opts().msg_type(), answered = ?answer.opts().msg_type(), "DHCP");
    Some((bytes, destination(&request, &answer)))
}

/// Decodes what of a packet is looked at. The other options are left out before: `dhcproto` asserts lengths of some that a
/// guest may get wrong.
fn parse(packet: &[u8]) -> Option<Message> {
    let (header, mut options) = packet.split_at_checked(HEADER_BYTES)?;
    if !header.ends_with(&COOKIE) {
        return None;
    }
    let mut wanted = header.to_vec();
    while let [code, rest @ ..] = options {
        options = match OptionCode::from(*code) {
            OptionCode::Pad => rest,
            OptionCode::End => break,
            code => {
                let Some((option, rest)) = split_option(options) else { break };
                if OPTIONS.contains(&code) {
                    wanted.extend(option);
                }
                rest
            }
        };
    }
    wanted.push(OptionCode::End.into());
    Message::decode(&mut Decoder::new(&wanted)).ok()
}

/// The first option, with its code and its length, and what follows it.
fn split_option(options: &[u8]) -> Option<(&[u8], &[u8])> {
    options.split_at_checked(2 + usize::from(*options.get(1)?))
}

/// RFC 2131, 4.1. A client that has no address yet is reached at the one it will have: its hardware
/// address stands in the table of neighbours already.
fn destination(request: &Message, answer: &Message) -> Ipv4Addr {
    if answer.opts().has_msg_type(MessageType::Nak) {
        Ipv4Addr::BROADCAST
    } else if !request.ciaddr().is_unspecified() {
        request.ciaddr()
    } else if request.flags().broadcast() {
        Ipv4Addr::BROADCAST
    } else {
        answer.yiaddr()
    }
}

fn listen(device: &str) -> io::Result<UdpSocket> {
    let socket = bound::socket(device, SockType::Datagram)?;
    setsockopt(&socket, sockopt::Broadcast, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, SERVER_PORT))?;
    Ok(UdpSocket::from(socket))
}

/// Sends under the router's address, which the interface, having none, would not choose by itself.
async fn send(
    socket: &tokio::net::UdpSocket,
    source: Ipv4Addr,
    message: &[u8],
    to: Ipv4Addr,
) -> io::Result<()> {
    let source = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let to = SockaddrIn::from(SocketAddrV4::new(to, CLIENT_PORT));
    let content = [IoSlice::new(message)];
    let control = [ControlMessage::Ipv4PacketInfo(&source)];
    let attempt = || Ok(sendmsg(socket.as_raw_fd(), &content, &control, MsgFlags::empty(), Some(&to))?);
    socket.async_io(Interest::WRITABLE, attempt).await.map(drop)
}
