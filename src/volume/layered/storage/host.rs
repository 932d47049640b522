//! A folder of the host.
//!
//! Each file is open twice where its file system has direct I/O: queues go past the page cache, so that the host's memory is not filled with
//! what guests keep in theirs, and the metadata go through it. So does what is being fetched, for as long as something is. The two never touch the same page at the same time: data and metadata are
//! apart in the file, and what is copied from layer to layer is not being written. One sync is for both.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::eventfd::EventFd;
use nix::unistd::{Whence, lseek};

use super::{Storage, StorageFile, StorageRing, Way};
use crate::backend::{IoBuffer, SECTOR_BYTES};
use crate::raw::read_to_end;
use crate::sys::{
    self, Call, Ended, FileIndex, InPlace, Ring, RingFile, begin_writeback, direct_alignment,
    transfers_in_place,
};

/// How many files a ring knows at a time.
pub(crate) const RING_FILES: u32 = 1024;

#[derive(Debug, Clone)]
pub(crate) struct HostFolder(PathBuf);

#[derive(Debug)]
pub(crate) struct HostFile {
    file: File,
    /// The same one without the page cache, and what the addresses of its buffers must be multiples of.
    direct: Option<(File, usize)>,
    in_place: InPlace,
}

pub(crate) struct HostRing(Ring);

impl HostFolder {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl HostFile {
    fn new(file: File, path: &Path) -> io::Result<Self> {
        let in_place = transfers_in_place(file.as_fd());
        Ok(Self { direct: open_direct(&file, path)?, file, in_place })
    }
}

/// Opens a file once more for direct I/O, if that can be had in sectors.
fn open_direct(file: &File, path: &Path) -> io::Result<Option<(File, usize)>> {
    let Some(needed) = direct_alignment(file.as_fd())? else { return Ok(None) };
    if u64::from(needed.offset) > SECTOR_BYTES {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECT);
    let direct = options.open(path)?;
    let alignment = usize::try_from(needed.memory).map_err(io::Error::other)?;
    Ok(Some((direct, alignment)))
}

impl Storage for HostFolder {
    type File = HostFile;
    type Ring = HostRing;

    fn create(&self, name: &str) -> io::Result<HostFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let path = self.path(name);
        HostFile::new(options.open(&path)?, &path)
    }

    fn open(&self, name: &str) -> io::Result<HostFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let path = self.path(name);
        let file = options.open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        HostFile::new(file, &path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            // What is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn unique(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        sys::random(&mut bytes)?;
        Ok(bytes)
    }

    fn ring(&self, depth: u16) -> io::Result<HostRing> {
        Ok(HostRing(Ring::with_table(RING_FILES, depth)?))
    }
}

impl StorageFile for HostFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        read_to_end(&self.file, offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, signed(offset)?, signed(len)?) {
            // Such a file system takes no space beforehand; then a full disk is noticed when the map is written.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, signed(offset)?, signed(len)?) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match lseek(&self.file, signed(offset)?, Whence::SeekData) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(Errno::EINVAL) => Ok((offset < self.len()?).then_some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn begin_sync(&self) {
        begin_writeback(self.file.as_fd());
    }
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

impl StorageRing for HostRing {
    type File = HostFile;

    fn event(&self) -> &Arc<EventFd> {
        self.0.shared_event()
    }

    fn set_file(&mut self, index: FileIndex, file: Option<(&HostFile, Way)>) -> io::Result<()> {
        let file = file.map(|(file, way)| match &file.direct {
            Some((direct, alignment)) if way == Way::Direct => RingFile {
                fd: direct.as_fd(),
                direct_alignment: Some(*alignment),
                in_place: InPlace::default(),
            },
            _ => RingFile { fd: file.file.as_fd(), direct_alignment: None, in_place: file.in_place },
        });
        self.0.set_file(index, file)
    }

    fn start(&mut self, owner: u32, call: Call, buffers: &[IoBuffer]) {
        self.0.start(owner, call, buffers.iter().copied());
    }

    fn submit(&mut self) -> io::Result<()> {
        self.0.submit()
    }

    fn next(&mut self) -> Option<Ended> {
        self.0.next()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.0.wait()
    }
}
