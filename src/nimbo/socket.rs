//! A listening Unix socket with a path, for as long as somebody answers there.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

/// The path of a socket that listens. Dropping it removes the socket.
#[derive(Debug)]
pub(crate) struct SocketPath(PathBuf);

impl SocketPath {
    /// Makes the socket, which is `what`. A file that is there already is left alone.
    ///
    /// # Errors
    /// When there is such a file, or the socket cannot be made.
    pub(crate) fn listen(path: &Path, what: &str) -> anyhow::Result<(Self, UnixListener)> {
        let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => anyhow!(
                "there is a file already where {what} should be, {}: another nimbo may use it, or one that was \
                 killed has left it; then remove it",
                path.display()
            ),
            _ => anyhow!(error).context(format!("cannot make {what} {}", path.display())),
        })?;
        Ok((Self(path.to_owned()), listener))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a socket cannot be removed");
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
    }
}
