//! Bytes together with open descriptors, over a Unix socket: `SCM_RIGHTS` of unix(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors that one message carries (the kernel's `SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;
const DESCRIPTOR_BYTES: u32 = 4;
/// `CMSG_SPACE` of so many descriptors, in words of 8 bytes.
const CONTROL_WORDS: usize = (16 + DESCRIPTORS_MAX * 4).div_ceil(8);

/// What one receive gave.
#[derive(Debug)]
pub struct Received {
    /// Zero when the other side has closed.
    pub length: usize,
    pub descriptors: Vec<OwnedFd>,
    /// The kernel dropped descriptors, because this process may open no more.
    pub truncated: bool,
}

/// Receives what is there, or a message where the socket keeps them apart. Descriptors come with the last of the bytes: a
/// receive never reads past them.
///
/// # Errors
/// What recvmsg(2) says.
pub fn receive(socket: impl AsFd, into: &mut [u8]) -> io::Result<Received> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: a msghdr of zeroes is a valid one: no name, no parts, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let length = uninterrupted(|| {
        // SAFETY: the message points to `into` and `control`, which outlive the call, with their true lengths.
        unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) }
    })?;

    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled the control data that `message` describes; the macros stay within it. Each
    // descriptor in it was installed for this process by this very call and has no other owner.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(rights) = header.as_ref() {
            if rights.cmsg_level == libc::SOL_SOCKET && rights.cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                let bytes = rights.cmsg_len - (data.addr() - header.addr());
                for index in 0..bytes / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received { length, descriptors, truncated: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// Sends `bytes`, as far as they fit, and all of `descriptors` with the first of them.
///
/// # Errors
/// What sendmsg(2) says; `InvalidInput` for more than 253 descriptors, or for descriptors without a byte.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if descriptors.len() > DESCRIPTORS_MAX || (bytes.is_empty() && !descriptors.is_empty()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let data_bytes = u32::try_from(numbers.len()).map_err(io::Error::other)? * DESCRIPTOR_BYTES;
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr of zeroes is a valid one: no name, no parts, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !numbers.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: arithmetic only.
        message.msg_controllen =
            unsafe { libc::CMSG_SPACE(data_bytes) }.try_into().map_err(io::Error::other)?;
        // SAFETY: `control` has room for a header and for as many descriptors as were counted above.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(data_bytes).try_into().map_err(io::Error::other)?;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            std::ptr::copy_nonoverlapping(numbers.as_ptr(), data, numbers.len());
        }
    }
    uninterrupted(|| {
        // SAFETY: the message points to `bytes`, which is only read, and to `control`; both outlive the call.
        unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) }
    })
}

/// Calls again what a signal interrupted: with a time-out on the socket, the kernel does not, whatever the handler wants (signal(7)).
fn uninterrupted(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()).map_err(|_| io::Error::last_os_error()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_bytes_and_are_those_that_were_sent() {
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(b"before ").unwrap();
        let pipes: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| UnixStream::pair().unwrap()).collect();
        let ends: Vec<_> = pipes.iter().map(|(end, _)| end.as_fd()).collect();
        assert_eq!(send(&near, b"with", &ends).unwrap(), 4);
        (&near).write_all(b" after").unwrap();

        let mut bytes = [0; 64];
        let first = receive(&far, &mut bytes).unwrap();
        assert_eq!(&bytes[..first.length], b"before with");
        assert_eq!(first.descriptors.len(), DESCRIPTORS_MAX);
        assert!(!first.truncated);
        let second = receive(&far, &mut bytes).unwrap();
        assert_eq!((&bytes[..second.length], second.descriptors.len()), (&b" after"[..], 0));

        drop(ends);
        let mut last = UnixStream::from(first.descriptors.into_iter().next_back().unwrap());
        (&pipes[DESCRIPTORS_MAX - 1].1).write_all(b"!").unwrap();
        last.read_exact(&mut bytes[..1]).unwrap();
        assert_eq!(bytes[0], b'!');
    }

    #[test]
    fn an_end_is_zero_bytes() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        assert_eq!(receive(&far, &mut [0; 8]).unwrap().length, 0);
    }
}
