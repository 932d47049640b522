//! The TAP ioctls, which no kept crate wraps. Source: `include/uapi/linux/if_tun.h`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// TUNSETIFF: makes the open device `file` a queue of the tap `name`, and the tap if there is none.
pub(crate) fn attach(file: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: `ifreq` is a C structure of integers and a union of such; all zeroes is a value of it.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays the zero that ends the name.
    if name.len() >= interface.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface's name has at most 15 bytes"));
    }
    for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    interface.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: this request reads and writes one `ifreq`, which lives across the call.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut interface) };
    Errno::result(outcome)?;
    Ok(())
}

/// TUNSETVNETHDRSZ: how many bytes of virtio-net header stand before each frame.
pub(crate) fn set_vnet_header_bytes(file: &File, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: this request reads one `int`, which lives across the call.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) };
    Errno::result(outcome)?;
    Ok(())
}

/// TUNSETOFFLOAD: which of the `TUN_F_` flags the reader of the queue can do without.
pub(crate) fn set_offload(queue: impl AsFd, flags: libc::c_uint) -> io::Result<()> {
    let flags = libc::c_ulong::from(flags);
    // SAFETY: this request takes its argument by value and touches no memory of ours.
    let outcome = unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, flags) };
    Errno::result(outcome)?;
    Ok(())
}
