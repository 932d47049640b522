//! The sockets as their transport and the control socket see them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::{Value, json};

use super::handler::VsockHandler;
use super::{GUEST_CID_MIN, QUEUE_SIZE, feature};
use crate::virtio::{Counter, DeviceKind, DeviceParts, VirtioDevice, WorkerPart};

const QUEUES: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    #[error("a guest's vsock address is {GUEST_CID_MIN} to {max}, not {cid}", max = u32::MAX - 1)]
    Cid { cid: u64 },
    #[error("cannot make the vsock listener non-blocking")]
    Listener { source: io::Error },
    #[error("cannot make the vsock services socket non-blocking")]
    Services { source: io::Error },
}

/// What a guest's sockets are to be.
pub struct VsockSpec {
    /// Names the thread.
    pub name: String,
    /// The guest's address.
    pub guest_cid: u64,
    /// Where the host's clients connect.
    pub listener: Option<UnixListener>,
    /// Who is told of the guest's wishes: a connected Unix socket of type `SOCK_SEQPACKET`.
    pub services: Option<OwnedFd>,
}

/// A guest's sockets.
pub struct Vsock {
    guest_cid: u64,
    counters: Arc<Counters>,
}

/// What the worker counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) to_guest_packets: Counter,
    pub(super) to_guest_bytes: Counter,
    pub(super) from_guest_packets: Counter,
    pub(super) from_guest_bytes: Counter,
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) refused: Counter,
    pub(super) errors: Counter,
}

impl Vsock {
    /// A guest's sockets and their worker.
    ///
    /// # Errors
    /// [`VsockError`] when the address is none that a guest can have.
    pub fn parts(spec: VsockSpec) -> Result<DeviceParts, VsockError> {
        let VsockSpec { name, guest_cid, listener, services } = spec;
        if !(GUEST_CID_MIN..u64::from(u32::MAX)).contains(&guest_cid) {
            return Err(VsockError::Cid { cid: guest_cid });
        }
        if let Some(listener) = &listener {
            listener.set_nonblocking(true).map_err(|source| VsockError::Listener { source })?;
        }
        if let Some(services) = &services {
            set_nonblocking(services).map_err(|source| VsockError::Services { source })?;
        }
        let counters = Arc::new(Counters::default());
        let handler = Box::new(VsockHandler::new(guest_cid, listener, services, counters.clone()));
        let workers = vec![WorkerPart { name, queues: vec![0, 1, 2], handler }];
        Ok(DeviceParts { device: Arc::new(Vsock { guest_cid, counters }), workers })
    }
}

fn set_nonblocking(socket: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn features(&self) -> u64 {
        feature::STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    /// virtio 1.2, 5.10.4.
    fn config(&self) -> Vec<u8> {
        self.guest_cid.to_le_bytes().to_vec()
    }

    fn counters(&self) -> Value {
        let counters = &self.counters;
        json!({
            "to_guest": { "operations": counters.to_guest_packets.get(), "bytes": counters.to_guest_bytes.get() },
            "from_guest":
                { "operations": counters.from_guest_packets.get(), "bytes": counters.from_guest_bytes.get() },
            "connections_opened": counters.opened.get(),
            "connections_closed": counters.closed.get(),
            "connections_refused": counters.refused.get(),
            "errors": counters.errors.get(),
        })
    }
}
