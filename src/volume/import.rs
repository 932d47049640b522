//! Making a raw disk or a volume of an image in another format, once, so that a running machine never decodes; and an image of
//! a volume.
//!
//! What is made is sparse: what the image does not hold, and what is only zeroes, takes no space. It
//! gets its name when it is whole and on stable storage; a failure leaves nothing behind, nor does a
//! SIGKILL where the file system has files without a name (`O_TMPFILE`); of a volume it leaves a folder `….partial-N`.
//!
//! A small image can declare a huge disk, and point at one cluster from all over it. So what it maps is
//! added up first, and an image that may not fit into the free space is refused before a byte is written.

mod new_volume;
mod qcow2_target;
mod target;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::backend::BlockBackend;
use crate::crypt::{KeyName, KeyStore};
use crate::extents::{Content, Extent, file_extent};
use crate::layered::VolumeError;
use crate::qcow2::Qcow2;
use crate::raw::read_to_end;
use crate::{SECTOR_BYTES, Volume};
use new_volume::{Key, NewVolume, OpenVolume};
use qcow2_target::Qcow2Target;
use target::{Partial, Target, folder, free_bytes};

/// What a thread takes on at a time.
const UNIT_BYTES: u64 = 4 << 20;
const THREADS_MAX: usize = 8;
/// What the size of a volume is a multiple of.
const VOLUME_UNIT_BYTES: u64 = 4096;
/// No file system of ours has larger files.
const SIZE_BYTES_MAX: u64 = 1 << 46;

/// A format of images.
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
    #[error("there is something at {path} already; choose another name for the new volume")]
    Exists { path: PathBuf },
    #[error("cannot make the volume {path}")]
    Volume { path: PathBuf, source: VolumeError },
    #[error("the image {path} has {image_bytes} bytes, and a volume of {wanted_bytes} is too small for it")]
    TooSmall { path: PathBuf, image_bytes: u64, wanted_bytes: u64 },
    #[error("it was stopped, and nothing is left of it")]
    Stopped,
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
    let (content, format) = open(source)?;
    let size_bytes = content.size_bytes();
    let partial = Partial::create(target)?;
    let create_failed = |source| ImportError::Create { path: target.to_owned(), source };
    check_room(&content, source, target, free_bytes(&partial.file).map_err(create_failed)?)?;
    partial.file.set_len(size_bytes).map_err(create_failed)?;
    copy_all(&content, &partial, progress, &|| false)?;
    partial.finish()?;
    Ok(Imported { format, size_bytes })
}

/// Makes a volume in the new folder `target` of the image at `source`, as [`import`] makes a raw disk: of `size_bytes`, or as large as
/// the image. Ends early when `stop` says so.
///
/// # Errors
/// [`ImportError`]; then there is no `target`.
pub fn import_volume(
    source: &Path,
    target: &Path,
    size_bytes: Option<u64>,
    progress: &(dyn Fn(Progress) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Imported, ImportError> {
    import_to(source, target, size_bytes, None, progress, stop)
}

/// As [`import_volume`], but the volume is encrypted by a new data key that the key `name` wraps.
///
/// # Errors
/// [`ImportError`]; then there is no new `target`.
pub fn import_encrypted_volume(
    source: &Path,
    target: &Path,
    size_bytes: Option<u64>,
    (keys, name): (&Arc<dyn KeyStore>, &KeyName),
    progress: &(dyn Fn(Progress) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Imported, ImportError> {
    import_to(source, target, size_bytes, Some((keys, name)), progress, stop)
}

fn import_to(
    source: &Path,
    target: &Path,
    size_bytes: Option<u64>,
    key: Option<Key<'_>>,
    progress: &(dyn Fn(Progress) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Imported, ImportError> {
    let (content, format) = open(source)?;
    let image_bytes = content.size_bytes();
    let size_bytes = size_bytes.unwrap_or(image_bytes.next_multiple_of(VOLUME_UNIT_BYTES));
    if size_bytes < image_bytes {
        let path = source.to_owned();
        return Err(ImportError::TooSmall { path, image_bytes, wanted_bytes: size_bytes });
    }
    let volume = NewVolume::create(target, size_bytes, key)?;
    check_room(&content, source, target, volume.free_bytes()?)?;
    copy_all(&content, &volume, progress, stop)?;
    volume.finish()?;
    Ok(Imported { format, size_bytes })
}

/// Writes what the image at `source` holds into a volume, which `name` names in messages: it must be empty. Ends early when `stop` says so.
///
/// # Errors
/// [`ImportError`]; then the volume may hold some of it.
pub fn import_into(
    source: &Path,
    (volume, name): (&Volume, &Path),
    progress: &(dyn Fn(Progress) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Imported, ImportError> {
    let (content, format) = open(source)?;
    let (image_bytes, size_bytes) = (content.size_bytes(), volume.size_bytes());
    if size_bytes < image_bytes {
        let path = source.to_owned();
        return Err(ImportError::TooSmall { path, image_bytes, wanted_bytes: size_bytes });
    }
    let folder = File::open(name).and_then(|folder| free_bytes(&folder));
    let free_bytes = folder.map_err(|source| ImportError::Create { path: name.to_owned(), source })?;
    check_room(&content, source, name, free_bytes)?;
    let target = OpenVolume { volume, path: name };
    copy_all(&content, &target, progress, stop)?;
    target.flush()?;
    Ok(Imported { format, size_bytes: image_bytes })
}

/// How large a disk the image at `source` is.
///
/// # Errors
/// [`ImportError`]
pub fn disk_bytes(source: &Path) -> Result<u64, ImportError> {
    open(source).map(|(content, _)| content.size_bytes())
}

/// Makes a volume in the new folder `target`, encrypted by a new data key that the key `key` wraps, of what a disk holds that may not be
/// encrypted, or otherwise. Ends early when `stop` says so.
///
/// # Errors
/// [`ImportError`]; then there is no `target`.
pub fn copy_encrypted(
    (disk, name): (&dyn BlockBackend, &Path),
    (target, size_bytes): (&Path, u64),
    key: (&Arc<dyn KeyStore>, &KeyName),
    progress: &(dyn Fn(Progress) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(), ImportError> {
    let volume = NewVolume::create(target, size_bytes, Some(key))?;
    copy_all(&Source::Disk { disk, name }, &volume, progress, stop)?;
    volume.finish()
}

/// Makes the image `target` of a volume, which `name` names in messages. What the volume does not hold is not read. Nobody should write
/// to it meanwhile. Ends early when `stop` says so.
///
/// # Errors
/// [`ImportError`]; then there is no new `target`.
pub fn export(
    volume: &Volume,
    name: &Path,
    (target, format): (&Path, Format),
    progress: &(dyn Fn(Progress) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(), ImportError> {
    let content = Source::Disk { disk: volume, name };
    let partial = Partial::create(target)?;
    match format {
        Format::Raw => {
            let set = partial.file.set_len(volume.size_bytes());
            set.map_err(|source| ImportError::Create { path: target.to_owned(), source })?;
            copy_all(&content, &partial, progress, stop)?;
            partial.finish()
        }
        Format::Qcow2 => {
            let image = Qcow2Target::new(partial, volume.size_bytes());
            copy_all(&content, &image, progress, stop)?;
            image.finish()
        }
    }
}

fn open(source: &Path) -> Result<(Source<'static>, Format), ImportError> {
    let image = Image::open(source)?;
    let format = detect_image(&image)?;
    let content = match format {
        Format::Raw => Source::Raw(Raw::new(image)?),
        Format::Qcow2 => Source::Qcow2(Qcow2::open(image)?),
    };
    Ok((content, format))
}

fn check_room(
    content: &Source<'_>,
    source: &Path,
    target: &Path,
    free_bytes: u64,
) -> Result<(), ImportError> {
    if content.holds_more_than(free_bytes)? {
        let (path, folder) = (source.to_owned(), folder(target).to_owned());
        return Err(ImportError::NoSpace { path, folder, free_bytes });
    }
    Ok(())
}

enum Source<'a> {
    Raw(Raw),
    Qcow2(Qcow2),
    Disk { disk: &'a dyn BlockBackend, name: &'a Path },
}

impl Source<'_> {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Raw(raw) => raw.size_bytes,
            Self::Qcow2(qcow2) => qcow2.size_bytes(),
            Self::Disk { disk, .. } => disk.size_bytes(),
        }
    }

    /// Whether the disk may need more than `limit_bytes` of a file system.
    fn holds_more_than(&self, limit_bytes: u64) -> Result<bool, ImportError> {
        match self {
            Self::Raw(raw) => Ok(raw.allocated_bytes > limit_bytes),
            Self::Qcow2(qcow2) => qcow2.maps_more_than(limit_bytes),
            // Nobody counts.
            Self::Disk { .. } => Ok(false),
        }
    }

    /// What stands at `offset`, as of a disk; only its reader knows that of a qcow2.
    fn extent(&self, offset: u64, len: u64) -> Result<Extent, ImportError> {
        match self {
            Self::Raw(raw) => Ok(file_extent(&raw.image.file, offset, len)),
            Self::Disk { disk, name } => {
                let failed = |source| ImportError::Read { path: name.to_path_buf(), offset, source };
                disk.extent(offset, len).map_err(failed)
            }
            Self::Qcow2(_) => Ok(Extent { content: Content::Data, len }),
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImportError> {
        match self {
            Self::Raw(raw) => raw.read(offset, buffer),
            Self::Disk { disk, name } => {
                let failed = |source| ImportError::Read { path: name.to_path_buf(), offset, source };
                disk.read_at(offset, buffer).map_err(failed)
            }
            Self::Qcow2(_) => unreachable!("a qcow2 is read by a reader"),
        }
    }

    /// Fills the buffer, and reads no more than what is there; says whether that is anything.
    fn read_unit(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, ImportError> {
        let (mut at, mut rest, mut has_data) = (offset, buffer, false);
        while !rest.is_empty() {
            let Extent { content, len } = self.extent(at, rest.len() as u64)?;
            let (part, after) = rest.split_at_mut(usize::try_from(len).expect("at most the buffer"));
            if content == Content::Data {
                self.read(at, part)?;
                has_data = true;
            } else {
                part.fill(0);
            }
            (at, rest) = (at + len, after);
        }
        Ok(has_data)
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

/// Copies unit by unit on as many threads as there are processors; the first error ends it, and so does `stop`.
fn copy_all(
    content: &Source<'_>,
    target: &dyn Target,
    progress: &(dyn Fn(Progress) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(), ImportError> {
    let total_bytes = content.size_bytes();
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let (has_failed, failure) = (AtomicBool::new(false), Mutex::new(None));
    let work = || {
        let is_over = || has_failed.load(Ordering::Relaxed) || stop();
        let outcome = copy_units(content, target, &next, &is_over, |bytes| {
            let done_bytes = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            progress(Progress { done_bytes, total_bytes });
        });
        if let Err(error) = outcome {
            has_failed.store(true, Ordering::Relaxed);
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
    match failure.into_inner().expect("nobody panics with it") {
        Some(error) => Err(error),
        None if done.into_inner() < total_bytes => Err(ImportError::Stopped),
        None => Ok(()),
    }
}

fn copy_units(
    content: &Source<'_>,
    target: &dyn Target,
    next: &AtomicU64,
    is_over: &dyn Fn() -> bool,
    done: impl Fn(u64),
) -> Result<(), ImportError> {
    let total = content.size_bytes();
    let mut buffer = vec![0; usize::try_from(UNIT_BYTES).expect("a few megabytes")];
    let mut writer = target.writer()?;
    let mut reader = if let Source::Qcow2(qcow2) = content { Some(qcow2.reader()) } else { None };
    while !is_over() {
        let offset = next.fetch_add(UNIT_BYTES, Ordering::Relaxed);
        if offset >= total {
            break;
        }
        let len = UNIT_BYTES.min(total - offset);
        let part = &mut buffer[..usize::try_from(len).expect("a few megabytes")];
        if let Some(reader) = &mut reader {
            reader.copy(offset, len, part, &mut |at, bytes| writer.write(at, bytes))?;
            done(len);
            continue;
        }
        let ahead = content.extent(offset, total - offset)?;
        if ahead.content != Content::Data && ahead.len > len {
            // Nobody needs to look at the units of what is empty.
            let end = offset + ahead.len;
            let end = if end < total { end - end % UNIT_BYTES } else { total };
            let before = next.fetch_max(end, Ordering::Relaxed);
            done(len + end.saturating_sub(before));
            continue;
        }
        if content.read_unit(offset, part)? {
            writer.write(offset, part)?;
        }
        done(len);
    }
    Ok(())
}
