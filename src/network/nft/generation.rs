//! How often a namespace's nftables have changed.
//!
//! The kernel counts every transaction of anybody. Who knows the count after his own knows by one small message whether somebody has
//! touched the rules since, without reading any of them.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::error::Error;
use crate::namespace::Namespace;

/// `struct nlmsghdr` and `struct nfgenmsg` (`include/uapi/linux/netlink.h`, `netfilter/nfnetlink.h`), in bytes.
const HEADERS: usize = 16 + 4;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
const GETGEN: u16 = 10 << 8 | 16;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
const NEWGEN: u16 = 10 << 8 | 15;
/// `NFTA_GEN_ID`, a big-endian number.
const GEN_ID: u16 = 1;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;

/// The number of the last transaction in `namespace`.
pub(crate) fn generation(namespace: &Namespace) -> Result<u32, Error> {
    namespace.run(ask)?.map_err(Error::while_doing("ask for the generation of the nftables"))
}

fn ask() -> io::Result<u32> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut request = Vec::with_capacity(HEADERS);
    request.extend(u32::try_from(HEADERS).map_err(io::Error::other)?.to_ne_bytes());
    request.extend(GETGEN.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    // Sequence, port; family, version, resource.
    request.extend([0; 12]);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    read(answer.get(..length).unwrap_or_default())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer has no generation"))
}

fn read(answer: &[u8]) -> Option<u32> {
    if short(answer, 4)? != NEWGEN {
        return None;
    }
    let mut rest = answer.get(HEADERS..)?;
    loop {
        let (length, kind) = (usize::from(short(rest, 0)?), short(rest, 2)?);
        if kind == GEN_ID {
            return Some(u32::from_be_bytes(rest.get(4..8)?.try_into().ok()?));
        }
        // Attributes are aligned to four bytes, and none is shorter than its header.
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
