//! Random bytes of the kernel's, for which no file is needed: a process in a jail has none.

use std::io;

/// Fills `bytes`; right after the host's start it waits until there is enough that nobody can guess.
///
/// # Errors
/// What getrandom(2) says.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the kernel writes to the slice, and no further.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => filled += count,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_others_each_time() {
        let mut some = [vec![0; 5000], vec![0; 5000]];
        some.iter_mut().for_each(|bytes| random(bytes).unwrap());
        assert_ne!(some[0], some[1]);
        assert!(some.iter().all(|bytes| bytes[4990..].iter().any(|byte| *byte != 0)));
    }
}
