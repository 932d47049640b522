//! Disks for microVMs of other processes (vhost-user): a thread for each connection, and one that lets them in.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vmm::virtio::VirtioDevice as _;
use vmm::virtio::block::{Block, BlockSpec};
use vmm::virtio::vhost_user::Backend;
use volume::BlockBackend;

/// As many as a microVM uses of one disk.
const QUEUES: u16 = 4;
/// How many guests may share a disk: what EBS allows for a volume with multi-attach.
const GUESTS_MAX: usize = 16;

const POISONED: &str = "no thread panics while it holds this lock";

/// The guests that use a disk.
pub(crate) struct Guests {
    /// What each reads as the disk's serial number.
    serial: String,
    disk: Arc<dyn BlockBackend>,
    connections: Mutex<Vec<Connection>>,
}

/// A guest that is served.
struct Connection {
    stream: UnixStream,
    block: Arc<Block>,
    thread: JoinHandle<()>,
}

impl Guests {
    /// None yet.
    pub(crate) fn new(serial: String, disk: Arc<dyn BlockBackend>) -> Self {
        Self { serial, disk, connections: Mutex::new(Vec::new()) }
    }

    /// Serves the disk to whoever is at the other end of `stream`, until that closes it.
    ///
    /// # Errors
    /// When there are as many as may be, or the host has no queue, descriptor or thread to give.
    pub(crate) fn admit(&self, stream: UnixStream) -> anyhow::Result<()> {
        let mut connections = self.connections();
        if connections.len() >= GUESTS_MAX {
            bail!("{GUESTS_MAX} guests use {}, which is the most", self.serial);
        }
        connections.push(Connection::serve(stream, &self.serial, Arc::clone(&self.disk))?);
        Ok(())
    }

    pub(crate) fn disk(&self) -> Arc<dyn BlockBackend> {
        Arc::clone(&self.disk)
    }

    /// Tells them how large the disk is now.
    pub(crate) fn refresh_size(&self) {
        self.connections().iter().for_each(|connection| connection.block.refresh_size());
    }

    /// What each has asked of the disk.
    pub(crate) fn counters(&self) -> Vec<serde_json::Value> {
        self.connections().iter().map(|connection| connection.block.counters()).collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.connections().len()
    }

    /// Takes the disk away from all; what they have asked is carried out.
    pub(crate) fn end(&self) {
        self.connections().drain(..).for_each(Connection::end);
    }

    /// Those that are still there.
    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        let mut connections = self.connections.lock().expect(POISONED);
        connections.retain(|connection| !connection.thread.is_finished());
        connections
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        self.end();
    }
}

impl Connection {
    fn serve(stream: UnixStream, serial: &str, disk: Arc<dyn BlockBackend>) -> anyhow::Result<Self> {
        let kept = stream.try_clone().context("cannot keep a connection")?;
        let spec =
            BlockSpec { name: "guest".to_owned(), serial: serial.to_owned(), backend: disk, queues: QUEUES };
        let backend = Backend::new(stream, spec, || {}).context("cannot open queues of the disk")?;
        let block = Arc::clone(backend.block());
        let serial = serial.to_owned();
        let work = move || {
            if let Err(error) = backend.serve() {
                let error =
                    anyhow::Error::new(error).context(format!("a guest of {serial} is not served any more"));
                eprintln!("nimbo: {error:#}");
            }
        };
        let thread =
            Builder::new().name("vhost-user".to_owned()).spawn(work).context("cannot start a thread")?;
        Ok(Self { stream: kept, block, thread })
    }

    /// Takes the disk away from the guest; what it has asked is carried out.
    fn end(self) {
        // It may have ended already, and panics are told by whoever panics.
        // Its end is for the guest to see when that is done, and not before.
        let _ = self.stream.shutdown(Shutdown::Read);
        let _ = self.thread.join();
    }
}

/// Lets guests in.
pub(crate) struct Server {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Lets in each microVM that connects to `listener`.
    ///
    /// # Errors
    /// When the host has no descriptor or thread to give.
    pub(crate) fn start(listener: UnixListener, guests: Arc<Guests>) -> anyhow::Result<Self> {
        listener.set_nonblocking(true).context("cannot listen without waiting")?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("cannot make an eventfd")?);
        let stopped = Arc::clone(&stop);
        let work = move || {
            while wait(&listener, &stopped) {
                if let Err(error) = admit(&listener, &guests) {
                    eprintln!("nimbo: a guest cannot be served: {error:#}");
                }
            }
        };
        let thread =
            Builder::new().name("vhost-users".to_owned()).spawn(work).context("cannot start a thread")?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    /// Lets no more in. Those that are in stay.
    fn drop(&mut self) {
        // The counter is nowhere near its end.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for a guest; false when it is time to stop.
fn wait(listener: &UnixListener, stop: &EventFd) -> bool {
    let mut watched =
        [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match poll(&mut watched, PollTimeout::NONE) {
        Ok(_) => !watched[1].any().unwrap_or(true),
        Err(error) => error == nix::errno::Errno::EINTR,
    }
}

fn admit(listener: &UnixListener, guests: &Guests) -> anyhow::Result<()> {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => {
            // A kernel that is short of descriptors would be asked again and again.
            std::thread::sleep(std::time::Duration::from_millis(100));
            return Err(error).context("cannot accept a connection");
        }
    };
    stream.set_nonblocking(false).context("cannot wait on a connection")?;
    guests.admit(stream)
}
