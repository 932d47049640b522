//! The guest's sockets on the host's side, by the convention that other microVM monitors have:
//!
//! ```text
//!   host to guest: connect to PATH, write "CONNECT PORT\n"; "OK HOST_PORT\n" comes back, or the end
//!   guest to host: it connects to port N of address 2; who listens at the Unix socket PATH_N has the connection
//! ```
//!
//! PATH is served by the microVM's process. That opens nothing by path itself, so it asks here for what the guest wants
//! to reach, and is handed the connected socket: no byte of the guest passes this process.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{self, UnixListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use vmm::descriptors::{self, Received};

use crate::socket::SocketPath;
use crate::sys;

/// `sun_path` of unix(7), with the zero that ends it.
const PATH_BYTES_MAX: usize = 107;
/// `_4294967295`
const SUFFIX_BYTES_MAX: usize = 11;
/// A question is shorter.
const QUESTION_BYTES_MAX: usize = 64;

/// What the microVM's process is given.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) listener: UnixListener,
    pub(super) services: OwnedFd,
}

/// The sockets. Dropping it removes the one that is ours, and refuses what the guest still asks for.
#[derive(Debug)]
pub(super) struct Vsock {
    _socket: SocketPath,
    answers: JoinHandle<()>,
}

impl Vsock {
    /// Listens at `path`, and answers the guest's wishes.
    ///
    /// # Errors
    /// When there is a file at `path`, or a socket cannot be made.
    pub(super) fn start(path: &Path) -> anyhow::Result<(Self, Handed)> {
        if path.as_os_str().as_bytes().len() + SUFFIX_BYTES_MAX > PATH_BYTES_MAX {
            bail!(
                "{} is too long: with the number of a port behind it, the path of a socket may have {PATH_BYTES_MAX} \
                 bytes",
                path.display()
            );
        }
        let (socket, listener) = SocketPath::listen(path, "the vsock socket")?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (questions, services) = pair.context("cannot make a pair of sockets")?;
        let questions = sys::watch(questions).context("cannot watch a socket")?;
        let answers = tokio::spawn(answer_all(questions, path.to_owned()));
        Ok((Self { _socket: socket, answers }, Handed { listener, services }))
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

/// Ends with the microVM's process.
async fn answer_all(questions: AsyncFd<OwnedFd>, path: PathBuf) {
    let mut question = [0; QUESTION_BYTES_MAX];
    loop {
        let receive = |socket: &OwnedFd| descriptors::receive(socket, &mut question);
        match questions.async_io(Interest::READABLE, receive).await {
            Ok(Received { length: 0, .. }) => return,
            Ok(Received { length, descriptors, .. }) => {
                // Without an answer, the stream for it is closed, which is the refusal.
                if let Err(error) = answer(&question[..length], descriptors, &path).await {
                    tracing::info!(%error, path = %path.display(), "the guest is refused a connection");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the guest's connections to the host are refused from now on");
                return;
            }
        }
    }
}

/// Hands over the connected socket of the service that is asked for. Nothing in it waits for anybody else: a listener that
/// does not keep up is an error.
async fn answer(question: &[u8], descriptors: Vec<OwnedFd>, path: &Path) -> io::Result<()> {
    let port = port(question).ok_or(io::ErrorKind::InvalidData)?;
    let answer = descriptors.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
    let service: net::UnixStream = UnixStream::connect(of_port(path, port)).await?.into_std()?;
    descriptors::send(answer, b"OK\n", &[service.as_fd()]).map(drop)
}

/// `CONNECT PORT\n`
fn port(question: &[u8]) -> Option<u32> {
    str::from_utf8(question).ok()?.strip_prefix("CONNECT ")?.strip_suffix('\n')?.parse().ok()
}

fn of_port(path: &Path, port: u32) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use super::*;

    #[test]
    fn questions_are_understood_or_refused() {
        assert_eq!(port(b"CONNECT 7\n"), Some(7));
        assert_eq!(port(b"CONNECT 4294967295\n"), Some(u32::MAX));
        for bad in ["", "CONNECT 7", "CONNECT 4294967296\n", "CONNECT -1\n", "connect 7\n"] {
            assert_eq!(port(bad.as_bytes()), None, "{bad:?}");
        }
    }

    /// Asks as the microVM's process does, and waits for the answer on a thread of its own.
    async fn ask(services: &OwnedFd, question: &'static str) -> (String, Option<net::UnixStream>) {
        let (ours, theirs) = net::UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        descriptors::send(services, question.as_bytes(), &[theirs.as_fd()]).unwrap();
        drop(theirs);
        let answered = tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 16];
            let received = descriptors::receive(&ours, &mut bytes).unwrap();
            let text = String::from_utf8(bytes[..received.length].to_vec()).unwrap();
            (text, received.descriptors.into_iter().next().map(net::UnixStream::from))
        });
        answered.await.unwrap()
    }

    #[tokio::test]
    async fn who_listens_behind_a_port_is_handed_over_and_nobody_is_a_refusal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let (vsock, handed) = Vsock::start(&path).unwrap();
        for question in ["CONNECT 7\n", "nonsense"] {
            let (text, service) = ask(&handed.services, question).await;
            assert_eq!((&*text, service.is_none()), ("", true));
        }
        let listener = UnixListener::bind(folder.path().join("vsock_7")).unwrap();
        let (text, service) = ask(&handed.services, "CONNECT 7\n").await;
        assert_eq!(text, "OK\n");
        let service = service.unwrap();
        service.set_nonblocking(false).unwrap();
        (&service).write_all(b"from the guest").unwrap();
        drop(service);
        let mut said = String::new();
        listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
        assert_eq!(said, "from the guest");
        drop(vsock);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_that_leaves_no_room_for_a_port_is_refused() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(PATH_BYTES_MAX - SUFFIX_BYTES_MAX)));
        let error = Vsock::start(&long).unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
        assert!(!long.exists());
    }
}
