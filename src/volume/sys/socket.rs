//! Streams between a socket and memory that no reference is made to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::buffer::IoBuffer;

/// The most buffers that one call takes (`UIO_MAXIOV`).
const BUFFERS_MAX: usize = 1024;

/// What a call does when nothing can be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It waits.
    Waits,
    /// It fails with [`io::ErrorKind::WouldBlock`].
    Returns,
}

impl Waiting {
    fn flags(self) -> libc::c_int {
        match self {
            Waiting::Waits => 0,
            Waiting::Returns => libc::MSG_DONTWAIT,
        }
    }
}

/// Fills the buffers from the stream, as far as something is there; zero at its end.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffers: &[IoBuffer], waiting: Waiting) -> io::Result<usize> {
    let mut message = message(buffers);
    retry(|| {
        // SAFETY: the message's list is `buffers`, whose memory `IoBuffer::new`'s contract makes writable; there is no address and no
        // ancillary data.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, waiting.flags()) }
    })
}

/// Sends from the buffers as much as the stream takes. A stream that nobody reads any more is an error and no signal.
pub(crate) fn send(socket: BorrowedFd<'_>, buffers: &[IoBuffer], waiting: Waiting) -> io::Result<usize> {
    let message = message(buffers);
    retry(|| {
        // SAFETY: as in `receive`, and the memory is only read.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, waiting.flags() | libc::MSG_NOSIGNAL) }
    })
}

fn message(buffers: &[IoBuffer]) -> libc::msghdr {
    let buffers = &buffers[..buffers.len().min(BUFFERS_MAX)];
    // SAFETY: a message is integers and pointers, for which zeroes are a value: no address, no ancillary data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // An `IoBuffer` is an iovec, and the kernel does not write to the list.
    message.msg_iov = buffers.as_ptr().cast_mut().cast();
    message.msg_iovlen = buffers.len();
    message
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
