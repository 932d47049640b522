//! Carrying TCP connections.
//!
//! The two directions end one by one: when one side has said all it will, the other is told so and can
//! still answer. A failure on one side is passed on as a reset, so that nobody takes half for the whole.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections at once; the next one waits in the listening socket's queue.
const CONNECTIONS_MAX: usize = 1024;
/// For a guest that is still starting: its kernel does not answer yet, and ours repeats.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// Per direction.
const BUFFER_BYTES: usize = 64 * 1024;
/// A pause after an error of the listening socket, so that one which lasts does not take a core.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve(listener: TcpListener, guest: SocketAddr) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((client, address)) => {
                tokio::spawn(async move {
                    if let Err(error) = carry(client, guest).await {
                        tracing::debug!(%error, client = %address, %guest, "a published connection failed");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a published port failed to accept");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
    Ok(())
}

async fn carry(mut client: TcpStream, guest: SocketAddr) -> io::Result<()> {
    let connected = timeout(CONNECT_TIME_MAX, TcpStream::connect(guest)).await;
    let mut server = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(server) => server,
        Err(error) => return reset(&client).and(Err(error)),
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let copied = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await;
    if let Err(error) = copied {
        reset(&client)?;
        reset(&server)?;
        return Err(error);
    }
    Ok(())
}

/// Lets the connection end by a reset when it is dropped.
fn reset(stream: &TcpStream) -> io::Result<()> {
    stream.set_zero_linger()
}
