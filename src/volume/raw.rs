//! A disk that is one file or one block device, byte for byte.

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};

use crate::backend::{BlockBackend, BlockQueue, Extent, SECTOR_BYTES};
use crate::extents::file_extent;
use crate::queue::{Abilities, Layout, Queue};
use crate::sys::{AlignedMemory, FileIndex, InPlace, RingFile, direct_alignment, transfers_in_place};

/// What direct I/O is taken to need where the kernel does not say.
const DIRECT_ALIGNMENT_ASSUMED: usize = 4096;
/// How long a lock is waited for that another process holds.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// How to open a [`RawFile`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawOptions {
    /// Refuse writes; any number of readers may share the file.
    pub read_only: bool,
    /// Go past the page cache (`O_DIRECT`).
    pub direct: bool,
}

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    #[error("cannot open the disk {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is neither a regular file nor a block device, so it cannot be a disk")]
    NotADisk { path: PathBuf },
    #[error("cannot find the size of the disk {path}")]
    Size { path: PathBuf, source: io::Error },
    #[error("the disk {path} is empty")]
    Empty { path: PathBuf },
    #[error(
        "the disk {path} is in use by another process; stop that one, or open the disk read-only in both"
    )]
    InUse { path: PathBuf },
    #[error("cannot lock the disk {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("the file system of {path} has no direct I/O; open the disk without it")]
    NoDirect { path: PathBuf },
    #[error(
        "direct I/O on {path} needs multiples of {needed} bytes, and a guest uses 512; open the disk without it"
    )]
    DirectTooCoarse { path: PathBuf, needed: u32 },
}

/// A disk in one file or one block device.
///
/// The file is locked for as long as the disk is open (an advisory open-file-description lock on all
/// of it): shared if read-only, exclusive otherwise, so that two machines never write one image. A
/// file system without locks is used without.
///
/// A file whose length is no whole number of sectors reads as zeroes up to the next one.
#[derive(Debug, Clone)]
pub struct RawFile(Arc<Raw>);

#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    size_bytes: u64,
    read_only: bool,
    direct_alignment: Option<usize>,
    in_place: InPlace,
    abilities: Abilities,
}

impl RawFile {
    /// Opens the file or device at `path`.
    ///
    /// # Errors
    /// [`RawError`], which names the path.
    pub fn open(path: &Path, options: RawOptions) -> Result<Self, RawError> {
        let file = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .custom_flags(if options.direct { libc::O_DIRECT } else { 0 })
            .open(path)
            .map_err(|source| {
                if options.direct && source.raw_os_error() == Some(libc::EINVAL) {
                    RawError::NoDirect { path: path.to_owned() }
                } else {
                    RawError::Open { path: path.to_owned(), source }
                }
            })?;
        Self::from_file(file, path, options)
    }

    /// Makes a disk of a file that is open already, as a process must that opens nothing by itself.
    /// `path` is for messages; the file must have been opened as `options` say.
    ///
    /// # Errors
    /// [`RawError`], which names the path.
    pub fn from_file(mut file: File, path: &Path, options: RawOptions) -> Result<Self, RawError> {
        let path = || path.to_owned();
        let kind = file.metadata().map_err(|source| RawError::Open { path: path(), source })?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(RawError::NotADisk { path: path() });
        }
        // Also right for a block device, whose metadata has no length.
        let len = file.seek(SeekFrom::End(0)).map_err(|source| RawError::Size { path: path(), source })?;
        if len == 0 {
            return Err(RawError::Empty { path: path() });
        }
        lock(&file, options.read_only).map_err(|source| match source.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => RawError::InUse { path: path() },
            _ => RawError::Lock { path: path(), source },
        })?;
        let direct_alignment = if options.direct { Some(find_alignment(&file, &path)?) } else { None };
        let cached_file = kind.is_file() && !options.direct;
        let in_place = if cached_file { transfers_in_place(file.as_fd()) } else { InPlace::default() };
        Ok(Self(Arc::new(Raw {
            in_place,
            file,
            size_bytes: len.next_multiple_of(SECTOR_BYTES),
            read_only: options.read_only,
            direct_alignment,
            abilities: Abilities::default(),
        })))
    }

    pub(crate) fn raw(&self) -> &Arc<Raw> {
        &self.0
    }
}

fn find_alignment(file: &File, path: &dyn Fn() -> PathBuf) -> Result<usize, RawError> {
    let known = direct_alignment(file.as_fd()).map_err(|source| RawError::Open { path: path(), source })?;
    let Some(needed) = known else { return Ok(DIRECT_ALIGNMENT_ASSUMED) };
    if u64::from(needed.offset) > SECTOR_BYTES {
        return Err(RawError::DirectTooCoarse { path: path(), needed: needed.offset });
    }
    Ok(usize::try_from(needed.memory).unwrap_or(DIRECT_ALIGNMENT_ASSUMED).max(1))
}

/// Locks the whole file, for as long as it is open.
///
/// A ring that is torn down lets go of its files some milliseconds after its process ended; so a lock
/// is waited for a little, and a machine can be started again at once.
fn lock(file: &File, shared: bool) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match set_lock(file, if shared { libc::F_RDLCK } else { libc::F_WRLCK }) {
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_PATIENCE / 20);
                }
                Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP) => return Ok(()),
                _ => return Err(error),
            },
            Ok(()) => return Ok(()),
        }
    }
}

/// A file with a lock on all of it, which goes when this is dropped: at once, though a process that another thread is starting just now
/// may have the file open too.
pub(crate) struct Locked(File);

impl Locked {
    /// Takes the lock, which nobody else may have.
    ///
    /// # Errors
    /// As for [`lock`].
    pub(crate) fn new(file: File) -> io::Result<Self> {
        lock(&file, false)?;
        Ok(Self(file))
    }

    /// As a process has it that is being started by another thread.
    #[cfg(test)]
    pub(crate) fn inherited(&self) -> File {
        self.0.try_clone().unwrap()
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // If it cannot be unlocked, it is when the last has closed it.
        let _ = set_lock(&self.0, libc::F_UNLCK);
    }
}

fn set_lock(file: &File, kind: i32) -> io::Result<()> {
    let whole = libc::flock {
        l_type: i16::try_from(kind).expect("a small constant"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole))?;
    Ok(())
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The queues are gone, but the kernel may hold their rings, and so the file, a little longer.
        // If it cannot be unlocked now, it is when they are gone.
        let _ = set_lock(&self.file, libc::F_UNLCK);
    }
}

impl BlockBackend for RawFile {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn is_read_only(&self) -> bool {
        self.0.read_only
    }

    fn open_queue(&self, depth: u16) -> io::Result<Box<dyn BlockQueue>> {
        Ok(Box::new(Queue::new(Arc::clone(&self.0), depth)?))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(offset, buffer.len(), self.0.size_bytes)?;
        self.0.read_at(offset, buffer)
    }

    fn extent(&self, offset: u64, len: u64) -> io::Result<Extent> {
        Ok(self.0.extent(offset, len))
    }
}

impl Raw {
    /// Fills the buffer; what is beyond the end of the file reads as zeroes.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.direct_alignment.is_none() {
            return read_to_end(&self.file, offset, buffer);
        }
        let page = DIRECT_ALIGNMENT_ASSUMED as u64;
        let start = offset - offset % page;
        let skipped = usize::try_from(offset - start).expect("less than a page");
        let mut memory =
            AlignedMemory::zeroed((skipped + buffer.len()).next_multiple_of(DIRECT_ALIGNMENT_ASSUMED));
        read_to_end(&self.file, start, memory.bytes_mut())?;
        buffer.copy_from_slice(&memory.bytes_mut()[skipped..skipped + buffer.len()]);
        Ok(())
    }

    pub(crate) fn extent(&self, offset: u64, len: u64) -> Extent {
        file_extent(&self.file, offset, len)
    }

    pub(crate) fn ring_file(&self) -> RingFile<'_> {
        RingFile { fd: self.file.as_fd(), direct_alignment: self.direct_alignment, in_place: self.in_place }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Layout for Raw {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn files(&self) -> Vec<RingFile<'_>> {
        vec![self.ring_file()]
    }

    fn run(&self, _offset: u64, len: u64) -> (FileIndex, u64) {
        (0, len)
    }

    fn top(&self) -> FileIndex {
        0
    }

    fn written(&self, _offset: u64, _len: u64) {}

    fn survives_crashes(&self) -> bool {
        true
    }

    fn top_abilities(&self) -> &Abilities {
        &self.abilities
    }
}

/// Reads until the buffer is full or the file ends, and makes the rest zeroes.
pub(crate) fn read_to_end(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(count) => {
                offset += count as u64;
                buffer = &mut buffer[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(crate) fn check_range(offset: u64, len: usize, size: u64) -> io::Result<()> {
    let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
    if end.is_none_or(|end| end > size) {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{len} bytes at {offset} are not within the disk's {size}"),
        ));
    }
    Ok(())
}
