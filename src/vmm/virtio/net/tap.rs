//! One queue of a tap device, given to us open: this process opens none and names none.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use volume::IoBuffer;

use super::{HEADER_BYTES, feature};

#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("the descriptor is not a queue of a tap")]
    NotATap { source: io::Error },
    #[error("the tap {name} must be made with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR; its flags are {flags:#x}")]
    Flags { name: String, flags: i32 },
    #[error("cannot {operation} of the tap {name}")]
    SetUp { operation: &'static str, name: String, source: io::Error },
    #[error("an interface has 1 to {max} tap queues, not {count}")]
    QueueCount { count: usize, max: usize },
    #[error("the tap {name} has several queues only if it is made with IFF_MULTI_QUEUE")]
    SingleQueue { name: String },
    #[error("no descriptor for the interface's events")]
    Events { source: io::Error },
}

/// One queue of a tap.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    is_multi_queue: bool,
}

impl Tap {
    /// Takes over `fd`, an attached queue of a tap, and makes it speak virtio's header.
    ///
    /// # Errors
    /// [`TapError`] when it is something else, or of another kind.
    pub fn new(fd: OwnedFd) -> Result<Self, TapError> {
        // SAFETY: the structure is plain data, for which zeroes are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills an `ifreq`, which lives through the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &mut request) } != 0 {
            return Err(TapError::NotATap { source: io::Error::last_os_error() });
        }
        let name: Vec<u8> =
            request.ifr_name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|&byte| byte != 0).collect();
        let name = String::from_utf8_lossy(&name).into_owned();
        // SAFETY: TUNGETIFF sets the flags of the union.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        let needed = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if flags & needed != needed {
            return Err(TapError::Flags { name, flags });
        }
        let failed = |operation, source| TapError::SetUp { operation, name: name.clone(), source };
        let length = i32::try_from(HEADER_BYTES).unwrap_or(i32::MAX);
        // SAFETY: the kernel reads an int, which lives through the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &length) } != 0 {
            return Err(failed("set the header size", io::Error::last_os_error()));
        }
        let status = fcntl(&fd, FcntlArg::F_GETFL).map_err(|e| failed("read the flags", e.into()))?;
        let status = OFlag::from_bits_retain(status) | OFlag::O_NONBLOCK;
        fcntl(&fd, FcntlArg::F_SETFL(status)).map_err(|e| failed("set the flags", e.into()))?;
        Ok(Tap { fd, name, is_multi_queue: flags & libc::IFF_MULTI_QUEUE != 0 })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_multi_queue(&self) -> bool {
        self.is_multi_queue
    }

    /// What the guest understands, of the `GUEST_…` features. It is the whole tap's, not the queue's.
    pub(super) fn set_offloads(&self, features: u64) -> io::Result<()> {
        let offloads = [
            (feature::GUEST_CSUM, libc::TUN_F_CSUM),
            (feature::GUEST_TSO4, libc::TUN_F_TSO4),
            (feature::GUEST_TSO6, libc::TUN_F_TSO6),
            (feature::GUEST_ECN, libc::TUN_F_TSO_ECN),
        ];
        let chosen =
            offloads.iter().filter(|(bit, _)| features & bit != 0).fold(0, |all, (_, one)| all | one);
        // SAFETY: the argument is a number, not a pointer.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(chosen)) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether the kernel gives frames to this queue. To ask for what is so already is no error.
    pub(super) fn set_attached(&self, attached: bool) -> io::Result<()> {
        // SAFETY: the structure is plain data, for which zeroes are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let flags = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(0);
        // SAFETY: the kernel reads an `ifreq`, which lives through the call.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETQUEUE, &request) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            already if already.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            error => Err(error),
        }
    }

    /// Reads one frame with its header into `pieces`, and says how long it is; what does not fit is lost. `None` when there is none.
    pub(super) fn read(&self, pieces: &[IoBuffer]) -> io::Result<Option<usize>> {
        let count = libc::c_int::try_from(pieces.len()).map_err(io::Error::other)?;
        // SAFETY: an `IoBuffer` has the form of an iovec and is memory that may be written, by its own contract.
        let length = unsafe { libc::readv(self.fd.as_raw_fd(), pieces.as_ptr().cast(), count) };
        if let Ok(bytes) = usize::try_from(length) {
            return Ok((bytes >= HEADER_BYTES).then_some(bytes));
        }
        let error = io::Error::last_os_error();
        // EBADFD: this queue is detached. EIO: the interface is down.
        let is_idle = error.kind() == io::ErrorKind::WouldBlock
            || matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EIO | libc::EINTR));
        if is_idle { Ok(None) } else { Err(error) }
    }

    /// Writes the frame with its header in `pieces`.
    pub(super) fn write(&self, pieces: &[IoBuffer]) -> io::Result<()> {
        write_pieces(self.fd.as_fd(), pieces)
    }
}

/// Writes `pieces` by one call: writev(2).
pub(crate) fn write_pieces(to: BorrowedFd<'_>, pieces: &[IoBuffer]) -> io::Result<()> {
    let count = libc::c_int::try_from(pieces.len()).map_err(io::Error::other)?;
    // SAFETY: an `IoBuffer` has the form of an iovec and is memory that may be read, by its own contract.
    let length = unsafe { libc::writev(to.as_raw_fd(), pieces.as_ptr().cast(), count) };
    if length < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
