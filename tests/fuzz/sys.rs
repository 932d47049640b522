//! A tap in a network namespace of its own, and a socket at its other side.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};

/// IEEE 802's first EtherType for local experiments.
const PROTOCOL: u16 = 0x88b5;
const TAP_FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;

fn checked(result: libc::c_int) -> libc::c_int {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}

/// A tap that is up, and a packet socket on it. The calling thread is in another network namespace afterwards; it needs root.
///
/// # Panics
/// When the host refuses.
pub(crate) fn tap() -> (OwnedFd, OwnedFd) {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
    let file = File::options().read(true).write(true).open("/dev/net/tun").expect("there is tun");
    let flags = |flags| libc::c_short::try_from(flags).expect("flags have 15 bits");
    // SAFETY: zeroes are a value of these plain structures, which outlive the calls; the socket is new.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = libc::c_char::try_from(b'n').expect("a letter");
        request.ifr_ifru.ifru_flags = flags(TAP_FLAGS);
        checked(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &request));
        let socket =
            checked(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, libc::c_int::from(PROTOCOL.to_be())));
        let socket = OwnedFd::from_raw_fd(socket);
        request.ifr_ifru.ifru_mtu = 65521;
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &request));
        request.ifr_ifru.ifru_flags = flags(libc::IFF_UP);
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request));
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &mut request));
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::c_ushort::try_from(libc::AF_PACKET).expect("a small number");
        address.sll_protocol = PROTOCOL.to_be();
        address.sll_ifindex = request.ifr_ifru.ifru_ifindex;
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("a small number");
        checked(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length));
        (file.into(), socket)
    }
}
