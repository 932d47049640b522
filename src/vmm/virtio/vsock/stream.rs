//! System calls on the host's side of a connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use volume::IoBuffer;

use crate::descriptors;

/// `CONNECT 4294967295\n` fits.
const GREETING_BYTES_MAX: usize = 32;

/// Sends what the socket takes of `pieces` and says how many bytes that were.
pub(super) fn send(stream: &UnixStream, pieces: &[IoBuffer]) -> io::Result<usize> {
    // SAFETY: the structure is plain data, for which zeroes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // The kernel only reads the vector of a message to send. `IoBuffer` has the form of an iovec.
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len();
    // SAFETY: the pieces are memory that may be read, by their own contract, and outlive the call.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Fills `pieces` with what the socket has and says how many bytes that were; none at its end.
pub(super) fn receive(stream: &UnixStream, pieces: &[IoBuffer]) -> io::Result<usize> {
    let count = libc::c_int::try_from(pieces.len()).map_err(io::Error::other)?;
    // SAFETY: `IoBuffer` has the form of an iovec and is memory that may be written, by its own contract.
    let received = unsafe { libc::readv(stream.as_raw_fd(), pieces.as_ptr().cast(), count) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// The guest's port that a client asks for; `None` while it has not said so yet. Takes no byte beyond the line.
///
/// # Errors
/// When the client says something else, or goes away.
pub(super) fn greeting(stream: &UnixStream) -> io::Result<Option<u32>> {
    let mut line = [0; GREETING_BYTES_MAX];
    let seen = match recv(stream.as_raw_fd(), &mut line, MsgFlags::MSG_PEEK) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(seen) => seen,
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(end) = line[..seen].iter().position(|&byte| byte == b'\n') else {
        return if seen < line.len() { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
    };
    recv(stream.as_raw_fd(), &mut line[..=end], MsgFlags::empty())?;
    let port = std::str::from_utf8(&line[..end]).ok().and_then(|line| line.strip_prefix("CONNECT "));
    port.and_then(|port| port.trim_end_matches('\r').parse().ok())
        .map(Some)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether the other side has closed in both directions.
pub(super) fn is_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Tells the holder of `services` that the guest wishes to reach `port`. The stream is for its answer: see [`service`].
///
/// # Errors
/// When nobody holds it any more, or the holder has not taken earlier ones.
pub(super) fn ask_for_service(services: &OwnedFd, port: u32) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    let line = format!("CONNECT {port}\n");
    descriptors::send(services, line.as_bytes(), &[theirs.as_fd()])?;
    Ok(ours.into())
}

/// The service that was asked for by `answer`; `None` while nobody has said anything yet.
///
/// # Errors
/// When it is refused, or the answer is none.
pub(super) fn service(answer: &UnixStream) -> io::Result<Option<UnixStream>> {
    let mut line = [0; GREETING_BYTES_MAX];
    let received = match descriptors::receive(answer, &mut line) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    match (&line[..received.length], received.descriptors.into_iter().next()) {
        (b"OK\n", Some(service)) => {
            let service = UnixStream::from(service);
            service.set_nonblocking(true)?;
            Ok(Some(service))
        }
        (b"", _) => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
