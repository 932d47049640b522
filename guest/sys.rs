//! The system calls that no safe wrapper exists for. The only unsafe code of the crate.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// An open `AF_PACKET` socket on one interface that carries IPv4 packets without their Ethernet header
/// (packet(7), `SOCK_DGRAM`).
pub struct PacketSocket {
    fd: OwnedFd,
    interface: libc::c_int,
}

/// Packets go to everybody on the link.
const BROADCAST_MAC: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];

impl PacketSocket {
    /// Opens a non-blocking socket that receives every IPv4 packet of the interface with this index.
    pub fn open(interface: u32) -> io::Result<Self> {
        let interface = libc::c_int::try_from(interface).map_err(io::Error::other)?;
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Protocol 0: nothing is received until bind names the interface, so no packet of another one slips in.
        // SAFETY: socket takes no pointers.
        let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: `raw` was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let socket = PacketSocket { fd, interface };
        let address = socket.address();
        // SAFETY: `address` is a valid sockaddr_ll of the length given, alive during the call.
        check(unsafe { libc::bind(raw, (&raw const address).cast(), address_len()) })?;
        Ok(socket)
    }

    /// Sends one IPv4 packet to the link's broadcast address.
    pub fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        let address = self.address();
        // SAFETY: `packet` and `address` are valid for the lengths given, alive during the call.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                address_len(),
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn address(&self) -> libc::sockaddr_ll {
        libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
            sll_protocol: u16::try_from(libc::ETH_P_IP).unwrap_or_default().to_be(),
            sll_ifindex: self.interface,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: BROADCAST_MAC,
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn address_len() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default()
}

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct BlkpgPartition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    number: libc::c_int,
    device_name: [libc::c_char; 64],
    volume_name: [libc::c_char; 64],
}

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgRequest {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut BlkpgPartition,
}

/// linux/fs.h `BLKPG`: `_IO(0x12, 105)`.
const BLKPG: libc::Ioctl = 0x1269;
/// linux/blkpg.h.
const BLKPG_RESIZE_PARTITION: libc::c_int = 3;
/// fs/ext4/ext4.h `EXT4_IOC_RESIZE_FS`: `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// Tells the kernel the new extent, in bytes, of partition `number` of the disk, which may be mounted.
pub fn resize_partition(disk: impl AsFd, number: u32, start: u64, length: u64) -> io::Result<()> {
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(io::Error::other)?,
        length: i64::try_from(length).map_err(io::Error::other)?,
        number: i32::try_from(number).map_err(io::Error::other)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let request = BlkpgRequest {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: i32::try_from(size_of::<BlkpgPartition>()).map_err(io::Error::other)?,
        data: &raw mut partition,
    };
    // SAFETY: `request` and the partition it points to live through the call; the layouts are the kernel's.
    check(unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKPG, &raw const request) })?;
    Ok(())
}

/// Grows the mounted ext4 file system that `directory` is in to `blocks` file system blocks.
pub fn resize_ext4(directory: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: the argument points to a u64 that lives through the call.
    check(unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) })?;
    Ok(())
}

/// Lets the child of `command` receive all signals. pid 1 blocks those that it reads from a signalfd, and a child would
/// inherit that.
pub fn unblock_signals(command: &mut Command) -> &mut Command {
    // SAFETY: both calls are async-signal-safe and touch only `set`, which is initialised by the first.
    unsafe {
        command.pre_exec(|| {
            let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            check(libc::sigemptyset(set.as_mut_ptr()))?;
            check(libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()))?;
            Ok(())
        })
    }
}

/// Makes the child of `command` the leader of a new session, without a terminal.
pub fn new_session(command: &mut Command) -> &mut Command {
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            Ok(())
        })
    }
}

/// Gives the calling session leader the terminal.
pub fn take_terminal(terminal: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer argument.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 1) })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
