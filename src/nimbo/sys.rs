//! The calls that no kept crate wraps, or wraps only as unsafe.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;

mod request {
    // include/uapi/linux/fs.h: FICLONE
    nix::ioctl_write_int_bad!(clone_file, nix::request_code_write!(0x94, 9, size_of::<libc::c_int>()));
}

/// Makes `to` share all of `from`'s blocks, ioctl_ficlone(2).
pub(crate) fn clone_file(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: the request's argument is a descriptor number; no memory is passed.
    unsafe { request::clone_file(to.as_raw_fd(), from.as_raw_fd()) }?;
    Ok(())
}

/// Whether the kernel believes that its clock is synchronized, adjtimex(2).
pub(crate) fn clock_is_synchronized() -> io::Result<bool> {
    let mut state = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: `timex` is a C structure of integers, for which zeroes are a value; `modes` being zero asks only to read.
    let outcome = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    Ok(nix::errno::Errno::result(outcome)? != libc::TIME_ERROR)
}

/// The version of Landlock's interface, landlock_create_ruleset(2).
pub(crate) fn landlock_version() -> io::Result<i32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_ulong = 1;
    let (no_attributes, no_size) = (std::ptr::null::<libc::c_void>(), 0usize);
    // SAFETY: with this flag the call takes no attributes and makes no descriptor.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            no_attributes,
            no_size,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    i32::try_from(nix::errno::Errno::result(version)?).map_err(io::Error::other)
}
