//! System calls that no kept crate wraps, or that it wraps for the whole process where one thread is meant.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

/// The longest handle that Linux gives (`MAX_HANDLE_SZ`).
pub(crate) const HOST_HANDLE_BYTES_MAX: usize = 128;

/// What the host's file system knows a file by, whatever it is called: `struct file_handle`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct HostHandle {
    length: libc::c_uint,
    kind: libc::c_int,
    data: [u8; HOST_HANDLE_BYTES_MAX],
}

impl HostHandle {
    /// None if there are too many bytes.
    pub(crate) fn new(kind: i32, bytes: &[u8]) -> Option<Self> {
        let mut data = [0; HOST_HANDLE_BYTES_MAX];
        data.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { length: libc::c_uint::try_from(bytes.len()).ok()?, kind, data })
    }

    pub(crate) fn kind(&self) -> i32 {
        self.kind
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or(HOST_HANDLE_BYTES_MAX);
        &self.data[..length.min(HOST_HANDLE_BYTES_MAX)]
    }
}

/// Makes `uid` the one that the kernel judges this thread's accesses to files by; false if it refused.
///
/// With another one than 0, the thread has none of root's privileges over files until it is 0 again: capabilities(7).
pub(crate) fn set_fsuid(uid: u32) -> bool {
    // SAFETY: the call takes a number, and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_setfsuid, libc::c_long::from(uid)) };
    // It tells who it was, and not whether it changed. Nobody is -1: this only asks.
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_setfsuid, libc::c_long::from(u32::MAX)) == libc::c_long::from(uid) }
}

/// The same for the group.
pub(crate) fn set_fsgid(gid: u32) -> bool {
    // SAFETY: the call takes a number, and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_setfsgid, libc::c_long::from(gid)) };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_setfsgid, libc::c_long::from(u32::MAX)) == libc::c_long::from(gid) }
}

/// The other groups of this thread alone; the C library's function would change all threads.
pub(crate) fn set_groups(gids: &[u32]) -> io::Result<()> {
    // SAFETY: the call reads so many numbers, which live across it.
    let outcome = unsafe { libc::syscall(libc::SYS_setgroups, gids.len(), gids.as_ptr()) };
    Errno::result(outcome)?;
    Ok(())
}

/// The handle of `name` in `folder`, or of `folder` itself if the name is empty, and the number of its mount. Links are not followed.
pub(crate) fn name_to_handle(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<(HostHandle, i32)> {
    let mut handle = HostHandle {
        length: u32::try_from(HOST_HANDLE_BYTES_MAX).unwrap_or(0),
        kind: 0,
        data: [0; HOST_HANDLE_BYTES_MAX],
    };
    let mut mount: libc::c_int = 0;
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: the name ends with a zero; the handle has room for as many bytes as it says; all live across the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            folder.as_raw_fd(),
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            flags,
        )
    };
    Errno::result(outcome)?;
    Ok((handle, mount))
}

/// Opens the file that has this handle, on the file system of `mount`. Only root may (`CAP_DAC_READ_SEARCH`).
pub(crate) fn open_by_handle(mount: BorrowedFd<'_>, handle: &HostHandle, flags: i32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: the handle has as many bytes as it says, and lives across the call.
    let outcome = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), std::ptr::from_ref(handle), flags)
    };
    owned(Errno::result(outcome)?)
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What is known of an open file, opened with `O_PATH` or otherwise; `mask` says what is wanted (`STATX_…`).
pub(crate) fn status(file: BorrowedFd<'_>, mask: u32) -> io::Result<libc::statx> {
    // SAFETY: `statx` is a C structure of integers; all zeroes is a value of it.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the name ends with a zero, and the structure is written; both live across the call.
    let outcome = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, &raw mut status) };
    Errno::result(outcome)?;
    Ok(status)
}

/// Whether this thread, as it is for files, may `mode` (`R_OK`, `W_OK`, `X_OK`) an open file.
pub(crate) fn may(file: BorrowedFd<'_>, mode: i32) -> io::Result<bool> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the name ends with a zero, and lives across the call.
    let outcome = unsafe { libc::syscall(libc::SYS_faccessat2, file.as_raw_fd(), c"".as_ptr(), mode, flags) };
    match Errno::result(outcome) {
        Ok(_) => Ok(true),
        Err(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the times of an open file, also of one that was opened with `O_PATH`, and of a symbolic link itself.
pub(crate) fn set_times(
    file: BorrowedFd<'_>,
    access: libc::timespec,
    modify: libc::timespec,
) -> io::Result<()> {
    let times = [access, modify];
    // SAFETY: the name ends with a zero, there are two times, and all live across the call.
    let outcome =
        unsafe { libc::utimensat(file.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) };
    Errno::result(outcome)?;
    Ok(())
}

/// Entries of an open folder from where it stands, as `struct linux_dirent64`; returns how many bytes, none at the end.
pub(crate) fn entries(folder: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most so many bytes into the buffer, which lives across the call.
    let outcome =
        unsafe { libc::syscall(libc::SYS_getdents64, folder.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    usize::try_from(Errno::result(outcome)?).map_err(io::Error::other)
}

/// How far a write must have come when it is told done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Cached,
    /// What is needed to read it again is on the disk.
    Data,
    /// All is.
    All,
}

/// Writes at `offset`, as far as `durability` says. Returns how many bytes.
pub(crate) fn write_at(
    file: BorrowedFd<'_>,
    bytes: &[u8],
    offset: i64,
    durability: Durability,
) -> io::Result<usize> {
    let flags = match durability {
        Durability::Cached => 0,
        Durability::Data => libc::RWF_DSYNC,
        Durability::All => libc::RWF_SYNC,
    };
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the kernel only reads what the vector names, which lives across the call.
    let outcome = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const vector, 1, offset, flags) };
    usize::try_from(Errno::result(outcome)?).map_err(io::Error::other)
}
