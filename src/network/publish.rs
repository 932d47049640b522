//! Ports of the host that lead to ports of an instance.
//!
//! ```text
//! client ──▶ host's socket │ (this process) │ socket in the VPC ──▶ guest
//! ```
//!
//! Connections are carried over in user space: the listening socket is the host's, the one to the guest
//! is made inside the VPC. So publishing needs no rule and no route in the host, and works whatever
//! its firewall does with forwarded packets. The guest sees the router as the client.
//!
//! Without an address, a port is published on the loopback address only: an instance under test is
//! seldom ready for the whole network, and what a firewall does not see is better asked for by name
//! (`0.0.0.0:8080:80`).

mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use crate::error::Error;
use crate::namespace::Namespace;

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A port to publish: `[ADDRESS:]HOST_PORT:GUEST_PORT[/tcp|/udp]`, an IPv6 address in brackets.
///
/// Host port 0 means any that is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    pub listen: SocketAddr,
    pub guest_port: u16,
    pub protocol: Protocol,
}

/// A text that says no port to publish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} says no port to publish: {reason}; expected [ADDRESS:]HOST_PORT:GUEST_PORT[/tcp|/udp], such as 8080:80"
)]
pub struct ParsePublishError {
    text: String,
    reason: &'static str,
}

impl FromStr for Publish {
    type Err = ParsePublishError;

    fn from_str(text: &str) -> Result<Self, ParsePublishError> {
        parse(text).map_err(|reason| ParsePublishError { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Publish, &'static str> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err("the protocol is neither tcp nor udp"),
    };
    let (host, guest_port) = ports.rsplit_once(':').ok_or("there is only one port")?;
    let (address, host_port) = match host.rsplit_once(':') {
        Some((address, port)) => (parse_address(address)?, port),
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), host),
    };
    let host_port = parse_port(host_port).ok_or("the host's port is not a number up to 65535")?;
    let guest_port = parse_port(guest_port).ok_or("the guest's port is not a number up to 65535")?;
    if guest_port == 0 {
        return Err("the guest's port is 0");
    }
    Ok(Publish { listen: SocketAddr::new(address, host_port), guest_port, protocol })
}

fn parse_address(text: &str) -> Result<IpAddr, &'static str> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or("the bracket is not closed")?,
        None if text.contains(':') => return Err("an IPv6 address stands in brackets"),
        None => text,
    };
    bare.parse().map_err(|_| "the address is not one")
}

fn parse_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit());
    if is_plain { text.parse().ok() } else { None }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}:{}/{protocol}", self.listen, self.guest_port)
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// A published port, listening. It must be served on a thread in the guest's VPC.
#[derive(Debug)]
pub struct Forwarder {
    socket: Socket,
    /// What was asked for, with the port that the host gave if that was 0.
    publish: Publish,
    guest: SocketAddr,
}

impl Forwarder {
    /// Listens in `host` for what goes to `guest`. Nothing is carried before [`Forwarder::serve`].
    ///
    /// # Errors
    /// [`Error::PortInUse`], or the address is not the host's, or the port is for the privileged.
    pub fn bind(host: &Namespace, publish: Publish, guest: Ipv4Addr) -> Result<Self, Error> {
        let at = publish.listen;
        let bind = || -> io::Result<(Socket, SocketAddr)> {
            match publish.protocol {
                Protocol::Tcp => {
                    let listener = TcpListener::bind(at)?;
                    listener.set_nonblocking(true)?;
                    let bound = listener.local_addr()?;
                    Ok((Socket::Tcp(listener), bound))
                }
                Protocol::Udp => {
                    let socket = UdpSocket::bind(at)?;
                    socket.set_nonblocking(true)?;
                    let bound = socket.local_addr()?;
                    Ok((Socket::Udp(socket), bound))
                }
            }
        };
        let (socket, listen) = host.run(bind)?.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Error::PortInUse { address: at },
            _ => Error::io(format_args!("listen on {at}"), error),
        })?;
        let publish = Publish { listen, ..publish };
        Ok(Self { socket, publish, guest: SocketAddr::from((guest, publish.guest_port)) })
    }

    /// What is published, with the port that the host gave if any was asked for.
    pub fn publish(&self) -> Publish {
        self.publish
    }

    /// Carries until it is dropped.
    pub async fn serve(self) {
        let outcome = match self.socket {
            Socket::Tcp(listener) => tcp::serve(listener, self.guest).await,
            Socket::Udp(socket) => udp::serve(socket, self.guest).await,
        };
        if let Err(error) = outcome {
            tracing::error!(%error, publish = %self.publish, "a port cannot be served");
        }
    }
}
