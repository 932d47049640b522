//! Descriptors that a parent left open by mistake.

use std::io;
use std::os::fd::RawFd;

/// Closes all descriptors but standard input, output and error, and those of `kept`.
///
/// # Errors
/// What close_range(2) says.
///
/// # Safety
/// It is the first thing that the process does: nothing in it owns a descriptor yet that is not in `kept`.
pub unsafe fn close_inherited(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<libc::c_uint> = kept.iter().filter_map(|&fd| libc::c_uint::try_from(fd).ok()).collect();
    kept.extend([0, 1, 2]);
    kept.sort_unstable();
    kept.dedup();
    let mut from = 0;
    for fd in kept {
        if fd > from {
            // SAFETY: nobody owns these, as the caller promises.
            super::privileges::checked(unsafe { libc::close_range(from, fd - 1, 0) })?;
        }
        from = fd + 1;
    }
    // SAFETY: as above.
    super::privileges::checked(unsafe { libc::close_range(from, libc::c_uint::MAX, 0) })
}
