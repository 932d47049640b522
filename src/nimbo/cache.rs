//! Where files go that can be made again, and layers that end with their machine.

use std::env;
use std::path::PathBuf;

use anyhow::bail;

/// `$XDG_CACHE_HOME/nimbo`, or `~/.cache/nimbo`. It may not exist yet.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = absolute("XDG_CACHE_HOME") {
        return Ok(folder.join("nimbo"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".cache/nimbo")),
        None => bail!("neither XDG_CACHE_HOME nor HOME is set: set one, it is where images are kept"),
    }
}
