//! Carrying UDP: a socket in the VPC for each client, by which the guest's answers find back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// Clients at once; a packet of one more is dropped.
const CLIENTS_MAX: usize = 1024;
/// After this long without a packet either way, a client is forgotten (RFC 4787, 4.3: at least two minutes).
const IDLE_MAX: Duration = Duration::from_secs(120);
const PACKET_BYTES_MAX: usize = 65_535;

type Flows = Arc<Mutex<HashMap<SocketAddr, Arc<Flow>>>>;

struct Flow {
    socket: UdpSocket,
    last_used: Mutex<Instant>,
}

impl Flow {
    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle_at(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) + IDLE_MAX
    }
}

pub(super) async fn serve(socket: std::net::UdpSocket, guest: SocketAddr) -> io::Result<()> {
    let outside = Arc::new(UdpSocket::from_std(socket)?);
    let flows = Flows::default();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        // An error here is one that an earlier packet met on its way (such as a port that is closed).
        let Ok((length, client)) = outside.recv_from(&mut packet).await else { continue };
        let flow = match flow(&flows, &outside, client, guest) {
            Ok(Some(flow)) => flow,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, %client, "a published port has no socket for a client");
                continue;
            }
        };
        flow.touch();
        // A guest that is not there, or not listening, is to a client what it is without us: silence.
        let _ = flow.socket.send(&packet[..length]).await;
    }
}

/// The flow of `client`, begun if there is none; `None` when there are too many.
fn flow(
    flows: &Flows,
    outside: &Arc<UdpSocket>,
    client: SocketAddr,
    guest: SocketAddr,
) -> io::Result<Option<Arc<Flow>>> {
    let mut table = flows.lock().unwrap_or_else(PoisonError::into_inner);
    let count = table.len();
    let vacant = match table.entry(client) {
        Entry::Occupied(known) => return Ok(Some(known.get().clone())),
        Entry::Vacant(_) if count >= CLIENTS_MAX => return Ok(None),
        Entry::Vacant(vacant) => vacant,
    };
    let flow = Arc::new(Flow { socket: connect(guest)?, last_used: Mutex::new(Instant::now()) });
    vacant.insert(flow.clone());
    tokio::spawn(carry_back(flows.clone(), outside.clone(), client, flow.clone()));
    Ok(Some(flow))
}

fn connect(guest: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(guest)?;
    UdpSocket::from_std(socket)
}

/// Carries the guest's answers to `client` until both have been silent for long enough.
async fn carry_back(flows: Flows, outside: Arc<UdpSocket>, client: SocketAddr, flow: Arc<Flow>) {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        match timeout_at(flow.idle_at(), flow.socket.recv(&mut packet)).await {
            Ok(Ok(length)) => {
                flow.touch();
                let _ = outside.send_to(&packet[..length], client).await;
            }
            // The guest's port is closed now, and may open later.
            Ok(Err(_)) => {}
            Err(_) if Instant::now() >= flow.idle_at() => break,
            Err(_) => {}
        }
    }
    flows.lock().unwrap_or_else(PoisonError::into_inner).remove(&client);
}
