//! A tap: the router's end of a guest's interface.
//!
//! Each queue is a descriptor from which whole Ethernet frames are read and to which they are written,
//! each behind a virtio-net header of [`VNET_HEADER_BYTES`], so that checksums and segmentation can be
//! left to the other side. The interface is gone when the last queue is closed.

use std::fs::OpenOptions;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use ipnet::Ipv4Net;
use types::MacAddress;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::{sys, sysctl};

/// Bytes of `struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6), which stand before each frame.
pub const VNET_HEADER_BYTES: usize = 12;

/// `MAX_TAP_QUEUES` of the kernel's tun driver.
const QUEUES_MAX: u16 = 256;

/// What the reader of a tap's queue takes over from the kernel, as virtio-net negotiates it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// Frames may come without their checksum (`VIRTIO_NET_F_GUEST_CSUM`). The others need it.
    pub checksum: bool,
    /// TCP over IPv4 and over IPv6 may come as segments larger than the MTU (`_GUEST_TSO4`, `_GUEST_TSO6`).
    pub tso4: bool,
    pub tso6: bool,
    /// With congestion marks (`_GUEST_ECN`). Needs one of the two above.
    pub ecn: bool,
}

/// A tap and its queues.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<OwnedFd>,
}

impl Tap {
    /// A tap in `namespace`, down, with as many queues as `queue_pairs` says.
    ///
    /// # Errors
    /// When there is no tun driver, the name is taken, or the caller lacks the privilege.
    pub fn create(namespace: &Namespace, name: &str, queue_pairs: u16) -> Result<Self, Error> {
        if !(1..=QUEUES_MAX).contains(&queue_pairs) {
            return Err(Error::QueueCount { asked: queue_pairs, max: QUEUES_MAX });
        }
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if queue_pairs > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        // A queue belongs to the namespace in which the device was opened.
        let open = || (0..queue_pairs).map(|_| open_queue(name, flags)).collect::<Result<Vec<_>, _>>();
        let queues = namespace.run(open)??;
        Ok(Self { name: name.to_owned(), queues })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The queues, not blocking, for the device that serves the guest. They keep the tap alive.
    pub fn into_queues(self) -> Vec<OwnedFd> {
        self.queues
    }
}

fn open_queue(name: &str, flags: libc::c_int) -> Result<OwnedFd, Error> {
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let device = device.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::TunMissing,
        _ => Error::io("open /dev/net/tun", error),
    })?;
    sys::attach(&device, name, flags).map_err(Error::while_doing(format_args!("make the tap {name}")))?;
    let bytes = libc::c_int::try_from(VNET_HEADER_BYTES).map_err(io::Error::other);
    bytes
        .and_then(|bytes| sys::set_vnet_header_bytes(&device, bytes))
        .map_err(Error::while_doing(format_args!("set the header size of the tap {name}")))?;
    Ok(device.into())
}

/// Tells the kernel what the reader of `queue` takes over. It holds for the whole tap.
///
/// # Errors
/// `EINVAL` for a combination that the kernel does not know.
pub fn set_offload(queue: impl AsFd, offload: Offload) -> io::Result<()> {
    let flag = |wanted, flag| if wanted { flag } else { 0 };
    let flags = flag(offload.checksum, libc::TUN_F_CSUM)
        | flag(offload.tso4, libc::TUN_F_TSO4)
        | flag(offload.tso6, libc::TUN_F_TSO6)
        | flag(offload.ecn, libc::TUN_F_TSO_ECN);
    sys::set_offload(queue, flags)
}

/// What the router knows of the guest behind an interface.
#[derive(Debug, Clone, Copy)]
pub struct Port {
    pub address: Ipv4Addr,
    pub mac: MacAddress,
    /// The source of the router's own packets to the guest.
    pub router: Ipv4Addr,
    pub mtu: u16,
}

/// Routes `port.address`, and it alone, to `device` in `namespace`, answers there the ARP requests for
/// all that has a route elsewhere, and sets the interface up.
///
/// The guest's hardware address is written down and not asked for: nobody can claim the address of a
/// neighbour, and a reply to a client that has no address yet needs no broadcast.
///
/// # Errors
/// When there is no such interface, or the caller lacks the privilege.
pub fn connect(namespace: &Namespace, device: &str, port: Port) -> Result<(), Error> {
    namespace.run(|| {
        sysctl::set(&format!("ipv4/conf/{device}/proxy_arp"), "1")?;
        // By default a proxied answer is held back for up to 0.8 s, to let the owner go first.
        sysctl::set(&format!("ipv4/neigh/{device}/proxy_delay"), "0")?;
        // What claims to come from an address that is routed elsewhere is dropped (RFC 3704, 2.2).
        sysctl::set(&format!("ipv4/conf/{device}/rp_filter"), "1")?;
        sysctl::set_if_present(&format!("ipv6/conf/{device}/disable_ipv6"), "1")
    })??;
    namespace.netlink(async |netlink| {
        let link = netlink.index(device).await?;
        netlink.set_mtu(link, port.mtu).await?;
        netlink.set_up(link).await?;
        netlink.add_neighbour(link, port.address, port.mac).await?;
        netlink.add_direct_route(Ipv4Net::from(port.address), link, port.router).await
    })
}
