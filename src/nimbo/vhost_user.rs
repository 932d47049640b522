//! Disks for microVMs of other processes (vhost-user): a thread for each connection, and one that lets them in.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vmm::virtio::block::BlockSpec;
use vmm::virtio::vhost_user::Backend;
use volume::BlockBackend;

/// As many as a microVM uses of one disk.
const QUEUES: u16 = 4;
/// How many guests may share a disk: what EBS allows for a volume with multi-attach.
const CONNECTIONS_MAX: usize = 16;

/// A guest that is served.
pub(crate) struct Connection {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl Connection {
    /// Serves `disk` to whoever is at the other end of `stream`, until that closes it. The guest reads `serial` as its serial number.
    ///
    /// # Errors
    /// When the host has no queue, descriptor or thread to give.
    pub(crate) fn serve(
        stream: UnixStream,
        serial: &str,
        disk: Arc<dyn BlockBackend>,
    ) -> anyhow::Result<Self> {
        let kept = stream.try_clone().context("cannot keep a connection")?;
        let spec =
            BlockSpec { name: "guest".to_owned(), serial: serial.to_owned(), backend: disk, queues: QUEUES };
        let backend = Backend::new(stream, spec, || {}).context("cannot open queues of the disk")?;
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
        Ok(Self { stream: kept, thread })
    }

    /// Takes the disk away from the guest; what it has asked is carried out.
    fn end(self) {
        // It may have ended already, and panics are told by whoever panics.
        let _ = self.stream.shutdown(Shutdown::Both);
        let _ = self.thread.join();
    }
}

/// Lets guests in.
pub(crate) struct Server {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `disk` to each microVM that connects to `listener`.
    ///
    /// # Errors
    /// When the host has no descriptor or thread to give.
    pub(crate) fn start(
        listener: UnixListener,
        serial: String,
        disk: Arc<dyn BlockBackend>,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true).context("cannot listen without waiting")?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("cannot make an eventfd")?);
        let stopped = Arc::clone(&stop);
        let work = move || {
            let mut connections = Vec::new();
            while wait(&listener, &stopped) {
                connections.retain(|connection: &Connection| !connection.thread.is_finished());
                match admit(&listener, &serial, &disk, connections.len()) {
                    Ok(connection) => connections.extend(connection),
                    Err(error) => eprintln!("nimbo: a guest of {serial} cannot be served: {error:#}"),
                }
            }
            connections.into_iter().for_each(Connection::end);
        };
        let thread =
            Builder::new().name("vhost-users".to_owned()).spawn(work).context("cannot start a thread")?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    /// Takes the disk away from all guests; what they have asked is carried out.
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

fn admit(
    listener: &UnixListener,
    serial: &str,
    disk: &Arc<dyn BlockBackend>,
    connections: usize,
) -> anyhow::Result<Option<Connection>> {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => {
            // A kernel that is short of descriptors would be asked again and again.
            std::thread::sleep(std::time::Duration::from_millis(100));
            return Err(error).context("cannot accept a connection");
        }
    };
    if connections >= CONNECTIONS_MAX {
        anyhow::bail!("{CONNECTIONS_MAX} guests use it, which is the most");
    }
    stream.set_nonblocking(false).context("cannot wait on a connection")?;
    Connection::serve(stream, serial, Arc::clone(disk)).map(Some)
}
