//! How a ring is set up: for one thread, and for transfers alone.
//!
//! io_uring carries out what no system call filter sees. So the kernel is told, before the ring is enabled, what this
//! one is for: an entry that asks for anything else, or for a file that is not registered, ends with `EACCES`, and
//! nothing can be registered any more, but other files where a disk's files come and go. A process that a guest took over can make no more of an enabled ring than the disk
//! does.

use std::io;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue};

/// What [`Call`](super::Call)s become.
const OPERATIONS: [u8; 7] = [
    opcode::Nop::CODE,
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// Registers other files in a ring's list (`IORING_REGISTER_FILES_UPDATE` of `linux/io_uring.h`).
const UPDATE_FILES: u8 = 6;
/// Says where workers run (`IORING_REGISTER_IOWQ_AFF`).
const PIN_WORKERS: u8 = 17;

/// How many workers of the kernel's may transfer for a ring at a time.
const WORKERS_MAX: u32 = 4;

/// Whether the files of an enabled ring may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    Fixed,
    Changing,
}

/// A ring that posts completions only when its owner enters the kernel. It is not enabled yet: until then files and an
/// event can be registered.
///
/// # Errors
/// When the kernel has no such rings, or refuses one.
pub(super) fn build(entries: u32, files: Files) -> io::Result<IoUring> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_r_disabled()
        .build(entries);
    let ring = ring.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::new(
            io::ErrorKind::Unsupported,
            "io_uring has no deferred task work on this kernel; it needs Linux 6.1 or later",
        ),
        _ => error,
    })?;
    // Older than deferred task work (Linux 5.10), so that every kernel that comes here has it.
    let registered_files_only = Restriction::sqe_flags_required(squeue::Flags::FIXED_FILE.bits());
    let mut restrictions: Vec<_> = OPERATIONS.into_iter().map(Restriction::sqe_op).collect();
    restrictions.extend([
        registered_files_only,
        Restriction::sqe_flags_allowed(squeue::Flags::ASYNC.bits()),
        Restriction::register_op(PIN_WORKERS),
    ]);
    if files == Files::Changing {
        restrictions.push(Restriction::register_op(UPDATE_FILES));
    }
    // Zero leaves those as they are that wait for networks, of which there are none.
    ring.submitter().register_iowq_max_workers(&mut [WORKERS_MAX, 0])?;
    ring.submitter().register_restrictions(&mut restrictions)?;
    Ok(ring)
}

/// The processors that this thread may run on, if the kernel tells.
pub(super) fn affinity() -> Option<libc::cpu_set_t> {
    // SAFETY: a set of processors is bits, all of which may be zero.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most as many bytes as the set has.
    let outcome = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    (outcome == 0).then_some(set)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use io_uring::types::{Fd, Fixed};

    use super::*;

    fn outcome(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
        // SAFETY: the memory that the entries of this test name lives until their completion was taken.
        unsafe { ring.submission().push(entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    }

    #[test]
    fn an_enabled_ring_transfers_and_does_nothing_else() {
        let file = tempfile::tempfile().unwrap();
        let mut ring = build(8, Files::Fixed).unwrap();
        ring.submitter().register_files(&[file.as_raw_fd()]).unwrap();
        ring.submitter().register_enable_rings().unwrap();

        let bytes = *b"text";
        let write = opcode::Write::new(Fixed(0), bytes.as_ptr(), 4).build();
        assert_eq!(outcome(&mut ring, &write), 4);

        let address = libc::sockaddr { sa_family: libc::sa_family_t::MAX, sa_data: [0; 14] };
        let address_bytes = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
        let descriptor = Fd(file.as_raw_fd());
        let forbidden = [
            ("open", opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/etc/passwd".as_ptr()).build()),
            ("make a socket", opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build()),
            ("connect", opcode::Connect::new(Fixed(0), &raw const address, address_bytes).build()),
            ("remove", opcode::UnlinkAt::new(Fd(libc::AT_FDCWD), c"/nothing".as_ptr()).build()),
            ("write elsewhere", opcode::Write::new(descriptor, bytes.as_ptr(), 4).build()),
            ("write, and others after it", write.flags(squeue::Flags::IO_LINK)),
        ];
        for (what, entry) in forbidden {
            assert_eq!(outcome(&mut ring, &entry), -libc::EACCES, "{what}");
        }

        let submitter = ring.submitter();
        for (what, registered) in [
            ("files", submitter.register_files_update(0, &[file.as_raw_fd()]).map(drop)),
            ("an event", submitter.register_eventfd(file.as_raw_fd())),
            ("credentials", submitter.register_personality().map(drop)),
        ] {
            assert_eq!(registered.unwrap_err().raw_os_error(), Some(libc::EACCES), "{what}");
        }
    }

    #[test]
    fn a_ring_of_changing_files_takes_others_and_nothing_else() {
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut ring = build(8, Files::Changing).unwrap();
        ring.submitter().register_files_sparse(2).unwrap();
        ring.submitter().register_enable_rings().unwrap();
        let bytes = *b"text";
        for (file, len) in [(&file, 3), (&other, 4)] {
            ring.submitter().register_files_update(1, &[file.as_raw_fd()]).unwrap();
            let write = opcode::Write::new(Fixed(1), bytes.as_ptr(), len).build();
            assert_eq!(u32::try_from(outcome(&mut ring, &write)), Ok(len));
            assert_eq!(file.metadata().unwrap().len(), u64::from(len));
        }
        let refused = ring.submitter().register_eventfd(file.as_raw_fd()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }
}
