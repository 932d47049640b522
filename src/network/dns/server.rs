//! The sockets of a name server, of a VPC or of this machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::forward::{self, Transport};
use super::zone::{self, Verdict, Zone};
use crate::error::Error;
use crate::namespace::Namespace;

const PORT: u16 = 53;
/// Queries and connections in work at once. One more query is dropped, as by a busy network, and one
/// more connection waits.
const QUERIES_MAX: usize = 512;
const CONNECTIONS_MAX: usize = 64;
/// For the next query on a connection (RFC 7766, 6.2.3: seconds).
const IDLE_MAX: Duration = Duration::from_secs(10);
/// A pause after an error of a listening socket, so that one which lasts does not take a core.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A name server. Its listening sockets are in the VPC; it must be driven on a thread in the namespace
/// from which the host's resolvers are reached, since the sockets that ask them are made there.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<(UdpSocket, TcpListener)>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    names: Names,
    /// Where those are named who know all other names. None: nobody is asked.
    resolv_conf: Option<PathBuf>,
}

/// The names that a server knows: others can take their place while it answers.
#[derive(Debug, Clone)]
pub struct Names(Arc<RwLock<Arc<Zone>>>);

impl Names {
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(zone))))
    }

    /// From now on, these and no others.
    pub fn replace(&self, zone: Zone) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }

    pub(super) fn answer(&self, query: &[u8]) -> Verdict {
        let zone = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        zone.answer(query)
    }
}

impl Server {
    /// Listens on `addresses` in `namespace`. Nothing is answered before [`Server::serve`].
    ///
    /// # Errors
    /// When an address is not one of the namespace.
    pub fn bind(
        namespace: &Namespace,
        addresses: &[Ipv4Addr],
        names: Names,
        resolv_conf: PathBuf,
    ) -> Result<Self, Error> {
        let listen = |address: &Ipv4Addr| sockets((*address, PORT).into());
        let sockets = namespace.run(|| addresses.iter().map(listen).collect::<Result<Vec<_>, _>>())??;
        Ok(Self { sockets, shared: Arc::new(Shared { names, resolv_conf: Some(resolv_conf) }) })
    }

    /// Listens in the namespace of the calling thread. Names that it does not know are refused.
    ///
    /// # Errors
    /// When the address is not this machine's, or somebody else listens there.
    pub fn bind_at(at: SocketAddr, names: Names) -> Result<Self, Error> {
        Ok(Self { sockets: vec![sockets(at)?], shared: Arc::new(Shared { names, resolv_conf: None }) })
    }

    /// Answers until it is dropped.
    pub async fn serve(self) {
        let queries = Arc::new(Semaphore::new(QUERIES_MAX));
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut listeners = tokio::task::JoinSet::new();
        for (udp, tcp) in self.sockets {
            let udp = tokio::net::UdpSocket::from_std(udp);
            let tcp = tokio::net::TcpListener::from_std(tcp);
            let (udp, tcp) = match (udp, tcp) {
                (Ok(udp), Ok(tcp)) => (udp, tcp),
                (Err(error), _) | (_, Err(error)) => return tracing::error!(%error, "DNS cannot be served"),
            };
            listeners.spawn(serve_udp(Arc::new(udp), self.shared.clone(), queries.clone()));
            listeners.spawn(serve_tcp(tcp, self.shared.clone(), connections.clone()));
        }
        listeners.join_all().await;
    }
}

fn sockets(at: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let bind = || -> io::Result<_> {
        let (udp, tcp) = (UdpSocket::bind(at)?, TcpListener::bind(at)?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((udp, tcp))
    };
    bind().map_err(Error::while_doing(format_args!("answer DNS at {at}")))
}

impl Shared {
    /// What is sent back, if anything is.
    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match (self.names.answer(query), &self.resolv_conf) {
            (Verdict::Answer(answer), _) => Some(answer),
            (Verdict::Ignore, _) => None,
            (Verdict::Forward, Some(resolv_conf)) => {
                let resolvers = forward::resolvers(resolv_conf);
                settle(forward::ask(query, &resolvers, transport).await, query)
            }
            (Verdict::Forward, None) => zone::refused(query),
        }
    }
}

async fn serve_udp(socket: Arc<tokio::net::UdpSocket>, shared: Arc<Shared>, permits: Arc<Semaphore>) {
    let mut packet = [0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "DNS by UDP failed");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let query = packet[..length].to_vec();
        tokio::spawn(answer_udp(socket.clone(), shared.clone(), query, client, permit));
    }
}

async fn answer_udp(
    socket: Arc<tokio::net::UdpSocket>,
    shared: Arc<Shared>,
    query: Vec<u8>,
    client: SocketAddr,
    _permit: OwnedSemaphorePermit,
) {
    if let Some(answer) = shared.answer(&query, Transport::Udp).await
        && let Err(error) = socket.send_to(&answer, client).await
    {
        tracing::debug!(%error, %client, "a DNS answer was not sent");
    }
}

async fn serve_tcp(listener: tokio::net::TcpListener, shared: Arc<Shared>, permits: Arc<Semaphore>) {
    // The semaphore is never closed.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer_tcp(stream, &shared).await {
                        tracing::debug!(%error, %client, "a DNS connection failed");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "DNS by TCP failed");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn answer_tcp(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    while let Some(query) = timeout(IDLE_MAX, forward::read_message(&mut stream)).await?? {
        let Some(answer) = shared.answer(&query, Transport::Tcp).await else { return Ok(()) };
        timeout(IDLE_MAX, forward::write_message(&mut stream, &answer)).await??;
    }
    Ok(())
}

/// The resolvers' answer, or one that says that there is none.
fn settle(outcome: io::Result<Vec<u8>>, query: &[u8]) -> Option<Vec<u8>> {
    match outcome {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(%error, "no resolver of the host answered");
            zone::failure(query)
        }
    }
}
