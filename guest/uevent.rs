//! The kernel's announcements of devices that come and go (`NETLINK_KOBJECT_UEVENT`, group 1).
//!
//! A message is `ACTION@DEVPATH` and then `KEY=VALUE` pairs, each ended by a zero byte
//! (lib/kobject_uevent.c).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// What happened to which device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uevent {
    pub action: String,
    pub subsystem: String,
    /// The name under `/dev`, for devices that have a node.
    pub devname: Option<String>,
    /// The name of a network interface.
    pub interface: Option<String>,
}

impl Uevent {
    /// Nothing for a message that is not the kernel's, such as udev's own.
    pub fn parse(message: &[u8]) -> Option<Uevent> {
        let mut fields = message.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let (action, _path) = fields.next()?.split_once('@').map(|(a, p)| (a.to_owned(), p.to_owned()))?;
        let mut event = Uevent { action, ..Uevent::default() };
        for field in fields {
            match field.split_once('=') {
                Some(("SUBSYSTEM", value)) => event.subsystem = value.to_owned(),
                Some(("DEVNAME", value)) => event.devname = Some(value.to_owned()),
                Some(("INTERFACE", value)) => event.interface = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(event)
    }
}

/// An open, non-blocking socket that has missed nothing since it was opened: open it before looking at what is there.
pub struct Uevents(OwnedFd);

impl Uevents {
    pub fn open() -> Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let fd = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)
            .context("open the socket for kernel events")?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1)).context("subscribe to kernel events")?;
        Ok(Uevents(fd))
    }

    /// All events that wait. After an overflow it is one with an empty subsystem, which means: look at everything.
    pub fn drain(&self) -> Vec<Uevent> {
        let mut events = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => events.extend(Uevent::parse(&buffer[..length])),
                Err(Errno::ENOBUFS) => events.push(Uevent::default()),
                Err(Errno::EINTR) => {}
                Err(_) => return events,
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let message =
            b"add@/devices/pci0/virtio1/block/vda\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=vda\0SEQNUM=7\0";
        let want = Uevent {
            action: "add".into(),
            subsystem: "block".into(),
            devname: Some("vda".into()),
            interface: None,
        };
        assert_eq!(Uevent::parse(message), Some(want));
    }

    #[test]
    fn ignores_what_udev_says() {
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(message in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Uevent::parse(&message);
        }
    }
}
