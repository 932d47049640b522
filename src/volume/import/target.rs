//! Where a copied disk goes: a file that has no name before it is whole, as it is or in a format.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::linkat;

use super::ImportError;

/// What is looked at for zeroes, and left out if it has no other bytes.
const HOLE_BYTES: usize = 4096;

/// A disk that is being written, by several threads. Zeroes are left out: it has no other bytes before.
pub(crate) trait Target: Sync {
    /// One thread's way to it.
    ///
    /// # Errors
    /// When the host refuses what it needs.
    fn writer(&self) -> Result<Box<dyn Writer + '_>, ImportError>;
}

pub(crate) trait Writer {
    /// Writes what of `bytes` is not zeroes. What is at a place is written once.
    ///
    /// # Errors
    /// With the place in the disk.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ImportError>;
}

/// The parts of `bytes` that are not zeroes, with their places.
pub(super) fn data_runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &bytes[at..];
        let zeroes = rest.chunks(HOLE_BYTES).take_while(|part| is_zero(part)).count() * HOLE_BYTES;
        at += zeroes.min(rest.len());
        let rest = &bytes[at..];
        let data = rest.chunks(HOLE_BYTES).take_while(|part| !is_zero(part)).count() * HOLE_BYTES;
        let data = &rest[..data.min(rest.len())];
        let start = at;
        at += data.len();
        (!data.is_empty()).then_some((start, data))
    })
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().fold(0, |or, word| or | u128::from_ne_bytes(*word)) == 0
        && rest.iter().all(|byte| *byte == 0)
}

/// What the file system of `file` has left for us.
pub(super) fn free_bytes(file: &File) -> io::Result<u64> {
    let space = fstatvfs(file)?;
    Ok(space.blocks_available().saturating_mul(space.fragment_size()))
}

pub(super) fn folder(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What a file or a folder is called until it is whole.
pub(super) fn partial_name(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    name.into()
}

/// The disk while it is incomplete: without a name, or where the file system has no such files under
/// another one, which is removed unless it is finished.
pub(crate) struct Partial {
    pub(super) file: File,
    is_named: bool,
    path: PathBuf,
    target: PathBuf,
}

impl Partial {
    pub(crate) fn create(target: &Path) -> Result<Self, ImportError> {
        let (path, target) = (partial_name(target), target.to_owned());
        let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder(&target));
        if let Ok(file) = unnamed {
            return Ok(Self { file, is_named: false, path, target });
        }
        match OpenOptions::new().write(true).create(true).truncate(true).open(&path) {
            Ok(file) => Ok(Self { file, is_named: true, path, target }),
            Err(source) => Err(ImportError::Create { path: target, source }),
        }
    }

    pub(super) fn write_failed(&self, offset: u64, source: io::Error) -> ImportError {
        ImportError::Write { path: self.target.clone(), offset, source }
    }

    pub(crate) fn finish(mut self) -> Result<(), ImportError> {
        let done = self.file.sync_all().and_then(|()| {
            self.link()?;
            std::fs::rename(&self.path, &self.target)
        });
        done.map_err(|source| ImportError::Finish { path: self.target.clone(), source })?;
        self.is_named = false;
        Ok(())
    }

    /// Gives the file its name for the time before the final one, which may be another file's now: a link
    /// replaces nothing.
    fn link(&mut self) -> io::Result<()> {
        if !self.is_named {
            let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(AT_FDCWD, file.as_str(), AT_FDCWD, &self.path, AtFlags::AT_SYMLINK_FOLLOW)?;
            self.is_named = true;
        }
        Ok(())
    }
}

impl Target for Partial {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, ImportError> {
        Ok(Box::new(self))
    }
}

impl Writer for &Partial {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ImportError> {
        for (start, data) in data_runs(bytes) {
            let offset = offset + start as u64;
            self.file.write_all_at(data, offset).map_err(|source| self.write_failed(offset, source))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_named {
            // The error that led here is the one to tell.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
