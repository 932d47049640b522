//! A listening Unix socket with a path, for as long as somebody answers there.
//!
//! A process that was killed leaves its socket behind, where nobody answers any more; the next one takes the path over. Whoever looks at
//! a path and changes it holds a lock on its folder meanwhile, so that no two do.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The path of a socket that listens. Dropping it removes the socket.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    /// The file itself, which so keeps its number for itself.
    file: File,
    is_left: bool,
}

impl SocketPath {
    /// Makes the socket, which is `what`. A file that is there already is left alone, unless it is a socket at which nobody listens.
    ///
    /// # Errors
    /// When there is such a file, or the socket cannot be made.
    pub(crate) fn listen(path: &Path, what: &str) -> anyhow::Result<(Self, UnixListener)> {
        let cannot = || format!("cannot make {what} {}", path.display());
        let folder = lock_folder(path).with_context(cannot)?;
        if is_abandoned(path) {
            fs::remove_file(path).with_context(cannot)?;
        }
        let address = if fits_address(path) { path.to_owned() } else { beneath(&folder, path) };
        let listener = match UnixListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "there is a file already where {what} should be, {}: if no other nimbo uses it, remove it",
                path.display()
            ),
            bound => bound.with_context(cannot)?,
        };
        let file = open(path).with_context(cannot)?;
        Ok((Self { path: path.to_owned(), file, is_left: false }, listener))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the path where it is, also to somebody else who removes it.
    pub(crate) fn leave(mut self) {
        self.is_left = true;
    }

    fn remove(&self) -> io::Result<()> {
        let _lock = lock_folder(&self.path)?;
        // Nobody listened for a moment; somebody else may by now.
        let (ours, there) = (self.file.metadata()?, self.path.symlink_metadata()?);
        let is_ours = (ours.dev(), ours.ino()) == (there.dev(), there.ino());
        if is_ours { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

/// Removes a socket at which nobody listens, if there is one.
pub(crate) fn remove_abandoned(path: &Path) {
    let removed = lock_folder(path).and_then(|_lock| match is_abandoned(path) {
        true => fs::remove_file(path),
        false => Ok(()),
    });
    if let Err(error) = removed {
        tracing::warn!(%error, path = %path.display(), "a socket that nobody listens at cannot be removed");
    }
}

/// Connects to a socket, however long its path is.
///
/// # Errors
/// What open(2) and connect(2) say.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    if fits_address(path) {
        return UnixStream::connect(path);
    }
    UnixStream::connect(beneath(&File::open(folder_of(path))?, path))
}

/// Whether a path fits into an address (unix(7)).
fn fits_address(path: &Path) -> bool {
    const PATH_BYTES_MAX: usize = 107;
    path.as_os_str().len() <= PATH_BYTES_MAX
}

/// A short path to a file in a folder that is open.
fn beneath(folder: &File, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(path.file_name().unwrap_or_default())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = File::open(folder_of(path))?;
    folder.lock()?;
    Ok(folder)
}

/// Opens a socket's file, which can be nothing but looked at.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// Whether there is a socket, and nobody listens.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
    let refuses = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && connect(path).is_err_and(refuses)
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        if let Err(error) = self.remove() {
            tracing::warn!(%error, path = %self.path.display(), "a socket cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_there_until_it_is_dropped_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (socket, _listener) = SocketPath::listen(&path, "the socket").unwrap();
        let error = SocketPath::listen(&path, "the socket").unwrap_err();
        assert!(error.to_string().contains("remove it"), "{error}");
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        SocketPath::listen(&path, "the socket").unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }

    #[test]
    fn a_path_may_be_longer_than_an_address() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let path = deep.join("socket");
        drop(SocketPath::listen(&path, "the socket").unwrap());
        assert!(!path.exists());
        let (_socket, _listener) = SocketPath::listen(&path, "the socket").unwrap();
        connect(&path).unwrap();
        SocketPath::listen(&path, "the socket").unwrap_err();
    }

    #[test]
    fn a_socket_where_nobody_listens_is_taken_over_by_one_and_removed_by_that_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let (first, listener) = SocketPath::listen(&path, "the socket").unwrap();
        drop(listener);
        let (_second, _listener) = SocketPath::listen(&path, "the socket").unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
    }
}
