//! Asking the host's resolvers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const PORT: u16 = 53;
/// For one resolver; a client waits about five seconds for all of them.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many resolvers are asked; more than the three that a C library reads is a mistake in the file.
const RESOLVERS_MAX: usize = 3;

/// The resolvers named in `file`, or the one on this host if it names none (resolv.conf(5)).
pub(super) fn resolvers(file: &Path) -> Vec<SocketAddr> {
    // A short file that is in the page cache: not worth another thread.
    let text = std::fs::read_to_string(file).unwrap_or_default();
    parse(&text)
}

pub(super) fn parse(resolv_conf: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let is_server = words.next() == Some("nameserver");
        // An IPv6 address may have the interface behind it, which this cannot use.
        let address = words.next().filter(|_| is_server)?;
        address.parse::<IpAddr>().ok()
    };
    let mut found: Vec<_> = resolv_conf.lines().filter_map(address).take(RESOLVERS_MAX).collect();
    if found.is_empty() {
        found.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    found.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()
}

/// How a query came, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The first answer to `query` that any of `resolvers` gives.
pub(super) async fn ask(query: &[u8], resolvers: &[SocketAddr], transport: Transport) -> io::Result<Vec<u8>> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for &resolver in resolvers {
        let outcome = match transport {
            Transport::Udp => timeout(PATIENCE, udp_exchange(query, resolver)).await,
            Transport::Tcp => timeout(PATIENCE, tcp_exchange(query, resolver)).await,
        };
        match outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(answer) => return Ok(answer),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn udp_exchange(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket and so a port for each query: with its id, that is what a forger would have to guess.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= 2 && answer.get(..2) == query.get(..2) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn tcp_exchange(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, query).await?;
    read_message(&mut stream).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// A message with its length before it (RFC 1035, 4.2.2), or `None` at the end of the stream.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // In one piece: some servers do not wait for the rest of a length that comes alone.
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}
