//! Making a raw disk of an image in another format, once, so that a running machine never decodes.
//!
//! The new file is sparse: what the image does not hold, and what is only zeroes, takes no space. It
//! gets its name when it is whole and on stable storage; a failure leaves nothing behind, nor does a
//! SIGKILL where the file system has files without a name (`O_TMPFILE`).
//!
//! A small image can declare a huge disk, and point at one cluster from all over it. So what it maps is
//! added up first, and an image that may not fit into the free space is refused before a byte is written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::linkat;

use crate::SECTOR_BYTES;
use crate::qcow2::Qcow2;
use crate::raw::read_to_end;

/// What a thread takes on at a time.
const UNIT_BYTES: u64 = 4 << 20;
/// What is looked at for zeroes, and left out if it has no other bytes.
const HOLE_BYTES: usize = 4096;
const THREADS_MAX: usize = 8;
/// No file system of ours has larger files.
const SIZE_BYTES_MAX: u64 = 1 << 46;

/// A format that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Raw,
    Qcow2,
}

/// How far an import is. It is told from several threads, so a report may come after a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What was made of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    pub format: Format,
    pub size_bytes: u64,
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("cannot open the image {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read the image {path} at byte {offset}")]
    Read { path: PathBuf, offset: u64, source: io::Error },
    #[error("the image {path} is {what}, which cannot be used; {remedy}")]
    Unsupported { path: PathBuf, what: &'static str, remedy: &'static str },
    #[error("the image {path} is damaged at byte {offset}: {what}")]
    Corrupt { path: PathBuf, offset: u64, what: &'static str },
    #[error(
        "the image {path} holds more than the {} MiB that are free in {folder}: make room there, or choose \
         another place", free_bytes >> 20
    )]
    NoSpace { path: PathBuf, folder: PathBuf, free_bytes: u64 },
    #[error("cannot create the disk {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write the disk {path} at byte {offset}")]
    Write { path: PathBuf, offset: u64, source: io::Error },
    #[error("cannot put the disk {path} on stable storage")]
    Finish { path: PathBuf, source: io::Error },
}

/// An image that is being read, with its name for messages.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

impl Image {
    fn open(path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Open { path: path.to_owned(), source };
        // The open of a pipe would wait for somebody to write.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        let image = Self { file, path: path.to_owned() };
        if kind.is_dir() {
            return Err(image.unsupported("a directory", "name the disk image itself"));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(image.unsupported("neither a file nor a block device", "name a disk image"));
        }
        Ok(image)
    }

    pub(crate) fn corrupt(&self, offset: u64, what: &'static str) -> ImportError {
        ImportError::Corrupt { path: self.path.clone(), offset, what }
    }

    pub(crate) fn unsupported(&self, what: &'static str, remedy: &'static str) -> ImportError {
        ImportError::Unsupported { path: self.path.clone(), what, remedy }
    }

    pub(crate) fn read_failed(&self, offset: u64, source: io::Error) -> ImportError {
        ImportError::Read { path: self.path.clone(), offset, source }
    }
}

/// Finds out what format the image at `path` has; what is no other is raw.
///
/// # Errors
/// [`ImportError::Unsupported`] for formats that are known and not read, with a remedy.
pub fn detect(path: &Path) -> Result<Format, ImportError> {
    detect_image(&Image::open(path)?)
}

fn detect_image(image: &Image) -> Result<Format, ImportError> {
    const CONVERT: &str = "convert it with `qemu-img convert -O qcow2`";
    const UNPACK: &str = "unpack it first";
    const KNOWN: [(usize, &[u8], &str, &str); 9] = [
        (0, b"KDMV", "a VMDK", CONVERT),
        (0, b"# Disk DescriptorFile", "a VMDK", CONVERT),
        (0, b"conectix", "a VHD", CONVERT),
        (0, b"vhdxfile", "a VHDX", CONVERT),
        (0x40, b"\x7f\x10\xda\xbe", "a VDI", CONVERT),
        (0, b"\x1f\x8b\x08", "compressed with gzip", UNPACK),
        (0, b"\xfd7zXZ\0", "compressed with xz", UNPACK),
        (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
        (0, b"BZh", "compressed with bzip2", UNPACK),
    ];
    let mut start = [0; 512];
    read_to_end(&image.file, 0, &mut start).map_err(|source| image.read_failed(0, source))?;
    for (offset, magic, what, remedy) in KNOWN {
        if start[offset..].starts_with(magic) {
            return Err(image.unsupported(what, remedy));
        }
    }
    if start.starts_with(crate::qcow2::MAGIC) {
        return Ok(Format::Qcow2);
    }
    // A VHD of fixed size has its mark only in the last sector.
    let len = image.file.metadata().map_err(|source| image.read_failed(0, source))?.len();
    let mut end = [0; 8];
    if let Some(offset) = len.checked_sub(SECTOR_BYTES) {
        read_to_end(&image.file, offset, &mut end).map_err(|source| image.read_failed(offset, source))?;
        if &end == b"conectix" {
            return Err(image.unsupported("a VHD", CONVERT));
        }
    }
    Ok(Format::Raw)
}

/// Makes the raw disk `target` of the image at `source`, on several threads. `progress` is told of
/// every few megabytes.
///
/// # Errors
/// [`ImportError`], which names the file and the place in it; then there is no `target`.
pub fn import(
    source: &Path,
    target: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Imported, ImportError> {
    let image = Image::open(source)?;
    let format = detect_image(&image)?;
    let content = match format {
        Format::Raw => Content::Raw(Raw::new(image)?),
        Format::Qcow2 => Content::Qcow2(Qcow2::open(image)?),
    };
    let size_bytes = content.size_bytes();
    let partial = Partial::create(target)?;
    let create_failed = |source| ImportError::Create { path: target.to_owned(), source };
    let free_bytes = free_bytes(&partial.file).map_err(create_failed)?;
    if content.holds_more_than(free_bytes)? {
        let (path, folder) = (source.to_owned(), folder(target).to_owned());
        return Err(ImportError::NoSpace { path, folder, free_bytes });
    }
    partial.file.set_len(size_bytes).map_err(create_failed)?;
    copy_all(&content, &partial, progress)?;
    partial.finish()?;
    Ok(Imported { format, size_bytes })
}

/// What the file system of `file` has left for us.
fn free_bytes(file: &File) -> io::Result<u64> {
    let space = fstatvfs(file)?;
    Ok(space.blocks_available().saturating_mul(space.fragment_size()))
}

fn folder(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The disk while it is incomplete: without a name, or where the file system has no such files under
/// another one, which is removed unless it is finished.
struct Partial {
    file: File,
    is_named: bool,
    path: PathBuf,
    target: PathBuf,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, ImportError> {
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let (path, target) = (PathBuf::from(name), target.to_owned());
        let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder(&target));
        if let Ok(file) = unnamed {
            return Ok(Self { file, is_named: false, path, target });
        }
        match OpenOptions::new().write(true).create(true).truncate(true).open(&path) {
            Ok(file) => Ok(Self { file, is_named: true, path, target }),
            Err(source) => Err(ImportError::Create { path: target, source }),
        }
    }

    /// Writes what of `bytes` is not zeroes.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ImportError> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let zeroes = rest.chunks(HOLE_BYTES).take_while(|part| is_zero(part)).count() * HOLE_BYTES;
            at += zeroes.min(rest.len());
            let rest = &bytes[at..];
            let data = rest.chunks(HOLE_BYTES).take_while(|part| !is_zero(part)).count() * HOLE_BYTES;
            let data = data.min(rest.len());
            let position = offset + at as u64;
            self.file.write_all_at(&rest[..data], position).map_err(|source| ImportError::Write {
                path: self.target.clone(),
                offset: position,
                source,
            })?;
            at += data;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), ImportError> {
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

impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_named {
            // The error that led here is the one to tell.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().fold(0, |or, word| or | u128::from_ne_bytes(*word)) == 0
        && rest.iter().all(|byte| *byte == 0)
}

enum Content {
    Raw(Raw),
    Qcow2(Qcow2),
}

impl Content {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Raw(raw) => raw.size_bytes,
            Self::Qcow2(qcow2) => qcow2.size_bytes(),
        }
    }

    /// Whether the disk may need more than `limit_bytes` of a file system.
    fn holds_more_than(&self, limit_bytes: u64) -> Result<bool, ImportError> {
        match self {
            Self::Raw(raw) => Ok(raw.allocated_bytes > limit_bytes),
            Self::Qcow2(qcow2) => qcow2.maps_more_than(limit_bytes),
        }
    }
}

/// A raw image.
struct Raw {
    image: Image,
    size_bytes: u64,
    allocated_bytes: u64,
}

impl Raw {
    fn new(image: Image) -> Result<Self, ImportError> {
        let metadata = image.file.metadata().map_err(|source| image.read_failed(0, source))?;
        check_size(&image, metadata.len())?;
        // stat(2) counts in units of 512 bytes, whatever the file system's are.
        let allocated_bytes = metadata.blocks().saturating_mul(512);
        Ok(Self { image, size_bytes: metadata.len().next_multiple_of(SECTOR_BYTES), allocated_bytes })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImportError> {
        read_to_end(&self.image.file, offset, buffer).map_err(|source| self.image.read_failed(offset, source))
    }
}

pub(crate) fn check_size(image: &Image, size_bytes: u64) -> Result<(), ImportError> {
    match size_bytes {
        0 => Err(image.corrupt(0, "the disk has no bytes")),
        1..=SIZE_BYTES_MAX => Ok(()),
        _ => Err(image.corrupt(0, "the disk is larger than 64 TiB")),
    }
}

/// Copies unit by unit on as many threads as there are processors; the first error ends it.
fn copy_all(
    content: &Content,
    target: &Partial,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), ImportError> {
    let total_bytes = content.size_bytes();
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let (is_over, failure) = (AtomicBool::new(false), Mutex::new(None));
    let work = || {
        let outcome = copy_units(content, target, &next, &is_over, |bytes| {
            let done_bytes = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            progress(Progress { done_bytes, total_bytes });
        });
        if let Err(error) = outcome {
            is_over.store(true, Ordering::Relaxed);
            failure.lock().expect("nobody panics with it").get_or_insert(error);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    failure.into_inner().expect("nobody panics with it").map_or(Ok(()), Err)
}

fn copy_units(
    content: &Content,
    target: &Partial,
    next: &AtomicU64,
    is_over: &AtomicBool,
    done: impl Fn(u64),
) -> Result<(), ImportError> {
    let total = content.size_bytes();
    let mut buffer = vec![0; usize::try_from(UNIT_BYTES).expect("a few megabytes")];
    let mut reader = match content {
        Content::Qcow2(qcow2) => Some(qcow2.reader()),
        Content::Raw(_) => None,
    };
    while !is_over.load(Ordering::Relaxed) {
        let offset = next.fetch_add(UNIT_BYTES, Ordering::Relaxed);
        if offset >= total {
            break;
        }
        let len = UNIT_BYTES.min(total - offset);
        match (content, &mut reader) {
            (Content::Raw(raw), _) => {
                let part = &mut buffer[..usize::try_from(len).expect("a few megabytes")];
                raw.read(offset, part)?;
                target.write(offset, part)?;
            }
            (Content::Qcow2(_), Some(reader)) => {
                reader.copy(offset, len, &mut buffer, &mut |at, bytes| target.write(at, bytes))?;
            }
            (Content::Qcow2(_), None) => unreachable!("a qcow2 has a reader"),
        }
        done(len);
    }
    Ok(())
}
