//! Sockets that hear of one device alone: by these, who answers knows who asks, whatever that sends.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, sockopt,
};

use crate::error::Error;
use crate::namespace::Namespace;
use crate::plan::METADATA;

const METADATA_PORT: u16 = 80;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// An IPv4 socket in the namespace of the calling thread, not blocking, for what arrives on `device`.
pub(crate) fn socket(device: &str, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&socket, sockopt::BindToDevice, &OsString::from(device))?;
    Ok(socket)
}

/// A socket that takes what the guest behind `device` asks the metadata service in `namespace`, not blocking. It may be served on any thread.
///
/// # Errors
/// When there is one already, or no such device.
pub fn metadata_listener(namespace: &Namespace, device: &str) -> Result<TcpListener, Error> {
    let at = SocketAddrV4::new(METADATA, METADATA_PORT);
    let open = || -> io::Result<TcpListener> {
        let socket = socket(device, SockType::Stream)?;
        // What was accepted by an earlier process may still be closing.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(at))?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(TcpListener::from(socket))
    };
    namespace.run(open)?.map_err(Error::while_doing(format_args!("listen on {at} for {device}")))
}
